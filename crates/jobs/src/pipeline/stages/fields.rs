//! Fields: taken out, put in, called otherwise.

use serde_json::Value;

use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::{Body, Fields, Record};
use crate::pipeline::registry::{Reads, StageKind, default, optional, required};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};
use crate::pipeline::template::Template;

pub(crate) const KINDS: &[StageKind] = &[
    StageKind {
        name: "rename",
        summary: "Moves fields to other names. Those that are not there are left alone.",
        keys: &[required("fields", "table", "From the old name to the new one: `{ body = \"text\" }`.")],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: rename,
    },
    StageKind {
        name: "select",
        summary: "Keeps these fields and no others.",
        keys: &[required("fields", "list of fields", "Which ones.")],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: select,
    },
    StageKind {
        name: "drop",
        summary: "Takes fields out.",
        keys: &[required("fields", "list of fields", "Which ones.")],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: drop,
    },
    StageKind {
        name: "set",
        summary: "Gives fields these values, whatever was there.",
        keys: &[
            required("fields", "table", "From the field to its value: `{ version = 2, \"author.site\" = \"rust\" }`."),
            default("missing_only", "true or false", "false", "Whether fields that are there stay as they are."),
        ],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: set,
    },
    StageKind {
        name: "template",
        summary: "Fills a template, and gives the result to a field or makes it the whole record.",
        keys: &[
            required("template", "template", "What to fill: `<b>{{ author.name }}</b>`."),
            optional("field", "field", "Which one gets it. Else the record is that text, and no longer fields."),
            default("html", "true or false", "false", "Whether values are escaped as HTML."),
        ],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: template,
    },
];

struct Rename(Vec<(Path, Path)>);

fn rename(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let path = |text: &str| Params::field("fields", text);
    let pair = |(from, to): (&String, &Value)| {
        let to = to.as_str().ok_or_else(|| Bad::at("fields", format!("{from}: takes a string")))?;
        Ok((path(from)?, path(to)?))
    };
    Ok(Box::new(Rename(params.map("fields")?.iter().map(pair).collect::<Result<_, _>>()?)))
}

impl Stage for Rename {
    /// All are taken out before any is put in, so that two can change places.
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = record.fields_mut()?;
        let taken: Vec<_> = self.0.iter().filter_map(|(from, to)| Some((to, from.remove(fields)?))).collect();
        for (to, value) in taken {
            to.set(fields, value)?;
        }
        Ok(Outcome::One(record))
    }
}

struct Select(Vec<Path>);

fn select(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Select(params.paths("fields")?)))
}

impl Stage for Select {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = record.fields_mut()?;
        let mut kept = Fields::new();
        for path in &self.0 {
            if let Some(value) = path.remove(fields) {
                path.set(&mut kept, value)?;
            }
        }
        *fields = kept;
        Ok(Outcome::One(record))
    }
}

struct Drop(Vec<Path>);

fn drop(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Drop(params.paths("fields")?)))
}

impl Stage for Drop {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = record.fields_mut()?;
        for path in &self.0 {
            path.remove(fields);
        }
        Ok(Outcome::One(record))
    }
}

struct Set {
    values: Vec<(Path, Value)>,
    missing_only: bool,
}

fn set(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let pair = |(path, value): (String, Value)| Ok((Params::field("fields", &path)?, value));
    let values = params.map("fields")?.into_iter().map(pair).collect::<Result<_, _>>()?;
    Ok(Box::new(Set { values, missing_only: params.flag("missing_only")? }))
}

impl Stage for Set {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = record.fields_mut()?;
        for (path, value) in &self.values {
            if !self.missing_only || path.get(fields).is_none() {
                path.set(fields, value.clone())?;
            }
        }
        Ok(Outcome::One(record))
    }
}

struct Fill {
    template: Template,
    field: Option<Path>,
}

fn template(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let parse = if params.flag("html")? { Template::parse_html } else { Template::parse };
    let template = parse(&params.text("template")?).map_err(|message| Bad::at("template", message))?;
    Ok(Box::new(Fill { template, field: params.opt_path("field")? }))
}

impl Stage for Fill {
    fn apply(&self, mut record: Record, at: &At) -> Result<Outcome, Failed> {
        let text = Value::from(self.template.fill(&record, at)?);
        match &self.field {
            Some(field) => field.set(record.fields_mut()?, text)?,
            None => record.body = Body::Json(text),
        }
        Ok(Outcome::One(record))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::pipeline::Shared;
    use crate::pipeline::testing::{check, wrong};

    #[test]
    fn fields_are_changed() {
        let data = json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": "<x>" });
        let cases = [
            (
                json!({ "stage": "rename", "fields": { "a": "n", "b.c": "c", "no": "where" } }),
                json!({ "n": 1, "b": { "d": 3 }, "c": 2, "e": "<x>" }),
            ),
            (
                json!({ "stage": "rename", "fields": { "a": "e", "e": "a" } }),
                json!({ "a": "<x>", "b": { "c": 2, "d": 3 }, "e": 1 }),
            ),
            (
                json!({ "stage": "rename", "fields": { "a": "e.f" } }),
                json!({ "failed": "e.f has no place: e is not an object", "retry": false }),
            ),
            (json!({ "stage": "select", "fields": ["a", "b.d", "no.where"] }), json!({ "a": 1, "b": { "d": 3 } })),
            (json!({ "stage": "drop", "fields": ["a", "b.d", "no.where"] }), json!({ "b": { "c": 2 }, "e": "<x>" })),
            (
                json!({ "stage": "set", "fields": { "a": [0], "b.x": null } }),
                json!({ "a": [0], "b": { "c": 2, "d": 3, "x": null }, "e": "<x>" }),
            ),
            (
                json!({ "stage": "set", "fields": { "a": 0, "n": 0 }, "missing_only": true }),
                json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": "<x>", "n": 0 }),
            ),
            (
                json!({ "stage": "template", "template": "{{ e }}{{ b.c }}", "field": "b" }),
                json!({ "a": 1, "b": "<x>2", "e": "<x>" }),
            ),
            (json!({ "stage": "template", "template": "<b>{{ e }}</b>", "html": true }), json!("<b>&lt;x&gt;</b>")),
            (
                json!({ "stage": "template", "template": "{{ nowhere }}" }),
                json!({ "failed": "the template: there is no nowhere", "retry": false }),
            ),
        ];
        for (stage, expected) in cases {
            check(&stage, data.clone(), expected);
        }
    }

    #[test]
    fn what_is_no_field_is_refused() {
        let cases = [
            (json!({ "stage": "rename", "fields": { "a": 1 } }), "key fields: a: takes a string"),
            (json!({ "stage": "select", "fields": [] }), "key fields: names no field"),
            (
                json!({ "stage": "drop", "fields": ["a..b"] }),
                "key fields: `a..b` is no field: names with dots between them are",
            ),
            (json!({ "stage": "set", "fields": ["a"] }), "key fields: takes a table"),
            (
                json!({ "stage": "template", "template": "{% set a = 1 %}" }),
                "key template: `set` is not offered: templates have `if` and `for`",
            ),
        ];
        for (stage, expected) in cases {
            let message = wrong(json!([{ "stage": "json" }, stage]), &Shared::default());
            assert!(message.ends_with(expected), "{message}");
        }
    }
}
