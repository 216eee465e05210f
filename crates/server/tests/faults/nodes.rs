//! Nodes that die, stop, stand still, and come back.

use std::time::{Duration, Instant};

use serde_json::json;

use super::press::now_us;
use super::show::{Show, announce, config, nodes_on};
use crate::support::redis::Redis;
use crate::support::{KEY, Nodes, Server, WebSocket, eventually};

/// Two servers and three nodes.
fn three_nodes() -> ([Redis; 2], Nodes) {
    let redis = Redis::pair();
    let nodes = nodes_on(&redis, 3);
    (redis, nodes)
}

/// The crowd against one node without Redis, which loses its histories in a crash.
#[test]
fn the_crowd_resumes_and_is_told() {
    let mut show = Show::begin("one node", Nodes::start("", 1, &config()));
    let killed = Instant::now();
    show.nodes.kill(0);
    show.nodes.restart(0);
    show.recover("killed and restarted", killed);
    let verdict = show.end();
    assert!(verdict.told > 0 && verdict.counts.flagged > 0, "a crash loses histories, which is told: {verdict:?}");
}

/// F1.
#[test]
fn nobody_misses_anything_when_a_node_is_killed() {
    /// What deliveries may take in any case, while others reconnect.
    const P99: Duration = Duration::from_millis(50);
    let (_redis, nodes) = three_nodes();
    let mut show = Show::begin("F1 kill -9", nodes);
    let victim = show.dice.below(3);
    let (killed, killed_us) = (Instant::now(), now_us());
    show.nodes.kill(victim);
    let back = show.recover("killed", killed);
    assert!(back < Duration::from_secs(30), "everybody is back after {back:.1?}");
    show.go_on(Duration::from_secs(3));
    // Survivors' deliveries in the two seconds before, and from one second after.
    let [before, after] =
        [killed_us.saturating_sub(2_000_000)..killed_us, killed_us + 1_000_000..killed_us + 3_000_000]
            .map(|heard_us| show.crowd.p99(&heard_us));
    println!("F1 kill -9: p99 of survivors {before:.1?}, from 1 s after {after:.1?}");
    assert!(!show.scale.is_long() || after < P99.max(2 * before), "before {before:.1?}, after {after:.1?}");
    show.nodes.restart(victim);
    show.go_on(Duration::from_secs(2));
    let verdict = show.end();
    assert_eq!(verdict.told, 0, "who had a cursor went on from there: {verdict:?}");
}

/// F2.
#[test]
fn nobody_misses_anything_when_all_nodes_are_restarted_in_turn() {
    let (_redis, nodes) = three_nodes();
    let mut show = Show::begin("F2 rolling restart", nodes);
    for ix in 0..3 {
        let stopped = Instant::now();
        show.nodes.terminate(ix);
        show.nodes.restart(ix);
        show.nodes.await_ready(ix);
        show.recover("restarted", stopped);
    }
    let verdict = show.end();
    assert_eq!(verdict.told, 0, "who had a cursor went on from there: {verdict:?}");
}

/// F24: what a node does after it stood still is judged like everything else; some of its subscribers stay, some go.
#[test]
fn a_node_that_stood_still_catches_up() {
    let (_redis, nodes) = three_nodes();
    let mut show = Show::begin("F24 SIGSTOP", nodes);
    let victim = show.dice.below(3);
    let stopped = Instant::now();
    show.nodes.node(victim).signal("STOP");
    show.go_on(Duration::from_secs(7));
    show.nodes.node(victim).signal("CONT");
    show.recover("stood still for 7 s", stopped);
    show.go_on(Duration::from_secs(2));
    show.end();
}

/// F25: a node that has no files left for clients still has some for Redis, when its links break.
#[test]
fn a_node_without_files_to_spare_finds_redis_again() {
    let (seed, scale) = announce("F25 no files");
    let published = scale.times(50);
    let redis = Redis::standalone();
    let with_redis = format!("{}[redis]\nservers = [\"{}\"]\n", config(), redis.url());
    let full = Server::start_with_files(&with_redis, 160);
    let mut nodes = Nodes::start(&redis.url(), 1, &config());
    let mut inside = full.connect();
    inside.subscribe("room");
    let mut rest = Vec::new();
    let refusal = loop {
        match WebSocket::open(full.addr, &format!("/app/{KEY}?protocol=7"), &[]) {
            Ok(socket) => rest.push(socket),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.status, 503);
    assert!(refusal.header("retry-after").is_some(), "{refusal:?}");

    redis.cut("pubsub");
    redis.cut("normal");
    let publish = |n: usize| json!({"name": "said", "channels": ["room"], "data": n.to_string()});
    for n in 0..published {
        eventually("it is published", || nodes.node(0).post("/events", &publish(n)).status == 200);
    }
    // Retried publications may have gone out twice; what counts is that each comes, in order.
    let (mut next, mut duplicate) = (0, 0);
    while next < published {
        let message = inside.expect_event("said");
        let n: usize = message["data"].as_str().and_then(|data| data.parse().ok()).expect("a number");
        assert!(n <= next, "{next} is missing before {n}");
        duplicate += usize::from(n < next);
        next = next.max(n + 1);
    }
    println!(
        "F25 no files: seed={seed} published={published} delivered={next} duplicate={duplicate} lost=0 over links made anew, \
         {} connections beside",
        rest.len()
    );
    nodes.kill(0);
}
