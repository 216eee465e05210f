//! A server whose machine's clock is set while it runs: an hour on, an hour back, and right again.
//!
//! libfaketime answers the server's questions for the wall clock, and leaves the monotonic one alone, as setting a clock does.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Body, KEY, Response, SECRET, Server, Wire, eventually, now_s, one_app, signed_token};

/// The dynamic linker knows the folder of the machine's libraries.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketime.so.1";
const HOUR_S: i64 = 3600;
/// The clock's ways, each from where it was.
const JUMPS: [i64; 3] = [HOUR_S, -HOUR_S, 0];
/// Longer than any test.
const LONG_MS: u64 = 600_000;
const SHORT_MS: u64 = 400;

/// A server, and the clock of its machine.
struct Machine {
    server: Server,
    folder: tempfile::TempDir,
    ahead_s: i64,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Ended in good order, the library takes what it shares with its children out of /dev/shm.
        if !std::thread::panicking() {
            self.server.signal("TERM");
            self.server.wait();
        }
    }
}

impl Machine {
    /// Starts with a clock that is so far ahead.
    fn start(ahead_s: i64, config: &str) -> Machine {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("ahead");
        fs::write(&file, format!("{ahead_s:+}")).expect("it is written");
        let environment = [
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("UTF-8")),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let machine = Machine { server: Server::start_in(config, &environment), folder, ahead_s };
        machine.check();
        machine
    }

    fn set(&mut self, ahead_s: i64) {
        let unfinished = self.folder.path().join("unfinished");
        fs::write(&unfinished, format!("{ahead_s:+}")).expect("it is written");
        fs::rename(unfinished, self.folder.path().join("ahead")).expect("it gets its name");
        self.ahead_s = ahead_s;
        self.check();
    }

    /// That the server has this clock: it judges signatures by it.
    fn check(&self) {
        eventually("the server has its clock", || self.signed("GET", "/apps/1/queues", "").status == 200);
    }

    fn now_s(&self) -> u64 {
        now_s().strict_add_signed(self.ahead_s)
    }

    fn now_ms(&self) -> u64 {
        self.now_s() * 1000
    }

    fn signed(&self, method: &str, path: &str, body: &str) -> Response {
        self.server.signed_at(self.now_s(), method, path, &[], body)
    }

    /// A request about the queue, that must succeed.
    fn mail(&self, path: &str, body: Value) -> Value {
        let response = self.signed("POST", &format!("/apps/1/queues/mail{path}"), &body.to_string());
        assert!(matches!(response.status, 200 | 202), "{path}: {response:?}");
        response.json()
    }

    fn put(&self, job: Value) -> Value {
        self.mail("/jobs", json!({ "jobs": [job] }))["ids"][0].clone()
    }

    fn claim(&self, lease_ms: u64, wait_ms: u64) -> Vec<Value> {
        let ask = json!({"jobs": 9, "lease_ms": lease_ms, "wait_ms": wait_ms});
        self.mail("/claim", ask)["jobs"].as_array().expect("a list").clone()
    }

    #[track_caller]
    fn claim_one(&self, lease_ms: u64, wait_ms: u64) -> Value {
        let mut jobs = self.claim(lease_ms, wait_ms);
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs.remove(0)
    }

    fn about(&self, job: &Value, verb: &str, mut more: Value) -> Value {
        more["lease"] = job["lease"].clone();
        self.mail(&format!("/jobs/{}/{verb}", job["id"]), more)
    }

    fn counts(&self) -> Value {
        self.signed("GET", "/apps/1/queues/mail", "").json()
    }

    fn publish(&self, data: &str) {
        let event = json!({"name": "said", "channels": ["room"], "data": data});
        let response = self.signed("POST", "/apps/1/events", &event.to_string());
        assert_eq!(response.status, 200, "{response:?}");
    }
}

fn app(more: &str) -> String {
    format!("data_dir = \"data\"\ndrain_s = 0\n{}{more}", one_app("[[apps.queues]]\nname = \"mail\"\nattempts_max = 9"))
}

#[test]
fn no_lease_and_no_delay_ends_early_or_late() {
    let mut machine = Machine::start(0, &app(""));
    for (n, ahead_s) in JUMPS.into_iter().enumerate() {
        machine.put(json!({"data": "claimed before"}));
        let claimed = machine.claim_one(LONG_MS, 0);
        let delayed = machine.put(json!({"data": "delayed before", "not_before_ms": machine.now_ms() + LONG_MS}));

        machine.set(ahead_s);
        assert_eq!(machine.claim(LONG_MS, 0), [] as [Value; 0], "nothing is due");
        let until_ms = machine.about(&claimed, "extend", json!({"lease_ms": LONG_MS}))["until_ms"].as_u64();
        let left_ms = until_ms.expect("a time").strict_sub(machine.now_ms());
        assert!(left_ms.abs_diff(LONG_MS) < LONG_MS / 2, "it ends in {left_ms} ms");

        // What is said now is by the clock of now.
        let asked_at = Instant::now();
        machine.put(json!({"data": "delayed now", "not_before_ms": machine.now_ms() + 1000 + SHORT_MS}));
        let short = machine.claim_one(SHORT_MS, 30_000);
        assert!(asked_at.elapsed() >= Duration::from_millis(SHORT_MS), "too early");
        let again = machine.claim_one(LONG_MS, 30_000);
        assert_eq!((&again["id"], &again["attempt"]), (&short["id"], &json!(2)), "a lease that has ended, has");

        machine.about(&claimed, "finish", json!({}));
        machine.about(&again, "finish", json!({}));
        let counts = machine.counts();
        assert_eq!((&counts["delayed"], &counts["waiting"], &counts["claimed"]), (&json!(1), &json!(0), &json!(0)));
        let gone = machine.signed("DELETE", &format!("/apps/1/queues/mail/jobs/{delayed}"), "");
        assert_eq!(gone.status, 200, "{gone:?}");
        assert_eq!(counts["totals"]["finished"], json!(2 * (n + 1)), "each once");
    }
}

#[test]
fn jobs_outlive_a_restart_with_another_clock() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let config = app("").replace("\"data\"", &format!("{:?}", data.path().join("data")));
    let machine = Machine::start(0, &config);
    let waiting = machine.put(json!({"data": "waiting"}));
    let delayed = machine.put(json!({"data": "delayed", "not_before_ms": machine.now_ms() + LONG_MS}));
    drop(machine);

    let machine = Machine::start(-HOUR_S, &config);
    let job = machine.claim_one(LONG_MS, 0);
    assert_eq!(job["id"], waiting);
    machine.about(&job, "finish", json!({}));
    let delayed = machine.signed("GET", &format!("/apps/1/queues/mail/jobs/{delayed}"), "").json();
    let until_ms = delayed["until_ms"].as_u64().expect("a time");
    let left_ms = until_ms.strict_sub(machine.now_ms());
    assert!(left_ms < LONG_MS * 2, "it ends in {left_ms} ms");
}

#[test]
fn signatures_and_tokens_are_judged_by_the_clock_on_the_wall() {
    let mut machine = Machine::start(0, &app(""));
    let publish = |machine: &Machine, exp_s: u64| {
        let token = signed_token(KEY, SECRET, &json!({"publish": ["room"], "exp": exp_s}));
        let bearer = format!("Bearer {token}");
        machine.server.request("POST", "/pub/fanfare-key/room", &[("Authorization", &bearer)], "x").status
    };
    let (right_s, good_until_s) = (now_s(), now_s() + 1200);
    for ahead_s in JUMPS {
        machine.set(ahead_s);
        let signed = machine.server.signed_at(right_s, "GET", "/apps/1/queues", &[], "").status;
        assert_eq!(signed, if ahead_s == 0 { 200 } else { 401 });
        assert_eq!(publish(&machine, good_until_s), if ahead_s == HOUR_S { 401 } else { 202 });
        assert_eq!(publish(&machine, machine.now_s() + 600), 202);
    }
}

#[test]
fn histories_and_the_firehose_are_kept_for_their_time() {
    const MESSAGES: usize = 27;
    let firehose = "[apps.firehose]\nwindow_s = 600\nwindow_bytes = 1048576\ntokens = [{ name = \"all\", token = \"token-of-all-that-is\" }]\n";
    // It goes back before anything is published, and once more.
    let mut machine = Machine::start(HOUR_S, &app(firehose));
    let begins: Value = serde_json::from_str(part(&mut tap(&machine, "")).trim()).expect("a line of JSON");
    let begin = begins["cursor"].as_str().expect("a cursor").to_owned();
    // Enough for several pieces, of which the old ones are let go of.
    let data = |n: usize| format!("{n:03}{}", ".".repeat(9_000));
    for (part, ahead_s) in [0, -HOUR_S, HOUR_S].into_iter().enumerate() {
        machine.set(ahead_s);
        (0..MESSAGES / 3).for_each(|n| machine.publish(&data(part * MESSAGES / 3 + n)));
    }
    let history = machine.signed("GET", "/apps/1/channels/room/history", "").json();
    let kept = history["publications"].as_array().expect("a list").len();
    assert_eq!(kept, MESSAGES, "of the history");

    let (mut body, mut text) = (tap(&machine, &format!("since={begin}")), String::new());
    let expected: Vec<String> = (0..MESSAGES).map(|n| format!("\"data\":\"{n:03}..")).collect();
    eventually("all of it is in the firehose", || {
        text += &part(&mut body);
        expected.iter().all(|message| text.contains(message.as_str()))
    });
}

fn tap(machine: &Machine, query: &str) -> Body {
    let mut wire = Wire::to(machine.server.addr);
    let bearer = [("Authorization", "Bearer token-of-all-that-is")];
    wire.get(&format!("/firehose/{KEY}?{query}"), &bearer);
    let head = wire.head();
    assert_eq!(head.status, 200, "{head:?}");
    wire.body(&head)
}

fn part(body: &mut Body) -> String {
    String::from_utf8(body.part().expect("it goes on")).expect("UTF-8")
}
