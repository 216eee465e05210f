//! What a publication costs that nobody listens to, within the process: CPU time of the thread that does all of it, whatever
//! else the machine does. A measurement, so it runs only when it is asked for:
//!
//! `cargo test --release -p fanfare --bin fanfare -- --ignored --nocapture nobody_listens`
//!
//! Beside it, a reference that does the least that keeping a text can take: a look into a map behind a lock, a copy of the text, a
//! place in a queue that forgets the oldest.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::hint::black_box;
use std::sync::Mutex;

use fanfare_jobs::pipeline::{Body, Record, Route};
use fanfare_jobs::{Job, JobId, Kind, Spec};
use serde_json::json;

use super::*;
use crate::api::tests::hub;
use crate::config::test_config;
use crate::doors::Door;

/// Publications in a request, and routes of a record. All go to channels of their own.
const AT_ONCE: usize = 4;
/// Channels in all.
const CHANNELS: usize = 1_000;
/// Publications in a round.
const PUBLICATIONS: usize = 40_000;
const ROUNDS: usize = 9;
/// What the reference keeps of each channel, as a history does unless it is told otherwise.
const KEPT: usize = 100;

const TEXT: &str =
    "I quite agree, and it is what I have been saying all along, though it isn't all that new, as you will see.";

/// Microseconds of this thread.
fn cpu_us() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts this");
    let ns: f64 = stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first number is nanoseconds");
    ns / 1e3
}

/// The median of some rounds, after one that warms up: microseconds for each publication. `act` does what it is to do once, `AT_ONCE`
/// publications at a time; numbers never come twice.
async fn median(mut act: impl AsyncFnMut(usize)) -> f64 {
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let began = cpu_us();
        for n in 0..PUBLICATIONS / AT_ONCE {
            act(round * PUBLICATIONS + n * AT_ONCE).await;
        }
        rounds.push((cpu_us() - began) / PUBLICATIONS as f64);
    }
    rounds.remove(0);
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn channel(n: usize) -> String {
    format!("forum.{}", n % CHANNELS)
}

/// A request, read.
fn events(app: &App, first: usize, keyed: bool) -> Vec<Event> {
    let event = |n: usize| Event::of_text(app, "create", &[channel(n)], TEXT).expect("a good event");
    let key = |n: usize| keyed.then(|| format!("comments:{n}").into());
    (first..first + AT_ONCE).map(|n| Event { idempotency_key: key(n), ..event(n) }).collect()
}

/// What a pipeline hands to its sinks.
fn record(first: usize) -> Record {
    let spec = Spec { kind: Kind::Create, data: "".into(), ..Spec::default() };
    let job = Job { id: JobId(first as u64), attempt: 1, put_ms: 1, progress: "".into(), spec };
    let mut record = Record::new("comments", &job, 2);
    record.body = Body::Json(json!({ "text": TEXT }));
    record.routes =
        (first..first + AT_ONCE).map(|n| Route { channel: channel(n).into(), event: "create".into() }).collect();
    record
}

/// Apps whose channels are kept or not, and a publisher to a hub without loops.
fn apps(kept: bool) -> (Apps, Arc<Publisher>) {
    let history = if kept { "" } else { "[[apps.history]]\nchannels = \"*\"\nenabled = false" };
    let config = format!("[[apps]]\nid = \"1\"\nkeys = [{{ key = \"k\", secret = \"s\" }}]\n{history}");
    (Apps::new(&test_config(&config)), Arc::new(Publisher::new(hub())))
}

async fn reference() -> f64 {
    let kept: Mutex<HashMap<String, VecDeque<String>>> = Mutex::default();
    median(async |first| {
        for n in first..first + AT_ONCE {
            let mut kept = kept.lock().expect("nobody fails");
            let channel = kept.entry(channel(n)).or_default();
            channel.push_back(TEXT.to_owned());
            if channel.len() > KEPT {
                channel.pop_front();
            }
        }
    })
    .await
}

/// From a request that has been read, until it can be answered; the reading itself is measured apart and taken off.
async fn batch(kept: bool, keyed: bool) -> f64 {
    let (apps, publisher) = apps(kept);
    let app = apps.by_id("1").expect("it is there");
    let reading = median(async |first| drop(black_box(events(&app, first, keyed)))).await;
    let both = median(async |first| {
        publisher.publish(&app, Door::Api, &events(&app, first, keyed)).await.expect("it is published");
    });
    both.await - reading
}

/// From a record that has passed its pipeline, until the sink has confirmed it; making the record is taken off.
async fn sink(kept: bool) -> f64 {
    let (apps, publisher) = apps(kept);
    let sink = Channels { publisher, apps, app: "1".into(), recall: Recall::default() };
    let making = median(async |first| drop(black_box((record(first), format!("comments:{first}"))))).await;
    let both = median(async |first| {
        let (record, event_id) = (record(first), format!("comments:{first}"));
        sink.deliver(Delivery { record: &record, event_id: &event_id }).await.expect("it is published");
    });
    both.await - making
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_publication_that_nobody_listens_to() {
    println!("reference                               {:6.2} µs each", reference().await);
    for (kept, keyed) in [(false, false), (false, true), (true, false), (true, true)] {
        let us = batch(kept, keyed).await;
        println!("batch of {AT_ONCE}, history {kept:<5}, key {keyed:<5}      {us:6.2} µs each");
    }
    for kept in [false, true] {
        println!("sink, {AT_ONCE} routes, history {kept:<5}, key true  {:6.2} µs each", sink(kept).await);
    }
}
