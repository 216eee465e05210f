//! What one node has to hear from another, over each kind of Redis: requests of a pusher-js session that come to a node which does
//! not have it, and tokens that were taken back elsewhere.

use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::{KEY, Nodes, Reader, Response, Transport, eventually, now_s, one_app, request, token};

/// Nodes behind a balancer that deals each request to the next one.
struct Round<'a> {
    nodes: &'a Nodes,
    session: &'a str,
    turn: usize,
}

impl Round<'_> {
    fn ask(&mut self, verb: &str, body: &str) -> Response {
        self.turn += 1;
        let target = format!("/pusher/app/{KEY}/{}/{verb}?protocol=7&client=js", self.session);
        let answer = request(self.nodes.addr(self.turn % 3), "POST", &target, &[], body);
        assert!(matches!(answer.status, 200 | 204), "{verb} at node {}: {answer:?}", self.turn % 3);
        answer
    }

    fn say(&mut self, message: Value) {
        self.ask("xhr_send", &json!([message.to_string()]).to_string());
    }

    /// Polls until there is a message of this event, and returns its data.
    fn expect(&mut self, event: &str) -> Value {
        loop {
            let answer = self.ask("xhr", "").body;
            assert!(!answer.starts_with('c'), "the session ended: {answer}");
            for frame in answer.lines().filter_map(|line| line.strip_prefix('a')) {
                let texts: Vec<String> = serde_json::from_str(frame).expect("an array of strings");
                let messages = texts.iter().map(|text| serde_json::from_str::<Value>(text).expect("a message"));
                if let Some(message) = messages.into_iter().find(|message| message["event"] == event) {
                    return message["data"].clone();
                }
            }
        }
    }
}

/// A session is one node's, and its requests come to all three in turn.
fn sessions_need_no_stickiness(nodes: &Nodes) {
    for (n, session) in ["1/aaaaaaaa", "2/bbbbbbbb", "3/cccccccc", "4/dddddddd"].into_iter().enumerate() {
        let mut round = Round { nodes, session, turn: n };
        round.expect("pusher:connection_established");
        round.say(json!({"event": "pusher:subscribe", "data": {"channel": "room"}}));
        round.expect("pusher_internal:subscription_succeeded");
        for node in 0..3 {
            nodes.node(node).publish("room", "said", &format!("{session} {node}"));
            assert_eq!(round.expect("said"), format!("{session} {node}"));
        }
        round.say(json!({"event": "pusher:ping", "data": {}}));
        round.expect("pusher:pong");
    }
}

fn revocations_hold_on_all_nodes(nodes: &Nodes) {
    let token = token(json!({"sub": "ann", "jti": "t1", "channels": ["private-*"], "exp": now_s() + 600}));
    let headers = [("Authorization", &*format!("Bearer {token}"))];
    let ask = |node: usize| Reader::ask(nodes.addr(node), Transport::Stream, "private-room", "", &headers);
    let mut readers: Vec<Reader> = (0..3).map(|node| ask(node).unwrap_or_else(|why| panic!("{why:?}"))).collect();
    for reader in &mut readers {
        assert_eq!(reader.next()["event"], "fanfare:subscribed");
    }
    let revoked = nodes.node(0).post("/tokens/revoke", &json!({"jti": "t1", "exp": now_s() + 600}));
    assert_eq!(revoked.status, 200, "{revoked:?}");
    for reader in &mut readers {
        let last = reader.next();
        assert_eq!((&last["event"], &last["reason"]), (&json!("fanfare:closed"), &json!("token_revoked")), "{last}");
    }
    for node in 0..3 {
        eventually("every node refuses it", || ask(node).is_err_and(|refused| refused.status == 401));
    }
}

fn check(redis: &str) {
    let nodes = Nodes::start(redis, 3, &one_app(""));
    sessions_need_no_stickiness(&nodes);
    revocations_hold_on_all_nodes(&nodes);
}

#[test]
fn nodes_hear_each_other_over_two_servers() {
    let servers = Redis::pair();
    check(&servers.each_ref().map(Redis::url).join(","));
}

#[test]
fn nodes_hear_each_other_over_what_sentinels_watch() {
    let group = Redis::sentinel();
    check(&group.url());
}

#[test]
fn nodes_hear_each_other_over_a_cluster() {
    let cluster = Redis::cluster();
    check(&cluster.url());
}
