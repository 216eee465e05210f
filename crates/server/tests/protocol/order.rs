//! Order: what one peer sends is answered, and what one channel carries arrives, in the order it was sent.

use std::collections::HashMap;

use serde_json::json;

use super::server;
use crate::support::masked_frame;

fn text(message: &str) -> Vec<u8> {
    masked_frame(0x81, message.as_bytes())
}

#[test]
fn many_messages_in_one_write_are_all_answered_in_order() {
    let server = server("");
    let mut socket = server.connect();
    let mut bytes = Vec::new();
    for n in 0..2000 {
        bytes.extend(text(&format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"room-{n}"}}}}"#)));
        bytes.extend(masked_frame(0x89, n.to_string().as_bytes()));
    }
    socket.ws.send_bytes(&bytes);
    let (mut subscribed, mut pongs) = (Vec::new(), Vec::new());
    while subscribed.len() + pongs.len() < 4000 {
        let frame = socket.ws.frame().expect("an answer");
        match frame.opcode {
            10 => pongs.push(frame.text()),
            _ => subscribed.push(frame.text()),
        }
    }
    let wanted: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    assert_eq!(pongs, wanted);
    let mut channels: Vec<usize> = subscribed.iter().map(|text| number_of_room(text)).collect();
    // Channels are opened side by side; each is confirmed once.
    channels.sort_unstable();
    assert_eq!(channels, (0..2000).collect::<Vec<_>>());
}

fn number_of_room(confirmation: &str) -> usize {
    let start = r#"{"event":"pusher_internal:subscription_succeeded","channel":"room-"#;
    let rest = confirmation.strip_prefix(start).unwrap_or_else(|| panic!("{confirmation}"));
    rest.strip_suffix(r#"","data":"{}"}"#).and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn a_message_may_arrive_byte_by_byte_and_in_fragments() {
    let server = server("");
    let mut socket = server.connect();
    for byte in text(r#"{"event":"pusher:subscribe","data":{"channel":"room"}}"#) {
        socket.ws.send_bytes(&[byte]);
        std::thread::yield_now();
    }
    socket.expect_subscribed("room");

    socket.ws.send_frame(0x01, br#"{"event":"pusher:"#);
    socket.ws.ping(b"between");
    socket.ws.send_frame(0x00, b"ping");
    socket.ws.send_frame(0x80, br#""}"#);
    assert_eq!(socket.ws.frame().expect("a pong").payload, b"between");
    socket.expect(r#"{"event":"pusher:pong","data":"{}"}"#);
}

#[test]
fn ten_thousand_events_on_several_channels_arrive_in_the_order_of_each() {
    let server = server("limits = { batch_max = 100 }");
    let mut socket = server.connect();
    let channels = ["one", "two", "private-three", "cache-four", "presence-five"];
    for channel in channels {
        let member = channel.starts_with("presence-").then_some(r#"{"user_id":"1"}"#);
        socket.ask_for(channel, member);
        socket.expect_event("pusher_internal:subscription_succeeded");
        if channel.starts_with("cache-") {
            socket.expect_event("pusher:cache_miss");
        }
    }
    socket.settle();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for batch in 0..100 {
                let event = |n: usize| {
                    let n = batch * 100 + n;
                    json!({"name": "n", "channel": channels[n % 5], "data": n.to_string()})
                };
                let batch: Vec<_> = (0..100).map(event).collect();
                server.post("/batch_events", &json!({"batch": batch})).expect(200, "{}");
            }
        });
        let mut heard: HashMap<String, Vec<usize>> = HashMap::new();
        for _ in 0..10_000 {
            let event = socket.expect_event("n");
            let n = event["data"].as_str().and_then(|n| n.parse().ok()).expect("a number");
            heard.entry(event["channel"].as_str().expect("a channel").to_owned()).or_default().push(n);
        }
        for (start, channel) in channels.iter().enumerate() {
            assert_eq!(heard[*channel], (start..10_000).step_by(5).collect::<Vec<_>>(), "{channel}");
        }
        socket.settle();
    });
}

#[test]
fn what_one_client_says_on_a_channel_arrives_in_its_order() {
    let server = server("client_events = true\nlimits = { client_events_per_s = 0 }");
    let (mut one, mut two) = (server.connect(), server.connect());
    one.subscribe("private-room");
    two.subscribe("private-room");
    let event = |n: usize| format!(r#"{{"event":"client-n","channel":"private-room","data":"{n}"}}"#);
    let bytes: Vec<u8> = (0..500).flat_map(|n| text(&event(n))).collect();
    one.ws.send_bytes(&bytes);
    for n in 0..500 {
        assert_eq!(two.recv_text(), event(n));
    }
    one.settle();
}
