//! The messages of the plain HTTP doors, written out.

use fanfare_proto::feed::{self, Message};

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("text")
}

const PLAIN: Message<'static> = Message {
    channel: "news",
    event: "\"message\"",
    data: r#""a\nb""#,
    cursor: None,
    event_id: None,
    user_id: None,
    time_ms: 0,
};

#[test]
fn a_message_splices_what_the_publisher_sent() {
    let short = text(|out| feed::message(out, &PLAIN));
    assert_eq!(short, r#"{"channel":"news","event":"message","data":"a\nb"}"#);
    let full =
        Message { cursor: Some("c1"), event_id: Some("my \"id\""), user_id: Some("\"7\""), time_ms: 12, ..PLAIN };
    assert_eq!(
        text(|out| feed::message(out, &full)),
        r#"{"channel":"news","event":"message","data":"a\nb","cursor":"c1","event_id":"my \"id\"","user_id":"7","time_ms":12}"#
    );
}

#[test]
fn control_events_say_what_happened() {
    assert_eq!(
        text(|out| feed::subscribed(out, "news", None, Some("c"), None)),
        r#"{"event":"fanfare:subscribed","channel":"news","cursor":"c"}"#
    );
    let roster = r#"{"presence":{"ids":["1"],"hash":{"1":null},"count":1}}"#;
    assert_eq!(
        text(|out| feed::subscribed(out, "presence-a", Some(false), None, Some(roster))),
        r#"{"event":"fanfare:subscribed","channel":"presence-a","recovered":false,"presence":{"ids":["1"],"hash":{"1":null},"count":1}}"#
    );
    assert_eq!(
        text(|out| feed::closed(out, "drain", true)),
        r#"{"event":"fanfare:closed","reason":"drain","reconnect":true}"#
    );
    assert_eq!(
        text(|out| feed::error(out, Some("a"), 403, "no")),
        r#"{"event":"fanfare:error","channel":"a","status":403,"message":"no"}"#
    );
    assert_eq!(text(|out| feed::unsubscribed(out, "a")), r#"{"event":"fanfare:unsubscribed","channel":"a"}"#);
}

#[test]
fn no_text_ends_an_event_early() {
    let sse = |id, event, data| text(|out| feed::sse(out, id, event, data));
    assert_eq!(sse(Some("c"), "message", "hello"), "id: c\ndata: hello\n\n");
    assert_eq!(sse(None, "comment", ""), "event: comment\ndata:\n\n");
    assert_eq!(sse(None, "message", "a\nb\rc\r\nd\n\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata:\ndata:\n\n");
    assert_eq!(sse(None, "x\ndata: forged\n\n", "y"), "event: x\ndata: y\n\n");
}

#[test]
fn a_chunk_says_its_length_in_hexadecimal() {
    assert_eq!(text(|out| feed::chunk(out, &[b'x'; 17])), format!("11\r\n{}\r\n", "x".repeat(17)));
    assert_eq!(text(|out| feed::chunk(out, b"")), "");
}
