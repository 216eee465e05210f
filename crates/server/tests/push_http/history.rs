//! What is kept, and how it is told.

use std::time::Instant;

use super::*;
use serde_json::{Value, json};
use support::PATIENCE;

const HISTORY: &str = "/channels/room/history";

/// Publishes `n` numbers, beginning with 1, and tells their cursors.
fn publish_numbers(server: &Server, n: usize) -> Vec<String> {
    let cursor = |n: usize| publish(server, ROOM, &[], &n.to_string())["cursor"].as_str().map(str::to_owned);
    (1..=n).map(|n| cursor(n).expect("a cursor")).collect()
}

fn data(answer: &Response) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let publications = answer["publications"].as_array().expect("a list").iter();
    publications.map(|publication| publication["data"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_history_is_read_from_either_end_and_from_a_cursor() {
    let server = server("");
    let cursors = publish_numbers(&server, 5);
    let get = |params: &[(&str, &str)]| server.get(HISTORY, params);
    assert_eq!(data(&get(&[])), ["1", "2", "3", "4", "5"]);
    assert_eq!(data(&get(&[("limit", "2")])), ["1", "2"]);
    assert_eq!(data(&get(&[("limit", "2"), ("reverse", "true")])), ["5", "4"]);
    assert_eq!(data(&get(&[("since", &cursors[2])])), ["4", "5"]);
    assert_eq!(data(&get(&[("since", &cursors[1]), ("limit", "1"), ("reverse", "false")])), ["3"]);
    assert_eq!(data(&get(&[("since", &cursors[1]), ("limit", "2"), ("reverse", "true")])), ["5", "4"]);
    assert_eq!(get(&[("since", &cursors[4])]).json()["recovered"], true);
    assert!(get(&[]).json().get("recovered").is_none());
}

#[test]
fn a_publication_is_told_with_its_place_and_its_publishers_id() {
    let server = server("");
    let event = json!({"name": "sa\"id", "channel": "room", "data": {"n": 1}, "event_id": "e-1"});
    server.post("/events", &event).expect(200, "{}");
    let told = server.get(HISTORY, &[]).json();
    let one = &told["publications"][0];
    assert_eq!((&one["event"], &one["data"]), (&"sa\"id".into(), &r#"{"n":1}"#.into()));
    assert_eq!((&one["offset"], &one["event_id"]), (&1.into(), &"e-1".into()));
    let time_s = one["time_ms"].as_u64().expect("a time") / 1000;
    assert!(time_s.abs_diff(support::now_s()) < 60, "{one}");
    assert_eq!(told["position"]["offset"], 1);
    let end = told["position"]["cursor"].as_str().expect("a cursor");
    assert_eq!(data(&server.get(HISTORY, &[("since", end)])), Vec::<String>::new());

    let channel = server.get("/channels/room", &[("info", "position")]).json();
    assert_eq!(channel["position"], told["position"]);
    assert_eq!(server.get("/channels", &[("info", "position")]).status, 400);
}

#[test]
fn a_cursor_of_one_channel_resumes_another() {
    let server = server("");
    publish(&server, ROOM, &[], "1");
    let elsewhere = publish(&server, "/pub/fanfare-key/elsewhere", &[], "x");
    publish(&server, ROOM, &[], "2");
    let cursor = elsewhere["cursor"].as_str().expect("a cursor");
    let missed = server.get(HISTORY, &[("since", cursor)]);
    assert_eq!((data(&missed), &missed.json()["recovered"]), (vec!["2".to_owned()], &true.into()));
}

#[test]
fn cursors_that_are_none_of_ours_are_400() {
    let other = "[[apps]]\nid = \"2\"\nkeys = [{ key = \"other\", secret = \"os\" }]\n";
    let server = Server::start(&format!("{}{other}", one_app("")));
    let cursor = publish_numbers(&server, 1).remove(0);
    let with = |cursor: &str| server.get(HISTORY, &[("since", cursor)]);
    refused(&with("not-a-cursor!"), 400, "since: not a whole cursor");
    refused(&with(""), 400, "since: not a whole cursor");
    refused(&with(&cursor[..cursor.len() - 1]), 400, "since: not a whole cursor");
    refused(&with(&"A".repeat(129)), 400, "at most 128 characters");
    let foreign = send_as(&server, "os", "POST", "/pub/other/room", &[], "x").json();
    let foreign = foreign["channels"]["room"]["cursor"].as_str().expect("a cursor").to_owned();
    refused(&with(&foreign), 400, "since: this cursor is of another app");
    for (name, bad) in [("limit", "0"), ("limit", "1001"), ("limit", "x"), ("reverse", "yes")] {
        refused(&server.get(HISTORY, &[(name, bad)]), 400, name);
    }
}

#[test]
fn rules_say_what_is_kept_and_a_gap_is_told() {
    let rules = "[[apps.history]]\nchannels = \"room\"\nmessages = 2\n\
                 [[apps.history]]\nchannels = \"live-*\"\nenabled = false\n\
                 [[apps.history]]\nchannels = \"small\"\nbytes = 60\n";
    let server = server(rules);
    let cursors = publish_numbers(&server, 4);
    assert_eq!(data(&server.get(HISTORY, &[])), ["3", "4"]);
    let since = |cursor: &str| server.get(HISTORY, &[("since", cursor)]);
    assert_eq!(
        (data(&since(&cursors[1])), &since(&cursors[1]).json()["recovered"]),
        (vec!["3".into(), "4".into()], &true.into())
    );
    assert_eq!((data(&since(&cursors[0])), &since(&cursors[0]).json()["recovered"]), (vec![], &false.into()));

    publish(&server, "/pub/fanfare-key/small", &[], &"a".repeat(40));
    publish(&server, "/pub/fanfare-key/small", &[], &"b".repeat(40));
    assert_eq!(data(&server.get("/channels/small/history", &[])), ["b".repeat(40)]);
}

#[test]
fn what_is_not_kept_is_told_as_missing_and_not_as_nothing() {
    let server = server("[[apps.history]]\nchannels = \"live\"\nenabled = false\n");
    let recovers = |since: &str| {
        let told = server.get("/channels/live/history", &[("since", since)]);
        assert_eq!(data(&told), Vec::<String>::new());
        told.json()["recovered"].as_bool().expect("told where a cursor was given")
    };
    let cursor = |target: &str| publish(&server, target, &[], "x")["cursor"].as_str().expect("a cursor").to_owned();
    let elsewhere = cursor(ROOM);
    assert!(recovers(&elsewhere), "nothing was published since");
    let live = cursor("/pub/fanfare-key/live");
    assert!(!recovers(&elsewhere));
    assert!(recovers(&live));
    cursor("/pub/fanfare-key/live");
    assert!(!recovers(&live));
}

#[test]
fn a_changed_rule_holds_from_the_next_publication() {
    let server = server("");
    let first = publish_numbers(&server, 1).remove(0);
    let none = "[[apps.history]]\nchannels = \"*\"\nenabled = false\n";
    std::fs::write(server.config_file(), one_app(none)).expect("the folder is ours");
    server.signal("HUP");
    let deadline = Instant::now() + PATIENCE;
    while send(&server, "GET", ROOM, &[], "").json()["stored_messages"] != 0 {
        assert!(Instant::now() < deadline, "the new rule does not hold");
        publish(&server, ROOM, &[], "x");
    }
    assert_eq!(server.get(HISTORY, &[("since", &first)]).json()["recovered"], false);
}

#[test]
fn client_events_are_not_kept() {
    let server = server("client_events = true");
    let (mut ann, mut ben) = (server.connect(), server.connect());
    for socket in [&mut ann, &mut ben] {
        socket.subscribe("private-room");
    }
    ann.send(&json!({"event": "client-typing", "channel": "private-room", "data": "x"}).to_string());
    ben.expect(r#"{"event":"client-typing","channel":"private-room","data":"x"}"#);
    let told = server.get("/channels/private-room/history", &[]).json();
    assert_eq!((&told["publications"], &told["position"]["offset"]), (&Value::Array(vec![]), &0.into()));
}

#[test]
fn a_history_is_signed_for() {
    let server = server("");
    assert_eq!(server.request("GET", "/apps/1/channels/room/history", &[], "").status, 401);
    refused(&server.get("/channels/a b/history", &[]), 400, "in a channel name");
}
