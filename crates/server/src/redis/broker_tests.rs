//! The broker while its servers come to harm: what was stored is delivered once and in order, or told to be missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fanfare_hub::broker::Delivery;
use fanfare_hub::{
    Broker, BrokerError, BrokerEvents, ChannelKey, HistoryRule, Keep, Mark, Publication, Published, Since,
    StreamPosition,
};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Redis;
use super::broker::{Ears, RedisBroker};
use super::tests::support::Redis as Server;
use crate::config::test_redis;

#[path = "../../tests/support/proxy.rs"]
pub mod proxy;

use proxy::Proxy;

/// How long something may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const KEPT: Keep = Keep::history(HistoryRule {
    messages: 10_000,
    bytes: 1 << 20,
    ttl: Duration::from_secs(600),
    app_bytes_max: 64 << 20,
});

/// What a node is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// A publication by its number, and where it was stored.
    Heard(u32, Option<StreamPosition>),
    Gap(StreamPosition),
}

struct Ear(mpsc::UnboundedSender<(ChannelKey, Told)>);

#[async_trait]
impl BrokerEvents for Ear {
    async fn publication(&self, key: &ChannelKey, delivery: Delivery) {
        let number = delivery.publication.data.trim_matches('"').parse().expect("data is a number in quotes");
        let _ = self.0.send((key.clone(), Told::Heard(number, delivery.mark.map(|mark| mark.position))));
    }

    async fn gap(&self, key: &ChannelKey, now: Mark) {
        let _ = self.0.send((key.clone(), Told::Gap(now.position)));
    }
}

pub struct Node {
    pub broker: RedisBroker,
    told: mpsc::UnboundedReceiver<(ChannelKey, Told)>,
}

fn room() -> ChannelKey {
    ChannelKey::new("1", "room")
}

impl Node {
    pub async fn start(server: &Server) -> Node {
        Node::at(&server.url()).await
    }

    pub async fn at(url: &str) -> Node {
        let (ear, told) = mpsc::unbounded_channel();
        let ears = Arc::new(Ears::default());
        let redis = Redis::start(&test_redis(url), ears.clone()).await.expect("the server serves");
        let broker = RedisBroker::start(redis, &ears, Arc::new(Ear(ear)), 1 << 20).await.expect("the server answers");
        Node { broker, told }
    }

    async fn on(server: &Server, key: &ChannelKey) -> Node {
        let node = Node::start(server).await;
        node.broker.subscribe(key).await.expect("subscribed");
        node
    }

    async fn publish(&self, number: u32, keep: Keep) -> Result<Published, BrokerError> {
        self.broker.publish(&room(), Publication::event("\"e\"", format!("\"{number}\"")), keep.into()).await
    }

    /// Publishes until the server takes it.
    async fn store(&self, number: u32) -> StreamPosition {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.publish(number, KEPT).await {
                Ok(published) => return published.mark.expect("it is stored").position,
                Err(_) => assert!(Instant::now() < deadline, "the server takes nothing"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn next(&mut self) -> Told {
        self.next_of().await.1
    }

    pub async fn next_of(&mut self) -> (ChannelKey, Told) {
        timeout(PATIENCE, self.told.recv()).await.expect("something is told").expect("the broker lives")
    }

    /// The number of what was stored there, which comes next.
    async fn next_after(&mut self, position: StreamPosition) -> u32 {
        match self.next().await {
            Told::Heard(number, at) if at == Some(position) => number,
            told => panic!("{told:?} instead of what is at {position:?}"),
        }
    }

    async fn hear(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let told = self.next().await;
            assert!(matches!(told, Told::Heard(n, _) if n == number), "{told:?} instead of {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cut_connection_missed_is_filled_without_a_gap() {
    let server = Server::standalone();
    let mut node = Node::on(&server, &room()).await;
    let publisher = Node::start(&server).await;
    for number in 0..300 {
        if number % 100 == 50 {
            server.cut("pubsub");
        }
        publisher.store(number).await;
    }
    node.hear(0..300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_data_is_told_and_gone_on_from() {
    let mut server = Server::standalone();
    let mut node = Node::on(&server, &room()).await;
    for number in 0..3 {
        node.store(number).await;
    }
    node.hear(0..3).await;
    server.restart_empty();
    let Told::Gap(end) = node.next().await else { panic!("a gap is told first") };
    let next = node.store(3).await;
    assert_eq!(node.next().await, Told::Heard(3, Some(next)));
    assert_eq!((next.epoch, next.offset), (end.epoch, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_data_keeps_offsets_and_tells_a_gap() {
    let mut server = Server::standalone();
    let mut node = Node::on(&server, &room()).await;
    for number in 0..3 {
        node.store(number).await;
    }
    node.hear(0..3).await;
    let before = node.broker.history(&room(), &Since::Now, 0).await.expect("it answers").now;
    server.restart_with_data();
    assert!(matches!(node.next().await, Told::Gap(end) if end.offset == 3 && end.epoch > before.position.epoch));
    let next = node.store(3).await;
    assert_eq!((node.next().await, next.offset), (Told::Heard(3, Some(next)), 4));
    let all = node.broker.history(&room(), &Since::Last(9), 9).await.expect("it answers");
    assert_eq!(all.publications.len(), 4, "what is there can be read");
    let since = Since::Cursor(before.cursor(&room()));
    assert!(!node.broker.history(&room(), &since, 9).await.expect("it answers").recovered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_refuses_what_is_stored_and_still_tells_what_it_has() {
    let server = Server::standalone();
    let mut node = Node::on(&server, &room()).await;
    node.store(0).await;
    server.config("maxmemory", "1mb");
    assert_eq!(node.publish(1, KEPT).await.err(), Some(BrokerError::Unavailable));
    let late = Node::on(&server, &ChannelKey::new("1", "late")).await;
    let history = late.broker.history(&room(), &Since::Last(9), 9).await.expect("it answers");
    assert_eq!(history.publications.len(), 1);
    server.config("maxmemory", "0");
    node.store(2).await;
    assert!(matches!(node.next().await, Told::Heard(0, _)));
    assert!(matches!(node.next().await, Told::Heard(2, Some(StreamPosition { offset: 2, .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_any_more_is_a_gap_and_the_rest_follows() {
    let server = Server::standalone();
    let way = Proxy::to(server.addr());
    let mut node = Node::at(&way.url()).await;
    node.broker.subscribe(&room()).await.expect("subscribed");
    let publisher = Node::start(&server).await;
    let first = publisher.store(0).await;
    node.hear(0..1).await;
    way.refuse();
    let two = Keep::history(HistoryRule { messages: 2, ..KEPT.history.expect("it is kept") });
    for number in 1..10 {
        publisher.publish(number, two).await.expect("published");
    }
    assert_eq!(node.publish(10, two).await.err(), Some(BrokerError::Unavailable));
    way.pass();
    let at = |offset| StreamPosition { offset, ..first };
    assert_eq!(node.next().await, Told::Gap(at(8)));
    assert_eq!(node.next().await, Told::Heard(8, Some(at(9))));
    assert_eq!(node.next().await, Told::Heard(9, Some(at(10))));
    assert_eq!(node.next_after(publisher.store(11).await).await, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_died_without_a_word_is_found() {
    let server = Server::standalone();
    let mut node = Node::on(&server, &room()).await;
    let publisher = Node::start(&server).await;
    publisher.store(0).await;
    node.hear(0..1).await;
    // It is stored, and sent where nobody listens.
    let script = concat!("#!lua\n", include_str!("scripts/channel.lua"), include_str!("scripts/publish.lua"));
    let script = script.replace("'SPUBLISH', KEYS[3]", "'SPUBLISH', 'elsewhere'");
    let generation = server.ask(&["HGET", "fanfare:fence", "generation"]).text();
    let record = "\u{1}\u{1}\u{3}\"e\"\u{2}\u{3}\"1\"";
    let keys = ["fence", "stamp", "c:1/room", "h:1/room", "l:1/room", "b:1", "t:1"].map(|key| format!("fanfare:{key}"));
    let args = [&generation, "fanfare:", record, "1", "6", "9", "999", "60000", "9999", "0", "1", ""];
    let words: Vec<&str> =
        ["EVAL", &script, "7"].into_iter().chain(keys.iter().map(String::as_str)).chain(args).collect();
    server.run(&words);
    node.hear(1..2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_is_one_command() {
    const N: u64 = 500;
    let server = Server::standalone();
    let mut node = Node::on(&server, &room()).await;
    let publisher = Node::start(&server).await;
    for (keep, command, other) in [(KEPT, "evalsha", "eval"), (Keep::TRANSIENT, "spublish", "evalsha")] {
        publisher.publish(0, keep).await.expect("published");
        node.hear(0..1).await;
        let (before, others, begun) = (server.calls(command), server.calls(other), Instant::now());
        for number in 0..N as u32 {
            publisher.publish(number, keep).await.expect("published");
        }
        node.hear(0..N as u32).await;
        // What two nodes do by themselves: some beats and probes in each second.
        let own = 10 * (begun.elapsed().as_secs() + 2);
        let more = server.calls(command) - before;
        assert!((N..N + own).contains(&more), "{more} x {command} for {N} publications");
        assert!(server.calls(other) - others < own, "no {other} beside {command}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_other_channels_took_along_to_another_server_is_left_alone() {
    let cluster = Server::cluster();
    let mut node = Node::at(&cluster.url()).await;
    node.broker.subscribe(&room()).await.expect("subscribed");
    // Beyond what the app may keep in a unit: each publication has the oldest make way, which is another channel's.
    let keep = Keep {
        history: Some(HistoryRule { bytes: 4 << 20, app_bytes_max: 1 << 20, ..KEPT.history.expect("a rule") }),
        newest: Some(Duration::from_secs(600)),
    };
    let unit = node.broker.unit(&room());
    let other = (0..).map(|n| ChannelKey::new("1", &format!("other-{n}"))).find(|key| node.broker.unit(key) == unit);
    let other = other.expect("there are many names");
    for number in 0..80 {
        let publication = Publication::event("\"e\"", format!("\"{number:016000}\""));
        node.broker.publish(&other, publication, keep.into()).await.expect("stored");
    }
    node.publish(0, keep).await.expect("stored");
    let tag = &super::ring::partition_tags()[unit];
    let slot = super::ring::slot_of_tag(tag.as_bytes());
    let from = cluster.owner(slot);
    let to = (from + 1) % 3;
    cluster.begin_migration(slot, from, to);
    let history = cluster.nodes[from].run(&["KEYS", &format!("*h:{}", other.as_str())]).texts();
    let port = cluster.nodes[to].port().to_string();
    cluster.nodes[from].run(&["MIGRATE", "127.0.0.1", &port, &history[0], "0", "10000"]);
    let large = Publication::event("\"e\"", format!("\"{:020000}\"", 1));
    let published = node.broker.publish(&room(), large, keep.into()).await;
    assert!(published.is_ok_and(|published| published.heard), "it is stored, and told");
    node.hear(0..2).await;
}
