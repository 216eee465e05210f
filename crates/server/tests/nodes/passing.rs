//! No stickiness: requests of one reader, and readers that resume, come to any node.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::{KEY, Reader, Response, STREAMS, Server, connect, eventually, one_app, request, token};

fn nodes<const N: usize>(redis: &[Redis], config: &str) -> [Server; N] {
    let servers: Vec<String> = redis.iter().map(|redis| format!("\"{}\"", redis.url())).collect();
    let config = format!("{config}\n[redis]\nservers = [{}]\n", servers.join(", "));
    [(); N].map(|()| Server::start(&config))
}

#[test]
fn a_poller_asks_another_node_each_time() {
    let redis = Redis::pair();
    let nodes: [Server; 3] = nodes(&redis, &one_app(""));
    let poll = |node: usize, query: &str| -> Value {
        let target = format!("/sub/{KEY}/room/news?format=json&transport=poll&{query}");
        let answer = request(nodes[node].addr, "GET", &target, &[], "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let mut cursor = poll(0, "")["cursor"].as_str().expect("a cursor").to_owned();
    let mut heard = Vec::new();
    for n in 0..30 {
        let channel = if n % 3 == 0 { "news" } else { "room" };
        nodes[n % 2].publish(channel, "said", &n.to_string());
        if n % 4 == 0 {
            continue;
        }
        let answer = poll(n % 3, &format!("since={cursor}"));
        assert_eq!(answer["recovered"], true, "{answer}");
        heard.extend(answer["messages"].as_array().expect("messages").iter().map(|message| {
            (message["channel"].clone(), message["data"].as_str().expect("data").parse::<usize>().expect("a number"))
        }));
        cursor = answer["cursor"].as_str().expect("a cursor").to_owned();
    }
    // On each channel everything, in order; on the other one some may come twice.
    for (channel, first) in [("room", 1), ("news", 0)] {
        let mut numbers: Vec<usize> =
            heard.iter().filter(|(name, _)| name == channel).map(|(_, number)| *number).collect();
        numbers.dedup();
        let expected: Vec<usize> = (0..30).filter(|n| (n % 3 == 0) == (first == 0)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, expected, "{channel}");
    }
}

#[test]
fn an_answer_to_a_poll_of_several_channels_says_where_it_is_in_all_of_them() {
    let redis = Redis::pair();
    let node = &nodes::<1>(&redis, &one_app(""))[0];
    // Of so many, some are on either server.
    let channels = ["a", "b", "c", "d", "e"];
    for (format, path) in [("json", channels.join("/")), ("raw", channels[..4].join("/"))] {
        let target = format!("/sub/{KEY}/{path}?format={format}&transport=longpoll&wait=20");
        let newest = request(node.addr, "GET", &format!("/sub/{KEY}/{path}?format=json&transport=poll"), &[], "");
        let mut cursor = newest.header("fanfare-cursor").expect("a cursor").to_owned();
        for n in 0..24 {
            let (addr, next) = (node.addr, format!("{target}&since={cursor}"));
            let waiting = thread::spawn(move || request(addr, "GET", &next, &[], ""));
            let channel = channels[n % 4];
            // Most polls wait by then; the others are answered from the history.
            thread::sleep(Duration::from_millis(30));
            node.publish(channel, "said", &n.to_string());
            let answer = waiting.join().expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
            cursor = answer.header("fanfare-cursor").expect("a cursor").to_owned();
            assert_eq!(answer.header("etag"), Some(&*format!("\"{cursor}\"")));
            if format == "raw" {
                assert_eq!(answer.body, n.to_string());
                continue;
            }
            let answer = answer.json();
            let heard: Vec<_> = answer["messages"].as_array().expect("messages").iter().collect();
            assert_eq!(heard.len(), 1, "{answer}");
            assert_eq!((&heard[0]["channel"], &heard[0]["data"]), (&json!(channel), &json!(n.to_string())));
            assert_eq!(answer["cursor"], cursor);
        }
    }
}

#[test]
fn streams_resume_on_another_node_when_theirs_stops() {
    let redis = Redis::pair();
    let [mut one, two] = nodes(&redis, &format!("drain_s = 1\n{}", one_app("")));
    let mut readers = STREAMS.map(|transport| Reader::open(&one, transport, "room"));
    one.publish("room", "said", "before");
    for reader in &mut readers {
        assert_eq!(reader.data(), "before");
    }
    one.signal("TERM");
    eventually("it says that it stops", || one.admin_get("/readyz").status == 503);
    two.publish("room", "said", "meanwhile");
    for (reader, transport) in readers.iter_mut().zip(STREAMS) {
        let mut last = reader.next();
        let mut heard = Vec::new();
        while last["event"] != "fanfare:closed" {
            heard.push(last["data"].as_str().expect("data").to_owned());
            last = reader.next();
        }
        assert_eq!((&last["reason"], &last["reconnect"]), (&json!("drain"), &json!(true)), "{transport:?}");
        let since = format!("&since={}", reader.cursor.as_ref().expect("a cursor"));
        let mut resumed = Reader::ask(two.addr, transport, "room", &since, &[]).expect("it is let in");
        assert_eq!(resumed.next()["recovered"], true, "{transport:?}");
        if heard.is_empty() {
            assert_eq!(resumed.data(), "meanwhile", "{transport:?}");
        }
    }
    assert!(one.wait().success());
}

#[test]
fn a_member_who_polls_any_node_stays_a_member() {
    const ROOM: &str = "presence-room";
    let redis = Redis::pair();
    let nodes: [Server; 2] = nodes(&redis, &one_app(""));
    let bearer = format!("Bearer {}", token(json!({"sub": "ann", "channels": ["presence-*"]})));
    let poll = |node: usize, more: &str| -> Value {
        let target = format!("/sub/{KEY}/{ROOM}?format=json&transport=poll{more}");
        let answer = request(nodes[node].addr, "GET", &target, &[("Authorization", &bearer)], "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let mut last = poll(0, "");
    assert_eq!(last["presence"][ROOM]["ids"], json!(["ann"]));
    let mut bob = nodes[0].connect();
    assert_eq!(bob.join(ROOM, r#"{"user_id":"bob"}"#)["count"], 2);

    let mut said = Vec::new();
    for n in 0..40 {
        if n % 4 == 0 {
            nodes[n / 4 % 2].publish(ROOM, "said", &n.to_string());
        }
        let sid = last["sid"].as_str().expect("a session");
        let cursor = last["cursor"].as_str().expect("a cursor");
        let (sid, cursor) = (sid.to_owned(), cursor.to_owned());
        last = poll((n + 1) % 2, &format!("&sid={sid}&since={cursor}"));
        assert_ne!(last["recovered"], false, "{last}");
        let messages = last["messages"].as_array().expect("messages").iter();
        said.extend(messages.filter(|message| message["event"] == "said").map(|message| message["data"].clone()));
        thread::sleep(Duration::from_millis(200));
    }
    said.dedup();
    let expected: Vec<Value> = (0..40).step_by(4).map(|n| json!(n.to_string())).collect();
    assert_eq!(said, expected);
    // Longer than a session that nobody takes up has: the earlier ones have ended, and she has not left.
    for n in expected {
        let message = bob.recv();
        assert_eq!((&message["event"], &message["data"]), (&json!("said"), &n), "{message}");
    }

    let lost = poll(0, "&sid=of-another-node");
    assert_eq!(lost["recovered"], false, "nobody knows where it was: {lost}");
}

fn session(server: &Server, verb: &str, body: &str) -> Response {
    request(server.addr, "POST", &format!("/pusher/app/{KEY}/7/abcdefgh/{verb}?protocol=7"), &[], body)
}

#[test]
fn a_session_whose_node_is_gone_has_its_client_begin_anew() {
    let redis = Redis::pair();
    let [one, two]: [Server; 2] = nodes(&redis, &one_app(""));
    let mut begun = session(&one, "xhr", "").body;
    assert!(begun.starts_with("o\n"), "{begun}");
    if !begun.contains("connection_established") {
        begun = session(&two, "xhr", "").body;
    }
    assert!(begun.contains("connection_established"), "{begun}");
    let subscribe = json!([json!({"event": "pusher:subscribe", "data": {"channel": "room"}}).to_string()]);
    assert_eq!(session(&two, "xhr_send", &subscribe.to_string()).status, 204);
    let succeeded = session(&two, "xhr", "").body;
    assert!(succeeded.contains("subscription_succeeded"), "{succeeded}");

    // One that waits, and one that comes later.
    let mut waiting = connect(two.addr);
    let head =
        format!("POST /pusher/app/{KEY}/7/abcdefgh/xhr?protocol=7 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    waiting.write_all(head.as_bytes()).expect("the request is sent");
    thread::sleep(Duration::from_millis(300));
    one.signal("KILL");
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    while !String::from_utf8_lossy(&answer).contains("c[4200,") {
        let n = waiting.read(&mut part).expect("an answer in time");
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..n]);
    }
    let later = session(&two, "xhr", "").body;
    assert!(later.starts_with("c[4200,"), "{later}");
    assert_eq!(session(&two, "xhr_send", &subscribe.to_string()).status, 404);
}
