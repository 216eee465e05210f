//! permessage-deflate: what is agreed on, what is compressed, and what is taken in compressed.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::support::{Frame, KEY, Server, Socket, WebSocket, one_app, opcode};

const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What Chrome offers.
const OFFER: &str = "permessage-deflate; client_max_window_bits";

/// FIN, RSV1 and text.
const COMPRESSED_TEXT: u8 = 0x80 | 0x40 | opcode::TEXT;

fn open(server: &Server, offer: &str) -> WebSocket {
    let headers = [("Sec-WebSocket-Extensions", offer)];
    WebSocket::open(server.addr, &format!("/app/{KEY}?protocol=7"), &headers).expect("a WebSocket")
}

fn agreed(server: &Server, offer: &str) -> Option<String> {
    open(server, offer).handshake.header("sec-websocket-extensions").map(str::to_owned)
}

fn connect(server: &Server) -> Socket {
    Socket::established(open(server, OFFER))
}

fn inflate(frame: &Frame) -> String {
    let data = [&frame.payload[..], &[0, 0, 0xff, 0xff]].concat();
    let mut out = Vec::with_capacity(1 << 20);
    Decompress::new(false).decompress_vec(&data, &mut out, FlushDecompress::Sync).expect("a deflate stream");
    String::from_utf8(out).expect("text")
}

fn deflate(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync).expect("room for it");
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

#[test]
fn an_offer_is_met_without_context_takeover() {
    let server = Server::start(&one_app(""));
    assert_eq!(agreed(&server, "permessage-deflate").as_deref(), Some(AGREED));
    assert_eq!(agreed(&server, OFFER).as_deref(), Some(AGREED));
    assert_eq!(agreed(&server, "x-webkit-deflate-frame, permessage-deflate").as_deref(), Some(AGREED));
    assert_eq!(agreed(&server, "permessage-deflate; server_max_window_bits=10"), None);
    assert_eq!(agreed(&server, "permessage-bzip2"), None);
}

#[test]
fn a_server_that_has_it_off_agrees_to_nothing() {
    let server = Server::start(&format!("deflate = false\n{}", one_app("")));
    assert_eq!(agreed(&server, OFFER), None);
    let mut socket = connect(&server);
    socket.ws.send_frame(COMPRESSED_TEXT, &deflate(r#"{"event":"pusher:ping"}"#));
    socket.expect_close(1002);
}

#[test]
fn events_over_the_threshold_are_compressed_and_smaller_ones_are_not() {
    let server = Server::start(&one_app(""));
    let (mut socket, mut plain) = (connect(&server), server.connect());
    socket.subscribe("room");
    plain.subscribe("room");
    for (data, compressed) in [("small", false), (&*"large ".repeat(500), true), ("small again", false)] {
        server.publish("room", "said", data);
        let wanted = format!(r#"{{"event":"said","channel":"room","data":"{data}"}}"#);
        let frame = socket.ws.frame().expect("an event");
        assert_eq!(frame.rsv1, compressed, "{data}");
        let text = if compressed { inflate(&frame) } else { frame.text() };
        assert_eq!(text, wanted);
        assert!(!compressed || frame.payload.len() < wanted.len() / 10);
        assert_eq!(plain.recv_text(), wanted);
    }
}

#[test]
fn each_message_inflates_on_its_own() {
    let server = Server::start(&one_app(""));
    let mut socket = connect(&server);
    socket.subscribe("room");
    let data = "the same text again and again ".repeat(30);
    for _ in 0..3 {
        server.publish("room", "said", &data);
        let frame = socket.ws.frame().expect("an event");
        assert_eq!(inflate(&frame), format!(r#"{{"event":"said","channel":"room","data":"{data}"}}"#));
    }
}

#[test]
fn the_threshold_is_as_configured() {
    let server = Server::start(&format!("deflate_min_bytes = 2000\n{}", one_app("")));
    let mut socket = connect(&server);
    socket.subscribe("room");
    server.publish("room", "said", &"x".repeat(1500));
    assert!(!socket.ws.frame().expect("an event").rsv1);
    server.publish("room", "said", &"x".repeat(2500));
    assert!(socket.ws.frame().expect("an event").rsv1);
}

#[test]
fn compressed_messages_are_taken_in_whole_or_in_fragments() {
    let server = Server::start(&one_app(""));
    let mut socket = connect(&server);
    let message = deflate(r#"{"event":"pusher:subscribe","data":{"channel":"room"}}"#);
    socket.ws.send_frame(COMPRESSED_TEXT, &message);
    socket.expect_subscribed("room");
    let message = deflate(r#"{"event":"pusher:subscribe","data":{"channel":"hall"}}"#);
    let (start, end) = message.split_at(message.len() / 2);
    // Only the first fragment says that the message is compressed.
    socket.ws.send_frame(0x40 | opcode::TEXT, start);
    socket.ws.send_frame(0x80, end);
    socket.expect_subscribed("hall");
    socket.settle();
}

#[test]
fn an_inflating_message_is_no_larger_than_a_plain_one() {
    let server = Server::start(&one_app("limits = { payload_bytes_max = 1000 }"));
    let mut socket = connect(&server);
    let bomb = deflate(&" ".repeat(10 << 20));
    assert!(bomb.len() < 14_000, "small enough to be read: {}", bomb.len());
    socket.ws.send_frame(COMPRESSED_TEXT, &bomb);
    socket.expect_close(1009);
}

#[test]
fn what_does_not_inflate_closes_with_1007() {
    let server = Server::start(&one_app(""));
    let mut socket = connect(&server);
    socket.ws.send_frame(COMPRESSED_TEXT, &[0xff; 40]);
    socket.expect_close(1007);
}
