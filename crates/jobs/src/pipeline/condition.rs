//! Conditions: CEL expressions that are true or false of a record.
//!
//! Always true: what a condition costs is bounded, by what is refused when it is compiled (its size and depth, loops in
//! loops, patterns that are not written out) and by what it may look at ([`BYTES_MAX`], [`ITEMS_MAX`]).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::objects::{Key, Map};
use cel::parser::{Macro, MacroExprHelper};
use cel::{Context, Env, ExecutionError, ParseError, Program, Value};
use regex::{Regex, RegexBuilder};
use serde_json::Value as Json;

use super::compile::suggest;
use super::record::{Fields, Record};
use super::scope::{META, Meta, Seen, look, meta};
use super::stage::{At, Failed};

/// Bytes of an expression.
const SOURCE_BYTES_MAX: usize = 4 << 10;

/// How deep expressions nest. Wherever one is evaluated it takes stack for each level: up to 40 KB where nothing is optimised.
const DEPTH_MAX: usize = 24;

/// The parser's stack: it goes deeper than what it accepts.
const PARSER_STACK_BYTES: usize = 16 << 20;

/// How often strings or lists may be joined: each time copies both.
const JOINTS_MAX: usize = 16;

/// And within a loop, where `map` and `filter` join once themselves.
const JOINTS_IN_LOOP_MAX: usize = 3;

/// Bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 18;

/// Bytes of a string that a condition may look at.
const BYTES_MAX: usize = 64 << 10;

/// Items of lists and objects that a condition with a loop may look at.
const ITEMS_MAX: usize = 1000;

/// The functions there are.
pub(super) const FUNCTIONS: [&str; 12] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "int",
    "matches",
    "size",
    "startsWith",
    "string",
    "uint",
];

/// What calls of `matches` become, as that of the library compiles its pattern each time.
const MATCHES: &str = "matches pattern";

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib().with_optional_support(false);
    for call in [Macro::receiver("matches", 1, renamed), Macro::global("matches", 2, renamed)] {
        env.add_macro(call).expect("the library has no such macro");
    }
    Arc::new(env)
});

fn renamed(
    helper: &mut MacroExprHelper<'_>,
    target: &mut Option<IdedExpr>,
    args: &mut Vec<IdedExpr>,
) -> Result<Option<IdedExpr>, ParseError> {
    let args = target.take().into_iter().chain(args.drain(..)).collect();
    Ok(Some(helper.next_expr(Expr::Call(CallExpr { func_name: MATCHES.into(), target: None, args }))))
}

/// A compiled condition.
#[derive(Debug)]
pub struct Condition {
    program: Program,
    names: Vec<String>,
    loops: bool,
    patterns: Patterns,
    /// What it says, in words: of what was not there, only they may be named.
    words: Vec<String>,
}

/// Those of a condition, compiled.
type Patterns = Arc<HashMap<String, Regex>>;

impl Condition {
    /// Compiles one; says what is wrong with it.
    pub fn parse(source: &str) -> Result<Condition, String> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(format!("a condition has {SOURCE_BYTES_MAX} bytes at most"));
        }
        std::thread::scope(|scope| {
            let parser = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
            let parsed = parser.spawn_scoped(scope, || parse(source)).map_err(|error| error.to_string())?;
            parsed.join().unwrap_or_else(|_| Err("the parser gave up".into()))
        })
    }

    /// Whether it is true of a record. Anything but true or false is an error.
    pub(super) fn holds(&self, record: &Record, at: &At) -> Result<bool, Failed> {
        self.evaluate(|name, budget| match look(name, record, at) {
            Seen::Field(json) => Ok(Some(value(name, json, budget)?)),
            Seen::Meta(meta) => Ok(Some(meta_value(meta))),
            Seen::Job => Ok(Some(job(record, at))),
            Seen::Nothing => Ok(None),
        })
    }

    /// Whether it is true of some fields that are no record's.
    pub fn holds_for(&self, fields: &Fields) -> Result<bool, Failed> {
        self.evaluate(|name, budget| fields.get(name).map(|json| value(name, json, budget)).transpose())
    }

    fn evaluate(&self, look: impl Fn(&str, &mut usize) -> Result<Option<Value>, Failed>) -> Result<bool, Failed> {
        let mut context = Context::with_env(ENV.clone());
        if !self.patterns.is_empty() {
            let patterns = self.patterns.clone();
            let matches = move |text: Arc<String>, pattern: Arc<String>| patterns[&*pattern].is_match(&text);
            context.add_function(MATCHES, matches).expect("the library has no such function");
        }
        let mut budget = if self.loops { ITEMS_MAX } else { usize::MAX };
        for name in &self.names {
            if let Some(value) = look(name, &mut budget)? {
                context.add_variable_from_value(name, value);
            }
        }
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("the condition is neither true nor false".into()),
            Err(error) => Err(format!("the condition: {}", self.say(&error)).into()),
        }
    }

    /// Names what is missing, but never what is in a record.
    fn say(&self, error: &ExecutionError) -> String {
        match error {
            // A key may be what a field says: `user[text]`.
            ExecutionError::NoSuchKey(name) if !self.words.contains(name) => "there is no such key".into(),
            ExecutionError::UndeclaredReference(name) | ExecutionError::NoSuchKey(name) => {
                format!("there is no {name}")
            }
            ExecutionError::NoSuchOverload(overload) => overload.to_string(),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".into(),
            ExecutionError::Overflow(..) => "a number is too large".into(),
            ExecutionError::IndexOutOfBounds(_) => "a list is shorter".into(),
            ExecutionError::ValuesNotComparable(..) => "two values cannot be compared".into(),
            ExecutionError::FunctionError { function, .. } => format!("{function} failed"),
            _ => "a value is of another type".into(),
        }
    }
}

fn parse(source: &str) -> Result<Condition, String> {
    let program = ENV.compile(source).map_err(|errors| match errors.errors.first() {
        Some(error) => format!("{} (line {}, column {})", error.msg, error.pos.0, error.pos.1),
        None => "it is no expression".into(),
    })?;
    let mut check = Check::default();
    check.expression(program.expression(), 0, false)?;
    let references = program.references();
    let mut names: Vec<String> = references.variables().into_iter().map(str::to_owned).collect();
    names.sort();
    let words = source.split(|char: char| !char.is_alphanumeric() && char != '_').map(str::to_owned).collect();
    Ok(Condition { names, loops: check.loops, patterns: check.patterns.into(), words, program })
}

/// A walk over an expression, which refuses what has no bound.
#[derive(Default)]
struct Check {
    joints: usize,
    joints_in_loops: usize,
    loops: bool,
    patterns: HashMap<String, Regex>,
}

impl Check {
    fn expression(&mut self, expression: &IdedExpr, depth: usize, in_loop: bool) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is nested deeper than {DEPTH_MAX}"));
        }
        let mut inner = |inner: &IdedExpr| self.expression(inner, depth + 1, in_loop);
        match &expression.expr {
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Ok(()),
            Expr::Select(select) => inner(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(inner),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => inner(&entry.key).and_then(|()| inner(&entry.value)),
                EntryExpr::StructField(field) => inner(&field.value),
            }),
            Expr::Struct(_) => Err("there are no structs".into()),
            Expr::Call(call) => {
                call.target.iter().map(|target| &**target).chain(&call.args).try_for_each(inner)?;
                self.call(call, in_loop)
            }
            Expr::Comprehension(_) if in_loop => Err("a loop in a loop has no bound".into()),
            Expr::Comprehension(each) => {
                self.expression(&each.iter_range, depth + 1, false)?;
                (self.loops, self.joints_in_loops) = (true, 0);
                let parts = [&each.accu_init, &each.loop_cond, &each.loop_step, &each.result];
                parts.into_iter().try_for_each(|part| self.expression(part, depth + 1, true))
            }
        }
    }

    fn call(&mut self, call: &CallExpr, in_loop: bool) -> Result<(), String> {
        match call.func_name.as_str() {
            "_+_" if in_loop => self.joints_in_loops += 1,
            "_+_" => self.joints += 1,
            MATCHES => self.pattern(call)?,
            "matches" => return Err("`matches` takes a text and a pattern".into()),
            name if !name.starts_with(char::is_alphabetic) || FUNCTIONS.contains(&name) => {}
            name => return Err(suggest(format!("there is no function `{name}`"), name, FUNCTIONS.into_iter())),
        }
        match self.joints > JOINTS_MAX || self.joints_in_loops > JOINTS_IN_LOOP_MAX {
            true => Err(format!("`+` is there {JOINTS_MAX} times at most, and {JOINTS_IN_LOOP_MAX} times in a loop")),
            false => Ok(()),
        }
    }

    /// A pattern is compiled once, so it has to be known.
    fn pattern(&mut self, call: &CallExpr) -> Result<(), String> {
        let Some(Expr::Literal(LiteralValue::String(pattern))) = call.args.last().map(|last| &last.expr) else {
            return Err("the pattern of `matches` has to be written out".into());
        };
        let pattern = pattern.inner();
        let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
        self.patterns.insert(pattern.into(), compiled.map_err(|error| format!("the pattern {pattern:?}: {error}"))?);
        Ok(())
    }
}

/// How deep this goes is bounded by the decode stages.
fn value(name: &str, json: &Json, budget: &mut usize) -> Result<Value, Failed> {
    *budget = budget.checked_sub(1).ok_or_else(|| format!("{name} has more than {ITEMS_MAX} items to look at"))?;
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        // All whole numbers are of one type, as they are in JSON, so that they can be compared and added.
        Json::Number(number) => match number.as_i64() {
            Some(int) => Value::Int(int),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) if text.len() > BYTES_MAX => {
            return Err(format!("{name} has more than the {BYTES_MAX} bytes that conditions take").into());
        }
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(items) => {
            Value::List(Arc::new(items.iter().map(|item| value(name, item, budget)).collect::<Result<_, _>>()?))
        }
        Json::Object(fields) => {
            let pair = |(key, item): (&String, &Json)| Ok((key_of(key), value(name, item, budget)?));
            Value::Map(Map { map: Arc::new(fields.iter().map(pair).collect::<Result<_, Failed>>()?) })
        }
    })
}

fn job(record: &Record, at: &At) -> Value {
    let pairs = META.iter().filter_map(|name| Some((key_of(name), meta_value(meta(name, record, at)?))));
    Value::Map(Map { map: Arc::new(pairs.collect()) })
}

fn meta_value(meta: Meta) -> Value {
    match meta {
        Meta::Text(text) => Value::String(Arc::new(text.into())),
        Meta::Owned(text) => Value::String(Arc::new(text)),
        Meta::Number(number) => i64::try_from(number).map_or(Value::UInt(number), Value::Int),
        Meta::Null => Value::Null,
    }
}

fn key_of(name: &str) -> Key {
    Key::String(Arc::new(name.into()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::pipeline::testing;

    const AT: At = At { now_ms: 1000, queue: "q", pipeline: "p", stage: "s" };

    fn holds(source: &str, data: Json) -> Result<bool, String> {
        let condition = Condition::parse(source)?;
        let record = Record { body: crate::pipeline::Body::Json(data), ..testing::record("") };
        condition.holds(&record, &AT).map_err(|Failed(why)| why)
    }

    #[test]
    fn conditions_are_true_or_false_of_records() {
        let data = json!({
            "text": "hello", "n": 5, "big": 1e30, "half": 0.5, "yes": true, "none": null, "tags": ["a", "b"],
            "user": { "name": "ann", "age": 40 }, "kind": "mine",
        });
        let cases = [
            ("true", true),
            ("yes && n == 5 && n + 1 > 5 && n < 5.5", true),
            ("half * 2.0 == 1.0 && big > 1.0", true),
            ("text == 'hello' && size(text) == 5 && text.startsWith('he')", true),
            ("text.matches('^h.*o$') && !matches(text, 'x')", true),
            ("user.name == 'ann' && user['age'] >= 40 && 'name' in user", true),
            ("has(user.name) && !has(user.town)", true),
            ("'b' in tags && tags.exists(tag, tag == 'a') && !tags.all(tag, tag == 'a')", true),
            ("none == null", true),
            ("kind == 'mine' && job.kind == 'create' && job.id == '17' && attempt == 1 && queue == 'q'", true),
            ("job.key == 'k' && put_ms == 5", true),
            ("n > 5 ? true : false", false),
            ("false && nowhere", false),
        ];
        for (source, expected) in cases {
            assert_eq!(holds(source, data.clone()), Ok(expected), "{source}");
        }
        let cases = [
            ("nowhere", "the condition: there is no nowhere"),
            ("user.town == 'x'", "the condition: there is no town"),
            ("n", "the condition is neither true nor false"),
            ("1 / 0 == 1", "the condition: division by zero"),
            ("tags[9] == 'x'", "the condition: a list is shorter"),
            ("lenght(text) > 0", "there is no function `lenght`; did you mean `int`?"),
        ];
        for (source, expected) in cases {
            assert_eq!(holds(source, data.clone()), Err(expected.into()), "{source}");
        }
    }

    /// They are balanced by the parser, and long ones are common.
    #[test]
    fn alternatives_may_be_many() {
        let names: Vec<_> = (0..100).map(|n| format!("n == {n}")).collect();
        assert_eq!(holds(&names.join(" || "), json!({ "n": 99 })), Ok(true));
        assert_eq!(holds(&names.join(" && "), json!({ "n": 0 })), Ok(false));
    }

    #[test]
    fn fields_of_something_else_can_be_asked_too() {
        let condition = Condition::parse("channel.startsWith('forum.')").expect("it is right");
        let fields = json!({ "channel": "forum.rust" });
        assert_eq!(condition.holds_for(fields.as_object().expect("it is an object")), Ok(true));
    }

    #[test]
    fn what_has_no_bound_is_refused() {
        let cases = [
            ("[1].all(x, [2].all(y, x == y))".to_owned(), "a loop in a loop has no bound"),
            ("text.matches(text)".to_owned(), "the pattern of `matches` has to be written out"),
            (format!("'' == {}", ["text"; 19].join("+")), "`+` is there 16 times at most, and 3 times in a loop"),
            (
                "[1].all(x, 'a'+'b'+'c'+'d'+'e' == '')".to_owned(),
                "`+` is there 16 times at most, and 3 times in a loop",
            ),
            (" ".repeat(5000), "a condition has 4096 bytes at most"),
        ];
        for (source, expected) in cases {
            assert_eq!(holds(&source, json!({})), Err(expected.into()), "{source}");
        }
        let nested = |open: &str, close: &str, n| format!("{}true{}", open.repeat(n), close.repeat(n));
        let deep = [
            nested("(", ")", 2000),
            nested("!a.", "", 1000),
            nested("[", "]", 2000),
            nested("{1:", "}", 800),
            format!("a{}", ".a".repeat(2000)),
            format!("a{}", "[0]".repeat(1300)),
            format!("0{}", "-1".repeat(2000)),
            format!("1{}", "?1".repeat(2000)),
            format!("true{}", "?true:false".repeat(360)),
            "text.matches('(a{1000}){1000}')".into(),
            "text.matches('(')".into(),
            "".into(),
            "\u{0}".into(),
        ];
        for source in deep {
            assert!(Condition::parse(&source).is_err(), "{source}");
        }
        // What is accepted can be evaluated, and taken down, on an ordinary stack.
        for (open, close) in [
            ("(", ")"),
            ("!", ""),
            ("-", ""),
            ("[", "]"),
            ("{1:", "}"),
            ("a.", ""),
            ("a[", "]"),
            ("1-", ""),
            ("true?", ":1"),
        ] {
            for n in 1..40 {
                let _ = holds(&format!("{}a{}", open.repeat(n), close.repeat(n)), json!({ "a": 1 }));
            }
        }
    }

    #[test]
    fn a_bomb_is_an_error_of_its_record_and_soon() {
        let data = json!({ "list": vec![1; 20_000], "text": "x".repeat(60_000), "longer": "x".repeat(70_000), "few": vec!["x"; 300] });
        let joined = format!("few.all(x, {} != '')", ["text"; 3].join("+"));
        for (bomb, fails) in [
            ("list.all(x, x == 1)", true),
            ("size(longer) > 0", true),
            (joined.as_str(), false),
            ("few.all(x, text.matches('^(x+x+)+$'))", false),
            ("few.all(x, x.matches('[a-z]{1,300}') && !x.matches('([a-z]|[0-9]|[A-Z]){90}'))", false),
            ("few.map(x, x).map(x, x).map(x, [x, x]).size() == 300", false),
        ] {
            let started = Instant::now();
            assert_eq!(holds(bomb, data.clone()).is_err(), fails, "{bomb}");
            assert!(started.elapsed() < Duration::from_secs(10), "{bomb}: {:?}", started.elapsed());
        }
    }

    /// Whoever reads a log must not read comments.
    #[test]
    fn errors_do_not_say_what_is_in_a_record() {
        let data = json!({ "text": "secret", "n": 1, "user": { "name": "ann" } });
        for source in [
            "text + n == ''",
            "text < n",
            "user[text] == 1",
            "has(user.name) && user[text + 'x'] == 1",
            "text.size",
            "int(text) == 1",
            "text[0] == 's'",
            "n in text",
            "-text == 1",
        ] {
            let error = holds(source, data.clone()).expect_err(source);
            assert!(!error.contains("secret"), "{source}: {error}");
        }
    }
}
