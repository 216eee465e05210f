//! Pub/sub that is cut while much is published: what was missed is read from the history, and may be many times what an outbox
//! holds. Whoever reads gets all of it, in order, on the connection that it has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::redis::Redis;
use crate::support::{Reader, STREAMS, Server, eventually, one_app};

/// Publications, and bytes of each: more than the kernel keeps for a reader, by far.
const COUNT: usize = 2500;
const BYTES: usize = 8 << 10;

/// What the tests' readers may owe, which would be closed for a hundredth of all this.
const OUTBOX_BYTES: usize = 256 << 10;

fn node(redis: &Redis) -> Server {
    let history = "limits = { history_bytes_max = 268435456 }\n\
                   [[apps.history]]\nchannels = \"*\"\nmessages = 20000\nbytes = 67108864\nseconds = 900\n";
    Server::start(&format!(
        "outbox_bytes_max = {OUTBOX_BYTES}\n{}\n[redis]\nservers = [\"{}\"]\n",
        one_app(history),
        redis.url()
    ))
}

fn data(channel: &str, n: usize) -> String {
    format!("{channel} {n} {}", "x".repeat(BYTES))
}

/// Publishes to the channels in turn, ten at once.
fn publish(server: &Server, channels: &[&str]) {
    let message = |n: usize| {
        let channel = channels[n % channels.len()];
        json!({"name": "said", "channel": channel, "data": data(channel, n)})
    };
    for first in (0..COUNT).step_by(10) {
        let batch: Vec<_> = (first..first + 10).map(message).collect();
        let answer = server.post("/batch_events", &json!({ "batch": batch }));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Does something while no subscription lives for long.
fn while_pubsub_is_cut(redis: &Redis, what: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                redis.cut("pubsub");
                thread::sleep(Duration::from_millis(1));
            }
        });
        what();
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn whoever_reads_gets_more_than_an_outbox_holds() {
    let redis = Redis::standalone();
    let server = node(&redis);
    let channels = ["one", "two", "three"];
    let mut readers = STREAMS.map(|transport| Reader::open(&server, transport, &channels.join("/")));
    let mut stock = server.connect();
    channels.iter().for_each(|channel| stock.subscribe(channel));
    let expect = |what: &str, mut next: Box<dyn FnMut() -> (String, String) + '_>| {
        let mut heard = [0; 3];
        for _ in 0..COUNT {
            let (channel, heard_data) = next();
            let ix = channels.iter().position(|name| *name == channel).unwrap_or_else(|| panic!("{what}: {channel}"));
            let n = ix + 3 * heard[ix];
            assert!(heard_data == data(&channel, n), "{what}: number {n} of {channel} is {:.20}", heard_data);
            heard[ix] += 1;
        }
    };
    thread::scope(|scope| {
        for (reader, transport) in readers.iter_mut().zip(STREAMS) {
            let next = move || {
                let message = reader.next();
                let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
                (text("channel"), text("data"))
            };
            scope.spawn(move || expect(transport.name(), Box::new(next)));
        }
        let next = || {
            let message = stock.recv();
            let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
            (text("channel"), text("data"))
        };
        scope.spawn(move || expect("stock", Box::new(next)));
        while_pubsub_is_cut(&redis, || publish(&server, &channels));
    });
    assert_eq!(server.metric("fanfare_connections_closed_total{reason=\"slow_consumer\"}"), 0.0);
    assert_eq!(server.metric("fanfare_gaps_total"), 0.0);
    assert!(server.metric("fanfare_refills_total") >= 3.0, "each channel had a hole");
    assert!(server.metric("fanfare_refilled_publications_total") >= COUNT as f64 / 2.0);
    assert!(server.metric("fanfare_redis_resubscriptions_total") >= 3.0);
    assert_eq!(server.metric("fanfare_redis_fences_total"), 1.0, "the server was the same all along");
}

#[test]
fn whoever_does_not_read_holds_nobody_up_for_long() {
    let redis = Redis::standalone();
    let server = node(&redis);
    let mut reader = Reader::open(&server, STREAMS[1], "room");
    let deaf: Vec<_> = (0..3).map(|_| Reader::open(&server, STREAMS[1], "room")).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..COUNT {
                assert!(reader.data() == data("room", n), "number {n}");
            }
            assert_eq!(reader.data(), "after");
        });
        while_pubsub_is_cut(&redis, || publish(&server, &["room"]));
        server.publish("room", "said", "after");
    });
    eventually("they are closed", || {
        server.metric("fanfare_connections_closed_total{reason=\"slow_consumer\"}") == 3.0
    });
    drop(deaf);
}
