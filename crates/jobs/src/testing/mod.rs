//! The promises that every [`JobStore`] keeps, as tests that an implementation runs on itself.
//!
//! [`job_store_contract!`](crate::job_store_contract) makes a test of each promise, so that none can be left out;
//! [`model`] compares a store with a naive one under random verbs. [`log`] is about logs.

pub mod log;
pub mod model;

use std::sync::Arc;

use bytes::Bytes;

use crate::job::{Cancel, Entry, Failure, Job, JobId, Lease, Phase, Spec, State};
use crate::store::{Claim, Claimed, Counts, JobStore, Limits, Put, Query, StoreError};

/// The limits that a store under test has: small, so that each is met.
pub const LIMITS: Limits = Limits { jobs_max: 8, bytes_max: 80, kept_ms: 1000, kept_max: 6, attempts_max: 3 };

/// A test of each promise: `job_store_contract!(#[tokio::test] start);` where `start` is an async function to an empty
/// `Arc<dyn JobStore>` with these [`LIMITS`]. Where starting is dear, one test of them all: `job_store_contract!(in_turn start);`.
#[macro_export]
macro_rules! job_store_contract {
    (#[$test:meta] $start:path) => {
        $crate::job_store_contract! { @promises [#[$test] $start] }
    };
    (in_turn $start:expr) => {
        $crate::job_store_contract! { @promises [in_turn $start] }
    };
    (@promises $how:tt) => {
        $crate::job_store_contract! { @test $how:
            a_job_passes_through_its_states
            the_highest_priority_goes_first_then_the_longest_in_the_queue
            a_job_waits_for_its_time
            jobs_of_one_key_are_claimed_one_at_a_time_in_order
            a_failing_job_holds_its_key_until_it_is_stalled
            a_lease_that_ran_out_gives_the_job_back
            an_extended_lease_ends_later
            a_cancelled_job_comes_back_at_its_time
            a_released_job_is_back_in_its_old_place
            a_release_costs_no_attempt
            a_retried_job_begins_anew_behind_all_others
            a_retracted_job_is_gone_whatever_its_state
            a_job_of_a_known_name_is_put_once
            several_jobs_are_put_all_or_none
            several_jobs_are_claimed_at_once_and_those_of_a_key_still_one_by_one
            a_claim_says_when_the_next_job_may_come
            whoever_waits_is_woken
            the_owner_of_a_claim_is_known
            progress_and_reason_outlive_a_failed_attempt
            the_last_attempt_that_fails_stalls_the_job
            a_full_store_refuses_and_changes_nothing
            a_store_takes_no_more_bytes_than_its_limit
            only_so_many_finished_jobs_are_kept
            limits_can_be_changed
            a_list_is_of_one_state_and_a_range_of_time
            a_list_is_of_one_key_and_of_attempts
            a_list_comes_page_by_page
            the_counts_add_up
        }
    };
    (@test [#[$test:meta] $start:path]: $($promise:ident)+) => {
        $(#[$test] async fn $promise() { $crate::testing::$promise($start().await).await; })+
    };
    (@test [in_turn $start:expr]: $($promise:ident)+) => {
        $($crate::testing::$promise($start().await).await;)+
    };
}

type Store = Arc<dyn JobStore>;

/// A job for this key.
fn keyed(key: &str) -> Spec {
    Spec { key: Some(key.into()), ..Spec::default() }
}

/// A job with so many bytes of data.
fn sized(bytes: usize) -> Spec {
    Spec { data: vec![b'.'; bytes].into(), ..Spec::default() }
}

async fn put(store: &Store, spec: Spec, now_ms: u64) -> JobId {
    match store.put(vec![spec], now_ms).await.as_deref() {
        Ok([Put::New(id)]) => *id,
        other => panic!("not put: {other:?}"),
    }
}

/// Claims up to so many for 100 ms.
async fn claim_some(store: &Store, jobs_max: usize, now_ms: u64) -> Claimed {
    let claim = Claim { jobs_max, lease_ms: 100, owner: "worker".into() };
    store.claim(claim, now_ms).await.expect("a store claims")
}

/// Claims one for 100 ms; there must be one.
async fn claim_job(store: &Store, now_ms: u64) -> (Job, Lease) {
    let (job, lease) = claim_some(store, 1, now_ms).await.jobs.pop().expect("a job may be claimed");
    assert_eq!((lease.job, lease.until_ms), (job.id, now_ms + 100));
    (job, lease)
}

async fn claim(store: &Store, now_ms: u64) -> (JobId, u32, Lease) {
    let (job, lease) = claim_job(store, now_ms).await;
    (job.id, job.attempt, lease)
}

async fn nothing_to_claim(store: &Store, now_ms: u64) {
    assert_eq!(claim_some(store, 1, now_ms).await.jobs, []);
}

async fn finish(store: &Store, lease: Lease, now_ms: u64) {
    assert_eq!(store.finish(lease, Bytes::new(), now_ms).await, Ok(()));
}

/// Follows the cursor to the end.
async fn list_all(store: &Store, mut query: Query) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let page = store.list(query.clone()).await.expect("a store lists");
        assert!(page.entries.len() <= query.limit);
        entries.extend(page.entries);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return entries,
        }
    }
}

async fn list(store: &Store, state: State) -> Vec<Entry> {
    list_all(store, Query::all(state)).await
}

fn ids(entries: &[Entry]) -> Vec<JobId> {
    entries.iter().map(|entry| entry.job.id).collect()
}

async fn count(store: &Store) -> usize {
    let mut sum = 0;
    for state in State::ALL {
        sum += list(store, state).await.len();
    }
    sum
}

async fn expect_in(store: &Store, state: State, id: JobId) {
    assert_eq!((ids(&list(store, state).await), count(store).await), (vec![id], 1), "{state:?} and nothing else");
}

fn failure(reason: &str, progress: &'static str) -> Failure {
    Failure { reason: reason.into(), progress: progress.into() }
}

fn failed(retry_at_ms: u64, failure: Failure) -> Cancel {
    Cancel::Failed { retry_at_ms, failure }
}

fn released() -> Cancel {
    Cancel::Released { progress: None }
}

/// From put to finished, and forgotten when the time for questions is over.
pub async fn a_job_passes_through_its_states(store: Store) {
    let id = put(&store, Spec { data: "work".into(), ..Spec::default() }, 1).await;
    expect_in(&store, State::Waiting, id).await;
    let (job, lease) = claim_job(&store, 2).await;
    expect_in(&store, State::Claimed, id).await;
    assert_eq!((job.attempt, job.put_ms, &*job.spec.data), (1, 1, &b"work"[..]));
    assert_eq!(list(&store, State::Claimed).await[0].job, job);
    assert_eq!(store.finish(lease, "well done".into(), 3).await, Ok(()));
    expect_in(&store, State::Finished, id).await;
    assert_eq!(list(&store, State::Finished).await[0].phase, Phase::Finished { result: "well done".into() });
    assert_eq!(store.finish(lease, Bytes::new(), 4).await, Err(StoreError::LeaseLost(id)), "twice");
    assert_eq!(store.sweep(3 + LIMITS.kept_ms - 1).await, Ok(()));
    expect_in(&store, State::Finished, id).await;
    assert_eq!(store.sweep(3 + LIMITS.kept_ms).await, Ok(()));
    assert_eq!(count(&store).await, 0);
}

/// Priority decides, then order.
pub async fn the_highest_priority_goes_first_then_the_longest_in_the_queue(store: Store) {
    let mut ids = Vec::new();
    for priority in [0, 7, 0, 7] {
        ids.push(put(&store, Spec { priority, ..Spec::default() }, 1).await);
    }
    for index in [1, 3, 0, 2] {
        assert_eq!(claim(&store, 2).await.0, ids[index]);
    }
}

/// Nobody gets it early.
pub async fn a_job_waits_for_its_time(store: Store) {
    let id = put(&store, Spec { not_before_ms: 50, ..Spec::default() }, 1).await;
    expect_in(&store, State::Delayed, id).await;
    nothing_to_claim(&store, 49).await;
    assert_eq!(store.sweep(50).await, Ok(()));
    expect_in(&store, State::Waiting, id).await;
    assert_eq!(claim(&store, 50).await.0, id);
}

/// Other keys, and jobs without one, go past.
pub async fn jobs_of_one_key_are_claimed_one_at_a_time_in_order(store: Store) {
    let first = put(&store, keyed("a"), 1).await;
    let second = put(&store, Spec { priority: 9, ..keyed("a") }, 1).await;
    let other = put(&store, keyed("b"), 1).await;
    let free = put(&store, Spec::default(), 1).await;
    let (id, _, lease) = claim(&store, 2).await;
    assert_eq!(id, first);
    assert_eq!((claim(&store, 2).await.0, claim(&store, 2).await.0), (other, free));
    nothing_to_claim(&store, 2).await;
    finish(&store, lease, 3).await;
    assert_eq!(claim(&store, 3).await.0, second);
}

/// Also while it waits for its next attempt.
pub async fn a_failing_job_holds_its_key_until_it_is_stalled(store: Store) {
    let first = put(&store, keyed("a"), 1).await;
    let second = put(&store, keyed("a"), 1).await;
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.cancel(lease, failed(50, Failure::default()), 3).await, Ok(State::Delayed));
    nothing_to_claim(&store, 49).await;
    let (id, attempt, lease) = claim(&store, 50).await;
    assert_eq!((id, attempt), (first, 2));
    assert_eq!(store.stall(lease, failure("poison", ""), 51).await, Ok(()));
    assert_eq!(claim(&store, 51).await.0, second);
    assert_eq!(list(&store, State::Stalled).await[0].job.id, first);
}

/// The worker that was too slow is told so.
pub async fn a_lease_that_ran_out_gives_the_job_back(store: Store) {
    let id = put(&store, keyed("a"), 1).await;
    let (_, _, late) = claim(&store, 2).await;
    nothing_to_claim(&store, 101).await;
    assert_eq!(store.finish(late, Bytes::new(), 102).await, Err(StoreError::LeaseLost(id)));
    expect_in(&store, State::Waiting, id).await;
    let (again, attempt, lease) = claim(&store, 103).await;
    assert_eq!((again, attempt), (id, 2));
    assert_eq!(store.finish(late, Bytes::new(), 104).await, Err(StoreError::LeaseLost(id)), "somebody else has it");
    finish(&store, lease, 105).await;
}

/// Also for whoever holds an earlier copy of it.
pub async fn an_extended_lease_ends_later(store: Store) {
    let id = put(&store, Spec::default(), 1).await;
    let (_, _, lease) = claim(&store, 2).await;
    let longer = store.extend(lease, 500, 101).await.expect("the lease holds");
    assert_eq!((longer.until_ms, longer.number), (500, lease.number));
    nothing_to_claim(&store, 499).await;
    assert_eq!(store.extend(longer, 900, 500).await, Err(StoreError::LeaseLost(id)));
    assert_eq!(claim(&store, 500).await.1, 2);
}

/// At once, where no later time is named; in its old place.
pub async fn a_cancelled_job_comes_back_at_its_time(store: Store) {
    let id = put(&store, Spec::default(), 1).await;
    put(&store, Spec::default(), 1).await;
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.cancel(lease, failed(0, Failure::default()), 3).await, Ok(State::Waiting));
    let (again, attempt, lease) = claim(&store, 3).await;
    assert_eq!((again, attempt), (id, 2));
    assert_eq!(store.cancel(lease, failed(10, Failure::default()), 4).await, Ok(State::Delayed));
    assert_eq!(list(&store, State::Delayed).await[0].job.id, id);
    assert_ne!(claim(&store, 9).await.0, id);
    assert_eq!(claim(&store, 10).await.0, id);
}

/// First of its key, and before all that was put after it.
pub async fn a_released_job_is_back_in_its_old_place(store: Store) {
    let id = put(&store, keyed("a"), 1).await;
    put(&store, keyed("a"), 1).await;
    let free = put(&store, Spec::default(), 1).await;
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.cancel(lease, released(), 3).await, Ok(State::Waiting));
    assert_eq!(list(&store, State::Waiting).await.last().map(|entry| (entry.job.id, entry.since_ms)), Some((id, 3)));
    let (again, _, newer) = claim(&store, 4).await;
    assert_eq!(again, id);
    assert_eq!(store.cancel(lease, released(), 5).await, Err(StoreError::LeaseLost(id)), "somebody else has it");
    assert_eq!(claim(&store, 5).await.0, free);
    nothing_to_claim(&store, 5).await;
    finish(&store, newer, 6).await;
    assert_eq!(store.cancel(newer, released(), 7).await, Err(StoreError::LeaseLost(id)));
}

/// However often, and after any other attempt. What was done of it, and why it failed before, is still known.
pub async fn a_release_costs_no_attempt(store: Store) {
    put(&store, Spec::default(), 1).await;
    let (_, _, lease) = claim(&store, 1).await;
    assert_eq!(store.cancel(lease, failed(0, failure("no answer", "half")), 1).await, Ok(State::Waiting));
    for _ in 0..LIMITS.attempts_max + 2 {
        let (job, lease) = claim_job(&store, 2).await;
        assert_eq!((job.attempt, &*job.progress), (2, &b"half"[..]));
        assert_eq!(store.cancel(lease, released(), 2).await, Ok(State::Waiting));
    }
    assert_eq!(&*list(&store, State::Waiting).await[0].reason, "no answer");
    let (_, lease) = claim_job(&store, 3).await;
    assert_eq!(store.cancel(lease, Cancel::Released { progress: Some("more".into()) }, 3).await, Ok(State::Waiting));
    let (job, _) = claim_job(&store, 4).await;
    assert_eq!((job.attempt, &*job.progress), (2, &b"more"[..]));
    assert_eq!(store.sweep(104).await, Ok(()));
    assert_eq!(claim(&store, 104).await.1, 3, "whoever says nothing has made an attempt");
    let totals = store.counts().await.expect("a store counts").totals;
    assert_eq!((totals.claimed, totals.failed, totals.released), (9, 2, 6));
}

/// Somebody has looked at it.
pub async fn a_retried_job_begins_anew_behind_all_others(store: Store) {
    let id = put(&store, keyed("a"), 1).await;
    assert_eq!(store.retry(id, 1).await, Err(StoreError::NotStalled(id)));
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.cancel(lease, failed(0, Failure::default()), 2).await, Ok(State::Waiting));
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.stall(lease, failure("poison", ""), 3).await, Ok(()));
    let later = put(&store, keyed("a"), 4).await;
    assert_eq!(store.retry(id, 5).await, Ok(()));
    let (first, _, lease) = claim(&store, 6).await;
    assert_eq!(first, later);
    finish(&store, lease, 7).await;
    let (second, attempt, _) = claim(&store, 8).await;
    assert_eq!((second, attempt), (id, 1));
}

/// And lets go of its key and its name.
pub async fn a_retracted_job_is_gone_whatever_its_state(store: Store) {
    let spec = || Spec { idempotency_key: Some("once".into()), ..keyed("a") };
    let claimed = put(&store, spec(), 1).await;
    let waiting = put(&store, keyed("a"), 1).await;
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.retract(claimed, 3).await, Ok(()));
    assert_eq!(store.finish(lease, Bytes::new(), 4).await, Err(StoreError::Unknown(claimed)));
    assert_eq!(claim(&store, 5).await.0, waiting);
    assert_eq!(store.retract(waiting, 6).await, Ok(()));
    assert_eq!(store.retract(waiting, 6).await, Err(StoreError::Unknown(waiting)));
    assert_eq!(count(&store).await, 0);
    put(&store, spec(), 7).await;
}

/// For as long as it is known, finished or not.
pub async fn a_job_of_a_known_name_is_put_once(store: Store) {
    let spec = || Spec { idempotency_key: Some("once".into()), ..Spec::default() };
    let id = put(&store, spec(), 1).await;
    assert_eq!(store.put(vec![spec()], 2).await, Ok(vec![Put::Known(id)]));
    let (_, _, lease) = claim(&store, 3).await;
    finish(&store, lease, 4).await;
    assert_eq!(store.put(vec![spec()], 5).await, Ok(vec![Put::Known(id)]));
    assert_eq!(store.sweep(4 + LIMITS.kept_ms).await, Ok(()));
    assert_ne!(put(&store, spec(), 5 + LIMITS.kept_ms).await, id);
}

/// A batch is one act.
pub async fn several_jobs_are_put_all_or_none(store: Store) {
    let named = |name: &str| Spec { idempotency_key: Some(name.into()), ..Spec::default() };
    let known = put(&store, named("a"), 1).await;
    let puts = store.put(vec![named("a"), named("b"), Spec::default(), named("b")], 2).await.expect("a store puts");
    let [Put::Known(first), Put::New(b), Put::New(third), Put::Known(again)] = puts[..] else { panic!("{puts:?}") };
    assert_eq!((first, again), (known, b));
    assert_eq!(ids(&list(&store, State::Waiting).await), [known, b, third]);
    let too_many = vec![Spec::default(); LIMITS.jobs_max - 2];
    assert!(matches!(store.put(too_many, 3).await, Err(StoreError::Full { .. })));
    assert_eq!(count(&store).await, 3);
    assert_eq!(store.put(vec![], 4).await, Ok(vec![]));
}

/// And no more than were asked for.
pub async fn several_jobs_are_claimed_at_once_and_those_of_a_key_still_one_by_one(store: Store) {
    let specs = vec![keyed("a"), keyed("a"), Spec::default(), keyed("b"), Spec::default()];
    let puts: Vec<_> = store.put(specs, 1).await.expect("a store puts").into_iter().map(Put::id).collect();
    let claimed = |claimed: Claimed| claimed.jobs.iter().map(|(job, _)| job.id).collect::<Vec<_>>();
    assert_eq!(claimed(claim_some(&store, 2, 2).await), [puts[0], puts[2]]);
    let rest = claim_some(&store, 9, 2).await;
    assert_ne!(rest.jobs[0].1.number, rest.jobs[1].1.number);
    assert_eq!(claimed(rest), puts[3..]);
    nothing_to_claim(&store, 3).await;
}

/// For whoever waits.
pub async fn a_claim_says_when_the_next_job_may_come(store: Store) {
    assert_eq!(claim_some(&store, 1, 1).await, Claimed::default());
    put(&store, Spec { not_before_ms: 500, ..Spec::default() }, 1).await;
    assert_eq!(claim_some(&store, 1, 1).await.next_ms, Some(500));
    put(&store, Spec::default(), 1).await;
    assert_eq!(claim_some(&store, 1, 1).await.next_ms, Some(101));
    assert_eq!(claim_some(&store, 2, 101).await.next_ms, Some(201));
}

/// By whatever may let a job be claimed, or lets it be claimed earlier.
pub async fn whoever_waits_is_woken(store: Store) {
    let mut wakes = store.wakes();
    let mut woken = async || {
        let change = tokio::time::timeout(std::time::Duration::from_secs(10), wakes.changed()).await;
        change.expect("somebody is woken").expect("the store is there");
    };
    let puts = store.put(vec![keyed("a"); 5], 1).await.expect("a store puts");
    woken().await;
    let (_, _, lease) = claim(&store, 1).await;
    assert_eq!(store.cancel(lease, failed(0, Failure::default()), 1).await, Ok(State::Waiting));
    woken().await;
    let (_, _, lease) = claim(&store, 1).await;
    assert_eq!(store.cancel(lease, released(), 1).await, Ok(State::Waiting));
    woken().await;
    let (_, _, lease) = claim(&store, 1).await;
    finish(&store, lease, 1).await;
    woken().await;
    let (stalled, _, lease) = claim(&store, 1).await;
    assert_eq!(store.stall(lease, Failure::default(), 1).await, Ok(()));
    woken().await;
    assert_eq!(store.retry(stalled, 1).await, Ok(()));
    woken().await;
    assert_eq!(store.retract(puts[2].id(), 1).await, Ok(()));
    woken().await;
    let (_, _, lease) = claim(&store, 1).await;
    store.extend(lease, 50, 1).await.expect("the lease holds");
    woken().await;
}

/// For the person who looks.
pub async fn the_owner_of_a_claim_is_known(store: Store) {
    put(&store, Spec::default(), 1).await;
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(list(&store, State::Claimed).await[0].phase, Phase::Claimed { lease, owner: "worker".into() });
}

/// So that a retry does only what is missing.
pub async fn progress_and_reason_outlive_a_failed_attempt(store: Store) {
    let id = put(&store, Spec::default(), 1).await;
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.cancel(lease, failed(9, failure("no answer", "half")), 3).await, Ok(State::Delayed));
    let delayed = &list(&store, State::Delayed).await[0];
    assert_eq!((&*delayed.reason, &*delayed.job.progress), ("no answer", &b"half"[..]));
    let (job, lease) = claim_job(&store, 10).await;
    assert_eq!((&*job.progress, job.attempt), (&b"half"[..], 2));
    assert_eq!(store.stall(lease, failure("poison", "more"), 11).await, Ok(()));
    let stalled = &list(&store, State::Stalled).await[0];
    assert_eq!((&*stalled.reason, &*stalled.job.progress), ("poison", &b"more"[..]));
    assert_eq!(store.retry(id, 12).await, Ok(()));
    assert_eq!(&*claim_job(&store, 13).await.0.progress, b"more");
    assert_eq!(store.sweep(113).await, Ok(()));
    let waiting = &list(&store, State::Waiting).await[0];
    assert_eq!((&*waiting.reason, &*waiting.job.progress), ("the lease ran out", &b"more"[..]));
}

/// Whether it is given back or its lease runs out.
pub async fn the_last_attempt_that_fails_stalls_the_job(store: Store) {
    for _ in 0..2 {
        put(&store, Spec::default(), 1).await;
    }
    let mut now_ms = 1;
    for attempt in 1..LIMITS.attempts_max {
        let (_, in_attempt, lease) = claim(&store, now_ms).await;
        assert_eq!(in_attempt, attempt);
        assert_eq!(store.cancel(lease, failed(0, Failure::default()), now_ms).await, Ok(State::Waiting));
    }
    let (_, _, lease) = claim(&store, now_ms).await;
    assert_eq!(store.cancel(lease, failed(0, Failure::default()), now_ms).await, Ok(State::Stalled));
    for _ in 0..LIMITS.attempts_max {
        claim(&store, now_ms).await;
        now_ms += 100;
    }
    nothing_to_claim(&store, now_ms).await;
    let stalled = list(&store, State::Stalled).await;
    assert_eq!((stalled.len(), stalled[1].job.attempt, stalled[1].since_ms), (2, LIMITS.attempts_max, now_ms));
}

/// Finished jobs are no load.
pub async fn a_full_store_refuses_and_changes_nothing(store: Store) {
    for _ in 0..LIMITS.jobs_max {
        put(&store, Spec::default(), 1).await;
    }
    let Limits { jobs_max, bytes_max, .. } = LIMITS;
    assert_eq!(store.put(vec![Spec::default()], 2).await, Err(StoreError::Full { jobs_max, bytes_max }));
    assert_eq!(count(&store).await, LIMITS.jobs_max);
    let (_, _, lease) = claim(&store, 3).await;
    finish(&store, lease, 4).await;
    put(&store, Spec::default(), 5).await;
}

/// Whatever the number of jobs.
pub async fn a_store_takes_no_more_bytes_than_its_limit(store: Store) {
    put(&store, sized(LIMITS.bytes_max - 1), 1).await;
    assert!(matches!(store.put(vec![sized(2)], 2).await, Err(StoreError::Full { .. })));
    put(&store, sized(1), 2).await;
    let (_, _, lease) = claim(&store, 3).await;
    finish(&store, lease, 4).await;
    put(&store, sized(LIMITS.bytes_max - 1), 5).await;
}

/// The oldest are forgotten.
pub async fn only_so_many_finished_jobs_are_kept(store: Store) {
    let mut finished = Vec::new();
    for now_ms in 1..=LIMITS.kept_max as u64 + 2 {
        finished.push(put(&store, Spec::default(), now_ms).await);
        let (_, _, lease) = claim(&store, now_ms).await;
        finish(&store, lease, now_ms).await;
    }
    assert_eq!(store.sweep(10).await, Ok(()));
    assert_eq!(ids(&list(&store, State::Finished).await), finished[2..]);
}

/// While there are jobs; those stay.
pub async fn limits_can_be_changed(store: Store) {
    for _ in 0..3 {
        put(&store, Spec::default(), 1).await;
    }
    store.set_limits(Limits { jobs_max: 2, attempts_max: 1, ..LIMITS });
    assert_eq!(store.put(vec![Spec::default()], 2).await, Err(StoreError::Full { jobs_max: 2, bytes_max: 80 }));
    let (_, _, lease) = claim(&store, 3).await;
    assert_eq!(store.cancel(lease, failed(0, Failure::default()), 3).await, Ok(State::Stalled));
    store.set_limits(LIMITS);
    put(&store, Spec::default(), 4).await;
    assert_eq!(count(&store).await, 4);
}

/// "What was processed between then and then" has an answer.
pub async fn a_list_is_of_one_state_and_a_range_of_time(store: Store) {
    let mut put_ids = Vec::new();
    for now_ms in 1..=5 {
        put_ids.push(put(&store, Spec::default(), now_ms).await);
        let (_, _, lease) = claim(&store, now_ms).await;
        finish(&store, lease, now_ms * 10).await;
    }
    let listed = async |since_ms| ids(&list_all(&store, Query { since_ms, ..Query::all(State::Finished) }).await);
    assert_eq!(listed(20..40).await, put_ids[1..3]);
    assert_eq!(listed(20..51).await, put_ids[1..5]);
    assert_eq!(listed(51..90).await, []);
    assert_eq!(listed(30..30).await, []);
    assert_eq!(list(&store, State::Waiting).await, []);
}

/// Each narrows it.
pub async fn a_list_is_of_one_key_and_of_attempts(store: Store) {
    let specs = vec![keyed("a"), keyed("b"), keyed("a"), Spec::default()];
    let puts: Vec<_> = store.put(specs, 1).await.expect("a store puts").into_iter().map(Put::id).collect();
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.cancel(lease, failed(0, Failure::default()), 3).await, Ok(State::Waiting));
    let waiting = || Query::all(State::Waiting);
    let of_key = |key: &str| Query { key: Some(key.into()), ..waiting() };
    assert_eq!(ids(&list_all(&store, of_key("a")).await), [puts[2], puts[0]]);
    assert_eq!(ids(&list_all(&store, of_key("c")).await), []);
    assert_eq!(ids(&list_all(&store, Query { attempt_min: 2, ..waiting() }).await), [puts[0]]);
    assert_eq!(ids(&list_all(&store, Query { attempt_min: 2, ..of_key("b") }).await), []);
}

/// Whatever happens between two pages, what stays in its state is listed once.
pub async fn a_list_comes_page_by_page(store: Store) {
    for now_ms in [1, 1, 1, 2, 3] {
        put(&store, Spec::default(), now_ms).await;
    }
    let all = ids(&list(&store, State::Waiting).await);
    let page = async |after, limit| {
        let page = store.list(Query { after, limit, ..Query::all(State::Waiting) }).await.expect("a store lists");
        (ids(&page.entries), page.next)
    };
    let (first, next) = page(None, 2).await;
    assert_eq!((first, next), (all[..2].to_vec(), Some((1, all[1]))));
    assert_eq!(store.retract(all[1], 4).await, Ok(()));
    let (second, next) = page(next, 2).await;
    assert_eq!(second, all[2..4]);
    assert_eq!(page(next, 1).await, (all[4..].to_vec(), None));
    assert_eq!(page(None, 4).await.1, None);
    assert_eq!(page(None, 0).await, (vec![], None));
}

/// At all times.
pub async fn the_counts_add_up(store: Store) {
    let named = Spec { idempotency_key: Some("once".into()), not_before_ms: 9, ..sized(5) };
    store.put(vec![named.clone(), named, sized(3), sized(2), sized(1), sized(0)], 1).await.expect("a store puts");
    let (_, _, finished) = claim(&store, 2).await;
    finish(&store, finished, 3).await;
    let (_, _, stalled) = claim(&store, 3).await;
    assert_eq!(store.stall(stalled, Failure::default(), 3).await, Ok(()));
    let (retracted, ..) = claim(&store, 3).await;
    assert_eq!(store.retract(retracted, 3).await, Ok(()));
    claim(&store, 4).await;
    let counts = store.counts().await.expect("a store counts");
    let Counts { waiting, delayed, claimed, stalled: parked, kept, bytes, waiting_since_ms, totals, .. } = counts;
    assert_eq!((waiting, delayed, claimed, parked, kept, bytes), (0, 1, 1, 1, 1, 7));
    assert_eq!((waiting_since_ms, totals.put, totals.known, totals.claimed), (None, 5, 1, 4));
    assert_eq!((totals.finished, totals.failed, totals.stalled, totals.retracted), (1, 0, 1, 1));
    assert_eq!(store.retry(stalled.job, 5).await, Ok(()));
    assert_eq!(store.sweep(500).await, Ok(()));
    let counts = store.counts().await.expect("a store counts");
    assert_eq!((counts.waiting, counts.totals.retried, counts.totals.failed), (3, 1, 1));
    assert_eq!(counts.waiting_since_ms, Some(5));
}
