//! Templates: text with `{{ fields }}` in it.
//!
//! minijinja renders them. What could make a template run long or grow without end is not offered: names are bound by
//! `for` alone, which goes over something of the record; the filters are those below; and a string is not multiplied.
//!
//! Always true:
//! - what is not there is an error where it is printed, and so is null; `{% if it %}` is how to ask;
//! - what a template costs is bounded: [`FUEL`] instructions, [`BYTES_MAX`] bytes of output and of each string it sees.

use std::io;

use minijinja::machinery::{Token, tokenize};
use minijinja::value::{Kwargs, ValueKind, merge_maps};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value, filters};
use serde_json::{Number, Value as Json};

use super::compile::suggest;
use super::record::Record;
use super::scope::{META, Meta, Seen, look, meta};
use super::stage::{At, Failed};

/// Instructions that one rendering may take.
const FUEL: u64 = 20_000;

/// Bytes that a template may make, and that each string it sees may have.
pub(super) const BYTES_MAX: usize = 64 << 10;

/// Bytes of a template itself.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// Strings that one template may join: each joint copies both.
const JOINTS_MAX: usize = 16;

/// Words and signs between one pair of braces: minijinja's parser goes as deep as there are.
const TOKENS_MAX: usize = 250;

/// What is compiled of a template.
pub(super) struct Template(Form);

enum Form {
    /// Text with nothing to fill in.
    Fixed(String),
    Compiled {
        environment: Box<Environment<'static>>,
        /// What it looks at.
        names: Vec<String>,
    },
}

/// What templates see of one record: made once for all that are rendered of it.
pub(super) struct Scope {
    values: Value,
    /// Names that mean nothing here.
    absent: Vec<String>,
}

impl Template {
    pub(super) fn parse(source: &str) -> Result<Template, String> {
        Template::parse_as(source, AutoEscape::None)
    }

    /// A template whose values are escaped as HTML.
    pub(super) fn parse_html(source: &str) -> Result<Template, String> {
        Template::parse_as(source, AutoEscape::Html)
    }

    fn parse_as(source: &str, escape: AutoEscape) -> Result<Template, String> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(format!("a template has {SOURCE_BYTES_MAX} bytes at most"));
        }
        if !source.contains("{{") && !source.contains("{%") && !source.contains("{#") {
            return Ok(Template(Form::Fixed(source.into())));
        }
        check(source)?;
        let mut environment = environment(escape);
        environment.add_template_owned("it", source.to_owned()).map_err(|error| say(&error))?;
        let names = environment.get_template("it").expect("it was just added").undeclared_variables(false);
        let (environment, names) = (Box::new(environment), names.into_iter().collect());
        Ok(Template(Form::Compiled { environment, names }))
    }

    /// Renders it for this record alone.
    pub(super) fn fill(&self, record: &Record, at: &At) -> Result<String, Failed> {
        match &self.0 {
            Form::Fixed(text) => Ok(text.clone()),
            Form::Compiled { .. } => self.render(&Scope::of(&[self], record, at)?),
        }
    }

    /// Renders it with a scope that was made for it among others.
    pub(super) fn render(&self, scope: &Scope) -> Result<String, Failed> {
        let environment = match &self.0 {
            Form::Fixed(text) => return Ok(text.clone()),
            Form::Compiled { environment, .. } => environment,
        };
        let template = environment.get_template("it").expect("every template is called so");
        let mut output = Bounded(Vec::new());
        let rendered = template.render_captured_to(scope.values.clone(), &mut output);
        rendered.map_err(|error| format!("the template: {}", self.explain(&error, scope)))?;
        Ok(String::from_utf8(output.0).expect("templates write whole strings"))
    }
}

impl Scope {
    pub(super) fn of(templates: &[&Template], record: &Record, at: &At) -> Result<Scope, Failed> {
        let (mut values, mut absent) = (Vec::new(), Vec::new());
        for name in templates.iter().flat_map(|template| template.names()) {
            let value = match look(name, record, at) {
                Seen::Field(json) => value(name, json)?,
                Seen::Meta(meta) => meta_value(meta),
                Seen::Job => job(record, at),
                Seen::Nothing => {
                    absent.push(name.clone());
                    continue;
                }
            };
            values.push((name.as_str(), value));
        }
        Ok(Scope { values: Value::from_pairs(values), absent })
    }

    /// The same, and `item`.
    pub(super) fn with_item(&self, item: &Json) -> Result<Scope, Failed> {
        let absent = self.absent.iter().filter(|name| *name != "item").cloned().collect();
        let item = Value::from_pairs([("item", value("item", item)?)]);
        Ok(Scope { values: merge_maps([item, self.values.clone()]), absent })
    }
}

impl Template {
    /// Says which of its names mean nothing, where that is what is wrong.
    fn explain(&self, error: &Error, scope: &Scope) -> String {
        let absent = scope.absent.iter().filter(|name| self.names().contains(name));
        match absent.map(String::as_str).collect::<Vec<_>>() {
            absent if error.kind() == ErrorKind::UndefinedError && !absent.is_empty() => {
                format!("there is no {}", absent.join(" and no "))
            }
            _ => say(error),
        }
    }

    fn names(&self) -> &[String] {
        match &self.0 {
            Form::Fixed(_) => &[],
            Form::Compiled { names, .. } => names,
        }
    }
}

fn job(record: &Record, at: &At) -> Value {
    Value::from_pairs(META.iter().filter_map(|name| Some((*name, meta_value(meta(name, record, at)?)))))
}

fn meta_value(meta: Meta) -> Value {
    match meta {
        Meta::Text(text) => Value::from(text),
        Meta::Owned(text) => Value::from(text),
        Meta::Number(number) => Value::from(number),
        Meta::Null => Value::from(()),
    }
}

/// How deep this goes is bounded by the decode stages.
fn value(name: &str, json: &Json) -> Result<Value, Failed> {
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => number_value(number),
        Json::String(text) if text.len() > BYTES_MAX => {
            return Err(format!("{name} has more than the {BYTES_MAX} bytes that templates take").into());
        }
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(|item| value(name, item)).collect::<Result<Vec<_>, _>>()?.into(),
        Json::Object(fields) => {
            let pairs = fields.iter().map(|(key, item)| Ok((key.as_str(), value(name, item)?)));
            Value::from_pairs(pairs.collect::<Result<Vec<_>, Failed>>()?)
        }
    })
}

fn number_value(number: &Number) -> Value {
    match (number.as_i64(), number.as_u64()) {
        (Some(int), _) => Value::from(int),
        (None, Some(int)) => Value::from(int),
        (None, None) => Value::from(number.as_f64()),
    }
}

/// Refuses what has no bound.
fn check(source: &str) -> Result<(), String> {
    let mut tokens = tokenize(source, false, Default::default()).map(|token| token.map(|(token, _)| token));
    let (mut joints, mut inside, mut for_head) = (0, 0, false);
    while let Some(token) = tokens.next() {
        inside += 1;
        match token.map_err(|error| say(&error))? {
            _ if inside > TOKENS_MAX => return Err(format!("an expression has {TOKENS_MAX} words and signs at most")),
            Token::TemplateData(_) | Token::VariableEnd => inside = 0,
            Token::BlockStart => for_head = statement(tokens.next())?,
            Token::BlockEnd => (inside, for_head) = (0, false),
            Token::Pipe => known("filter", &FILTERS, tokens.next())?,
            Token::Ident("is") => match tokens.next() {
                Some(Ok(Token::Ident("not"))) => known("test", &TESTS, tokens.next())?,
                token => known("test", &TESTS, token)?,
            },
            Token::Mul => return Err("`*` is not offered: use the filter `times`".into()),
            Token::Tilde | Token::Plus | Token::ParenOpen | Token::BracketOpen if for_head => {
                return Err("`for` goes over something of the record, such as `tags` or `author.tags`".into());
            }
            Token::Tilde | Token::Plus => joints += 1,
            _ => {}
        }
    }
    if joints > JOINTS_MAX {
        return Err(format!("a template has `~` and `+` {JOINTS_MAX} times at most"));
    }
    Ok(())
}

/// minijinja would find out only when it renders.
fn known(what: &str, names: &[&'static str], token: Option<Result<Token, Error>>) -> Result<(), String> {
    match token.transpose().map_err(|error| say(&error))? {
        Some(Token::Ident(name)) if names.contains(&name) => Ok(()),
        Some(Token::Ident(name)) => Err(suggest(format!("there is no {what} `{name}`"), name, names.iter().copied())),
        _ => Err(format!("a {what} has a name")),
    }
}

/// The first word of a statement; answers whether it binds a name.
fn statement(token: Option<Result<Token, Error>>) -> Result<bool, String> {
    match token.transpose().map_err(|error| say(&error))? {
        Some(Token::Ident("for")) => Ok(true),
        Some(Token::Ident("if" | "elif" | "else" | "endif" | "endfor")) => Ok(false),
        Some(Token::Ident(word)) => Err(format!("`{word}` is not offered: templates have `if` and `for`")),
        _ => Err("a statement begins with a word".into()),
    }
}

/// The filters there are.
pub(super) const FILTERS: [&str; 16] = [
    "default",
    "escape",
    "first",
    "int",
    "join",
    "last",
    "length",
    "lower",
    "replace",
    "round",
    "times",
    "tojson",
    "trim",
    "truncate",
    "upper",
    "urlencode",
];

/// The tests there are.
pub(super) const TESTS: [&str; 4] = ["defined", "none", "number", "string"];

fn environment(escape: AutoEscape) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(move |_| escape.clone());
    environment.set_formatter(|output, state, value| match value.kind() {
        ValueKind::None => Err(Error::new(ErrorKind::InvalidOperation, "it is null")),
        // And not Python's `True`.
        ValueKind::Bool => Ok(output.write_str(if value.is_true() { "true" } else { "false" })?),
        _ => minijinja::escape_formatter(output, state, value),
    });
    environment.add_filter("escape", |state: &mut State, value: &Value| filters::escape(state, value).and_then(short));
    environment.add_filter("lower", filters::lower);
    environment.add_filter("upper", |text: String| short(Value::from(text.to_uppercase())));
    environment.add_filter("trim", filters::trim);
    environment.add_filter("length", filters::length);
    environment.add_filter("default", filters::default);
    environment.add_filter("first", filters::first);
    environment.add_filter("last", filters::last);
    environment.add_filter("int", filters::int);
    environment.add_filter("round", filters::round);
    environment.add_filter("tojson", |value: &Value, with: Kwargs| filters::tojson(value, None, with).and_then(short));
    environment.add_filter("join", join);
    environment.add_filter("replace", replace);
    environment.add_filter("truncate", |text: String, chars: usize| -> String { text.chars().take(chars).collect() });
    environment.add_filter("times", |number: f64, factor: f64| number * factor);
    environment.add_filter("urlencode", urlencode);
    environment.add_test("defined", minijinja::tests::is_defined);
    environment.add_test("none", minijinja::tests::is_none);
    environment.add_test("string", minijinja::tests::is_string);
    environment.add_test("number", minijinja::tests::is_number);
    environment
}

/// A filter's result, if it is one that may go on: filters can be chained.
fn short(value: Value) -> Result<Value, Error> {
    match value.as_str().is_some_and(|text| text.len() > BYTES_MAX) {
        true => Err(too_long()),
        false => Ok(value),
    }
}

fn too_long() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("it grew beyond {BYTES_MAX} bytes"))
}

fn join(items: &Value, between: Option<String>) -> Result<Value, Error> {
    let (between, mut joined) = (between.unwrap_or_default(), String::new());
    for (index, item) in items.try_iter()?.enumerate() {
        let before = if index == 0 { "" } else { &between };
        joined.push_str(before);
        joined.push_str(item.as_str().map(str::to_owned).unwrap_or_else(|| item.to_string()).as_str());
        if joined.len() > BYTES_MAX {
            return Err(too_long());
        }
    }
    Ok(Value::from(joined))
}

fn replace(text: String, from: String, to: String) -> Result<Value, Error> {
    let found = if from.is_empty() { 0 } else { text.matches(&from).count() };
    if text.len() + found.saturating_mul(to.len()) > BYTES_MAX * 2 {
        return Err(too_long());
    }
    short(Value::from(if found == 0 { text } else { text.replace(&from, &to) }))
}

fn urlencode(text: String) -> Result<Value, Error> {
    short(Value::from(form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()))
}

/// The error and what it is about; where in the template is worth a line number only if there are lines.
fn say(error: &Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) if line > 1 => format!("{what} (line {line})"),
        _ => what,
    }
}

/// A writer that takes [`BYTES_MAX`] bytes.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BYTES_MAX {
            return Err(io::Error::other(format!("it writes more than {BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::pipeline::testing;

    const AT: At = At { now_ms: 1000, queue: "q", pipeline: "p", stage: "s" };

    fn fill(source: &str, data: Json) -> Result<String, String> {
        let template = Template::parse(source)?;
        let record = Record { body: crate::pipeline::Body::Json(data), ..testing::record("") };
        template.fill(&record, &AT).map_err(|Failed(why)| why)
    }

    #[test]
    fn fields_and_the_job_are_filled_in() {
        let data = json!({
            "a": "<A>", "n": 7, "big": u64::MAX, "half": 1.5, "yes": true, "list": ["x", 1], "in": { "deep": "d" },
        });
        let cases = [
            ("no names", "no names"),
            ("{{ a }}", "<A>"),
            ("{{ a|escape }}", "&lt;A&gt;"),
            ("{{ n + 1 }} {{ big }} {{ half }} {{ yes }}", "8 18446744073709551615 1.5 true"),
            ("{{ in.deep }}{{ list[0] }}{{ list|length }}", "dx2"),
            ("{% for x in list %}{{ loop.index }}:{{ x }} {% endfor %}", "1:x 2:1 "),
            ("{{ list|join(', ') }}", "x, 1"),
            ("{{ list|tojson }} {{ in|tojson }}", r#"["x", 1] {"deep": "d"}"#),
            ("{% if nowhere %}a{% elif n > 6 %}b{% else %}c{% endif %}", "b"),
            ("{{ nowhere|default('there') }}", "there"),
            ("{{ nowhere is defined }}", "false"),
            (
                "{{ kind }} {{ id }} {{ key }} {{ attempt }} {{ put_ms }} {{ trace }} {{ queue }}",
                "create 17 k 1 5 q/17 q",
            ),
            ("{{ job.kind }}/{{ job.id }}", "create/17"),
            ("{{ n|times(1.6)|round|int }}", "11"),
            ("{{ 'a b&c'|urlencode }}", "a+b%26c"),
            ("{{ a|replace('<', '(')|lower|truncate(2) }}", "(a"),
            ("{# nothing #}x", "x"),
        ];
        for (source, expected) in cases {
            assert_eq!(fill(source, data.clone()).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let data = json!({ "null": null, "list": [] });
        for source in ["{{ nowhere }}", "{{ nowhere.deep }}", "{{ null }}", "{{ list[3] }}", "{{ list|upper }}x{{ a }}"]
        {
            assert!(fill(source, data.clone()).is_err(), "{source}");
        }
    }

    #[test]
    fn every_filter_and_test_is_there() {
        for filter in FILTERS {
            let filled = fill(&format!("{{{{ 'a'|{filter} }}}}"), json!({}));
            assert!(!filled.as_ref().is_err_and(|why| why.contains("unknown")), "{filled:?}");
        }
        for test in TESTS {
            assert!(fill(&format!("{{{{ 'a' is not {test} }}}}"), json!({})).is_ok(), "{test}");
        }
        let message = "there is no filter `uper`; did you mean `upper`?";
        assert_eq!(fill("{{ a|uper }}", json!({})), Err(message.into()));
        assert_eq!(fill("{{ a is nonne }}", json!({})), Err("there is no test `nonne`; did you mean `none`?".into()));
    }

    #[test]
    fn html_is_escaped_where_that_is_asked_for() {
        let template = Template::parse_html("<p>{{ text }}</p>{{ text|safe }}");
        assert!(template.is_err(), "there is no way around it");
        let template = Template::parse_html("<p>{{ text }}</p>").expect("it is right");
        let record = Record { body: crate::pipeline::Body::Json(json!({ "text": "<&\"'>" })), ..testing::record("") };
        assert_eq!(template.fill(&record, &AT).expect("it fills"), "<p>&lt;&amp;&quot;&#x27;&gt;</p>");
    }

    #[test]
    fn what_has_no_bound_is_not_offered() {
        let cases = [
            ("{% set x = a %}", "`set` is not offered: templates have `if` and `for`"),
            ("{%- with x = a ~ a %}{% endwith %}", "`with` is not offered: templates have `if` and `for`"),
            ("{% filter upper %}a{% endfilter %}", "`filter` is not offered: templates have `if` and `for`"),
            ("{{ 'a' * 100000000 }}", "`*` is not offered: use the filter `times`"),
            (
                "{% for x in [a ~ a] %}{% endfor %}",
                "`for` goes over something of the record, such as `tags` or `author.tags`",
            ),
            (
                "{% for x in range(9) %}{% endfor %}",
                "`for` goes over something of the record, such as `tags` or `author.tags`",
            ),
        ];
        for (source, expected) in cases {
            assert_eq!(fill(source, json!({})), Err(expected.into()), "{source}");
        }
        let joints = format!("{{{{ {} }}}}", vec!["a"; 40].join("~"));
        assert_eq!(fill(&joints, json!({})), Err("a template has `~` and `+` 16 times at most".into()));
        for source in
            ["{{", "{% if %}", "{{ a|nothing }}", "{% for x in a %}", &"{{ ".repeat(1000), &"(".repeat(70_000)]
        {
            assert!(fill(source, json!({ "a": "a" })).is_err(), "{source}");
        }
        for source in [format!("{{{{ {}1 }}}}", "(".repeat(20_000)), format!("{{{{ {}1 }}}}", "-".repeat(60_000))] {
            assert!(fill(&source, json!({})).is_err());
        }
    }

    #[test]
    fn a_bomb_is_an_error_of_its_record_and_soon() {
        let long = "x".repeat(60_000);
        let data = json!({ "a": long, "list": vec!["é\"\\"; 1000], "longer": "x".repeat(70_000) });
        let tojson = format!("{{{{ a{} }}}}", "|tojson".repeat(600));
        let bombs = [
            "{{ a }}{{ a }}",
            "{{ longer|length }}",
            "{% for x in list %}{% for y in list %}{{ a|length }}{% endfor %}{% endfor %}",
            "{% for x in list %}{{ a ~ a ~ a ~ a ~ a ~ a ~ a ~ a }}{% endfor %}",
            "{{ a|replace('x', a)|replace('x', a) }}",
            "{{ a|replace('x', '\"')|tojson }}",
            "{% for x in list %}{{ list|join(a)|length }}{% endfor %}",
            &tojson,
        ];
        for bomb in bombs {
            let started = Instant::now();
            let filled = fill(bomb, data.clone());
            assert!(filled.is_err(), "{bomb}: {} bytes", filled.unwrap_or_default().len());
            assert!(started.elapsed() < Duration::from_secs(2), "{bomb}: {:?}", started.elapsed());
        }
    }
}
