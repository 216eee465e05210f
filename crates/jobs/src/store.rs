//! The contract of a job store: one queue's jobs.
//!
//! Always true of every implementation (`testing` checks it):
//! - a job is in exactly one state, and each verb is one atomic act, before which what was due by `now_ms` has happened. Where very
//!   much is due at once, some of it happens a verb or a sweep later; but never later than a verb about the job itself;
//! - of the jobs of one key that are waiting, delayed or claimed, only the first may be claimed: a failing job holds its
//!   key until it is finished, stalled or retracted. One that is retried queues anew;
//! - among those that may be claimed the highest priority goes first, then the one that has queued longest;
//! - a claim holds until its lease ends; then the job waits again, in its old place, and the old lease is good for nothing;
//! - an attempt that fails as the last of `attempts_max` stalls its job; a claim that is released was no attempt.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::job::{Cancel, Entry, Failure, Job, JobId, Lease, Spec, State};

/// The outcome of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is in the store now.
    New(JobId),
    /// A job with the same idempotency key is; nothing was changed.
    Known(JobId),
}

impl Put {
    /// The job's number, whichever it is.
    pub fn id(self) -> JobId {
        match self {
            Put::New(id) | Put::Known(id) => id,
        }
    }
}

/// How much a store takes and keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that are not finished. Beyond it: [`StoreError::Full`].
    pub jobs_max: usize,
    /// Bytes of data of jobs that are not finished. Beyond it: [`StoreError::Full`].
    pub bytes_max: usize,
    /// Finished jobs are known for so many milliseconds,
    pub kept_ms: u64,
    /// and no more of them than this: the oldest are forgotten first.
    pub kept_max: usize,
    /// A job is stalled when so many attempts have failed. 0: never.
    pub attempts_max: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { jobs_max: 1_000_000, bytes_max: 1 << 30, kept_ms: 3_600_000, kept_max: 100_000, attempts_max: 10 }
    }
}

/// What a worker asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// How many jobs at most.
    pub jobs_max: usize,
    /// For how long.
    pub lease_ms: u64,
    /// Who asks, for the person who looks.
    pub owner: Box<str>,
}

/// What a worker gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The jobs, each with its lease.
    pub jobs: Vec<(Job, Lease)>,
    /// When the next delay or lease ends: asking again earlier brings something only if `wakes` has changed.
    pub next_ms: Option<u64>,
}

/// Which jobs are asked for: all that match, those that have been in their state longest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What they are.
    pub state: State,
    /// When they became so.
    pub since_ms: Range<u64>,
    /// Those that are in this attempt or in a later one.
    pub attempt_min: u32,
    /// Those of this key.
    pub key: Option<Box<str>>,
    /// Those behind this one: where the page before ended.
    pub after: Option<(u64, JobId)>,
    /// No more than this.
    pub limit: usize,
}

impl Query {
    /// All jobs in a state.
    pub fn all(state: State) -> Query {
        Query { state, since_ms: 0..u64::MAX, attempt_min: 0, key: None, after: None, limit: usize::MAX }
    }
}

/// A part of what matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The jobs. May be fewer than were asked for, also where more match: a page costs a bounded amount of work.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` if nothing more matches.
    pub next: Option<(u64, JobId)>,
}

/// How many jobs there are, and what has happened to jobs since the store was made.
///
/// Always true:
/// - `totals.put = waiting + delayed + claimed + stalled + totals.finished + totals.retracted`;
/// - `totals.claimed = claimed + totals.finished + totals.failed + totals.parked() + totals.withdrawn + totals.released`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In this state.
    pub waiting: u64,
    /// In this state.
    pub delayed: u64,
    /// In this state.
    pub claimed: u64,
    /// In this state.
    pub stalled: u64,
    /// Finished and still known.
    pub kept: u64,
    /// Bytes of data of those that are not finished.
    pub bytes: u64,
    /// Since when the one that has waited longest has.
    pub waiting_since_ms: Option<u64>,
    /// What time it was when they were counted, where the store has another clock than its callers: what it lists is in its own.
    pub clock_ms: Option<u64>,
    /// See [`Totals`].
    pub totals: Totals,
}

/// What has happened to jobs since the store was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// New ones.
    pub put: u64,
    /// Puts of a job that was known.
    pub known: u64,
    /// Claims.
    pub claimed: u64,
    /// Finished.
    pub finished: u64,
    /// Attempts that failed: cancelled, or their lease ran out.
    pub failed: u64,
    /// Stalled.
    pub stalled: u64,
    /// Stalled ones that were put back.
    pub retried: u64,
    /// Taken out unfinished.
    pub retracted: u64,
    /// Of the stalled ones: those whose last attempt failed.
    pub exhausted: u64,
    /// Of the retracted ones: those that were claimed.
    pub withdrawn: u64,
    /// Claims that were given back as none.
    pub released: u64,
}

impl Totals {
    /// How many they are.
    pub const COUNT: usize = 11;

    /// In the order in which they are written.
    pub fn to_array(self) -> [u64; Totals::COUNT] {
        let Totals {
            put,
            known,
            claimed,
            finished,
            failed,
            stalled,
            retried,
            retracted,
            exhausted,
            withdrawn,
            released,
        } = self;
        [put, known, claimed, finished, failed, stalled, retried, retracted, exhausted, withdrawn, released]
    }

    /// The reverse of [`Totals::to_array`].
    pub fn from_array(totals: [u64; Totals::COUNT]) -> Totals {
        let [put, known, claimed, finished, failed, stalled, retried, retracted, exhausted, withdrawn, released] =
            totals;
        Totals { put, known, claimed, finished, failed, stalled, retried, retracted, exhausted, withdrawn, released }
    }

    /// Jobs that are still there to be finished.
    pub fn unfinished(&self) -> u64 {
        self.put.saturating_sub(self.finished + self.retracted)
    }

    /// Claims that ended with the job stalled by its worker.
    pub fn parked(&self) -> u64 {
        self.stalled.saturating_sub(self.exhausted)
    }
}

/// Why a store did not do what it was asked to. Nothing was changed, unless it is unknown whether it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The producer may try again later.
    #[error("the queue is full: it takes {jobs_max} unfinished jobs, and {bytes_max} bytes of them")]
    Full {
        /// The limits, of which one was met.
        jobs_max: usize,
        /// See above.
        bytes_max: usize,
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
    /// The store cannot keep what it would promise: the disk is full or failed, the server is away. Says which. What was asked for
    /// may have been done: names make a put, and leases the other verbs, safe to repeat.
    #[error("the queue cannot be written: {0}")]
    Unavailable(Box<str>),
}

/// Keeps the jobs of one queue. Times are milliseconds on one clock, the caller's.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Adds jobs, all of them or none; those whose idempotency key is known stay as they are. One answer for each.
    async fn put(&self, specs: Vec<Spec>, now_ms: u64) -> Result<Vec<Put>, StoreError>;

    /// Takes the next jobs.
    async fn claim(&self, claim: Claim, now_ms: u64) -> Result<Claimed, StoreError>;

    /// Holds on to a claimed job until then.
    async fn extend(&self, lease: Lease, until_ms: u64, now_ms: u64) -> Result<Lease, StoreError>;

    /// The job is done.
    async fn finish(&self, lease: Lease, result: Bytes, now_ms: u64) -> Result<(), StoreError>;

    /// Gives a claimed job back. Answers what it is now.
    async fn cancel(&self, lease: Lease, cancel: Cancel, now_ms: u64) -> Result<State, StoreError>;

    /// Parks a job that cannot be done.
    async fn stall(&self, lease: Lease, failure: Failure, now_ms: u64) -> Result<(), StoreError>;

    /// Puts a stalled job back, behind all others.
    async fn retry(&self, id: JobId, now_ms: u64) -> Result<(), StoreError>;

    /// Forgets a job, whatever its state.
    async fn retract(&self, id: JobId, now_ms: u64) -> Result<(), StoreError>;

    /// One job, whatever its state.
    async fn find(&self, id: JobId) -> Result<Entry, StoreError>;

    /// A page of the jobs that match.
    async fn list(&self, query: Query) -> Result<Page, StoreError>;

    /// How many there are.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// Does what is due, and forgets what finished long ago.
    async fn sweep(&self, now_ms: u64) -> Result<(), StoreError>;

    /// Takes these limits from now on. What is in the store already stays.
    fn set_limits(&self, limits: Limits);

    /// Changes whenever a job may have become one that can be claimed.
    fn wakes(&self) -> watch::Receiver<()>;
}
