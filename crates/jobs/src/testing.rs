//! The promises that every [`JobStore`] keeps, as tests that an implementation runs on itself.
//!
//! [`job_store_contract!`](crate::job_store_contract) makes a test of each promise, so that none can be left out.

use std::sync::Arc;

use crate::job::{JobId, Lease, Record, Spec, State};
use crate::store::{JobStore, Put, StoreError};

/// How many unfinished jobs the store under test must take, and how many milliseconds it must know finished ones.
pub const JOBS_MAX: usize = 8;
/// See [`JOBS_MAX`].
pub const KEPT_MS: u64 = 1000;

/// A test of each promise: `job_store_contract!(#[tokio::test] start);` where `start` is an async function to an empty
/// `Arc<dyn JobStore>` with the limits [`JOBS_MAX`] and [`KEPT_MS`].
#[macro_export]
macro_rules! job_store_contract {
    (#[$test:meta] $start:path) => {
        $crate::job_store_contract! { #[$test] $start:
            a_job_passes_through_its_states
            the_highest_priority_goes_first_then_the_longest_in_the_queue
            a_job_waits_for_its_time
            jobs_of_one_key_are_claimed_one_at_a_time_in_order
            a_failing_job_holds_its_key_until_it_is_stalled
            a_lease_that_ran_out_gives_the_job_back
            an_extended_lease_ends_later
            a_cancelled_job_comes_back_at_its_time
            a_retried_job_begins_anew_behind_all_others
            a_retracted_job_is_gone_whatever_its_state
            a_job_of_a_known_name_is_put_once
            a_full_store_refuses_and_changes_nothing
            a_list_is_of_one_state_and_a_range_of_time
        }
    };
    (#[$test:meta] $start:path: $($promise:ident)+) => {
        $(#[$test] async fn $promise() { $crate::testing::$promise($start().await).await; })+
    };
}

type Store = Arc<dyn JobStore>;

/// A job for this key.
fn keyed(key: &str) -> Spec {
    Spec { key: Some(key.into()), ..Spec::default() }
}

async fn put(store: &Store, spec: Spec, now_ms: u64) -> JobId {
    match store.put(spec, now_ms).await {
        Ok(Put::New(id)) => id,
        other => panic!("not put: {other:?}"),
    }
}

/// Claims for 100 ms; a claim must succeed.
async fn claim(store: &Store, now_ms: u64) -> (JobId, u32, Lease) {
    let claimed = store.claim(100, now_ms).await.expect("a store claims");
    let (job, lease) = claimed.expect("a job may be claimed");
    assert_eq!((lease.job, lease.until_ms), (job.id, now_ms + 100));
    (job.id, job.attempt, lease)
}

async fn nothing_to_claim(store: &Store, now_ms: u64) {
    assert_eq!(store.claim(100, now_ms).await, Ok(None));
}

async fn list(store: &Store, state: State) -> Vec<Record> {
    store.list(state, 0..u64::MAX, usize::MAX).await.expect("a store lists")
}

async fn count(store: &Store) -> usize {
    let mut sum = 0;
    for state in [State::Waiting, State::Delayed, State::Claimed, State::Finished, State::Stalled] {
        sum += list(store, state).await.len();
    }
    sum
}

async fn expect_in(store: &Store, state: State, id: JobId) {
    let found: Vec<_> = list(store, state).await.iter().map(|record| record.job.id).collect();
    assert_eq!((found, count(store).await), (vec![id], 1), "{state:?} and nothing else");
}

/// From put to finished, and forgotten when the time for questions is over.
pub async fn a_job_passes_through_its_states(store: Store) {
    let id = put(&store, Spec { data: "work".into(), ..Spec::default() }, 1).await;
    expect_in(&store, State::Waiting, id).await;
    let (_, attempt, lease) = claim(&store, 2).await;
    expect_in(&store, State::Claimed, id).await;
    assert_eq!((attempt, &*list(&store, State::Claimed).await[0].job.spec.data), (1, &b"work"[..]));
    assert_eq!(store.finish(lease, 3).await, Ok(()));
    expect_in(&store, State::Finished, id).await;
    assert_eq!(store.finish(lease, 4).await, Err(StoreError::LeaseLost(id)), "twice");
    assert_eq!(store.sweep(3 + KEPT_MS - 1).await, Ok(()));
    expect_in(&store, State::Finished, id).await;
    assert_eq!(store.sweep(3 + KEPT_MS).await, Ok(()));
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
    assert_eq!(store.finish(lease, 3).await, Ok(()));
    assert_eq!(claim(&store, 3).await.0, second);
}

/// Also while it waits for its next attempt.
pub async fn a_failing_job_holds_its_key_until_it_is_stalled(store: Store) {
    let first = put(&store, keyed("a"), 1).await;
    let second = put(&store, keyed("a"), 1).await;
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.cancel(lease, 50, 3).await, Ok(()));
    nothing_to_claim(&store, 49).await;
    let (id, attempt, lease) = claim(&store, 50).await;
    assert_eq!((id, attempt), (first, 2));
    assert_eq!(store.stall(lease, "poison", 51).await, Ok(()));
    assert_eq!(claim(&store, 51).await.0, second);
    assert_eq!(list(&store, State::Stalled).await[0].job.id, first);
}

/// The worker that was too slow is told so.
pub async fn a_lease_that_ran_out_gives_the_job_back(store: Store) {
    let id = put(&store, keyed("a"), 1).await;
    let (_, _, late) = claim(&store, 2).await;
    nothing_to_claim(&store, 101).await;
    assert_eq!(store.finish(late, 102).await, Err(StoreError::LeaseLost(id)));
    expect_in(&store, State::Waiting, id).await;
    let (again, attempt, lease) = claim(&store, 103).await;
    assert_eq!((again, attempt), (id, 2));
    assert_eq!(store.finish(late, 104).await, Err(StoreError::LeaseLost(id)), "somebody else has it");
    assert_eq!(store.finish(lease, 105).await, Ok(()));
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
    assert_eq!(store.cancel(lease, 0, 3).await, Ok(()));
    let (again, attempt, lease) = claim(&store, 3).await;
    assert_eq!((again, attempt), (id, 2));
    assert_eq!(store.cancel(lease, 10, 4).await, Ok(()));
    assert_eq!(list(&store, State::Delayed).await[0].job.id, id);
    assert_ne!(claim(&store, 9).await.0, id);
    assert_eq!(claim(&store, 10).await.0, id);
}

/// Somebody has looked at it.
pub async fn a_retried_job_begins_anew_behind_all_others(store: Store) {
    let id = put(&store, keyed("a"), 1).await;
    assert_eq!(store.retry(id, 1).await, Err(StoreError::NotStalled(id)));
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.cancel(lease, 0, 2).await, Ok(()));
    let (_, _, lease) = claim(&store, 2).await;
    assert_eq!(store.stall(lease, "poison", 3).await, Ok(()));
    let later = put(&store, keyed("a"), 4).await;
    assert_eq!(store.retry(id, 5).await, Ok(()));
    let (first, _, lease) = claim(&store, 6).await;
    assert_eq!(first, later);
    assert_eq!(store.finish(lease, 7).await, Ok(()));
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
    assert_eq!(store.finish(lease, 4).await, Err(StoreError::Unknown(claimed)));
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
    assert_eq!(store.put(spec(), 2).await, Ok(Put::Known(id)));
    let (_, _, lease) = claim(&store, 3).await;
    assert_eq!(store.finish(lease, 4).await, Ok(()));
    assert_eq!(store.put(spec(), 5).await, Ok(Put::Known(id)));
    assert_eq!(store.sweep(4 + KEPT_MS).await, Ok(()));
    assert_ne!(put(&store, spec(), 5 + KEPT_MS).await, id);
}

/// Finished jobs are no load.
pub async fn a_full_store_refuses_and_changes_nothing(store: Store) {
    for _ in 0..JOBS_MAX {
        put(&store, Spec::default(), 1).await;
    }
    assert_eq!(store.put(Spec::default(), 2).await, Err(StoreError::Full { jobs_max: JOBS_MAX }));
    assert_eq!(count(&store).await, JOBS_MAX);
    let (_, _, lease) = claim(&store, 3).await;
    assert_eq!(store.finish(lease, 4).await, Ok(()));
    put(&store, Spec::default(), 5).await;
}

/// "What was processed between then and then" has an answer, page by page.
pub async fn a_list_is_of_one_state_and_a_range_of_time(store: Store) {
    let mut ids = Vec::new();
    for now_ms in 1..=5 {
        ids.push(put(&store, Spec::default(), now_ms).await);
        let (_, _, lease) = claim(&store, now_ms).await;
        assert_eq!(store.finish(lease, now_ms * 10).await, Ok(()));
    }
    let listed = |range, limit| {
        let store = store.clone();
        async move {
            let records = store.list(State::Finished, range, limit).await.expect("a store lists");
            records.iter().map(|record| record.job.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed(20..40, 9).await, ids[1..3]);
    assert_eq!(listed(20..51, 2).await, ids[1..3]);
    assert_eq!(listed(51..90, 9).await, []);
    assert_eq!(list(&store, State::Waiting).await, []);
}
