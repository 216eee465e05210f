//! Liveness: who is pinged, what counts as an answer, and who is let go.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Server, Socket, one_app, opcode};

fn impatient() -> Server {
    Server::start(&format!("activity_timeout_s = 1\npong_timeout_s = 1\n{}", one_app("")))
}

/// Hears both pings: first the event, then the frame.
#[track_caller]
fn expect_pings(socket: &mut Socket) {
    let event = socket.ws.frame().expect("an event");
    assert_eq!(event.text(), r#"{"event":"pusher:ping","data":"{}"}"#);
    assert_eq!(socket.ws.frame().expect("a frame").opcode, opcode::PING);
}

#[test]
fn a_ping_event_is_answered_with_or_without_data() {
    let server = Server::start(&one_app(""));
    let mut socket = server.connect();
    // Java sends the first form, JavaScript the second.
    for ping in [r#"{"event": "pusher:ping"}"#, r#"{"event":"pusher:ping","data":{}}"#] {
        socket.send(ping);
        assert_eq!(socket.recv_text(), r#"{"event":"pusher:pong","data":"{}"}"#);
    }
}

#[test]
fn a_websocket_ping_is_answered_with_its_payload() {
    let server = Server::start(&one_app(""));
    let mut socket = server.connect();
    for payload in [&b""[..], b"swift", &[0xff; 125]] {
        socket.ws.ping(payload);
        let pong = socket.ws.frame().expect("a pong");
        assert_eq!((pong.opcode, pong.payload.as_slice()), (opcode::PONG, payload));
    }
}

#[test]
fn a_silent_client_is_pinged_both_ways_and_closed_with_4201() {
    let server = impatient();
    let mut socket = server.connect();
    expect_pings(&mut socket);
    assert_eq!(socket.ws.frame().and_then(|frame| frame.close_code()), Some(4201));
    assert_eq!(server.metric("fanfare_connections_closed_total{reason=\"silent\"}"), 1.0);
}

#[test]
fn an_answer_of_either_kind_or_anything_else_is_life() {
    let server = impatient();
    let (mut event, mut frame, mut other) = (server.connect(), server.connect(), server.connect());
    for _ in 0..3 {
        expect_pings(&mut event);
        event.say("pusher:pong", json!({}));
        expect_pings(&mut frame);
        frame.ws.pong(b"");
        expect_pings(&mut other);
        other.send("nonsense");
        other.expect_error();
    }
}

#[test]
fn who_speaks_is_not_pinged() {
    let server = impatient();
    let mut socket = server.connect();
    let mut said = Instant::now();
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        if said.elapsed() > Duration::from_millis(700) {
            // This machine stood still, and a ping is due.
            socket = server.connect();
        }
        socket.settle();
        said = Instant::now();
    }
}
