//! Presence: who is told of whom, in which order, and how often.

use serde_json::json;

use super::{expect_refused, server};
use crate::support::{channel_auth, eventually};

const ROOM: &str = "presence-room";

fn added(user_id: &str, user_info: &str) -> String {
    let data = format!(r#"{{"user_id":"{user_id}","user_info":{user_info}}}"#);
    json!({"event": "pusher_internal:member_added", "channel": ROOM, "data": data}).to_string()
}

fn removed(user_id: &str) -> String {
    let data = format!(r#"{{"user_id":"{user_id}"}}"#);
    json!({"event": "pusher_internal:member_removed", "channel": ROOM, "data": data}).to_string()
}

#[test]
fn who_joins_is_told_who_is_there_itself_included() {
    let server = server("");
    let (mut ann, mut bob) = (server.connect(), server.connect());
    ann.ask_for(ROOM, Some(r#"{"user_id":"ann","user_info":{"name":"Ann"}}"#));
    assert_eq!(
        ann.recv_text(),
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-room","data":"{\"presence\":{\"ids\":[\"ann\"],\"hash\":{\"ann\":{\"name\":\"Ann\"}},\"count\":1}}"}"#
    );
    let roster = bob.join(ROOM, r#"{"user_id":"bob"}"#);
    assert_eq!(roster["hash"], json!({"ann": {"name": "Ann"}, "bob": null}));
    assert_eq!(roster["count"], 2);
    let mut ids: Vec<_> = roster["ids"].as_array().expect("a list").iter().map(|id| id.as_str()).collect();
    ids.sort();
    assert_eq!(ids, [Some("ann"), Some("bob")]);
}

#[test]
fn the_others_are_told_who_came_and_who_left_and_the_member_itself_is_not() {
    let server = server("");
    let (mut ann, mut bob) = (server.connect(), server.connect());
    ann.join(ROOM, r#"{"user_id":"ann"}"#);
    bob.join(ROOM, r#"{"user_id":"bob","user_info":{"n":1}}"#);
    assert_eq!(
        ann.recv_text(),
        r#"{"event":"pusher_internal:member_added","channel":"presence-room","data":"{\"user_id\":\"bob\",\"user_info\":{\"n\":1}}"}"#
    );
    bob.settle();
    bob.unsubscribe(ROOM);
    assert_eq!(
        ann.recv_text(),
        r#"{"event":"pusher_internal:member_removed","channel":"presence-room","data":"{\"user_id\":\"bob\"}"}"#
    );
    bob.settle();
}

#[test]
fn a_user_comes_with_its_first_socket_and_leaves_with_its_last() {
    let server = server("");
    let (mut witness, mut first) = (server.connect(), server.connect());
    let (mut second, mut third) = (server.connect(), server.connect());
    witness.join(ROOM, r#"{"user_id":"w"}"#);
    first.join(ROOM, r#"{"user_id":"ann"}"#);
    witness.expect(&added("ann", "null"));
    let roster = second.join(ROOM, r#"{"user_id":"ann"}"#);
    assert_eq!(roster["count"], 2, "one user is one member, whatever the sockets: {roster}");
    third.join(ROOM, r#"{"user_id":"ann"}"#);

    first.unsubscribe(ROOM);
    second.ws.hang_up();
    first.settle();
    witness.expect_nothing();
    drop(third);
    witness.expect(&removed("ann"));
    witness.expect_nothing();
}

#[test]
fn a_number_for_a_user_id_becomes_a_string() {
    let server = server("");
    let (mut witness, mut socket) = (server.connect(), server.connect());
    witness.join(ROOM, r#"{"user_id":"w"}"#);
    let roster = socket.join(ROOM, r#"{"user_id":10,"user_info":{"name":"Mr. Pusher"}}"#);
    assert_eq!(roster["hash"]["10"], json!({"name": "Mr. Pusher"}));
    assert!(roster["ids"].as_array().is_some_and(|ids| ids.contains(&json!("10"))), "{roster}");
    witness.expect(&added("10", r#"{"name":"Mr. Pusher"}"#));
    // The number and the string are one user.
    server.connect().join(ROOM, r#"{"user_id":"10"}"#);
    witness.expect_nothing();
    drop(socket);
    witness.expect(&removed("10"));
}

#[test]
fn nobody_hears_of_a_member_before_its_own_confirmation() {
    let server = server("");
    for round in 0..20 {
        let channel = format!("presence-{round}");
        let mut sockets: Vec<_> = (0..10).map(|_| server.connect()).collect();
        for (n, socket) in sockets.iter_mut().enumerate() {
            socket.ask_for(&channel, Some(&format!("{{\"user_id\":\"{n}\"}}")));
        }
        for socket in &mut sockets {
            let first = socket.expect_event("pusher_internal:subscription_succeeded");
            let mut known = super::inner(&first)["presence"]["count"].as_u64().expect("a count");
            // Everybody else is in the roster or is told of later, once.
            while known < 10 {
                socket.expect_event("pusher_internal:member_added");
                known += 1;
            }
            socket.settle();
        }
    }
}

#[test]
fn a_signed_in_user_joins_without_channel_data() {
    let server = server("");
    let mut socket = server.connect();
    socket.sign_in(r#"{"id":"ann","user_info":{"name":"Ann"}}"#);
    let auth = channel_auth(&socket.id, ROOM, None);
    socket.say("pusher:subscribe", json!({"channel": ROOM, "auth": auth}));
    socket.expect(
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-room","data":"{\"presence\":{\"ids\":[\"ann\"],\"hash\":{\"ann\":{\"name\":\"Ann\"}},\"count\":1}}"}"#,
    );
}

#[test]
fn channel_data_must_say_who_it_is() {
    let server = server("");
    let mut socket = server.connect();
    socket.ask_for(ROOM, None);
    let message = "a presence channel needs channel_data with a user_id, or a signed-in user";
    expect_refused(&mut socket, ROOM, "SubscriptionError", 400, message);
    for (data, message) in [
        (r#"{}"#, "channel_data needs a \"user_id\" that is not empty"),
        (r#"{"user_id":""}"#, "channel_data needs a \"user_id\" that is not empty"),
        (r#"{"user_id":{}}"#, "channel_data: user_id must be a string or a number"),
        (
            &format!("{{\"user_id\":\"{}\"}}", "x".repeat(129)),
            "channel_data: user_id of 129 characters, at most 128 are allowed",
        ),
    ] {
        socket.ask_for(ROOM, Some(data));
        expect_refused(&mut socket, ROOM, "SubscriptionError", 400, message);
    }
}

#[test]
fn channel_data_is_no_larger_than_the_app_allows() {
    let server = server("limits = { presence_member_bytes_max = 40 }");
    let mut socket = server.connect();
    let data = r#"{"user_id":"1","user_info":"0123456789012"}"#;
    socket.ask_for(ROOM, Some(data));
    let message = format!("channel_data has {} bytes, at most 40 are allowed", data.len());
    expect_refused(&mut socket, ROOM, "LimitReached", 413, &message);
    socket.join(ROOM, r#"{"user_id":"1"}"#);
}

#[test]
fn a_channel_takes_as_many_members_as_the_app_allows() {
    let server = server("limits = { presence_members_max = 2 }");
    let (mut ann, mut bob, mut eve) = (server.connect(), server.connect(), server.connect());
    ann.join(ROOM, r#"{"user_id":"ann"}"#);
    bob.join(ROOM, r#"{"user_id":"bob"}"#);
    eve.ask_for(ROOM, Some(r#"{"user_id":"eve"}"#));
    let error = eve.expect_error();
    assert!(error["message"].as_str().is_some_and(|text| text.contains('2')), "{error}");
    let answer = eve.expect_event("pusher:subscription_error");
    assert_eq!(
        (&super::inner(&answer)["type"], &super::inner(&answer)["status"]),
        (&json!("LimitReached"), &json!(403))
    );

    // Whoever is there already may come once more; whoever was turned away is not there.
    eve.join(ROOM, r#"{"user_id":"bob"}"#);
    server.get("/channels/presence-room", &[("info", "user_count")]).expect(200, r#"{"occupied":true,"user_count":2}"#);
    ann.expect(&added("bob", "null"));
    ann.expect_nothing();
}

#[test]
fn a_member_whose_connection_breaks_has_left() {
    let server = server("");
    let (mut witness, mut socket) = (server.connect(), server.connect());
    witness.join(ROOM, r#"{"user_id":"w"}"#);
    socket.join(ROOM, r#"{"user_id":"ann"}"#);
    witness.expect(&added("ann", "null"));
    drop(socket);
    witness.expect(&removed("ann"));
    eventually("the list is as it was", || {
        server.get("/channels/presence-room/users", &[]).body == r#"{"users":[{"id":"w"}]}"#
    });
}

#[test]
fn a_user_id_may_be_any_text() {
    let server = server("");
    let mut socket = server.connect();
    let roster = socket.join(ROOM, r#"{"user_id":"a \"b\" / ü"}"#);
    assert_eq!(roster["hash"], json!({"a \"b\" / ü": null}));
}
