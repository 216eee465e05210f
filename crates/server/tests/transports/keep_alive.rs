//! Several requests on one connection: a poller's next one is served where it is, and any other goes to whom it concerns.

use std::thread;
use std::time::Duration;

use super::*;
use crate::support::eventually;

const POLL: &str = "/sub/fanfare-key/room?format=json&transport=longpoll";

/// A poll that is answered at once, since something is kept.
fn ready(server: &Server) -> String {
    server.publish("room", "said", "kept");
    format!("{POLL}&backtrack=1")
}

#[track_caller]
fn expect_kept(answer: &Response) {
    assert!(answer.status == 200 && answer.body.contains("\"data\":\"kept\""), "{answer:?}");
}

#[test]
fn a_poll_and_then_anything_else() {
    let server = server("");
    let target = ready(&server);
    let mut wire = Wire::to(server.addr);
    for _ in 0..3 {
        expect_kept(&wire.ask(&target, &[]));
        assert_eq!(wire.ask("/", &[]).status, 200);
        expect_kept(&wire.ask(&target, &[]));
        wire.send("POST /pub/fanfare-key/hall HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer fanfare-secret\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(wire.answer().status, 202);
        expect_kept(&wire.ask(&target.replace("longpoll", "poll"), &[]));
        refused(&wire.ask("/sub/fanfare-key/room?since=nonsense", &[]), 400, "cursor");
        refused(&wire.ask("/sub/nobody/room", &[]), 404, "no app");
        expect_kept(&wire.ask(&target, &[]));
        assert_eq!(wire.ask("/nowhere", &[]).status, 404);
    }
    // The loop says so at the end of its turn.
    eventually("it is hyper's now, and none of ours", || server.metric("fanfare_connections") == 0.0);
}

#[test]
fn a_poll_and_then_a_stream_or_a_websocket() {
    let server = server("");
    let target = ready(&server);
    let mut wire = Wire::to(server.addr);
    expect_kept(&wire.ask(&target, &[]));
    wire.get("/sub/fanfare-key/room?transport=sse", &[]);
    let head = wire.head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));

    let mut wire = Wire::to(server.addr);
    expect_kept(&wire.ask(&target, &[]));
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    wire.get("/app/fanfare-key?protocol=7", &upgrade);
    assert_eq!(wire.head().status, 101);
}

#[test]
fn polls_of_another_app_are_counted_there() {
    let other = "[[apps]]\nid = \"2\"\nkeys = [{ key = \"two\", secret = \"s2\" }]\n";
    let server = Server::start(&format!("{}{other}", one_app("")));
    let target = ready(&server);
    let mut wire = Wire::to(server.addr);
    expect_kept(&wire.ask(&target, &[]));
    wire.get("/sub/two/room?transport=longpoll", &[]);
    eventually("it waits as the other app's", || {
        server.metric("fanfare_connections") == 1.0 && server.metric("fanfare_app_connections{app=\"2\"}") == 1.0
    });
}

#[test]
fn pipelined_polls_are_answered_in_order() {
    let server = server("");
    let target = ready(&server);
    let mut wire = Wire::to(server.addr);
    let raw = target.replace("format=json", "format=raw");
    let heads = [&target, &raw, &target, &"/".to_owned(), &raw].map(|target| crate::support::head("GET", target, &[]));
    wire.send(heads.concat());
    expect_kept(&wire.answer());
    assert_eq!(wire.answer().body, "kept");
    expect_kept(&wire.answer());
    assert!(wire.answer().body.contains("anfare"), "the page at /");
    assert_eq!(wire.answer().body, "kept");
}

#[test]
fn a_poll_that_waits_holds_back_what_is_pipelined_behind_it() {
    let server = server("");
    let mut wire = Wire::to(server.addr);
    wire.send([crate::support::head("GET", POLL, &[]), crate::support::head("GET", "/nowhere", &[])].concat());
    eventually("it waits", || subscriptions(&server, "room") == 1);
    wire.expect_nothing();
    server.publish("room", "said", "kept");
    expect_kept(&wire.answer());
    assert_eq!(wire.answer().status, 404);
}

#[test]
fn a_head_may_come_in_pieces() {
    let server = server("");
    let target = ready(&server);
    let mut wire = Wire::to(server.addr);
    for _ in 0..3 {
        expect_kept(&wire.ask(&target, &[]));
        let head = crate::support::head("GET", &target, &[("X-Long", &"x".repeat(3000))]);
        for piece in head.as_bytes().chunks(700) {
            wire.send(piece);
            thread::sleep(Duration::from_millis(5));
        }
        expect_kept(&wire.answer());
    }
    // Half a head, sent while the poll before it still waits.
    let (first, second) = (crate::support::head("GET", POLL, &[]), crate::support::head("GET", &target, &[]));
    wire.send([first.as_bytes(), &second.as_bytes()[..20]].concat());
    eventually("it waits", || subscriptions(&server, "room") == 1);
    server.publish("room", "said", "kept");
    expect_kept(&wire.answer());
    wire.expect_nothing();
    wire.send(&second.as_bytes()[20..]);
    expect_kept(&wire.answer());
}

#[test]
fn a_head_that_never_ends_is_refused() {
    let server = server("");
    let target = ready(&server);
    let mut wire = Wire::to(server.addr);
    expect_kept(&wire.ask(&target, &[]));
    wire.send(format!("GET / HTTP/1.1\r\nX-Long: {}", "x".repeat(40_000)));
    let answer = wire.answer();
    assert!(matches!(answer.status, 400 | 431), "{answer:?}");

    let mut wire = Wire::to(server.addr);
    expect_kept(&wire.ask(&target, &[]));
    wire.send("no request at all\r\n\r\n");
    assert_eq!(wire.answer().status, 400);
}

#[test]
fn a_body_is_not_taken_for_the_next_request() {
    let server = server("");
    let target = ready(&server);
    let smuggled = "POST /pub/fanfare-key/hall HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer fanfare-secret\r\nContent-Length: 1\r\n\r\nx";
    let length = smuggled.len().to_string();
    let chunked = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let bodies =
        [(("Content-Length", length.as_str()), smuggled), (("Transfer-Encoding", "chunked"), chunked.as_str())];
    for transport in ["poll", "longpoll"] {
        for (header, body) in bodies {
            // As the first request, and as a later one.
            for later in [false, true] {
                let mut wire = Wire::to(server.addr);
                if later {
                    expect_kept(&wire.ask(&target, &[]));
                }
                let head = crate::support::head("GET", &target.replace("longpoll", transport), &[header]);
                wire.send(format!("{head}{body}"));
                expect_kept(&wire.answer());
                wire.send(crate::support::head("GET", "/", &[("Connection", "close")]));
                while wire.next_status().is_some() {}
            }
        }
    }
    let told = sub(&server, "hall?transport=poll", &[]);
    assert_eq!(told.status, 204, "the body was published as a request of its own: {told:?}");
}

#[test]
fn http_10_is_kept_alive_for_those_who_ask() {
    let server = server("");
    let target = ready(&server);
    let mut wire = Wire::to(server.addr);
    for _ in 0..2 {
        wire.send(format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        let answer = wire.answer();
        expect_kept(&answer);
        assert_eq!(answer.header("connection"), Some("keep-alive"), "{answer:?}");
    }
    for request in [
        format!("GET {target} HTTP/1.0\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        format!("GET {} HTTP/1.0\r\n\r\n", target.replace("longpoll", "poll")),
    ] {
        let mut wire = Wire::to(server.addr);
        // What is sent behind a last request is no other one.
        wire.send(format!("{request}{request}"));
        expect_kept(&wire.answer());
        wire.expect_end();
    }
}

/// An answer that does not fit into the socket is finished before the next one begins.
#[test]
fn large_answers_to_pipelined_polls_do_not_mix() {
    let keys = "[[apps.history]]\nchannels = \"*\"\nmessages = 1000\nbytes = 33554432";
    let server = server(keys);
    let mut publisher = Publisher::to(&server);
    for n in 0..500 {
        publisher.publish("room", &format!("{n} {}", "x".repeat(10_000)));
    }
    let large = format!("{POLL}&backtrack=500");
    let mut wire = Wire::to(server.addr);
    wire.send(crate::support::head("GET", &large, &[]).repeat(3));
    // Long enough for all of them to be looked at.
    thread::sleep(Duration::from_millis(1500));
    for _ in 0..3 {
        let answer = wire.answer();
        assert_eq!(answer.status, 200);
        let told = answer.json();
        let messages = told["messages"].as_array().expect("messages");
        assert_eq!(messages.len(), 500);
        for (n, message) in messages.iter().enumerate() {
            assert!(message["data"].as_str().is_some_and(|data| data.starts_with(&format!("{n} "))), "{n}");
        }
    }
    assert_eq!(wire.ask("/nowhere", &[]).status, 404);
}

/// An answer that its reader takes in slowly is not cut off by the end of the connection.
#[test]
fn a_last_answer_is_told_to_its_end() {
    let keys = "limits = { payload_bytes_max = 4000000 }\n[[apps.history]]\nchannels = \"*\"\nbytes = 33554432";
    let config = "outbox_bytes_max = 16777216\npublish_body_bytes_max = 8388608\nhead_timeout_s = 1\n";
    let server = Server::start(&format!("{config}{}", one_app(keys)));
    let payload = "0123456789abcdef".repeat(4_000_000 / 16);
    Publisher::to(&server).publish("room", &payload);
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let mut wire = Wire::to(server.addr);
        wire.send(format!("GET /sub/fanfare-key/room?backtrack=1 {version}\r\nHost: x\r\nConnection: close\r\n\r\n"));
        // Longer than it takes until the loop has looked at every connection.
        thread::sleep(Duration::from_secs(3));
        let answer = wire.answer();
        assert!(answer.body == payload, "{version}: {} of {} bytes", answer.body.len(), payload.len());
        wire.expect_end();
    }
}

#[test]
fn who_hangs_up_in_the_middle_of_anything_is_forgotten() {
    let server = server("");
    let target = ready(&server);
    let head = crate::support::head("GET", POLL, &[]);
    for sent in [head.clone(), head[..30].to_owned(), format!("{head}{head}"), format!("{head}{}", &head[..30])] {
        let mut wire = Wire::to(server.addr);
        wire.send(&sent);
        drop(wire);
        let mut wire = Wire::to(server.addr);
        expect_kept(&wire.ask(&target, &[]));
        wire.send(&sent);
        drop(wire);
    }
    eventually("all have been forgotten", || server.metric("fanfare_connections") == 0.0);
}
