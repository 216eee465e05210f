//! `/ws`.

use serde_json::Value;

use super::{Face, expect_refused};
use crate::support::{WebSocket, eventually, opcode};

impl Face {
    fn websocket(&self, target: &str) -> WebSocket {
        WebSocket::open(self.addr, target, &[]).expect("the server takes the WebSocket")
    }
}

#[track_caller]
fn expect_text(socket: &mut WebSocket, text: &str) {
    assert_eq!(socket.frame().expect("a frame").text(), text);
}

/// The JSON in the close frame that must come next, which is one of a broken rule.
#[track_caller]
fn expect_policy(socket: &mut WebSocket) -> Value {
    let frame = socket.frame().expect("a close frame");
    assert_eq!(frame.close_code(), Some(1008), "{frame:?}");
    serde_json::from_slice(&frame.payload[2..]).expect("a reason in JSON")
}

#[test]
fn messages_are_text_frames_behind_what_was_missed() {
    let face = Face::start("[push_stream.websocket]\nheader_template = \"hi\"\nmessage_template = \"~id~:~text~\"");
    face.publish("a", "one");
    let mut socket = face.websocket("/ws/a.b1");
    expect_text(&mut socket, "hi");
    expect_text(&mut socket, "1:one");
    face.publish("a", "two");
    expect_text(&mut socket, "2:two");
    socket.ping(b"p");
    assert_eq!(socket.frame().expect("a pong").opcode, opcode::PONG);
    socket.close(1000);
    assert_eq!(socket.frame().and_then(|frame| frame.close_code()), Some(1000));
}

#[test]
fn refusals_come_after_the_handshake() {
    let face = Face::start("max_subscribers_per_channel = 1");
    let _first = face.stream("/sub/a", &[]);
    let reason = expect_policy(&mut face.websocket("/ws/a"));
    assert_eq!(
        (&reason["http_status"], &reason["explain"]),
        (&403.into(), &"Subscribers limit per channel has been exceeded.".into())
    );
    let reason = expect_policy(&mut face.websocket("/ws/ALL"));
    assert_eq!(reason["explain"], "Channel id not authorized for this method.");
    assert_eq!(expect_policy(&mut face.websocket("/ws/a%20b"))["http_status"], 400);
}

#[test]
fn a_handshake_that_is_none_is_refused() {
    let face = Face::start("");
    let missing = "Don't have at least one of the mandatory headers: Connection, Upgrade, Sec-WebSocket-Key and \
                   Sec-WebSocket-Version";
    expect_refused(&face.get("/ws/a"), 400, missing);
    let headers =
        [("Upgrade", "websocket"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "7")];
    let response = face.request("GET", "/ws/a", &headers, "");
    expect_refused(&response, 400, "Version not supported. Supported versions: 8, 13");
    assert_eq!(response.header("sec-websocket-version"), Some("8, 13"));
}

#[test]
fn pings_the_end_and_a_deletion_are_frames() {
    let face = Face::start(
        "ping_message_interval_s = 1\nsubscriber_connection_ttl_s = 3\n[push_stream.websocket]\n\
         message_template = \"~id~:~text~\"\nfooter_template = \"bye\"",
    );
    let mut socket = face.websocket("/ws/a");
    assert_eq!(socket.frame().expect("a ping").opcode, opcode::PING);
    let mut deleted = face.websocket("/ws/b");
    eventually("it is subscribed", || face.subscribers("b") == 1);
    assert_eq!(face.request("DELETE", "/pub?id=b", &[], "").status, 200);
    expect_text(&mut deleted, "-2:Channel deleted");
    expect_text(&mut deleted, "bye");
    let last = loop {
        let frame = socket.frame().expect("the footer comes");
        if frame.opcode == opcode::TEXT {
            break frame;
        }
    };
    assert_eq!(last.text(), "bye");
    assert_eq!(socket.frame().expect("a close frame").opcode, opcode::CLOSE);
}

#[test]
fn what_is_said_is_published_where_the_configuration_says_so() {
    let face = Face::start("websocket_allow_publish = true");
    let (mut one, mut two) = (face.websocket("/ws/a/b"), face.websocket("/ws/b"));
    eventually("both are subscribed", || face.subscribers("b") == 2);
    one.send_text("hello");
    expect_text(&mut two, "hello");
    expect_text(&mut one, "hello");
    expect_text(&mut one, "hello");
    let face = Face::start("");
    let mut socket = face.websocket("/ws/a");
    socket.send_text("unheard");
    socket.ping(b"");
    assert_eq!(socket.frame().expect("a pong").opcode, opcode::PONG);
    assert_eq!(face.get("/poll/a.b9").status, 304);
}
