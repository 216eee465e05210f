//! The store on disk keeps the contract, does what the model does with the store closed and opened in between, and loses
//! nothing by it.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_jobs::testing::{LIMITS, model};
use fanfare_jobs::{Claim, Disk, DiskError, JobStore, Limits, Put, Query, Spec, State, StoreError};
use proptest::prelude::*;

/// A queue in a folder that nobody sees any more.
async fn start() -> Arc<dyn JobStore> {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let queue = disk.queue("app/comments", LIMITS);
    std::mem::forget(disk);
    queue
}

fn open(path: &Path) -> Disk {
    Disk::open_with(path, 1 << 20).expect("a folder opens")
}

fanfare_jobs::job_store_contract!(
    #[tokio::test]
    start
);

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn the_store_does_what_the_model_does(verbs in model::verbs()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
        let folder = tempfile::tempdir().expect("a folder");
        let disk = RefCell::new(Some(open(folder.path())));
        let queue = || disk.borrow().as_ref().expect("it is open").queue("app/comments", LIMITS);
        let reopen = async |store| {
            drop(store);
            drop(disk.take());
            disk.replace(Some(open(folder.path())));
            queue()
        };
        runtime.block_on(model::compare(queue(), verbs, reopen));
    }
}

fn claim(jobs_max: usize) -> Claim {
    Claim { jobs_max, lease_ms: 1_000, owner: "worker".into() }
}

async fn put(queue: &Arc<dyn JobStore>, jobs: usize, now_ms: u64) -> Vec<Put> {
    let spec = |number| Spec { data: format!("job {number}").into(), ..Spec::default() };
    queue.put((0..jobs).map(spec).collect(), now_ms).await.expect("a store puts")
}

#[tokio::test]
async fn queues_of_a_folder_are_apart_and_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let [first, second] = ["app/a", "app/b"].map(|name| disk.queue(name, Limits::default()));
    let (in_first, in_second) = (put(&first, 3, 1).await, put(&second, 2, 1).await);
    assert_eq!(in_first[..2], in_second[..], "each numbers its own");
    drop((first, second, disk));
    let disk = open(folder.path());
    assert_eq!(disk.names(), [Box::from("app/a"), Box::from("app/b")]);
    let second = disk.queue("app/b", Limits::default());
    assert_eq!(second.counts().await.expect("a store counts").waiting, 2);
    assert_eq!(put(&second, 1, 2).await[0].id().0, 3);
}

#[tokio::test]
async fn a_folder_is_opened_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let _disk = open(folder.path());
    let Err(DiskError::Locked { owner, .. }) = Disk::open(folder.path()) else { panic!("opened twice") };
    assert_eq!(*owner, *format!("process {}", std::process::id()));
}

#[tokio::test]
async fn another_format_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    std::fs::write(folder.path().join("format"), "fanfare queues, format 2\n").expect("a file");
    let error = Disk::open(folder.path()).err().expect("it is refused").to_string();
    assert!(error.contains("format 2") && error.contains("format 1"), "{error}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let queue = disk.queue("app/a", Limits::default());
    put(&queue, 1, 1).await;
    drop(disk);
    let error = queue.put(vec![Spec::default()], 2).await.expect_err("it is closed").to_string();
    assert!(error.contains("closed"), "{error}");
    assert!(queue.list(Query::all(State::Waiting)).await.is_err());
}

#[tokio::test]
async fn what_is_left_of_delays_and_leases_is_left_after_the_clock_went_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let queue = disk.queue("app/a", Limits::default());
    let hour_ms = 3_600_000;
    put(&queue, 2, 2 * hour_ms).await;
    let delayed = Spec { not_before_ms: 2 * hour_ms + 5_000, ..Spec::default() };
    queue.put(vec![delayed], 2 * hour_ms).await.expect("a store puts");
    queue.claim(claim(1), 2 * hour_ms + 400).await.expect("a store claims");
    drop((queue, disk));
    let disk = open(folder.path());
    let queue = disk.queue("app/a", Limits::default());
    let claimed = queue.claim(claim(9), hour_ms).await.expect("a store claims");
    assert_eq!((claimed.jobs.len(), claimed.next_ms), (1, Some(hour_ms + 1_000)));
    let waits = queue.claim(claim(9), hour_ms + 999).await.expect("a store claims");
    assert_eq!(waits.jobs.len(), 0);
    let again = queue.claim(claim(9), hour_ms + 1_000).await.expect("a store claims");
    assert_eq!(again.jobs.len(), 2, "both leases are over");
    let late = queue.claim(claim(9), hour_ms + 4_600).await.expect("a store claims");
    assert_eq!(late.jobs.iter().filter(|(job, _)| job.attempt == 1).count(), 1, "what was delayed");
}

#[tokio::test]
async fn no_lease_has_a_number_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut numbers = Vec::new();
    for now_ms in [1, 2_000, 4_000] {
        let disk = open(folder.path());
        let queue = disk.queue("app/a", Limits::default());
        put(&queue, 1, now_ms).await;
        let claimed = queue.claim(claim(9), now_ms).await.expect("a store claims");
        numbers.extend(claimed.jobs.iter().map(|(_, lease)| lease.number));
        let (_, lease) = claimed.jobs[0];
        queue.finish(lease, Bytes::new(), now_ms + 1).await.expect("the lease holds");
    }
    let mut apart = numbers.clone();
    apart.sort_unstable();
    apart.dedup();
    assert_eq!(apart, numbers);
}

#[tokio::test]
async fn what_is_due_at_once_is_done_in_slices() {
    const JOBS: usize = 2_500;
    let folder = tempfile::tempdir().expect("a folder");
    let disk = open(folder.path());
    let queue = disk.queue("app/a", Limits { kept_ms: 0, ..Limits::default() });
    put(&queue, JOBS, 1).await;
    let claimed = queue.claim(claim(JOBS), 1).await.expect("a store claims").jobs;
    let (_, last) = claimed[JOBS - 1];
    assert_eq!(queue.finish(last, Bytes::new(), 5_000).await, Err(StoreError::LeaseLost(last.job)), "it is due itself");
    let counts = queue.counts().await.expect("a store counts");
    assert!(counts.claimed > 0, "one verb does not do all of it");
    queue.sweep(5_000).await.expect("a store sweeps");
    let counts = queue.counts().await.expect("a store counts");
    assert_eq!((counts.waiting, counts.claimed, counts.totals.failed), (JOBS as u64, 0, JOBS as u64));
    let again = queue.claim(claim(JOBS), 5_000).await.expect("a store claims").jobs;
    let finishes = again.iter().map(|(_, lease)| queue.finish(*lease, Bytes::new(), 5_000));
    futures_util::future::join_all(finishes).await.into_iter().for_each(|done| done.expect("the lease holds"));
    queue.sweep(5_000).await.expect("a store sweeps");
    assert_eq!(queue.counts().await.expect("a store counts").kept, 0);
}
