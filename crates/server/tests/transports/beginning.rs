//! What a subscriber hears first, and what it then hears of the others on its channels.

use serde_json::{Value, json};

use super::*;
use crate::support::{Reader, STREAMS, TRANSPORTS, Transport, eventually, inner, target, token};

#[test]
fn without_a_cursor_the_next_publication_is_the_first() {
    let server = server("");
    for transport in TRANSPORTS {
        server.publish("room", "said", "before");
        let mut reader = Reader::open(&server, transport, "room");
        server.publish("room", "said", "after");
        let message = reader.next();
        assert_eq!((&message["event"], &message["data"]), (&"said".into(), &"after".into()), "{transport:?}");
        assert_eq!(message["channel"], "room", "{transport:?}");
    }
}

#[test]
fn a_long_poll_without_a_cursor_waits_for_the_next_publication() {
    let server = server("");
    for (format, wanted) in [("raw", "after"), ("json", "\"data\":\"after\"")] {
        server.publish(format, "said", "before");
        let mut wire = Wire::to(server.addr);
        wire.get(&format!("/sub/fanfare-key/{format}?format={format}"), &[]);
        eventually("it waits", || subscriptions(&server, format) == 1);
        wire.expect_nothing();
        server.publish(format, "said", "after");
        let answer = wire.answer();
        assert!(answer.status == 200 && answer.body.contains(wanted), "{answer:?}");
        assert_eq!(answer.header("fanfare-recovered"), None);
        drop(wire);
        eventually("it has gone", || server.metric("fanfare_connections") == 0.0);
    }
}

#[test]
fn a_poll_without_a_cursor_is_the_newest() {
    let server = server("");
    let raw = sub(&server, "room?transport=poll", &[]);
    assert_eq!(raw.status, 204, "{raw:?}");
    server.publish("room", "said", "one");
    server.publish("room", "said", "two");
    let raw = sub(&server, "room?transport=poll", &[]);
    assert_eq!((raw.status, raw.body.as_str()), (200, "two"), "{raw:?}");
    let json = sub(&server, "room?transport=poll&format=json", &[]).json();
    assert_eq!((&json["messages"], json.get("recovered")), (&json!([]), None));
    assert_eq!(json["cursor"].as_str(), raw.header("fanfare-cursor"));
}

#[test]
fn nothing_new_is_said_in_the_way_that_was_asked_for() {
    let server = Server::start(&format!("longpoll_s = 1\n{}", one_app("")));
    server.publish("room", "said", "x");
    let cursor = cursor(&server, "room");
    let tag = format!("\"{cursor}\"");
    for transport in ["transport=poll", "transport=longpoll&wait=1", "transport=longpoll"] {
        for tag in [tag.clone(), format!("W/{tag}")] {
            for format in ["raw", "json"] {
                let answer = sub(&server, &format!("room?{transport}&format={format}"), &[("If-None-Match", &tag)]);
                assert_eq!(
                    (answer.status, answer.header("etag")),
                    (304, Some(&*format!("\"{cursor}\""))),
                    "{answer:?}"
                );
                assert_eq!(answer.header("fanfare-cursor"), Some(&*cursor), "{answer:?}");
            }
        }
        let raw = sub(&server, &format!("room?{transport}&since={cursor}"), &[]);
        assert_eq!((raw.status, raw.header("etag")), (204, Some(&*tag)), "{raw:?}");
        let json = sub(&server, &format!("room?{transport}&format=json&since={cursor}"), &[]);
        let told = json.json();
        assert_eq!((json.status, &told["messages"], &told["cursor"]), (200, &json!([]), &cursor.as_str().into()));
    }
}

#[test]
fn every_channel_is_confirmed_before_anything_is_told() {
    let server = server("");
    server.publish("a", "said", "x");
    for transport in STREAMS {
        let mut reader = Reader::ask(server.addr, transport, "a/b/c", "", &[]).expect("a stream");
        let mut channels = Vec::new();
        for _ in 0..3 {
            let message = reader.next();
            assert_eq!(message["event"], "fanfare:subscribed", "{transport:?} {message}");
            assert_eq!(message.get("recovered"), None, "nobody asked: {message}");
            assert!(message["cursor"].is_string(), "{message}");
            channels.push(message["channel"].as_str().expect("a channel").to_owned());
        }
        channels.sort();
        assert_eq!(channels, ["a", "b", "c"]);
        for channel in ["c", "a", "b"] {
            server.publish(channel, "said", channel);
            assert_eq!(reader.data(), channel, "{transport:?}");
        }
    }
}

#[test]
fn one_publication_to_several_channels_is_heard_on_each() {
    let server = server("");
    for transport in TRANSPORTS {
        let mut reader = Reader::open(&server, transport, "a/b");
        let event = json!({"name": "said", "channels": ["a", "b"], "data": "x"});
        assert_eq!(server.post("/events", &event).status, 200);
        let mut heard = [reader.next()["channel"].clone(), reader.next()["channel"].clone()];
        heard.sort_by_key(Value::to_string);
        assert_eq!(heard, ["a", "b"], "{transport:?}");
    }
}

#[test]
fn presence_is_shared_with_pusher_sockets_both_ways() {
    let server = server("");
    let ben = token(json!({"channels": ["presence-*"], "sub": "ben", "info": {"name": "Ben"}}));
    for transport in STREAMS {
        let mut ann = server.connect();
        ann.join("presence-room", r#"{"user_id":"ann","user_info":{"name":"Ann"}}"#);
        let more = format!("&token={ben}");
        let mut reader = Reader::ask(server.addr, transport, "presence-room", &more, &[]).expect("a stream");
        let subscribed = reader.next();
        assert_eq!(subscribed["event"], "fanfare:subscribed", "{transport:?} {subscribed}");
        let roster = &subscribed["presence"];
        assert_eq!(roster["count"], 2, "{transport:?} {subscribed}");
        assert_eq!(roster["hash"], json!({"ann": {"name": "Ann"}, "ben": {"name": "Ben"}}));
        let mut ids: Vec<_> = roster["ids"].as_array().expect("ids").iter().map(Value::to_string).collect();
        ids.sort();
        assert_eq!(ids, ["\"ann\"", "\"ben\""]);
        let added = ann.expect_event("pusher_internal:member_added");
        assert_eq!(inner(&added), json!({"user_id": "ben", "user_info": {"name": "Ben"}}));

        let mut cid = server.connect();
        cid.join("presence-room", r#"{"user_id":"cid"}"#);
        ann.expect_event("pusher_internal:member_added");
        let added = reader.next();
        assert_eq!((&added["event"], &added["channel"]), (&"fanfare:member_added".into(), &"presence-room".into()));
        assert_eq!(added.get("cursor"), None, "it cannot be resumed from: {added}");
        assert_eq!(inner(&added)["user_id"], "cid");
        cid.unsubscribe("presence-room");
        let removed = reader.next();
        assert_eq!((&removed["event"], inner(&removed)), (&"fanfare:member_removed".into(), json!({"user_id": "cid"})));
        ann.expect_event("pusher_internal:member_removed");

        drop(reader);
        let removed = ann.expect_event("pusher_internal:member_removed");
        assert_eq!(inner(&removed), json!({"user_id": "ben"}), "{transport:?}");
        drop((ann, cid));
        eventually("all have gone", || server.metric("fanfare_connections") == 0.0);
    }
}

#[test]
fn a_full_presence_channel_takes_nobody_more() {
    let server = server("limits = { presence_members_max = 1 }");
    let mut ann = server.connect();
    ann.join("presence-room", r#"{"user_id":"ann"}"#);
    let ben = format!("&token={}", token(json!({"channels": ["*"], "sub": "ben"})));
    for transport in STREAMS {
        let mut reader = Reader::ask(server.addr, transport, "presence-room/room", &ben, &[]).expect("a stream");
        let mut told = [reader.next(), reader.next()];
        told.sort_by_key(|message| message["event"].to_string());
        assert_eq!((&told[0]["event"], &told[0]["status"]), (&"fanfare:error".into(), &403.into()), "{transport:?}");
        assert_eq!(told[0]["channel"], "presence-room");
        assert_eq!((&told[1]["event"], &told[1]["channel"]), (&"fanfare:subscribed".into(), &"room".into()));
        server.publish("room", "said", "x");
        assert_eq!(reader.data(), "x");
    }
}

#[test]
fn client_events_are_heard_and_cannot_be_resumed_from() {
    let server = server("client_events = true");
    let mut ann = server.connect();
    ann.subscribe("private-room");
    let more = format!("&token={}", token(json!({"channels": ["private-room"]})));
    for transport in STREAMS {
        let mut reader = Reader::with(&server, transport, "private-room", &more);
        ann.say_on("private-room", "client-typing", json!({"who": "ann"}));
        let message = reader.next();
        assert_eq!((&message["event"], message.get("cursor")), (&"client-typing".into(), None), "{transport:?}");
        let data = message["data"].as_str().expect("data is a text always");
        assert_eq!(serde_json::from_str::<Value>(data).expect("JSON"), json!({"who": "ann"}));
    }
}

#[test]
fn a_client_event_answers_a_long_poll_and_leaves_its_place() {
    let server = server("client_events = true");
    let mut ann = server.connect();
    ann.subscribe("private-room");
    let bearer = format!("Bearer {}", token(json!({"channels": ["private-room"]})));
    let headers = [("Authorization", bearer.as_str())];
    let cursor = cursor(&server, "private-room");
    let mut wire = Wire::to(server.addr);
    wire.get(&format!("/sub/fanfare-key/private-room?format=json&since={cursor}"), &headers);
    eventually("it waits", || subscriptions(&server, "private-room") == 2);
    ann.say_on("private-room", "client-typing", json!({}));
    let answer = wire.answer();
    let message = &answer.json()["messages"][0];
    assert_eq!((&message["event"], message.get("cursor")), (&"client-typing".into(), None), "{answer:?}");
    assert_eq!(answer.header("fanfare-cursor"), Some(&*cursor), "a poller needs a place to go on from: {answer:?}");
    assert_eq!(answer.headers.iter().filter(|header| header.0 == "etag").count(), 1);
}

#[test]
fn subscribers_of_all_kinds_are_counted_together() {
    let server = server("subscription_count = true");
    let mut ann = server.connect();
    ann.subscribe("room");
    let expect_count = |ann: &mut crate::support::Socket, n: u64| {
        let message = ann.expect_event("pusher_internal:subscription_count");
        assert_eq!(inner(&message), json!({"subscription_count": n}), "{message}");
    };
    expect_count(&mut ann, 1);
    let mut readers = Vec::new();
    for (n, transport) in (2..).zip(STREAMS) {
        let mut reader = Reader::open(&server, transport, "room");
        let told = reader.next();
        assert_eq!(told["event"], "fanfare:subscription_count", "{transport:?} {told}");
        assert_eq!(inner(&told), json!({"subscription_count": n}), "{transport:?}");
        expect_count(&mut ann, n);
        readers.push(reader);
        assert_eq!(subscriptions(&server, "room"), n);
    }
    readers.clear();
    eventually("the streams have gone", || subscriptions(&server, "room") == 1);
}

/// Between two polls its reader counts as there: else the count would go up and down with every message.
#[test]
fn a_poller_is_counted_while_it_rests() {
    let server = server("");
    let mut wire = Wire::to(server.addr);
    let mut since = cursor(&server, "room");
    for n in 0..3 {
        wire.get(&target(Transport::LongPoll, "room", &format!("&since={since}")), &[]);
        eventually("it waits", || subscriptions(&server, "room") == 1);
        server.publish("room", "said", &n.to_string());
        let answer = wire.answer();
        since = answer.header("fanfare-cursor").expect("a cursor").to_owned();
        assert_eq!(subscriptions(&server, "room"), 1, "it rests");
    }
}

#[test]
fn a_cache_channel_shows_its_newest_event_first() {
    let server = server("");
    server.publish("cache-room", "said", "kept");
    for transport in STREAMS {
        let mut reader = Reader::open(&server, transport, "cache-room");
        assert_eq!(reader.data(), "kept", "{transport:?}");
        let since = reader.cursor.clone().expect("a cursor");
        server.publish("cache-room", "said", "next");
        assert_eq!(reader.data(), "next", "{transport:?}");
        let mut again = Reader::with(&server, transport, "cache-room", &format!("&since={since}"));
        assert_eq!(again.data(), "next", "who resumes is shown what it missed, and no more");
        server.publish("cache-room", "said", "kept");
        assert_eq!((again.data(), reader.data()), ("kept".into(), "kept".into()));
    }
}

#[test]
fn the_channels_of_a_plain_websocket_change() {
    let server = server("");
    let mut reader = Reader::ask(server.addr, Transport::Socket, "", "", &[]).expect("a WebSocket");
    let say = |reader: &mut Reader, text: Value| reader.socket().send_text(&text.to_string());
    say(&mut reader, json!({"subscribe": ["a", "b"]}));
    let mut told = [reader.next(), reader.next()];
    told.sort_by_key(|message| message["channel"].to_string());
    for (told, channel) in told.iter().zip(["a", "b"]) {
        assert_eq!((&told["event"], &told["channel"]), (&"fanfare:subscribed".into(), &channel.into()));
    }
    server.publish("a", "said", "1");
    assert_eq!(reader.data(), "1");
    let since = reader.cursor.clone().expect("a cursor");
    say(&mut reader, json!({"unsubscribe": ["a"]}));
    assert_eq!(reader.next(), json!({"event": "fanfare:unsubscribed", "channel": "a"}));
    server.publish("a", "said", "2");
    server.publish("b", "said", "3");
    assert_eq!(reader.data(), "3");

    say(&mut reader, json!({"subscribe": ["a"], "since": since}));
    let told = reader.next();
    assert_eq!((&told["channel"], &told["recovered"]), (&"a".into(), &true.into()), "{told}");
    assert_eq!(reader.data(), "2");
    say(&mut reader, json!({"subscribe": ["c"], "backtrack": 2}));
    assert_eq!(reader.next()["recovered"], true);

    say(&mut reader, json!({"unsubscribe": ["nowhere"]}));
    let error = reader.next();
    assert_eq!((&error["event"], &error["channel"]), (&"fanfare:error".into(), &"nowhere".into()), "{error}");
    say(&mut reader, json!({"subscribe": ["private-a", "d"]}));
    let mut told = [reader.next(), reader.next()];
    told.sort_by_key(|message| message["event"].to_string());
    assert_eq!((&told[0]["status"], &told[0]["channel"]), (&401.into(), &"private-a".into()), "{told:?}");
    assert_eq!(told[1]["channel"], "d");
    for nonsense in ["x", "[]", r#"{"subscribe":"a"}"#, r#"{"subscribe":[1]}"#] {
        reader.socket().send_text(nonsense);
        assert_eq!(reader.next()["status"], 400, "{nonsense}");
    }
    say(&mut reader, json!({"subscribe": ["a b"]}));
    assert_eq!(reader.next()["status"], 400);
    say(&mut reader, json!({"subscribe": ["e"], "since": "nonsense"}));
    assert_eq!(reader.next()["status"], 400);
    let good = token(json!({"channels": ["private-a"]}));
    say(&mut reader, json!({"subscribe": ["private-a"], "token": good}));
    assert_eq!(reader.next()["channel"], "private-a");
    server.publish("private-a", "said", "4");
    assert_eq!(reader.data(), "4");
}
