//! Two groups that the same Sentinels watch, each with channels of its own: what happens to one is nothing to the other's.

use serde_json::json;

use crate::support::redis::{Redis, Sentinel, eventually};
use crate::support::{Nodes, Reader, Transport, one_app};

/// A second primary with its replica, watched by the Sentinels of the first group under the name `two`.
fn join(group: &Sentinel) -> [Redis; 2] {
    let primary = Redis::standalone();
    let port = primary.port().to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]);
    for sentinel in &group.sentinels {
        sentinel.run(&["SENTINEL", "MONITOR", "two", "127.0.0.1", &port, "2"]);
    }
    [primary, replica]
}

/// A channel that this server has, of those that the reader is subscribed to.
fn channel_at(server: &Redis, channels: &[String]) -> String {
    let there = server.run(&["PUBSUB", "SHARDCHANNELS", "*c:1/*"]).texts();
    let here = |channel: &&String| there.iter().any(|name| name.ends_with(&format!("/{channel}")));
    channels.iter().find(here).expect("each group has some of many channels").clone()
}

#[test]
fn a_group_that_loses_its_primary_is_nothing_to_the_other_ones_channels() {
    let mut group = Redis::sentinel();
    let other = join(&group);
    let nodes = Nodes::start(&format!("{}+two", group.url()), 2, &one_app(""));
    let channels: Vec<String> = (0..30).map(|n| format!("room-{n}")).collect();
    let open = |channels: &str| Reader::open(nodes.node(1), Transport::Stream, channels);
    let (mut few, mut more) = (open(&channels[..15].join("/")), open(&channels[15..].join("/")));
    let [first, second] = [&group.servers[0], &other[0]].map(|server| channel_at(server, &channels));
    // Whoever is on channels of both groups hears both.
    for (n, channel) in channels.iter().enumerate() {
        nodes.node(0).publish(channel, "said", &n.to_string());
        let reader = if n < 15 { &mut few } else { &mut more };
        assert_eq!(reader.data(), n.to_string());
    }
    drop((few, more));

    let mut hit = open(&first);
    let mut spared = open(&second);
    let killed = group.kill_primary();
    let try_to = |channel: &str, data: &str| {
        let body = json!({"name": "said", "channels": [channel], "data": data});
        nodes.node(0).post("/events", &body).status
    };
    let mut n = 0;
    eventually("the group has another primary, and takes publications", || {
        assert_eq!(try_to(&second, &format!("during {n}")), 200, "number {n}");
        assert_eq!(spared.data(), format!("during {n}"));
        n += 1;
        group.primary().is_some_and(|now| now != killed) && try_to(&first, "after") == 200
    });
    assert!(n > 3, "it took some time");
    while hit.next()["data"] != "after" {}
    assert_eq!(try_to(&second, "after"), 200);
    assert_eq!(spared.data(), "after");
    for node in 0..2 {
        let lost = format!("fanfare_redis_lost_total{{server=\"{}\"}}", other[0].addr());
        assert_eq!(nodes.node(node).metric(&lost), 0.0);
    }
}
