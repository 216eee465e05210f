//! Looking at records without changing where they go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::pipeline::condition::Condition;
use crate::pipeline::hash::percentile;
use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::{Body, Record};
use crate::pipeline::registry::{Reads, StageKind, default, optional, required};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};
use crate::pipeline::suggest;

pub(crate) const KINDS: &[StageKind] = &[
    StageKind {
        name: "tee",
        summary: "Gives a copy of the record, as it is here, to the sinks of another pipeline of the same queue. Nobody waits for \
                  what becomes of it.",
        keys: &[required("to", "name of a pipeline", "Whose sinks.")],
        reads: Reads::Any,
        on_error: OnError::Pass,
        build: tee,
    },
    StageKind {
        name: "log",
        summary: "Writes records to the server's log: which they are, and what they carry only if that is asked for.",
        keys: &[
            default("percent", "number", "100", "How many of a hundred records; always the same ones."),
            default("payload", "true or false", "false", "Whether the log may have what is in them."),
            default("level", "string", "\"info\"", "`debug`, `info` or `warn`."),
        ],
        reads: Reads::Any,
        on_error: OnError::Pass,
        build: log,
    },
    StageKind {
        name: "assert",
        summary: "Counts of how many records a condition holds (`held`) and of how many it does not (`broken`).",
        keys: &[
            required("that", "condition", "What should be true: `size(text) > 0`."),
            default("fail", "true or false", "false", "Whether records of which it is not true fail."),
        ],
        reads: Reads::Any,
        on_error: OnError::DeadLetter,
        build: assert,
    },
    StageKind {
        name: "trace",
        summary: "Where a pipeline has this stage, how long each stage takes is measured; here it is logged (`debug`), and \
                  written to a field if one is named: `{\"trace\", \"attempt\", \"put_ms\", \"claimed_ms\", \"now_ms\", \"stages_us\"}`.",
        keys: &[optional("into", "field", "Which one gets it.")],
        reads: Reads::Any,
        on_error: OnError::Pass,
        build: trace,
    },
];

struct Tee(Arc<str>);

fn tee(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let to = params.text("to")?;
    let known = &params.shared.copies_to;
    if !known.contains(&to) {
        let message = format!("there is no pipeline `{to}`");
        return Err(Bad::at("to", suggest(message, &to, known.iter().map(String::as_str))));
    }
    Ok(Box::new(Tee(to.into())))
}

impl Stage for Tee {
    fn apply(&self, record: Record, _: &At) -> Result<Outcome, Failed> {
        Ok(Outcome::Copied(record, self.0.clone()))
    }

    fn copies_to(&self) -> Option<&str> {
        Some(&self.0)
    }
}

struct Log {
    percent: f64,
    payload: bool,
    level: Level,
}

#[derive(Clone)]
enum Level {
    Debug,
    Info,
    Warn,
}

fn log(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let level = params.choice("level", &[("debug", Level::Debug), ("info", Level::Info), ("warn", Level::Warn)])?;
    Ok(Box::new(Log { percent: params.percent("percent")?, payload: params.flag("payload")?, level }))
}

impl Stage for Log {
    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        if self.percent < 100.0 && percentile(&record.trace) >= self.percent {
            return Ok(Outcome::One(record));
        }
        let text = if self.payload { record.text().ok() } else { None };
        let At { pipeline, stage, .. } = *at;
        let (trace, part, attempt, payload) = (&*record.trace, record.id.part, record.attempt, text.as_deref());
        let kind = record.kind.as_str();
        match self.level {
            Level::Debug => tracing::debug!(pipeline, stage, trace, part, attempt, kind, payload, "record"),
            Level::Info => tracing::info!(pipeline, stage, trace, part, attempt, kind, payload, "record"),
            Level::Warn => tracing::warn!(pipeline, stage, trace, part, attempt, kind, payload, "record"),
        }
        drop(text);
        Ok(Outcome::One(record))
    }
}

struct Assert {
    that: Condition,
    fail: bool,
    held: AtomicU64,
    broken: AtomicU64,
}

fn assert(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let (that, fail) = (params.condition("that")?, params.flag("fail")?);
    Ok(Box::new(Assert { that, fail, held: AtomicU64::new(0), broken: AtomicU64::new(0) }))
}

impl Stage for Assert {
    fn remembers(&self) -> bool {
        true
    }

    /// What cannot be answered is not true.
    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        let holds = self.that.holds(&record, at);
        let counter = if holds == Ok(true) { &self.held } else { &self.broken };
        counter.fetch_add(1, Ordering::Relaxed);
        match holds {
            Err(failed) if self.fail => Err(failed),
            Ok(false) if self.fail => Err("what was asserted is not true".into()),
            _ => Ok(Outcome::One(record)),
        }
    }

    fn figures(&self) -> Vec<(String, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![("held".into(), read(&self.held)), ("broken".into(), read(&self.broken))]
    }
}

struct Trace(Option<Path>);

fn trace(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Trace(params.opt_path("into")?)))
}

impl Stage for Trace {
    fn apply(&self, mut record: Record, at: &At) -> Result<Outcome, Failed> {
        let age_ms = at.now_ms.saturating_sub(record.put_ms);
        tracing::debug!(pipeline = at.pipeline, trace = &*record.trace, age_ms, laps = ?record.laps, "trace");
        if let (Some(into), Body::Json(_)) = (&self.0, &record.body) {
            let stages: Value = record.laps.iter().map(|lap| (lap.stage.to_string(), Value::from(lap.us))).collect();
            let Record { trace, attempt, put_ms, claimed_ms, .. } = &record;
            let written = json!({
                "trace": **trace, "attempt": attempt, "put_ms": put_ms, "claimed_ms": claimed_ms, "now_ms": at.now_ms,
                "stages_us": stages,
            });
            into.set(record.fields_mut()?, written)?;
        }
        Ok(Outcome::One(record))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing::field::Field;
    use tracing::subscriber::with_default;
    use tracing::{Event, Metadata, Subscriber, span};

    use crate::pipeline::testing::{check, compiled, record, run, wrong};
    use crate::pipeline::{Shared, Step};

    #[test]
    fn a_copy_is_what_the_record_was_there() {
        let shared = Shared { copies_to: ["archive".to_owned()].into(), ..Shared::default() };
        let stages = json!([
            { "stage": "json" }, { "stage": "tee", "to": "archive" }, { "stage": "drop", "fields": ["a"] },
        ]);
        let steps = run(&compiled(stages, &shared), record(r#"{"a":1}"#));
        assert_eq!(steps, [json!({ "copied": "archive", "text": r#"{"a":1}"# }), json!({})]);
        let message = wrong(json!([{ "stage": "tee", "to": "archiv" }]), &shared);
        assert!(message.ends_with("key to: there is no pipeline `archiv`; did you mean `archive`?"), "{message}");
    }

    #[test]
    fn logging_changes_nothing() {
        for stage in [
            json!({ "stage": "log" }),
            json!({ "stage": "log", "percent": 0 }),
            json!({ "stage": "log", "level": "warn", "payload": true }),
            json!({ "stage": "log", "level": "debug", "percent": 50.5 }),
            json!({ "stage": "trace" }),
        ] {
            check(&stage, json!({ "a": 1 }), json!({ "a": 1 }));
        }
        let message = wrong(json!([{ "stage": "log", "level": "loud" }]), &Shared::default());
        assert!(message.contains("key level: takes debug, info, warn"), "{message}");
    }

    /// All that was logged, in one text.
    #[derive(Default)]
    struct Heard(Mutex<String>);

    impl Subscriber for Heard {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut text = self.0.lock().expect("nobody panics with it");
            event.record(&mut |field: &Field, value: &dyn Debug| *text += &format!("{field}={value:?} "));
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn the_log_has_what_is_in_a_record_only_where_it_may() {
        let logged = |stage: Value| {
            let pipeline = compiled(json!([{ "stage": "json" }, stage]), &Shared::default());
            let heard = Arc::new(Heard::default());
            with_default(heard.clone(), || run(&pipeline, record(r#"{"a":"secret"}"#)));
            heard.0.lock().expect("nobody panics with it").clone()
        };
        let [plain, whole] = [json!({ "stage": "log" }), json!({ "stage": "log", "payload": true })].map(logged);
        assert!(plain.contains("q/17") && !plain.contains("secret"), "{plain}");
        assert!(whole.contains("q/17") && whole.contains("secret"), "{whole}");
    }

    #[test]
    fn what_was_asserted_is_counted() {
        let with = |fail: bool| {
            let assert = json!({ "stage": "assert", "that": "n > 1", "fail": fail });
            let pipeline = compiled(json!([{ "stage": "json" }, assert]), &Shared::default());
            let went = |data: &str| matches!(pipeline.run(0, record(data), 1000)[..], [Step::Through(_)]);
            let went = [r#"{"n":2}"#, r#"{"n":1}"#, "{}"].map(went);
            (went, pipeline.stages()[1].figures())
        };
        let figures = vec![("held".to_owned(), 1), ("broken".to_owned(), 2)];
        assert_eq!(with(false), ([true, true, true], figures.clone()));
        assert_eq!(with(true), ([true, false, false], figures));
    }

    #[test]
    fn a_trace_says_how_long_each_stage_took() {
        let stages = json!([{ "stage": "json" }, { "stage": "size_limit", "bytes_max": 99 }, { "stage": "trace", "into": "way" }]);
        let steps = run(&compiled(stages, &Shared::default()), record("{}"));
        let Value::Object(way) = &steps[0]["way"] else { panic!("{steps:?}") };
        assert_eq!((&way["trace"], &way["put_ms"], &way["now_ms"]), (&json!("q/17"), &json!(5), &json!(1000)));
        let stages: Vec<_> = way["stages_us"].as_object().expect("it is an object").keys().collect();
        assert_eq!(stages, ["1.json", "2.size_limit"]);
    }
}
