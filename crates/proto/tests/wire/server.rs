//! What the server answers, byte for byte.

use std::borrow::Cow;

use fanfare_proto::server::{
    self, cache_miss, channel_error, error, established, event, member_added_data, member_removed_data, ping, pong,
    presence_data, signin_success, string_token, string_token_len, subscription_count_data, subscription_succeeded,
    watchlist,
};
use fanfare_proto::socket_id::SocketId;
use serde_json::value::RawValue;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

fn raw(json: &str) -> Box<RawValue> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn established_carries_socket_id_and_activity_timeout_in_a_string() {
    assert_eq!(
        written(|out| established(out, SocketId { a: 12, b: 34 }, 120)),
        r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"12.34\",\"activity_timeout\":120}"}"#
    );
}

#[test]
fn an_errors_data_is_an_object_because_swift_drops_a_string() {
    assert_eq!(
        written(|out| error(out, Some(4001), "Application does not exist")),
        r#"{"event":"pusher:error","data":{"code":4001,"message":"Application does not exist"}}"#
    );
}

#[test]
fn an_error_without_a_code_says_null() {
    assert_eq!(
        written(|out| error(out, None, "say \"please\"")),
        r#"{"event":"pusher:error","data":{"code":null,"message":"say \"please\""}}"#
    );
}

#[test]
fn a_channel_error_reaches_the_channels_own_listeners() {
    assert_eq!(
        written(|out| channel_error(out, "private-a", "AuthError", "no", 401)),
        r#"{"event":"pusher:subscription_error","channel":"private-a","data":"{\"type\":\"AuthError\",\"error\":\"no\",\"status\":401}"}"#
    );
}

#[test]
fn subscription_succeeded_always_has_data_because_swift_waits_for_it() {
    assert_eq!(
        written(|out| subscription_succeeded(out, "a", None)),
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"a","data":"{}"}"#
    );
}

#[test]
fn a_presence_subscription_succeeds_with_its_members() {
    let members = [("a", Some(r#"{"name":"A"}"#)), ("b", None)];
    let presence = presence_data(members.into_iter());
    assert_eq!(presence, r#"{"presence":{"ids":["a","b"],"hash":{"a":{"name":"A"},"b":null},"count":2}}"#);
    assert_eq!(
        written(|out| subscription_succeeded(out, "presence-a", Some(&presence))),
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-a","data":"{\"presence\":{\"ids\":[\"a\",\"b\"],\"hash\":{\"a\":{\"name\":\"A\"},\"b\":null},\"count\":2}}"}"#
    );
}

#[test]
fn the_hash_of_nobody_is_an_object_all_the_same() {
    assert_eq!(presence_data(std::iter::empty()), r#"{"presence":{"ids":[],"hash":{},"count":0}}"#);
}

#[test]
fn members_come_and_go_with_ids_that_are_strings() {
    assert_eq!(member_added_data("1", Some("{}")), r#"{"user_id":"1","user_info":{}}"#);
    assert_eq!(member_added_data("\"", None), r#"{"user_id":"\"","user_info":null}"#);
    assert_eq!(member_removed_data("1"), r#"{"user_id":"1"}"#);
}

#[test]
fn a_count_is_a_number() {
    assert_eq!(subscription_count_data(3), r#"{"subscription_count":3}"#);
}

#[test]
fn pings_pongs_and_misses_have_data_because_java_dereferences_it() {
    assert_eq!(written(ping), r#"{"event":"pusher:ping","data":"{}"}"#);
    assert_eq!(written(pong), r#"{"event":"pusher:pong","data":"{}"}"#);
    assert_eq!(
        written(|out| cache_miss(out, "cache-a")),
        r#"{"event":"pusher:cache_miss","channel":"cache-a","data":"{}"}"#
    );
}

#[test]
fn a_signin_is_confirmed_with_the_very_string_that_was_sent() {
    assert_eq!(
        written(|out| signin_success(out, r#"{"id":"1"}"#)),
        r#"{"event":"pusher:signin_success","data":"{\"user_data\":\"{\\\"id\\\":\\\"1\\\"}\"}"}"#
    );
}

#[test]
fn a_watchlist_tells_who_is_online_and_who_is_not() {
    assert_eq!(
        written(|out| watchlist(out, &[("online", &["a", "b"]), ("offline", &["c"])])),
        r#"{"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\",\"user_ids\":[\"a\",\"b\"]},{\"name\":\"offline\",\"user_ids\":[\"c\"]}]}"}"#
    );
}

#[test]
fn an_event_is_spliced_from_tokens_that_nobody_parses_again() {
    assert_eq!(
        written(|out| event(out, r#""chat""#, Some("room"), r#""\u0041\/{}""#, None)),
        r#"{"event":"chat","channel":"room","data":"\u0041\/{}"}"#
    );
}

#[test]
fn a_client_event_on_a_presence_channel_carries_its_user() {
    assert_eq!(
        written(|out| event(out, r#""client-a""#, Some("presence-a"), r#""{}""#, Some(r#""7""#))),
        r#"{"event":"client-a","channel":"presence-a","data":"{}","user_id":"7"}"#
    );
}

#[test]
fn an_event_may_belong_to_no_channel() {
    assert_eq!(written(|out| event(out, r#""e""#, None, r#""""#, None)), r#"{"event":"e","data":""}"#);
}

#[test]
fn a_string_stays_the_token_it_was() {
    let json = raw(r#""\u0041 \/""#);
    assert!(matches!(string_token(&json), Cow::Borrowed(r#""\u0041 \/""#)));
}

#[test]
fn anything_but_a_string_becomes_the_string_of_its_text() {
    for (json, token) in [
        (r#"{"a": "b"}"#, r#""{\"a\": \"b\"}""#),
        ("[1,\n2]", r#""[1,\n2]""#),
        ("1.50", r#""1.50""#),
        ("null", r#""null""#),
    ] {
        assert_eq!(string_token(&raw(json)), token);
    }
}

#[test]
fn a_tokens_length_is_that_of_the_text_it_stands_for() {
    for text in ["", "plain", "\"quoted\"", "tab\tnewline\n\u{1}", "grüße", "🎺", "\\", "\\\\u0041"] {
        let token = written(|out| server::json_string(out, text));
        assert_eq!(string_token_len(&token), text.len(), "{token}");
    }
}

#[test]
fn escaped_characters_count_as_what_they_decode_to() {
    for (token, len) in [
        (r#""\u0041""#, 1),
        (r#""\u00fc""#, 2),
        (r#""\u20AC""#, 3),
        (r#""\ud83c\udfba""#, 4),
        (r#""\ud83c""#, 3),
        (r#""\ud83cx""#, 4),
        (r#""\ud83c\u0041""#, 4),
        (r#""\/\b""#, 2),
    ] {
        assert_eq!(string_token_len(token), len, "{token}");
    }
}
