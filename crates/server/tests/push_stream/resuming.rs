//! Where a subscriber goes on.

use super::Face;
use crate::support::eventually;

const EPOCH: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

fn face() -> Face {
    let face = Face::start("[push_stream.streaming]\nmessage_template = \"~text~:~tag~:~time~|\"");
    face.publish_with("a", &[("Event-Id", "e1")], "1");
    face.publish_with("a", &[("Event-Id", "e2")], "2");
    face.publish("a", "3");
    face
}

/// The next message: text, tag, time.
fn message(stream: &mut super::client::Stream) -> (String, String, String) {
    let text = stream.take_to("|");
    let parts: Vec<_> = text.trim_end_matches('|').splitn(3, ':').map(str::to_owned).collect();
    (parts[0].clone(), parts[1].clone(), parts[2].clone())
}

#[test]
fn without_a_word_a_stream_begins_now() {
    let face = face();
    let mut stream = face.stream("/sub/a", &[]);
    face.publish("a", "4");
    assert_eq!(message(&mut stream).0, "4");
}

#[test]
fn a_time_and_a_tag_name_the_last_message_that_was_seen() {
    let face = face();
    let mut stream = face.stream("/sub/a", &[("If-Modified-Since", EPOCH)]);
    let first = message(&mut stream);
    let second = message(&mut stream);
    assert_eq!((first.0.as_str(), second.0.as_str()), ("1", "2"));
    for tag in [format!("W/{}", second.1), format!("\"{}\"", second.1), second.1.clone()] {
        let headers = [("If-Modified-Since", second.2.as_str()), ("If-None-Match", tag.as_str())];
        let mut stream = face.stream("/sub/a", &headers);
        assert_eq!(message(&mut stream).0, "3", "{tag}");
    }
    let time = first.2.replace(' ', "%20");
    let mut stream = face.stream(&format!("/sub/a?time={time}&tag={}", first.1), &[]);
    assert_eq!(message(&mut stream).0, "2", "arguments do as well");
}

#[test]
fn an_event_id_names_it_too() {
    let face = face();
    let mut stream = face.stream("/sub/a", &[("Last-Event-Id", "e1")]);
    assert_eq!(message(&mut stream).0, "2");
    let mut stream = face.stream("/ev/a?eventid=e2", &[]);
    stream.expect(": \ndata: 3\n\n");
    let mut stream = face.stream("/sub/a", &[("Last-Event-Id", "unknown")]);
    stream.expect_nothing();
}

#[test]
fn a_backtrack_counts_more() {
    let face = face();
    let headers = [("If-Modified-Since", EPOCH), ("Last-Event-Id", "e1")];
    assert_eq!(message(&mut face.stream("/sub/a.b1", &headers)).0, "3");
    assert_eq!(message(&mut face.stream("/sub/a.b100", &headers)).0, "1");
}

#[test]
fn what_comes_while_a_stream_catches_up_comes_once() {
    let face = Face::start("[push_stream.streaming]\nmessage_template = \"~text~ \"");
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| (1..=80).for_each(|n| _ = face.publish("a", &n.to_string())));
        eventually("some are stored", || face.get("/pub?id=a").status == 200);
        for _ in 0..5 {
            let mut stream = face.stream("/sub/a", &[("If-Modified-Since", EPOCH)]);
            let all: String = (1..=80).map(|n| format!("{n} ")).collect();
            stream.expect(&all);
        }
        publisher.join().expect("all was published");
    });
}

#[test]
fn nothing_is_kept_where_the_configuration_says_so() {
    let face = Face::start("store_messages = false");
    let mut stream = face.stream("/sub/a", &[]);
    let told = face.publish("a", "x").json();
    assert_eq!((&told["published_messages"], &told["stored_messages"]), (&1.into(), &0.into()));
    stream.expect("x");
    face.stream("/sub/a.b5", &[]).expect_nothing();
}

#[test]
fn no_more_is_kept_than_the_configuration_says() {
    let face = Face::start("max_messages_stored_per_channel = 2");
    (1..=5).for_each(|n| _ = face.publish("a", &n.to_string()));
    face.stream("/sub/a.b5", &[]).expect("45");
    assert_eq!(face.get("/pub?id=a").json()["stored_messages"], 2);
}

#[test]
fn a_graceful_restart_is_passed_over() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let args = ["--data-dir", data.path().to_str().expect("its path is text")];
    let template = "[push_stream.streaming]\nmessage_template = \"~text~:~tag~:~time~|\"";
    let mut first = Face::start_with("", template, &args);
    first.publish("a", "1");
    first.publish("a", "2");
    let seen = message(&mut first.stream("/sub/a.b2", &[]));
    assert_eq!(seen.0, "1");
    first.server.signal("TERM");
    assert!(first.server.wait().success());
    let second = Face::start_with("", template, &args);
    let mut stream = second.stream("/sub/a", &[("If-Modified-Since", &seen.2), ("If-None-Match", &seen.1)]);
    assert_eq!(message(&mut stream).0, "2");
    second.publish("a", "3");
    assert_eq!(message(&mut stream).0, "3");
}
