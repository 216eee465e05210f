//! What pipelines promise, whatever stages are in them.

use serde_json::{Value, json};

use super::testing::{compiled, record, run, written, wrong};
use super::*;

#[test]
fn a_record_passes_through_all_stages_and_is_counted_by_each() {
    let stages = json!([
        { "stage": "json" },
        { "stage": "sanitise", "fields": ["text"] },
        { "stage": "truncate", "name": "short", "field": "text", "chars": 5 },
        { "stage": "route", "channels": ["forum.{{ forum }}", "post.{{ id }}"], "event": "{{ kind }}" },
    ]);
    let pipeline = compiled(stages, &Shared::default());
    let steps = pipeline.run(0, record(r#"{"forum":3,"id":"p1","text":"<i onclick='x'>hello</i>"}"#), 1000);
    let [Step::Through(record)] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(record.text().expect("it is JSON"), r#"{"forum":3,"id":"p1","text":"<i>h…"}"#);
    let routes: Vec<_> = record.routes.iter().map(|route| (&*route.channel, &*route.event)).collect();
    assert_eq!(routes, [("forum.3", "create"), ("post.p1", "create")]);
    let names: Vec<_> = pipeline.stages().iter().map(|slot| &*slot.name).collect();
    assert_eq!(names, ["1.json", "2.sanitise", "short", "4.route"]);
    for slot in pipeline.stages() {
        let expected = Tally { entered: 1, out: 1, ..Tally::default() };
        assert_eq!(slot.counts.read(), expected, "{}", slot.name);
    }
}

#[test]
fn parts_have_ids_of_their_own_and_the_same_ones_again() {
    let pipeline = compiled(json!([{ "stage": "lines" }]), &Shared::default());
    let ids = || -> Vec<String> {
        let steps = pipeline.run(0, record("one\n\ntwo\r\nthree"), 1000);
        let through = |step: Step| match step {
            Step::Through(record) => record.event_id("q"),
            other => panic!("{other:?}"),
        };
        steps.into_iter().map(through).collect()
    };
    assert_eq!(ids(), ["q:17:1", "q:17:2", "q:17:3"]);
    assert_eq!(ids(), ids());
    let tally = pipeline.stages()[0].counts.read();
    assert_eq!((tally.entered, tally.made, tally.out), (3, 6, 9));
}

#[test]
fn a_publication_carries_the_name_that_the_job_was_put_under() {
    let named = Record { idempotency_key: Some("save-5".into()), ..record("") };
    assert_eq!(named.event_id("q"), "save-5");
    let part = Record { id: RecordId { part: 2, ..named.id }, ..named };
    assert_eq!(part.event_id("q"), "save-5:2");
}

#[test]
fn what_a_stage_fails_meets_its_policy() {
    let with = |on_error: Value| {
        let mut stage = json!({ "stage": "json" });
        if !on_error.is_null() {
            stage["on_error"] = on_error;
        }
        let pipeline = compiled(json!([stage]), &Shared::default());
        let steps = run(&pipeline, record("{"));
        let tally = pipeline.stages()[0].counts.read();
        (steps, tally.errors, tally.failed, tally.out)
    };
    let failed = |retry| vec![json!({ "failed": "not JSON, at line 1 column 1", "retry": retry })];
    assert_eq!(with(Value::Null), (failed(false), 1, 1, 0));
    assert_eq!(with("retry".into()), (failed(true), 1, 1, 0));
    assert_eq!(with("dead_letter".into()), (failed(false), 1, 1, 0));
    assert_eq!(with("drop".into()), (vec![json!({ "dropped": "error" })], 1, 0, 0));
    assert_eq!(with("pass".into()), (vec![json!({ "raw bytes": 1 })], 1, 0, 1));
}

/// Of a stage that is not ours to trust.
#[test]
fn a_stage_that_panics_fails_its_record() {
    struct Panics;
    impl Stage for Panics {
        fn apply(&self, _: Record, _: &At) -> Result<Outcome, Failed> {
            panic!("as a test");
        }
    }
    let mut pipeline = compiled(json!([{ "stage": "raw" }]), &Shared::default());
    pipeline.stages[0].stage = Arc::new(Panics);
    assert_eq!(run(&pipeline, record("")), [json!({ "failed": "the stage panicked", "retry": false })]);
}

#[test]
fn what_is_wrong_names_the_place() {
    let cases = [
        (json!([{ "stage": "jsno" }]), "stage 1 (jsno), key stage: there is no stage `jsno`; did you mean `json`?"),
        (
            json!([{ "stage": "json", "depht_max": 3 }]),
            "stage 1 (json), key depht_max: `json` has no such key; did you mean `depth_max`?",
        ),
        (
            json!([{ "stage": "json", "depth_max": 1000 }]),
            "stage 1 (json), key depth_max: takes a whole number from 1 to 100",
        ),
        (
            json!([{ "stage": "json" }, { "stage": "truncate", "chars": 3 }]),
            "stage 2 (truncate), key field: is required; it takes a field",
        ),
        (
            json!([{ "stage": "truncate", "field": "a", "chars": 3 }]),
            "stage 1 (truncate), key stage: needs a decoded record: put `json`, `form`, `lines` or `raw` before it",
        ),
        (json!([{ "stage": "json" }, { "stage": "form" }]), "stage 2 (form), key stage: the record is decoded already"),
        (
            json!([{ "stage": "json" }, { "stage": "batch", "max": 2, "within_ms": 9 }, { "stage": "dedupe", "key": "k", "within_s": 9 }]),
            "stage 3 (dedupe), key stage: goes by single records: put it before `batch`",
        ),
        (
            json!([{ "stage": "json", "on_error": "explode" }]),
            "stage 1 (json), key on_error: takes retry, dead_letter, drop or pass",
        ),
        (
            json!([{ "stage": "json", "name": "a" }, { "stage": "truncate", "name": "a", "field": "b", "chars": 3 }]),
            "stage 2 (truncate), key name: another stage of the pipeline is called `a`",
        ),
        (json!([{ "name": "a" }]), "stage 1 (?): has neither `stage` nor `use`"),
        (json!([{ "use": "clean", "name": "a" }]), "stage 1 (clean), key name: `use` stands alone"),
        (
            json!([{ "use": "claen" }]),
            "stage 1 (claen), key use: there is no shared list `claen`; did you mean `clean`?",
        ),
        (
            json!([{ "use": "round" }]),
            "stage 1 (round) of the list round, key use: lists within lists end at 16; one may name itself",
        ),
        (
            json!([{ "stage": "json" }, { "use": "clean" }]),
            "stage 1 (json) of the list clean, key stage: the record is decoded already",
        ),
    ];
    let lists = |stages: Value| serde_json::from_value(stages).expect("stages are tables");
    let shared = Shared {
        lists: [
            ("clean".to_owned(), lists(json!([{ "stage": "json" }]))),
            ("round".to_owned(), lists(json!([{ "use": "round" }]))),
        ]
        .into(),
        ..Shared::default()
    };
    for (stages, expected) in cases {
        assert_eq!(wrong(stages, &shared), format!("pipeline p, {expected}"));
    }
    assert_eq!(compiled(json!([{ "use": "clean" }]), &shared).stages().len(), 1);
    assert!(compile(&Written::default(), &shared).expect("no stages are stages too").stages().is_empty());
    assert_eq!(written(json!([])).name, "p");
}
