//! A queue among whose jobs one has to be found.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_jobs::{Cancel, Claim, Limits, Spec};

use super::tests::{node, settings};
use crate::config::{Durability, QueueSettings, test_redis};
use crate::redis::tests::support::Redis as Server;

/// Jobs that wait, unless `JOBS` in the environment says another number. A million take minutes to put, and a claim among
/// them as long as among these.
const JOBS: usize = 50_000;

/// Jobs of one put: one call of a script.
const BATCH: usize = 1_000;

/// How long one job takes to be claimed, given back, claimed again and finished among so many that wait, at the median.
async fn time_among(jobs: usize) -> Duration {
    let server = Server::standalone();
    let node = node(&test_redis(&server.url())).await;
    let limits = Limits { jobs_max: usize::MAX, bytes_max: usize::MAX, ..Limits::default() };
    let store = node.queue("1", &QueueSettings { limits, ..settings("comments", Durability::Memory) });
    for first in (0..jobs).step_by(BATCH) {
        let spec = |n: usize| Spec { key: Some((first + n).to_string().into()), data: "x".into(), ..Spec::default() };
        store.put((0..BATCH).map(spec).collect(), 0).await.expect("a store puts");
    }
    assert_eq!(store.counts().await.expect("a store counts").waiting, jobs as u64);
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        let claim = || Claim { jobs_max: 1, lease_ms: 600_000, owner: "worker".into() };
        let (job, lease) = store.claim(claim(), 0).await.expect("a store claims").jobs.remove(0);
        store.cancel(lease, Cancel::Released { progress: None }, 0).await.expect("the lease holds");
        let (again, lease) = store.claim(claim(), 0).await.expect("a store claims").jobs.remove(0);
        store.finish(lease, Bytes::new(), 0).await.expect("the lease holds");
        times.push(began.elapsed());
        assert_eq!(job.id, again.id, "it was back in its old place");
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_costs_the_same_among_many() {
    let jobs = std::env::var("JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(JOBS);
    let (few, many) = (time_among(1_000).await, time_among(jobs).await);
    eprintln!("{few:?} among a thousand, {many:?} among {jobs}");
    assert!(many < few * 10 + Duration::from_millis(20), "{few:?} among a thousand, {many:?} among {jobs}");
}
