//! What is refused, and what the refusal says.

use serde_json::json;

use super::*;
use crate::support::{WebSocket, Wire, eventually, token};

#[test]
fn what_is_no_request_for_channels_is_400() {
    let server = server("limits = { channel_name_len_max = 20 }");
    let cases = [
        ("", "expected /sub/{app_key}/{channel}"),
        ("a%20b?transport=poll", "' '"),
        ("a/b%2Fc?transport=poll", "'/'"),
        ("0123456789012345678901?transport=poll", "at most 20"),
        ("%FF?transport=poll", "channel name"),
        ("room?transport=pigeon", "transport must be ws, sse, stream, longpoll or poll"),
        ("room?transport=ws", "takes a WebSocket upgrade"),
        ("room?format=xml", "format must be raw or json"),
        ("room?wait=0", "wait must be"),
        ("room?wait=soon", "wait must be"),
        ("room?wait=3600", "wait must be"),
        ("room?backtrack=-1", "backtrack must be"),
        ("room?backtrack=all", "backtrack must be"),
        ("room?backtrack=99999999999", "backtrack must be"),
    ];
    for (rest, because) in cases {
        refused(&sub(&server, rest, &[]), 400, because);
    }
}

#[test]
fn a_cursor_that_is_none_is_400_wherever_it_stands() {
    let server = server("");
    server.publish("room", "said", "x");
    let good = cursor(&server, "room");
    let (long, cut, tail) = ("A".repeat(129), &good[..good.len() - 1], format!("{good}A"));
    let cases = [
        ("nonsense", "not a whole cursor"),
        ("12", "not a whole cursor"),
        ("0", "not a whole cursor"),
        ("a b", "not a whole cursor"),
        ("%00", "not a whole cursor"),
        (cut, "not a whole cursor"),
        (&tail, "not a whole cursor"),
        (&long, "at most 128 characters"),
    ];
    for (text, because) in cases {
        for transport in ["sse", "stream", "longpoll", "poll"] {
            let rest = format!("room?transport={transport}");
            for name in ["since", "last_event_id", "lastEventID", "lastEventId"] {
                refused(&sub(&server, &format!("{rest}&{name}={}", text.replace(' ', "%20")), &[]), 400, because);
            }
            if text != "%00" {
                refused(&sub(&server, &rest, &[("Last-Event-ID", text)]), 400, because);
                refused(&sub(&server, &rest, &[("If-None-Match", &format!("\"{text}\""))]), 400, because);
            }
        }
        let target = format!("/sub/fanfare-key/room?since={}", text.replace(' ', "%20"));
        let socket = WebSocket::open(server.addr, &target, &[]).err().expect("no WebSocket");
        refused(&socket, 400, because);
    }
    assert_eq!(sub(&server, &format!("room?transport=poll&since={good}"), &[]).status, 204);
}

const TWO_APPS: &str = r#"
[[apps]]
id = "1"
keys = [{ key = "one", secret = "s1" }]
allowed_origins = ["https://good.example"]

[[apps]]
id = "2"
keys = [{ key = "two", secret = "s2" }]

[[apps]]
id = "3"
enabled = false
keys = [{ key = "off", secret = "s3" }]
"#;

#[test]
fn a_cursor_of_another_app_is_400() {
    let server = Server::start(TWO_APPS);
    let answer = server.request("GET", "/sub/one/room?transport=poll&format=json", &[], "");
    let cursor = answer.header("fanfare-cursor").expect("a cursor").to_owned();
    for transport in ["sse", "stream", "longpoll", "poll"] {
        let target = |key| format!("/sub/{key}/room?transport={transport}&wait=1&since={cursor}");
        refused(&server.request("GET", &target("two"), &[], ""), 400, "another app");
    }
    let own = format!("/sub/one/room?transport=poll&since={cursor}");
    assert_eq!(server.request("GET", &own, &[], "").status, 204);
}

#[test]
fn apps_and_origins_that_may_not_are_told_so() {
    let server = Server::start(TWO_APPS);
    for transport in ["sse", "stream", "longpoll", "poll"] {
        let get = |key: &str, headers: &[(&str, &str)]| {
            server.request("GET", &format!("/sub/{key}/room?transport={transport}"), headers, "")
        };
        refused(&get("nobody", &[]), 404, "no app with key nobody");
        refused(&get("off", &[]), 403, "disabled");
        refused(&get("one", &[("Origin", "https://bad.example")]), 403, "https://bad.example is not allowed");
    }
    let open = |target: &str, headers: &[(&str, &str)]| WebSocket::open(server.addr, target, headers).err();
    refused(&open("/sub/nobody/room", &[]).expect("no WebSocket"), 404, "no app");
    refused(&open("/sub/off/room", &[]).expect("no WebSocket"), 403, "disabled");
    let bad = [("Origin", "https://bad.example")];
    refused(&open("/sub/one/room", &bad).expect("no WebSocket"), 403, "not allowed");
}

#[test]
fn too_many_channels_are_403() {
    let server = server("limits = { channels_per_connection_max = 2 }");
    assert_eq!(sub(&server, "a/b?transport=poll", &[]).status, 200);
    assert_eq!(sub(&server, "a/b/a?transport=poll", &[]).status, 200, "named twice is there once");
    for transport in ["sse", "stream", "longpoll", "poll"] {
        refused(&sub(&server, &format!("a/b/c?transport={transport}"), &[]), 403, "no more than 2 channels");
    }
}

#[test]
fn channels_that_are_not_for_everybody_take_a_token() {
    let server = server("");
    let good = token(json!({"channels": ["private-*", "presence-a"], "sub": "ann"}));
    let nobody = token(json!({"channels": ["*"]}));
    let over = token(json!({"channels": ["*"], "exp": crate::support::now_s() - 60}));
    let forged = format!("{}x", &good[..good.len() - 1]);
    let cases = [
        ("private-a", None, 401, "takes a token"),
        ("presence-a", None, 401, "takes a token"),
        ("private-a", Some(&over), 401, "expired"),
        ("private-a", Some(&forged), 401, ""),
        ("room", Some(&over), 401, "expired"),
        ("private-a", Some(&token(json!({"channels": ["room"]}))), 403, "does not cover private-a"),
        ("presence-b", Some(&good), 403, "does not cover presence-b"),
        ("private-a/presence-b", Some(&good), 403, "does not cover presence-b"),
        ("presence-a", Some(&nobody), 403, "takes a token with a sub"),
        ("%23server-to-user-ann", Some(&good), 403, "signed in"),
    ];
    for (channels, token, status, because) in cases {
        for transport in ["sse", "stream", "longpoll", "poll"] {
            let bearer = token.map(|token| format!("Bearer {token}"));
            let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
            refused(&sub(&server, &format!("{channels}?transport={transport}"), &headers), status, because);
        }
    }
    server.post("/tokens/revoke", &json!({"sub": "ann"})).expect(200, "{}");
    refused(&sub(&server, &format!("private-a?token={good}"), &[]), 401, "revoked");
}

#[test]
fn a_full_node_says_when_to_come_back() {
    let server =
        Server::start(&format!("connections_max = 1\n{}", one_app("allowed_origins = [\"https://page.example\"]")));
    let _there = server.connect();
    for transport in ["sse", "stream", "longpoll", "poll"] {
        let answer = sub(&server, &format!("room?transport={transport}"), &[("Origin", "https://page.example")]);
        refused(&answer, 503, "full");
        assert!(answer.header("retry-after").and_then(|s| s.parse::<u32>().ok()).is_some(), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://page.example"));
    }
}

#[test]
fn a_full_app_says_when_to_come_back() {
    let server = server("limits = { connections_max = 1 }");
    let _there = server.connect();
    for transport in ["sse", "stream", "longpoll", "poll"] {
        let answer = sub(&server, &format!("room?transport={transport}"), &[]);
        refused(&answer, 503, "limit of 1 connections");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
}

#[test]
fn places_are_given_back() {
    let server = Server::start(&format!("connections_max = 1\n{}", one_app("")));
    for transport in ["sse", "stream", "longpoll", "poll", "sse"] {
        eventually("the place is free again", || server.metric("fanfare_connections") == 0.0);
        let mut wire = Wire::to(server.addr);
        wire.get(&format!("/sub/fanfare-key/room?transport={transport}&backtrack=0"), &[]);
        if transport != "longpoll" {
            assert!(matches!(wire.head().status, 200 | 204), "{transport}");
        } else {
            eventually("it waits", || server.metric("fanfare_connections") == 1.0);
        }
    }
}

#[test]
fn only_get_is_served() {
    let server = server("");
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = server.request(method, "/sub/fanfare-key/room", &[], "");
        refused(&answer, 405, "expected GET");
        assert_eq!(answer.header("allow"), Some("GET, OPTIONS"));
    }
}

#[test]
fn what_was_sent_is_not_sent_back_at_length() {
    let server = server("");
    let name = "x".repeat(5000);
    let answer = server.request("GET", &format!("/sub/{name}/room"), &[], "");
    refused(&answer, 404, "no app");
    assert!(answer.body.len() < 300, "{answer:?}");
}
