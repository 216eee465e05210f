//! Losses that a server does not suffer by itself: a real hub and real queues over something that loses what it takes.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_hub::broker::Post;
use fanfare_hub::broker::{Broker, BrokerEvents, Delivery, Mark};
use fanfare_hub::hub::Routes;
use fanfare_hub::memory::{MemoryBroker, MemoryPresence};
use fanfare_hub::publication::PusherForms;
use fanfare_hub::{ChannelKey, Hub, Publication};
use fanfare_jobs::{JobId, Spec};

use super::check::LOOKS;
use super::*;
use crate::api::Api;
use crate::apps::Apps;
use crate::config::Config;
use crate::doors::Door;
use crate::firehose::Firehoses;
use crate::ingest::Ingest;
use crate::ingest::recall::Recall;
use crate::queues::{Kept, Queues};
use crate::readiness::Readiness;
use crate::tokens::Tokens;

/// Delivers, but for every tenth publication.
struct Leaky {
    routes: Arc<Routes>,
    arrived: AtomicU64,
}

#[async_trait]
impl BrokerEvents for Leaky {
    async fn publication(&self, key: &ChannelKey, delivery: Delivery) {
        if self.arrived.fetch_add(1, Ordering::Relaxed) % 10 != 9 {
            self.routes.publication(key, delivery).await;
        }
    }

    async fn gap(&self, key: &ChannelKey, now: Mark) {
        self.routes.gap(key, now).await;
    }
}

/// The development app on a hub that loses something, and its ledger.
async fn leaky() -> (Ledger, Hub, Queues, Apps) {
    let config = Config { dev: true, ..Config::default() };
    let routes = Arc::new(Routes::new(Vec::new(), Arc::new(PusherForms { deflate_bytes_min: 0 })));
    let broker = MemoryBroker::start(Arc::new(Leaky { routes: routes.clone(), arrived: AtomicU64::new(0) }), 1);
    broker.subscribe(&room()).await.expect("memory is there");
    let hub = Hub::start(routes, Arc::new(broker), Arc::new(MemoryPresence::default()));
    let queues = Queues::start(&config, Kept::Here(None), Readiness::default()).expect("memory will do");
    queues.begin().await;
    let apps = Apps::new(&config);
    let api = Api::new(hub.clone(), apps.clone(), Tokens::default(), queues.clone(), Recall::default(), &config);
    let sources = Sources {
        apps: apps.clone(),
        queues: queues.clone(),
        ingest: Ingest::start(&config, queues.clone(), api.publisher(), apps.clone(), Recall::default()),
        firehoses: Firehoses::start(&config, apps.clone(), queues.clone(), Readiness::default())
            .expect("memory will do"),
        hub: hub.clone(),
        loops: Vec::new(),
        shared: false,
        published: Mutex::default(),
    };
    let ledger = Ledger::start(sources, None);
    (ledger, hub, queues, apps)
}

fn room() -> ChannelKey {
    ChannelKey::new("1", "room")
}

async fn publish(hub: &Hub, apps: &Apps, n: usize) {
    for _ in 0..n {
        apps.by_id("1").expect("it is there").usage.doors.ask(Door::Api, 1);
        hub.publish(&room(), Publication::event("\"e\"", "\"d\""), Post::TRANSIENT).await.expect("memory takes it");
    }
}

/// Where sums part after so many looks as it takes.
async fn parted(ledger: &Ledger) -> Option<String> {
    for _ in 0..LOOKS + 1 {
        ledger.compare().await;
    }
    ledger.report(0).parted.map(|parted| parted.to_string())
}

#[tokio::test]
async fn what_a_broker_loses_is_missing_behind_the_hub() {
    let (ledger, hub, _, apps) = leaky().await;
    publish(&hub, &apps, 9).await;
    assert_eq!(parted(&ledger).await, None);
    publish(&hub, &apps, 21).await;
    assert_eq!(parted(&ledger).await.as_deref(), Some("hub → this node: 3 missing"));
    let minutes = ledger.report(1).minutes;
    assert_eq!(minutes[0].parted.as_ref().map(|parted| parted.difference), Some(3));
}

#[tokio::test]
async fn what_comes_by_no_door_is_too_many() {
    let (ledger, hub, _, _) = leaky().await;
    hub.publish(&room(), Publication::event("\"e\"", "\"d\""), Post::TRANSIENT).await.expect("memory takes it");
    assert_eq!(parted(&ledger).await.as_deref(), Some("published → hub: 1 too many"));
}

#[tokio::test]
async fn what_is_done_behind_a_queues_back_is_named() {
    let (ledger, _, queues, _) = leaky().await;
    let queue = queues.all().into_iter().next().expect("the development app has one");
    let spec = || Spec { data: Bytes::from_static(b"{}"), ..Spec::default() };
    queue.put(vec![spec()]).await.expect("there is room");
    assert_eq!(parted(&ledger).await, None);
    // Into the store, and past its door.
    queue.store.put(vec![spec()], queue.now_ms()).await.expect("there is room");
    let found = parted(&ledger).await;
    assert_eq!(found.as_deref(), Some("app 1: queue comments: put → jobs: 1 too many"));
    assert!(queue.store.find(JobId(2)).await.is_ok());
}
