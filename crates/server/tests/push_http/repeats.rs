//! Idempotency keys: the same post twice is published once.

use super::*;
use serde_json::json;

#[test]
fn a_repeat_is_answered_with_the_first_place_and_not_delivered() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    let post = |key: &str, body: &str| send(&server, "POST", ROOM, &[("Idempotency-Key", key)], body);
    let first = post("k1", "one");
    let again = post("k1", "something else");
    assert_eq!((first.status, again.status), (201, 200));
    let (first, again) = (first.json()["channels"]["room"].clone(), again.json()["channels"]["room"].clone());
    assert_eq!((&first["repeated"], &again["repeated"]), (&false.into(), &true.into()));
    assert_eq!((&first["cursor"], &first["offset"]), (&again["cursor"], &again["offset"]));
    assert_eq!(post("k2", "two").json()["channels"]["room"]["offset"], 2);
    socket.expect(r#"{"event":"message","channel":"room","data":"one"}"#);
    socket.expect(r#"{"event":"message","channel":"room","data":"two"}"#);
    socket.settle();
    refused(&post("", "x"), 400, "Idempotency-Key must have 1 to 128 bytes");
}

#[test]
fn the_signed_api_knows_repeats_too() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    let event = json!({"name": "said", "channels": ["room", "hall"], "data": "x", "idempotency_key": "k"});
    let (first, again) = (server.post("/events", &event).json(), server.post("/events", &event).json());
    for channel in ["room", "hall"] {
        let (first, again) = (&first["channels"][channel], &again["channels"][channel]);
        assert_eq!((&first["repeated"], &again["repeated"]), (&false.into(), &true.into()), "{channel}");
        assert_eq!((&first["cursor"], &first["offset"]), (&again["cursor"], &1.into()), "{channel}");
    }
    socket.expect(r#"{"event":"said","channel":"room","data":"x"}"#);

    let item = |key: &str| json!({"name": "said", "channel": "room", "data": key, "idempotency_key": key});
    let batch = json!({"batch": [item("a"), item("b"), item("a"), {"name": "said", "channel": "room", "data": "c"}]});
    let told = server.post("/batch_events", &batch).json();
    let offsets: Vec<_> = (0..3).map(|at| told["batch"][at]["offset"].as_u64()).collect();
    assert_eq!(offsets, [Some(2), Some(3), Some(2)]);
    assert_eq!((&told["batch"][2]["repeated"], &told["batch"][3]), (&true.into(), &json!({})));
    for data in ["a", "b", "c"] {
        socket.expect(&format!(r#"{{"event":"said","channel":"room","data":"{data}"}}"#));
    }
    socket.settle();
}

#[test]
fn an_app_may_do_without() {
    let server = server("idempotency_s = 0");
    let post = || publish(&server, ROOM, &[("Idempotency-Key", "k")], "x");
    assert_eq!((&post()["offset"], &post()["offset"]), (&1.into(), &2.into()));
}

#[test]
fn a_repeat_is_known_where_nothing_is_kept() {
    let server = server("[[apps.history]]\nchannels = \"*\"\nenabled = false\n");
    let post = || send(&server, "POST", ROOM, &[("Idempotency-Key", "k")], "x");
    assert_eq!((post().status, post().status), (202, 200));
}
