//! What is told of queues and jobs.
//!
//! Data, results and progress are told as text, whatever they were put as: a string is what it says, and any other JSON the
//! text that it was.

use std::borrow::Cow;

use fanfare_jobs::{Counts, Entry as Kept, Job, JobId, Lease, Phase};
use serde::Serialize;

use crate::queues;

fn lease(lease: &Lease) -> String {
    format!("{}.{}", lease.job.0, lease.number)
}

fn cursor((since_ms, JobId(id)): (u64, JobId)) -> String {
    format!("{since_ms}-{id}")
}

/// Whatever else a store may have been given is not told.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn some_text(bytes: &[u8]) -> Option<Cow<'_, str>> {
    (!bytes.is_empty()).then(|| text(bytes))
}

/// The answer to a claim.
#[derive(Serialize)]
pub struct Claimed<'a> {
    jobs: Vec<ClaimedJob<'a>>,
}

#[derive(Serialize)]
struct ClaimedJob<'a> {
    lease: String,
    until_ms: u64,
    #[serde(flatten)]
    job: ToldJob<'a>,
}

impl<'a> Claimed<'a> {
    /// Of these.
    pub fn of(jobs: &'a [(Job, Lease)]) -> Claimed<'a> {
        let told = |(job, lease): &'a (Job, Lease)| ClaimedJob {
            lease: self::lease(lease),
            until_ms: lease.until_ms,
            job: ToldJob::of(job),
        };
        Claimed { jobs: jobs.iter().map(told).collect() }
    }
}

/// A page of a list.
#[derive(Serialize)]
pub struct Listed<'a> {
    jobs: Vec<Entry<'a>>,
    cursor: Option<String>,
}

impl<'a> Listed<'a> {
    /// Of these, and where the next one begins.
    pub fn of(entries: &'a [Kept], next: Option<(u64, JobId)>) -> Listed<'a> {
        Listed { jobs: entries.iter().map(Entry::of).collect(), cursor: next.map(cursor) }
    }
}

/// A job where it is in its life.
#[derive(Serialize)]
pub struct Entry<'a> {
    state: &'static str,
    since_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    worker: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Cow<'a, str>>,
    #[serde(flatten)]
    job: ToldJob<'a>,
}

impl<'a> Entry<'a> {
    /// Of this one.
    pub fn of(kept: &'a Kept) -> Entry<'a> {
        let (worker, result) = match &kept.phase {
            Phase::Claimed { owner, .. } => (&**owner, None),
            Phase::Finished { result } => ("", some_text(result)),
            Phase::Waiting | Phase::Delayed { .. } | Phase::Stalled => ("", None),
        };
        Entry {
            state: kept.state().as_str(),
            since_ms: kept.since_ms,
            until_ms: kept.until_ms(),
            worker,
            reason: &kept.reason,
            result,
            job: ToldJob::of(&kept.job),
        }
    }
}

#[derive(Serialize)]
struct ToldJob<'a> {
    id: u64,
    attempt: u32,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    priority: u8,
    put_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Cow<'a, str>>,
    data: Cow<'a, str>,
}

fn is_zero(priority: &u8) -> bool {
    *priority == 0
}

impl<'a> ToldJob<'a> {
    fn of(job: &'a Job) -> ToldJob<'a> {
        let spec = &job.spec;
        ToldJob {
            id: job.id.0,
            attempt: job.attempt,
            kind: spec.kind.as_str(),
            key: spec.key.as_deref(),
            idempotency_key: spec.idempotency_key.as_deref(),
            priority: spec.priority,
            put_ms: job.put_ms,
            progress: some_text(&job.progress),
            data: text(&spec.data),
        }
    }
}

/// A queue, how many jobs are in it, and what has become of others.
#[derive(Serialize)]
pub struct Queue {
    name: String,
    waiting: u64,
    delayed: u64,
    claimed: u64,
    stalled: u64,
    finished: u64,
    bytes: u64,
    waiting_since_ms: Option<u64>,
    totals: Totals,
    limits: Limits,
}

#[derive(Serialize)]
struct Totals {
    put: u64,
    known: u64,
    claimed: u64,
    finished: u64,
    failed: u64,
    stalled: u64,
    retried: u64,
    retracted: u64,
    released: u64,
}

#[derive(Serialize)]
struct Limits {
    jobs_max: usize,
    bytes_max: usize,
    finished_kept_s: u64,
    finished_kept_max: usize,
    attempts_max: u32,
    lease_s: u64,
}

impl Queue {
    /// Of this one.
    pub fn of(queue: &queues::Queue, counts: Counts) -> Queue {
        let settings = queue.settings();
        let fanfare_jobs::Totals {
            put, known, claimed, finished, failed, stalled, retried, retracted, released, ..
        } = counts.totals;
        Queue {
            name: queue.name.to_string(),
            waiting: counts.waiting,
            delayed: counts.delayed,
            claimed: counts.claimed,
            stalled: counts.stalled,
            finished: counts.kept,
            bytes: counts.bytes,
            waiting_since_ms: counts.waiting_since_ms,
            totals: Totals { put, known, claimed, finished, failed, stalled, retried, retracted, released },
            limits: Limits {
                jobs_max: settings.limits.jobs_max,
                bytes_max: settings.limits.bytes_max,
                finished_kept_s: settings.limits.kept_ms / 1000,
                finished_kept_max: settings.limits.kept_max,
                attempts_max: settings.limits.attempts_max,
                lease_s: settings.lease.as_secs(),
            },
        }
    }
}
