//! Output that is hard to frame: what a publisher sends is what a reader gets, and nothing of it becomes framing.

use std::io::Write;

use serde_json::{Value, json};

use super::*;
use crate::support::{Reader, TRANSPORTS, Transport, sse};

const PAYLOADS: [&str; 16] = [
    "",
    " ",
    " a space before and behind ",
    "one\ntwo",
    "one\r\ntwo",
    "one\rtwo",
    "\n",
    "\r\n\r\n",
    "\n\nevent: forged\ndata: forged\n\n",
    "id: forged\r\rdata: x\r\r",
    ":not a comment",
    "data: not a field",
    "\u{feff}a byte order mark",
    "NUL \0 and others \u{1} \u{7f} \u{85} \u{2028}\u{2029}",
    "grüße, 你好, 🎉\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
    "5\r\nhello\r\n0\r\n\r\n",
];

/// As an event stream has it: line breaks of every kind are one LF.
fn as_lines(payload: &str) -> String {
    payload.replace("\r\n", "\n").replace('\r', "\n")
}

/// The events of a raw event stream, each as soon as it is whole.
struct Events {
    body: crate::support::Body,
    parser: sse::Parser,
    heard: Vec<sse::Event>,
}

impl Events {
    #[track_caller]
    fn open(server: &Server, rest: &str) -> Self {
        let mut wire = Wire::to(server.addr);
        wire.get(&format!("/sub/fanfare-key/{rest}"), &[("Accept", "text/event-stream")]);
        let head = wire.head();
        assert_eq!(head.status, 200, "{head:?}");
        let mut events = Events { body: wire.body(&head), parser: sse::Parser::default(), heard: Vec::new() };
        assert_eq!(events.next().event, "fanfare:subscribed");
        events
    }

    #[track_caller]
    fn next(&mut self) -> sse::Event {
        while self.heard.is_empty() {
            let part = self.body.part().expect("it goes on");
            self.heard = self.parser.feed(&part);
        }
        self.heard.remove(0)
    }
}

#[test]
fn what_is_published_is_what_a_page_gets() {
    let server = server("");
    let mut events = Events::open(&server, "room");
    for payload in PAYLOADS {
        server.publish("room", "message", payload);
        let event = events.next();
        assert_eq!((event.event.as_str(), event.data), ("message", as_lines(payload)), "{payload:?}");
        assert!(!event.last_id.is_empty() && event.last_id != "forged", "{payload:?}");
    }
    // The same once more, as history.
    let mut events = Events::open(&server, &format!("room?backtrack={}", PAYLOADS.len()));
    for payload in PAYLOADS {
        assert_eq!(events.next().data, as_lines(payload), "{payload:?}");
    }
}

#[test]
fn an_object_holds_every_payload_exactly() {
    let server = server("");
    let mut readers = TRANSPORTS.map(|transport| Reader::open(&server, transport, "room"));
    for payload in PAYLOADS {
        server.publish("room", "said", payload);
        for (reader, transport) in readers.iter_mut().zip(TRANSPORTS) {
            assert_eq!(reader.data(), payload, "{transport:?}");
        }
    }
}

#[test]
fn a_raw_answer_and_a_raw_frame_are_the_payload() {
    let server = server("");
    let mut socket = crate::support::WebSocket::open(server.addr, "/sub/fanfare-key/room", &[]).expect("a WebSocket");
    assert!(socket.answering_pings().expect("a word").text().contains("fanfare:subscribed"));
    for payload in PAYLOADS {
        server.publish("room", "said", payload);
        assert_eq!(socket.answering_pings().expect("a frame").text(), payload);
        for transport in ["poll", "longpoll"] {
            let answer = sub(&server, &format!("room?transport={transport}&backtrack=1"), &[]);
            assert_eq!((answer.status, answer.body.as_str()), (200, payload), "{transport}");
        }
    }
}

#[test]
fn a_raw_stream_is_the_payloads_and_line_breaks() {
    let server = server("");
    let mut wire = Wire::to(server.addr);
    wire.get("/sub/fanfare-key/room?transport=stream", &[]);
    let head = wire.head();
    let mut body = wire.body(&head);
    let mut heard = body.part().expect("a confirmation");
    assert!(heard.starts_with(b"{\"event\":\"fanfare:subscribed\""), "{:?}", String::from_utf8_lossy(&heard));
    heard.clear();
    let wanted: String = PAYLOADS.iter().map(|payload| format!("{payload}\n")).collect();
    PAYLOADS.iter().for_each(|payload| server.publish("room", "said", payload));
    while heard.len() < wanted.len() {
        heard.extend(body.part().expect("it goes on"));
    }
    assert_eq!(String::from_utf8(heard).expect("UTF-8"), wanted);
}

/// Names that a Pusher publisher may give.
const NAMES: [&str; 9] = [
    "said",
    "with spaces",
    "a:b",
    "grüße 🎉",
    "\"quoted\" \\ and <marked>",
    "tab\tinside",
    " padded ",
    "data",
    "retry",
];

#[test]
fn odd_names_of_events_arrive() {
    let server = server("");
    let mut events = Events::open(&server, "room");
    let mut readers = TRANSPORTS.map(|transport| Reader::open(&server, transport, "room"));
    for name in NAMES {
        server.publish("room", name, "x");
        assert_eq!(events.next().event, name);
        for reader in &mut readers {
            let message = reader.next();
            assert_eq!((&message["event"], &message["data"]), (&name.into(), &"x".into()));
        }
    }
}

#[test]
fn line_breaks_in_an_events_name_forge_nothing() {
    let server = server("");
    let mut events = Events::open(&server, "room");
    for (name, first) in [("a\nb", "a"), ("a\r\ndata: forged\r\n\r\n", "a"), ("a\r\rid: forged", "a")] {
        let event = json!({"name": name, "channels": ["room"], "data": "x"});
        let answer = server.post("/events", &event);
        if answer.status != 200 {
            continue;
        }
        let event = events.next();
        assert_eq!((event.event.as_str(), event.data.as_str()), (first, "x"), "{name:?}");
        assert_ne!(event.last_id, "forged");
        let answer = sub(&server, "room?transport=poll&backtrack=1", &[]);
        assert_eq!((answer.status, answer.body.as_str()), (200, "x"), "{answer:?}");
        assert!(answer.headers.iter().all(|(name, value)| name != "id" && !value.contains(['\r', '\n'])), "{answer:?}");
    }
}

/// What a publisher says of a message stands in headers of an answer. None of it may end a header, or the head.
#[test]
fn nothing_of_a_publisher_becomes_a_header_of_its_own() {
    let server = server("");
    let evil = "x\r\nX-Forged: 1\r\n\r\nforged";
    let event = json!({"name": evil, "channels": ["room"], "data": "payload", "event_id": evil});
    let answer = server.post("/events", &event);
    if answer.status == 200 {
        expect_unforged(&server);
    }
    // Over HTTP a header ends where its line does; what is left are other controls and bytes beyond ASCII.
    for (name, value) in [
        ("Event-Id", "a\tb"),
        ("Event-Id", "grüße"),
        ("Event-Type", "grüße 🎉"),
        ("Content-Type", "text/plain; charset=\"a, b\""),
        ("Content-Type", "text/x\u{80}y"),
        ("Event-Id", "a\u{0}b"),
        ("Content-Type", "a\rX-Forged: 1"),
    ] {
        let mut wire = Wire::to(server.addr);
        wire.send(format!(
            "POST /pub/fanfare-key/room HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n{name}: {value}\r\n\
             Content-Length: 7\r\n\r\npayload"
        ));
        if matches!(wire.answer().status, 201 | 202) {
            expect_unforged(&server);
        }
    }
}

#[track_caller]
fn expect_unforged(server: &Server) {
    for transport in ["poll", "longpoll"] {
        let answer = sub(server, &format!("room?transport={transport}&backtrack=1"), &[]);
        assert_eq!((answer.status, answer.body.as_str()), (200, "payload"), "{answer:?}");
        assert_eq!(answer.header("x-forged"), None, "{answer:?}");
        assert!(answer.headers.iter().all(|(_, value)| !value.contains(|c: char| c.is_ascii_control() && c != '\t')));
    }
}

#[test]
fn an_event_id_is_text_and_arrives_as_it_is() {
    let server = server("");
    for id in ["7", "comment-7", "a b", "\"quoted\"", "grüße"] {
        let event = json!({"name": "said", "channels": ["room"], "data": "x", "event_id": id});
        let answer = server.post("/events", &event);
        if answer.status != 200 {
            assert_eq!(answer.status, 400, "{id}: {answer:?}");
            continue;
        }
        let told = sub(&server, "room?transport=poll&format=json&backtrack=1", &[]).json();
        assert_eq!(told["messages"][0]["event_id"], id, "{told}");
    }
}

/// Nothing in between, the kernel's buffers included, keeps a code point together.
#[test]
fn text_is_whole_however_it_is_cut() {
    let server = server("limits = { payload_bytes_max = 400000 }");
    let payload: String = ["ä", "你", "🎉", "x"].iter().cycle().take(100_000).copied().collect();
    let mut events = Events::open(&server, "room");
    let mut readers = TRANSPORTS.map(|transport| Reader::open(&server, transport, "room"));
    for _ in 0..3 {
        server.publish("room", "message", &payload);
        assert!(events.next().data == payload);
        for (reader, transport) in readers.iter_mut().zip(TRANSPORTS) {
            assert!(reader.data() == payload, "{transport:?}");
        }
    }
}

#[test]
fn an_event_as_large_as_a_node_allows_arrives() {
    const LEN: usize = 3 << 20;
    let config = "outbox_bytes_max = 16777216\npublish_body_bytes_max = 8388608\n";
    let keys =
        format!("limits = {{ payload_bytes_max = {LEN} }}\n[[apps.history]]\nchannels = \"*\"\nbytes = 33554432");
    let server = Server::start(&format!("{config}{}", one_app(&keys)));
    let mut readers = TRANSPORTS.map(|transport| Reader::open(&server, transport, "room"));
    let payload = "0123456789abcdef".repeat(LEN / 16);
    Publisher::to(&server).publish("room", &payload);
    for (reader, transport) in readers.iter_mut().zip(TRANSPORTS) {
        assert!(reader.data() == payload, "{transport:?}");
    }
    for transport in ["poll", "longpoll"] {
        let answer = sub(&server, &format!("room?transport={transport}&backtrack=1"), &[]);
        assert!(answer.status == 200 && answer.body == payload, "{transport}: {} bytes", answer.body.len());
    }
}

/// An answer that tells all that was missed has no reason to be larger than what a reader may owe.
#[test]
fn who_missed_more_than_an_outbox_holds_gets_all_of_it_in_the_end() {
    let keys =
        "limits = { payload_bytes_max = 16384 }\n[[apps.history]]\nchannels = \"*\"\nmessages = 1000\nbytes = 33554432";
    let server = Server::start(&format!("outbox_bytes_max = 65536\n{}", one_app(keys)));
    let start = cursor(&server, "room");
    let mut publisher = Publisher::to(&server);
    let filler = "x".repeat(10_000);
    for n in 0..200 {
        publisher.publish("room", &format!("{n} {filler}"));
    }
    for transport in TRANSPORTS {
        let mut since = start.clone();
        let (mut heard, mut visits) = (0, 0);
        while heard < 200 {
            visits += 1;
            assert!(visits <= 200, "{transport:?} gets nowhere: {heard} heard");
            let mut reader = Reader::with(&server, transport, "room", &format!("&since={since}"));
            while heard < 200 {
                let Some(message) = reader.heard() else { break };
                if message["event"] == "fanfare:closed" {
                    continue;
                }
                let data = message["data"].as_str().unwrap_or_else(|| panic!("{transport:?}: {message}"));
                assert_eq!(data.split(' ').next(), Some(&*heard.to_string()), "{transport:?}");
                heard += 1;
            }
            since = reader.cursor.clone().expect("a cursor");
        }
        println!("{transport:?}: {visits} visits");
    }
}

#[test]
fn ten_thousand_channels_on_one_websocket() {
    const CHANNELS: usize = 10_000;
    let server = server("");
    let mut reader = Reader::ask(server.addr, Transport::Socket, "", "", &[]).expect("a WebSocket");
    let names: Vec<_> = (0..CHANNELS).map(|n| format!("channel-{n}")).collect();
    let mut confirmed = std::collections::HashSet::new();
    for some in names.chunks(500) {
        reader.socket().send_text(&json!({"subscribe": some}).to_string());
        for _ in some {
            let told = reader.next();
            assert_eq!(told["event"], "fanfare:subscribed", "{told}");
            assert!(confirmed.insert(told["channel"].to_string()), "twice: {told}");
        }
    }
    let mut publisher = Publisher::to(&server);
    for n in (0..CHANNELS).step_by(997) {
        publisher.publish(&names[n], &n.to_string());
        let message = reader.next();
        assert_eq!((&message["channel"], &message["data"]), (&names[n].clone().into(), &n.to_string().into()));
    }
    let since = reader.cursor.clone().expect("a cursor");
    publisher.publish("channel-7", "missed");
    publisher.publish("channel-9999", "missed too");
    drop(reader);

    // One short cursor brings back all of them.
    let mut reader = Reader::ask(server.addr, Transport::Socket, "", "", &[]).expect("a WebSocket");
    let mut missed = Vec::new();
    for some in names.chunks(500) {
        reader.socket().send_text(&json!({"subscribe": some, "since": since}).to_string());
        let mut confirmed = 0;
        while confirmed < some.len() {
            let told: Value = reader.next();
            if told["event"] == "fanfare:subscribed" {
                assert_eq!(told["recovered"], true, "{told}");
                confirmed += 1;
            } else {
                missed.push(told["data"].as_str().expect("data").to_owned());
            }
        }
    }
    while missed.len() < 2 {
        missed.push(reader.data());
    }
    missed.sort();
    assert_eq!(missed, ["missed", "missed too"]);
}

#[test]
fn a_hundred_channels_in_one_path() {
    let server = server("");
    let names: Vec<_> = (0..100).map(|n| format!("channel-{n}")).collect();
    for transport in TRANSPORTS {
        let mut reader = Reader::open(&server, transport, &names.join("/"));
        let mut last = String::new();
        for n in [99, 0, 42] {
            server.publish(&names[n], "said", &names[n]);
            let mut heard = reader.data();
            // A poller of more channels than its cursor names may be told again what was under way when it was answered.
            while transport == Transport::LongPoll && heard == last {
                heard = reader.data();
            }
            assert_eq!(heard, names[n], "{transport:?}");
            last = heard;
        }
    }
}

#[test]
fn bytes_after_a_streams_request_mean_nothing() {
    let server = server("");
    for transport in ["sse", "stream"] {
        let mut wire = Wire::to(server.addr);
        wire.get(&format!("/sub/fanfare-key/room?transport={transport}"), &[]);
        let head = wire.head();
        let mut body = wire.body(&head);
        body.part().expect("an opening");
        body.wire().stream.write_all(&[b'x'; 100_000]).expect("it is read");
        server.publish("room", "said", "still here");
        while !String::from_utf8_lossy(&body.part().expect("it goes on")).contains("still here") {}
    }
}
