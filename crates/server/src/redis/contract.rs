//! The broker keeps the hub's contract on every kind of servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fanfare_hub::{Broker, BrokerEvents};

use super::broker::{Ears, RedisBroker};
use super::tests::support::{Cluster, Redis as Server};
use super::{LinkEvents, Redis};
use crate::config::test_config;

/// A broker that nobody used before, on servers that others may use.
async fn start(servers: &str, events: Arc<dyn BrokerEvents>) -> Arc<dyn Broker> {
    static INSTALLATIONS: AtomicU32 = AtomicU32::new(0);
    let n = INSTALLATIONS.fetch_add(1, Ordering::Relaxed);
    let config = test_config(&format!("[redis]\n{servers}\nprefix = \"contract-{n}\"\n"));
    let ears = Arc::new(Ears::default());
    let redis = Redis::start(&config.redis.expect("configured"), ears.clone()).await.expect("the servers serve");
    Arc::new(RedisBroker::start(redis, &ears, events).await.expect("the servers answer"))
}

async fn keeps_the_contract(servers: &str) {
    let fresh = async |events| start(servers, events).await;
    fanfare_hub::broker_contract!(in_turn fresh);
}

fn listed(servers: &[Server]) -> String {
    let urls: Vec<_> = servers.iter().map(|server| format!("{:?}", server.url())).collect();
    format!("servers = [{}]", urls.join(", "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_on_one_server_keeps_the_contract() {
    let server = [Server::standalone()];
    keeps_the_contract(&listed(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_on_two_servers_keeps_the_contract() {
    let servers = Server::pair();
    keeps_the_contract(&listed(&servers)).await;
}
