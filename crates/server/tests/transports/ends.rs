//! How it ends: readers that do not read, readers that vanish, servers that stop, tokens that are good no longer.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::support::{Reader, STREAMS, TRANSPORTS, Transport, eventually, head, now_s, opcode, token};

const SLOW: &str = "fanfare_connections_closed_total{reason=\"slow_consumer\"}";

/// A reader's request whose answer nobody reads. Over a connection that hyper has already, the answer comes out of a pipe.
fn deaf(server: &Server, target: &str, through_hyper: bool) -> Wire {
    let mut wire = Wire::to(server.addr);
    if through_hyper {
        assert_eq!(wire.ask("/", &[]).status, 200);
    }
    wire.get(target, &[("Connection", "close")]);
    wire
}

#[test]
fn a_reader_that_does_not_read_is_closed_and_counted_on_every_transport() {
    const PUBLISHED: usize = 500;
    let server = Server::start(&format!("outbox_bytes_max = 65536\ndeflate = false\n{}", one_app("")));
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    let mut socket = Wire::to(server.addr);
    socket.get("/sub/fanfare-key/room", &upgrade);
    let deaf = [
        deaf(&server, "/sub/fanfare-key/room?transport=sse", false),
        deaf(&server, "/sub/fanfare-key/room?transport=stream", false),
        deaf(&server, "/sub/fanfare-key/room?transport=sse", true),
        deaf(&server, "/sub/fanfare-key/room?transport=stream&format=json", true),
        socket,
    ];
    let mut good: Vec<_> = STREAMS.iter().map(|transport| Reader::open(&server, *transport, "room")).collect();
    eventually("all are there", || subscriptions(&server, "room") == 8);
    let before = server.rss_bytes();
    let mut publisher = Publisher::to(&server);
    let filler = "x".repeat(8 << 10);
    for n in 0..PUBLISHED {
        publisher.publish("room", &format!("{n} {filler}"));
        for reader in &mut good {
            assert!(reader.data().starts_with(&format!("{n} ")));
        }
    }
    eventually("all that do not read are closed", || server.metric(SLOW) == deaf.len() as f64);
    eventually("the others are there", || server.metric("fanfare_connections") == good.len() as f64);
    let grown = server.rss_bytes().saturating_sub(before) >> 20;
    assert!(grown < 64, "{grown} MiB more");
    // What the kernel took is there, without a gap, and the end is there too.
    for mut wire in deaf {
        let mut heard = Vec::new();
        match wire.stream.read_to_end(&mut heard) {
            // A connection that was reset has lost what was on its way.
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("not closed: {error}"),
            _ => {}
        }
        let heard = String::from_utf8_lossy(&heard);
        // What stands before each whole filler ends with its number.
        let mut before: Vec<_> = heard.split(&filler).collect();
        before.pop();
        let number = |text: &str| text.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next().map(str::parse);
        let numbers: Vec<usize> =
            before.into_iter().map(|text| number(text).expect("a number").expect("a number")).collect();
        assert!(!numbers.is_empty() && numbers.len() < PUBLISHED, "{} heard", numbers.len());
        assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
    }
}

/// A poller takes one answer at a time, so its bound is what one answer may be.
#[test]
fn pollers_that_never_read_cost_no_more_than_their_answers() {
    let keys = "[[apps.history]]\nchannels = \"*\"\nmessages = 100\nbytes = 1048576";
    let server = Server::start(&format!("outbox_bytes_max = 65536\n{}", one_app(keys)));
    let mut publisher = Publisher::to(&server);
    for _ in 0..100 {
        publisher.publish("room", &"x".repeat(9_000));
    }
    let before = server.rss_bytes();
    let target = "/sub/fanfare-key/room?transport=longpoll&format=json&backtrack=100";
    let wires: Vec<_> = (0..20)
        .map(|_| {
            let mut wire = Wire::to(server.addr);
            // All that it will ever say, at once.
            wire.send(head("GET", target, &[]).repeat(50));
            wire
        })
        .collect();
    eventually("all have come", || server.metric("fanfare_connections") == 20.0);
    for _ in 0..200 {
        publisher.publish("room", &"y".repeat(9_000));
    }
    let grown = server.rss_bytes().saturating_sub(before) >> 20;
    assert!(grown < 96, "{grown} MiB more for 20 pollers");
    drop(wires);
    eventually("all have gone", || server.metric("fanfare_connections") == 0.0);
}

#[test]
fn who_vanishes_is_forgotten() {
    let server = server("");
    for _ in 0..10 {
        for transport in TRANSPORTS {
            for through_hyper in [false, true] {
                if transport != Transport::Socket {
                    let target = crate::support::target(transport, "room", "");
                    drop(deaf(&server, &target, through_hyper));
                }
            }
            drop(Reader::open(&server, transport, "room"));
        }
    }
    eventually("nobody is left", || server.metric("fanfare_connections") == 0.0);
    let mut publisher = Publisher::to(&server);
    (0..50).for_each(|_| publisher.publish("room", "x"));
    eventually("nothing is held", || server.open_files() < 30);
}

#[test]
fn a_stopping_server_tells_everybody_and_ends_in_time() {
    for drain_s in [0, 1] {
        let mut server = Server::start(&format!("drain_s = {drain_s}\n{}", one_app("")));
        let mut readers: Vec<_> = STREAMS.iter().map(|transport| Reader::open(&server, *transport, "room")).collect();
        let mut polls: Vec<_> =
            [false, true].map(|hyper| deaf(&server, "/sub/fanfare-key/room?transport=longpoll", hyper)).into();
        let mut piped = deaf(&server, "/sub/fanfare-key/room?transport=sse", true);
        assert_eq!(piped.head().status, 200);
        eventually("all are there", || subscriptions(&server, "room") == 6);

        let asked = Instant::now();
        server.signal("TERM");
        for (reader, transport) in readers.iter_mut().zip(STREAMS) {
            let told = reader.next();
            let closed = json!({"event": "fanfare:closed", "reason": "drain", "reconnect": true});
            assert_eq!(told, closed, "{transport:?}");
            assert_eq!(reader.heard(), None, "{transport:?}: and that is the end");
        }
        for poll in &mut polls {
            let answer = poll.answer();
            assert_eq!((answer.status, answer.header("connection")), (204, Some("close")), "{answer:?}");
            assert!(answer.header("fanfare-cursor").is_some(), "where to go on elsewhere: {answer:?}");
        }
        let head = Response::head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut body = piped.body(&head);
        let mut words = String::new();
        while let Some(part) = body.part() {
            words += &String::from_utf8_lossy(&part);
        }
        assert!(words.contains("\"reason\":\"drain\""), "{words:?}");
        drop((readers, polls, body));
        assert!(server.wait().success());
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(drain_s + 6), "drain_s = {drain_s}, and it took {took:?}");
    }
}

/// Readers that neither read nor leave hold nobody up.
#[test]
fn a_stop_does_not_wait_for_those_who_do_not_listen() {
    let mut server = Server::start(&format!("drain_s = 1\n{}", one_app("")));
    let targets = ["sse", "stream", "longpoll"].map(|name| format!("/sub/fanfare-key/room?transport={name}"));
    let deaf: Vec<_> =
        targets.iter().flat_map(|target| [deaf(&server, target, false), deaf(&server, target, true)]).collect();
    eventually("all are there", || subscriptions(&server, "room") == deaf.len() as u64);
    let mut publisher = Publisher::to(&server);
    (0..100).for_each(|_| publisher.publish("room", &"x".repeat(9_000)));
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn a_disabled_app_lets_its_readers_go() {
    let server = Server::start(&one_app(""));
    let mut readers: Vec<_> = STREAMS.iter().map(|transport| Reader::open(&server, *transport, "room")).collect();
    let mut poll = deaf(&server, "/sub/fanfare-key/room?transport=longpoll", false);
    eventually("all are there", || subscriptions(&server, "room") == 4);
    std::fs::write(server.config_file(), one_app("enabled = false")).expect("the configuration is written");
    server.signal("HUP");
    for (reader, transport) in readers.iter_mut().zip(STREAMS) {
        let told = reader.next();
        assert_eq!((&told["reason"], &told["reconnect"]), (&"app_disabled".into(), &false.into()), "{transport:?}");
        assert_eq!(reader.heard(), None);
    }
    assert!(matches!(poll.answer().status, 403 | 503));
}

// Tokens.

fn bearing(claims: Value) -> (String, String) {
    let token = token(claims);
    (format!("&token={token}"), token)
}

#[track_caller]
fn expect_closed(reader: &mut Reader, reason: &str, reconnect: bool, what: &str) {
    assert_eq!(reader.next(), json!({"event": "fanfare:closed", "reason": reason, "reconnect": reconnect}), "{what}");
    assert_eq!(reader.heard(), None, "{what}");
}

/// Five seconds are given to clocks that differ.
#[test]
fn a_token_that_runs_out_ends_the_stream() {
    let server = server("");
    let (more, _) = bearing(json!({"channels": ["private-room"], "exp": now_s() - 3}));
    let mut readers = STREAMS.map(|transport| Reader::with(&server, transport, "private-room", &more));
    server.publish("private-room", "said", "x");
    for (reader, transport) in readers.iter_mut().zip(STREAMS) {
        assert_eq!(reader.data(), "x", "{transport:?}");
        expect_closed(reader, "token_expired", true, transport.name());
    }
    refused(&sub(&server, &format!("private-room?transport=poll{more}"), &[]), 401, "expired");
}

#[test]
fn a_token_that_is_taken_back_ends_the_stream_at_once() {
    let server = server("");
    let others = bearing(json!({"channels": ["private-room"], "sub": "ben", "jti": "b"})).0;
    let mut ben = STREAMS.map(|transport| Reader::with(&server, transport, "private-room", &others));
    for by in ["jti", "sub"] {
        let (more, _) =
            bearing(json!({"channels": ["private-room", "presence-room"], "sub": format!("ann-{by}"), "jti": by}));
        let mut ann = STREAMS.map(|transport| Reader::with(&server, transport, "private-room", &more));
        let whom = if by == "jti" { json!({"jti": "jti"}) } else { json!({"sub": "ann-sub"}) };
        server.post("/tokens/revoke", &whom).expect(200, "{}");
        for (reader, transport) in ann.iter_mut().zip(STREAMS) {
            expect_closed(reader, "token_revoked", false, &format!("{by} {transport:?}"));
        }
    }
    server.publish("private-room", "said", "x");
    for reader in &mut ben {
        assert_eq!(reader.data(), "x", "nobody else is let go");
    }
}

#[test]
fn a_long_poll_by_a_revoked_token_is_not_answered_with_what_it_may_not_hear() {
    let server = server("");
    let (more, _) = bearing(json!({"channels": ["private-room"], "sub": "ann"}));
    let mut wire = deaf(&server, &format!("/sub/fanfare-key/private-room?transport=longpoll{more}"), false);
    eventually("it waits", || subscriptions(&server, "private-room") == 1);
    server.post("/tokens/revoke", &json!({"sub": "ann"})).expect(200, "{}");
    server.publish("private-room", "said", "secret");
    let answer = wire.answer();
    assert!(answer.status != 200 && !answer.body.contains("secret"), "{answer:?}");
    // Nor is its next poll, on the same connection.
    if wire.next_status().is_none() {
        let answer = sub(&server, &format!("private-room?transport=longpoll{more}"), &[]);
        refused(&answer, 401, "revoked");
    }
}

#[test]
fn a_token_comes_in_a_header_a_cookie_or_the_query_and_never_into_a_log() {
    let server = Server::start(&format!("log = \"debug\"\n{}", one_app("")));
    let (more, token) = bearing(json!({"channels": ["private-room", "presence-room"], "sub": "ann", "info": {"x": 1}}));
    let bearer = format!("Bearer {token}");
    let cookie = format!("theme=dark; fanfare_token={token}; x=y");
    let bad = format!("{}x", &token[..token.len() - 4]);
    for channels in ["private-room", "presence-room", "room/private-room/presence-room"] {
        for transport in STREAMS {
            for (query, header) in [
                (more.as_str(), None),
                ("", Some(("Authorization", bearer.as_str()))),
                ("", Some(("Cookie", cookie.as_str()))),
            ] {
                let headers: Vec<_> = header.into_iter().collect();
                let reader = Reader::ask(server.addr, transport, channels, query, &headers);
                let mut reader = reader.unwrap_or_else(|why| panic!("{why:?}"));
                assert_eq!(reader.next()["event"], "fanfare:subscribed", "{transport:?} {header:?}");
            }
        }
        for transport in ["poll", "longpoll&wait=1"] {
            let answer = sub(&server, &format!("{channels}?transport={transport}&format=json{more}"), &[]);
            assert_eq!(answer.status, 200, "{channels} {transport}: {answer:?}");
        }
        refused(&sub(&server, &format!("{channels}?transport=poll&token={bad}"), &[]), 401, "");
        refused(&sub(&server, &format!("{channels}?since=nonsense{more}"), &[]), 400, "cursor");
    }
    let mut socket = Reader::ask(server.addr, Transport::Socket, "", "", &[]).expect("a WebSocket");
    socket.socket().send_text(&json!({"subscribe": ["private-room"], "token": token}).to_string());
    assert_eq!(socket.next()["event"], "fanfare:subscribed");
    socket.socket().send_text(&json!({"subscribe": ["private-hall"], "token": bad}).to_string());
    assert_eq!(socket.next()["status"], 401);
    socket.socket().send_text(&format!("{{\"token\":\"{token}\", nonsense"));
    assert_eq!(socket.next()["status"], 400);
    server.post("/tokens/revoke", &json!({"sub": "ann"})).expect(200, "{}");
    assert_eq!(socket.next()["reason"], "token_revoked");

    let log = server.log();
    for part in token.split('.').skip(1).chain(bad.split('.').skip(2)) {
        assert!(!log.contains(part), "the log tells a token:\n{log}");
    }
}

#[test]
fn the_close_code_of_a_plain_websocket_says_whether_to_come_back() {
    let server = server("");
    let (more, _) = bearing(json!({"channels": ["private-room"], "sub": "ann"}));
    let mut reader = Reader::with(&server, Transport::Socket, "private-room", &more);
    server.post("/tokens/revoke", &json!({"sub": "ann"})).expect(200, "{}");
    assert_eq!(reader.next()["reason"], "token_revoked");
    let close = reader.socket().answering_pings().expect("a close frame");
    assert_eq!(close.opcode, opcode::CLOSE);
    assert!(close.close_code().is_some_and(|code| (4000..4100).contains(&code)), "not to come back: {close:?}");
}
