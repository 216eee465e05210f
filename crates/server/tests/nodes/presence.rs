//! Who is here is one list, whichever node is asked, and nodes come and go without anybody being seen to leave who did not.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::{Nodes, Socket, eventually, inner, one_app};

const ROOM: &str = "presence-room";

/// Members of the node that is killed.
const MEMBERS: usize = 80;

/// How long a killed node's members may stay; and as much again on a machine that is busy.
const GONE: Duration = Duration::from_secs(10);

/// A lease without the beat that may have been the next.
const BACK: Duration = Duration::from_secs(2);

/// Longer than the lease of a node.
const STALL: Duration = Duration::from_millis(3500);

fn nodes(count: usize, servers: &[Redis], app: &str) -> Nodes {
    let redis: Vec<_> = servers.iter().map(Redis::url).collect();
    Nodes::start(&redis.join(","), count, &format!("drain_s = 1\n{}", one_app(app)))
}

fn user(name: &str) -> String {
    json!({"user_id": name}).to_string()
}

fn joined(nodes: &Nodes, ix: usize, name: &str) -> Socket {
    let mut socket = nodes.node(ix).connect();
    socket.join(ROOM, &user(name));
    socket
}

fn change(event: &str, name: &str) -> String {
    json!({"event": event, "channel": ROOM, "data": user(name)}).to_string()
}

fn added(name: &str) -> String {
    json!({"event": "pusher_internal:member_added", "channel": ROOM, "data": json!({"user_id": name, "user_info": null}).to_string()})
        .to_string()
}

fn removed(name: &str) -> String {
    change("pusher_internal:member_removed", name)
}

fn ids(nodes: &Nodes, ix: usize) -> Vec<String> {
    let answer = nodes.node(ix).get(&format!("/channels/{ROOM}/users"), &[]).json();
    let users = answer["users"].as_array().unwrap_or_else(|| panic!("{answer}"));
    users.iter().map(|user| user["id"].as_str().expect("an id").to_owned()).collect()
}

fn counts(nodes: &Nodes, ix: usize, channel: &str) -> Value {
    let info = if channel.starts_with("presence-") { "subscription_count,user_count" } else { "subscription_count" };
    nodes.node(ix).get(&format!("/channels/{channel}"), &[("info", info)]).json()
}

#[test]
fn members_on_several_nodes_are_one_list() {
    let servers = Redis::pair();
    let nodes = nodes(3, &servers, "subscription_count = true");
    let mut ann = joined(&nodes, 0, "ann");
    let mut bob = nodes.node(1).connect();
    assert_eq!(bob.join(ROOM, &user("bob"))["ids"], json!(["ann", "bob"]));
    ann.expect(&added("bob"));
    let again = joined(&nodes, 2, "bob");
    for ix in 0..3 {
        assert_eq!(ids(&nodes, ix), ["ann", "bob"]);
        let expected = json!({"occupied": true, "subscription_count": 3, "user_count": 2});
        assert_eq!(counts(&nodes, ix, ROOM), expected);
    }
    bob.unsubscribe(ROOM);
    bob.settle();
    ann.expect_nothing();
    drop(again);
    ann.expect(&removed("bob"));
    eventually("the list is the same everywhere", || (0..3).all(|ix| ids(&nodes, ix) == ["ann"]));
}

#[test]
fn counts_are_told_to_subscribers_of_all_nodes() {
    let servers = [Redis::standalone()];
    let nodes = nodes(2, &servers, "subscription_count = true");
    let told = |n: u64| {
        let data = json!({"subscription_count": n}).to_string();
        json!({"event": "pusher_internal:subscription_count", "channel": "room", "data": data}).to_string()
    };
    let (mut one, mut two) = (nodes.node(0).connect(), nodes.node(1).connect());
    one.subscribe("room");
    one.expect(&told(1));
    two.subscribe("room");
    one.expect(&told(2));
    two.expect(&told(2));
    let list = nodes.node(0).get("/channels", &[]).json();
    assert_eq!(list, json!({"channels": {"room": {}}}));
    drop(two);
    one.expect(&told(1));
    assert_eq!(counts(&nodes, 1, "room"), json!({"occupied": true, "subscription_count": 1}));
}

#[test]
fn users_are_watched_reached_and_sent_away_across_nodes() {
    let servers = Redis::pair();
    let nodes = nodes(2, &servers, "");
    let (mut ann, mut bob) = (nodes.node(0).connect(), nodes.node(1).connect());
    ann.sign_in(r#"{"id":"ann","watchlist":["bob"]}"#);
    let watched = |name: &str| {
        let data = json!({"events": [{"name": name, "user_ids": ["bob"]}]}).to_string();
        json!({"event": "pusher_internal:watchlist_events", "data": data}).to_string()
    };
    ann.expect(&watched("offline"));
    bob.sign_in(r#"{"id":"bob"}"#);
    ann.expect(&watched("online"));
    nodes.node(0).publish("#server-to-user-bob", "hello", "there");
    assert_eq!(bob.recv()["event"], "hello");
    nodes.node(0).post("/users/bob/terminate_connections", &json!({})).expect(200, "{}");
    bob.expect_close(4009);
    ann.expect(&watched("offline"));
}

#[test]
fn a_killed_nodes_members_leave_and_whoever_came_back_is_not_seen_to() {
    assert!((0..3).any(|_| is_judged_after_a_node_was_killed()), "no client was back in time");
}

/// False where this machine was too slow to have the clients back before the lease of their node could end.
fn is_judged_after_a_node_was_killed() -> bool {
    let servers = Redis::pair();
    let mut nodes = nodes(3, &servers, "subscription_count = true");
    let mut witness = joined(&nodes, 1, "witness");
    let names: Vec<String> = (0..MEMBERS).map(|n| format!("member-{n:03}")).collect();
    let sockets: Vec<Socket> = names.iter().map(|name| joined(&nodes, 0, name)).collect();
    for name in &names {
        witness.expect(&added(name));
    }
    let mut watcher = nodes.node(2).connect();
    watcher.sign_in(r#"{"id":"watcher","watchlist":["gone"]}"#);
    watcher.recv();
    let mut gone = nodes.node(0).connect();
    gone.subscribe("room");
    gone.recv();
    gone.sign_in(r#"{"id":"gone"}"#);
    watcher.recv();

    let killed = Instant::now();
    nodes.kill(0);
    drop(sockets);
    // Every other client is back at once.
    let back: Vec<Socket> = names.iter().step_by(2).map(|name| joined(&nodes, 2, name)).collect();
    if killed.elapsed() > BACK {
        return false;
    }
    let mut left = HashSet::new();
    while left.len() < MEMBERS / 2 {
        let message = witness.expect_event("pusher_internal:member_removed");
        left.insert(inner(&message)["user_id"].as_str().expect("an id").to_owned());
    }
    let took = killed.elapsed();
    let expected: HashSet<String> = names.iter().skip(1).step_by(2).cloned().collect();
    assert_eq!(left, expected);
    witness.expect_nothing();
    println!("members={MEMBERS} back={} left={} in {took:?}", back.len(), left.len());
    assert!(took < GONE, "{took:?}");
    assert_eq!(ids(&nodes, 1).len(), 1 + MEMBERS / 2);
    let offline = watcher.recv().to_string();
    assert!(offline.contains("offline") && offline.contains("gone"), "{offline}");
    eventually("its counts are gone", || {
        counts(&nodes, 1, "room") == json!({"occupied": false, "subscription_count": 0})
    });
    true
}

/// A machine that is moved, or swaps, holds everything on it still. What it could not hear meanwhile makes nobody dead: neither
/// those who lived, nor those who had yet to come back from a node that was killed just before.
#[test]
fn a_machine_that_stands_still_lets_nobody_leave_for_it() {
    let servers = [Redis::standalone()];
    let mut nodes = nodes(3, &servers, "");
    let mut witness = joined(&nodes, 1, "witness");
    let mut sockets = [("ann", 0), ("bob", 0), ("cid", 2)].map(|(name, ix)| {
        let socket = joined(&nodes, ix, name);
        witness.expect(&added(name));
        socket
    });
    nodes.kill(0);
    servers[0].stop();
    (1..3).for_each(|ix| nodes.node(ix).signal("STOP"));
    sleep(STALL);
    servers[0].cont();
    for ix in 1..3 {
        nodes.node(ix).signal("CONT");
        // Whoever is heard first could find that the leases of others have ended.
        sleep(Duration::from_millis(500));
    }
    sockets[0] = joined(&nodes, 2, "ann");
    witness.expect(&removed("bob"));
    witness.expect_nothing();
    assert_eq!(ids(&nodes, 1), ["witness", "ann", "cid"]);
}

#[test]
fn a_node_that_is_restarted_is_not_seen_by_those_who_come_back() {
    let servers = [Redis::standalone()];
    let mut nodes = nodes(2, &servers, "");
    let mut witness = joined(&nodes, 1, "witness");
    let (mut ann, mut bob) = (joined(&nodes, 0, "ann"), joined(&nodes, 0, "bob"));
    witness.expect(&added("ann"));
    witness.expect(&added("bob"));
    ann.expect(&added("bob"));
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| nodes.terminate(0));
        ann.expect_close(4200);
        bob.expect_close(4200);
        ending.join().expect("it ends");
    });
    // Ann is back where the other is; Bob is not.
    let mut ann = joined(&nodes, 1, "ann");
    witness.expect(&removed("bob"));
    witness.expect_nothing();
    ann.expect(&removed("bob"));
    assert_eq!(ids(&nodes, 1), ["witness", "ann"]);
}
