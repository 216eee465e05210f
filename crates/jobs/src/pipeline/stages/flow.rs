//! Which records go on, as how many, and when.

use std::sync::Arc;

use serde_json::Value;

use crate::pipeline::condition::Condition;
use crate::pipeline::hash::percentile;
use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::{Body, PARTS_MAX, Record};
use crate::pipeline::registry::{Reads, StageKind, default, optional, required};
use crate::pipeline::stage::{At, Failed, Hold, OnError, Outcome, Reason, Stage};
use crate::pipeline::template::Template;

/// Leases are extended while a record waits, but nobody should forget one here.
pub(super) const WAIT_MS_MAX: u64 = 3_600_000;

pub(crate) const KINDS: &[StageKind] = &[
    StageKind {
        name: "condition",
        summary: "Lets a record through if a CEL expression is true of it, and drops it (`condition`) if it is false.",
        keys: &[required("where", "condition", "The expression, 4 KiB at most: `kind != 'delete' && size(text) > 0`.")],
        reads: Reads::Any,
        on_error: OnError::DeadLetter,
        build: condition,
    },
    StageKind {
        name: "sample",
        summary: "Lets some of the records through, and drops the others (`sampled`); always the same ones.",
        keys: &[
            required("percent", "number", "How many of a hundred."),
            default(
                "by",
                "template",
                "\"{{ job.queue }}/{{ job.id }}\"",
                "Records for which this is the same share their fate.",
            ),
        ],
        reads: Reads::Any,
        on_error: OnError::DeadLetter,
        build: sample,
    },
    StageKind {
        name: "split",
        summary: "Makes a record of each item of a list. From an empty list comes none (`empty`).",
        keys: &[
            optional("field", "field", "The list; else the record itself has to be one."),
            optional(
                "into",
                "field",
                "Each record is as it was, with its item in this field; else the item is the record.",
            ),
            default("records_max", "number", "1000", "With more items the record fails."),
        ],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: split,
    },
    StageKind {
        name: "delay",
        summary: "Holds every record for a while. Its job, and the later ones of its key, wait with it.",
        keys: &[required("ms", "number", "How long, in milliseconds; an hour at most.")],
        reads: Reads::Any,
        on_error: OnError::Retry,
        build: delay,
    },
    StageKind {
        name: "coalesce",
        summary: "Lets only the newest record of a key go on, after a while that begins with the first; the others are dropped \
                  (`coalesced`).",
        keys: &[
            optional(
                "key",
                "template",
                "What has to be the same; else the job's ordering key, and records without one go on at once.",
            ),
            required("within_ms", "number", "How long, in milliseconds; an hour at most."),
        ],
        reads: Reads::Any,
        on_error: OnError::DeadLetter,
        build: coalesce,
    },
];

struct Where(Condition);

fn condition(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Where(params.condition("where")?)))
}

impl Stage for Where {
    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        match self.0.holds(&record, at)? {
            true => Ok(Outcome::One(record)),
            false => Ok(Outcome::Dropped(Reason::Condition)),
        }
    }
}

struct Sample {
    percent: f64,
    by: Template,
}

fn sample(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Sample { percent: params.percent("percent")?, by: params.template("by")? }))
}

impl Stage for Sample {
    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        match percentile(&self.by.fill(&record, at)?) < self.percent {
            true => Ok(Outcome::One(record)),
            false => Ok(Outcome::Dropped(Reason::Sampled)),
        }
    }
}

struct Split {
    field: Option<Path>,
    into: Option<Path>,
    records_max: usize,
}

fn split(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let (field, into) = (params.opt_path("field")?, params.opt_path("into")?);
    if field.is_none() && into.is_some() {
        return Err(Bad::at("into", "needs `field`: a record that is a list has no other fields"));
    }
    Ok(Box::new(Split { field, into, records_max: params.number("records_max", 1..=PARTS_MAX)? as usize }))
}

impl Stage for Split {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let items = self.items(&mut record)?;
        if items.len() > self.records_max {
            return Err(format!("more than {} items", self.records_max).into());
        }
        record.made.copies(record.bytes().saturating_mul(items.len()))?;
        let parts = items.into_iter().enumerate().map(|(index, item)| {
            let id = record.id.part(index).ok_or("splits are nested too deep")?;
            let mut part = Record { id, ..record.clone() };
            match &self.into {
                Some(into) => into.set(part.fields_mut()?, item)?,
                None => part.body = Body::Json(item),
            }
            Ok(part)
        });
        parts.collect::<Result<Vec<_>, Failed>>().map(Outcome::Many)
    }
}

impl Split {
    /// Takes the list out of the record, so that its parts do not carry it along.
    fn items(&self, record: &mut Record) -> Result<Vec<Value>, Failed> {
        let list = match (&self.field, &mut record.body) {
            (Some(field), _) => field.remove(record.fields_mut()?).ok_or_else(|| format!("there is no {field}"))?,
            (None, Body::Json(value)) => value.take(),
            (None, Body::Raw(_)) => return Err("the record is not decoded".into()),
        };
        match (list, &self.field) {
            (Value::Array(items), _) => Ok(items),
            (_, Some(field)) => Err(format!("{field} is not a list").into()),
            (_, None) => Err("the record is not a list".into()),
        }
    }
}

struct Delay {
    ms: u64,
}

fn delay(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Delay { ms: params.number("ms", 1..=WAIT_MS_MAX)? }))
}

impl Stage for Delay {
    fn apply(&self, record: Record, _: &At) -> Result<Outcome, Failed> {
        Ok(Outcome::Held(record, Hold::Delay { ms: self.ms }))
    }
}

struct Coalesce {
    key: Option<Template>,
    within_ms: u64,
}

fn coalesce(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let within_ms = params.number("within_ms", 1..=WAIT_MS_MAX)?;
    Ok(Box::new(Coalesce { key: params.opt_template("key")?, within_ms }))
}

impl Stage for Coalesce {
    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        let key: Option<Arc<str>> = match &self.key {
            Some(template) => Some(template.fill(&record, at)?.into()),
            None => record.key.clone(),
        };
        Ok(match key {
            Some(key) => Outcome::Held(record, Hold::Coalesce { key, within_ms: self.within_ms }),
            None => Outcome::One(record),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::pipeline::testing::{check, compiled, record, run, wrong};
    use crate::pipeline::{Reason, Record, RecordId, Shared, Step, Tally};

    #[test]
    fn records_go_on_or_are_dropped() {
        let cases = [
            (json!({ "stage": "condition", "where": "n > 1" }), json!({ "n": 2 }), json!({ "n": 2 })),
            (json!({ "stage": "condition", "where": "n > 1" }), json!({ "n": 1 }), json!({ "dropped": "condition" })),
            (
                json!({ "stage": "condition", "where": "n > 1" }),
                json!({}),
                json!({ "failed": "the condition: there is no n", "retry": false }),
            ),
            (json!({ "stage": "sample", "percent": 100 }), json!({}), json!({})),
            (json!({ "stage": "sample", "percent": 0 }), json!({}), json!({ "dropped": "sampled" })),
            (json!({ "stage": "delay", "ms": 20 }), json!({}), json!({ "held": "Delay { ms: 20 }" })),
            (
                json!({ "stage": "coalesce", "within_ms": 20 }),
                json!({}),
                json!({ "held": "Coalesce { key: \"k\", within_ms: 20 }" }),
            ),
            (
                json!({ "stage": "coalesce", "within_ms": 20, "key": "{{ n }}" }),
                json!({ "n": 1 }),
                json!({ "held": "Coalesce { key: \"1\", within_ms: 20 }" }),
            ),
        ];
        for (stage, data, expected) in cases {
            check(&stage, data, expected);
        }
    }

    #[test]
    fn a_sample_is_always_the_same() {
        let pipeline = compiled(json!([{ "stage": "sample", "percent": 30 }]), &Shared::default());
        let through = |attempt| -> Vec<u64> {
            let goes = |job: &u64| {
                let record = Record { id: RecordId { job: *job, part: 0 }, attempt, ..record("") };
                matches!(pipeline.run(0, record, 1000)[..], [Step::Through(_)])
            };
            (0..1000).filter(goes).collect()
        };
        assert!((200..400).contains(&through(1).len()));
        assert_eq!(through(1), through(2));
        let by = json!([{ "stage": "json" }, { "stage": "sample", "percent": 50, "by": "{{ user }}" }]);
        let pipeline = compiled(by, &Shared::default());
        let goes = |job, user: &str| {
            let record = Record { id: RecordId { job, part: 0 }, ..record(&json!({ "user": user }).to_string()) };
            matches!(pipeline.run(0, record, 1000)[..], [Step::Through(_)])
        };
        for user in ["ann", "bob", "cid", "dan"] {
            assert!((0..50).all(|job| goes(job, user) == goes(50, user)));
        }
    }

    #[test]
    fn lists_are_split() {
        let through = |stage, data: serde_json::Value| {
            let pipeline = compiled(json!([{ "stage": "json" }, stage]), &Shared::default());
            json!(run(&pipeline, record(&data.to_string())))
        };
        let failed = |why: &str| json!([{ "failed": why, "retry": false }]);
        let data = json!({ "a": 1, "list": [{ "b": 2 }, 3] });
        let cases = [
            (json!({ "stage": "split", "field": "list" }), data.clone(), json!([{ "b": 2 }, 3])),
            (
                json!({ "stage": "split", "field": "list", "into": "it" }),
                data.clone(),
                json!([{ "a": 1, "it": { "b": 2 } }, { "a": 1, "it": 3 }]),
            ),
            (json!({ "stage": "split" }), json!([1, [2]]), json!([1, [2]])),
            (json!({ "stage": "split" }), json!([]), json!([{ "dropped": "empty" }])),
            (json!({ "stage": "split" }), json!({}), failed("the record is not a list")),
            (json!({ "stage": "split", "field": "no" }), data.clone(), failed("there is no no")),
            (json!({ "stage": "split", "field": "a" }), data.clone(), failed("a is not a list")),
            (json!({ "stage": "split", "field": "list", "records_max": 1 }), data, failed("more than 1 items")),
            (json!({ "stage": "split" }), json!(vec![0; 1001]), failed("more than 1000 items")),
        ];
        for (stage, data, expected) in cases {
            assert_eq!(through(stage.clone(), data), expected, "{stage}");
        }
    }

    #[test]
    fn parts_of_parts_are_told_apart_and_bounded() {
        let stages = json!([{ "stage": "json" }, { "stage": "split" }, { "stage": "split" }]);
        let pipeline = compiled(stages, &Shared::default());
        let steps = pipeline.run(0, record("[[1,2],[3]]"), 1000);
        let ids = steps.iter().map(|step| match step {
            Step::Through(record) => record.id.part,
            other => panic!("{other:?}"),
        });
        assert_eq!(ids.collect::<Vec<_>>(), [1001, 1002, 2001]);
        let bomb = json!(vec![vec![0; 1000]; 300]).to_string();
        let steps = pipeline.run(0, record(&bomb), 1000);
        assert!(steps.len() < 12_000);
        assert!(steps.iter().any(|step| matches!(step, Step::Failed { why, .. } if why.contains("10000 records"))));
        for slot in pipeline.stages() {
            assert!(slot.counts.read().balances());
        }
    }

    #[test]
    fn parts_carry_no_more_of_their_record_than_there_is_room_for() {
        let split = |field: &str| json!({ "stage": "split", "field": field, "into": field });
        let data = |text: usize, of: usize, more: usize| {
            json!({ "text": "x".repeat(text), "of": vec![0; of], "more": vec![0; more] }).to_string()
        };
        let pipeline = compiled(json!([{ "stage": "json" }, split("of"), split("more")]), &Shared::default());
        let parts = |data: String| {
            let steps = pipeline.run(0, record(&data), 1000);
            let failed = |step: &Step| matches!(step, Step::Failed { why, .. } if why.contains("67108864 bytes"));
            (steps.len(), steps.iter().any(failed))
        };
        assert_eq!(parts(data(70_000, 1000, 1)), (1, true));
        assert_eq!(parts(data(10_000, 1000, 1)), (1000, false));
        // The parts of one job share the room, though each of them would have enough.
        assert!(parts(data(10_000, 100, 1000)).1);
    }

    /// Else whoever waits in between could become as many again.
    #[test]
    fn records_that_waited_are_still_of_their_job() {
        let stages =
            json!([{ "stage": "json" }, { "stage": "split" }, { "stage": "delay", "ms": 1 }, { "stage": "split" }]);
        let pipeline = compiled(stages, &Shared::default());
        let held = pipeline.run(0, record(&json!(vec![vec![0; 1000]; 300]).to_string()), 1000);
        let resumed = held.into_iter().flat_map(|step| match step {
            Step::Held { stage, record, .. } => pipeline.resume(stage, record, 1001),
            other => panic!("{other:?}"),
        });
        assert!(resumed.filter(|step| matches!(step, Step::Through(_))).count() <= 10_000);
    }

    #[test]
    fn a_held_record_is_in_flight_until_it_goes_on() {
        let pipeline = compiled(json!([{ "stage": "delay", "ms": 9 }, { "stage": "json" }]), &Shared::default());
        let hold = || match pipeline.run(0, record("{}"), 1000).remove(0) {
            Step::Held { stage, record, .. } => (stage, record),
            other => panic!("{other:?}"),
        };
        let held = [hold(), hold(), hold()];
        assert_eq!(pipeline.stages()[0].counts.read(), Tally { entered: 3, in_flight: 3, ..Tally::default() });
        let [(stage, record), (second, _), (third, _)] = held;
        assert!(matches!(pipeline.resume(stage, record, 1009)[..], [Step::Through(_)]));
        pipeline.drop_held(second, Reason::Coalesced);
        pipeline.fail_held(third);
        let tally = pipeline.stages()[0].counts.read();
        assert_eq!((tally.out, tally.dropped_total(), tally.failed, tally.in_flight), (1, 1, 1, 0));
        assert!(tally.balances());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cases = [
            (json!({ "stage": "condition", "where": "n >" }), "key where: "),
            (json!({ "stage": "sample", "percent": 101 }), "key percent: takes a number from 0 to 100"),
            (json!({ "stage": "split", "into": "a" }), "key into: needs `field`"),
            (json!({ "stage": "delay", "ms": 0 }), "key ms: takes a whole number from 1 to 3600000"),
        ];
        for (stage, expected) in cases {
            let message = wrong(json!([{ "stage": "json" }, stage]), &Shared::default());
            assert!(message.contains(expected), "{message}");
        }
    }
}
