//! What the stages' tests share.

use serde_json::{Value, json};

use super::*;
use crate::job::{Job, JobId, Spec};

/// A pipeline called `p` on the queue `q`.
pub(crate) fn written(stages: Value) -> Written {
    let stages = serde_json::from_value(stages).expect("stages are tables");
    Written { name: "p".into(), queue: "q".into(), stages }
}

/// Compiles stages that are right.
pub(crate) fn compiled(stages: Value, shared: &Shared) -> Pipeline {
    compile(&written(stages), shared).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// What is said of stages that are wrong.
pub(crate) fn wrong(stages: Value, shared: &Shared) -> String {
    compile(&written(stages), shared).expect_err("the stages are wrong").to_string()
}

/// Job 17, with this data.
pub(crate) fn record(data: &str) -> Record {
    let spec = Spec { data: data.to_owned().into(), key: Some("k".into()), ..Spec::default() };
    Record::new("q", &Job { id: JobId(17), attempt: 1, put_ms: 5, progress: "".into(), spec }, 6)
}

/// Sends a record through, and says where it has come to.
pub(crate) fn run(pipeline: &Pipeline, record: Record) -> Vec<Value> {
    let steps = pipeline.run(0, record, 1000);
    for slot in pipeline.stages() {
        assert!(slot.counts.read().balances(), "{}: {:?}", slot.name, slot.counts.read());
    }
    steps.iter().map(say).collect()
}

fn say(step: &Step) -> Value {
    match step {
        Step::Through(record) => match &record.body {
            Body::Json(value) => value.clone(),
            Body::Raw(bytes) => json!({ "raw bytes": bytes.len() }),
        },
        Step::Held { hold, .. } => json!({ "held": format!("{hold:?}") }),
        Step::Copied { to, record, .. } => json!({ "copied": **to, "text": record.text().expect("it is text") }),
        Step::Dropped { reason, .. } => json!({ "dropped": reason.as_str() }),
        Step::Failed { retry, why, .. } => json!({ "failed": why, "retry": retry }),
    }
}

/// One JSON record through one stage after `json`: what comes out must be this.
#[track_caller]
pub(crate) fn check(stage: &Value, data: Value, expected: Value) {
    check_with(&Shared::default(), stage, data, expected);
}

/// See [`check`].
#[track_caller]
pub(crate) fn check_with(shared: &Shared, stage: &Value, data: Value, expected: Value) {
    let pipeline = compiled(json!([{ "stage": "json" }, stage]), shared);
    let steps = run(&pipeline, record(&data.to_string()));
    assert_eq!(Value::from(steps), json!([expected]), "{stage} of {data}");
}
