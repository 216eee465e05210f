//! Queues that come, change and go while the server runs.

use serde_json::{Value, json};

use crate::support::{Server, eventually, one_app};
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
fn a_reload_that_cannot_be_had_in_full_changes_no_queue() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let config = |jobs_max: u32, more: &str| {
        // No folder: nothing can be kept in it.
        let data = file.path().join("data");
        let queue = format!("[[apps.queues]]\nname = \"mail\"\ndurability = \"memory\"\njobs_max = {jobs_max}\n{more}");
        format!("data_dir = {data:?}\n{}", one_app(&queue))
    };
    let server = Server::start(&config(1, ""));
    server.reload(&config(2, "[[apps.queues]]\nname = \"other\""));
    eventually("it is refused", || server.log().contains("queues stay as they were"));
    server.put(json!({"data": 1}));
    assert_eq!(server.mail("POST", "/jobs", &json!({"jobs": [{"data": 2}]})).status, 503);
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
