//! What becomes of a job by each verb.

use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};

use crate::support::{eventually, now_s};
use crate::{Mail, server, told};

#[test]
fn a_job_is_put_claimed_and_finished() {
    let server = server("");
    let put = json!({"jobs": [
        {"kind": "create", "key": "thread:1", "data": {"text": "hi"}},
        {"kind": "delete", "data": "plain"},
    ]});
    let response = server.mail("POST", "/jobs", &put);
    assert_eq!((response.status, response.header("content-type")), (202, Some("application/json")));
    let ids = response.json()["ids"].clone();

    let jobs = server.claim(json!({"jobs": 10, "lease_ms": 60_000, "worker": "w1"}));
    assert_eq!(told(&jobs, "data"), [r#"{"text":"hi"}"#, "plain"]);
    assert_eq!(told(&jobs, "kind"), ["create", "delete"]);
    assert_eq!((&jobs[0]["key"], &jobs[0]["attempt"], &jobs[0]["id"]), (&json!("thread:1"), &json!(1), &ids[0]));
    let (put_ms, until_ms) = (jobs[0]["put_ms"].as_u64(), jobs[0]["until_ms"].as_u64());
    assert!(put_ms.expect("a time").abs_diff(now_s() * 1000) < 60_000, "{jobs:?}");
    assert!(until_ms > put_ms);
    let claimed = server.job(ids[0].as_u64().expect("an id"));
    assert_eq!((&claimed["state"], &claimed["worker"]), (&json!("claimed"), &json!("w1")));

    server.about(&jobs[0], "finish", json!({"result": {"ok": true}})).expect(200, "{}");
    let finished = server.job(ids[0].as_u64().expect("an id"));
    assert_eq!((&finished["state"], &finished["result"]), (&json!("finished"), &json!(r#"{"ok":true}"#)));
    assert_eq!(server.count("claimed"), 1);
    assert_eq!(server.count("finished"), 1);
}

#[test]
fn two_workers_never_have_one_job() {
    let server = server("");
    let jobs: Vec<_> = (0..200).map(|n| json!({"data": n})).collect();
    server.done("/jobs", json!({"jobs": jobs}));
    let work = || {
        let mut done = Vec::new();
        loop {
            let jobs = server.claim(json!({"jobs": 7}));
            if jobs.is_empty() {
                return done;
            }
            for job in jobs {
                server.about(&job, "finish", json!({})).expect(200, "{}");
                done.push(job["id"].as_u64().expect("an id"));
            }
        }
    };
    let mut done: Vec<u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("it works")).collect()
    });
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len(), 200);
    assert_eq!(server.count("finished"), 200);
}

#[test]
fn the_jobs_of_one_key_are_done_one_at_a_time_and_in_order() {
    let server = server("");
    let jobs: Vec<_> = (0..60).map(|n| json!({"key": format!("k{}", n % 3), "data": n.to_string()})).collect();
    server.done("/jobs", json!({"jobs": jobs}));
    let seen = Mutex::new(Vec::new());
    let work = || {
        while server.count("finished") < 60 {
            for job in server.claim(json!({"jobs": 2, "wait_ms": 50})) {
                // Before it is finished: from then on, somebody else may be ahead of us with the next of its key.
                seen.lock().expect("nobody fails").push((job["key"].to_string(), job["data"].to_string()));
                server.about(&job, "finish", json!({})).expect(200, "{}");
            }
        }
    };
    thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
    let seen = seen.into_inner().expect("nobody failed");
    for k in 0..3 {
        let of_key = seen.iter().filter(|(key, _)| *key == format!("\"k{k}\""));
        let in_order = (0..60).filter(|n| n % 3 == k).map(|n| format!("\"{n}\""));
        assert!(of_key.map(|(_, data)| data.clone()).eq(in_order), "{seen:?}");
    }
}

#[test]
fn what_has_been_put_is_not_put_again() {
    let server = server("");
    let job = json!({"idempotency_key": "comment-7-v1", "data": "x"});
    let first = server.put(job.clone());
    assert_eq!(server.put(job.clone()), first);
    let claimed = server.claim_one();
    server.about(&claimed, "finish", json!({})).expect(200, "{}");
    assert_eq!(server.put(job), first, "also when it is finished");
    assert!(server.claim(json!({})).is_empty());
    assert_eq!(server.mail("GET", "", &Value::Null).json()["totals"]["known"], 2);
}

#[test]
fn the_highest_priority_goes_first_and_nothing_before_its_time() {
    let server = server("");
    let hour_ms = 3_600_000;
    server.done(
        "/jobs",
        json!({"jobs": [
            {"data": "later", "not_before_ms": now_s() * 1000 + hour_ms, "priority": 9},
            {"data": "ordinary"},
            {"data": "urgent", "priority": 5},
        ]}),
    );
    assert_eq!(told(&server.claim(json!({"jobs": 10})), "data"), ["urgent", "ordinary"]);
    assert_eq!(server.count("delayed"), 1);
}

#[test]
fn a_claim_that_waits_is_woken_when_a_job_is_due() {
    let server = server("");
    let soon = (now_s() + 2) * 1000;
    server.put(json!({"data": "later", "not_before_ms": soon}));
    let later = server.claim(json!({"jobs": 10, "wait_ms": 30_000}));
    assert_eq!(told(&later, "data"), ["later"]);
    assert!(now_s() * 1000 + 1000 >= soon);
}

#[test]
fn a_cancelled_job_comes_back_with_what_was_done_of_it_and_is_stalled_after_its_last_attempt() {
    let server = server("attempts_max = 2");
    let id = server.put(json!({"data": "x"}));
    let first = server.claim_one();
    let cancel = json!({"reason": "no answer", "progress": {"sent": 3}});
    server.about(&first, "cancel", cancel).expect(200, r#"{"state":"waiting"}"#);
    server.about(&first, "finish", json!({})).expect(409, &format!(r#"{{"error":"the lease on job {id} has ended"}}"#));

    let second = server.claim_one();
    assert_eq!((&second["attempt"], &second["progress"]), (&json!(2), &json!(r#"{"sent":3}"#)));
    server.about(&second, "cancel", json!({"reason": "still none"})).expect(200, r#"{"state":"stalled"}"#);
    let stalled = server.job(id);
    assert_eq!((&stalled["state"], &stalled["reason"]), (&json!("stalled"), &json!("still none")));
    assert!(server.claim(json!({})).is_empty());

    server.mail("POST", &format!("/jobs/{id}/retry"), &json!({})).expect(200, "{}");
    let again = server.mail("POST", &format!("/jobs/{id}/retry"), &json!({}));
    again.expect(409, &format!(r#"{{"error":"job {id} is not stalled"}}"#));
    assert_eq!(server.claim_one()["attempt"], 1);
}

#[test]
fn a_cancelled_job_waits_as_long_as_it_is_to() {
    let server = server("");
    server.put(json!({"data": "x"}));
    let job = server.claim_one();
    server.about(&job, "cancel", json!({"delay_ms": 3_600_000})).expect(200, r#"{"state":"delayed"}"#);
    assert!(server.claim(json!({})).is_empty());
    assert_eq!(server.count("delayed"), 1);
}

#[test]
fn a_released_job_is_back_at_once_in_its_old_place_and_in_the_same_attempt() {
    let server = server("attempts_max = 1");
    let id = server.put(json!({"key": "k", "data": "first"}));
    server.put(json!({"key": "k", "data": "second"}));
    let first = server.claim_one();
    server.about(&first, "release", json!({"progress": "half"})).expect(200, "{}");
    for verb in ["release", "finish"] {
        let late = server.about(&first, verb, json!({}));
        late.expect(409, &format!(r#"{{"error":"the lease on job {id} has ended"}}"#));
    }
    for _ in 0..3 {
        let again = server.claim_one();
        assert_eq!(
            (&again["data"], &again["attempt"], &again["progress"]),
            (&json!("first"), &json!(1), &json!("half"))
        );
        server.about(&again, "release", json!({})).expect(200, "{}");
    }
    let totals = &server.mail("GET", "", &Value::Null).json()["totals"];
    assert_eq!((&totals["claimed"], &totals["failed"], &totals["released"]), (&json!(4), &json!(0), &json!(4)));
    let refused = server.about(&server.claim_one(), "release", json!({"reason": "none is asked for"}));
    assert_eq!(refused.status, 400, "{refused:?}");
}

#[test]
fn a_worker_that_dies_loses_its_jobs_to_others() {
    let server = server("attempts_max = 2");
    let id = server.put(json!({"data": "x"}));
    let dead = server.claim(json!({"lease_ms": 50})).remove(0);
    let heir = server.claim(json!({"wait_ms": 30_000, "lease_ms": 50})).remove(0);
    assert_eq!((&heir["id"], &heir["attempt"]), (&dead["id"], &json!(2)));
    server.about(&dead, "extend", json!({})).expect(409, &format!(r#"{{"error":"the lease on job {id} has ended"}}"#));
    // Nobody asks for it any more: it is swept.
    eventually("the job is stalled", || server.count("stalled") == 1);
    assert_eq!(server.job(id)["reason"], "the lease ran out");
}

#[test]
fn a_lease_that_is_extended_holds_for_longer() {
    let server = server("");
    server.put(json!({"data": "x"}));
    let job = server.claim(json!({"lease_ms": 20_000})).remove(0);
    let extended = server.about(&job, "extend", json!({"lease_ms": 80_000_000})).json();
    assert!(extended["until_ms"].as_u64() > job["until_ms"].as_u64(), "{extended}");
    assert_eq!(server.job(job["id"].as_u64().expect("an id"))["until_ms"], extended["until_ms"]);
}

#[test]
fn stalled_jobs_are_retried_by_key_attempt_and_time() {
    let server = server("");
    for (key, n) in [("a", 1), ("b", 2), ("c", 3)] {
        server.put(json!({"key": key, "data": n}));
        let job = server.claim_one();
        server.about(&job, "stall", json!({"reason": "poison"})).expect(200, "{}");
    }
    assert_eq!(server.count("stalled"), 3);
    assert_eq!(server.done("/retry", json!({"attempt_min": 2})), json!({"retried": 0}));
    assert_eq!(server.done("/retry", json!({"until_ms": 1})), json!({"retried": 0}));
    assert_eq!(server.done("/retry", json!({"key": "b"})), json!({"retried": 1}));
    assert_eq!(server.claim_one()["key"], "b");
    assert_eq!(server.done("/retry", json!({})), json!({"retried": 2}));
    assert_eq!(server.count("waiting"), 2);
}

#[test]
fn a_retracted_job_is_no_more() {
    let server = server("");
    let id = server.put(json!({"data": "x"}));
    let path = format!("/jobs/{id}");
    server.mail("DELETE", &path, &Value::Null).expect(200, "{}");
    let gone = format!(r#"{{"error":"there is no job {id}"}}"#);
    server.mail("DELETE", &path, &Value::Null).expect(404, &gone);
    server.mail("GET", &path, &Value::Null).expect(404, &gone);
    assert!(server.claim(json!({})).is_empty());
}

#[test]
fn a_full_queue_takes_all_of_a_put_or_nothing_of_it() {
    let server = server("jobs_max = 3\nbytes_max = 100");
    let put = |jobs: &[Value]| server.mail("POST", "/jobs", &json!({"jobs": jobs}));
    let (small, large) = (json!({"data": "x"}), json!({"data": "x".repeat(99)}));
    assert_eq!(put(&[small.clone(), small.clone()]).status, 202);
    for jobs in [vec![small.clone(), small.clone()], vec![large]] {
        let full = put(&jobs);
        let error = r#"{"error":"the queue is full: it takes 3 unfinished jobs, and 100 bytes of them"}"#;
        full.expect(503, error);
        assert_eq!(full.header("retry-after"), Some("1"));
    }
    assert_eq!(server.count("waiting"), 2);
    let job = server.claim(json!({})).remove(0);
    server.about(&job, "finish", json!({})).expect(200, "{}");
    assert_eq!(put(&[small.clone(), small]).status, 202);
}
