//! Redis servers that are added and removed while nodes run: the channels that move take their subscribers along.

use std::time::{Duration, Instant};

use super::show::{Show, config};
use crate::support::redis::Redis;
use crate::support::{Nodes, Server};

/// The nodes' configuration on these servers.
fn on(servers: &[&Redis]) -> String {
    format!("{}partitioned = true\n", whole(servers))
}

/// The same where each channel belongs to a server, and not to a partition.
fn whole(servers: &[&Redis]) -> String {
    let urls: Vec<String> = servers.iter().map(|server| format!("{:?}", server.url())).collect();
    format!("{}\n[redis]\nservers = [{}]\n", config(), urls.join(", "))
}

/// How many channels' histories a server holds.
fn histories(server: &Redis) -> usize {
    server.client().ask(&["KEYS", "fanfare:*:h:1/fault-*"]).expect("an answer").array().len()
}

/// Lets the nodes go over to other servers, one some time after the other.
fn go_over(show: &Show, to: &[&Redis], what: &str) {
    let began = Instant::now();
    show.nodes.node(0).reload(&on(to));
    show.go_on(Duration::from_secs(3));
    let refused = show.press.refused();
    show.nodes.node(1).reload(&on(to));
    println!("shards: {what}: {refused} publications refused before the second node followed");
    show.recover(what, began);
    (0..2).for_each(|ix| show.nodes.await_ready(ix));
    let refused = show.press.refused();
    show.go_on(Duration::from_secs(2));
    show.recover("going on", Instant::now());
    assert_eq!(show.press.refused(), refused, "{what}: both have the servers, and nothing is refused any more");
}

#[test]
fn servers_are_added_and_removed_under_load() {
    let [mut one, two, three] = [(); 3].map(|()| Redis::standalone());
    let show = Show::begin_wide("shards", Nodes::start("", 2, &on(&[&one, &two])));
    go_over(&show, &[&one, &two, &three], "a third added");
    assert!(histories(&three) > 0, "it has its share of the channels");
    go_over(&show, &[&two, &three], "the first removed");
    one.kill();
    let refused = show.press.refused();
    show.recover("the first is gone", Instant::now());
    assert_eq!(show.press.refused(), refused, "nobody needs it");
    let verdict = show.end();
    assert_eq!(verdict.reconnects_of_cursors, 0, "connections stay up");
}

#[test]
fn a_server_that_died_is_taken_out() {
    let [mut one, two, three] = [(); 3].map(|()| Redis::standalone());
    let show = Show::begin_wide("shard dead", Nodes::start("", 2, &on(&[&one, &two])));
    one.kill();
    show.go_on(Duration::from_secs(2));
    go_over(&show, &[&two, &three], "another in its place");
    assert!(histories(&three) > 0, "it has its share of the channels");
    assert_eq!(show.end().reconnects_of_cursors, 0, "connections stay up");
}

#[test]
fn without_partitions_other_servers_wait_for_a_restart() {
    let [one, two] = Redis::pair();
    let node = Server::start(&whole(&[&one]));
    let mut socket = node.connect();
    socket.subscribe("room");
    for other in [whole(&[&one, &two]), on(&[&one, &two])] {
        let warnings = || node.log().matches("the Redis servers stay as they are").count();
        let before = warnings();
        node.reload(&other);
        assert_eq!(warnings(), before + 1);
    }
    (0..20).for_each(|n| node.publish(&format!("fault-{n}"), "said", "x"));
    node.publish("room", "said", "still here");
    socket.expect(r#"{"event":"said","channel":"room","data":"still here"}"#);
    assert_eq!(two.ask(&["DBSIZE"]).int(), 0, "nothing has gone there");
}
