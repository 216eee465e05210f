//! Checks of what a record is.

use std::io::Write;

use serde_json::{Map, Value};

use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::{Body, Record};
use crate::pipeline::registry::{Reads, StageKind, default, required};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};
use crate::pipeline::suggest;

/// Bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

pub(crate) const KINDS: &[StageKind] = &[
    StageKind {
        name: "schema",
        summary: "Fails records whose fields are not what they should be. Each field has a table with any of `type` (`string`, \
                  `number`, `integer`, `boolean`, `object`, `array`, `null`, or a list of them), `min` and `max` (of a number, \
                  or of the length of a string in characters, of a list or of an object), `pattern` (a regular expression \
                  that is found in the string) and `enum` (a list of all values that are right).",
        keys: &[
            default("required", "list of fields", "[]", "Those that have to be there."),
            default(
                "fields",
                "table",
                "{}",
                "What each field has to be, if it is there: `{ text = { type = \"string\", max = 2000 } }`.",
            ),
            default("others", "true or false", "true", "Whether there may be fields that are named nowhere here."),
        ],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: schema,
    },
    StageKind {
        name: "size_limit",
        summary: "Fails records that are too large: the data's bytes, or those of the JSON after decoding.",
        keys: &[required("bytes_max", "number", "How large they may be.")],
        reads: Reads::Any,
        on_error: OnError::DeadLetter,
        build: size_limit,
    },
];

struct Schema {
    required: Vec<Path>,
    fields: Vec<(Path, Rule)>,
    /// The names that there may be, unless it is any.
    known: Option<Vec<String>>,
}

#[derive(Default)]
struct Rule {
    types: Option<Vec<Type>>,
    min: Option<f64>,
    max: Option<f64>,
    pattern: Option<regex::Regex>,
    values: Option<Vec<Value>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Type {
    String,
    Number,
    Integer,
    Boolean,
    Object,
    Array,
    Null,
}

const TYPES: [(&str, Type); 7] = [
    ("string", Type::String),
    ("number", Type::Number),
    ("integer", Type::Integer),
    ("boolean", Type::Boolean),
    ("object", Type::Object),
    ("array", Type::Array),
    ("null", Type::Null),
];

fn schema(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let names = params.texts("required")?;
    let required = names.iter().map(|name| Params::field("required", name)).collect::<Result<_, _>>()?;
    let rules = params.map("fields")?;
    let root = |name: &String| name.split('.').next().unwrap_or_default().to_owned();
    let known = (!params.flag("others")?).then(|| names.iter().chain(rules.keys()).map(root).collect());
    let pair = |(name, rule): (&String, &Value)| {
        let rule = Rule::parse(rule).map_err(|message| Bad::at("fields", format!("{name}: {message}")))?;
        Ok((Params::field("fields", name)?, rule))
    };
    let fields = rules.iter().map(pair).collect::<Result<_, _>>()?;
    Ok(Box::new(Schema { required, fields, known }))
}

impl Stage for Schema {
    fn apply(&self, record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = record.fields()?;
        if let Some(path) = self.required.iter().find(|path| path.get(fields).is_none()) {
            return Err(format!("{path} is missing").into());
        }
        if let Some(known) = &self.known
            && fields.keys().any(|name| !known.contains(name))
        {
            return Err("there are fields that should not be there".into());
        }
        for (path, rule) in &self.fields {
            if let Some(value) = path.get(fields) {
                rule.check(value).map_err(|wrong| format!("{path} {wrong}"))?;
            }
        }
        Ok(Outcome::One(record))
    }
}

impl Rule {
    fn parse(rule: &Value) -> Result<Rule, String> {
        let table = rule.as_object().ok_or("takes a table")?;
        let mut rule = Rule::default();
        for (key, value) in table {
            match key.as_str() {
                "type" => rule.types = Some(types(value)?),
                "min" => rule.min = Some(value.as_f64().ok_or("min takes a number")?),
                "max" => rule.max = Some(value.as_f64().ok_or("max takes a number")?),
                "pattern" => rule.pattern = Some(pattern(value)?),
                "enum" => rule.values = Some(value.as_array().ok_or("enum takes a list")?.clone()),
                other => {
                    let rules = ["type", "min", "max", "pattern", "enum"].into_iter();
                    return Err(suggest(format!("there is no rule `{other}`"), other, rules));
                }
            }
        }
        Ok(rule)
    }

    /// What is wrong with a value, without the value.
    fn check(&self, value: &Value) -> Result<(), String> {
        if let Some(types) = &self.types
            && !types.iter().any(|of| of.has(value))
        {
            return Err("is of another type".into());
        }
        if let (Some(min), Some(size)) = (self.min, size(value))
            && size < min
        {
            return Err(format!("is less than {min}"));
        }
        if let (Some(max), Some(size)) = (self.max, size(value))
            && size > max
        {
            return Err(format!("is more than {max}"));
        }
        if let (Some(pattern), Value::String(text)) = (&self.pattern, value)
            && !pattern.is_match(text)
        {
            return Err("does not match its pattern".into());
        }
        match &self.values {
            Some(values) if !values.contains(value) => Err("is none of the values it may have".into()),
            _ => Ok(()),
        }
    }
}

impl Type {
    fn has(self, value: &Value) -> bool {
        match value {
            Value::Null => self == Type::Null,
            Value::Bool(_) => self == Type::Boolean,
            Value::Number(number) => {
                self == Type::Number || self == Type::Integer && number.as_f64().is_some_and(|it| it.fract() == 0.0)
            }
            Value::String(_) => self == Type::String,
            Value::Array(_) => self == Type::Array,
            Value::Object(_) => self == Type::Object,
        }
    }
}

fn types(value: &Value) -> Result<Vec<Type>, String> {
    let one = |value: &Value| {
        let name = value.as_str().unwrap_or_default();
        let known = TYPES.iter().find(|(known, _)| *known == name);
        known.map(|(_, of)| *of).ok_or_else(|| format!("type is {}", TYPES.map(|(name, _)| name).join(", ")))
    };
    match value {
        Value::Array(values) => values.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

fn pattern(value: &Value) -> Result<regex::Regex, String> {
    let pattern = value.as_str().ok_or("pattern takes a string")?;
    regex::RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build().map_err(|error| error.to_string())
}

/// What `min` and `max` are about.
fn size(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => Some(text.chars().count() as f64),
        Value::Array(items) => Some(items.len() as f64),
        Value::Object(fields) => Some(Map::len(fields) as f64),
        Value::Null | Value::Bool(_) => None,
    }
}

struct SizeLimit {
    bytes_max: usize,
}

fn size_limit(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(SizeLimit { bytes_max: params.number("bytes_max", 1..=1 << 30)? as usize }))
}

impl Stage for SizeLimit {
    fn apply(&self, record: Record, _: &At) -> Result<Outcome, Failed> {
        let fits = match &record.body {
            Body::Raw(bytes) => bytes.len() <= self.bytes_max,
            Body::Json(value) => serde_json::to_writer(Room(self.bytes_max), value).is_ok(),
        };
        match fits {
            true => Ok(Outcome::One(record)),
            false => Err(format!("the record has more than {} bytes", self.bytes_max).into()),
        }
    }
}

/// Takes so many bytes and keeps none.
struct Room(usize);

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::pipeline::Shared;
    use crate::pipeline::testing::{check, compiled, record, run, wrong};

    #[test]
    fn records_are_what_they_should_be_or_fail() {
        let schema = json!({
            "stage": "schema", "required": ["id", "user.name"], "others": false,
            "fields": {
                "id": { "type": ["integer", "string"], "min": 1 },
                "text": { "type": "string", "min": 2, "max": 4, "pattern": "^[a-zü]*$" },
                "mood": { "enum": ["good", "bad", null] },
                "tags": { "type": "array", "max": 2 },
                "score": { "type": "number", "max": 1.5 },
            },
        });
        let right = [
            json!({ "id": 1, "user": { "name": "ann", "age": 4 } }),
            json!({ "id": "x", "user": { "name": "" }, "text": "üüüü", "mood": null, "tags": [], "score": -2 }),
            json!({ "id": 2.0, "user": { "name": 1 }, "score": 1.5 }),
        ];
        for data in right {
            check(&schema, data.clone(), data);
        }
        let wrong = [
            (json!({ "id": 1 }), "user.name is missing"),
            (json!({ "user": { "name": "x" } }), "id is missing"),
            (json!({ "id": 1, "extra": 1 }), "there are fields that should not be there"),
            (json!({ "id": 1.5 }), "id is of another type"),
            (json!({ "id": null }), "id is of another type"),
            (json!({ "id": 0 }), "id is less than 1"),
            (json!({ "id": "" }), "id is less than 1"),
            (json!({ "id": 1, "text": "a" }), "text is less than 2"),
            (json!({ "id": 1, "text": "abcde" }), "text is more than 4"),
            (json!({ "id": 1, "text": "ABC" }), "text does not match its pattern"),
            (json!({ "id": 1, "mood": "so so" }), "mood is none of the values it may have"),
            (json!({ "id": 1, "tags": [1, 2, 3] }), "tags is more than 2"),
            (json!({ "id": 1, "score": 1.6 }), "score is more than 1.5"),
        ];
        for (mut data, why) in wrong {
            if !why.contains("missing") {
                data["user"] = json!({ "name": "ann" });
            }
            check(&schema, data, json!({ "failed": why, "retry": false }));
        }
    }

    #[test]
    fn a_schema_that_is_wrong_is_refused() {
        let cases = [
            (json!({ "a": "string" }), "key fields: a: takes a table"),
            (
                json!({ "a": { "type": "text" } }),
                "key fields: a: type is string, number, integer, boolean, object, array, null",
            ),
            (json!({ "a": { "maxx": 1 } }), "key fields: a: there is no rule `maxx`; did you mean `max`?"),
            (
                json!({ "a": { "pattern": "(a{1000}){1000}" } }),
                "key fields: a: Compiled regex exceeds size limit of 1048576 bytes.",
            ),
        ];
        for (fields, expected) in cases {
            let message =
                wrong(json!([{ "stage": "json" }, { "stage": "schema", "fields": fields }]), &Shared::default());
            assert!(message.ends_with(expected), "{message}");
        }
    }

    #[test]
    fn large_records_fail() {
        let limit = json!({ "stage": "size_limit", "bytes_max": 9 });
        check(&limit, json!({ "a": "b" }), json!({ "a": "b" }));
        check(&limit, json!({ "a": "bc" }), json!({ "failed": "the record has more than 9 bytes", "retry": false }));
        let pipeline = compiled(json!([limit]), &Shared::default());
        assert_eq!(run(&pipeline, record("123456789")), [json!({ "raw bytes": 9 })]);
        assert!(!run(&pipeline, record("1234567890"))[0]["failed"].is_null());
    }
}
