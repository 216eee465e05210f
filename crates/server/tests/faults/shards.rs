//! Redis servers that are added and removed while nodes run: the channels that move take their subscribers along.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::show::{Show, config};
use crate::support::redis::Redis;
use crate::support::{Nodes, Server, eventually};

/// Between one step and the next. Twice that is well below the 10 s after which a poll that waits for a server is ended.
const APART: Duration = Duration::from_secs(3);

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
    thread::sleep(APART);
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
    let (refused, told) = (show.press.refused(), show.crowd.told());
    show.recover("the first is gone", Instant::now());
    assert_eq!((show.press.refused(), show.crowd.told()), (refused, told), "nobody needs it");
    let verdict = show.end();
    assert_eq!(verdict.reconnects_of_cursors, 0, "connections stay up");
}

#[test]
fn a_server_that_died_is_taken_out() {
    let [mut one, two, three] = [(); 3].map(|()| Redis::standalone());
    let show = Show::begin_wide("shard dead", Nodes::start("", 2, &on(&[&one, &two])));
    one.kill();
    thread::sleep(APART);
    go_over(&show, &[&two, &three], "another in its place");
    assert!(histories(&three) > 0, "it has its share of the channels");
    assert_eq!(show.end().reconnects_of_cursors, 0, "connections stay up");
}

/// What is not kept cannot be filled in later: a node that has not followed must not publish it where the others are no more.
#[test]
fn what_is_not_kept_is_heard_or_refused() {
    let [one, two, three] = [(); 3].map(|()| Redis::standalone());
    let unkept = |servers: &[&Redis]| on(servers).replace("[[apps.history]]", "[[apps.history]]\nenabled = false");
    let nodes = Nodes::start("", 2, &unkept(&[&one, &two]));
    let (ahead, behind) = (nodes.node(0), nodes.node(1));
    ahead.reload(&unkept(&[&one, &two, &three]));
    let mut socket = ahead.connect();
    let channels: Vec<String> = (0..36).map(|n| format!("room-{n}")).collect();
    channels.iter().for_each(|channel| socket.subscribe(channel));
    let publish = |channel: &String| {
        let answer = behind.post("/events", &json!({"name": "said", "channels": [channel], "data": "x"}));
        if answer.status != 200 {
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        }
        answer.status == 200
    };
    let heard: Vec<&String> = channels.iter().filter(|channel| publish(channel)).collect();
    assert!((1..channels.len()).contains(&heard.len()), "some have moved, and some have not: {heard:?}");
    // Each server has its own connection, so what comes from two of them comes in any order.
    let mut came: Vec<Value> = heard.iter().map(|_| socket.expect_event("said")["channel"].clone()).collect();
    came.sort_by_key(|channel| channels.iter().position(|other| channel == other));
    assert!(came.iter().eq(heard), "{came:?}");
    behind.reload(&unkept(&[&one, &two, &three]));
    for channel in &channels {
        eventually("it has followed", || publish(channel));
        assert_eq!(socket.expect_event("said")["channel"], **channel);
    }
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

/// Presence channels that move have all of their members again when all nodes have followed, who stayed connected all the time.
#[test]
fn members_move_with_their_channels() {
    let [one, two, three] = [(); 3].map(|()| Redis::standalone());
    let nodes = Nodes::start("", 2, &on(&[&one, &two]));
    let mut sockets =
        [0, 1].map(|ix| nodes.node(ix).connect_to("/app/fanfare-key?protocol=7&client=test&version=1.0&positions=1"));
    let channels: Vec<String> = (0..36).map(|n| format!("presence-fault-{n}")).collect();
    for (socket, user) in sockets.iter_mut().zip(["ann", "bob"]) {
        channels.iter().for_each(|channel| drop(socket.join(channel, &json!({"user_id": user}).to_string())));
    }
    let all_here = || {
        let mut asked = channels.iter().flat_map(|channel| (0..2).map(move |ix| (channel, ix)));
        asked.all(|(channel, ix)| {
            let answer = nodes.node(ix).get(&format!("/channels/{channel}/users"), &[]);
            answer.status == 200 && answer.json()["users"] == json!([{"id": "ann"}, {"id": "bob"}])
        })
    };
    assert!(all_here(), "from the start");
    for to in [&[&one, &two, &three][..], &[&two, &three]] {
        (0..2).for_each(|ix| nodes.node(ix).reload(&on(to)));
        eventually("everybody is there again", all_here);
    }
    // Whoever leaves now leaves everywhere.
    drop(sockets);
    let nobody =
        |channel: &String| nodes.node(0).get(&format!("/channels/{channel}/users"), &[]).json()["users"] == json!([]);
    eventually("nobody is left", || channels.iter().all(nobody));
}
