//! Makes one record of several.
//!
//! Always true:
//! - items are in the order in which their jobs were put, and parts of a job in theirs;
//! - what records were made into one can be told from its name, so that a repeat of the same ones is known as such.

use std::sync::Arc;

use serde_json::Value;

use super::flow::WAIT_MS_MAX;
use crate::pipeline::hash::digest;
use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::{Body, Fields, Record};
use crate::pipeline::registry::{Reads, StageKind, default, optional, required};
use crate::pipeline::stage::{At, Failed, Hold, OnError, Outcome, Stage};
use crate::pipeline::template::Template;

/// Publications have at most 10 KiB, unless an app says otherwise.
const BYTES_MAX: &str = "10000";

pub(crate) const KINDS: &[StageKind] = &[StageKind {
    name: "batch",
    summary: "Makes one record of several: a list of them. They are those of the same `by` and the same routes; it goes on when \
              they are `max`, or `bytes_max` long, or the first has waited for `within_ms` (and while the one before it is \
              still on its way, it is added to). All of its jobs end as it does: they are finished when it has arrived at \
              all required sinks or was dropped, tried again when it failed, and stalled when it was refused. At the next \
              attempt they may be in other company.\n\
              \n\
              | records | with | go on as |\n\
              |---|---|---|\n\
              | `{\"n\":1}`, `{\"n\":2}`, `{\"n\":3}` | `max = 3` | `[{\"n\":1},{\"n\":2},{\"n\":3}]` |\n\
              | the same | `max = 2` | `[{\"n\":1},{\"n\":2}]`, then `[{\"n\":3}]` when `within_ms` are over |\n\
              | the same | `max = 3, into = \"items\"` | `{\"items\":[{\"n\":1},{\"n\":2},{\"n\":3}]}` |\n\
              | `{\"f\":1}`, `{\"f\":2}`, `{\"f\":1}` | `max = 2, by = \"{{ f }}\"` | `[{\"f\":1},{\"f\":1}]`, and `[{\"f\":2}]` later |\n\
              | one routed to `a`, two to `b` | `max = 2` | a list of two for `b`, and a list of one for `a` later |\n\
              \n\
              Of a group, batches go one after the other, in the order in which they began; in a batch, records are in the order \
              in which their jobs were put. What it carries besides is the first one's; but its `key` is what `by` says, so \
              that a later `route` can name it. Jobs of one ordering key are worked on one at a time, and those of a \
              batch take up places among the queue's `concurrency`: a batch has one job of a key at most, and as many \
              jobs as there are places. All but the first count as `joined`. `dedupe` and `coalesce` go by single records, and \
              stand before it.",
    keys: &[
        required("max", "number", "How many at most; 1000 is the most."),
        required("within_ms", "number", "How long the first one waits for others, in milliseconds; an hour at most."),
        optional(
            "by",
            "template",
            "What has to be the same: `{{ forum }}`; else all go together whose routes are the same.",
        ),
        optional(
            "into",
            "field",
            "The list is in this field of an otherwise empty record; else the list is the record.",
        ),
        default(
            "bytes_max",
            "number",
            BYTES_MAX,
            "How long the list may be as JSON. A record that is longer by itself goes alone.",
        ),
    ],
    reads: Reads::Fields,
    on_error: OnError::DeadLetter,
    build: batch,
}];

/// How records become one.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// How many at most.
    pub max: usize,
    /// How long their list may be.
    pub bytes_max: usize,
    /// How long the first one waits.
    pub within_ms: u64,
    into: Option<Path>,
}

struct Batches {
    by: Option<Template>,
    batch: Arc<Batch>,
}

fn batch(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let batch = Batch {
        max: params.number("max", 1..=1000)? as usize,
        bytes_max: params.number("bytes_max", 1..=64 << 20)? as usize,
        within_ms: params.number("within_ms", 1..=WAIT_MS_MAX)?,
        into: params.opt_path("into")?,
    };
    Ok(Box::new(Batches { by: params.opt_template("by")?, batch: Arc::new(batch) }))
}

impl Stage for Batches {
    fn apply(&self, mut record: Record, at: &At) -> Result<Outcome, Failed> {
        if let Body::Raw(_) = record.body {
            return Err("the record is not decoded".into());
        }
        let by: Option<Arc<str>> = self.by.as_ref().map(|by| by.fill(&record, at)).transpose()?.map(Arc::from);
        if by.is_some() {
            record.key = by.clone();
        }
        let by = by.unwrap_or_default();
        Ok(Outcome::Held(record, Hold::Batch { by, batch: self.batch.clone() }))
    }
}

impl Batch {
    /// What these records are together; of none, nothing.
    pub(crate) fn join(&self, mut records: Vec<Record>) -> Option<Record> {
        records.sort_by_key(|record| record.id);
        let name = name(&records);
        let mut records = records.into_iter();
        let mut joined = records.next()?;
        let mut items = vec![item(&mut joined)];
        for mut record in records {
            items.push(item(&mut record));
            joined.attempt = joined.attempt.max(record.attempt);
            joined.repeat |= record.repeat;
            joined.key = joined.key.filter(|key| record.key.as_ref() == Some(key));
            joined.sealer = joined.sealer.or(record.sealer);
        }
        joined.body = Body::Json(self.list(items));
        joined.idempotency_key = Some(name);
        joined.made = Arc::default();
        Some(joined)
    }

    fn list(&self, items: Vec<Value>) -> Value {
        let Some(into) = &self.into else { return Value::Array(items) };
        let mut fields = Fields::new();
        into.set(&mut fields, Value::Array(items)).expect("nothing is in the way");
        Value::Object(fields)
    }
}

/// How much longer a record makes the list, with its comma.
pub(crate) fn bytes(record: &Record) -> usize {
    match &record.body {
        Body::Raw(bytes) => bytes.len(),
        Body::Json(value) => value.to_string().len() + 1,
    }
}

fn item(record: &mut Record) -> Value {
    match &mut record.body {
        Body::Json(value) => value.take(),
        Body::Raw(_) => Value::Null,
    }
}

/// The same for the same records.
fn name(records: &[Record]) -> Arc<str> {
    let names: Vec<String> = records.iter().map(|record| record.event_id(&record.trace)).collect();
    format!("batch-{:032x}", digest(&names.join("\n"))).into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::pipeline::testing::{compiled, record, wrong};
    use crate::pipeline::{Hold, Pipeline, Record, RecordId, Shared, Step};

    /// What comes of these records, held all at once, and by what they went together.
    fn joined(stage: Value, records: Vec<Record>) -> (Record, Vec<String>) {
        let pipeline = compiled(json!([{ "stage": "json" }, stage]), &Shared::default());
        let held: Vec<_> = records.into_iter().map(|record| hold(&pipeline, record)).collect();
        let groups = held.iter().map(|(_, hold)| by(hold)).collect();
        let Hold::Batch { batch, .. } = held[0].1.clone() else { panic!("{held:?}") };
        let records = held.into_iter().map(|(record, _)| record).collect();
        let mut steps = pipeline.resume_joined(1, &batch, records, 1000);
        let Some(Step::Through(record)) = steps.pop() else { panic!("{steps:?}") };
        assert!(steps.is_empty());
        let tally = pipeline.stages()[1].counts.read();
        assert!(tally.balances() && tally.in_flight == 0, "{tally:?}");
        assert_eq!((tally.out, tally.dropped_total()), (1, tally.entered - 1));
        (record, groups)
    }

    fn hold(pipeline: &Pipeline, record: Record) -> (Record, Hold) {
        match pipeline.run(0, record, 1000).pop() {
            Some(Step::Held { record, hold, .. }) => (record, hold),
            step => panic!("{step:?}"),
        }
    }

    fn by(hold: &Hold) -> String {
        let Hold::Batch { by, .. } = hold else { panic!("{hold:?}") };
        by.to_string()
    }

    fn job(id: u64, data: Value) -> Record {
        let record = record(&data.to_string());
        Record { id: RecordId { job: id, part: 0 }, trace: format!("q/{id}").into(), ..record }
    }

    fn text((record, _): (Record, Vec<String>)) -> String {
        record.text().expect("it is text").into_owned()
    }

    #[test]
    fn records_become_a_list_in_the_order_of_their_jobs() {
        let of = |ids: &[u64]| ids.iter().map(|id| job(*id, json!({ "n": id }))).collect::<Vec<_>>();
        let stage = |more: Value| {
            let mut stage = json!({ "stage": "batch", "max": 9, "within_ms": 1 });
            stage.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            stage
        };
        let cases = [
            (json!({}), of(&[3, 1, 2]), r#"[{"n":1},{"n":2},{"n":3}]"#),
            (json!({}), of(&[7]), r#"[{"n":7}]"#),
            (json!({ "into": "items" }), of(&[2, 1]), r#"{"items":[{"n":1},{"n":2}]}"#),
            (json!({ "into": "a.b" }), of(&[1]), r#"{"a":{"b":[{"n":1}]}}"#),
            (json!({}), vec![job(1, json!("text")), job(2, json!([3])), job(4, json!(null))], r#"["text",[3],null]"#),
        ];
        for (more, records, expected) in cases {
            assert_eq!(text(joined(stage(more.clone()), records)), expected, "{more}");
        }
    }

    #[test]
    fn what_they_go_by_is_the_key_of_the_joined_record() {
        let records = || vec![job(1, json!({ "f": 5 })), job(2, json!({ "f": 5 }))];
        let (record, groups) =
            joined(json!({ "stage": "batch", "max": 2, "within_ms": 1, "by": "{{ f }}" }), records());
        assert_eq!((record.key.as_deref(), groups), (Some("5"), vec!["5".to_owned(), "5".to_owned()]));
        let stage = json!({ "stage": "batch", "max": 2, "within_ms": 1 });
        let mut others = records();
        others[1].key = Some("another".into());
        assert_eq!(joined(stage.clone(), others).0.key, None, "they have none in common");
        assert_eq!(joined(stage, records()).0.key.as_deref(), Some("k"));
    }

    #[test]
    fn the_name_is_that_of_the_records() {
        let name = |ids: &[u64]| {
            let records = ids.iter().map(|id| job(*id, json!(id))).collect();
            joined(json!({ "stage": "batch", "max": 9, "within_ms": 1 }), records).0.event_id("q")
        };
        assert!(name(&[1, 2]).starts_with("batch-"), "{}", name(&[1, 2]));
        assert_eq!(name(&[1, 2]), name(&[2, 1]));
        assert_ne!(name(&[1, 2]), name(&[1]));
        assert_ne!(name(&[1, 2]), name(&[12]));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cases = [
            (json!({ "max": 1001, "within_ms": 1 }), "key max: takes a whole number from 1 to 1000"),
            (json!({ "max": 2, "within_ms": 1, "into": "" }), "key into: "),
            (json!({ "max": 2, "within_ms": 1, "by": "{{" }), "key by: "),
        ];
        for (stage, expected) in cases {
            let mut stage = stage;
            stage["stage"] = "batch".into();
            let message = wrong(json!([{ "stage": "json" }, stage]), &Shared::default());
            assert!(message.contains(expected), "{message}");
        }
        let message = wrong(json!([{ "stage": "batch", "max": 2, "within_ms": 1 }]), &Shared::default());
        assert!(message.contains("needs a decoded record"), "{message}");
    }
}
