//! A queue on a primary that dies, and whose place its replica takes.
//!
//! What is promised: jobs that the replica had are there, and worked on; nobody is answered well meanwhile; and whatever the
//! replica did not have, no number is given twice.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::workers::{ask, comment, count, piped, put};
use crate::support::redis::{Redis, Sentinel};
use crate::support::{Nodes, Response, Server, eventually};

/// A group whose servers sync each write, and go on doing so whichever is the primary.
fn group() -> Sentinel {
    let group = Redis::sentinel();
    for server in &group.servers {
        server.config("appendonly", "yes");
        server.config("appendfsync", "always");
    }
    group
}

fn ids(put: &Response) -> Vec<u64> {
    put.json()["ids"].as_array().expect("a list").iter().map(|id| id.as_u64().expect("a number")).collect()
}

/// Until the replica has what the primary has written so far.
fn await_replica(group: &Sentinel) {
    let offset = |at: usize, of: &str| group.servers[at].info(of).parse::<u64>().expect("a number");
    let written = offset(0, "master_repl_offset");
    eventually("the replica has it", || offset(1, "slave_repl_offset") >= written);
}

fn state(node: &Server, id: u64) -> Value {
    ask(node, "GET", &format!("/jobs/{id}"), &Value::Null).json()["state"].clone()
}

/// Whoever works until then is done when this is dropped, however the test ends.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn jobs_that_the_replica_had_are_finished_and_others_are_put_again() {
    let mut group = group();
    // Slow enough for most of them to be there when the primary dies.
    let slow = piped().replace("{ stage = \"route\"", "{ stage = \"delay\", ms = 50 }, { stage = \"route\"");
    let mut nodes = Nodes::start(&group.url(), 0, "");
    let api = nodes.add(&group.url(), &slow, &["--role", "api"]);
    nodes.add(&group.url(), &slow, &["--role", "worker"]);
    let node = nodes.node(api);
    let safe = put(node, (0..200).map(comment).collect());
    assert_eq!(safe.status, 202, "{safe:?}");
    let safe = ids(&safe);
    await_replica(&group);

    // Somebody goes on putting all the while, each again until it is answered for.
    let (over, acknowledged, refusals) = (AtomicBool::new(false), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let ending = Ending(&over);
        scope.spawn(|| {
            for n in 200.. {
                let job = json!({"idempotency_key": n.to_string(), "key": n.to_string(), "data": comment(n)["data"]});
                while !over.load(Ordering::Relaxed) {
                    let answer = put(node, vec![job.clone()]);
                    if answer.status == 202 {
                        acknowledged.lock().expect("nobody panics").push((n, ids(&answer)[0]));
                        thread::sleep(Duration::from_millis(5));
                        break;
                    }
                    refusals.lock().expect("nobody panics").push(answer);
                    thread::sleep(Duration::from_millis(20));
                }
                if over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let taken = || acknowledged.lock().expect("nobody panics").len();
        eventually("some are put", || taken() > 10);
        let killed = group.kill_primary();
        eventually("puts are refused", || !refusals.lock().expect("nobody panics").is_empty());
        let before = taken();
        group.await_primary_after(killed);
        eventually("puts are taken again", || taken() > before + 10);
        drop(ending);
    });
    let refusals = refusals.into_inner().expect("nobody panicked");
    let wrong = refusals.iter().find(|refused| refused.status != 503 || refused.header("retry-after").is_none());
    assert!(wrong.is_none(), "{wrong:?}");

    eventually("all that is there is finished", || {
        ["waiting", "delayed", "claimed"].iter().all(|state| count(node, state) == 0)
    });
    assert_eq!(count(node, "stalled"), 0);
    for id in &safe {
        assert_eq!(state(node, *id), "finished", "job {id} of {safe:?}");
    }
    let acknowledged = acknowledged.into_inner().expect("nobody panicked");
    let numbers: BTreeSet<u64> = safe.iter().copied().chain(acknowledged.iter().map(|(_, id)| *id)).collect();
    assert_eq!(numbers.len(), safe.len() + acknowledged.len(), "no number was given twice");
    // Of the last moments, what the replica did not have is gone. Whoever puts it again under its name makes up for that.
    let again = |n: usize| json!({"idempotency_key": n.to_string(), "data": comment(n)["data"]});
    let again: Vec<Value> = acknowledged.iter().map(|(n, _)| again(*n)).collect();
    let put_again: Vec<u64> = again.chunks(500).flat_map(|jobs| ids(&put(node, jobs.to_vec()))).collect();
    eventually("all are finished", || put_again.iter().all(|id| state(node, *id) == "finished"));
    let lost = acknowledged.iter().zip(&put_again).filter(|((_, first), now)| first != *now).count();
    eprintln!("{lost} of {} had not reached the replica", acknowledged.len());
}
