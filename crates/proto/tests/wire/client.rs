//! What clients say, and what they may not.

use std::borrow::Cow;

use fanfare_proto::client::{BadMessage, ClientMessage};
use fanfare_proto::presence::{BadChannelData, BadUserData, ChannelData, UserData};

fn parse(text: &str) -> ClientMessage<'_> {
    ClientMessage::parse(text).unwrap()
}

fn refused(text: &str) -> String {
    ClientMessage::parse(text).unwrap_err().to_string()
}

#[test]
fn a_subscribe_borrows_all_of_its_strings() {
    let text = r#"{"event":"pusher:subscribe","data":{"auth":"key:sig","channel":"presence-a","channel_data":"x"}}"#;
    let ClientMessage::Subscribe { channel, auth, channel_data, .. } = parse(text) else { panic!() };
    assert!(matches!(channel, Cow::Borrowed("presence-a")));
    assert!(matches!(auth, Some(Cow::Borrowed("key:sig"))));
    assert!(matches!(channel_data, Some(Cow::Borrowed("x"))));
}

#[test]
fn channel_data_is_the_exact_string_that_was_escaped() {
    let text = r#"{"event":"pusher:subscribe","data":{"channel":"presence-a","channel_data":"{\"user_id\":\"1\"}"}}"#;
    let ClientMessage::Subscribe { channel_data, .. } = parse(text) else { panic!() };
    assert_eq!(channel_data.as_deref(), Some(r#"{"user_id":"1"}"#));
}

#[test]
fn an_empty_auth_counts_as_absent() {
    for auth in [r#""auth":"","#, r#""auth":null,"#, ""] {
        let text = format!(r#"{{"event":"pusher:subscribe","data":{{{auth}"channel":"a"}}}}"#);
        let ClientMessage::Subscribe { auth, channel_data, .. } = parse(&text) else { panic!() };
        assert_eq!((auth, channel_data), (None, None));
    }
}

#[test]
fn data_may_be_a_string_that_holds_the_object() {
    let text = r#"{"event":"pusher:subscribe","data":"{\"channel\":\"a\",\"auth\":\"k:s\"}"}"#;
    let ClientMessage::Subscribe { channel, auth, .. } = parse(text) else { panic!() };
    assert_eq!((channel.as_ref(), auth.as_deref()), ("a", Some("k:s")));
}

#[test]
fn an_unsubscribe_names_its_channel() {
    let text = r#"{"event":"pusher:unsubscribe","data":{"channel":"a"}}"#;
    assert!(matches!(parse(text), ClientMessage::Unsubscribe { channel } if channel == "a"));
}

#[test]
fn a_ping_needs_no_data_as_java_sends_none() {
    for text in [
        r#"{"event": "pusher:ping"}"#,
        r#"{"event":"pusher:ping","data":{}}"#,
        r#"{"event":"pusher:ping","data":""}"#,
        r#"{"event":"pusher:ping","data":null}"#,
    ] {
        assert!(matches!(parse(text), ClientMessage::Ping), "{text}");
    }
    assert!(matches!(parse(r#"{"event":"pusher:pong","data":{}}"#), ClientMessage::Pong));
}

#[test]
fn a_signin_carries_its_signature_and_the_exact_user_data() {
    let text = r#"{"event":"pusher:signin","data":{"auth":"k:s","user_data":"{\"id\":\"7\"}"}}"#;
    let ClientMessage::Signin { auth, user_data } = parse(text) else { panic!() };
    assert_eq!((auth.as_ref(), user_data.as_ref()), ("k:s", r#"{"id":"7"}"#));
}

#[test]
fn a_client_event_keeps_its_data_as_it_was_written() {
    let text = r#"{"event":"client-typing","channel":"private-a","data":{"n": 1.50, "n": 2}}"#;
    let ClientMessage::ClientEvent { event, channel, data } = parse(text) else { panic!() };
    assert_eq!((event.as_ref(), channel.as_ref()), ("client-typing", "private-a"));
    assert_eq!(data.unwrap().get(), r#"{"n": 1.50, "n": 2}"#);
}

#[test]
fn a_client_event_may_come_without_data() {
    let text = r#"{"event":"client-typing","channel":"private-a"}"#;
    assert!(matches!(parse(text), ClientMessage::ClientEvent { data: None, .. }));
}

#[test]
fn an_escaped_event_name_is_the_same_event() {
    assert!(matches!(parse(r#"{"event":"pusher\u003aping"}"#), ClientMessage::Ping));
}

#[test]
fn fields_that_nobody_knows_are_passed_over() {
    let text = r#"{"id":[1,{}],"event":"pusher:subscribe","data":{"channel":"a","extra":{"b":[]}}}"#;
    assert!(matches!(parse(text), ClientMessage::Subscribe { .. }));
}

#[test]
fn what_is_not_json_is_told_so() {
    assert_eq!(refused("hello"), "message: not valid JSON: expected value at line 1 column 1");
    assert_eq!(refused(""), "message: not valid JSON: EOF while parsing a value at line 1 column 0");
    let text = r#"{"event":"pusher:ping"} x"#;
    assert_eq!(refused(text), "message: not valid JSON: trailing characters at line 1 column 25");
}

#[test]
fn json_that_is_no_object_is_told_so() {
    for text in [r#"["pusher:ping"]"#, "7", "null", r#""pusher:ping""#] {
        assert_eq!(refused(text), "message: not a JSON object");
    }
}

#[test]
fn a_field_of_the_wrong_type_is_told_so() {
    let text = r#"{"event":7}"#;
    assert_eq!(
        refused(text),
        "message: unexpected field: invalid type: integer `7`, expected a string at line 1 column 10"
    );
    let text = r#"{"event":"pusher:subscribe","data":{"channel":[]}}"#;
    assert!(refused(text).starts_with("data of pusher:subscribe: unexpected field: invalid type: sequence"));
}

#[test]
fn data_that_is_no_object_is_told_so() {
    for data in ["[]", "7", r#""7""#, r#""[\"a\"]""#] {
        let text = format!(r#"{{"event":"pusher:subscribe","data":{data}}}"#);
        assert_eq!(refused(&text), "data of pusher:subscribe: not a JSON object", "{data}");
    }
}

#[test]
fn a_missing_field_is_named() {
    assert_eq!(refused("{}"), r#"a message needs an "event""#);
    assert_eq!(refused(r#"{"event":"pusher:subscribe"}"#), r#"pusher:subscribe needs "channel""#);
    assert_eq!(refused(r#"{"event":"pusher:unsubscribe","data":{}}"#), r#"pusher:unsubscribe needs "channel""#);
    assert_eq!(refused(r#"{"event":"pusher:signin","data":{"auth":"a"}}"#), r#"pusher:signin needs "user_data""#);
    assert_eq!(refused(r#"{"event":"client-a","data":{}}"#), r#"client-a needs "channel""#);
}

#[test]
fn the_protocols_own_events_are_refused_from_clients() {
    for event in ["pusher:error", "pusher:made_up", "pusher_internal:member_added"] {
        let text = format!(r#"{{"event":"{event}","channel":"a","data":{{}}}}"#);
        assert_eq!(refused(&text), format!("{event} is not an event that clients may send"));
    }
}

#[test]
fn other_events_are_refused_unless_they_begin_with_client() {
    let text = r#"{"event":"chat","channel":"private-a"}"#;
    assert_eq!(refused(text), r#""chat" refused: events sent by clients must begin with client-"#);
}

#[test]
fn a_client_event_with_a_name_too_long_is_refused() {
    let text = format!(r#"{{"event":"client-{}","channel":"private-a"}}"#, "x".repeat(194));
    assert!(matches!(ClientMessage::parse(&text), Err(BadMessage::EventName(_))));
}

#[test]
fn a_client_event_may_nest_128_deep_and_no_deeper() {
    let nested = |depth| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"event":"client-a","channel":"private-a","data":{open}"[[\"[["{close}}}"#)
    };
    assert!(ClientMessage::parse(&nested(128)).is_ok());
    assert!(matches!(ClientMessage::parse(&nested(129)), Err(BadMessage::TooDeep)));
    assert!(matches!(ClientMessage::parse(&nested(100_000)), Err(BadMessage::TooDeep)));
}

#[test]
fn channel_data_names_a_user_and_what_is_told_about_it() {
    let data = ChannelData::parse(r#"{"user_id":"u1","user_info":{"name": "A"}}"#).unwrap();
    assert_eq!(data.user_id, "u1");
    assert_eq!(data.user_info.unwrap().get(), r#"{"name": "A"}"#);
}

#[test]
fn a_numeric_user_id_becomes_its_digits() {
    for (number, id) in [("10", "10"), ("-3", "-3"), ("123456789012345678901", "123456789012345678901"), ("1.0", "1.0")]
    {
        let data = ChannelData::parse(&format!(r#"{{"user_id":{number}}}"#)).unwrap();
        assert_eq!(data.user_id, id);
        assert!(data.user_info.is_none());
    }
}

#[test]
fn channel_data_without_a_usable_user_id_is_refused() {
    for text in ["{}", r#"{"user_id":""}"#, r#"{"user_id":null}"#] {
        assert!(matches!(ChannelData::parse(text), Err(BadChannelData::MissingUserId)), "{text}");
    }
    for text in [r#"{"user_id":true}"#, r#"{"user_id":{}}"#, r#"{"user_id":[1]}"#] {
        assert!(matches!(ChannelData::parse(text), Err(BadChannelData::UserIdType)), "{text}");
    }
    for text in ["", "[]", "7", "nonsense"] {
        assert!(matches!(ChannelData::parse(text), Err(BadChannelData::Object(_))), "{text}");
    }
}

#[test]
fn a_user_id_has_at_most_128_characters() {
    let data = |len| format!(r#"{{"user_id":"{}"}}"#, "ü".repeat(len));
    assert!(ChannelData::parse(&data(128)).is_ok());
    assert!(matches!(ChannelData::parse(&data(129)), Err(BadChannelData::UserIdTooLong { len: 129 })));
}

#[test]
fn user_data_names_a_user_and_its_watchlist() {
    let data = UserData::parse(r#"{"id":"u1","user_info":{"n":1},"watchlist":["u2","u3"]}"#).unwrap();
    assert_eq!((data.id.as_str(), data.watchlist), ("u1", vec!["u2".to_owned(), "u3".to_owned()]));
    assert_eq!(data.user_info.unwrap().get(), r#"{"n":1}"#);
}

#[test]
fn a_user_needs_no_watchlist() {
    assert_eq!(UserData::parse(r#"{"id":"u1"}"#).unwrap().watchlist, Vec::<String>::new());
}

#[test]
fn a_signed_in_user_has_a_string_for_an_id_and_one_that_can_name_a_channel() {
    assert!(matches!(UserData::parse(r#"{"id":7}"#), Err(BadUserData::Object(_))));
    assert!(matches!(UserData::parse("{}"), Err(BadUserData::MissingId)));
    assert!(matches!(UserData::parse(r#"{"id":""}"#), Err(BadUserData::MissingId)));
    assert!(matches!(UserData::parse(r#"{"id":"a b"}"#), Err(BadUserData::IdCharacter { found: ' ' })));
    let long = format!(r#"{{"id":"{}"}}"#, "a".repeat(129));
    assert!(matches!(UserData::parse(&long), Err(BadUserData::IdTooLong { len: 129 })));
}
