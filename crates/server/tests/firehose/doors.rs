//! What is in a firehose, and what of it is for whom.

use serde_json::{Value, json};

use crate::support::{KEY, SECRET, Server, eventually, sse};
use crate::{TOKEN, Tap, ask, config, publish, stream, text, texts};

#[test]
fn what_comes_through_every_door_is_there_once_and_nothing_else_is() {
    let pipeline = "[[apps.queues]]\nname = \"comments\"\n\
        [[apps.pipelines]]\nname = \"comments\"\nqueue = \"comments\"\nsinks = [{ sink = \"channels\" }]\n\
        stages = [{ stage = \"json\" }, { stage = \"route\", channels = [\"forum\"], event = \"{{kind}}\" }]\n\
        [push_stream]\nlisten = \"127.0.0.1:0\"\napp = \"1\"\npublish_from = [\"127.0.0.1\"]\n";
    let server = Server::start(&(config("", "") + pipeline));
    let mut tap = Tap::open(&server, "");
    let mut socket = server.connect();
    socket.subscribe("room");

    server.publish("room", "said", "one");
    let event = |channel: &str, data: &str| json!({"channel": channel, "name": "said", "data": data});
    let batch = json!({"batch": [event("room", "two"), event("other", "three"), event("room", "four")]});
    assert_eq!(server.post("/batch_events", &batch).status, 200);
    let bearer = format!("Bearer {SECRET}");
    let headers = [("Authorization", bearer.as_str()), ("Event-Id", "e-5"), ("Idempotency-Key", "i-5")];
    for _ in 0..3 {
        let answer = server.request("POST", &format!("/pub/{KEY}/room"), &headers, "five");
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
    // These are between clients, or between us and them.
    socket.send(r#"{"event":"client-typing","channel":"room","data":"no"}"#);
    assert_eq!(
        server.post("/events", &json!({"name": "said", "channels": ["#server-to-user-1"], "data": "no"})).status,
        200
    );

    let log = server.log();
    let push_stream = log.lines().find_map(|line| line.strip_prefix("push-stream http=")).expect("it listens");
    let push_stream = push_stream.parse().expect("an address");
    let answer = crate::support::request(push_stream, "POST", "/pub?id=room", &[], "six");
    assert_eq!(answer.status, 200, "{answer:?}");
    let job = json!({"jobs": [{"kind": "edit", "data": {"text": "seven"}}]});
    assert_eq!(server.post("/queues/comments/jobs", &job).status, 202);

    let mut heard: Vec<Value> = (0..7).map(|_| tap.message()).collect();
    // Channels of a batch do not wait for each other.
    let three = heard.iter().position(|line| line["data"] == "three").expect("it is there");
    let three = heard.remove(three);
    assert_eq!(three["channel"], "other");
    let data: Vec<_> = heard.iter().map(|line| text(&line["data"])).collect();
    assert_eq!(&data[..5], ["one", "two", "four", "five", "six"]);
    assert_eq!(heard[3]["event_id"], "e-5");
    assert!(heard.iter().all(|line| line["time_ms"].as_u64() > Some(0)), "{heard:?}");
    assert_eq!((&heard[5]["channel"], &heard[5]["event"]), (&json!("forum"), &json!("edit")));
    assert!(data[5].contains("seven"));
    let appended = || server.metric("fanfare_firehose_appended_total{app=\"1\"}");
    eventually("all are counted", || appended() == 7.0);
    // Nothing more is on its way: the next is what is published next.
    server.publish("room", "said", "eight");
    assert_eq!(tap.data(1), ["eight"]);
}

#[test]
fn only_what_is_asked_for_is_sent() {
    let server = Server::start(&config("", ""));
    let mut channels = Tap::open(&server, "channels=news,chat-*");
    let mut events = Tap::open(&server, "events=said,sa*");
    let mut condition = Tap::open(&server, "filter=channel.startsWith(%22chat%22)+%26%26+data.n+%3E+1");
    for (channel, event, data) in [
        ("chat-1", "said", r#"{"n":1}"#),
        ("news", "sang", "2"),
        ("other", "shouted", "3"),
        ("chat-2", "x", r#"{"n":4}"#),
    ] {
        server.publish(channel, event, data);
    }
    assert_eq!(channels.data(3), [r#"{"n":1}"#, "2", r#"{"n":4}"#]);
    assert_eq!(events.data(2), [r#"{"n":1}"#, "2"]);
    assert_eq!(condition.data(1), [r#"{"n":4}"#]);
    let refused = ask(&server, "GET", "filter=channel+%3D%3D", TOKEN);
    assert!(refused.status == 400 && refused.body.contains("(line 1, column "), "{refused:?}");
}

#[test]
fn a_token_has_a_filter_of_its_own() {
    let server = Server::start(&config("", ", channels = [\"chat-*\"], filter = \"data != 'secret'\""));
    let mut tap = Tap::open(&server, "");
    let mut narrow = Tap::open(&server, "channels=chat-2,news");
    for (channel, data) in [("news", "no"), ("chat-1", "secret"), ("chat-1", "one"), ("chat-2", "two")] {
        server.publish(channel, "said", data);
    }
    assert_eq!(tap.data(2), ["one", "two"]);
    assert_eq!(narrow.data(1), ["two"]);
}

#[test]
fn whoever_is_sent_nothing_is_told_where_it_stands() {
    let server = Server::start(&config("", ""));
    let cursor = Tap::open(&server, "").cursor();
    publish(&server, "room", 0..3);
    let line = Tap::open(&server, &format!("channels=never&since={cursor}")).next();
    assert_eq!(line["event"], "fanfare:cursor");
    publish(&server, "room", 3..5);
    let mut rest = Tap::open(&server, &format!("since={}", text(&line["cursor"])));
    assert_eq!(rest.begins["recovered"], true);
    assert_eq!(rest.data(2), texts(3..5));
}

#[test]
fn browsers_and_curl_may_take_server_sent_events() {
    let server = Server::start(&config("", ""));
    let mut body = stream(&server, TOKEN, "", &[("Accept", "text/event-stream")]);
    let mut parser = sse::Parser::default();
    let mut next = |n: usize| {
        let mut events = Vec::new();
        while events.len() < n {
            events.extend(parser.feed(&body.part().expect("it goes on")));
        }
        events
    };
    assert_eq!(next(1)[0].event, "fanfare:subscribed");
    publish(&server, "room", 0..3);
    let events = next(3);
    let first: Value = serde_json::from_str(&events[0].data).expect("JSON");
    assert_eq!((events[0].event.as_str(), &first["data"], &first["channel"]), ("message", &json!("0"), &json!("room")));
    assert_eq!(first["cursor"], events[0].last_id.as_str());

    let mut body = stream(&server, TOKEN, "transport=sse", &[("Last-Event-ID", &events[0].last_id)]);
    let (mut parser, mut data) = (sse::Parser::default(), Vec::new());
    while data.len() < 3 {
        data.extend(parser.feed(&body.part().expect("it goes on")).into_iter().map(|event| event.data));
    }
    assert!(data[0].contains("\"recovered\":true") && data[1].contains("\"data\":\"1\""), "{data:?}");
}
