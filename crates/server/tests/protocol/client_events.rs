//! Client events: who may send them, what becomes of their data, and how many a second.

use serde_json::json;

use super::server;
use crate::support::{Server, Socket};

const ON: &str = "client_events = true";

/// Two sockets on a private channel.
fn two_on(server: &Server, channel: &str) -> (Socket, Socket) {
    let (mut one, mut two) = (server.connect(), server.connect());
    one.subscribe(channel);
    two.subscribe(channel);
    (one, two)
}

/// Asserts an error without a code that begins like this.
#[track_caller]
fn expect_rejected(socket: &mut Socket, because: &str) {
    let error = socket.expect_error();
    assert_eq!(error["code"], json!(null), "{error}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains(because)), "{error}");
}

#[test]
fn a_client_event_reaches_the_others_and_is_not_echoed() {
    let server = server(ON);
    let (mut one, mut two) = two_on(&server, "private-room");
    one.send(r#"{"event":"client-typing","channel":"private-room","data":"yes"}"#);
    assert_eq!(two.recv_text(), r#"{"event":"client-typing","channel":"private-room","data":"yes"}"#);
    one.expect_nothing();
    // Neither two of one loop nor two of different ones.
    two.send(r#"{"event":"client-typing","channel":"private-room","data":"no"}"#);
    one.expect(r#"{"event":"client-typing","channel":"private-room","data":"no"}"#);
}

#[test]
fn data_leaves_as_a_string_whatever_it_came_as() {
    let server = server(ON);
    let (mut one, mut two) = two_on(&server, "private-room");
    for (sent, heard) in [
        (r#"{"x": 1, "y":[null]}"#, r#""{\"x\": 1, \"y\":[null]}""#),
        (r#"[1,2]"#, r#""[1,2]""#),
        ("7", r#""7""#),
        ("true", r#""true""#),
        (r#""text""#, r#""text""#),
        (r#""{\"x\":\"\\u00fc\"}""#, r#""{\"x\":\"\\u00fc\"}""#),
    ] {
        one.send(&format!(r#"{{"event":"client-move","channel":"private-room","data":{sent}}}"#));
        let wanted = format!(r#"{{"event":"client-move","channel":"private-room","data":{heard}}}"#);
        assert_eq!(two.recv_text(), wanted, "{sent}");
    }
    one.settle();
}

#[test]
fn data_that_was_left_out_is_an_empty_object() {
    let server = server(ON);
    let (mut one, mut two) = two_on(&server, "private-room");
    for message in [
        r#"{"event":"client-typing","channel":"private-room"}"#,
        r#"{"event":"client-typing","channel":"private-room","data":null}"#,
    ] {
        one.send(message);
        assert_eq!(two.recv_text(), r#"{"event":"client-typing","channel":"private-room","data":"{}"}"#);
    }
}

#[test]
fn on_presence_channels_the_verified_user_goes_with_it() {
    let server = server(ON);
    let (mut ann, mut bob) = (server.connect(), server.connect());
    ann.join("presence-room", r#"{"user_id":10}"#);
    bob.join("presence-room", r#"{"user_id":"b\"ob"}"#);
    ann.expect_event("pusher_internal:member_added");
    ann.send(r#"{"event":"client-typing","channel":"presence-room","data":{},"user_id":"somebody else"}"#);
    assert_eq!(bob.recv_text(), r#"{"event":"client-typing","channel":"presence-room","data":"{}","user_id":"10"}"#);
    bob.send(r#"{"event":"client-typing","channel":"presence-room","data":{}}"#);
    assert_eq!(ann.recv_text(), r#"{"event":"client-typing","channel":"presence-room","data":"{}","user_id":"b\"ob"}"#);
}

#[test]
fn an_app_that_has_them_off_says_so() {
    let server = server("");
    let (mut one, mut two) = two_on(&server, "private-room");
    one.say_on("private-room", "client-typing", json!({}));
    expect_rejected(&mut one, "you must enable this feature");
    two.expect_nothing();
}

#[test]
fn public_channels_take_none() {
    let server = server(ON);
    let (mut one, mut two) = two_on(&server, "room");
    one.say_on("room", "client-typing", json!({}));
    expect_rejected(&mut one, "only supported on private and presence channels");
    two.expect_nothing();
}

#[test]
fn only_subscribers_may_send_them() {
    let server = server(ON);
    let (mut one, mut two) = two_on(&server, "private-room");
    let mut stranger = server.connect();
    stranger.say_on("private-room", "client-typing", json!({}));
    expect_rejected(&mut stranger, "No current subscription to channel private-room, or subscription in progress");
    one.unsubscribe("private-room");
    one.say_on("private-room", "client-typing", json!({}));
    expect_rejected(&mut one, "No current subscription to channel private-room");
    two.expect_nothing();
}

#[test]
fn more_than_the_rate_is_refused_with_4301_and_the_connection_stays() {
    let server = server("client_events = true\nlimits = { client_events_per_s = 3 }");
    let (mut one, mut two) = two_on(&server, "private-room");
    for n in 0..4 {
        one.say_on("private-room", "client-count", json!(n));
    }
    assert_eq!(
        one.expect_error(),
        json!({"code": 4301, "message": "Client event rejected - at most 3 client events per second are allowed"})
    );
    for n in 0..3 {
        assert_eq!(two.expect_event("client-count")["data"], n.to_string());
    }
    two.expect_nothing();
    // A third of a second brings one more.
    std::thread::sleep(std::time::Duration::from_millis(400));
    one.say_on("private-room", "client-count", json!(9));
    assert_eq!(two.expect_event("client-count")["data"], "9");
    one.settle();
}

#[test]
fn ten_a_second_are_allowed_unless_configured() {
    let server = server(ON);
    let (mut one, mut two) = two_on(&server, "private-room");
    let burst: Vec<String> =
        (0..10).map(|n| format!(r#"{{"event":"client-n","channel":"private-room","data":"{n}"}}"#)).collect();
    burst.iter().for_each(|event| one.send(event));
    burst.iter().for_each(|event| assert_eq!(two.recv_text(), *event));
    one.settle();
}

#[test]
fn names_and_data_are_no_longer_than_the_app_allows() {
    let server = server("client_events = true\nlimits = { payload_bytes_max = 20, event_name_len_max = 12 }");
    let (mut one, mut two) = two_on(&server, "private-room");
    one.say_on("private-room", "client-toolong", json!({}));
    expect_rejected(&mut one, "its name is longer than 12");
    one.say_on("private-room", "client-long", json!("x".repeat(21)));
    expect_rejected(&mut one, "its data has 21 bytes, at most 20 are allowed");
    // Escapes are not part of the data.
    let data = "\u{1}".repeat(20);
    one.say_on("private-room", "client-long", json!(data));
    assert_eq!(two.expect_event("client-long")["data"], *data);
    one.settle();
}

#[test]
fn data_nested_too_deeply_is_refused() {
    let server = server(ON);
    let (mut one, mut two) = two_on(&server, "private-room");
    let (open, close) = ("[".repeat(200), "]".repeat(200));
    one.send(&format!(r#"{{"event":"client-deep","channel":"private-room","data":{open}{close}}}"#));
    expect_rejected(&mut one, "nested");
    two.expect_nothing();
}
