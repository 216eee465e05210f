//! A firehose that nodes share: what is published at any of them is read at any of them, and acknowledged at any.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::tap::{self, Tap, text};
use crate::support::{KEY, Nodes, Response, SECRET, Server, eventually, one_app};

const SAFE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const APPENDED: &str = "fanfare_firehose_appended_total{app=\"1\"}";

fn config(keys: &str) -> String {
    let app = one_app(
        "client_events = true\n[[apps.queues]]\nname = \"comments\"\n\
         [[apps.pipelines]]\nname = \"comments\"\nqueue = \"comments\"\nsinks = [{ sink = \"channels\" }]\n\
         stages = [{ stage = \"json\" }, { stage = \"route\", channels = [\"forum\"], event = \"{{kind}}\" }]",
    );
    let token = format!("{{ name = \"all\", token = \"{}\" }}", tap::TOKEN);
    format!("heartbeat_s = 1\n{app}[apps.firehose]\n{keys}\ntokens = [{token}]\n")
}

fn put(node: &Server, n: u32) -> Response {
    let job =
        json!({"jobs": [{"kind": "create", "key": "k", "idempotency_key": format!("job-{n}"), "data": {"n": n}}]});
    node.post("/queues/comments/jobs", &job)
}

/// Publishes it under a name.
fn say(node: &Server, n: u32) -> Response {
    let (bearer, name) = (format!("Bearer {SECRET}"), format!("say-{n}"));
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", &name)];
    node.request("POST", &format!("/pub/{KEY}/room"), &headers, &n.to_string())
}

fn is_taken(answer: &Response) -> bool {
    (200..300).contains(&answer.status)
}

fn appended(nodes: &Nodes) -> f64 {
    (0..2).map(|ix| nodes.node(ix).metric(APPENDED)).sum()
}

#[test]
fn what_is_published_at_one_node_is_read_at_another() {
    let redis = Redis::with(&SAFE);
    let nodes = Nodes::start(&redis.url(), 2, &config(""));
    let [here, there] = [nodes.node(0), nodes.node(1)];
    let mut tap = Tap::open(there, "");
    let mut socket = here.connect();
    socket.subscribe("private-room");

    here.publish("room", "said", "one");
    there.publish("room", "said", "two");
    let batch = json!({"batch": [{"channel": "room", "name": "said", "data": "three"}]});
    assert_eq!(here.post("/batch_events", &batch).status, 200);
    // Between clients: not the app's own.
    socket.send(r#"{"event":"client-typing","channel":"private-room","data":"no"}"#);
    // A repeat is known at whichever node it comes to.
    for node in [here, there, here] {
        assert!(is_taken(&say(node, 4)));
    }
    assert_eq!(tap.data(4), ["one", "two", "three", "4"]);
    assert_eq!(put(here, 5).status, 202);
    let five = tap.message();
    assert_eq!(
        (&five["channel"], &five["event"], &five["event_id"]),
        (&json!("forum"), &json!("create"), &json!("job-5"))
    );
    here.publish("room", "said", "six");
    assert_eq!(tap.data(1), ["six"]);
    assert_eq!(appended(&nodes), 6.0);
    // From the cursor of one node at the other.
    let mut again = Tap::open(here, &format!("since={}", tap.cursor()));
    assert_eq!(again.begins["recovered"], true);
    assert_eq!(again.data(4), ["one", "two", "three", "4"]);
}

#[test]
fn a_consumer_goes_on_at_another_node_behind_what_it_acknowledged() {
    let redis = Redis::with(&SAFE);
    let mut nodes = Nodes::start(&redis.url(), 2, &config(""));
    let mut tap = Tap::open(nodes.node(1), "consumer=shop&unacked_max=4");
    (0..10).for_each(|n| nodes.node(n % 2).publish("room", "said", &n.to_string()));
    let heard: Vec<Value> = (0..4).map(|_| tap.message()).collect();
    // Acknowledged at the node that it is not connected to, which the other hears of: more is sent.
    assert_eq!(tap::ack(nodes.node(0), "shop", &text(&heard[2]["cursor"])).status, 200);
    assert_eq!(tap.data(3), ["4", "5", "6"]);
    nodes.kill(1);
    drop(tap);

    let mut tap = Tap::open(nodes.node(0), "consumer=shop");
    assert_eq!(tap.begins["recovered"], true);
    assert_eq!(tap.data(7), ["3", "4", "5", "6", "7", "8", "9"]);
    nodes.restart(1);
    // The newer connection takes over, wherever it is.
    let mut newer = Tap::open(nodes.node(1), "consumer=shop");
    let closed = tap.next();
    assert_eq!(closed["reason"], "another connection has taken over", "{closed}");
    assert_eq!((tap.heard(), newer.data(1)), (None, vec!["3".to_owned()]));
}

/// As a replica may that takes over: nobody else has come, and nobody is sent away.
#[test]
fn a_consumer_keeps_its_seat_where_redis_forgets_that_it_came() {
    let redis = Redis::with(&SAFE);
    let nodes = Nodes::start(&redis.url(), 2, &config(""));
    let mut tap = Tap::open(nodes.node(0), "consumer=shop");
    let seats = redis.ask(&["KEYS", "*:seats"]).array()[0].text();
    let seat = || redis.ask(&["HGET", &seats, "all/shop"]).text();
    let taken = seat();
    for forgotten in [["HSET", &seats, "all/shop", "1"].as_slice(), &["DEL", &seats]] {
        redis.ask(forgotten);
        eventually("it is there again", || seat() == taken);
    }
    nodes.node(1).publish("room", "said", "one");
    assert_eq!(tap.data(1), ["one"]);
    Tap::open(nodes.node(1), "consumer=shop");
    assert_eq!(tap.next()["reason"], "another connection has taken over");
}

#[test]
fn what_was_published_while_redis_went_away_and_came_back_is_there_once() {
    let mut redis = Redis::with(&SAFE);
    let nodes = Nodes::start(&redis.url(), 2, &config(""));
    let cursor = Tap::open(nodes.node(0), "").cursor();
    let mut tap = Tap::open(nodes.node(1), "");
    for n in 0..20 {
        if n == 10 {
            redis.kill();
            eventually("publishers are refused", || say(nodes.node(0), n).status == 503);
            redis.restart();
        }
        // Here or there, until it is taken.
        let mut at = n as usize;
        eventually("it is taken", || {
            at += 1;
            is_taken(&say(nodes.node(at % 2), n))
        });
    }
    for mut tap in
        [Tap::open(nodes.node(0), &format!("since={cursor}")), Tap::open(nodes.node(1), &format!("since={cursor}"))]
    {
        assert_eq!(tap.begins["recovered"], true);
        let mut there = BTreeMap::new();
        (0..20).for_each(|_| *there.entry(text(&tap.message()["data"])).or_insert(0) += 1);
        assert!(there.len() == 20 && there.values().all(|times| *times == 1), "{there:?}");
    }
    // Whoever was there all the time was either told to come back, or has gone on.
    loop {
        let line = tap.heard().expect("a connection does not just end");
        if line["data"] == "19" || line["event"] == "fanfare:closed" {
            assert_ne!(line["reconnect"], false, "{line}");
            break;
        }
    }
}

#[test]
fn what_redis_would_not_keep_is_refused_and_can_be_had_in_memory() {
    let redis = Redis::standalone();
    let nodes = Nodes::start(&redis.url(), 1, &config(""));
    let refused = say(nodes.node(0), 1);
    assert!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused:?}");
    eventually("somebody is told", || nodes.node(0).log().contains("appendonly yes, appendfsync always"));
    // Once it does, a repeat adds what is missing, and is delivered no second time.
    redis.config("appendonly", "yes");
    redis.config("appendfsync", "always");
    eventually("it is taken", || is_taken(&say(nodes.node(0), 1)));
    assert_eq!(Tap::open(nodes.node(0), "backfill=10").data(1), ["1"]);
    assert_eq!(nodes.node(0).metric(APPENDED), 1.0);

    let redis = Redis::standalone();
    let careless = Nodes::start(&redis.url(), 2, &config("durability = \"memory\""));
    let mut tap = Tap::open(careless.node(1), "");
    assert!(is_taken(&say(careless.node(0), 1)));
    assert_eq!(tap.data(1), ["1"]);
    // What is lost is told, at whichever node.
    redis.flush();
    let closed = loop {
        match tap.heard() {
            Some(line) if line["event"] == "fanfare:cursor" => {}
            line => break line.expect("it is told"),
        }
    };
    assert_eq!((&closed["event"], &closed["reconnect"]), (&json!("fanfare:closed"), &json!(true)));
    let late = Tap::open(careless.node(0), &format!("since={}", tap.cursor()));
    assert_eq!(late.begins["recovered"], false);
}
