//! Users: signing in, what reaches a user wherever it is, who watches whom, and being sent away.

use serde_json::json;

use super::{inner, server};
use crate::support::{Server, Socket, user_auth};

fn watchlist(name: &str, users: &[&str]) -> String {
    let data = json!({"events": [{"name": name, "user_ids": users}]}).to_string();
    json!({"event": "pusher_internal:watchlist_events", "data": data}).to_string()
}

fn watching(server: &Server, user_data: &str) -> Socket {
    let mut socket = server.connect();
    socket.sign_in(user_data);
    socket
}

// Signing in.

#[test]
fn a_sign_in_is_confirmed_with_the_string_that_was_signed() {
    let server = server("");
    let mut socket = server.connect();
    socket.ask_to_sign_in(r#"{"id":"ann", "user_info":{"name":"Ann"}}"#);
    assert_eq!(
        socket.recv_text(),
        r#"{"event":"pusher:signin_success","data":"{\"user_data\":\"{\\\"id\\\":\\\"ann\\\", \\\"user_info\\\":{\\\"name\\\":\\\"Ann\\\"}}\"}"}"#
    );
    socket.settle();
}

#[test]
fn a_wrong_signature_shows_what_was_to_be_signed_and_never_the_digest() {
    let server = server("");
    let mut socket = server.connect();
    let user_data = r#"{"id":"ann"}"#;
    socket.say("pusher:signin", json!({"auth": "fanfare-key:00ff", "user_data": user_data}));
    let message =
        format!("Invalid signature: Expected HMAC SHA256 hex digest of {}::user::{user_data}, but got 00ff", socket.id);
    let digest = user_auth(&socket.id, user_data);
    assert!(!message.contains(digest.split_once(':').expect("a key and a digest").1));
    assert_eq!(socket.expect_error(), json!({"code": null, "message": message}));

    socket.say("pusher:signin", json!({"auth": "nobody:00ff", "user_data": user_data}));
    let message = "Invalid key in signin auth data: 'nobody:00ff'";
    assert_eq!(socket.expect_error(), json!({"code": null, "message": message}));
    socket.settle();
}

#[test]
fn user_data_must_say_who_it_is() {
    let server = server("");
    let mut socket = server.connect();
    for (user_data, because) in [
        ("{}", "needs an \"id\""),
        (r#"{"id":""}"#, "needs an \"id\""),
        // pusher-js takes strings only.
        (r#"{"id":7}"#, "user_data"),
        (r#"{"id":"a b"}"#, "' ' in the id"),
        ("7", "user_data"),
    ] {
        socket.ask_to_sign_in(user_data);
        let error = socket.expect_error();
        assert_eq!(error["code"], json!(null), "{error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(because)), "{user_data}: {error}");
    }
    socket.settle();
}

#[test]
fn the_same_user_may_sign_in_again_and_another_may_not() {
    let server = server("");
    let mut socket = server.connect();
    socket.sign_in(r#"{"id":"ann"}"#);
    socket.sign_in(r#"{"id":"ann"}"#);
    socket.ask_to_sign_in(r#"{"id":"bob"}"#);
    let message = "this connection is signed in as ann: connect anew to change users";
    assert_eq!(socket.expect_error(), json!({"code": null, "message": message}));
    server.publish("#server-to-user-ann", "said", "still here");
    socket.expect_event("said");
}

// Server to user.

#[test]
fn an_event_for_a_user_reaches_all_of_its_sockets_and_nobody_else() {
    let server = server("");
    let (mut desk, mut phone) = (watching(&server, r#"{"id":"ann"}"#), watching(&server, r#"{"id":"ann"}"#));
    let mut other = watching(&server, r#"{"id":"bob"}"#);
    server.publish("#server-to-user-ann", "said", "hello");
    for socket in [&mut desk, &mut phone] {
        assert_eq!(socket.recv_text(), r##"{"event":"said","channel":"#server-to-user-ann","data":"hello"}"##);
    }
    other.expect_nothing();
}

#[test]
fn subscribing_to_ones_own_channel_is_confirmed_and_changes_nothing() {
    let server = server("");
    let mut socket = watching(&server, r#"{"id":"ann"}"#);
    socket.say("pusher:subscribe", json!({"channel": "#server-to-user-ann", "auth": ""}));
    socket.expect_subscribed("#server-to-user-ann");
    server.publish("#server-to-user-ann", "said", "once");
    socket.expect(r##"{"event":"said","channel":"#server-to-user-ann","data":"once"}"##);
    socket.settle();
}

#[test]
fn nobody_subscribes_to_the_channel_of_another_user() {
    let server = server("");
    let (mut stranger, mut bob) = (server.connect(), watching(&server, r#"{"id":"bob"}"#));
    for socket in [&mut stranger, &mut bob] {
        socket.say("pusher:subscribe", json!({"channel": "#server-to-user-ann", "auth": ""}));
        let message = "#server-to-user-ann is for the user who signed in by that id";
        super::expect_refused(socket, "#server-to-user-ann", "AuthError", 401, message);
    }
    server.publish("#server-to-user-ann", "said", "hello");
    stranger.settle();
    bob.settle();
}

// Watching.

#[test]
fn who_signs_in_is_told_who_of_its_watchlist_is_online_and_who_is_not() {
    let server = server("");
    let _bob = watching(&server, r#"{"id":"bob"}"#);
    let mut ann = watching(&server, r#"{"id":"ann","watchlist":["bob","eve"]}"#);
    assert_eq!(
        ann.recv_text(),
        r#"{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"bob\"]}]}"}"#
    );
    assert_eq!(
        ann.recv_text(),
        r#"{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"offline\",\"user_ids\":[\"eve\"]}]}"}"#
    );
    ann.expect_nothing();
}

#[test]
fn a_user_is_online_from_its_first_socket_to_its_last() {
    let server = server("");
    let mut ann = watching(&server, r#"{"id":"ann","watchlist":["bob"]}"#);
    ann.expect(&watchlist("offline", &["bob"]));
    let first = watching(&server, r#"{"id":"bob"}"#);
    ann.expect(&watchlist("online", &["bob"]));
    let second = watching(&server, r#"{"id":"bob"}"#);
    drop(first);
    ann.expect_nothing();
    drop(second);
    ann.expect(&watchlist("offline", &["bob"]));
}

#[test]
fn a_watchlist_over_its_limit_counts_as_far_as_it_may_and_says_so_with_4302() {
    let server = server("limits = { watchlist_max = 2 }");
    let mut ann = watching(&server, r#"{"id":"ann","watchlist":["bob","eve","joe"]}"#);
    assert_eq!(
        ann.expect_error(),
        json!({"code": 4302, "message": "watchlist limit reached: the first 2 users are watched"})
    );
    ann.expect(&watchlist("offline", &["bob", "eve"]));
    let _joe = watching(&server, r#"{"id":"joe"}"#);
    ann.expect_nothing();
    let _eve = watching(&server, r#"{"id":"eve"}"#);
    ann.expect(&watchlist("online", &["eve"]));
}

#[test]
fn a_hundred_users_may_be_watched_unless_configured() {
    let server = server("");
    let users = |n: usize| (0..n).map(|n| format!("u{n}")).collect::<Vec<_>>();
    let mut ann = watching(&server, &json!({"id": "ann", "watchlist": users(100)}).to_string());
    let told = inner(&ann.expect_event("pusher_internal:watchlist_events"));
    assert_eq!(told["events"][0]["user_ids"], json!(users(100)));
    let mut bob = watching(&server, &json!({"id": "bob", "watchlist": users(101)}).to_string());
    assert_eq!(bob.expect_error()["code"], 4302);
}

// Being sent away.

#[test]
fn a_user_that_is_terminated_loses_all_of_its_sockets_with_4009() {
    let server = server("");
    let (mut desk, mut phone) = (watching(&server, r#"{"id":"ann"}"#), watching(&server, r#"{"id":"ann"}"#));
    let (mut bob, mut member) = (watching(&server, r#"{"id":"bob"}"#), server.connect());
    // Being a member of a channel by that name is not being signed in.
    member.join("presence-room", r#"{"user_id":"ann"}"#);
    let answer = server.post("/users/ann/terminate_connections", &json!({}));
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    for socket in [&mut desk, &mut phone] {
        assert_eq!(socket.expect_error()["code"], 4009);
        socket.expect_close(4009);
    }
    bob.settle();
    member.settle();
}
