//! Nodes that die, stop, stand still, and come back.

use std::time::{Duration, Instant};

use super::show::{Show, config};
use crate::support::Nodes;
use crate::support::redis::Redis;

/// Two servers with names of their own, and three nodes.
fn three_nodes() -> (Vec<Redis>, Nodes) {
    let servers = Vec::from(Redis::pair());
    let urls: Vec<_> = servers.iter().map(Redis::url).collect();
    (servers, Nodes::start(&urls.join(","), 3, &config()))
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
    let (_servers, nodes) = three_nodes();
    let mut show = Show::begin("F1 kill -9", nodes);
    let victim = show.dice.below(3);
    let killed = Instant::now();
    show.nodes.kill(victim);
    show.recover("killed", killed);
    show.nodes.restart(victim);
    show.go_on(Duration::from_secs(2));
    let verdict = show.end();
    assert_eq!(verdict.told, 0, "who had a cursor went on from there: {verdict:?}");
}

/// F2.
#[test]
fn nobody_misses_anything_when_all_nodes_are_restarted_in_turn() {
    let (_servers, nodes) = three_nodes();
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
    let (_servers, nodes) = three_nodes();
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
