//! Redis servers that die, forget, fill up, or answer slowly.

use std::time::{Duration, Instant};

use super::show::{Show, config, nodes_on};
use crate::support::redis::Redis;
use crate::support::{Nodes, eventually};

/// F3, with Sentinels.
#[test]
fn a_failover_by_sentinels_loses_nothing_without_a_word() {
    let mut group = Redis::sentinel();
    let show = Show::begin("F3 Sentinel", Nodes::start(&group.url(), 3, &config()));
    let killed = Instant::now();
    let old = group.kill_primary();
    group.await_primary_after(old);
    println!("F3 Sentinel: another primary after {:.1?}", killed.elapsed());
    show.recover("primary killed", killed);

    group.servers[old].restart();
    group.await_follower(old);
    let asked = Instant::now();
    group.failover();
    show.recover("failover in order", asked);
    assert_eq!(show.end().reconnects_of_cursors, 0, "connections stay up");
}

/// F3, in a Cluster.
#[test]
fn a_failover_in_a_cluster_loses_nothing_without_a_word() {
    let mut cluster = Redis::cluster();
    let show = Show::begin("F3 Cluster", Nodes::start(&cluster.url(), 3, &config()));
    let killed = Instant::now();
    cluster.nodes[1].kill();
    eventually("the replica took over", || cluster.nodes[4].info("role") == "master");
    println!("F3 Cluster: another primary after {:.1?}", killed.elapsed());
    show.recover("primary killed", killed);

    let asked = Instant::now();
    cluster.failover(3);
    show.recover("failover in order", asked);
    assert_eq!(show.end().reconnects_of_cursors, 0, "connections stay up");
}

/// F4: a node comes, takes half of the slots that are in use from another, gives them back, and goes.
#[test]
fn moving_slots_loses_nothing_without_a_word() {
    let mut cluster = Redis::cluster();
    let show = Show::begin("F4 migration", Nodes::start(&cluster.url(), 3, &config()));
    let added = cluster.add_node();
    let used = cluster.used_slots(0);
    let moved = &used[..used.len().div_ceil(2)];
    let began = Instant::now();
    cluster.migrate(moved.iter().copied(), added);
    println!("F4 migration: {} of {} slots moved in {:.1?}", moved.len(), used.len(), began.elapsed());
    show.recover("moved to a new node", began);
    let subscribed = cluster.nodes[added].calls("ssubscribe");
    println!("F4 migration: {subscribed} SSUBSCRIBE at the new node");
    assert!(subscribed <= 2 * 3 * moved.len() as u64, "at most one for each partition and node, and one more");

    let began = Instant::now();
    cluster.migrate(moved.iter().copied(), 0);
    cluster.remove_node(added);
    show.recover("moved back, and the node removed", began);
    // Where a partition's keys are on two servers for a moment, what was missed cannot be proven, and is told.
    assert_eq!(show.end().reconnects_of_cursors, 0, "connections stay up");
}

/// F6: each large publication goes beyond what Redis buffers for a subscriber, and cuts all nodes off.
#[test]
fn what_redis_cuts_off_is_filled_from_the_history() {
    let redis = Redis::standalone();
    redis.config("client-output-buffer-limit", "pubsub 20000 0 0");
    let show = Show::begin("F6 output buffer", Nodes::start(&redis.url(), 3, &config()));
    show.press.pad(40_000);
    show.go_on(Duration::from_secs(3));
    show.press.pad(40);
    let over = Instant::now();
    show.recover("cut off by each publication", over);
    let cuts = redis.log().matches("output buffer limits").count();
    println!("F6 output buffer: {cuts} cuts");
    assert!(cuts > 0, "Redis never cut anybody off:\n{}", redis.log());
    let verdict = show.end();
    assert_eq!((verdict.reconnects_of_cursors, verdict.told), (0, 0), "all is in the history: {verdict:?}");
}

#[test]
fn a_redis_that_lost_its_data_is_noticed() {
    let mut redis = Redis::pair();
    let show = Show::begin("data lost", nodes_on(&redis, 3));
    let one = &mut redis[0];
    let killed = Instant::now();
    one.kill();
    show.go_on(Duration::from_secs(3));
    one.restart_empty();
    show.recover("restarted without data", killed);

    let killed = Instant::now();
    one.restart_with_data();
    show.recover("restarted with data", killed);

    let flushed = Instant::now();
    one.flush();
    show.recover("flushed", flushed);
    let verdict = show.end();
    assert!(verdict.told > 0, "{verdict:?}");
    assert_eq!(verdict.reconnects_of_cursors, 0, "connections stay up");
}

#[test]
fn a_redis_that_stands_still_is_waited_for() {
    let redis = Redis::pair();
    let show = Show::begin("Redis stopped", nodes_on(&redis, 3));
    let one = &redis[0];
    let stopped = Instant::now();
    one.stop();
    show.go_on(Duration::from_secs(6));
    one.cont();
    show.recover("stood still for 6 s", stopped);
    assert!(show.press.refused() > 0, "what cannot be stored is refused");
    let verdict = show.end();
    assert_eq!((verdict.reconnects_of_cursors, verdict.told), (0, 0), "all is in the history: {verdict:?}");
}

#[test]
fn a_redis_without_memory_refuses_and_recovers() {
    let redis = Redis::standalone();
    let show = Show::begin("memory full", Nodes::start(&redis.url(), 3, &config()));
    let refused = show.press.refused();
    redis.config("maxmemory", "1mb");
    eventually("publications are refused", || show.press.refused() > refused + 20);
    show.go_on(Duration::from_secs(2));
    redis.config("maxmemory", "0");
    show.recover("memory was full", Instant::now());
    let verdict = show.end();
    assert_eq!((verdict.reconnects_of_cursors, verdict.told), (0, 0), "nothing was lost: {verdict:?}");
}
