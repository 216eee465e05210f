//! Edges hold subscribers, API nodes answer publishers, and each says so to whoever comes for the other.

use serde_json::json;

use crate::support::redis::Redis;
use crate::support::{KEY, Nodes, Reader, SECRET, STREAMS, Server, eventually, one_app};

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

#[test]
fn api_nodes_reach_the_subscribers_of_all_edges() {
    let redis = Redis::pair();
    let urls = redis.each_ref().map(Redis::url).join(",");
    let mut nodes = Nodes::start(&urls, 0, "");
    let config = one_app("client_events = true");
    let api: Vec<usize> = (0..2).map(|_| nodes.add(&urls, &config, &["--role", "api"])).collect();
    let edges: Vec<usize> = (0..2).map(|_| nodes.add(&urls, &config, &["--role", "edge"])).collect();
    let [ann, bob] = [("ann", edges[0]), ("bob", edges[1])].map(|(name, edge)| {
        let mut socket = nodes.node(edge).connect();
        socket.sign_in(&format!(r#"{{"id":"{name}"}}"#));
        socket.join("presence-room", &format!(r#"{{"user_id":"{name}"}}"#));
        socket.subscribe("news");
        socket
    });
    let (mut ann, mut bob) = (ann, bob);
    ann.expect_event("pusher_internal:member_added");
    let mut streams: Vec<Reader> =
        edges.iter().zip(STREAMS).map(|(&edge, how)| Reader::open(nodes.node(edge), how, "news")).collect();

    for (n, &node) in api.iter().enumerate() {
        let node = nodes.node(node);
        node.publish("news", "said", &n.to_string());
        for socket in [&mut ann, &mut bob] {
            assert_eq!(socket.expect_event("said")["data"], n.to_string());
        }
        for stream in &mut streams {
            assert_eq!(stream.data(), n.to_string());
        }
        eventually("all are counted", || {
            let channel = node.get("/channels/news", &[("info", "subscription_count")]).json();
            channel["occupied"] == true && channel["subscription_count"] == 4
        });
        let mut users = node.get("/channels/presence-room/users", &[]).json()["users"].clone();
        users.as_array_mut().expect("users").sort_by_key(|user| user["id"].to_string());
        assert_eq!(users, json!([{"id": "ann"}, {"id": "bob"}]));
        let to_bob = json!({"name": "whispered", "channels": ["#server-to-user-bob"], "data": n.to_string()});
        assert_eq!(node.post("/events", &to_bob).status, 200);
        assert_eq!(bob.expect_event("whispered")["data"], n.to_string());
    }
    ann.say_on("presence-room", "client-said", json!("hello"));
    assert_eq!(bob.expect_event("client-said")["user_id"], "ann");
    let ended = nodes.node(api[1]).post("/users/ann/terminate_connections", &json!({}));
    assert_eq!(ended.status, 200, "{ended:?}");
    ann.expect_close(4009);
    bob.expect_event("pusher_internal:member_removed");
}
