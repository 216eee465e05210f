//! A claimed job's lease: kept while the job is worked on, and given up by one of the verbs that end a claim.
//!
//! Always true: a verb that the store could not write is tried again for as long as the lease holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::{Inner, Place};
use crate::backoff::Backoff;
use crate::job::{Cancel, Failure, Lease, State};
use crate::store::StoreError;

/// Between two attempts at a job.
const ATTEMPTS: Backoff = Backoff { first: Duration::from_secs(1), cap: Duration::from_secs(300) };

/// Between two tries of a verb that the store could not write.
const VERB: Backoff = Backoff { first: Duration::from_millis(100), cap: Duration::from_secs(5) };

/// How a claim ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The job is done.
    Finish(Bytes),
    /// It is tried again later.
    Retry(Failure),
    /// It is given back with what was done of it, to be claimed by anybody at once. That was no attempt: the job is not to blame.
    Release(Bytes),
    /// A person is to look at it.
    Stall(Failure),
}

/// A claimed job.
pub(super) struct Held {
    pub(super) inner: Arc<Inner>,
    place: Place,
    lease: Lease,
    length: Duration,
}

impl Held {
    pub(super) fn new(place: Place, lease: Lease, length: Duration) -> Held {
        Held { inner: place.inner.clone(), place, lease, length }
    }

    /// Extends the lease again and again; returns when it is lost.
    pub(super) async fn keep(&mut self) {
        sleep(self.length / 2).await;
        let mut failures = 0;
        loop {
            let now_ms = (self.inner.now)();
            let until_ms = now_ms.saturating_add(self.length.as_millis() as u64);
            match self.inner.store.extend(self.lease, until_ms, now_ms).await {
                Ok(lease) => {
                    (self.lease, failures) = (lease, 0);
                    sleep(self.length / 2).await;
                }
                Err(StoreError::Unavailable(_)) if now_ms < self.lease.until_ms => {
                    failures += 1;
                    sleep(VERB.at_least_half_after(failures)).await;
                }
                Err(_) => return,
            }
        }
    }

    /// Ends the claim of a job that was in this attempt.
    pub(super) async fn end(self, attempt: u32, end: End) {
        let mut failures = 0;
        loop {
            match self.try_end(attempt, &end).await {
                Ok(state) => return self.count(&end, state),
                Err(StoreError::Unavailable(_)) if (self.inner.now)() < self.lease.until_ms => {
                    failures += 1;
                    sleep(VERB.at_least_half_after(failures)).await;
                }
                Err(error) => {
                    tracing::debug!(queue = &*self.inner.queue, job = self.lease.job.0, %error, "a job was lost");
                    return self.lost();
                }
            }
        }
    }

    async fn try_end(&self, attempt: u32, end: &End) -> Result<State, StoreError> {
        let (store, lease, now_ms) = (&self.inner.store, self.lease, (self.inner.now)());
        match end.clone() {
            End::Finish(result) => store.finish(lease, result, now_ms).await.map(|()| State::Finished),
            End::Stall(failure) => store.stall(lease, failure, now_ms).await.map(|()| State::Stalled),
            End::Release(progress) => store.cancel(lease, Cancel::Released { progress: Some(progress) }, now_ms).await,
            End::Retry(failure) => {
                let wait_ms = ATTEMPTS.at_least_half_after(attempt).as_millis() as u64;
                let retry_at_ms = now_ms.saturating_add(wait_ms);
                store.cancel(lease, Cancel::Failed { retry_at_ms, failure }, now_ms).await
            }
        }
    }

    /// The job is somebody else's now, or will be.
    pub(super) fn lost(mut self) {
        self.place.end(|counts| &mut counts.lost);
    }

    fn count(mut self, end: &End, state: State) {
        self.place.end(match state {
            State::Finished => |counts| &mut counts.finished,
            State::Stalled => |counts| &mut counts.stalled,
            _ if matches!(end, End::Release(_)) => |counts| &mut counts.released,
            State::Waiting | State::Delayed | State::Claimed => |counts| &mut counts.retried,
        });
    }
}
