//! `/sub` and `/ev`.

use std::io::Read;

use super::Face;
use crate::support::connect;

const JSON: &str = r#"message_template = '{"id":~id~,"channel":"~channel~","text":"~text~","size":~size~,"tag":~tag~,"time":"~time~","eventid":"~event-id~","type":"~event-type~"}'"#;

#[test]
fn a_stream_begins_with_its_header_and_goes_on_with_messages() {
    let face = Face::start(
        "[push_stream.streaming]\nheader_template = \"<html>\\r\\n\"\nmessage_template = \"<p>~id~:~text~</p>\"\n\
         footer_template = \"</html>\"\ncontent_type = \"text/html; charset=utf-8\"",
    );
    let mut stream = face.stream("/sub/a", &[]);
    assert!(stream.head.starts_with("http/1.1 200"), "{}", stream.head);
    assert!(stream.head.contains("content-type: text/html; charset=utf-8"), "{}", stream.head);
    assert!(stream.head.contains("transfer-encoding: chunked"), "{}", stream.head);
    stream.expect("<html>\r\n");
    face.publish("a", "one");
    stream.expect("<p>1:one</p>");
    face.publish("b", "elsewhere");
    face.publish("a", "two");
    stream.expect("<p>2:two</p>");
    stream.expect_nothing();
}

#[test]
fn all_tokens_have_their_values() {
    let face = Face::start(&format!("[push_stream.streaming]\n{JSON}"));
    let mut stream = face.stream("/sub/a", &[]);
    face.publish_with("a", &[("Event-Id", "e1"), ("Event-Type", "said")], "h\u{e9}");
    let text = stream.take_to("}");
    let message: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (name, value) in [("id", 1), ("size", 3), ("tag", 1)] {
        assert_eq!(message[name], value, "{message}");
    }
    for (name, value) in [("channel", "a"), ("text", "h\u{e9}"), ("eventid", "e1"), ("type", "said")] {
        assert_eq!(message[name], value, "{message}");
    }
    assert!(message["time"].as_str().is_some_and(|time| time.ends_with(" GMT")), "{message}");
}

#[test]
fn a_stream_may_follow_many_channels_from_different_places() {
    let face = Face::start("[push_stream.streaming]\nmessage_template = \"~channel~~text~ \"");
    for (id, text) in [("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("a", "3")] {
        face.publish(id, text);
    }
    let mut stream = face.stream("/sub/a.b2/b/c.b9", &[]);
    stream.expect("a2 a3 ");
    face.publish("c/b", "4");
    stream.expect("c4 b4 ");
    let mut stream = face.stream("/sub?channels=b.b1%2Fa.b1", &[]);
    stream.expect("b4 a3 ");
}

#[test]
fn events_have_an_id_and_a_type_only_where_the_publisher_gave_them() {
    let face = Face::start("");
    let mut stream = face.stream("/ev/a", &[("Accept", "text/event-stream")]);
    assert!(stream.head.contains("content-type: text/event-stream; charset=utf-8"), "{}", stream.head);
    stream.expect(": \n");
    face.publish("a", "plain");
    stream.expect("data: plain\n\n");
    face.publish_with("a", &[("Event-Id", "7"), ("Event-Type", "said")], "one\r\ntwo\nthree\rfour");
    stream.expect("id: 7\nevent: said\ndata: one\ndata: two\ndata: three\ndata: four\n\n");
}

#[test]
fn around_events_stand_comments() {
    let face = Face::start(
        "subscriber_connection_ttl_s = 1\n[push_stream.eventsource]\nheader_template = \"one\\r\\ntwo\"\n\
         message_template = \"~id~ ~text~\"\nfooter_template = \"bye\"",
    );
    let mut stream = face.stream("/ev/a", &[]);
    stream.expect(": one\n: two\n");
    face.publish("a", "x\ny");
    stream.expect("data: 1 x\ndata: 1 y\n\n: bye\n");
    stream.expect_end();
}

#[test]
fn pauses_are_filled_with_pings() {
    let face = Face::start(
        "ping_message_interval_s = 1\nping_message_text = \"still here\"\n[push_stream.streaming]\n\
         message_template = \"~id~:~channel~:~text~;\"",
    );
    face.stream("/sub/a", &[]).expect("-1::still here;");
    let mut events = face.stream("/ev/a", &[]);
    events.expect(": \n: -1\n");
    face.publish("a", "x");
    events.expect("data: x\n\n");
}

#[test]
fn a_stream_ends_when_its_time_is_up() {
    let face = Face::start("subscriber_connection_ttl_s = 1\n[push_stream.streaming]\nfooter_template = \"end\"");
    let mut stream = face.stream("/sub/a", &[]);
    stream.expect("end");
    stream.expect_end();
}

#[test]
fn an_old_client_reads_until_the_connection_closes() {
    let face = Face::start("subscriber_connection_ttl_s = 1\n[push_stream.streaming]\nheader_template = \"begin \"");
    let mut stream = connect(face.addr);
    std::io::Write::write_all(&mut stream, b"GET /sub/a HTTP/1.0\r\n\r\n").expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer that ends");
    assert!(answer.ends_with("\r\n\r\nbegin ") && !answer.to_lowercase().contains("chunked"), "{answer}");
}

#[test]
fn subscribers_of_a_deleted_channel_are_told_and_leave_when_it_was_their_only_one() {
    let face = Face::start(
        "[push_stream.streaming]\nmessage_template = \"~id~:~channel~:~text~;\"\nfooter_template = \"end\"",
    );
    let mut one = face.stream("/sub/a", &[]);
    let mut two = face.stream("/sub/a/b", &[]);
    face.publish("a", "x");
    assert_eq!(face.request("DELETE", "/pub?id=a", &[], "").status, 200);
    one.expect("1:a:x;-2:a:Channel deleted;end");
    one.expect_end();
    two.expect("1:a:x;-2:a:Channel deleted;");
    face.publish("a/b", "y");
    two.expect("1:b:y;");
    two.expect_nothing();
    assert_eq!(face.request("DELETE", "/pub?id=b", &[], "gone").status, 200);
    two.expect("-2:b:gone;end");
    two.expect_end();
}

#[test]
fn a_stopping_server_says_goodbye() {
    let mut face = Face::start("[push_stream.streaming]\nfooter_template = \"end\"");
    let mut stream = face.stream("/sub/a", &[]);
    face.server.signal("TERM");
    stream.expect("end");
    stream.expect_end();
    assert!(face.server.wait().success());
}
