//! How many records per second one core sends through a pipeline: json → sanitise → template → route to 4 channels.
//!
//! `cargo bench -p fanfare-jobs --bench pipeline [SECONDS]`. The time is what this thread has had of a core, whoever else
//! wants it. Records are comments of 300 bytes as JSON: without a tag in
//! them, with a few in each, and with tags in one of four, as such comments come.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_jobs::pipeline::{Pipeline, Record, Shared, Step, Written, compile};
use fanfare_jobs::{Job, JobId, Kind, Spec};
use serde_json::json;

const STAGES: &str = r#"[
    { "stage": "json" },
    { "stage": "sanitise", "fields": ["text"] },
    { "stage": "template", "field": "html", "html": true, "template": "<li id=\"{{ id }}\"><b>{{ author.name }}</b></li>" },
    { "stage": "route", "event": "{{ kind }}",
      "channels": ["forum.{{ forum }}", "thread.{{ thread }}", "user.{{ author.id }}", "post.{{ id }}"] }
]"#;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(3.0);
    let channel_rule = Arc::new(|name: &str| match name.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err("printable letters".to_owned()),
    });
    let written = Written {
        name: "comments".into(),
        queue: "comments".into(),
        stages: serde_json::from_str(STAGES).expect("the stages are JSON"),
    };
    let pipeline = compile(&written, &Shared { channel_rule, ..Shared::default() }).expect("the stages are right");
    for (name, tagged_of_4) in [("no tags", 0), ("tags in one of four", 1), ("tags in all", 4)] {
        let records: Vec<Record> = (0..1000).map(|n| record(n, n % 4 < tagged_of_4)).collect();
        let (count, took) = measure(&pipeline, &records, Duration::from_secs_f64(seconds));
        let us = took.as_secs_f64() * 1e6 / count as f64;
        println!("{name:<20} {:>8.0} records/s   {us:>6.2} µs each", 1e6 / us);
    }
}

fn measure(pipeline: &Pipeline, records: &[Record], at_least: Duration) -> (usize, Duration) {
    let (mut count, started, cpu) = (0, Instant::now(), cpu_time());
    while started.elapsed() < at_least {
        for record in records {
            let steps = pipeline.run(0, record.clone(), 1_700_000_000_000);
            let [Step::Through(record)] = &steps[..] else { panic!("{steps:?}") };
            assert_eq!(record.routes.len(), 4);
            black_box(record.text().expect("it is text"));
        }
        count += records.len();
    }
    (count, cpu_time() - cpu)
}

/// What this thread has had of a core.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts this");
    let ns = stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first number is nanoseconds");
    Duration::from_nanos(ns)
}

fn record(n: u64, tagged: bool) -> Record {
    let text = match tagged {
        true => {
            "I <b>quite</b> agree, see <a href=\"https://example.com/a?b=1&c=2\">this</a>, though \"it\" isn't <script>x()</script> new."
        }
        false => {
            "I quite agree, and it is what I have been saying all along, though \"it\" isn't all that new, as you will see."
        }
    };
    let data = json!({
        "id": 10_000_000 + n, "forum": "rust-lang", "thread": 4711 + n % 50, "parent": null, "points": n % 7, "text": text,
        "created": "2026-11-21T17:06:39Z", "author": { "id": 800 + n, "name": "Ann O'Nymous", "avatar": "https://example.com/a/800.png" },
    });
    let spec = Spec { kind: Kind::Create, data: data.to_string().into(), ..Spec::default() };
    Record::new("comments", &Job { id: JobId(n), attempt: 1, put_ms: 1, progress: "".into(), spec }, 2)
}
