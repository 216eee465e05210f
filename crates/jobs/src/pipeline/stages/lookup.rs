//! Values by what a field says, from a table that is read when the pipeline is compiled.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as File, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::{Fields, Record};
use crate::pipeline::registry::{Reads, StageKind, optional, required};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};

/// Bytes of a table in a file.
const FILE_BYTES_MAX: u64 = 64 << 20;

pub(crate) const KINDS: &[StageKind] = &[StageKind {
    name: "lookup",
    summary: "Gives a field the value that a table has for another field. What the table does not have fails the record, \
              unless there is a `default`. A file that has changed is read again when the configuration is: on SIGHUP, or when that changes.",
    keys: &[
        required("field", "field", "What to look up: a string, a number or a boolean."),
        required("into", "field", "What gets the value; may be the same field."),
        optional("map", "table", "The table: `{ 1 = \"news\", 2 = \"sports\" }`."),
        optional("file", "path", "Or a JSON file with one object in it; from where the configuration is."),
        optional("default", "any value", "For what the table does not have, and where the field is not there."),
    ],
    reads: Reads::Fields,
    on_error: OnError::DeadLetter,
    build,
}];

struct Lookup {
    field: Path,
    into: Path,
    table: Fields,
    file: Option<(PathBuf, Option<Facts>)>,
    default: Option<Value>,
}

/// Enough of a file to tell that it is another or has been written: device, inode, length, time of the last change.
type Facts = (u64, u64, u64, Option<SystemTime>);

fn build(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let (table, file) = match (params.opt_map("map")?, params.opt_text("file")?) {
        (Some(table), None) => (table, None),
        (None, Some(file)) => {
            let file = params.shared.folder.join(file);
            // Before it is read: what is written in between is then a change.
            let facts = facts(&file);
            (read(&file).map_err(|message| Bad::at("file", message))?, Some((file, facts)))
        }
        (Some(_), Some(_)) => return Err(Bad::at("file", "there is a `map` already")),
        (None, None) => return Err(Bad::at("map", "either it or `file` is required")),
    };
    let (field, into) = (params.path("field")?, params.path("into")?);
    Ok(Box::new(Lookup { field, into, table, file, default: params.value("default") }))
}

fn read(file: &File) -> Result<Fields, String> {
    let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let bytes = fs::metadata(file).map_err(|error| problem(&error))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(problem(&format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    let text = fs::read(file).map_err(|error| problem(&error))?;
    serde_json::from_slice(&text).map_err(|error| problem(&error))
}

fn facts(file: &File) -> Option<Facts> {
    let of = |it: fs::Metadata| (it.dev(), it.ino(), it.len(), it.modified().ok());
    fs::metadata(file).ok().map(of)
}

impl Stage for Lookup {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = record.fields_mut()?;
        let found = match self.field.get(fields) {
            Some(Value::String(text)) => self.table.get(text),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => self.table.get(&value.to_string()),
            Some(Value::Null) | None => None,
            Some(_) => return Err(format!("{} is nothing that can be looked up", self.field).into()),
        };
        let value = found.or(self.default.as_ref()).cloned();
        let value = value.ok_or_else(|| format!("the table has nothing for {}", self.field))?;
        self.into.set(fields, value)?;
        Ok(Outcome::One(record))
    }

    fn is_current(&self) -> bool {
        self.file.as_ref().is_none_or(|(file, then)| facts(file) == *then)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::pipeline::Shared;
    use crate::pipeline::testing::{check, check_with, compiled, wrong};

    #[test]
    fn values_are_looked_up() {
        let map = json!({ "1": "news", "rust": { "name": "Rust" }, "true": 1 });
        let plain = json!({ "stage": "lookup", "field": "f", "into": "to", "map": map });
        let with_default = json!({ "stage": "lookup", "field": "f", "into": "f", "map": map, "default": null });
        let cases = [
            (&plain, json!({ "f": 1 }), json!({ "f": 1, "to": "news" })),
            (&plain, json!({ "f": "rust" }), json!({ "f": "rust", "to": { "name": "Rust" } })),
            (&plain, json!({ "f": true }), json!({ "f": true, "to": 1 })),
            (&plain, json!({ "f": 2 }), json!({ "failed": "the table has nothing for f", "retry": false })),
            (&plain, json!({}), json!({ "failed": "the table has nothing for f", "retry": false })),
            (&plain, json!({ "f": [] }), json!({ "failed": "f is nothing that can be looked up", "retry": false })),
            (&with_default, json!({ "f": "x" }), json!({ "f": null })),
            (&with_default, json!({}), json!({ "f": null })),
        ];
        for (stage, data, expected) in cases {
            check(stage, data, expected);
        }
    }

    #[test]
    fn a_table_may_be_a_file() {
        let folder = std::env::temp_dir().join(format!("fanfare-lookup-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("there is a folder for temporary files");
        let shared = Shared { folder: folder.clone(), ..Shared::default() };
        std::fs::write(folder.join("forums.json"), r#"{"1":"news"}"#).expect("it can be written");
        std::fs::write(folder.join("list.json"), "[]").expect("it can be written");
        let stage = |file: &str| json!({ "stage": "lookup", "field": "f", "into": "f", "file": file });
        check_with(&shared, &stage("forums.json"), json!({ "f": 1 }), json!({ "f": "news" }));
        let pipeline = compiled(json!([{ "stage": "json" }, stage("forums.json")]), &shared);
        assert!(pipeline.is_current());
        std::fs::write(folder.join("forums.json"), r#"{"1":"other"}"#).expect("it can be written");
        assert!(!pipeline.is_current());
        for (file, expected) in
            [("nowhere.json", "nowhere.json: No such file"), ("list.json", "list.json: invalid type")]
        {
            let message = wrong(json!([{ "stage": "json" }, stage(file)]), &shared);
            assert!(message.contains("key file: ") && message.contains(expected), "{message}");
        }
        let message = wrong(json!([{ "stage": "json" }, { "stage": "lookup", "field": "f", "into": "f" }]), &shared);
        assert!(message.ends_with("key map: either it or `file` is required"), "{message}");
        std::fs::remove_dir_all(folder).expect("it is ours");
    }
}
