//! Cache channels: the newest event for whoever comes later.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::server;
use crate::support::Socket;

/// All four kinds, and the `channel_data` that one of them takes.
const KINDS: [(&str, Option<&str>); 4] = [
    ("cache-room", None),
    ("private-cache-room", None),
    ("private-encrypted-cache-room", None),
    ("presence-cache-room", Some(r#"{"user_id":"1"}"#)),
];

#[track_caller]
fn subscribe(socket: &mut Socket, channel: &str, channel_data: Option<&str>) {
    socket.ask_for(channel, channel_data);
    let answer = socket.expect_event("pusher_internal:subscription_succeeded");
    assert_eq!(answer["channel"], channel);
}

fn said(channel: &str, data: &str) -> String {
    format!(r#"{{"event":"said","channel":"{channel}","data":"{data}"}}"#)
}

fn missed(channel: &str) -> String {
    format!(r#"{{"event":"pusher:cache_miss","channel":"{channel}","data":"{{}}"}}"#)
}

#[test]
fn an_empty_cache_is_told_after_the_confirmation() {
    let server = server("");
    for (channel, channel_data) in KINDS {
        let mut socket = server.connect();
        subscribe(&mut socket, channel, channel_data);
        assert_eq!(socket.recv_text(), missed(channel));
        socket.settle();
    }
}

#[test]
fn the_newest_event_follows_the_confirmation() {
    let server = server("");
    for (channel, channel_data) in KINDS {
        server.publish(channel, "said", "first");
        server.publish(channel, "said", "second");
        let mut socket = server.connect();
        subscribe(&mut socket, channel, channel_data);
        assert_eq!(socket.recv_text(), said(channel, "second"));
        socket.settle();
    }
}

#[test]
fn a_plain_channel_remembers_nothing() {
    let server = server("");
    for channel in ["room", "private-room", "not-a-cache-room"] {
        server.publish(channel, "said", "hello");
        let mut socket = server.connect();
        socket.subscribe(channel);
        socket.settle();
    }
}

#[test]
fn what_is_published_while_somebody_subscribes_is_heard_once() {
    let server = server("");
    for round in 0..50 {
        let channel = format!("cache-{round}");
        let mut socket = server.connect();
        socket.ask_for(&channel, None);
        server.publish(&channel, "said", "hello");
        socket.expect_subscribed(&channel);
        // As the cached event, or live behind the miss.
        let next = socket.recv_text();
        if next == missed(&channel) {
            assert_eq!(socket.recv_text(), said(&channel, "hello"));
        } else {
            assert_eq!(next, said(&channel, "hello"));
        }
        socket.settle();
    }
}

#[test]
fn client_events_are_not_remembered() {
    let server = server("client_events = true");
    let (mut one, mut two, mut late) = (server.connect(), server.connect(), server.connect());
    server.publish("private-cache-room", "said", "hello");
    for socket in [&mut one, &mut two] {
        subscribe(socket, "private-cache-room", None);
        assert_eq!(socket.recv_text(), said("private-cache-room", "hello"));
    }
    one.say_on("private-cache-room", "client-typing", json!({}));
    two.expect_event("client-typing");
    subscribe(&mut late, "private-cache-room", None);
    assert_eq!(late.recv_text(), said("private-cache-room", "hello"));
}

#[test]
fn an_event_is_remembered_for_as_long_as_configured() {
    let server = server("limits = { cache_ttl_s = 1 }");
    server.publish("cache-room", "said", "hello");
    let mut early = server.connect();
    subscribe(&mut early, "cache-room", None);
    assert_eq!(early.recv_text(), said("cache-room", "hello"));

    thread::sleep(Duration::from_millis(1100));
    let mut late = server.connect();
    subscribe(&mut late, "cache-room", None);
    assert_eq!(late.recv_text(), missed("cache-room"));
}
