//! The contract of a job store.
//!
//! Always true of every implementation (`testing` checks it):
//! - a job is in exactly one state, and each verb is one atomic act, after which all that was due by `now_ms` has happened;
//! - of the jobs of one key that are waiting, delayed or claimed, only the first may be claimed: a failing job holds its
//!   key until it is finished, stalled or retracted. One that is retried queues anew;
//! - among those that may be claimed the highest priority goes first, then the one that has queued longest;
//! - a claim holds until its lease ends; then the job waits again, in its old place, and the old lease is good for nothing.

use std::ops::Range;

use async_trait::async_trait;

use crate::job::{Job, JobId, Lease, Record, Spec, State};

/// The outcome of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is in the store now.
    New(JobId),
    /// A job with the same idempotency key is; nothing was changed.
    Known(JobId),
}

/// Why a store did not do what it was asked to. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The producer may try again later.
    #[error("the queue is full: it takes {jobs_max} unfinished jobs")]
    Full {
        /// The limit that was met.
        jobs_max: usize,
    },
    /// It was retracted, or finished long ago.
    #[error("there is no job {}", .0.0)]
    Unknown(JobId),
    /// The claim has ended: the worker is to forget the job, for somebody else may have it.
    #[error("the lease on job {} has ended", .0.0)]
    LeaseLost(JobId),
    /// Only stalled jobs are retried.
    #[error("job {} is not stalled", .0.0)]
    NotStalled(JobId),
}

/// Keeps jobs. Times are milliseconds on one clock, the caller's.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Adds a job, unless its idempotency key is known.
    async fn put(&self, spec: Spec, now_ms: u64) -> Result<Put, StoreError>;

    /// Takes the next job for `lease_ms`; `None` if no job may be claimed now.
    async fn claim(&self, lease_ms: u64, now_ms: u64) -> Result<Option<(Job, Lease)>, StoreError>;

    /// Holds on to a claimed job until then.
    async fn extend(&self, lease: Lease, until_ms: u64, now_ms: u64) -> Result<Lease, StoreError>;

    /// The job is done.
    async fn finish(&self, lease: Lease, now_ms: u64) -> Result<(), StoreError>;

    /// The attempt failed; another may begin at `retry_at_ms`.
    async fn cancel(&self, lease: Lease, retry_at_ms: u64, now_ms: u64) -> Result<(), StoreError>;

    /// Parks a job that cannot be done.
    async fn stall(&self, lease: Lease, reason: &str, now_ms: u64) -> Result<(), StoreError>;

    /// Puts a stalled job back, behind all others.
    async fn retry(&self, id: JobId, now_ms: u64) -> Result<(), StoreError>;

    /// Forgets a job, whatever its state.
    async fn retract(&self, id: JobId, now_ms: u64) -> Result<(), StoreError>;

    /// At most `limit` jobs that entered their present state within the range, those of longest standing first.
    async fn list(&self, state: State, since_ms: Range<u64>, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Does what is due, and forgets what finished long ago.
    async fn sweep(&self, now_ms: u64) -> Result<(), StoreError>;
}
