//! The broker keeps the hub's contract on every kind of servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fanfare_hub::{Broker, BrokerEvents};

use super::Redis;
use super::broker::{Ears, RedisBroker};
use super::tests::support::Redis as Server;
use crate::config::{RedisSettings, test_redis};

/// A broker that nobody used before, on servers that others may use.
async fn start(servers: &RedisSettings, events: Arc<dyn BrokerEvents>) -> Arc<dyn Broker> {
    static INSTALLATIONS: AtomicU32 = AtomicU32::new(0);
    let n = INSTALLATIONS.fetch_add(1, Ordering::Relaxed);
    let settings = RedisSettings { prefix: format!("contract-{n}").into(), ..servers.clone() };
    let ears = Arc::new(Ears::default());
    let redis = Redis::start(&settings, ears.clone()).await.expect("the servers serve");
    Arc::new(RedisBroker::start(redis, &ears, events, 1 << 20).await.expect("the servers answer"))
}

async fn keeps_the_contract(servers: &str) {
    keeps_the_contract_on(test_redis(servers)).await;
}

async fn keeps_the_contract_on(servers: RedisSettings) {
    let fresh = async |events| start(&servers, events).await;
    fanfare_hub::broker_contract!(in_turn fresh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_on_one_server_keeps_the_contract() {
    let server = Server::standalone();
    keeps_the_contract(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_on_two_servers_keeps_the_contract() {
    let servers = Server::pair();
    keeps_the_contract(&servers.each_ref().map(Server::url).join(",")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_on_partitions_of_two_servers_keeps_the_contract() {
    let servers = Server::pair();
    let urls = servers.each_ref().map(Server::url).join(",");
    keeps_the_contract_on(RedisSettings { partitioned: true, ..test_redis(&urls) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_on_what_sentinels_watch_keeps_the_contract() {
    let group = Server::sentinel();
    keeps_the_contract(&group.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_on_a_cluster_keeps_the_contract() {
    let cluster = Server::cluster();
    keeps_the_contract(&cluster.url()).await;
}
