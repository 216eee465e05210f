//! The log keeps the contract on every kind of servers; whatever node asks, it is one log; and what a server has lost is told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_jobs::log::{Fresh, Keep, NUMBERS_SKIPPED, Name, Standing, Tip};
use fanfare_jobs::testing::log::{KEEP, append, keeps_its_contract, numbers};
use fanfare_jobs::{Log, LogError};
use tokio::time::timeout;

use super::RedisLogs;
use crate::config::{Durability, RedisSettings, test_redis};
use crate::redis::assurance::Assurances;
use crate::redis::tests::support::Redis as Server;
use crate::redis::{LinkEvents, Redis, UnitIx};

const PATIENCE: Duration = Duration::from_secs(60);
const SAFE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// Tells the logs of a node what its links hear, once there are some.
#[derive(Default)]
struct Ears(OnceLock<RedisLogs>);

#[async_trait]
impl LinkEvents for Ears {
    async fn message(&self, _unit: UnitIx, channel: &[u8], payload: Bytes) {
        self.0.get().map(|logs| logs.message(channel, &payload));
    }

    fn down(&self, _unit: UnitIx) {}

    async fn up(&self, unit: UnitIx, _generation: u64) {
        self.0.get().into_iter().for_each(|logs| logs.up(unit));
    }
}

/// A node's logs on these servers.
async fn node(settings: &RedisSettings) -> RedisLogs {
    let ears = Arc::new(Ears::default());
    let redis = Redis::start(settings, ears.clone()).await.expect("the servers serve");
    let assurances = Assurances::new(&redis);
    ears.0.get_or_init(|| RedisLogs::new(redis, assurances)).clone()
}

/// An app whose log nobody has used.
fn fresh_app() -> String {
    static APPS: AtomicU32 = AtomicU32::new(0);
    format!("app-{}", APPS.fetch_add(1, Ordering::Relaxed))
}

/// Its log, by the clock that the suite has.
fn log(node: &RedisLogs, app: &str) -> Arc<dyn Log> {
    node.begin(app, Durability::Memory, KEEP, |log| log.by_callers_clock())
}

async fn eventually(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is_a_log(settings: RedisSettings) {
    let nodes = [node(&settings).await, node(&settings).await];
    for _ in 0..3 {
        keeps_its_contract(log(&nodes[0], &fresh_app())).await;
    }
    let app = fresh_app();
    is_one_log(log(&nodes[0], &app), log(&nodes[1], &app)).await;
}

/// What one node does, the other knows.
async fn is_one_log(here: Arc<dyn Log>, there: Arc<dyn Log>) {
    let (mut wakes, epoch) = (there.wakes(), here.ends().await.expect("it has ends").epoch);
    append(&*here, 1..=2).await;
    append(&*there, 3..=4).await;
    append(&*here, 5..=5).await;
    let come = timeout(PATIENCE, wakes.wait_for(|tip| *tip == Tip { epoch, next: 6 })).await.is_ok();
    assert!(come, "it is told how far the log has come");
    assert_eq!(
        (numbers(&*here, 1, 1000).await, numbers(&*there, 2, 1000).await),
        (vec![1, 2, 3, 4, 5], vec![2, 3, 4, 5])
    );

    let named = |text: &str| {
        let name = Some(Name { text: text.into(), known_ms: 60_000 });
        vec![Fresh { time_ms: 60, name, data: "entry 6".into() }]
    };
    let mut appended = Vec::new();
    for log in [&here, &there, &here] {
        appended.push(log.append(named("once"), 60).await.expect("it is taken").await);
    }
    assert_eq!((appended, numbers(&*there, 6, 1000).await), (vec![Ok(1), Ok(0), Ok(0)], vec![6]));

    let [here, there] = [&here, &there].map(|log| (log, log.shared().expect("it is shared")));
    let mut moves = there.1.moves();
    assert_eq!((here.0.set_mark("a", epoch, 4).await, there.0.mark("a").await), (Ok(4), Ok(Some(4))));
    let first = here.1.take_seat("a").await.expect("it is taken");
    timeout(PATIENCE, moves.changed()).await.expect("it is told").expect("it lives");
    let standings = async || there.1.standings(&["a".into(), "b".into()]).await;
    assert_eq!(standings().await, Ok(vec![Some(Standing { mark: 4, seat: first }), None]));
    let second = there.1.take_seat("a").await.expect("it is taken");
    assert!(second > first, "{second} after {first}");
    // One that it has not heard of is kept; one that came before is not.
    for (kept, seat) in [(first, second), (second + 9, second + 9), (second, second + 9)] {
        here.1.keep_seat("a", kept).await.expect("it is heard");
        assert_eq!(standings().await, Ok(vec![Some(Standing { mark: 4, seat }), None]));
    }
    assert!(here.1.take_seat("a").await.is_ok_and(|third| third > second + 9));
}

/// As fast as entries come, be each of them a chunk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_window_stays_small_under_load() {
    let server = Server::standalone();
    let node = node(&test_redis(&server.url())).await;
    let keep = Keep { bytes: 4000, ..KEEP };
    let log = node.log("1", Durability::Memory, keep);
    for _ in 0..3 {
        let many = (0..500).map(|n| Fresh { time_ms: n, name: None, data: vec![b'x'; 300].into() }).collect();
        assert_eq!(log.append(many, 0).await.expect("they are taken").await, Ok(500));
        let ends = log.ends().await.expect("it has ends");
        assert!(ends.bytes <= keep.bytes, "{ends:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_one_server_keeps_the_contract() {
    let server = Server::standalone();
    is_a_log(test_redis(&server.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_partitions_of_two_servers_keeps_the_contract() {
    let servers = Server::pair();
    let urls = servers.each_ref().map(Server::url).join(",");
    is_a_log(RedisSettings { partitioned: true, ..test_redis(&urls) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_cluster_keeps_the_contract() {
    let cluster = Server::cluster();
    is_a_log(test_redis(&cluster.url())).await;
}

/// Appends one, however often that fails: under a name, as one that was not answered may be there.
async fn append_one(log: &dyn Log, number: u64) {
    let name = || Some(Name { text: number.to_string().into(), known_ms: 600_000 });
    let one = || vec![Fresh { time_ms: 10 * number, name: name(), data: format!("entry {number}").into() }];
    eventually("it is appended", async || match log.append(one(), 10 * number).await {
        Ok(written) => written.await.is_ok(),
        Err(_) => false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_safe_server_kept_goes_on_after_it_was_killed() {
    let mut server = Server::with(&SAFE);
    let node = node(&test_redis(&server.url())).await;
    let log = node.log("1", Durability::Disk, KEEP);
    append_one(&*log, 1).await;
    let epoch = log.ends().await.expect("it has ends").epoch;
    log.set_mark("a", epoch, 1).await.expect("it is marked");
    server.kill();
    eventually("it is away", async || log.ends().await.is_err()).await;
    server.restart();
    append_one(&*log, 2).await;
    assert_eq!((numbers(&*log, 1, 1000).await, log.mark("a").await), (vec![1, 2], Ok(Some(1))));
    assert_eq!(log.ends().await.expect("it has ends").epoch, epoch);
    server.config("appendfsync", "everysec");
    server.flush();
    let refused = match log.append(Vec::new(), 0).await {
        Ok(written) => written.await,
        Err(error) => Err(error),
    };
    let Err(LogError::Unavailable(why)) = refused else { panic!("expected to be refused: {refused:?}") };
    assert!(why.contains("has appendfsync \"everysec\""), "{why}");
}

/// It comes back without its last entries, which somebody has read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_a_server_may_have_given_are_not_given_again() {
    let mut server = Server::standalone();
    let [here, there] = [node(&test_redis(&server.url())).await, node(&test_redis(&server.url())).await];
    let [here, there] = [here, there].map(|node| node.log("1", Durability::Memory, KEEP));
    append_one(&*here, 1).await;
    server.ask(&["SAVE"]);
    append_one(&*here, 2).await;
    let epoch = here.ends().await.expect("it has ends").epoch;
    server.kill();
    server.restart();
    eventually("it is there again", async || there.ends().await.is_ok()).await;
    let lost = Tip { epoch, next: 3 };
    eventually("nothing has these numbers", async || there.read(lost, 1000).await == Err(LogError::Anew)).await;
    append_one(&*there, 3).await;
    let found = there.read(lost, 1000).await.expect("it is read");
    assert_eq!(found.iter().map(|entry| entry.number).collect::<Vec<_>>(), [2 + NUMBERS_SKIPPED]);

    server.kill();
    server.restart_empty();
    eventually("it is there again", async || there.ends().await.is_ok()).await;
    assert_eq!(there.read(lost, 1000).await, Err(LogError::Anew), "it is another log");
    assert_eq!(there.set_mark("a", epoch, 1).await, Err(LogError::Anew), "a mark in it is another entry's");
    assert_eq!(there.mark("a").await, Ok(None));
}
