//! Edges hold subscribers, API nodes answer publishers, and each says so to whoever comes for the other.

use serde_json::json;

use crate::support::redis::Redis;
use crate::support::{KEY, SECRET, Server, one_app};

fn node(redis: &Redis, role: &str) -> Server {
    let shared = format!("[redis]\nservers = [\"{}\"]\n", redis.url());
    Server::start_with(&format!("{}\n{shared}", one_app("")), &["--role", role])
}

/// What a browser sends to open a WebSocket.
const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[test]
fn an_edge_answers_no_publishers() {
    let redis = Redis::standalone();
    let edge = node(&redis, "edge");
    let bearer = format!("Bearer {SECRET}");
    let answers = [
        edge.post("/events", &json!({"name": "e", "channel": "room", "data": "x"})),
        edge.get("/channels", &[]),
        edge.request("POST", &format!("/pub/{KEY}/room"), &[("Authorization", &bearer)], "x"),
    ];
    for answer in answers {
        assert_eq!(answer.status, 421, "{answer:?}");
        assert!(answer.body.contains(r#"has the role \"edge\""#), "{answer:?}");
    }
    edge.connect().subscribe("room");
    assert_eq!(edge.request("GET", "/fanfare.js", &[], "").status, 200);
}

#[test]
fn an_api_node_holds_no_subscribers() {
    let redis = Redis::standalone();
    let api = node(&redis, "api");
    let answers = [
        api.request("GET", &format!("/app/{KEY}?protocol=7"), &UPGRADE, ""),
        api.request("GET", &format!("/sub/{KEY}/room"), &UPGRADE, ""),
        api.request("GET", &format!("/sub/{KEY}/room?transport=poll"), &[], ""),
        api.request("GET", &format!("/sub/{KEY}/room"), &[("Accept", "text/event-stream")], ""),
        api.request("POST", &format!("/pusher/app/{KEY}/1/abcdefgh/xhr_streaming"), &[], ""),
    ];
    for answer in answers {
        assert_eq!(answer.status, 421, "{answer:?}");
        assert!(answer.body.contains(r#"has the role \"api\""#), "{answer:?}");
    }
    api.publish("room", "e", "x");
    assert_eq!(api.get("/channels", &[]).status, 200);
    assert_eq!(api.admin_get("/readyz").status, 200);
}
