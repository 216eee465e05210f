//! One server, killed again and again under producers, pipelines and readers who carry on: acknowledged jobs are finished,
//! once, and what they publish is heard once.
//!
//! `FANFARE_KILLS` says how often; without it, 20 times the scale.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::dice::Dice;
use super::show::{announce, variable};
use crate::support::{APP_ID, KEY, SECRET, Server, eventually, one_app, try_post};

const KILLS: usize = 20;
const QUEUE: &str = "/apps/1/queues/comments";

/// Each has threads of its own, so that it knows their order.
const PRODUCERS: usize = 4;
const THREADS: usize = 8;
const FORUMS: usize = 2;
/// Jobs of one put.
const BATCH: usize = 3;

fn config() -> String {
    one_app(
        r#"
[[apps.history]]
channels = "*"
messages = 5000
bytes = 16777216
seconds = 600

[[apps.queues]]
name = "comments"
attempts_max = 1000
finished_kept_s = 86400
finished_kept_max = 1000000

[[apps.pipelines]]
name = "comments"
queue = "comments"
stages = [
  { stage = "json" },
  { stage = "sanitise", fields = ["text"] },
  { stage = "template", field = "title", template = "{{ text }} in {{ thread }}" },
  { stage = "route", channels = ["forum.{{ forum }}", "thread.{{ thread }}", "user.{{ n % 5 }}", "post.{{ n }}"] },
]
sinks = [{ sink = "channels" }]

# Holds each job for a while after it has been published, so that most kills find some.
[[apps.pipelines]]
name = "slow"
queue = "comments"
stages = [{ stage = "delay", ms = 100 }]
sinks = [{ sink = "null" }]
"#,
    )
}

/// The answer, if the server lives long enough to give it.
fn post(to: SocketAddr, path: &str, body: &Value) -> Option<(u16, Value)> {
    try_post(to, &format!("{QUEUE}{path}"), body)
}

/// Puts jobs until it is over. An even one gives its jobs names, and puts again what was not answered; an odd one does not, and
/// does not know what has become of those.
fn produce(number: usize, to: SocketAddr, over: &AtomicBool, acknowledged: &Mutex<BTreeSet<u64>>) {
    let mut unanswered: Option<Value> = None;
    for batch in 0.. {
        if over.load(Ordering::Relaxed) && unanswered.is_none() {
            return;
        }
        let again = unanswered.take();
        let jobs = again.clone().unwrap_or_else(|| {
            let job = |at| job(number, (batch * BATCH + at) * PRODUCERS + number);
            json!({ "jobs": (0..BATCH).map(job).collect::<Vec<_>>() })
        });
        match post(to, "/jobs", &jobs) {
            Some((202, answer)) => {
                let ids = answer["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id"));
                acknowledged.lock().expect("nobody fails").extend(ids);
            }
            Some((status, answer)) => panic!("{status}: {answer}"),
            None if number.is_multiple_of(2) => unanswered = Some(jobs),
            None => {}
        }
        thread::sleep(Duration::from_millis(300));
    }
}

fn job(producer: usize, n: usize) -> Value {
    let thread = producer + PRODUCERS * (n / PRODUCERS % (THREADS / PRODUCERS));
    let data = json!({ "n": n, "thread": thread, "forum": thread % FORUMS, "text": format!("<b>{n}</b><script>") });
    let mut job = json!({ "key": format!("thread:{thread}"), "data": data });
    if producer.is_multiple_of(2) {
        job["idempotency_key"] = json!(format!("comment-{n}"));
    }
    job
}

/// What is said of finished jobs, by their ids.
fn finished(server: &Server) -> BTreeMap<u64, Value> {
    let (mut jobs, mut cursor) = (BTreeMap::new(), Value::Null);
    loop {
        let mut params = vec![("limit", "1000"), ("state", "finished")];
        params.extend(cursor.as_str().map(|cursor| ("cursor", cursor)));
        let page = server.signed("GET", &format!("{QUEUE}/jobs"), &params, "").json();
        for job in page["jobs"].as_array().expect("a list") {
            let data = serde_json::from_str(job["data"].as_str().expect("text")).expect("JSON");
            assert!(jobs.insert(job["id"].as_u64().expect("an id"), data).is_none(), "listed twice: {job}");
        }
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return jobs;
        }
    }
}

/// `fanfare.js` on all transports, which comes back after every kill.
fn readers(server: &Server) -> Child {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients");
    assert!(clients.join("node_modules").exists(), "run `cargo xtask setup` first");
    let mut command = Command::new("node");
    command
        .arg("fanfare-kills.mjs")
        .current_dir(clients)
        .env("FANFARE_HOST", server.addr.ip().to_string())
        .env("FANFARE_PORT", server.addr.port().to_string())
        .env("FANFARE_APP_ID", APP_ID)
        .env("FANFARE_KEY", KEY)
        .env("FANFARE_SECRET", SECRET)
        .env("THREADS", THREADS.to_string())
        .env("FORUMS", FORUMS.to_string())
        // Node 20 has WebSockets, but only shows them when asked.
        .env("NODE_OPTIONS", "--experimental-websocket");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts")
}

#[test]
fn a_server_that_is_killed_loses_no_job_and_repeats_nothing() {
    let (seed, scale) = announce("kills");
    let kills = variable("FANFARE_KILLS").and_then(|text| text.parse().ok()).unwrap_or(scale.times(KILLS));
    let mut dice = Dice::new(seed);
    let data = tempfile::tempdir().expect("a temporary folder");
    let data = data.path().to_str().expect("a path in UTF-8");
    let start = |listen: &str| Server::start_on(&config(), &["--data-dir", data], listen);

    let mut server = start("127.0.0.1:0");
    let to = server.addr;
    let mut readers = readers(&server);
    let mut said = BufReader::new(readers.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok);
    assert_eq!(said.next().as_deref(), Some("subscribed"));

    let (over, acknowledged) = (AtomicBool::new(false), Mutex::default());
    thread::scope(|scope| {
        for number in 0..PRODUCERS {
            let (over, acknowledged) = (&over, &acknowledged);
            scope.spawn(move || produce(number, to, over, acknowledged));
        }
        for _ in 0..kills {
            // No wait for anything in particular: that is what a crash is like.
            thread::sleep(Duration::from_millis(50 + dice.below(1950) as u64));
            server.signal("KILL");
            server.wait();
            server = start(&to.to_string());
        }
        over.store(true, Ordering::Relaxed);
    });

    let queue = || server.signed("GET", QUEUE, &[], "").json();
    eventually("no job is left to do", || ["waiting", "delayed", "claimed"].iter().all(|state| queue()[state] == 0));
    let (queue, finished) = (queue(), finished(&server));
    let acknowledged = acknowledged.into_inner().expect("sound");
    println!("{kills} kills, {} jobs acknowledged, {} finished: {queue}", acknowledged.len(), finished.len());
    assert!(acknowledged.len() > kills, "too few jobs for a load");
    let lost: Vec<_> = acknowledged.iter().filter(|id| !finished.contains_key(id)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(queue["totals"]["claimed"].as_u64() > queue["totals"]["put"].as_u64(), "no kill found a job under way");
    // What was put was finished, and nothing else and nothing again.
    assert_eq!(queue["totals"]["put"], finished.len());
    assert_eq!(queue["totals"]["finished"], finished.len());
    let numbers: BTreeSet<u64> = finished.values().map(|data| data["n"].as_u64().expect("a number")).collect();
    assert_eq!(numbers.len(), finished.len(), "a repeated put made another job");

    let line = Value::from_iter(finished.into_values()).to_string() + "\n";
    readers.stdin.take().expect("stdin is piped").write_all(line.as_bytes()).expect("node reads it");
    said.for_each(|line| println!("{line}"));
    assert!(readers.wait().expect("node ends").success());
}
