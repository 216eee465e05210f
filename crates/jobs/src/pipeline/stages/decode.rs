//! From a job's bytes to fields.

use serde_json::{Map, Value};

use crate::pipeline::params::{Bad, Params};
use crate::pipeline::record::{Body, PARTS_MAX, Record};
use crate::pipeline::registry::{Key, Reads, StageKind, default};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};

const BYTES_MAX: Key = default("bytes_max", "number", "1048576", "Longer ones fail.");

/// The field that `lines` makes.
const LINE: &str = "line";

pub(crate) const KINDS: &[StageKind] = &[
    StageKind {
        name: "json",
        summary: "Reads the job's data as JSON; after `lines`, each line of it (NDJSON).",
        keys: &[BYTES_MAX, default("depth_max", "number", "32", "Values nested deeper fail; 100 at most.")],
        reads: Reads::Text,
        on_error: OnError::DeadLetter,
        build: json,
    },
    StageKind {
        name: "form",
        summary: "Reads the job's data as a form (`a=1&b=2`), into fields that are strings. The last of a name wins.",
        keys: &[BYTES_MAX],
        reads: Reads::Text,
        on_error: OnError::DeadLetter,
        build: form,
    },
    StageKind {
        name: "lines",
        summary: "Makes a record of each line that is not empty: `{\"line\": \"…\"}`. A `json` or `form` behind it reads each \
                  line in its turn: one that it fails stalls the job, or is dropped by itself with `on_error = \"drop\"`.",
        keys: &[BYTES_MAX, default("records_max", "number", "1000", "With more lines the job fails.")],
        reads: Reads::Bytes,
        on_error: OnError::DeadLetter,
        build: lines,
    },
    StageKind {
        name: "raw",
        summary: "Takes the job's data as it is, if it is UTF-8: `{\"raw\": \"…\"}`.",
        keys: &[BYTES_MAX],
        reads: Reads::Bytes,
        on_error: OnError::DeadLetter,
        build: raw,
    },
];

struct Json {
    bytes_max: usize,
    depth_max: usize,
}

fn json(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Json { bytes_max: bytes_max(params)?, depth_max: params.number("depth_max", 1..=100)? as usize }))
}

impl Stage for Json {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let bytes = bytes(&record, self.bytes_max)?;
        let value: Value = serde_json::from_slice(bytes).map_err(|error| said(&error))?;
        if deeper(&value, self.depth_max) {
            return Err(format!("the JSON is nested deeper than {}", self.depth_max).into());
        }
        record.body = Body::Json(value);
        Ok(Outcome::One(record))
    }
}

/// Where the JSON is wrong; what it says there is nobody's business.
fn said(error: &serde_json::Error) -> String {
    format!("not JSON, at line {} column {}", error.line(), error.column())
}

/// serde_json itself ends at 128.
fn deeper(value: &Value, depth_max: usize) -> bool {
    match value {
        Value::Array(items) => depth_max == 0 || items.iter().any(|item| deeper(item, depth_max - 1)),
        Value::Object(fields) => depth_max == 0 || fields.values().any(|item| deeper(item, depth_max - 1)),
        _ => false,
    }
}

struct Form {
    bytes_max: usize,
}

fn form(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Form { bytes_max: bytes_max(params)? }))
}

impl Stage for Form {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let pairs = form_urlencoded::parse(bytes(&record, self.bytes_max)?);
        let fields: Map<_, _> = pairs.map(|(name, value)| (name.into_owned(), Value::from(value))).collect();
        record.body = Body::Json(fields.into());
        Ok(Outcome::One(record))
    }
}

struct Lines {
    bytes_max: usize,
    records_max: usize,
}

fn lines(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let records_max = params.number("records_max", 1..=PARTS_MAX)? as usize;
    Ok(Box::new(Lines { bytes_max: bytes_max(params)?, records_max }))
}

impl Stage for Lines {
    fn apply(&self, record: Record, _: &At) -> Result<Outcome, Failed> {
        let text = utf8(bytes(&record, self.bytes_max)?)?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).take(self.records_max + 1).collect();
        if lines.len() > self.records_max {
            return Err(format!("more than {} lines", self.records_max).into());
        }
        let of = |(index, line): (usize, &&str)| {
            let body = Body::Json(Map::from_iter([(LINE.into(), Value::from(*line))]).into());
            Some(Record { id: record.id.part(index)?, body, ..record.clone() })
        };
        let records: Option<Vec<Record>> = lines.iter().enumerate().map(of).collect();
        Ok(Outcome::Many(records.ok_or("splits are nested too deep")?))
    }
}

struct Raw {
    bytes_max: usize,
}

fn raw(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Raw { bytes_max: bytes_max(params)? }))
}

impl Stage for Raw {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let text = utf8(bytes(&record, self.bytes_max)?)?;
        record.body = Body::Json(Map::from_iter([("raw".into(), Value::from(text))]).into());
        Ok(Outcome::One(record))
    }
}

fn bytes_max(params: &Params) -> Result<usize, Bad> {
    Ok(params.number("bytes_max", 1..=64 << 20)? as usize)
}

/// What there is to decode: the job's data, or what [`Lines`] has left of it.
fn bytes(record: &Record, bytes_max: usize) -> Result<&[u8], Failed> {
    let bytes: &[u8] = match &record.body {
        Body::Raw(bytes) => bytes,
        Body::Json(value) => value.get(LINE).and_then(Value::as_str).ok_or("there is no line")?.as_bytes(),
    };
    match bytes.len() <= bytes_max {
        true => Ok(bytes),
        false => Err(format!("the data has more than {bytes_max} bytes").into()),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Failed> {
    std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8, at byte {}", error.valid_up_to()).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::pipeline::Shared;
    use crate::pipeline::testing::{compiled, record, run, wrong};

    #[test]
    fn data_is_decoded_or_refused() {
        let failed = |why: &str| json!([{ "failed": why, "retry": false }]);
        let deep = "[".repeat(200);
        let cases = [
            (json!({ "stage": "json" }), r#" {"a":[1,2.5,null]} "#, json!([{ "a": [1, 2.5, null] }])),
            (json!({ "stage": "json" }), "[1]", json!([[1]])),
            (json!({ "stage": "json" }), "{\"a\":\nx}", failed("not JSON, at line 2 column 1")),
            (json!({ "stage": "json" }), "", failed("not JSON, at line 1 column 0")),
            (json!({ "stage": "json", "depth_max": 2 }), r#"{"a":[1]}"#, json!([{ "a": [1] }])),
            (json!({ "stage": "json", "depth_max": 2 }), r#"{"a":[[1]]}"#, failed("the JSON is nested deeper than 2")),
            (json!({ "stage": "json" }), &deep, failed("not JSON, at line 1 column 128")),
            (json!({ "stage": "json", "bytes_max": 3 }), "1234", failed("the data has more than 3 bytes")),
            (json!({ "stage": "form" }), "a=1&b=x+y%26&a=2", json!([{ "a": "2", "b": "x y&" }])),
            (json!({ "stage": "form" }), "", json!([{}])),
            (json!({ "stage": "lines" }), "one\r\n\ntwo", json!([{ "line": "one" }, { "line": "two" }])),
            (json!({ "stage": "lines" }), "\n", json!([{ "dropped": "empty" }])),
            (json!({ "stage": "lines", "records_max": 1 }), "1\n2", failed("more than 1 lines")),
            (json!({ "stage": "raw" }), "<&", json!([{ "raw": "<&" }])),
        ];
        for (stage, data, expected) in cases {
            let steps = run(&compiled(json!([stage]), &Shared::default()), record(data));
            assert_eq!(json!(steps), expected, "{stage} of {data}");
        }
    }

    #[test]
    fn each_line_is_decoded_in_its_turn() {
        let failed = |why: &str| json!({ "failed": why, "retry": false });
        let cases = [
            (json!([{ "stage": "json" }]), "{\"a\":1}\r\n\n[2]", json!([{ "a": 1 }, [2]])),
            (json!([{ "stage": "json" }]), "1\nx\n3", json!([1, failed("not JSON, at line 1 column 1"), 3])),
            (json!([{ "stage": "json", "on_error": "drop" }]), "1\nx\n3", json!([1, { "dropped": "error" }, 3])),
            (
                json!([{ "stage": "json", "bytes_max": 2 }]),
                "10\n100",
                json!([10, failed("the data has more than 2 bytes")]),
            ),
            (json!([{ "stage": "form" }]), "a=1\na=2", json!([{ "a": "1" }, { "a": "2" }])),
            (
                json!([{ "stage": "condition", "where": "line != '#'" }, { "stage": "json" }]),
                "#\n1",
                json!([{ "dropped": "condition" }, 1]),
            ),
            (
                json!([{ "stage": "drop", "fields": ["line"] }, { "stage": "json" }]),
                "1",
                json!([failed("there is no line")]),
            ),
        ];
        for (behind, data, expected) in cases {
            let mut stages = json!([{ "stage": "lines" }]);
            stages.as_array_mut().unwrap().extend(behind.as_array().unwrap().iter().cloned());
            let steps = run(&compiled(stages.clone(), &Shared::default()), record(data));
            assert_eq!(json!(steps), expected, "{stages} of {data}");
        }
    }

    #[test]
    fn what_is_decoded_is_not_decoded_again() {
        for stages in [["json", "json"], ["lines", "lines"], ["lines", "raw"], ["json", "lines"]] {
            let stages = stages.map(|stage| json!({ "stage": stage }));
            let message = wrong(json!(stages), &Shared::default());
            assert!(message.ends_with("the record is decoded already"), "{message}");
        }
        let stages = ["lines", "json", "json"].map(|stage| json!({ "stage": stage }));
        assert!(wrong(json!(stages), &Shared::default()).contains("stage 3 (json)"));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        for kind in ["json", "lines", "raw"] {
            let mut record = record("");
            record.body = crate::pipeline::Body::Raw(b"\xff"[..].into());
            let steps = run(&compiled(json!([{ "stage": kind }]), &Shared::default()), record);
            assert!(steps[0]["failed"].as_str().is_some_and(|why| why.starts_with("not ")), "{kind}: {steps:?}");
        }
    }
}
