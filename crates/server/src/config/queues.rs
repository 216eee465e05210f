//! The queues of an app: how much each takes, how long it keeps what is done, how often it tries.

use super::check::number;
use super::written::{At, WrittenQueue, Wrong};
use fanfare_jobs::Limits;
use std::sync::Arc;
use std::time::Duration;

const DAY_S: u32 = 24 * 60 * 60;
const MONTH_S: u32 = 31 * DAY_S;
const NAME_LEN_MAX: usize = 64;
/// A job takes some hundred bytes of memory beside its data.
const JOBS_MAX: u32 = 100_000_000;
const CONCURRENCY_MAX: u32 = 10_000;

/// One `[[apps.queues]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// In paths and in file names.
    pub name: Arc<str>,
    /// What it takes and keeps.
    pub limits: Limits,
    /// How long a claim holds that does not say so itself.
    pub lease: Duration,
    /// How many jobs are worked on at once by this node's pipelines.
    pub concurrency: usize,
}

impl QueueSettings {
    fn new(name: &str) -> QueueSettings {
        QueueSettings { name: name.into(), limits: Limits::default(), lease: Duration::from_secs(30), concurrency: 64 }
    }
}

/// Checks an app's queues, and that no two of them share a name.
pub(super) fn checked(written: Vec<At<WrittenQueue>>) -> Result<Vec<QueueSettings>, Wrong> {
    let mut queues: Vec<QueueSettings> = Vec::with_capacity(written.len());
    for At { value: queue, place } in written {
        let Some(name) = &queue.name else {
            return Err(Wrong::at(place, "a queue needs a `name`"));
        };
        if queues.iter().any(|other| *other.name == *name.value) {
            let message = format!("this app has a queue \"{}\" already", name.value);
            return Err(Wrong::at(name.place.clone(), message));
        }
        let name = self::name(name)?.to_owned();
        queues.push(settings(&name, queue)?);
    }
    Ok(queues)
}

fn name(At { value, place }: &At<String>) -> Result<&str, Wrong> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    if (1..=NAME_LEN_MAX).contains(&value.len()) && value.chars().all(plain) {
        return Ok(value);
    }
    let message = format!(
        "expected 1 to {NAME_LEN_MAX} lower-case letters, digits, `-` and `_` as a queue's name, found {value:?}"
    );
    Err(Wrong::at(place.clone(), message))
}

fn settings(name: &str, written: WrittenQueue) -> Result<QueueSettings, Wrong> {
    let default = QueueSettings::new(name);
    let Limits { jobs_max, bytes_max, kept_ms, kept_max, attempts_max } = default.limits;
    let kept_s = number(written.finished_kept_s, 0..=MONTH_S, kept_ms / 1000)?;
    let lease_s = number(written.lease_s, 1..=DAY_S, default.lease.as_secs())?;
    Ok(QueueSettings {
        limits: Limits {
            jobs_max: number(written.jobs_max, 1..=JOBS_MAX, jobs_max)?,
            bytes_max: number(written.bytes_max, 1..=u32::MAX, bytes_max)?,
            kept_ms: kept_s * 1000,
            kept_max: number(written.finished_kept_max, 0..=JOBS_MAX, kept_max)?,
            attempts_max: number(written.attempts_max, 0..=u32::MAX, attempts_max)?,
        },
        lease: Duration::from_secs(lease_s),
        concurrency: number(written.concurrency, 1..=CONCURRENCY_MAX, default.concurrency)?,
        ..default
    })
}
