//! Queues over HTTP and on the command line, and workers of every kind, against the real server.

mod support;

#[path = "jobs/command_line.rs"]
mod command_line;
#[path = "jobs/documented.rs"]
mod documented;
#[path = "jobs/durability.rs"]
mod durability;
#[path = "jobs/kills.rs"]
mod kills;
#[path = "jobs/lists.rs"]
mod lists;
#[path = "jobs/python.rs"]
mod python;
#[path = "jobs/refusals.rs"]
mod refusals;
#[path = "jobs/reloads.rs"]
mod reloads;
#[path = "jobs/verbs.rs"]
mod verbs;
#[path = "jobs/waiting.rs"]
mod waiting;

use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Response, Server, one_app};

/// Where the queue of these tests is.
const MAIL: &str = "/apps/1/queues/mail";

/// The app with a queue `mail`, which has these settings, kept in a folder of the server's own.
fn config(queue: &str) -> String {
    config_in(Path::new("data"), queue)
}

/// The same in this folder, which may be that of an earlier server.
fn config_in(folder: &Path, queue: &str) -> String {
    let queue = format!("[[apps.queues]]\nname = \"mail\"\n{queue}");
    format!("data_dir = \"{}\"\ndrain_s = 0\n{}", folder.display(), one_app(&queue))
}

fn server(queue: &str) -> Server {
    Server::start(&config(queue))
}

/// What tests say to the queue.
trait Mail {
    /// A signed request about the queue.
    fn mail(&self, method: &str, path: &str, body: &Value) -> Response;

    /// The same as a POST that must succeed.
    fn done(&self, path: &str, body: Value) -> Value {
        let response = self.mail("POST", path, &body);
        assert!(matches!(response.status, 200 | 202), "{path}: {response:?}");
        response.json()
    }

    /// Puts one job with these keys and answers its id.
    fn put(&self, job: Value) -> u64 {
        self.done("/jobs", json!({"jobs": [job]}))["ids"][0].as_u64().expect("an id")
    }

    /// Claims jobs, which are there or not.
    fn claim(&self, ask: Value) -> Vec<Value> {
        self.done("/claim", ask)["jobs"].as_array().expect("a list").clone()
    }

    /// Claims the one job that must be there.
    fn claim_one(&self) -> Value {
        let mut jobs = self.claim(json!({"jobs": 2}));
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs.remove(0)
    }

    /// A verb about a claimed job, with what it takes beside the lease.
    fn about(&self, job: &Value, verb: &str, mut more: Value) -> Response {
        more["lease"] = job["lease"].clone();
        self.mail("POST", &format!("/jobs/{}/{verb}", job["id"]), &more)
    }

    /// The job as it is now.
    fn job(&self, id: u64) -> Value {
        let response = self.mail("GET", &format!("/jobs/{id}"), &Value::Null);
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// How many jobs are in this state.
    fn count(&self, state: &str) -> u64 {
        self.mail("GET", "", &Value::Null).json()[state].as_u64().expect("a number")
    }
}

impl Mail for Server {
    fn mail(&self, method: &str, path: &str, body: &Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.signed(method, &format!("{MAIL}{path}"), &[], &body)
    }
}

/// Data and key of claimed jobs, for comparing.
fn told<'a>(jobs: &'a [Value], what: &str) -> Vec<&'a str> {
    jobs.iter().map(|job| job[what].as_str().unwrap_or_default()).collect()
}

/// Runs until the end of the test at most: what is waited for comes, or [`support::PATIENCE`] is over.
fn meanwhile<T: Send>(first: impl FnOnce() -> T + Send, then: impl FnOnce()) -> T {
    thread::scope(|scope| {
        let first = scope.spawn(first);
        thread::sleep(Duration::from_millis(100));
        then();
        first.join().expect("what runs meanwhile succeeds")
    })
}
