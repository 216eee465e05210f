//! Queues that come, change and go while the server runs.

use serde_json::{Value, json};

use crate::support::one_app;
use crate::{Mail, config, server};

#[test]
fn changed_limits_hold_for_the_jobs_that_are_there() {
    let server = server("jobs_max = 1");
    server.put(json!({"data": 1}));
    assert_eq!(server.mail("POST", "/jobs", &json!({"jobs": [{"data": 2}]})).status, 503);
    server.reload(&config("jobs_max = 2\nlease_s = 77"));
    server.put(json!({"data": 2}));
    assert_eq!(server.count("waiting"), 2);
    assert_eq!(server.mail("GET", "", &Value::Null).json()["limits"]["lease_s"], 77);
}

#[test]
fn a_queue_that_is_taken_away_keeps_its_jobs_and_says_so() {
    let server = server("");
    server.put(json!({"data": "kept"}));
    server.reload(&one_app(""));
    assert_eq!(server.mail("POST", "/claim", &json!({})).status, 404);
    assert!(server.log().contains("a queue with jobs in it is configured no more"), "{}", server.log());
    server.reload(&config("[[apps.queues]]\nname = \"new\""));
    assert_eq!(server.claim_one()["data"], "kept");
    assert_eq!(server.get("/queues", &[]).json()["queues"].as_array().map(Vec::len), Some(2));
}
