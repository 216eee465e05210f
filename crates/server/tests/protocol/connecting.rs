//! Connecting: the greeting, who is refused with which code, and what breaks a connection.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::server;
use crate::support::{Frame, KEY, Server, Socket, WebSocket, eventually, masked_frame, one_app, opcode};

/// Asserts that the first frame is an error whose data is an object, and that the close that follows has its code.
#[track_caller]
fn expect_refusal(mut ws: WebSocket, code: u16, because: &str) {
    let error = ws.frame().expect("an error before the close");
    let message: serde_json::Value = serde_json::from_str(&error.text()).expect("a message in JSON");
    assert_eq!(message["event"], "pusher:error");
    assert_eq!(message["data"]["code"], code, "{message}");
    let reason = message["data"]["message"].as_str().expect("an object with a message");
    assert!(reason.contains(because), "{reason}");
    assert_eq!(ws.frame().as_ref().and_then(Frame::close_code), Some(code));
    assert_eq!(ws.frame(), None);
}

fn origin(server: &Server, origin: &str) -> WebSocket {
    WebSocket::open(server.addr, &format!("/app/{KEY}?protocol=7"), &[("Origin", origin)]).expect("a WebSocket")
}

// The greeting.

#[test]
fn the_first_message_is_the_greeting() {
    let server = server("");
    let mut ws = server.websocket("/app/fanfare-key?protocol=7&client=js&version=8.6.0&flash=false");
    let frame = ws.frame().expect("a greeting");
    assert!(frame.fin && !frame.rsv1 && frame.opcode == opcode::TEXT);
    let greeting = frame.text();
    let (start, rest) = greeting.split_once(r#"{\"socket_id\":\""#).expect("a socket id");
    let (id, end) = rest.split_once(r#"\""#).expect("the end of the socket id");
    assert_eq!(start, r#"{"event":"pusher:connection_established","data":""#);
    assert_eq!(end, r#",\"activity_timeout\":120}"}"#);
    let (a, b) = id.split_once('.').expect("two numbers");
    assert!([a, b].iter().all(|half| !half.is_empty() && half.bytes().all(|byte| byte.is_ascii_digit())), "{id}");
}

#[test]
fn the_activity_timeout_is_announced_as_configured() {
    let server = Server::start(&format!("activity_timeout_s = 17\n{}", one_app("")));
    assert_eq!(server.connect().activity_timeout, 17);
}

#[test]
fn no_two_sockets_have_one_id() {
    let server = server("");
    let sockets: Vec<Socket> = (0..50).map(|_| server.connect()).collect();
    let ids: std::collections::HashSet<&str> = sockets.iter().map(|socket| socket.id.as_str()).collect();
    assert_eq!(ids.len(), 50);
}

#[test]
fn protocols_4_to_7_and_later_and_none_are_greeted_alike() {
    let server = server("");
    for query in ["?protocol=4", "?protocol=5&client=java-client", "?protocol=6", "?protocol=7", "?protocol=8", "?", ""]
    {
        let mut socket = server.connect_to(&format!("/app/{KEY}{query}"));
        assert_eq!(socket.activity_timeout, 120, "{query}");
        socket.subscribe("room");
    }
}

#[test]
fn a_subprotocol_that_is_offered_is_echoed() {
    let server = server("");
    let offer = [("Sec-WebSocket-Protocol", "pusher-channels-protocol-7")];
    let ws = WebSocket::open(server.addr, "/app/fanfare-key?protocol=7", &offer).expect("a WebSocket");
    assert_eq!(ws.handshake.header("sec-websocket-protocol"), Some("pusher-channels-protocol-7"));
    Socket::established(ws);

    let ws = server.websocket("/app/fanfare-key?protocol=7");
    assert_eq!(ws.handshake.header("sec-websocket-protocol"), None);
}

#[test]
fn the_path_may_have_the_configured_prefix() {
    let server = Server::start(&format!("path_prefix = \"/realtime\"\n{}", one_app("")));
    server.connect_to("/realtime/app/fanfare-key?protocol=7").subscribe("room");
    expect_refusal(server.websocket("/elsewhere/app/fanfare-key?protocol=7"), 4005, "/elsewhere/app");
}

// Refusals.

#[test]
fn an_unknown_key_is_refused_with_4001() {
    expect_refusal(server("").websocket("/app/nobody?protocol=7"), 4001, "no app with key nobody");
}

#[test]
fn a_disabled_app_is_refused_with_4003() {
    expect_refusal(server("enabled = false").websocket("/app/fanfare-key?protocol=7"), 4003, "disabled");
}

#[test]
fn an_app_with_as_many_connections_as_it_may_refuses_with_4004() {
    let server = server("limits = { connections_max = 2 }");
    let (_one, mut two) = (server.connect(), server.connect());
    expect_refusal(server.websocket("/app/fanfare-key?protocol=7"), 4004, "2 connections");

    two.ws.close(1000);
    two.expect_close(1000);
    eventually("a place is free", || server.metric("fanfare_app_connections{app=\"1\"}") == 1.0);
    server.connect().subscribe("room");
}

#[test]
fn an_unknown_path_is_refused_with_4005() {
    let server = server("");
    for path in ["/", "/app", "/application/fanfare-key"] {
        expect_refusal(server.websocket(path), 4005, "expected /app/{key}");
    }
}

#[test]
fn a_version_that_is_no_number_is_refused_with_4006() {
    expect_refusal(server("").websocket("/app/fanfare-key?protocol=seven"), 4006, "version");
}

#[test]
fn protocols_1_to_3_are_refused_with_4007() {
    let server = server("");
    for version in 1..=3 {
        expect_refusal(server.websocket(&format!("/app/fanfare-key?protocol={version}")), 4007, "protocol");
    }
}

#[test]
fn a_page_of_another_origin_is_refused_with_4009() {
    let server = server("allowed_origins = [\"https://*.example.com\"]");
    Socket::established(origin(&server, "https://www.example.com"));
    expect_refusal(origin(&server, "https://example.org"), 4009, "https://example.org");
    // Whatever is no browser names none.
    server.connect();
}

#[test]
fn a_full_node_refuses_with_4100() {
    let server = Server::start(&format!("connections_max = 1\n{}", one_app("")));
    let _first = server.connect();
    expect_refusal(server.websocket("/app/fanfare-key?protocol=7"), 4100, "the node is full");
}

// What closes a connection that was open.

#[test]
fn whoever_does_not_authorise_itself_in_time_is_closed_with_4009() {
    let server = server("authorize_within_s = 1\nclient_events = true");
    let (mut member, mut user, mut idle) = (server.connect(), server.connect(), server.connect());
    member.subscribe("private-room");
    user.sign_in(r#"{"id":"ann"}"#);
    // A public channel is open to everybody, and proves nothing.
    idle.subscribe("room");

    let error = idle.expect_error();
    assert_eq!(error, json!({"code": 4009, "message": "Connection not authorized within timeout"}));
    idle.expect_close(4009);
    member.settle();
    user.settle();
}

#[test]
fn an_authorisation_is_waited_for_as_long_as_was_promised() {
    let server = Server::start(&format!("loops = 1\n{}", one_app("authorize_within_s = 1")));
    let mut lively = server.connect();
    lively.subscribe("private-room");
    // Wherever in a second the connections begin.
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let (since, mut socket) = (Instant::now(), server.connect());
            lively.settle();
            thread::sleep(Duration::from_millis(125));
            thread::spawn(move || {
                socket.expect_close(4009);
                since.elapsed()
            })
        })
        .collect();
    // A loop with something to do looks at the time more often.
    while !waiting.iter().all(|one| one.is_finished()) {
        lively.settle();
        thread::sleep(Duration::from_millis(10));
    }
    for one in waiting {
        let after = one.join().expect("it was closed");
        assert!((1000..4000).contains(&after.as_millis()), "closed after {after:?}");
    }
}

#[test]
fn a_frame_that_is_not_masked_closes_with_1002() {
    let server = server("");
    let mut socket = server.connect();
    socket.ws.send_bytes(b"\x81\x02{}");
    socket.expect_close(1002);
}

#[test]
fn binary_messages_close_with_1003() {
    let server = server("");
    let mut socket = server.connect();
    socket.ws.send_frame(0x80 | opcode::BINARY, br#"{"event":"pusher:ping"}"#);
    socket.expect_close(1003);
}

#[test]
fn text_that_is_not_utf_8_closes_with_1007() {
    let server = server("");
    let mut socket = server.connect();
    socket.ws.send_frame(0x80 | opcode::TEXT, b"{\"event\":\"\xff\"}");
    socket.expect_close(1007);
}

#[test]
fn a_message_over_its_limit_closes_with_1009() {
    let server = server("limits = { payload_bytes_max = 1000 }");
    let mut socket = server.connect();
    // Six times the payload, for its escapes, and 8 KiB around it.
    socket.send(&format!("{{\"event\":\"pusher:ping\",\"data\":\"{}\"}}", "x".repeat(14_000)));
    socket.expect(r#"{"event":"pusher:pong","data":"{}"}"#);
    socket.send(&format!("{{\"event\":\"pusher:ping\",\"data\":\"{}\"}}", "x".repeat(15_000)));
    socket.expect_close(1009);
}

#[test]
fn a_close_is_answered_with_its_own_code() {
    let server = server("");
    for code in [1000, 1001, 3000, 4999] {
        let mut socket = server.connect();
        socket.ws.close(code);
        socket.expect_close(code);
        assert_eq!(socket.ws.frame(), None);
    }
}

#[test]
fn who_reads_too_slowly_is_let_go_and_nobody_else() {
    let limits = "[apps.limits]\npayload_bytes_max = 60000\n";
    let server = Server::start(&format!("outbox_bytes_max = 65536\n{}", one_app(limits)));
    let (mut slow, mut quick) = (server.connect(), server.connect());
    slow.subscribe("room");
    quick.subscribe("room");
    let data = "x".repeat(60_000);
    let slow_ones = || server.metric("fanfare_connections_closed_total{reason=\"slow_consumer\"}");
    // The kernel holds some megabytes before the outbox holds anything.
    for _ in 0..1000 {
        server.publish("room", "said", &data);
        assert_eq!(quick.recv()["data"], *data);
        if slow_ones() > 0.0 {
            break;
        }
    }
    assert_eq!(slow_ones(), 1.0);
    quick.settle();
    // A full socket has no room for words of ours: the connection ends after what had been written.
    while slow.ws.frame().is_some() {}
    eventually("one subscriber is left", || {
        let answer = server.get("/channels/room", &[("info", "subscription_count")]);
        answer.body == r#"{"occupied":true,"subscription_count":1}"#
    });
}

// Messages that are none.

#[test]
fn what_is_no_message_is_told_and_forgiven() {
    let server = server("");
    let mut socket = server.connect();
    let mistakes = [
        ("", "message"),
        ("null", "message"),
        ("[]", "message"),
        (r#"{"event":1}"#, "message"),
        (r#"{"data":"{}"}"#, "\"event\""),
        (r#"{"event":"pusher:subscribe"}"#, "\"channel\""),
        (r#"{"event":"pusher:subscribe","data":7}"#, "pusher:subscribe"),
        (r#"{"event":"pusher:subscribe","data":{"channel":7}}"#, "pusher:subscribe"),
        (r#"{"event":"pusher:signin","data":{"user_data":"{}"}}"#, "\"auth\""),
        (r#"{"event":"pusher:unsubscribe","data":{}}"#, "\"channel\""),
        (r#"{"event":"client-hi"}"#, "\"channel\""),
    ];
    for (message, because) in mistakes {
        socket.send(message);
        let error = socket.expect_error();
        assert_eq!(error["code"], json!(null), "{message}");
        assert!(error["message"].as_str().expect("a message").contains(because), "{message}: {error}");
    }
    socket.settle();
}

#[test]
fn events_of_the_protocol_are_not_relayed_for_clients() {
    let server = server("client_events = true");
    let (mut one, mut two) = (server.connect(), server.connect());
    one.subscribe("private-room");
    two.subscribe("private-room");
    for event in ["pusher:error", "pusher_internal:member_added", "pusher:no-such-event", "said"] {
        one.say_on("private-room", event, json!({}));
        let error = one.expect_error();
        assert!(error["message"].as_str().expect("a message").contains(event), "{error}");
    }
    two.expect_nothing();
}

#[test]
fn the_data_of_a_message_may_be_an_object_or_a_string_of_one() {
    let server = server("");
    let mut socket = server.connect();
    socket.send(r#"{"event":"pusher:subscribe","data":{"channel":"one","auth":""}}"#);
    socket.expect_subscribed("one");
    socket.send(r#"{"event":"pusher:subscribe","data":"{\"channel\":\"two\"}"}"#);
    socket.expect_subscribed("two");
}

#[test]
fn a_client_may_speak_before_it_is_greeted() {
    let server = server("");
    let first = masked_frame(0x81, br#"{"event":"pusher:subscribe","data":{"channel":"room"}}"#);
    let ws = WebSocket::open_saying(server.addr, "/app/fanfare-key?protocol=7", &[], &first);
    let mut socket = Socket::established(ws.expect("a WebSocket"));
    socket.expect_subscribed("room");
}
