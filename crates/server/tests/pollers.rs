//! Long-polling presence channels: a member between two polls, and nothing lost in between.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{KEY, PATIENCE, Response, SILENCE, Server, one_app, token};

const ROOM: &str = "presence-room";

fn start() -> Server {
    Server::start(&one_app(""))
}

fn token_of(user: &str) -> String {
    token(json!({"sub": user, "channels": ["presence-*"], "info": {"name": user}}))
}

fn poll(server: &Server, user: &str, more: &str) -> Response {
    let authorization = format!("Bearer {}", token_of(user));
    let target = format!("/sub/{KEY}/{ROOM}?{more}");
    server.request("GET", &target, &[("Authorization", &authorization)], "")
}

/// Polls once for JSON and returns the answer's object.
fn poll_json(server: &Server, user: &str, more: &str) -> Value {
    let answer = poll(server, user, &format!("format=json&{more}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let object = answer.json();
    assert_eq!(answer.header("fanfare-sid"), object["sid"].as_str());
    object
}

fn events(answer: &Value) -> Vec<String> {
    let messages = answer["messages"].as_array().expect("messages");
    messages.iter().map(|message| message["event"].as_str().expect("an event").to_owned()).collect()
}

fn sid(answer: &Value) -> &str {
    answer["sid"].as_str().expect("a session")
}

#[test]
fn a_member_stays_between_polls_and_hears_what_happened_meanwhile() {
    let server = start();
    let first = poll_json(&server, "ann", "transport=poll");
    assert_eq!(first["messages"], json!([]));
    assert_eq!(first["presence"][ROOM]["ids"], json!(["ann"]));

    let mut bob = server.connect();
    let roster = bob.join(ROOM, r#"{"user_id":"bob"}"#);
    assert_eq!(roster["count"], 2, "ann is there, though nobody waits");
    server.publish(ROOM, "said", "hello");
    drop(bob);

    let mut heard = Vec::new();
    let mut last = first;
    while heard.len() < 3 {
        last = poll_json(&server, "ann", &format!("sid={}", sid(&last)));
        heard.extend(events(&last));
        assert!(last.get("presence").is_none(), "who is there was told once");
    }
    assert_eq!(heard, ["fanfare:member_added", "said", "fanfare:member_removed"]);
}

#[test]
fn a_long_poll_waits_for_the_next_and_its_cursor_goes_on() {
    let server = start();
    let first = poll_json(&server, "ann", "transport=poll");
    thread::scope(|scope| {
        let more = format!("sid={}&since={}", sid(&first), first["cursor"].as_str().expect("a cursor"));
        let (server, first) = (&server, &first);
        let waiting = scope.spawn(move || poll_json(server, "ann", &more));
        thread::sleep(SILENCE);
        assert!(!waiting.is_finished());
        server.publish(ROOM, "said", "hello");
        let second = waiting.join().expect("no panic");
        assert_eq!((events(&second), sid(&second)), (vec!["said".to_owned()], sid(first)));
        assert_eq!(second["messages"][0]["data"], "hello");
        assert_eq!(second["messages"][0]["cursor"], second["cursor"]);
    });
}

#[test]
fn raw_answers_hold_one_message_each() {
    let server = start();
    let first = poll_json(&server, "ann", "transport=poll");
    server.publish(ROOM, "said", "one");
    server.publish(ROOM, "said", "two");
    let more = format!("sid={}", sid(&first));
    for data in ["one", "two"] {
        let answer = poll(&server, "ann", &more);
        assert_eq!((answer.status, answer.body.as_str()), (200, data), "{answer:?}");
        assert_eq!(
            (answer.header("fanfare-event"), answer.header("fanfare-sid")),
            (Some("said"), first["sid"].as_str())
        );
        assert_eq!(answer.header("etag").map(|tag| tag.trim_matches('"')), answer.header("fanfare-cursor"));
    }
    assert_eq!(poll(&server, "ann", &format!("{more}&wait=1")).status, 204);
}

#[test]
fn an_answer_that_got_lost_is_given_again() {
    let server = start();
    let first = poll_json(&server, "ann", "transport=poll");
    let cursor = first["cursor"].as_str().expect("a cursor");
    server.publish(ROOM, "said", "hello");
    let lost = poll_json(&server, "ann", &format!("sid={}&since={cursor}", sid(&first)));
    assert_eq!(events(&lost), ["said"]);
    let again = poll_json(&server, "ann", &format!("sid={}&since={cursor}", sid(&first)));
    assert_eq!((events(&again), &again["recovered"]), (vec!["said".to_owned()], &json!(true)));
    assert_ne!(again["sid"], first["sid"]);
}

#[test]
fn a_session_is_its_users_and_its_channels() {
    let server = start();
    let ann = poll_json(&server, "ann", "transport=poll");
    let bob = poll_json(&server, "bob", &format!("transport=poll&sid={}", sid(&ann)));
    assert_ne!(ann["sid"], bob["sid"]);
    assert_eq!(bob["presence"][ROOM]["count"], 2);
    let unknown = poll_json(&server, "cleo", "transport=poll&sid=nobodys");
    assert_eq!(unknown["presence"][ROOM]["count"], 3);
}

#[test]
fn a_member_who_does_not_poll_again_has_left() {
    let server = start();
    poll_json(&server, "ann", "transport=poll");
    let count = || server.get(&format!("/channels/{ROOM}"), &[("info", "user_count")]).json()["user_count"].clone();
    assert_eq!(count(), 1);
    let deadline = Instant::now() + 3 * PATIENCE;
    while count() != 0 {
        assert!(Instant::now() < deadline, "still a member");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn who_may_not_join_is_refused() {
    let server = Server::start(&format!("{}\n[apps.limits]\npresence_members_max = 1\n", one_app("")));
    poll_json(&server, "ann", "transport=poll");
    let answer = poll(&server, "bob", "transport=poll&format=json");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.json()["error"].is_string());
}
