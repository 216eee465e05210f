//! Recovery for Pusher clients that connect with `?positions=1`, which stock clients never see.

use serde_json::{Value, json};

use super::*;
use crate::support::Socket;

fn positioned(server: &Server) -> Socket {
    server.connect_to(&format!("/app/{KEY}?protocol=7&positions=1"))
}

/// Subscribes with further fields of the subscription's data, and tells the confirmation.
#[track_caller]
fn subscribe(socket: &mut Socket, more: Value) -> Value {
    let mut data = json!({"channel": "room", "auth": ""});
    data.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    socket.say("pusher:subscribe", data);
    socket.expect_event("pusher_internal:subscription_succeeded")
}

#[test]
fn events_have_a_cursor_where_it_was_asked_for_and_nowhere_else() {
    let server = server("");
    let (mut stock, mut socket) = (server.connect(), positioned(&server));
    stock.subscribe("room");
    let told = subscribe(&mut socket, json!({}));
    assert!(told["cursor"].is_string() && told["data"] == "{}", "{told}");
    let event = json!({"name": "said", "channels": ["room"], "data": "x", "event_id": "7"});
    assert_eq!(server.post("/events", &event).status, 200);
    stock.expect(r#"{"event":"said","channel":"room","data":"x"}"#);
    let heard = socket.recv();
    assert_eq!((&heard["event"], &heard["data"], &heard["event_id"]), (&"said".into(), &"x".into(), &"7".into()));
    assert!(heard["cursor"].is_string(), "{heard}");
}

#[test]
fn who_names_a_cursor_gets_what_came_after_it() {
    let server = server("");
    let start = cursor(&server, "room");
    for n in 1..=4 {
        server.publish("room", "said", &n.to_string());
    }
    for (more, first) in [(json!({"since": start}), 1), (json!({"backtrack": 2}), 3)] {
        let mut socket = positioned(&server);
        assert_eq!(subscribe(&mut socket, more)["recovered"], true);
        for n in first..=4 {
            assert_eq!(socket.recv()["data"], n.to_string());
        }
        socket.settle();
    }
    let mut stock = server.connect();
    let told = subscribe(&mut stock, json!({"since": start, "backtrack": 2}));
    assert_eq!((told.get("recovered"), told.get("cursor")), (None, None), "{told}");
    stock.settle();
}

#[test]
fn a_gap_is_told() {
    let server = server("[[apps.history]]\nchannels = \"room\"\nmessages = 2");
    let start = cursor(&server, "room");
    for n in 1..=4 {
        server.publish("room", "said", &n.to_string());
    }
    let mut socket = positioned(&server);
    assert_eq!(subscribe(&mut socket, json!({"since": start}))["recovered"], false);
    server.publish("room", "said", "live");
    assert_eq!(socket.recv()["data"], "live");
}

#[test]
fn a_cursor_that_is_none_is_refused_and_the_connection_stays() {
    let server = server("");
    let mut socket = positioned(&server);
    for since in ["nonsense", "", &"A".repeat(129)] {
        socket.say("pusher:subscribe", json!({"channel": "room", "since": since}));
        let told = [socket.recv(), socket.recv()];
        assert!(told.iter().any(|message| message["event"] == "pusher:subscription_error"), "{told:?}");
    }
    socket.settle();
}

#[test]
fn coming_back_while_somebody_publishes_loses_and_doubles_nothing() {
    let server = server(KEEP_ALL);
    let mut since = cursor(&server, "room");
    let mut last = 0_u32;
    let _publishing = super::resuming::Publishing::start(&server, &["room"]);
    for visit in 0..100 {
        let mut socket = positioned(&server);
        let told = subscribe(&mut socket, json!({"since": since}));
        assert_eq!(told["recovered"], true, "after {last}: {told}");
        for _ in 0..=visit % 7 {
            let heard = socket.recv();
            last += 1;
            assert_eq!(heard["data"], last.to_string());
            since = heard["cursor"].as_str().expect("a cursor").to_owned();
        }
    }
}
