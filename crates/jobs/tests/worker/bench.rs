//! A queue, its worker, and the questions that tests ask of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_jobs::pipeline::{self, Secret, Shared, Table, Written};
use fanfare_jobs::sinks::{self, SinkKind, World};
use fanfare_jobs::worker::{Lane, Now, Others, Plan, Settings, Worker};
use fanfare_jobs::{Entry, JobId, JobStore, Limits, MemoryStore, Query, Spec, State};
use serde_json::{Value, json};

/// Longer than anything takes on a loaded machine, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(60);

pub const SETTINGS: Settings =
    Settings { concurrency: 16, lease: Duration::from_secs(8), stuck_after: Duration::from_secs(60) };

pub struct Bench {
    pub store: Arc<dyn JobStore>,
    pub now: Now,
}

impl Bench {
    pub fn new(attempts_max: u32) -> Bench {
        let limits = Limits { attempts_max, ..Limits::default() };
        let began = Instant::now();
        let now: Now = Arc::new(move || 1_000_000 + began.elapsed().as_millis() as u64);
        Bench { store: Arc::new(MemoryStore::new(limits)), now }
    }

    pub fn worker(&self, lanes: &[&Arc<Lane>], settings: Settings) -> Worker {
        Worker::start("q", self.store.clone(), self.now.clone(), plan(lanes), settings, Others::Processes)
    }

    pub async fn put(&self, specs: impl IntoIterator<Item = Spec>) -> Vec<JobId> {
        let put = self.store.put(specs.into_iter().collect(), (self.now)()).await.unwrap();
        put.into_iter().map(|put| put.id()).collect()
    }

    pub async fn in_state(&self, state: State) -> Vec<Entry> {
        // What is due happens with the next verb that knows the time.
        self.store.sweep((self.now)()).await.unwrap();
        self.store.list(Query::all(state)).await.unwrap().entries
    }

    /// Waits until so many jobs are in a state, and says which.
    pub async fn until(&self, state: State, jobs: usize) -> Vec<Entry> {
        eventually(async || Some(self.in_state(state).await).filter(|entries| entries.len() == jobs)).await
    }
}

pub fn plan(lanes: &[&Arc<Lane>]) -> Plan {
    Plan::new(lanes.iter().map(|lane| Arc::clone(lane)).collect())
}

/// A job with this data.
pub fn job(data: impl Into<String>) -> Spec {
    Spec { data: data.into().into(), ..Spec::default() }
}

/// The same, in order with others of its key.
pub fn keyed(key: &str, data: impl Into<String>) -> Spec {
    Spec { key: Some(key.into()), ..job(data) }
}

pub fn shared() -> Shared {
    let keys = [("signing".to_owned(), Secret(b"secret".to_vec()))];
    Shared {
        keys: keys.into_iter().collect(),
        copies_to: ["other".to_owned()].into_iter().collect(),
        ..Shared::default()
    }
}

/// A pipeline with these stages and sinks, of the kinds that there are.
pub fn lane(name: &str, stages: Value, sinks: Value) -> Arc<Lane> {
    Arc::new(compile(name, stages, sinks, false, sinks::kinds(&World::default())))
}

/// The same in the place of another one.
pub fn lane_after(before: &Lane, stages: Value, sinks: Value) -> Arc<Lane> {
    let lane = compile(before.pipeline.name(), stages, sinks, false, sinks::kinds(&World::default()));
    Arc::new(lane.in_place_of(before))
}

/// One that nothing waits for.
pub fn shadow(name: &str, stages: Value, sinks: Value) -> Arc<Lane> {
    Arc::new(compile(name, stages, sinks, true, sinks::kinds(&World::default())))
}

/// One that ends in a sink of the test's own, which is called `own`.
pub fn lane_into(own: impl sinks::Sink + 'static) -> Arc<Lane> {
    let own: Arc<dyn sinks::Sink> = Arc::new(own);
    let build: sinks::Build = Box::new(move |_| Ok(vec![sinks::Target { optional: false, sink: own.clone() }]));
    let kind = SinkKind { name: "own", summary: "", keys: &[], at_once: 16, build };
    Arc::new(compile("p", json!([]), json!([{ "sink": "own" }]), false, vec![kind]))
}

fn compile(name: &str, stages: Value, sinks: Value, shadow: bool, kinds: Vec<SinkKind>) -> Lane {
    let tables = |value| serde_json::from_value::<Vec<Table>>(value).expect("they are tables");
    let written = Written { name: name.into(), queue: "q".into(), stages: tables(stages) };
    let pipeline = pipeline::compile(&written, &shared()).unwrap_or_else(|wrong| panic!("{wrong}"));
    let outlets = sinks::compile(&written, &tables(sinks), &kinds, &shared()).unwrap_or_else(|wrong| panic!("{wrong}"));
    Lane::new(pipeline, outlets, shadow)
}

/// Nothing is unaccounted for, and with nothing under way nothing is in flight.
pub fn check_sums(lane: &Lane, at_rest: bool) {
    for slot in lane.pipeline.stages() {
        let tally = slot.counts.read();
        assert!(tally.balances(), "{}: {tally:?}", slot.name);
        assert!(!at_rest || tally.in_flight == 0, "{}: {tally:?}", slot.name);
    }
    let passed = lane.passed();
    assert!(passed.balances(), "{passed:?}");
    assert!(!at_rest || passed.waiting == 0, "{passed:?}");
    for outlet in &lane.outlets {
        let tally = outlet.counts();
        assert!(tally.balances(), "{}: {tally:?}", outlet.name);
        assert!(!at_rest || tally.in_flight + tally.waiting == 0, "{}: {tally:?}", outlet.name);
    }
    if at_rest {
        check_chain(lane);
    }
}

/// What goes out of one part goes into the next.
fn check_chain(lane: &Lane) {
    let (passed, mut before) = (lane.passed(), lane.passed().taken);
    for slot in lane.pipeline.stages() {
        let tally = slot.counts.read();
        assert_eq!(before, tally.entered, "into {}", slot.name);
        before = tally.out;
    }
    assert_eq!(before, passed.through, "through the stages");
    for outlet in &lane.outlets {
        assert_eq!(passed.handed + passed.copied, outlet.counts().due, "into {}", outlet.name);
    }
}

/// Asks again until there is an answer.
pub async fn eventually<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "it does not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until it is true.
pub async fn until(is: impl Fn() -> bool) {
    eventually(async || is().then_some(())).await;
}
