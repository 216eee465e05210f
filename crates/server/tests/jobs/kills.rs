//! A server that is killed again and again under producers and workers who carry on.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Server, try_post};
use crate::{MAIL, Mail, config_in};

const KILLS: u32 = 5;

/// What the clients have been told, over all lives of the server.
#[derive(Default)]
struct Told {
    put: Mutex<HashSet<u64>>,
    finished: Mutex<Vec<u64>>,
    numbers: AtomicU32,
}

/// The answer, if the server lived long enough to give it.
fn post(to: SocketAddr, path: &str, body: &Value) -> Option<(u16, Value)> {
    try_post(to, &format!("{MAIL}{path}"), body)
}

impl Told {
    fn produce(&self, to: SocketAddr) -> Option<()> {
        let n = self.numbers.fetch_add(2, Ordering::Relaxed);
        let job = |n: u32| json!({"key": format!("k{}", n % 7), "idempotency_key": n.to_string(), "data": n});
        let (status, answer) = post(to, "/jobs", &json!({"jobs": [job(n), job(n + 1)]}))?;
        assert_eq!(status, 202, "{answer}");
        let ids = answer["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id"));
        self.put.lock().expect("nobody fails").extend(ids);
        Some(())
    }

    fn work(&self, to: SocketAddr) -> Option<()> {
        let (_, claimed) = post(to, "/claim", &json!({"jobs": 2, "wait_ms": 100, "lease_ms": 60_000}))?;
        for job in claimed["jobs"].as_array().expect("a list") {
            let path = format!("/jobs/{}/finish", job["id"]);
            let (status, answer) = post(to, &path, &json!({"lease": job["lease"]}))?;
            assert_eq!(status, 200, "{answer}");
            self.finished.lock().expect("nobody fails").push(job["id"].as_u64().expect("an id"));
        }
        Some(())
    }
}

/// The ids of all jobs in this state.
fn all(server: &Server, state: &str) -> HashSet<u64> {
    let (mut ids, mut cursor) = (HashSet::new(), Value::Null);
    loop {
        let mut params = vec![("limit", "1000"), ("state", state)];
        params.extend(cursor.as_str().map(|cursor| ("cursor", cursor)));
        let page = server.signed("GET", &format!("{MAIL}/jobs"), &params, "").json();
        ids.extend(page["jobs"].as_array().expect("a list").iter().map(|job| job["id"].as_u64().expect("an id")));
        cursor = page["cursor"].clone();
        if cursor.is_null() {
            return ids;
        }
    }
}

#[test]
fn no_acknowledged_job_is_lost_and_none_is_finished_twice() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config_in(folder.path(), "");
    let told = Told::default();
    for n in 0..KILLS {
        let mut server = Server::start(&config);
        let (to, over) = (server.addr, AtomicBool::new(false));
        thread::scope(|scope| {
            let until_over = |step: fn(&Told, SocketAddr) -> Option<()>| {
                let (told, over) = (&told, &over);
                move || while !over.load(Ordering::Relaxed) && step(told, to).is_some() {}
            };
            (0..3).for_each(|_| drop(scope.spawn(until_over(Told::produce))));
            (0..2).for_each(|_| drop(scope.spawn(until_over(Told::work))));
            // No wait for anything in particular: that is what a crash is like.
            thread::sleep(Duration::from_millis(300 + u64::from(n) * 37));
            server.signal("KILL");
            server.wait();
            over.store(true, Ordering::Relaxed);
        });
    }
    let server = Server::start(&config);
    let (put, finished) = (told.put.into_inner().expect("sound"), told.finished.into_inner().expect("sound"));
    assert!(put.len() > 20 && finished.len() > 5, "{} put, {} finished", put.len(), finished.len());
    let done = all(&server, "finished");
    let there = ["waiting", "claimed"].iter().fold(done.clone(), |there, state| &there | &all(&server, state));
    assert!(put.is_subset(&there), "lost: {:?}", put.difference(&there));
    assert_eq!(finished.iter().collect::<HashSet<_>>().len(), finished.len(), "finished twice");
    assert!(finished.iter().all(|id| done.contains(id)), "what was finished is to be done again");
    let queue = server.mail("GET", "", &Value::Null).json();
    let [put, finished] = ["put", "finished"].map(|total| queue["totals"][total].as_u64().expect("a number"));
    assert_eq!(
        put,
        finished + queue["waiting"].as_u64().expect("a number") + queue["claimed"].as_u64().expect("a number")
    );
}
