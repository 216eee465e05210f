//! A Redis server that comes back without its data: every subscriber of its channels is told that something may be missing, each in
//! its own way, once, and goes on.

use serde_json::json;

use crate::support::redis::Redis;
use crate::support::{Reader, Server, Socket, TRANSPORTS, Transport, eventually, one_app, request};

fn node(redis: &Redis) -> Server {
    Server::start(&format!("{}\n[redis]\nservers = [\"{}\"]\n", one_app(""), redis.url()))
}

/// Publishes as soon as the server is back.
fn publish_again(server: &Server, data: &str) {
    let body = json!({"name": "said", "channels": ["room"], "data": data});
    eventually("it can be published again", || server.post("/events", &body).status == 200);
}

/// Reads until a gap was told; everything before it was published before it.
fn expect_gap(reader: &mut Reader, transport: Transport) {
    let message = reader.next();
    assert_eq!((&message["event"], &message["channel"]), (&json!("fanfare:gap"), &json!("room")), "{transport:?}");
    assert!(message["cursor"].is_string(), "{transport:?}: {message}");
}

#[test]
fn everybody_is_told_of_data_that_was_lost() {
    let mut redis = Redis::standalone();
    let server = node(&redis);
    let mut readers = TRANSPORTS.map(|transport| Reader::open(&server, transport, "room"));
    let mut positioned = server.connect_to("/app/fanfare-key?protocol=7&positions=1");
    positioned.say("pusher:subscribe", json!({"channel": "room"}));
    positioned.expect_event("pusher_internal:subscription_succeeded");
    let mut stock: Vec<Socket> = (0..3).map(|_| server.connect()).collect();
    stock.iter_mut().for_each(|socket| socket.subscribe("room"));
    let mut elsewhere = server.connect();

    server.publish("room", "said", "before");
    for reader in &mut readers {
        assert_eq!(reader.data(), "before");
    }
    assert_eq!(positioned.recv()["data"], "before");
    stock.iter_mut().for_each(|socket| assert_eq!(socket.recv()["data"], "before"));

    redis.restart_empty();
    publish_again(&server, "after");

    for (reader, transport) in readers.iter_mut().zip(TRANSPORTS) {
        // A poller that waited is answered; the one that rested reads what its cursor is good for.
        if transport == Transport::LongPoll {
            continue;
        }
        expect_gap(reader, transport);
        assert_eq!(reader.data(), "after", "{transport:?}: it goes on, and is told once");
    }
    let gap = positioned.recv();
    assert_eq!((&gap["event"], &gap["channel"]), (&json!("fanfare:gap"), &json!("room")), "{gap}");
    assert!(gap["cursor"].is_string(), "{gap}");
    assert_eq!(positioned.recv()["data"], "after");
    for mut socket in stock {
        let mut last = socket.ws.frame();
        while last.as_ref().is_some_and(|frame| frame.close_code().is_none()) {
            last = socket.ws.frame();
        }
        assert_eq!(last.and_then(|frame| frame.close_code()), Some(4200), "a stock client has to come back");
    }
    elsewhere.settle();
    assert_eq!(server.metric("fanfare_connections_closed_total{reason=\"gap\"}"), 3.0);
    assert_eq!(server.metric("fanfare_gaps_total"), 1.0, "one channel, however many are told");
    assert!(server.metric("fanfare_redis_fences_total") >= 2.0);
}

#[test]
fn pollers_are_told_whether_they_wait_or_not() {
    let mut redis = Redis::standalone();
    let server = node(&redis);
    let poll = |query: &str| {
        let target = format!("/sub/fanfare-key/room?format=json&{query}");
        request(server.addr, "GET", &target, &[], "")
    };
    server.publish("room", "said", "before");
    // Not from a poll: whoever polled counts as a subscriber for a while.
    let channel = || server.get("/channels/room", &[("info", "subscription_count,position")]).json();
    let cursor = channel()["position"]["cursor"].as_str().expect("a cursor").to_owned();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| poll(&format!("transport=longpoll&wait=30&since={cursor}")));
        eventually("it is there", || channel()["subscription_count"] == 1);
        // What it asked for together with its place has been answered before this is.
        channel();
        redis.restart_empty();
        let answer = waiting.join().expect("it was answered").json();
        assert_eq!(answer["recovered"], false, "{answer}");
        assert_eq!(answer["messages"][0]["event"], "fanfare:gap", "{answer}");
        let next = answer["cursor"].as_str().expect("where to go on").to_owned();

        publish_again(&server, "after");
        let answer = poll(&format!("transport=poll&since={cursor}")).json();
        assert_eq!(answer["recovered"], false, "whoever did not wait: {answer}");
        let answer = poll(&format!("transport=poll&since={next}")).json();
        assert_eq!((&answer["recovered"], &answer["messages"][0]["data"]), (&json!(true), &json!("after")), "{answer}");
    });
}

#[test]
fn a_node_that_cannot_reach_redis_says_so_and_keeps_its_connections() {
    let redis = Redis::standalone();
    let server =
        Server::start(&format!("{}\n[redis]\nservers = [\"{}\"]\n", one_app("client_events = true"), redis.url()));
    let mut socket = server.connect();
    socket.subscribe("room");
    socket.join("presence-room", r#"{"user_id":"ann"}"#);
    assert_eq!(server.admin_get("/readyz").status, 200);

    redis.stop();
    eventually("newcomers are sent elsewhere", || server.admin_get("/readyz").status == 503);
    let body = json!({"name": "said", "channels": ["room"], "data": "x"});
    let refused = server.post("/events", &body);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    let refused =
        request(server.addr, "POST", "/pub/fanfare-key/room", &[("Authorization", "Bearer fanfare-secret")], "x");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    socket.say_on("presence-room", "client-said", json!("x"));
    let rejected = socket.expect_error();
    assert!(rejected["message"].as_str().is_some_and(|message| message.contains("try again later")), "{rejected}");
    socket.settle();
    // Who comes now waits: no client would subscribe again after a refusal.
    let mut late = server.connect();
    late.say("pusher:subscribe", json!({"channel": "other"}));
    late.settle();

    redis.cont();
    late.expect_subscribed("other");
    eventually("newcomers are welcome", || server.admin_get("/readyz").status == 200);
    publish_again(&server, "back");
    while socket.recv()["data"] != "back" {}
}
