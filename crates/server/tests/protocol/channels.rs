//! Subscribing: names, signatures, limits, and the counts of subscribers.

use serde_json::json;

use super::{expect_refused, inner, server};
use crate::support::{KEY, SECRET, Server, Socket, channel_auth, eventually};
use fanfare_proto::sign::hmac_hex;

fn subscribe(socket: &mut Socket, channel: &str, auth: &str) {
    socket.send(&json!({"event": "pusher:subscribe", "data": {"channel": channel, "auth": auth}}).to_string());
}

/// Asserts that the app `1` has no channel.
#[track_caller]
fn expect_no_channels(server: &Server) {
    eventually("no channel is left", || server.get("/channels", &[]).body == r#"{"channels":{}}"#);
}

#[test]
fn a_public_channel_takes_no_signature() {
    let server = server("");
    let mut socket = server.connect();
    socket.send(r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"room"}}"#);
    assert_eq!(
        socket.recv_text(),
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"room","data":"{}"}"#
    );
    server.publish("room", "said", "hello");
    assert_eq!(socket.recv_text(), r#"{"event":"said","channel":"room","data":"hello"}"#);
}

#[test]
fn a_private_channel_takes_the_signature_of_socket_and_channel() {
    let server = server("");
    let mut socket = server.connect();
    let hex = hmac_hex(SECRET.as_bytes(), format!("{}:private-room", socket.id).as_bytes());
    subscribe(&mut socket, "private-room", &format!("fanfare-key:{hex}"));
    socket.expect_subscribed("private-room");
    server.publish("private-room", "said", "hello");
    assert_eq!(socket.recv_text(), r#"{"event":"said","channel":"private-room","data":"hello"}"#);
}

#[test]
fn ciphertext_passes_through_an_encrypted_channel_unchanged() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("private-encrypted-room");
    let data = r#"{"nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","ciphertext":"3q2+7w=="}"#;
    server.publish("private-encrypted-room", "said", data);
    assert_eq!(
        socket.recv_text(),
        r#"{"event":"said","channel":"private-encrypted-room","data":"{\"nonce\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"ciphertext\":\"3q2+7w==\"}"}"#
    );
}

// Signatures that do not match.

#[test]
fn a_wrong_signature_shows_what_was_to_be_signed_and_never_the_digest() {
    let server = server("");
    let mut socket = server.connect();
    subscribe(&mut socket, "private-room", "fanfare-key:00ff");
    let text = format!("{}:private-room", socket.id);
    let message = format!("Invalid signature: Expected HMAC SHA256 hex digest of {text}, but got 00ff");
    assert!(!message.contains(&hmac_hex(SECRET.as_bytes(), text.as_bytes())));
    expect_refused(&mut socket, "private-room", "AuthError", 401, &message);
    expect_no_channels(&server);
}

#[test]
fn the_signature_of_another_socket_or_channel_is_none() {
    let server = server("");
    let (other, mut socket) = (server.connect(), server.connect());
    for auth in [channel_auth(&other.id, "private-room", None), channel_auth(&socket.id, "private-hall", None)] {
        subscribe(&mut socket, "private-room", &auth);
        assert!(socket.expect_error()["message"].as_str().is_some_and(|text| text.starts_with("Invalid signature")));
        socket.expect_event("pusher:subscription_error");
    }
}

#[test]
fn a_missing_signature_says_what_it_should_cover() {
    let server = server("");
    let mut socket = server.connect();
    subscribe(&mut socket, "private-room", "");
    let message = format!(
        "private-room needs auth: the key, a colon, and the HMAC SHA256 hex digest of {}:private-room",
        socket.id
    );
    expect_refused(&mut socket, "private-room", "AuthError", 401, &message);
}

#[test]
fn a_signature_with_an_unknown_key_names_the_key() {
    let server = server("");
    let mut socket = server.connect();
    for (auth, shown) in [("nobody:00ff", "nobody"), ("no-colon", "no-colon")] {
        subscribe(&mut socket, "private-room", auth);
        let message = format!("Invalid key in subscription auth data: '{shown}'");
        expect_refused(&mut socket, "private-room", "AuthError", 401, &message);
    }
}

#[test]
fn the_signature_covers_the_channel_data_of_a_private_channel_too() {
    let server = server("");
    let mut socket = server.connect();
    let data = r#"{"user_id":"7"}"#;
    let without = channel_auth(&socket.id, "private-room", None);
    socket.say("pusher:subscribe", json!({"channel": "private-room", "auth": without, "channel_data": data}));
    let error = socket.expect_error();
    let expected = format!("digest of {}:private-room:{data}, but", socket.id);
    assert!(error["message"].as_str().is_some_and(|text| text.contains(&expected)), "{error}");
    socket.expect_event("pusher:subscription_error");

    let with = channel_auth(&socket.id, "private-room", Some(data));
    socket.say("pusher:subscribe", json!({"channel": "private-room", "auth": with, "channel_data": data}));
    socket.expect_subscribed("private-room");
}

#[test]
fn both_pairs_of_an_app_that_rotates_its_keys_are_good() {
    let keys = r#"{ key = "new-key", secret = "new-secret" }, { key = "old-key", secret = "old-secret" }"#;
    let server = Server::start(&format!("[[apps]]\nid = \"1\"\nkeys = [{keys}]"));
    for connected_by in ["new-key", "old-key"] {
        let mut socket = server.connect_to(&format!("/app/{connected_by}?protocol=7"));
        for (key, secret, channel) in [("new-key", "new-secret", "private-a"), ("old-key", "old-secret", "private-b")] {
            let hex = hmac_hex(secret.as_bytes(), format!("{}:{channel}", socket.id).as_bytes());
            subscribe(&mut socket, channel, &format!("{key}:{hex}"));
            socket.expect_subscribed(channel);
        }
        // A secret is good with its own key alone.
        let hex = hmac_hex(b"old-secret", format!("{}:private-c", socket.id).as_bytes());
        subscribe(&mut socket, "private-c", &format!("new-key:{hex}"));
        socket.expect_error();
    }
}

#[test]
fn apps_with_channels_of_one_name_do_not_hear_each_other() {
    let app = |id: &str, key: &str| {
        format!("[[apps]]\nid = \"{id}\"\nkeys = [{{ key = \"{key}\", secret = \"{SECRET}\" }}]\n")
    };
    let server = Server::start(&[app("1", KEY), app("2", "other-key")].concat());
    let (mut ours, mut theirs) = (server.connect(), server.connect_to("/app/other-key?protocol=7"));
    ours.subscribe("room");
    theirs.subscribe("room");
    server.publish("room", "said", "hello");
    ours.expect(r#"{"event":"said","channel":"room","data":"hello"}"#);
    theirs.expect_nothing();
}

// Coming and going.

#[test]
fn a_second_subscription_to_a_channel_is_refused_and_the_first_stays() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    subscribe(&mut socket, "room", "");
    expect_refused(&mut socket, "room", "SubscriptionError", 400, "Existing subscription to channel room");
    server.publish("room", "said", "once");
    socket.expect(r#"{"event":"said","channel":"room","data":"once"}"#);
    socket.settle();
}

#[test]
fn leaving_is_not_confirmed_and_ends_what_is_heard() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    socket.unsubscribe("room");
    socket.settle();
    server.publish("room", "said", "hello");
    socket.settle();
    expect_no_channels(&server);
    socket.subscribe("room");
    server.publish("room", "said", "again");
    socket.expect(r#"{"event":"said","channel":"room","data":"again"}"#);
}

#[test]
fn leaving_a_channel_that_was_not_joined_is_an_error_without_a_code() {
    let server = server("");
    let mut socket = server.connect();
    socket.unsubscribe("room");
    let message = "No current subscription to channel room, or subscription in progress";
    assert_eq!(socket.expect_error(), json!({"code": null, "message": message}));
}

#[test]
fn who_left_before_the_answer_came_is_not_subscribed() {
    let server = server("");
    let mut socket = server.connect();
    for channel in ["room", "cache-room", "presence-room"] {
        let member = channel.starts_with("presence-").then_some(r#"{"user_id":"1"}"#);
        socket.ask_for(channel, member);
        socket.unsubscribe(channel);
    }
    // Confirmations may or may not have been on their way.
    socket.say("pusher:ping", json!({}));
    while socket.recv()["event"] != "pusher:pong" {}
    expect_no_channels(&server);
    for channel in ["room", "cache-room", "presence-room"] {
        server.publish(channel, "said", "hello");
    }
    socket.settle();
}

#[test]
fn who_vanishes_in_the_middle_of_subscribing_leaves_nothing_behind() {
    let server = server("subscription_count = true");
    let mut witness = server.connect();
    for round in 0..20 {
        let mut socket = server.connect();
        for n in 0..10 {
            socket.ask_for(&format!("room-{n}"), None);
            socket.ask_for(&format!("private-cache-room-{n}"), None);
            socket.ask_for(&format!("presence-room-{n}"), Some(&format!("{{\"user_id\":\"{round}\"}}")));
        }
        drop(socket);
    }
    expect_no_channels(&server);
    eventually("its members are gone", || server.get("/channels/presence-room-0/users", &[]).body == r#"{"users":[]}"#);
    eventually("its place is free", || server.metric("fanfare_connections") == 1.0);
    eventually("its channels are gone", || server.metric("fanfare_channels") == 0.0);
    assert_eq!(
        witness.join("presence-room-0", r#"{"user_id":"w"}"#),
        json!({"ids": ["w"], "hash": {"w": null}, "count": 1})
    );
}

#[test]
fn a_channel_is_listed_from_its_confirmation_on() {
    let server = server("");
    for n in 0..50 {
        let mut socket = server.connect();
        let channel = format!("room-{n}");
        socket.subscribe(&channel);
        server.get(&format!("/channels/{channel}"), &[]).expect(200, r#"{"occupied":true}"#);
    }
}

// Limits and names.

#[test]
fn names_keep_to_their_grammar() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("Aa0_-=@,.;");
    for (name, because) in [
        ("", "a channel name must not be empty"),
        ("a b", "' ' in a channel name: only letters, digits and _ - = @ , . ; are allowed"),
        ("room/1", "'/' in a channel name: only letters, digits and _ - = @ , . ; are allowed"),
        ("ü", "'ü' in a channel name: only letters, digits and _ - = @ , . ; are allowed"),
        ("#room", "a channel name begins with # only as #server-to-user- and a user id"),
        ("#watch-ann", "a channel name begins with # only as #server-to-user- and a user id"),
    ] {
        subscribe(&mut socket, name, "");
        expect_refused(&mut socket, name, "SubscriptionError", 400, because);
    }
}

#[test]
fn names_are_as_long_as_the_app_allows() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe(&"x".repeat(200));
    let long = "x".repeat(201);
    subscribe(&mut socket, &long, "");
    let message = "channel name of 201 bytes: at most 200 are allowed";
    expect_refused(&mut socket, &long, "SubscriptionError", 400, message);

    let server = self::server("limits = { channel_name_len_max = 10 }");
    let mut socket = server.connect();
    socket.subscribe("0123456789");
    subscribe(&mut socket, "01234567890", "");
    let message = "channel name of 11 bytes: at most 10 are allowed";
    expect_refused(&mut socket, "01234567890", "SubscriptionError", 400, message);
}

#[test]
fn a_connection_holds_as_many_channels_as_the_app_allows() {
    let server = server("limits = { channels_per_connection_max = 2 }");
    let mut socket = server.connect();
    // What signing in subscribes to is not counted.
    socket.sign_in(r#"{"id":"ann"}"#);
    socket.subscribe("one");
    socket.subscribe("two");
    subscribe(&mut socket, "three", "");
    expect_refused(&mut socket, "three", "LimitReached", 403, "no more than 2 channels per connection");
    socket.unsubscribe("one");
    socket.subscribe("three");
}

// Counts.

fn count(channel: &str, n: u64) -> String {
    let data = format!("{{\\\"subscription_count\\\":{n}}}");
    format!(r#"{{"event":"pusher_internal:subscription_count","channel":"{channel}","data":"{data}"}}"#)
}

#[test]
fn each_change_of_a_channels_subscribers_is_told_where_the_app_asks_for_it() {
    let server = server("subscription_count = true");
    for channel in ["room", "private-room", "cache-room"] {
        let (mut one, mut two) = (server.connect(), server.connect());
        one.subscribe(channel);
        if channel.starts_with("cache-") {
            one.expect_event("pusher:cache_miss");
        }
        assert_eq!(one.recv_text(), count(channel, 1));
        two.ask_for(channel, None);
        assert_eq!(one.recv_text(), count(channel, 2));
        two.unsubscribe(channel);
        assert_eq!(one.recv_text(), count(channel, 1));
    }
}

#[test]
fn presence_channels_and_apps_that_do_not_ask_are_told_no_counts() {
    let asking = server("subscription_count = true");
    let mut member = asking.connect();
    member.join("presence-room", r#"{"user_id":"1"}"#);
    member.expect_nothing();

    let silent = server("");
    let (mut one, mut two) = (silent.connect(), silent.connect());
    one.subscribe("room");
    two.subscribe("room");
    one.expect_nothing();
}

#[test]
fn beyond_a_hundred_subscribers_counts_are_told_every_five_seconds() {
    let server = server("subscription_count = true");
    let mut witness = server.connect();
    witness.subscribe("room");
    assert_eq!(witness.recv_text(), count("room", 1));
    let mut others: Vec<Socket> = (0..150).map(|_| server.connect()).collect();
    let started = std::time::Instant::now();
    for other in &mut others {
        other.ask_for("room", None);
        other.expect_subscribed("room");
    }
    let told: Vec<u64> = std::iter::from_fn(|| {
        let n = inner(&witness.expect_event("pusher_internal:subscription_count"))["subscription_count"].as_u64();
        n.filter(|&n| n <= 150)
    })
    .collect();
    assert!(started.elapsed().as_secs() >= 4, "the last count came after {:?}", started.elapsed());
    // Several may have come at once, and are then one change.
    assert!(told.windows(2).all(|two| two[0] < two[1]), "{told:?}");
    assert!(told.iter().filter(|&&n| n > 100).count() <= 1, "{told:?}");
    assert!(told.iter().any(|&n| n <= 100), "{told:?}");
}
