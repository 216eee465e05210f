//! What becomes of jobs between their queue and their sinks, with a store in memory and sinks that are real.

#[path = "worker/bench.rs"]
mod bench;
#[path = "worker/target.rs"]
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bench::{Bench, SETTINGS, check_sums, job, keyed, lane, lane_after, lane_into, plan, shadow, until};
use fanfare_jobs::pipeline::Reason;
use fanfare_jobs::sinks::{Circuit, Delivery, Lost, Sink, SinkError};
use fanfare_jobs::worker::{Others, Settings, Worker};
use fanfare_jobs::{Claim, JobId, Phase, Spec, State};
use serde_json::json;
use target::{Reply, Target};

/// A sink of its own for each test to write to.
fn http(target: &Target) -> serde_json::Value {
    json!({ "sink": "http", "urls": [target.url], "body": "text" })
}

/// `json`, and a `batch` with these keys.
fn batches(keys: serde_json::Value) -> serde_json::Value {
    let mut batch = json!({ "stage": "batch" });
    batch.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    json!([{ "stage": "json" }, batch])
}

#[tokio::test]
async fn a_job_goes_through_the_stages_and_into_every_sink() {
    let (bench, one, two) = (Bench::new(3), Target::start().await, Target::start().await);
    let stages = json!([{ "stage": "json" }, { "stage": "select", "fields": ["text"] }]);
    let lane = lane("p", stages, json!([http(&one), http(&two)]));
    let worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job(r#"{"text":"hello","secret":1}"#)]).await;
    let finished = bench.until(State::Finished, 1).await;
    assert_eq!((one.bodies(), two.bodies()), (vec![r#"{"text":"hello"}"#.into()], vec![r#"{"text":"hello"}"#.into()]));
    let fanfare_jobs::Phase::Finished { result } = &finished[0].phase else { panic!("it is finished") };
    assert_eq!(result, r#"{"p":{"dropped":0,"out":1}}"#);
    until(|| worker.counts().in_flight == 0).await;
    assert_eq!((worker.counts().claimed, worker.counts().finished), (1, 1));
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_retry_runs_only_what_is_missing() {
    let (bench, good, bad) = (Bench::new(5), Target::start().await, Target::start().await);
    bad.always(Reply::Status(500));
    let lane = lane("p", json!([]), json!([http(&good), http(&bad)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job("x")]).await;
    let delayed = bench.until(State::Delayed, 1).await;
    assert!(delayed[0].reason.contains("p/2.http: answered 500"), "{}", delayed[0].reason);
    assert_eq!(delayed[0].job.progress, r#"{"p":["1.http"]}"#);
    bad.always(Reply::Status(200));
    bench.until(State::Finished, 1).await;
    assert_eq!(good.bodies(), ["x"], "it is not asked again");
    check_sums(&lane, true);
}

#[tokio::test]
async fn what_is_refused_is_parked_and_what_is_not_json_too() {
    let (bench, target) = (Bench::new(5), Target::start().await);
    target.decide(|heard| Reply::Status(if heard.body.contains("no") { 422 } else { 200 }));
    let lane = lane("p", json!([{ "stage": "json" }]), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job(r#"{"a":"no"}"#), job("not json"), job(r#"{"a":"yes"}"#)]).await;
    bench.until(State::Finished, 1).await;
    let reasons: Vec<_> = bench.until(State::Stalled, 2).await.into_iter().map(|entry| entry.reason).collect();
    assert!(reasons.iter().any(|reason| reason.contains("p/1.http: answered 422")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("p/1.json")), "{reasons:?}");
    check_sums(&lane, true);
}

#[tokio::test]
async fn records_of_a_key_keep_their_order() {
    let (bench, target) = (Bench::new(50), Target::start().await);
    // Every third request fails, so that there are retries of all kinds.
    let asked = AtomicU32::new(0);
    target.decide(move |_| match asked.fetch_add(1, Ordering::Relaxed) % 3 {
        0 => Reply::Status(503),
        _ => Reply::Status(200),
    });
    let lane = lane("p", json!([]), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    let jobs = (0..40).map(|n| keyed(["a", "b", "c"][n % 3], format!("{} {n:03}", ["a", "b", "c"][n % 3])));
    bench.put(jobs).await;
    bench.until(State::Finished, 40).await;
    let mut of_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for body in target.bodies() {
        let (key, n) = body.split_once(' ').unwrap();
        of_key.entry(key.into()).or_default().push(n.into());
    }
    for (key, mut seen) in of_key {
        seen.dedup();
        assert!(seen.is_sorted() && seen.len() >= 13, "{key}: {seen:?}");
    }
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_poison_record_is_parked_while_others_flow() {
    let (bench, target) = (Bench::new(2), Target::start().await);
    target.decide(|heard| Reply::Status(if heard.body == "poison" { 500 } else { 200 }));
    let lane = lane("p", json!([]), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([keyed("k", "poison"), keyed("k", "behind it")]).await;
    bench.put((0..50).map(|n| job(n.to_string()))).await;
    bench.until(State::Finished, 51).await;
    let stalled = bench.until(State::Stalled, 1).await;
    assert_eq!((stalled[0].job.attempt, &stalled[0].job.spec.data[..]), (2, &b"poison"[..]));
    let bodies = target.bodies();
    let last_poison = bodies.iter().rposition(|body| body == "poison");
    assert!(last_poison < bodies.iter().position(|body| body == "behind it"), "it holds its key until it is parked");
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_hung_target_costs_time_and_no_attempt() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    target.always(Reply::Hang);
    let sink = json!({ "sink": "http", "urls": [target.url], "body": "text", "timeout_ms": 100 });
    let lane = lane("p", json!([]), json!([sink]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put((0..8).map(|n| job(n.to_string()))).await;
    until(|| lane.outlets[0].circuit() != Circuit::Closed).await;
    target.always(Reply::Status(200));
    let finished = bench.until(State::Finished, 8).await;
    assert!(finished.iter().all(|entry| entry.job.attempt == 1));
    let tally = lane.outlets[0].counts();
    assert!(tally.errors >= 5 && tally.opened >= 1 && tally.retried >= 5, "{tally:?}");
    check_sums(&lane, true);
}

#[tokio::test]
async fn what_is_confirmed_is_confirmed_whatever_else_the_answer_says() {
    let (bench, url) = (Bench::new(1), Target::without_end().await);
    let lane = lane("p", json!([]), json!([{ "sink": "http", "urls": [url], "timeout_ms": 2000 }]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job("x")]).await;
    bench.until(State::Finished, 1).await;
    assert_eq!(lane.outlets[0].counts().errors, 0);
}

#[tokio::test]
async fn while_a_target_is_down_jobs_wait_with_their_leases_and_in_order() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    target.always(Reply::Status(503));
    let lane = lane("p", json!([]), json!([http(&target)]));
    // A machine may stand still for a second or two.
    let lease = Duration::from_secs(4);
    let worker = bench.worker(&[&lane], Settings { lease, concurrency: 4, ..SETTINGS });
    bench.put((0..10).map(|n| keyed(if n % 2 == 0 { "a" } else { "b" }, format!("{n}")))).await;
    until(|| lane.outlets[0].circuit() != Circuit::Closed).await;
    tokio::time::sleep(lease * 2).await;
    let (claimed, waiting) = (bench.in_state(State::Claimed).await, bench.in_state(State::Waiting).await);
    assert_eq!((claimed.len(), waiting.len()), (2, 8), "one of each key");
    target.always(Reply::Status(200));
    let finished = bench.until(State::Finished, 10).await;
    assert!(finished.iter().all(|entry| entry.job.attempt == 1), "no attempt was used up");
    assert_eq!(worker.counts().lost, 0);
    for parity in [0, 1] {
        let mut seen: Vec<u32> = target.bodies().iter().map(|body| body.parse().unwrap()).collect();
        seen.retain(|n| n % 2 == parity);
        seen.dedup();
        assert!(seen.is_sorted() && seen.len() == 5, "{seen:?}");
    }
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_target_that_names_a_time_is_not_asked_before() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    target.always(Reply::After(2));
    let lane = lane("p", json!([]), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job("x")]).await;
    until(|| target.heard().len() == 1).await;
    target.always(Reply::Status(200));
    bench.until(State::Finished, 1).await;
    let [first, second] = &target.heard()[..] else { panic!("it was not asked twice") };
    assert!(second.at - first.at >= Duration::from_secs(2), "{:?}", second.at - first.at);
}

#[tokio::test]
async fn two_workers_share_a_queue() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    let (one, two) = (lane("p", json!([]), json!([http(&target)])), lane("p", json!([]), json!([http(&target)])));
    let (_first, _second) = (bench.worker(&[&one], SETTINGS), bench.worker(&[&two], SETTINGS));
    bench.put((0..300).map(|n| keyed(&format!("k{}", n % 20), n.to_string()))).await;
    bench.until(State::Finished, 300).await;
    let bodies = target.bodies();
    assert_eq!((bodies.len(), bodies.iter().collect::<BTreeSet<_>>().len()), (300, 300), "each once");
    check_sums(&one, true);
    check_sums(&two, true);
}

#[tokio::test]
async fn a_reload_under_load_loses_nothing() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    let versions = ["0", "1", "2", "3"];
    let lanes = versions.map(|version| {
        let stages = json!([{ "stage": "raw" }, { "stage": "set", "fields": { "version": version } }]);
        lane("p", stages, json!([http(&target)]))
    });
    let worker = bench.worker(&[&lanes[0]], SETTINGS);
    let total = 400;
    for (n, lane) in lanes.iter().enumerate() {
        worker.replace(plan(&[lane]), Settings { concurrency: 8 + n, ..SETTINGS });
        bench.put((0..100).map(|m| job(format!("{n}-{m}")))).await;
        until(|| target.heard().len() > n * 100 + 20).await;
    }
    bench.until(State::Finished, total).await;
    let bodies = target.bodies();
    assert_eq!((bodies.len(), bodies.iter().collect::<BTreeSet<_>>().len()), (total, total), "each once");
    assert!(versions.iter().all(|v| bodies.iter().any(|body| body.contains(&format!(r#""version":"{v}""#)))));
    lanes.iter().for_each(|lane| check_sums(lane, true));
}

#[tokio::test]
async fn a_pipeline_counts_on_where_the_one_before_it_did() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    let first = lane("p", json!([{ "stage": "delay", "ms": 500 }]), json!([http(&target)]));
    let worker = bench.worker(&[&first], SETTINGS);
    bench.put((0..5).map(|n| job(n.to_string()))).await;
    until(|| first.pipeline.stages()[0].counts.read().in_flight == 5).await;
    let second = lane_after(&first, json!([{ "stage": "delay", "ms": 1 }]), json!([http(&target)]));
    worker.replace(plan(&[&second]), SETTINGS);
    bench.put((5..10).map(|n| job(n.to_string()))).await;
    check_sums(&second, false);
    bench.until(State::Finished, 10).await;
    assert_eq!((second.pipeline.stages()[0].counts.read().out, second.outlets[0].counts().out), (10, 10));
    check_sums(&second, true);
}

#[tokio::test]
async fn a_stage_that_a_reload_leaves_as_it_was_remembers() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let stages = |within_s: u64, before: serde_json::Value| {
        let dedupe = json!({ "stage": "dedupe", "key": "{{n}}", "within_s": within_s });
        let coalesce = json!({ "stage": "coalesce", "key": "{{c}}", "within_ms": 3000 });
        json!([{ "stage": "json" }, before, dedupe, coalesce])
    };
    let say = |n: u32| job(json!({ "n": n, "c": 1 }).to_string());
    let first = lane("p", stages(600, json!({ "stage": "drop", "fields": ["c1"] })), json!([http(&target)]));
    let worker = bench.worker(&[&first], SETTINGS);
    bench.put([say(1)]).await;
    until(|| first.pipeline.stages()[3].counts.read().in_flight == 1).await;
    let second = lane_after(&first, stages(600, json!({ "stage": "drop", "fields": ["c2"] })), json!([http(&target)]));
    worker.replace(plan(&[&second]), SETTINGS);
    // One that the stage of before knows, and one that takes the place of the one in its window.
    bench.put([say(1), say(2)]).await;
    bench.until(State::Finished, 3).await;
    assert_eq!(target.bodies(), [r#"{"c":1,"n":2}"#]);
    let third = lane_after(&second, stages(601, json!({ "stage": "drop", "fields": ["c2"] })), json!([http(&target)]));
    worker.replace(plan(&[&third]), SETTINGS);
    bench.put([say(2)]).await;
    bench.until(State::Finished, 4).await;
    assert_eq!(target.heard().len(), 2, "another stage knows nothing");
    [first, second, third].iter().for_each(|lane| check_sums(lane, false));
}

#[tokio::test]
async fn a_shadow_pipeline_holds_nothing_and_fails_nothing() {
    let (bench, target, hung) = (Bench::new(1), Target::start().await, Target::start().await);
    hung.always(Reply::Hang);
    let real = lane("p", json!([]), json!([http(&target)]));
    let tried = shadow("s", json!([{ "stage": "delay", "ms": 600_000 }]), json!([http(&hung)]));
    let broken = shadow("t", json!([{ "stage": "json" }]), json!([http(&hung)]));
    let _worker = bench.worker(&[&real, &tried, &broken], SETTINGS);
    bench.put((0..300).map(|n| job(format!("no json {n}")))).await;
    bench.until(State::Finished, 300).await;
    assert_eq!(target.heard().len(), 300);
    assert_eq!(tried.pipeline.stages()[0].counts.read().in_flight, 256);
    assert_eq!(tried.overflown(), 44, "those that there was no room for are counted");
    check_sums(&tried, false);
    until(|| broken.pipeline.stages()[0].counts.read().failed + broken.overflown() == 300).await;
}

#[tokio::test]
async fn an_optional_target_is_given_up_and_a_required_one_is_not() {
    let (bench, needed, extra) = (Bench::new(1), Target::start().await, Target::start().await);
    extra.always(Reply::Status(503));
    let sink = json!({ "sink": "http", "urls": [needed.url], "optional_urls": [extra.url], "body": "text" });
    let lane = lane("p", json!([]), json!([sink]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put((0..20).map(|n| job(n.to_string()))).await;
    bench.until(State::Finished, 20).await;
    until(|| lane.outlets[1].counts().in_flight == 0).await;
    assert_eq!((&*lane.outlets[0].name, &*lane.outlets[1].name), ("1.http.1", "1.http.2"));
    assert_eq!((lane.outlets[0].counts().out, lane.outlets[1].counts().out), (20, 0));
    assert_eq!(lane.outlets[1].counts().lost.iter().sum::<u64>(), 20);
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_slow_optional_target_takes_no_room_of_the_others() {
    let (bench, slow, quick) = (Bench::new(1), Target::start().await, Target::start().await);
    slow.always(Reply::Hang);
    let optional = |target: &Target| json!({ "sink": "http", "urls": [target.url], "body": "text", "required": false, "timeout_ms": 60_000 });
    let lane = lane("p", json!([]), json!([optional(&slow), optional(&quick)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put((0..300).map(|n| job(n.to_string()))).await;
    until(|| lane.outlets[0].counts().lost[Lost::Overflow as usize] > 0).await;
    bench.until(State::Finished, 300).await;
    until(|| lane.outlets[1].counts().in_flight == 0).await;
    // One after the other: the quick one has room for each.
    for n in 0..10 {
        bench.put([job(format!("more {n}"))]).await;
        until(|| quick.bodies().contains(&format!("more {n}"))).await;
    }
}

#[tokio::test]
async fn a_copy_goes_to_the_sinks_of_another_pipeline_and_nobody_waits_for_it() {
    let (bench, target, other) = (Bench::new(1), Target::start().await, Target::start().await);
    let tee = lane("p", json!([{ "stage": "tee", "to": "other" }]), json!([http(&target)]));
    let gets = shadow("other", json!([{ "stage": "sample", "percent": 0 }]), json!([http(&other)]));
    let _worker = bench.worker(&[&tee, &gets], SETTINGS);
    bench.put([job("x")]).await;
    bench.until(State::Finished, 1).await;
    until(|| other.bodies() == ["x"]).await;
    assert_eq!(target.bodies(), ["x"]);
}

#[tokio::test]
async fn what_several_pipelines_say_of_a_job_has_names_of_its_own() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let sinks = || json!([http(&target)]);
    let trial = shadow("trial", json!([]), sinks());
    let first = lane("first", json!([{ "stage": "tee", "to": "other" }, { "stage": "tee", "to": "other" }]), sinks());
    let other = lane("other", json!([]), sinks());
    let _worker = bench.worker(&[&trial, &first, &other], SETTINGS);
    bench.put([Spec { idempotency_key: Some("post-17".into()), ..job("x") }]).await;
    until(|| target.heard().len() == 5).await;
    let mut ids: Vec<_> =
        target.heard().iter().map(|heard| heard.headers["x-fanfare-event-id"].to_str().unwrap().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, ["post-17", "post-17/first>other", "post-17/first>other.1", "post-17/other", "post-17/trial"]);
}

#[tokio::test]
async fn of_the_jobs_of_a_key_only_the_newest_goes_on() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let lane = lane("p", json!([{ "stage": "coalesce", "within_ms": 300 }]), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put((0..20).map(|n| keyed("k", n.to_string()))).await;
    bench.put([keyed("other", "alone"), job("without a key")]).await;
    bench.until(State::Finished, 22).await;
    let bodies: BTreeSet<String> = target.bodies().into_iter().collect();
    assert_eq!(bodies, ["19", "alone", "without a key"].map(String::from).into_iter().collect());
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_window_may_go_by_what_is_in_the_record() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let stages = json!([{ "stage": "json" }, { "stage": "coalesce", "key": "{{thread}}", "within_ms": 500 }]);
    let lane = lane("p", stages, json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put((0..10).map(|n| job(format!(r#"{{"n":{n},"thread":{}}}"#, n % 2)))).await;
    bench.until(State::Finished, 10).await;
    let bodies: BTreeSet<String> = target.bodies().into_iter().collect();
    assert_eq!(bodies, [r#"{"n":8,"thread":0}"#, r#"{"n":9,"thread":1}"#].map(String::from).into_iter().collect());
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_batch_goes_on_when_it_is_full_or_old() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let lane = lane("p", batches(json!({ "max": 3, "within_ms": 3000 })), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put((0..2).map(|n| job(n.to_string()))).await;
    until(|| lane.pipeline.stages()[1].counts.read().in_flight == 2).await;
    assert_eq!(target.heard().len(), 0);
    bench.put((2..4).map(|n| job(n.to_string()))).await;
    let finished = bench.until(State::Finished, 4).await;
    assert_eq!(target.bodies(), ["[0,1,2]", "[3]"]);
    assert!(
        finished.iter().all(
            |entry| matches!(&entry.phase, Phase::Finished { result } if result == r#"{"p":{"dropped":0,"out":1}}"#)
        )
    );
    let tally = lane.pipeline.stages()[1].counts.read();
    assert_eq!((tally.entered, tally.out, tally.dropped[Reason::Joined as usize]), (4, 2, 2));
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_batch_is_no_longer_than_it_may_be() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let stages = batches(json!({ "max": 9, "within_ms": 60_000, "bytes_max": 14 }));
    let lane = lane("p", stages, json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    for data in ["1111", "22", "3333", "\"a long one by itself\""] {
        bench.put([job(data)]).await;
    }
    bench.until(State::Finished, 4).await;
    assert_eq!(target.bodies(), ["[1111,22,3333]", "[\"a long one by itself\"]"]);
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_batch_has_what_is_alike_and_goes_to_the_same_channels() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let of_channels = json!([
        { "stage": "json" },
        { "stage": "route", "channels": ["forum.{{f}}"], "event": "said" },
        { "stage": "batch", "max": 2, "within_ms": 2000 },
    ]);
    let of_forums = json!([
        { "stage": "json" },
        { "stage": "batch", "max": 2, "within_ms": 2000, "by": "forum.{{f}}", "into": "said" },
        { "stage": "route", "channels": ["{{key}}"], "event": "said" },
    ]);
    for stages in [of_channels, of_forums] {
        let own = json!([{ "sink": "http", "urls": [target.url], "body": "record" }]);
        let lane = lane("p", stages, own);
        let _worker = bench.worker(&[&lane], SETTINGS);
        let finished = bench.in_state(State::Finished).await.len();
        bench.put([1, 2, 1, 1].map(|f| job(json!({ "f": f }).to_string()))).await;
        bench.until(State::Finished, finished + 4).await;
        check_sums(&lane, true);
    }
    let mut said: Vec<_> = target
        .bodies()
        .iter()
        .map(|body| {
            let record: serde_json::Value = serde_json::from_str(body).unwrap();
            let list = record["data"].get("said").unwrap_or(&record["data"]);
            (record["routes"][0]["channel"].as_str().unwrap().to_owned(), list.to_string())
        })
        .collect();
    said[..3].sort();
    said[3..].sort();
    let expected = [("forum.1", r#"[{"f":1},{"f":1}]"#), ("forum.1", r#"[{"f":1}]"#), ("forum.2", r#"[{"f":2}]"#)]
        .map(|(channel, list)| (channel.to_owned(), list.to_owned()));
    assert_eq!((&said[..3], &said[3..]), (&expected[..], &expected[..]));
}

#[tokio::test]
async fn the_jobs_of_a_batch_are_tried_again_and_only_where_it_failed() {
    let (bench, good, bad) = (Bench::new(5), Target::start().await, Target::start().await);
    bad.always(Reply::Status(500));
    let lane = lane("p", batches(json!({ "max": 3, "within_ms": 1000 })), json!([http(&good), http(&bad)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put((0..3).map(|n| job(n.to_string()))).await;
    for delayed in bench.until(State::Delayed, 3).await {
        assert!(delayed.reason.contains("p/2.http: answered 500"), "{}", delayed.reason);
        assert_eq!(delayed.job.progress, r#"{"p":["1.http"]}"#);
    }
    bad.always(Reply::Status(200));
    // What has been delivered nowhere is not in their company.
    bench.put((3..6).map(|n| job(n.to_string()))).await;
    bench.until(State::Finished, 6).await;
    assert_eq!(good.bodies(), ["[0,1,2]", "[3,4,5]"]);
    let items: BTreeSet<u32> =
        bad.bodies().iter().flat_map(|body| serde_json::from_str::<Vec<u32>>(body).unwrap()).collect();
    assert_eq!(items, (0..6).collect());
    check_sums(&lane, true);
}

#[tokio::test]
async fn what_is_refused_of_a_batch_is_refused_of_all_its_jobs() {
    let (bench, target) = (Bench::new(5), Target::start().await);
    target.decide(|heard| Reply::Status(if heard.body.contains("13") { 422 } else { 200 }));
    let lane = lane("p", batches(json!({ "max": 2, "within_ms": 60_000 })), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put(["12", "13", "14", "15"].map(job)).await;
    let stalled = bench.until(State::Stalled, 2).await;
    assert!(stalled.iter().all(|entry| entry.reason.contains("answered 422")), "{stalled:?}");
    bench.until(State::Finished, 2).await;
    assert_eq!(target.bodies(), ["[12,13]", "[14,15]"]);
    check_sums(&lane, true);
}

#[tokio::test]
async fn batches_go_one_after_the_other_and_gather_while_they_wait() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    target.always(Reply::Status(503));
    let lane = lane("p", batches(json!({ "max": 4, "within_ms": 1 })), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job("0")]).await;
    until(|| !target.heard().is_empty()).await;
    bench.put((1..9).map(|n| job(n.to_string()))).await;
    until(|| lane.pipeline.stages()[1].counts.read().in_flight == 8).await;
    assert!(target.bodies().iter().all(|body| body == "[0]"));
    target.always(Reply::Status(200));
    bench.until(State::Finished, 9).await;
    let mut bodies = target.bodies();
    bodies.dedup();
    assert_eq!(bodies, ["[0]", "[1,2,3,4]", "[5,6,7,8]"]);
    check_sums(&lane, true);
}

#[tokio::test]
async fn the_lines_of_a_job_go_on_in_order_and_none_overtakes_one_that_failed() {
    let (bench, target) = (Bench::new(2), Target::start().await);
    target.decide(|heard| Reply::Status(if heard.body == "[3,4]" { 500 } else { 200 }));
    let stages = json!([{ "stage": "lines" }, { "stage": "json" }, { "stage": "batch", "max": 2, "within_ms": 50 }]);
    let lane = lane("p", stages, json!([http(&target)]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job("1\n2\n3\n4\n5\n6\n7")]).await;
    bench.until(State::Stalled, 1).await;
    assert!(target.bodies().iter().all(|body| ["[1,2]", "[3,4]"].contains(&&**body)), "{:?}", target.bodies());
    target.always(Reply::Status(200));
    let entry = &bench.in_state(State::Stalled).await[0];
    bench.store.retry(entry.job.id, (bench.now)()).await.unwrap();
    bench.until(State::Finished, 1).await;
    let bodies = target.bodies();
    assert_eq!(bodies[bodies.len() - 4..], ["[1,2]", "[3,4]", "[5,6]", "[7]"]);
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_batch_that_is_given_up_lets_nobody_overtake() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    target.always(Reply::Status(503));
    let lane = lane("p", batches(json!({ "max": 4, "within_ms": 1 })), json!([http(&target)]));
    let lease = Duration::from_secs(2);
    let worker = bench.worker(&[&lane], Settings { lease, ..SETTINGS });
    bench.put([job("0")]).await;
    until(|| !target.heard().is_empty()).await;
    for gone in bench.put((1..5).map(|n| job(n.to_string()))).await {
        until(|| lane.pipeline.stages()[1].counts.read().in_flight > 0).await;
        bench.store.retract(gone, (bench.now)()).await.unwrap();
    }
    until(|| worker.counts().lost == 4).await;
    bench.put((5..9).map(|n| job(n.to_string()))).await;
    until(|| lane.pipeline.stages()[1].counts.read().in_flight == 4).await;
    // Long enough for it to be sent, if nothing held it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(target.bodies().iter().all(|body| body == "[0]"), "{:?}", target.bodies());
    target.always(Reply::Status(200));
    bench.until(State::Finished, 5).await;
    assert_eq!(target.bodies().last().map(String::as_str), Some("[5,6,7,8]"));
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_job_that_is_taken_away_is_in_no_batch() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let lane = lane("p", batches(json!({ "max": 2, "within_ms": 60_000 })), json!([http(&target)]));
    let lease = Duration::from_secs(2);
    let worker = bench.worker(&[&lane], Settings { lease, ..SETTINGS });
    let gone = bench.put([job("1")]).await[0];
    until(|| lane.pipeline.stages()[1].counts.read().in_flight == 1).await;
    bench.store.retract(gone, (bench.now)()).await.unwrap();
    until(|| worker.counts().lost == 1).await;
    assert_eq!(lane.pipeline.stages()[1].counts.read().failed, 1);
    bench.put([job("2"), job("3")]).await;
    bench.until(State::Finished, 2).await;
    assert_eq!(target.bodies(), ["[2,3]"]);
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_batch_is_one_webhook() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    let sink = json!({ "sink": "webhook", "urls": [target.url], "key": "app-key", "secret": "signing" });
    let lane = lane("p", batches(json!({ "max": 3, "within_ms": 60_000 })), json!([sink]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put((0..3).map(|n| job(json!({ "n": n }).to_string()))).await;
    bench.until(State::Finished, 3).await;
    let heard = target.heard();
    assert_eq!(heard.len(), 1);
    let id = heard[0].headers["x-fanfare-event-id"].to_str().unwrap();
    let body: serde_json::Value = serde_json::from_str(&heard[0].body).unwrap();
    assert!(id.starts_with("batch-") && body["events"][0]["id"] == id, "{body}");
    assert_eq!(body["events"][0]["data"], json!([{ "n": 0 }, { "n": 1 }, { "n": 2 }]));
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_delay_holds_the_job() {
    let (bench, target) = (Bench::new(1), Target::start().await);
    let lane = lane("p", json!([{ "stage": "delay", "ms": 3000 }]), json!([http(&target)]));
    let _worker = bench.worker(&[&lane], Settings { lease: Duration::from_secs(2), ..SETTINGS });
    let put = Instant::now();
    bench.put([job("x")]).await;
    let finished = bench.until(State::Finished, 1).await;
    assert!(put.elapsed() >= Duration::from_secs(3) && finished[0].job.attempt == 1);
    check_sums(&lane, true);
}

/// Panics at the first record.
#[derive(Default)]
struct Faint(Mutex<Vec<JobId>>);

#[async_trait]
impl Sink for Faint {
    async fn deliver(&self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let first = {
            let mut seen = self.0.lock().unwrap();
            seen.push(JobId(delivery.record.id.job));
            seen.len() == 1
        };
        assert!(!first, "fainted");
        Ok(())
    }
}

#[tokio::test]
async fn a_panic_costs_one_attempt() {
    let bench = Bench::new(3);
    let lane = lane_into(Faint::default());
    let worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job("x"), job("y")]).await;
    let finished = bench.until(State::Finished, 2).await;
    let attempts: BTreeSet<u32> = finished.iter().map(|entry| entry.job.attempt).collect();
    assert_eq!((attempts, worker.counts().panicked), ([1, 2].into_iter().collect(), 1));
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_worker_that_stops_gives_back_what_it_has() {
    let (bench, good, hung) = (Bench::new(3), Target::start().await, Target::start().await);
    hung.always(Reply::Hang);
    let lane = lane("p", json!([]), json!([http(&good), http(&hung)]));
    let worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job("x")]).await;
    until(|| good.heard().len() == 1 && hung.heard().len() == 1).await;
    until(|| lane.outlets[0].counts().out == 1).await;
    worker.stop(Duration::from_millis(50)).await;
    let waiting = bench.until(State::Waiting, 1).await;
    assert_eq!(waiting[0].job.progress, r#"{"p":["1.http"]}"#);
    assert_eq!((waiting[0].job.attempt, &*waiting[0].reason), (1, ""), "that was no attempt");
    let counts = worker.counts();
    assert_eq!((counts.claimed, counts.released, counts.retried), (1, 1, 0));
    bench.put([job("y")]).await;
    assert_eq!((good.heard().len(), worker.counts().in_flight), (1, 0), "nothing more is claimed");
    check_sums(&lane, true);
}

/// What rations lets it pass, and what is only tried out has had it.
#[tokio::test]
async fn a_released_job_is_a_repeat_although_it_is_in_its_first_attempt() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    target.always(Reply::Hang);
    let throttle = json!([{ "stage": "throttle", "per_s": 0.001, "burst": 1 }]);
    let (lane, tried) = (lane("p", throttle, json!([http(&target)])), shadow("tried", json!([]), json!([])));
    let first = bench.worker(&[&lane, &tried], SETTINGS);
    bench.put([job("x")]).await;
    until(|| target.heard().len() == 1 && tried.passed().taken == 1).await;
    first.stop(Duration::ZERO).await;
    let released = bench.until(State::Waiting, 1).await;
    assert_eq!((released[0].job.attempt, &*released[0].job.progress), (1, &br#"{"p":[],"tried":[]}"#[..]));
    target.always(Reply::Status(200));
    let _second = bench.worker(&[&lane, &tried], SETTINGS);
    bench.until(State::Finished, 1).await;
    assert_eq!((target.heard().len(), tried.passed().taken), (2, 1));
}

#[tokio::test]
async fn what_a_process_that_died_had_claimed_is_claimed_again_at_once() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    bench.put([keyed("k", "x"), keyed("k", "y")]).await;
    let claim = Claim { jobs_max: 10, lease_ms: 3_600_000, owner: "pipelines".into() };
    assert_eq!(bench.store.claim(claim, (bench.now)()).await.unwrap().jobs.len(), 1);
    let lane = lane("p", json!([]), json!([http(&target)]));
    let (store, now) = (bench.store.clone(), bench.now.clone());
    let _worker = Worker::start("q", store, now, plan(&[&lane]), SETTINGS, Others::Nobody);
    bench.until(State::Finished, 2).await;
    assert_eq!(target.bodies(), ["x", "y"]);
}

#[tokio::test]
async fn a_job_that_is_taken_away_is_let_go() {
    let (bench, hung) = (Bench::new(3), Target::start().await);
    hung.always(Reply::Hang);
    let lane = lane("p", json!([]), json!([http(&hung)]));
    let worker = bench.worker(&[&lane], Settings { lease: Duration::from_millis(300), ..SETTINGS });
    let ids = bench.put([job("x")]).await;
    until(|| hung.heard().len() == 1).await;
    bench.store.retract(ids[0], (bench.now)()).await.unwrap();
    until(|| worker.counts().lost == 1 && worker.counts().in_flight == 0).await;
    check_sums(&lane, true);
}

#[tokio::test]
async fn a_sink_that_gets_nowhere_raises_an_alarm_until_it_does() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    target.always(Reply::Status(503));
    let lane = lane("p", json!([]), json!([http(&target)]));
    let worker = bench.worker(&[&lane], Settings { stuck_after: Duration::from_millis(300), ..SETTINGS });
    bench.put([job("x")]).await;
    until(|| worker.stuck().len() == 1).await;
    assert_eq!((&*worker.stuck()[0].pipeline, &*worker.stuck()[0].part), ("p", "1.http"));
    target.always(Reply::Status(200));
    bench.until(State::Finished, 1).await;
    until(|| worker.stuck().is_empty()).await;
}

#[tokio::test]
async fn a_webhook_is_signed_and_names_its_event() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    let sink = json!({ "sink": "webhook", "urls": [target.url], "key": "app-key", "secret": "signing" });
    let lane = lane("p", json!([{ "stage": "json" }]), json!([sink]));
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([fanfare_jobs::Spec { idempotency_key: Some("post-17".into()), ..job(r#"{"a":1}"#) }]).await;
    bench.until(State::Finished, 1).await;
    let heard = target.heard().remove(0);
    assert_eq!(heard.headers["x-pusher-key"], "app-key");
    assert_eq!(heard.headers["x-fanfare-event-id"], "post-17");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
    let signature = ring::hmac::sign(&key, heard.body.as_bytes());
    let signature: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(heard.headers["x-pusher-signature"], signature);
    let body: serde_json::Value = serde_json::from_str(&heard.body).unwrap();
    assert_eq!((&body["events"][0]["id"], &body["events"][0]["data"]), (&json!("post-17"), &json!({ "a": 1 })));
}

#[tokio::test]
async fn publishers_of_other_servers_get_one_request_per_channel() {
    let (bench, target) = (Bench::new(3), Target::start().await);
    let stages = json!([
        { "stage": "json" },
        { "stage": "route", "channels": ["forum.{{f}}", "thread.{{t}}"], "event": "{{kind}}" },
    ]);
    let sinks = json!([{ "sink": "push_stream", "urls": [target.url] }]);
    let lane = lane("p", stages, sinks);
    let _worker = bench.worker(&[&lane], SETTINGS);
    bench.put([job(r#"{"f":1,"t":2}"#)]).await;
    bench.until(State::Finished, 1).await;
    let heard: Vec<_> =
        target.heard().into_iter().map(|heard| (heard.target, heard.headers["event-type"].clone())).collect();
    assert_eq!(
        heard,
        [("/in?id=forum.1".into(), "create".parse().unwrap()), ("/in?id=thread.2".into(), "create".parse().unwrap())]
    );
}
