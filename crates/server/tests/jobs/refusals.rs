//! What is refused, and what its sender is told.

use serde_json::{Value, json};

use crate::support::{Response, Server, one_app};
use crate::{MAIL, Mail, server};

#[track_caller]
fn refused(response: &Response, status: u16, because: &str) {
    let error = response.json()["error"].as_str().unwrap_or_default().to_owned();
    assert!(response.status == status && error.contains(because), "expected {status} {because:?}: {response:?}");
}

#[test]
fn a_put_names_the_job_and_the_key_that_are_wrong_and_takes_nothing() {
    let server = server("");
    let good = json!({"data": 1});
    for (job, because) in [
        (json!({}), "job 1: data: expected any JSON but null"),
        (json!({"data": null}), "job 1: data: expected any JSON but null"),
        (json!([]), "job 1: not a JSON object"),
        (json!({"data": 1, "kind": "update"}), "job 1: kind: expected \"create\", \"edit\" or \"delete\""),
        (json!({"data": 1, "kind": 7}), "job 1: kind: expected"),
        (json!({"data": 1, "key": ""}), "job 1: key: expected a string of 1 to 200 bytes"),
        (json!({"data": 1, "key": "x".repeat(201)}), "job 1: key: expected a string of 1 to 200 bytes"),
        (json!({"data": 1, "idempotency_key": 7}), "job 1: idempotency_key: expected a string of 1 to 128 bytes"),
        (json!({"data": 1, "priority": 256}), "job 1: priority: expected a whole number from 0 to 255"),
        (json!({"data": 1, "not_before_ms": -1}), "job 1: not_before_ms: expected a whole number from 0 to"),
        (json!({"data": 1, "not_before": 1}), "job 1: unexpected field: unknown field `not_before`, expected one of"),
    ] {
        refused(&server.mail("POST", "/jobs", &json!({"jobs": [good, job]})), 400, because);
    }
    let jobs = vec![good; 1001];
    refused(&server.mail("POST", "/jobs", &json!({"jobs": jobs})), 400, "jobs: expected 1 to 1000 jobs, found 1001");
    refused(&server.mail("POST", "/jobs", &json!({"jobs": []})), 400, "jobs: expected 1 to 1000 jobs, found 0");
    refused(&server.mail("POST", "/jobs", &json!({})), 400, "missing field `jobs`");
    refused(&server.signed("POST", &format!("{MAIL}/jobs"), &[], "{"), 400, "the body: not valid JSON");
    assert_eq!(server.count("waiting"), 0);
}

#[test]
fn other_verbs_name_what_they_expected() {
    let server = server("");
    let id = server.put(json!({"data": 1}));
    for (path, body, because) in [
        ("/claim", json!({"jobs": 0}), "jobs: expected a whole number from 1 to 1000"),
        ("/claim", json!({"wait_ms": 60_001}), "wait_ms: expected a whole number from 0 to 60000"),
        ("/claim", json!({"lease_ms": "5"}), "lease_ms: expected a whole number from 1 to 86400000"),
        ("/claim", json!({"wait": 1}), "unknown field `wait`"),
        ("/retry", json!({"attempts": 1}), "unknown field `attempts`"),
    ] {
        refused(&server.mail("POST", path, &body), 400, because);
    }
    let lease = format!("lease: expected the lease on job {id} that its claim was answered with");
    for (verb, body, because) in [
        ("finish", json!({}), lease.as_str()),
        ("finish", json!({"lease": "1"}), &lease),
        ("finish", json!({"lease": format!("{}.1", id + 1)}), &lease),
        ("extend", json!({"lease": format!("{id}.1"), "lease_ms": 0}), "lease_ms: expected"),
        ("cancel", json!({"lease": format!("{id}.1"), "delay_ms": "1"}), "delay_ms: expected"),
        ("cancel", json!({"lease": format!("{id}.1"), "progress": "x".repeat(70_000)}), "progress: expected at most"),
        ("stall", json!({"lease": format!("{id}.1")}), "reason: expected a string"),
        ("retry", json!({"lease": "1.1"}), "unknown field `lease`"),
    ] {
        refused(&server.mail("POST", &format!("/jobs/{id}/{verb}"), &body), 400, because);
    }
    let list = |params: &[(&str, &str)]| server.signed("GET", &format!("{MAIL}/jobs"), params, "");
    refused(&list(&[]), 400, "state: expected one of waiting, delayed, claimed, finished, stalled");
    refused(&list(&[("state", "waiting"), ("limit", "0")]), 400, "limit: expected a whole number from 1 to 1000");
    refused(&list(&[("state", "waiting"), ("cursor", "x")]), 400, "cursor: expected the cursor of the page before");
    refused(&list(&[("state", "waiting"), ("since_ms", "x")]), 400, "since_ms: expected a whole number");
}

#[test]
fn a_lease_that_is_not_held_is_lost() {
    let server = server("");
    let id = server.put(json!({"data": 1}));
    let lost = format!("the lease on job {id} has ended");
    refused(&server.mail("POST", &format!("/jobs/{id}/finish"), &json!({"lease": format!("{id}.9")})), 409, &lost);
}

#[test]
fn an_unknown_queue_names_those_that_are_known() {
    let other = Server::start(&one_app(""));
    refused(&other.mail("GET", "", &Value::Null), 404, "there is no queue \"mail\": this app has none");
    let server = server("[[apps.queues]]\nname = \"hooks\"");
    let path = "/apps/1/queues/male/jobs";
    refused(&server.signed("POST", path, &[], "{}"), 404, "there is no queue \"male\": this app has mail, hooks");
}

#[test]
fn only_the_app_itself_is_answered() {
    let server = server("");
    let response = server.request("POST", &format!("{MAIL}/claim"), &[], "{}");
    refused(&response, 401, "auth_key");
    let response = server.mail("PUT", "/jobs", &json!({}));
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD, POST, OPTIONS")));
    refused(&response, 405, "expected GET or POST");
}
