//! Queues that nodes share: jobs are put at any of them, and worked on by any that is there for it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::{KEY, Nodes, Response, SECRET, Server, eventually, inner, one_app};

const QUEUE: &str = "/apps/1/queues/comments";
const FINISHED: &str = "fanfare_pipeline_jobs_total{app=\"1\",queue=\"comments\",what=\"finished\"}";
pub(super) const SAFE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

pub(super) fn config(keys: &str) -> String {
    one_app(&format!("[[apps.queues]]\nname = \"comments\"\nlease_s = 2\n{keys}"))
}

pub(super) fn piped() -> String {
    config(
        "concurrency = 8\n[[apps.pipelines]]\nname = \"comments\"\nqueue = \"comments\"\n\
         stages = [{ stage = \"json\" }, { stage = \"route\", channels = [\"thread.{{ thread }}\"] }]\n\
         sinks = [{ sink = \"channels\" }]",
    )
}

pub(super) fn ask(node: &Server, method: &str, path: &str, body: &Value) -> Response {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    node.signed(method, &format!("{QUEUE}{path}"), &[], &body)
}

pub(super) fn put(node: &Server, jobs: Vec<Value>) -> Response {
    ask(node, "POST", "/jobs", &json!({ "jobs": jobs }))
}

pub(super) fn count(node: &Server, what: &str) -> u64 {
    ask(node, "GET", "", &Value::Null).json()[what].as_u64().expect("a number")
}

/// The `n`-th comment of one of five threads.
pub(super) fn comment(n: usize) -> Value {
    let thread = n % 5;
    json!({ "key": format!("thread:{thread}"), "data": { "thread": thread, "n": n } })
}

#[test]
fn a_worker_serves_nobody() {
    let redis = Redis::with(&SAFE);
    let shared = format!("{}\n[redis]\nservers = [\"{}\"]\n", piped(), redis.url());
    let worker = Server::start_with(&shared, &["--role", "worker"]);
    let bearer = format!("Bearer {SECRET}");
    let answers = [
        worker.post("/events", &json!({"name": "e", "channel": "room", "data": "x"})),
        put(&worker, vec![comment(0)]),
        worker.request("POST", &format!("/pub/{KEY}/room"), &[("Authorization", &bearer)], "x"),
        worker.request("GET", &format!("/sub/{KEY}/room?transport=poll"), &[], ""),
    ];
    for answer in answers {
        assert_eq!(answer.status, 421, "{answer:?}");
        assert!(answer.body.contains(r#"has the role \"worker\""#), "{answer:?}");
    }
    assert_eq!(worker.admin_get("/readyz").status, 200);
    assert_eq!(worker.admin_get("/metrics").status, 200);
}

#[test]
fn a_job_that_is_put_at_one_node_is_claimed_at_another() {
    let redis = Redis::with(&SAFE);
    let nodes = Nodes::start(&redis.url(), 2, &config(""));
    let waiting = std::thread::scope(|scope| {
        let claimed = scope.spawn(|| ask(nodes.node(1), "POST", "/claim", &json!({"wait_ms": 30_000})).json());
        assert_eq!(put(nodes.node(0), vec![json!({"key": "k", "data": {"n": 1}})]).status, 202);
        claimed.join().expect("it is answered")
    });
    let job = &waiting["jobs"][0];
    assert_eq!((&job["key"], &job["data"]), (&json!("k"), &json!(r#"{"n":1}"#)), "{waiting}");
    let finish = format!("/jobs/{}/finish", job["id"]);
    assert_eq!(ask(nodes.node(0), "POST", &finish, &json!({"lease": job["lease"]})).status, 200);
    assert_eq!(ask(nodes.node(1), "POST", &finish, &json!({"lease": job["lease"]})).status, 409);
    assert_eq!(count(nodes.node(1), "finished"), 1);
}

#[test]
fn a_put_is_refused_where_redis_would_not_keep_it() {
    let redis = Redis::standalone();
    let nodes = Nodes::start(&redis.url(), 1, &config(""));
    let refused = put(nodes.node(0), vec![comment(0)]);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("appendonly yes") && refused.body.contains("appendfsync always"), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(nodes.node(0).admin_get("/readyz").status, 200, "another node would do no better");
    let careless = Nodes::start(&redis.url(), 1, &config("durability = \"memory\""));
    assert_eq!(put(careless.node(0), vec![comment(0)]).status, 202);
}

#[test]
fn jobs_wait_while_redis_is_away() {
    let mut redis = Redis::with(&SAFE);
    let nodes = Nodes::start(&redis.url(), 1, &config(""));
    assert_eq!(put(nodes.node(0), vec![comment(0)]).status, 202);
    redis.kill();
    eventually("puts are refused", || {
        let refused = put(nodes.node(0), vec![comment(1)]);
        refused.status == 503 && refused.header("retry-after").is_some()
    });
    redis.restart();
    eventually("puts are taken again", || put(nodes.node(0), vec![comment(2)]).status == 202);
    let claimed = ask(nodes.node(0), "POST", "/claim", &json!({"jobs": 10})).json();
    assert_eq!(claimed["jobs"][0]["key"], "thread:0", "{claimed}");
}

#[test]
fn a_worker_that_is_stopped_leaves_its_jobs_to_the_other_at_once_and_in_the_same_attempt() {
    let redis = Redis::with(&SAFE);
    let slow = piped().replace("{ stage = \"route\"", "{ stage = \"delay\", ms = 600000 }, { stage = \"route\"");
    // Longer than the test: nothing comes back because a lease ends.
    let slow = slow.replace("lease_s = 2", "lease_s = 3600\nattempts_max = 1");
    let mut nodes = Nodes::start(&redis.url(), 0, "");
    let api = nodes.add(&redis.url(), &slow, &["--role", "api"]);
    assert_eq!(put(nodes.node(api), (0..5).map(comment).collect()).status, 202);
    let first = nodes.add(&redis.url(), &slow, &["--role", "worker"]);
    eventually("all are claimed", || count(nodes.node(api), "claimed") == 5);
    let second = nodes.add(&redis.url(), &slow, &["--role", "worker"]);
    nodes.terminate(first);
    let claimed = FINISHED.replace("finished", "claimed");
    eventually("the other has them all", || nodes.node(second).metric(&claimed) == 5.0);
    let totals = &ask(nodes.node(api), "GET", "", &Value::Null).json()["totals"];
    assert_eq!((&totals["failed"], &totals["stalled"], &totals["released"]), (&json!(0), &json!(0), &json!(5)));
}

/// Also those that the dead one had: their leases end. Whoever takes them over publishes under the same names, so that nothing
/// is seen twice.
#[test]
fn workers_share_a_queue_and_one_that_is_killed_leaves_its_jobs_to_the_other() {
    const JOBS: usize = 600;
    let redis = Redis::with(&SAFE);
    let mut nodes = Nodes::start(&redis.url(), 0, "");
    let api = nodes.add(&redis.url(), &piped(), &["--role", "api"]);
    let edge = nodes.add(&redis.url(), &piped(), &["--role", "edge"]);
    let mut socket = nodes.node(edge).connect();
    (0..5).for_each(|thread| socket.subscribe(&format!("thread.{thread}")));
    assert_eq!(put(nodes.node(api), vec![comment(0)]).status, 202);
    assert_eq!(count(nodes.node(api), "waiting"), 1, "an API node runs no pipelines");
    let workers: Vec<usize> = (0..2).map(|_| nodes.add(&redis.url(), &piped(), &["--role", "worker"])).collect();
    for batch in 0..20 {
        let jobs = (1 + batch * JOBS / 20..=(batch + 1) * JOBS / 20).map(comment).collect();
        assert_eq!(put(nodes.node(api), jobs).status, 202);
        if batch == 8 {
            let finished = |worker: usize| nodes.node(worker).metric(FINISHED) > 0.0;
            eventually("both have worked", || workers.iter().all(|&worker| finished(worker)));
            nodes.kill(workers[0]);
        }
    }
    eventually("all is finished", || count(nodes.node(api), "finished") == JOBS as u64 + 1);
    let mut seen: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for _ in 0..=JOBS {
        let comment = inner(&socket.expect_event("create"));
        let [thread, n] = ["thread", "n"].map(|field| comment[field].as_u64().expect("a number"));
        seen.entry(thread).or_default().push(n);
    }
    socket.expect_nothing();
    for (thread, numbers) in seen {
        assert!(numbers.iter().copied().eq((thread..=JOBS as u64).step_by(5)), "{thread}: {numbers:?}");
    }
}
