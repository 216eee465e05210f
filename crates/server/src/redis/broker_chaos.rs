//! The broker under whatever happens to its servers and the way to them, in random order: per channel and node, what was stored
//! comes once and in order, and nothing is passed over without a gap being told in its place.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fanfare_hub::{Broker, ChannelKey, Publication, StreamPosition};
use tokio::time::sleep;

use super::broker_tests::proxy::Proxy;
use super::broker_tests::{KEPT, Node, PATIENCE, Told};
use super::tests::support::Redis as Server;

const ROOMS: usize = 4;

/// How long things happen.
const SHOW: Duration = Duration::from_secs(8);

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }

    async fn pause(&mut self, below_ms: u64) {
        sleep(Duration::from_millis(self.below(below_ms))).await;
    }
}

fn room(ix: usize) -> ChannelKey {
    ChannelKey::new("1", &format!("room-{ix}"))
}

/// One thing that happens, and is over when this returns.
async fn happens(dice: &mut Dice, server: &mut Server, way: &Proxy) -> &'static str {
    match dice.below(6) {
        0 => {
            server.cut("pubsub");
            "pub/sub connections cut"
        }
        1 => {
            way.cut();
            "a node's connections cut"
        }
        2 => {
            way.refuse();
            dice.pause(800).await;
            way.pass();
            "a node refused for a while"
        }
        3 => {
            way.stall_both();
            dice.pause(3000).await;
            way.pass();
            "a node's way stalled"
        }
        4 => {
            server.restart_with_data();
            "server restarted with its data"
        }
        _ => {
            server.restart_empty();
            "server restarted without data"
        }
    }
}

/// Publishes to one room, each time something new, until it is told to stop and one is stored after that. Returns what was stored.
async fn publish(broker: impl Broker, ix: usize, stop: Arc<AtomicBool>) -> Vec<u32> {
    let mut stored = Vec::new();
    for number in 0.. {
        let last = stop.load(Ordering::Relaxed);
        let published =
            broker.publish(&room(ix), Publication::event("\"e\"", format!("\"{number}\"")), KEPT.into()).await;
        if published.is_ok() {
            stored.push(number);
            if last {
                break;
            }
        }
        sleep(Duration::from_millis(3)).await;
    }
    stored
}

/// What one node was told of one room.
#[derive(Default)]
struct Tale {
    heard: Option<(u32, StreamPosition)>,
    gap: Option<StreamPosition>,
    told_gaps: u32,
}

impl Tale {
    fn take(&mut self, told: Told, stored: &[u32]) {
        let (number, at) = match told {
            Told::Gap(now) => {
                self.gap = Some(now);
                self.told_gaps += 1;
                return;
            }
            Told::Heard(number, at) => (number, at.expect("it was stored")),
        };
        let gap = self.gap.take();
        if let Some((before, seen)) = self.heard {
            assert!(number > before, "{number} after {before}");
            let after = gap.unwrap_or(seen);
            assert_eq!(
                (at.epoch, at.offset),
                (after.epoch, after.offset + 1),
                "{number} after {before} and gap {gap:?}"
            );
            let missed = stored.iter().filter(|&&missed| before < missed && missed < number).count();
            assert!(missed == 0 || gap.is_some(), "{missed} lost without a word between {before} and {number}");
        }
        self.heard = Some((number, at));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_passed_over_without_a_word() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0) | 1);
    println!("SEED={seed}");
    let mut dice = Dice(seed);
    let mut server = Server::standalone();
    let way = Proxy::to(server.addr());
    let mut nodes = [Node::start(&server).await, Node::at(&way.url()).await];
    let publisher = Node::start(&server).await;
    for (node, ix) in nodes.iter().flat_map(|node| (0..ROOMS).map(move |ix| (node, ix))) {
        node.broker.subscribe(&room(ix)).await.expect("subscribed");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> =
        (0..ROOMS).map(|ix| tokio::spawn(publish(publisher.broker.clone(), ix, stop.clone()))).collect();
    let begun = Instant::now();
    while begun.elapsed() < SHOW {
        dice.pause(700).await;
        println!("{:?} {}", begun.elapsed(), happens(&mut dice, &mut server, &way).await);
    }
    stop.store(true, Ordering::Relaxed);
    let mut stored = Vec::new();
    for publisher in publishers {
        stored.push(publisher.await.expect("it publishes"));
    }
    for node in &mut nodes {
        let mut tales: BTreeMap<usize, Tale> = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        let is_done = |tales: &BTreeMap<usize, Tale>| {
            let last = |ix| tales.get(&ix).and_then(|tale| tale.heard).map(|(number, _)| number);
            (0..ROOMS).all(|ix| last(ix) == stored[ix].last().copied())
        };
        while !is_done(&tales) {
            assert!(Instant::now() < deadline, "the last publications come");
            let (key, told) = node.next_of().await;
            let ix = (0..ROOMS).find(|ix| room(*ix) == key).expect("a room");
            tales.entry(ix).or_default().take(told, &stored[ix]);
        }
        let gaps: u32 = tales.values().map(|tale| tale.told_gaps).sum();
        println!("{} stored, {gaps} gaps told", stored.iter().map(Vec::len).sum::<usize>());
    }
}
