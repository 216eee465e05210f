//! Which transport and which format an answer has, and the lines of its head.

use super::*;
use crate::support::{WebSocket, Wire};

const UPGRADE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];

const SSE: &str = "text/event-stream; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";

type Headers<'a> = &'a [(&'a str, &'a str)];

/// The head of the answer to a GET of `/sub`.
fn head(server: &Server, rest: &str, headers: &[(&str, &str)]) -> Response {
    let mut wire = Wire::to(server.addr);
    wire.get(&format!("/sub/{KEY}/{rest}"), headers);
    wire.head()
}

#[test]
fn the_query_chooses_and_then_the_accept_header() {
    let server = server("");
    let (events, lines) = (("Accept", "text/event-stream"), ("Accept", "application/x-ndjson"));
    let cases: [(&str, Headers<'_>, &str); 18] = [
        ("room", &[events], SSE),
        ("room", &[("Accept", "text/html, text/event-stream;q=0.9")], SSE),
        ("room", &[lines], TEXT),
        ("room?format=json", &[lines], NDJSON),
        ("room?transport=sse", &[], SSE),
        ("room?transport=sse", &[lines], SSE),
        ("room?transport=stream", &[events], TEXT),
        ("room?transport=stream&format=raw", &[], TEXT),
        ("room?transport=stream&format=json", &[], NDJSON),
        ("room/hall?transport=stream", &[], NDJSON),
        ("room/hall?transport=stream&format=raw", &[], TEXT),
        ("room/room?transport=stream", &[], TEXT),
        ("room?transport=poll&format=json", &[events], "application/json"),
        ("room/hall?transport=poll", &[], "application/json"),
        ("room?transport=longpoll&format=json&wait=1", &[events], "application/json"),
        ("room/hall?wait=1", &[], "application/json"),
        ("room/hall?wait=1", &[("Accept", "*/*")], "application/json"),
        ("room?transport=sse", &UPGRADE, SSE),
    ];
    for (rest, headers, kind) in cases {
        let head = head(&server, rest, headers);
        assert_eq!((head.status, head.header("content-type")), (200, Some(kind)), "{rest} {headers:?}: {head:?}");
    }
    for rest in ["room?transport=poll", "room?wait=1", "room?transport=longpoll&wait=1"] {
        let answer = sub(&server, rest, &[]);
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{rest}: {answer:?}");
    }
    for rest in ["room", "room?transport=ws", ""] {
        let head = head(&server, rest, &UPGRADE);
        assert_eq!(head.status, 101, "{rest}: {head:?}");
    }
    assert_eq!(head(&server, "room?transport=ws", &[]).status, 400);
}

#[test]
fn the_path_may_have_a_prefix_and_escapes() {
    let server = Server::start(&format!("path_prefix = \"/push\"\n{}", one_app("")));
    for path in ["/push/sub/fanfare-key/a@b", "/sub/fanfare-key/a%40b", "/push/sub/fanfare-key//a%40b/"] {
        let answer = server.request("GET", &format!("{path}?transport=poll&format=json&backtrack=1"), &[], "");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    server.publish("a@b", "said", "x");
    for path in ["/push/sub/fanfare-key/a@b", "/sub/fanfare-key/a%40b"] {
        let answer = server.request("GET", &format!("{path}?transport=poll&backtrack=1"), &[], "");
        assert_eq!((answer.status, answer.body.as_str()), (200, "x"), "{path}");
    }
}

/// Every kind of answer: what it is asked with, and whether it goes on.
const ANSWERS: [(&str, &str); 7] = [
    ("sse", "room?transport=sse"),
    ("raw lines", "room?transport=stream"),
    ("json lines", "room?transport=stream&format=json"),
    ("poll with news", "room?transport=poll&backtrack=1"),
    ("poll without news", "quiet?transport=poll"),
    ("long-poll with news", "room?backtrack=1"),
    ("refusal", "room?since=nonsense"),
];

#[test]
fn nobody_on_the_way_may_keep_or_buffer_an_answer() {
    let server = server("");
    server.publish("room", "said", "x");
    for (what, rest) in ANSWERS {
        let head = head(&server, rest, &[]);
        assert_eq!(head.header("cache-control"), Some("no-cache, no-store, no-transform"), "{what}: {head:?}");
        assert_eq!(head.header("x-accel-buffering"), Some("no"), "{what}: {head:?}");
    }
}

#[test]
fn pages_of_any_allowed_origin_may_read_every_answer() {
    let server = server("allowed_origins = [\"https://good.example\"]");
    server.publish("room", "said", "x");
    for (what, rest) in ANSWERS {
        let bare = head(&server, rest, &[]);
        // Nothing that is no page has to be let.
        assert_eq!(bare.header("access-control-allow-origin"), None, "{what}: {bare:?}");

        let named = head(&server, rest, &[("Origin", "https://good.example")]);
        assert_eq!(named.header("access-control-allow-origin"), Some("https://good.example"), "{what}: {named:?}");
        assert_eq!(named.header("access-control-allow-credentials"), Some("true"), "{what}: {named:?}");
        assert_eq!(named.header("vary"), Some("Origin"), "{what}: {named:?}");
        let exposed = named.header("access-control-expose-headers").unwrap_or_default();
        for name in ["ETag", "Fanfare-Cursor", "Fanfare-Recovered", "Fanfare-Event", "Fanfare-Event-Id", "Fanfare-Sid"]
        {
            assert!(exposed.contains(name), "{what}: {name} in {exposed:?}");
        }
        assert!(exposed.contains("Retry-After"), "{what}: {exposed:?}");
    }
}

/// Where no page is named, every page may read, and none in its user's name.
#[test]
fn pages_that_nobody_named_read_without_credentials() {
    let server = server("");
    server.publish("room", "said", "x");
    for (what, rest) in ANSWERS {
        let answer = head(&server, rest, &[("Origin", "https://any.example")]);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{what}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), None, "{what}: {answer:?}");
    }
}

#[test]
fn a_preflight_allows_what_readers_send_and_is_kept_for_a_day() {
    let server = server("allowed_origins = [\"https://page.example\"]");
    let asked = [
        ("Origin", "https://page.example"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "last-event-id,authorization"),
    ];
    let answer = server.request("OPTIONS", "/sub/fanfare-key/room", &asked, "");
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://page.example"));
    assert_eq!(answer.header("access-control-max-age"), Some("86400"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET, OPTIONS"));
    let allowed = answer.header("access-control-allow-headers").unwrap_or_default();
    let named = ["Last-Event-ID", "Cache-Control", "Authorization", "If-None-Match", "If-Modified-Since"];
    for name in named.into_iter().chain(["Content-Type", "Idempotency-Key", "Event-Id", "Event-Type"]) {
        assert!(allowed.split(", ").any(|other| other == name), "{name} in {allowed:?}");
    }
}

#[test]
fn a_polls_answer_tells_all_there_is_to_know_in_headers() {
    let server = server("");
    let headers = [
        ("Authorization", "Bearer fanfare-secret"),
        ("Content-Type", "text/markdown"),
        ("Event-Type", "said"),
        ("Event-Id", "comment-7"),
    ];
    assert_eq!(server.request("POST", "/pub/fanfare-key/room", &headers, "*hello*").status, 202);
    for transport in ["poll", "longpoll"] {
        let answer = sub(&server, &format!("room?transport={transport}&backtrack=1"), &[]);
        assert_eq!((answer.status, answer.body.as_str()), (200, "*hello*"));
        assert_eq!(answer.header("content-type"), Some("text/markdown"));
        assert_eq!(answer.header("fanfare-event"), Some("said"));
        assert_eq!(answer.header("fanfare-event-id"), Some("comment-7"));
        assert_eq!(answer.header("fanfare-recovered"), Some("true"));
        let cursor = answer.header("fanfare-cursor").expect("a cursor");
        assert!(cursor.len() <= 128 && cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
        assert_eq!(answer.header("etag"), Some(&*format!("\"{cursor}\"")));
    }
    server.publish("room", "said", "plain");
    let answer = sub(&server, "room?transport=poll&backtrack=1", &[]);
    assert_eq!((answer.header("content-type"), answer.header("fanfare-event-id")), (Some(TEXT), None));
}

#[test]
fn a_json_answer_tells_it_in_objects() {
    let server = server("");
    let before = cursor(&server, "room");
    let event = serde_json::json!({"name": "said", "channels": ["room"], "data": "x", "event_id": "7"});
    assert_eq!(server.post("/events", &event).status, 200);
    let answer = sub(&server, &format!("room?format=json&since={before}"), &[]);
    assert_eq!(answer.status, 200);
    let told = answer.json();
    assert_eq!(told["recovered"], true, "{told}");
    assert_eq!(told["cursor"].as_str(), answer.header("fanfare-cursor"));
    let message = &told["messages"][0];
    assert_eq!(
        (&message["channel"], &message["event"], &message["data"], &message["event_id"]),
        (&"room".into(), &"said".into(), &"x".into(), &"7".into())
    );
    assert!(message["time_ms"].as_u64().is_some_and(|ms| ms / 1000 >= crate::support::now_s() - 60), "{message}");
    assert!(message["cursor"].is_string(), "{message}");
}

#[test]
fn an_event_stream_opens_with_a_comment_and_advice_on_coming_back() {
    let server = server("");
    let mut told = std::collections::HashSet::new();
    for _ in 0..8 {
        let mut wire = Wire::to(server.addr);
        let head = {
            wire.get("/sub/fanfare-key/room?transport=sse", &[]);
            wire.head()
        };
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        let opening = String::from_utf8(wire.body(&head).part().expect("an opening")).expect("UTF-8");
        let retry_ms = opening.strip_prefix(":ok\nretry: ").and_then(|rest| rest.lines().next());
        let retry_ms: u64 = retry_ms.and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{opening:?}"));
        assert!((1000..=3000).contains(&retry_ms), "{opening:?}");
        told.insert(retry_ms);
    }
    assert!(told.len() > 1, "a crowd would come back at once: {told:?}");
}

#[test]
fn http_10_is_served_until_the_connection_closes() {
    let server = server("");
    for (rest, wanted) in [("room?transport=sse", "data: x"), ("room?transport=stream", "x\n")] {
        let mut wire = Wire::to(server.addr);
        wire.send(format!("GET /sub/fanfare-key/{rest} HTTP/1.0\r\n\r\n"));
        let head = wire.head();
        assert_eq!((head.status, head.header("transfer-encoding")), (200, None), "{head:?}");
        assert_eq!((head.header("content-length"), head.header("connection")), (None, Some("close")));
        let mut body = wire.body(&head);
        let mut heard = String::new();
        while !heard.contains(wanted) {
            if heard.contains("fanfare:subscribed") {
                server.publish("room", "said", "x");
            }
            heard += &String::from_utf8(body.part().expect("it goes on")).expect("UTF-8");
        }
    }
}

#[test]
fn silence_is_broken_by_heartbeats() {
    let server = Server::start(&format!("heartbeat_s = 1\n{}", one_app("")));
    for (transport, beat) in [("sse", ":\n"), ("stream", "\n")] {
        let mut wire = Wire::to(server.addr);
        wire.get(&format!("/sub/fanfare-key/room?transport={transport}"), &[]);
        let head = wire.head();
        let mut body = wire.body(&head);
        let mut part = || String::from_utf8(body.part().expect("it goes on")).expect("UTF-8");
        while part() != beat {}
    }
    let mut socket = WebSocket::open(server.addr, "/sub/fanfare-key/room", &[]).expect("a WebSocket");
    while socket.answering_pings().expect("it goes on").text() != r#"{"event":"fanfare:ping"}"# {}
}
