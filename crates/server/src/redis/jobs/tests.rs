//! The store keeps the contract, and does what the model does, on every kind of servers, whichever node asks.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_jobs::JobStore;
use fanfare_jobs::testing::{LIMITS, model};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::RedisJobs;
use crate::config::{Durability, QueueSettings, RedisSettings, test_redis};
use crate::redis::assurance::Assurances;
use crate::redis::tests::support::Redis as Server;
use crate::redis::{LinkEvents, Redis, UnitIx};

/// Tells the queues of a node what its links hear, once there are some.
#[derive(Default)]
struct Ears(OnceLock<RedisJobs>);

#[async_trait]
impl LinkEvents for Ears {
    async fn message(&self, _unit: UnitIx, channel: &[u8], _payload: Bytes) {
        self.0.get().map(|jobs| jobs.message(channel));
    }

    fn down(&self, _unit: UnitIx) {}

    async fn up(&self, unit: UnitIx, _generation: u64) {
        self.0.get().into_iter().for_each(|jobs| jobs.up(unit));
    }
}

/// A node's queues on these servers.
pub(super) async fn node(settings: &RedisSettings) -> RedisJobs {
    let ears = Arc::new(Ears::default());
    let redis = Redis::start(settings, ears.clone()).await.expect("the servers serve");
    let assurances = Assurances::new(&redis);
    ears.0.get_or_init(|| RedisJobs::new(redis, assurances)).clone()
}

/// A queue that nobody has used, by the clock that the suites have.
fn fresh() -> String {
    static QUEUES: AtomicU32 = AtomicU32::new(0);
    format!("queue-{}", QUEUES.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn settings(name: &str, durability: Durability) -> QueueSettings {
    let lease = Duration::from_secs(30);
    QueueSettings { name: name.into(), durability, limits: LIMITS, lease, concurrency: 64, piped: false }
}

async fn queue(node: &RedisJobs, name: &str) -> Arc<dyn JobStore> {
    let store = Arc::new(node.store("app", &settings(name, Durability::Memory)).by_callers_clock());
    node.queues().insert(store.news().to_vec(), store.clone());
    node.0.redis.clone().listen(store.unit(), store.news().to_vec()).await;
    store
}

/// Every promise; and random verbs, with one of two nodes after the other.
async fn is_a_job_store(settings: RedisSettings, cases: usize) {
    let nodes = [node(&settings).await, node(&settings).await];
    fanfare_jobs::job_store_contract!(in_turn async || queue(&nodes[0], &fresh()).await);
    let mut runner = TestRunner::default();
    for _ in 0..cases {
        let verbs = model::verbs().new_tree(&mut runner).expect("verbs are made").current();
        eprintln!("{verbs:?}");
        let (name, turn) = (fresh(), AtomicU32::new(0));
        let another = async |_| {
            let node = turn.fetch_add(1, Ordering::Relaxed) % 2;
            queue(&nodes[node as usize], &name).await
        };
        model::compare(queue(&nodes[0], &name).await, verbs, another).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_on_one_server_keeps_the_contract() {
    let server = Server::standalone();
    is_a_job_store(test_redis(&server.url()), 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_on_partitions_of_two_servers_keeps_the_contract() {
    let servers = Server::pair();
    let urls = servers.each_ref().map(Server::url).join(",");
    is_a_job_store(RedisSettings { partitioned: true, ..test_redis(&urls) }, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_on_a_cluster_keeps_the_contract() {
    let cluster = Server::cluster();
    is_a_job_store(test_redis(&cluster.url()), 5).await;
}
