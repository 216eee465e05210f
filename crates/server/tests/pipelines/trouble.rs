//! What must not hold up a queue, and what must wait without harm.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{CHANNELS, Comments, ROUTE, comment, config};
use crate::support::proxy::Proxy;
use crate::support::{KEY, Reader, SECRET, Server, Transport, eventually, inner, one_app};

/// What the queue has counted.
fn totals(server: &Server) -> Value {
    server.comments("GET", "", &Value::Null).json()["totals"].clone()
}

#[test]
fn poison_and_bombs_are_parked_while_others_flow() {
    let stages = format!(
        r#"{{ stage = "template", name = "bomb", field = "made", template = "{{% if kind == 'edit' %}}{{% for x in list %}}{{% for y in list %}}{{{{ y }}}}{{% endfor %}}{{% endfor %}}{{% endif %}}{{{{ n }}}}" }},
           {{ stage = "condition", name = "nested", where = "kind != 'delete' || list.all(x, x == 1)" }}, {ROUTE}"#
    );
    let server = Server::start(&config(&stages, CHANNELS));
    let mut socket = server.connect();
    socket.subscribe("thread.2");
    let data = |n: usize, list: usize| json!({ "forum": 1, "thread": 2, "n": n, "list": vec![1; list] });
    let bomb = |n: usize| match n % 10 {
        3 => json!({ "kind": "edit", "data": data(n, 20_000) }),
        5 => json!({ "data": "not JSON" }),
        7 => json!({ "kind": "delete", "data": data(n, 20_000) }),
        _ => json!({ "data": data(n, 0) }),
    };
    server.put((0..100).map(bomb));
    let mut heard: Vec<u64> =
        (0..70).map(|_| inner(&socket.expect_event("create"))["n"].as_u64().expect("a number")).collect();
    heard.sort_unstable();
    assert!(heard.into_iter().eq((0..100).filter(|n| ![3, 5, 7].contains(&(n % 10)))));
    eventually("the rest is stalled", || server.count("stalled") == 30);
    let params = [("state", "stalled"), ("limit", "100")];
    let stalled = server.signed("GET", "/apps/1/queues/comments/jobs", &params, "").json();
    let reasons: Vec<&str> =
        stalled["jobs"].as_array().expect("a list").iter().map(|job| job["reason"].as_str().expect("text")).collect();
    for stage in ["comments/bomb", "comments/1.json", "comments/nested"] {
        let count = reasons.iter().filter(|reason| reason.starts_with(stage)).count();
        assert_eq!(count, 10, "{stage}: {reasons:?}");
    }
}

#[test]
fn an_edge_that_hangs_and_then_is_down_is_waited_for_in_order() {
    let edge = Server::start(&one_app(""));
    let between = Proxy::to(edge.addr);
    let sink = format!(
        "{{ sink = \"pusher\", urls = [\"http://{}\"], timeout_ms = 300, app = \"1\", key = \"{KEY}\", secret = \"edge\" }}",
        between.addr
    );
    let route = "{ stage = \"route\", channels = [\"thread.{{ thread }}\"] }";
    let bounds = "name = \"comments\"\nattempts_max = 1\njobs_max = 60\nlease_s = 4\n";
    let config = config(route, &sink).replacen("name = \"comments\"\n", bounds, 1)
        + &format!("\n[ingest.keys]\nedge = \"{SECRET}\"");
    let server = Server::start(&config);
    let mut socket = edge.connect();
    (0..3).for_each(|thread| socket.subscribe(&format!("thread.{thread}")));
    let job = |n: usize| json!({ "key": format!("{}", n % 3), "data": { "thread": n % 3, "n": n } });

    between.stall_both();
    server.put((0..30).map(job));
    let is_open = || {
        let metrics = server.admin_get("/metrics").body;
        metrics.lines().any(|line| line.starts_with("fanfare_pipeline_circuit_open") && line.ends_with(" 1"))
    };
    eventually("the edge is left alone", is_open);
    between.refuse();
    server.put((30..60).map(job));
    let full = server.comments("POST", "/jobs", &json!({ "jobs": [job(60)] }));
    assert_eq!((full.status, full.header("retry-after").is_some()), (503, true), "{full:?}");
    // Longer than a lease: the jobs under way keep theirs.
    thread::sleep(Duration::from_millis(4500));
    assert_eq!((server.count("claimed"), server.count("waiting")), (3, 57), "one of each key");

    between.pass();
    let mut next = [0, 1, 2];
    for _ in 0..60 {
        let n = inner(&socket.expect_event("create"))["n"].as_u64().expect("a number") as usize;
        assert_eq!(n, next[n % 3], "what was sent twice is heard once, and in order");
        next[n % 3] += 3;
    }
    eventually("all are finished", || server.count("finished") == 60);
    let totals = totals(&server);
    assert_eq!((&totals["failed"], &totals["claimed"]), (&json!(0), &json!(60)), "no attempt was used up");
}

#[test]
fn a_second_signal_does_not_wait_for_a_sink_that_hangs() {
    let edge = Server::start(&one_app(""));
    let between = Proxy::to(edge.addr);
    between.stall_both();
    let sink = format!("{{ sink = \"http\", urls = [\"http://{}\"], timeout_ms = 60000 }}", between.addr);
    let mut server = Server::start(&format!("drain_s = 60\n{}", config(ROUTE, &sink)));
    server.put([comment(1)]);
    eventually("it is under way", || server.count("claimed") == 1);
    server.signal("TERM");
    eventually("it is stopping", || server.log().contains("stopping"));
    let begin = Instant::now();
    server.signal("TERM");
    server.wait();
    assert!(begin.elapsed() < Duration::from_secs(4), "it waited for {:?}", begin.elapsed());
}

#[test]
fn reloads_under_load_lose_and_repeat_nothing() {
    let of = |version: usize| {
        let set = format!(
            "{{ stage = \"set\", fields = {{ version = {version} }} }}, {{ stage = \"delay\", ms = 20 }}, {ROUTE}"
        );
        config(&set, CHANNELS) + &format!("\n[[apps.history]]\nchannels = \"*\"\nmessages = {}", 5000 + version)
    };
    let server = Server::start(&of(0));
    let mut feed = Reader::with(&server, Transport::Stream, "thread.2", "");
    let over = AtomicBool::new(false);
    let put = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut put = 0;
            while !over.load(Ordering::Relaxed) {
                // Of many keys, so that many are under way.
                let keyed = |n: usize| json!({ "key": n.to_string(), "data": comment(n)["data"] });
                server.put((put..put + 5).map(keyed));
                put += 5;
            }
            put
        });
        (1..=8).for_each(|version| server.reload(&of(version)));
        over.store(true, Ordering::Relaxed);
        producer.join().expect("every put is taken")
    });
    let mut heard: Vec<usize> = (0..put)
        .map(|_| serde_json::from_str::<Value>(&feed.data()).expect("JSON")["n"].as_u64().expect("a number") as usize)
        .collect();
    heard.sort_unstable();
    assert!(heard.into_iter().eq(0..put));
    eventually("all are finished", || server.count("finished") as usize == put);
    let totals = totals(&server);
    assert_eq!((&totals["claimed"], &totals["failed"]), (&json!(put), &json!(0)), "each was done once");
}
