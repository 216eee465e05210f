//! What becomes of jobs when the server that keeps them is killed, or does not keep what it answers for; and by whose clock
//! they go.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_jobs::{Claim, JobId, JobStore, Lease, Limits, Put, Query, Spec, State, StoreError};
use tokio::time::sleep;

use super::tests::{node, settings};
use crate::config::{Durability, QueueSettings, test_redis};
use crate::redis::tests::support::Redis as Server;

const PATIENCE: Duration = Duration::from_secs(60);
/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(10);
const SAFE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn roomy(durability: Durability) -> QueueSettings {
    QueueSettings { limits: Limits::default(), ..settings("comments", durability) }
}

fn claim(jobs_max: usize, lease_ms: u64) -> Claim {
    Claim { jobs_max, lease_ms, owner: "worker".into() }
}

async fn eventually(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn put(store: &Arc<dyn JobStore>) -> Result<Vec<Put>, StoreError> {
    store.put(vec![Spec::default()], 0).await
}

#[track_caller]
fn unavailable(put: Result<Vec<Put>, StoreError>) -> String {
    match put {
        Err(StoreError::Unavailable(why)) => why.into(),
        other => panic!("expected to be refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_on_disk_takes_jobs_only_where_each_is_synced() {
    let server = Server::with(&SAFE);
    let node = node(&test_redis(&server.url())).await;
    let (safe, fast) = (node.queue("1", &roomy(Durability::Disk)), node.queue("2", &roomy(Durability::Memory)));
    assert!(put(&safe).await.is_ok());

    server.config("appendfsync", "everysec");
    // As if it were another server. The put finds out, and is done there nevertheless.
    server.flush();
    let why = unavailable(put(&safe).await);
    assert!(why.contains("has appendfsync \"everysec\"") && why.contains(&server.addr().to_string()), "{why}");
    assert!(why.contains("appendonly yes, appendfsync always") && why.contains("durability = \"memory\""), "{why}");
    assert!(put(&fast).await.is_ok());
    let claimed = safe.claim(claim(1, 60_000), 0).await.expect("what is there is worked on");
    assert_eq!(safe.finish(claimed.jobs[0].1, Bytes::new(), 0).await, Ok(()));

    server.config("appendfsync", "always");
    eventually("it is asked again", async || put(&safe).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_say_is_not_believed() {
    let server = Server::with(&[&SAFE[..], &["--rename-command", "CONFIG", ""]].concat());
    let node = node(&test_redis(&server.url())).await;
    let why = unavailable(put(&node.queue("1", &roomy(Durability::Disk))).await);
    assert!(why.contains("refuses CONFIG GET") && why.contains("appendfsync always"), "{why}");
    assert!(put(&node.queue("2", &roomy(Durability::Memory))).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_is_full_takes_no_jobs_and_lets_go_of_them() {
    let server = Server::standalone();
    let node = node(&test_redis(&server.url())).await;
    let store = node.queue("1", &roomy(Durability::Memory));
    put(&store).await.expect("there is room");
    server.config("maxmemory", "1mb");
    assert!(unavailable(put(&store).await).contains("memory is full"));
    let claimed = store.claim(claim(1, 60_000), 0).await.expect("what is there is worked on");
    assert_eq!(store.finish(claimed.jobs[0].1, Bytes::new(), 0).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_by_the_servers_clock_whatever_nodes_say() {
    let server = Server::standalone();
    let node = node(&test_redis(&server.url())).await;
    let store = node.queue("1", &roomy(Durability::Memory));
    let spec = Spec { not_before_ms: 1_050, ..Spec::default() };
    store.put(vec![spec], 1_000).await.expect("a store puts");
    let mut began = Instant::now();
    eventually("the delay ends", async || {
        // The lease begins at some time between this and the answer.
        began = Instant::now();
        let claimed = store.claim(claim(1, 300), 5_000).await.expect("a store claims");
        let next_ms = claimed.next_ms.expect("a delay or a lease ends");
        assert!((5_000..=5_300).contains(&next_ms), "in the worker's own time: {next_ms}");
        claimed.jobs.first().is_some_and(|(_, lease)| {
            assert_eq!(lease.until_ms, 5_300);
            true
        })
    })
    .await;
    let clock_ms = store.counts().await.expect("a store counts").clock_ms;
    assert!(clock_ms > Some(1_600_000_000_000), "it says by what clock it counts: {clock_ms:?}");
    let ahead_ms = 3_600_000;
    eventually("the lease ends", async || {
        !store.claim(claim(1, 300), ahead_ms).await.expect("it claims").jobs.is_empty()
    })
    .await;
    assert!(began.elapsed() > Duration::from_millis(250), "an hour ahead of the others ends nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_at_once_comes_back_in_slices() {
    const JOBS: usize = 1_000;
    let server = Server::standalone();
    let node = node(&test_redis(&server.url())).await;
    let store = node.queue("1", &roomy(Durability::Memory));
    store.put(vec![Spec::default(); JOBS], 0).await.expect("a store puts");
    let claimed = store.claim(claim(JOBS, 10), 0).await.expect("a store claims");
    assert_eq!(claimed.jobs.len(), JOBS);
    sleep(Duration::from_millis(20)).await;
    let (_, last) = claimed.jobs[JOBS - 1];
    assert_eq!(store.finish(last, Bytes::new(), 0).await, Err(StoreError::LeaseLost(last.job)), "it is due itself");
    assert_eq!(store.sweep(0).await, Ok(()));
    let counts = store.counts().await.expect("a store counts");
    assert_eq!((counts.waiting, counts.claimed, counts.totals.failed), (JOBS as u64, 0, JOBS as u64));
}

/// What producers and workers were answered.
#[derive(Default)]
struct Answered {
    put: Mutex<HashSet<JobId>>,
    finished: Mutex<HashMap<JobId, u32>>,
    over: AtomicBool,
}

impl Answered {
    async fn produce(&self, store: Arc<dyn JobStore>) {
        for n in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let keyed = Spec { key: Some((n % 7).to_string().into()), ..Spec::default() };
            match store.put(vec![keyed, Spec::default()], 0).await {
                Ok(puts) => self.put.lock().expect("no test panics here").extend(puts.into_iter().map(Put::id)),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn work(&self, store: Arc<dyn JobStore>) {
        loop {
            let over = self.over.load(Ordering::Relaxed);
            let claimed = store.claim(claim(20, 2_000), 0).await.unwrap_or_default();
            if claimed.jobs.is_empty() {
                if over && store.counts().await.is_ok_and(|counts| counts.totals.unfinished() == 0) {
                    return;
                }
                sleep(PAUSE).await;
            }
            let finishes = claimed.jobs.into_iter().map(|(_, lease)| self.finish(&store, lease));
            futures_util::future::join_all(finishes).await;
        }
    }

    /// What is not answered may have been done: then the lease is lost when it is asked for again.
    async fn finish(&self, store: &Arc<dyn JobStore>, lease: Lease) {
        loop {
            match store.finish(lease, Bytes::new(), 0).await {
                Ok(()) => *self.finished.lock().expect("no test panics here").entry(lease.job).or_default() += 1,
                Err(StoreError::Unavailable(_)) => {
                    sleep(PAUSE).await;
                    continue;
                }
                Err(_) => {}
            }
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let mut server = Server::with(&SAFE);
    let nodes = [node(&test_redis(&server.url())).await, node(&test_redis(&server.url())).await];
    let stores = nodes.each_ref().map(|node| node.queue("1", &roomy(Durability::Disk)));
    let answered = Arc::new(Answered::default());
    let mut tasks = Vec::new();
    for store in &stores {
        for _ in 0..2 {
            let (answered, store) = (answered.clone(), store.clone());
            tasks.push(tokio::spawn(async move { answered.produce(store).await }));
        }
        let (answered, store) = (answered.clone(), store.clone());
        tasks.push(tokio::spawn(async move { answered.work(store).await }));
    }
    let acknowledged = || answered.put.lock().expect("no test panics here").len();
    for _ in 0..5 {
        let before = acknowledged();
        eventually("jobs are put", async || acknowledged() > before + 50).await;
        server.kill();
        server.restart();
    }
    answered.over.store(true, Ordering::Relaxed);
    for task in tasks {
        tokio::time::timeout(PATIENCE, task).await.expect("all is finished").expect("no task panics");
    }
    let finished = answered.finished.lock().expect("no test panics here").clone();
    assert!(finished.values().all(|times| *times == 1), "finished twice: {finished:?}");
    let mut kept = HashSet::new();
    let mut query = Query { limit: 1_000, ..Query::all(State::Finished) };
    loop {
        let page = stores[0].list(query.clone()).await.expect("a store lists");
        kept.extend(page.entries.iter().map(|entry| entry.job.id));
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    let lost: Vec<_> = answered.put.lock().expect("no test panics here").difference(&kept).copied().collect();
    assert_eq!(lost, [], "of {} jobs", acknowledged());
}
