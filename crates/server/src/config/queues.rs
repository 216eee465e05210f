//! The queues of an app: how much each takes, how long it keeps what is done, how often it tries.

use super::check::number;
use super::written::{At, Place, WrittenQueue, Wrong};
use fanfare_jobs::Limits;
use std::sync::Arc;
use std::time::Duration;

const DAY_S: u32 = 24 * 60 * 60;
const MONTH_S: u32 = 31 * DAY_S;
const NAME_LEN_MAX: usize = 64;
/// A job takes some hundred bytes of memory beside its data, and what its worker left as progress and reason.
const JOBS_MAX: u32 = 100_000_000;
const CONCURRENCY_MAX: u32 = 10_000;

/// One `[[apps.queues]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// In paths.
    pub name: Arc<str>,
    /// What its jobs outlive.
    pub durability: Durability,
    /// What it takes and keeps.
    pub limits: Limits,
    /// How long a claim holds that does not say so itself.
    pub lease: Duration,
    /// How many jobs are worked on at once by this node's pipelines.
    pub concurrency: usize,
    /// Whether pipelines work on it: then nobody else does.
    pub piped: bool,
}

/// What a queue's jobs outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the machine that has them: this one's, or that of the Redis server.
    Disk,
    /// Nothing: they end with the process. With Redis, as much as its server is set up for.
    Memory,
}

impl QueueSettings {
    /// Every setting at its default.
    pub(super) fn new(name: &str, on_disk: bool) -> QueueSettings {
        QueueSettings {
            name: name.into(),
            durability: if on_disk { Durability::Disk } else { Durability::Memory },
            limits: Limits::default(),
            lease: Duration::from_secs(30),
            concurrency: 64,
            piped: false,
        }
    }
}

/// Checks an app's queues, and that no two of them share a name. `disk`: whether there is anything to keep jobs on.
pub(super) fn checked(written: Vec<At<WrittenQueue>>, disk: bool) -> Result<Vec<QueueSettings>, Wrong> {
    let mut queues: Vec<QueueSettings> = Vec::with_capacity(written.len());
    for At { value: queue, place } in written {
        let Some(name) = &queue.name else {
            return Err(Wrong::at(place, "a queue needs a `name`"));
        };
        if queues.iter().any(|other| *other.name == *name.value) {
            let message = format!("this app has a queue \"{}\" already", name.value);
            return Err(Wrong::at(name.place.clone(), message));
        }
        let (name, place) = (self::name(name, "a queue's")?.to_owned(), name.place.clone());
        let durability = durability(queue.durability.clone(), place, disk)?;
        queues.push(QueueSettings { durability, ..settings(&name, queue)? });
    }
    Ok(queues)
}

/// A name that can stand in paths and in the names of files. `whose` it is to be.
pub(super) fn name<'a>(At { value, place }: &'a At<String>, whose: &str) -> Result<&'a str, Wrong> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    if (1..=NAME_LEN_MAX).contains(&value.len()) && value.chars().all(plain) {
        return Ok(value);
    }
    let message = format!(
        "expected 1 to {NAME_LEN_MAX} lower-case letters, digits, `-` and `_` as {whose} name, found {value:?}"
    );
    Err(Wrong::at(place.clone(), message))
}

fn durability(written: Option<At<String>>, queue: Place, disk: bool) -> Result<Durability, Wrong> {
    let (value, place) = written.map_or(("disk".to_owned(), queue), |at| (at.value, at.place));
    match (&*value, disk) {
        ("memory", _) => Ok(Durability::Memory),
        ("disk", true) => Ok(Durability::Disk),
        ("disk", false) => {
            let message = "a queue on disk needs a `data_dir`; durability = \"memory\" does without, and loses its jobs when the server ends";
            Err(Wrong::at(place, message))
        }
        _ => Err(Wrong::at(place, format!("expected \"disk\" or \"memory\", found {value:?}"))),
    }
}

fn settings(name: &str, written: WrittenQueue) -> Result<QueueSettings, Wrong> {
    let default = QueueSettings::new(name, false);
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
