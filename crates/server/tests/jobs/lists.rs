//! Looking at jobs, page by page.

use serde_json::{Value, json};

use crate::support::Server;
use crate::{MAIL, Mail, server, told};

/// One page.
fn page(server: &Server, params: &[(&str, &str)]) -> Value {
    let response = server.signed("GET", &format!("{MAIL}/jobs"), params, "");
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// All pages, and how many those were.
fn pages(server: &Server, params: &[(&str, &str)]) -> (Vec<Value>, usize) {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for n in 1.. {
        let mut params = params.to_vec();
        if !cursor.is_empty() {
            params.push(("cursor", &cursor));
        }
        let page = page(server, &params);
        all.extend(page["jobs"].as_array().expect("a list").iter().cloned());
        match page["cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return (all, n),
        }
    }
    unreachable!("a list ends")
}

fn fill(server: &Server, n: usize) {
    let jobs: Vec<_> = (0..n).map(|n| json!({"key": format!("k{}", n % 2), "data": n.to_string()})).collect();
    server.done("/jobs", json!({"jobs": jobs}));
}

#[test]
fn a_list_goes_page_by_page_through_all_jobs_of_a_state() {
    let server = server("");
    fill(&server, 250);
    let (all, n) = pages(&server, &[("state", "waiting"), ("limit", "100")]);
    assert_eq!(told(&all, "data"), (0..250).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!((3..=4).contains(&n), "{n} pages");
    assert_eq!(all[0]["state"], "waiting");
    assert!(pages(&server, &[("state", "finished")]).0.is_empty());
}

#[test]
fn a_list_goes_by_key_attempt_and_time() {
    let server = server("");
    fill(&server, 10);
    let (odd, _) = pages(&server, &[("state", "waiting"), ("key", "k1"), ("limit", "2")]);
    assert_eq!(told(&odd, "data"), ["1", "3", "5", "7", "9"]);
    let job = server.claim(json!({})).remove(0);
    server.about(&job, "cancel", json!({})).expect(200, r#"{"state":"waiting"}"#);
    let (again, _) = pages(&server, &[("state", "waiting"), ("attempt_min", "2")]);
    assert_eq!(told(&again, "data"), ["0"]);
    let since = again[0]["since_ms"].to_string();
    let (later, _) = pages(&server, &[("state", "waiting"), ("since_ms", &since), ("attempt_min", "2")]);
    assert_eq!(later.len(), 1);
    assert!(pages(&server, &[("state", "waiting"), ("until_ms", &since), ("attempt_min", "2")]).0.is_empty());
}

#[test]
fn large_jobs_come_in_more_pages_and_more_claims() {
    let server = server("");
    let large = "x".repeat(300_000);
    for _ in 0..50 {
        server.done("/jobs", json!({"jobs": [{"data": large}, {"data": large}]}));
    }
    let listed = page(&server, &[("state", "waiting"), ("limit", "1000")]);
    let n = listed["jobs"].as_array().expect("a list").len();
    assert!((1..100).contains(&n) && listed["cursor"].is_string(), "{n} in a page");
    let claimed = server.claim(json!({"jobs": 1000})).len();
    assert!((1..100).contains(&claimed), "{claimed} in a claim");
}

#[test]
fn large_results_come_in_more_pages() {
    let server = server("");
    server.done("/jobs", json!({"jobs": vec![json!({"data": ""}); 160]}));
    let result = "x".repeat(60_000);
    let claimed = server.claim(json!({"jobs": 1000}));
    for job in &claimed {
        server.about(job, "finish", json!({"result": result})).expect(200, "{}");
    }
    let listed = page(&server, &[("state", "finished"), ("limit", "1000")]);
    let n = listed["jobs"].as_array().expect("a list").len();
    assert!((1..claimed.len()).contains(&n) && listed["cursor"].is_string(), "{n} of {} in a page", claimed.len());
}

#[test]
fn queues_are_listed_with_their_counts_totals_and_limits() {
    let server = server("lease_s = 7\nattempts_max = 3");
    fill(&server, 3);
    let job = server.claim(json!({})).remove(0);
    server.about(&job, "finish", json!({})).expect(200, "{}");
    let queue = server.mail("GET", "", &Value::Null).json();
    let totals = json!({
        "put": 3, "known": 0, "claimed": 1, "finished": 1, "failed": 0, "stalled": 0, "retried": 0, "retracted": 0,
        "released": 0,
    });
    let limits = json!({
        "jobs_max": 1_000_000, "bytes_max": 1 << 30, "finished_kept_s": 3600, "finished_kept_max": 100_000,
        "attempts_max": 3, "lease_s": 7,
    });
    assert_eq!((&queue["totals"], &queue["limits"]), (&totals, &limits));
    assert_eq!((&queue["waiting"], &queue["bytes"], &queue["name"]), (&json!(2), &json!(2), &json!("mail")));
    assert_eq!(server.get("/queues", &[]).json(), json!({"queues": [queue]}));
}

#[test]
fn metrics_count_jobs_by_state_and_verb() {
    let server = server("");
    fill(&server, 3);
    let job = server.claim(json!({})).remove(0);
    server.about(&job, "finish", json!({})).expect(200, "{}");
    let of = |more: &str| format!("{{app=\"1\",queue=\"mail\"{more}}}");
    assert_eq!(server.metric(&format!("fanfare_queue_jobs{}", of(",state=\"waiting\""))), 2.0);
    assert_eq!(server.metric(&format!("fanfare_queue_jobs{}", of(",state=\"finished\""))), 1.0);
    assert_eq!(server.metric(&format!("fanfare_queue_verbs_total{}", of(",verb=\"put\""))), 3.0);
    assert_eq!(server.metric(&format!("fanfare_queue_bytes{}", of(""))), 2.0);
}
