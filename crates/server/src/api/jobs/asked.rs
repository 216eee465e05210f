//! What requests about queues say, read into what stores take.
//!
//! Always true: a key that is not known is refused, as a misspelt `not_before_ms` would otherwise be forgotten in silence.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use fanfare_jobs::{Cancel, Claim, Failure, JobId, Kind, Lease, Query, Spec, State};
use fanfare_proto::json::{self, Text};
use fanfare_proto::sign::SignedQuery;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::BadJobs;
use crate::config::QueueSettings;

/// Jobs in one put, and in one claim.
const JOBS_MAX: usize = 1000;
/// Jobs in one answer to a list, and how many unless asked for less or more.
pub const LIST_MAX: usize = 1000;
const LIST: u64 = 100;
/// Bytes of an ordering key, and of a worker's name.
const KEY_LEN_MAX: usize = 200;
/// As that of a publication, which an idempotency key ends as.
const IDEMPOTENCY_KEY_LEN_MAX: usize = 128;
/// Room for the end of a stack trace.
const REASON_LEN_MAX: usize = 4096;
/// What one attempt leaves to the next, or to whoever asks.
const LEFT_LEN_MAX: usize = 64 << 10;
/// A day. Proxies close what is silent for a minute, so nobody waits longer.
const LEASE_MS_MAX: u64 = 24 * 60 * 60 * 1000;
const WAIT_MS_MAX: u64 = 60_000;
const DELAY_MS_MAX: u64 = 31 * LEASE_MS_MAX;
/// What JavaScript can hold.
const TIME_MS_MAX: u64 = (1 << 53) - 1;

/// A value that its key does not take.
#[derive(Debug, thiserror::Error)]
#[error("{}{key}: expected {expected}", .job.map(|at| format!("job {at}: ")).unwrap_or_default())]
pub struct BadField {
    /// Of a put: which job, from 0.
    job: Option<usize>,
    key: &'static str,
    expected: String,
}

impl BadField {
    fn new(key: &'static str, expected: impl Into<String>) -> BadField {
        BadField { job: None, key, expected: expected.into() }
    }

    fn of_job(self, at: usize) -> BadField {
        BadField { job: Some(at), ..self }
    }
}

type Raw<'a> = Option<&'a RawValue>;

/// An object of a request: every key may be left out, and each is judged by itself, so that its name can be told.
macro_rules! written {
    ($name:ident { $($key:ident),* }) => {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $name<'a> {
            $(#[serde(borrow)] $key: Raw<'a>,)*
        }
    };
}

written!(WrittenJob { kind, key, idempotency_key, priority, not_before_ms, data });
written!(WrittenClaim { jobs, lease_ms, wait_ms, worker });
written!(WrittenExtend { lease, lease_ms });
written!(WrittenFinish { lease, result });
written!(WrittenCancel { lease, delay_ms, reason, progress });
written!(WrittenRelease { lease, progress });
written!(WrittenStall { lease, reason, progress });
written!(WrittenFilter { attempt_min, key, since_ms, until_ms });

/// The jobs of a put.
pub fn put(body: &str) -> Result<Vec<Spec>, BadJobs> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct WrittenPut<'a> {
        #[serde(borrow)]
        jobs: Vec<&'a RawValue>,
    }
    let written: WrittenPut = object(body, r#"{"jobs":[{"kind":"create","key":…,"data":…}, …]}"#)?;
    if !(1..=JOBS_MAX).contains(&written.jobs.len()) {
        return Err(BadField::new("jobs", format!("1 to {JOBS_MAX} jobs, found {}", written.jobs.len())).into());
    }
    written.jobs.into_iter().enumerate().map(|(at, job)| self::job(at, job)).collect()
}

fn job(at: usize, raw: &RawValue) -> Result<Spec, BadJobs> {
    let written: WrittenJob = json::object(raw.get()).map_err(|bad| BadJobs::Job { at, bad })?;
    Ok(spec(written).map_err(|bad| bad.of_job(at))?)
}

fn spec(written: WrittenJob<'_>) -> Result<Spec, BadField> {
    let data = written.data.ok_or_else(|| BadField::new("data", "any JSON but null"))?;
    Ok(Spec {
        kind: kind(written.kind)?,
        key: text("key", written.key, 1..=KEY_LEN_MAX)?.map(Box::from),
        idempotency_key: text("idempotency_key", written.idempotency_key, 1..=IDEMPOTENCY_KEY_LEN_MAX)?.map(Box::from),
        priority: whole("priority", written.priority, 0..=u8::MAX.into())?.unwrap_or_default() as u8,
        not_before_ms: whole("not_before_ms", written.not_before_ms, 0..=TIME_MS_MAX)?.unwrap_or_default(),
        data: content("data", data, usize::MAX)?,
    })
}

fn kind(raw: Raw<'_>) -> Result<Kind, BadField> {
    let expected = || BadField::new("kind", "\"create\", \"edit\" or \"delete\"");
    let Some(raw) = raw else { return Ok(Kind::default()) };
    serde_json::from_str::<Text>(raw.get()).ok().and_then(|text| Kind::parse(&text.0)).ok_or_else(expected)
}

/// How many jobs, for how long, and how long they are waited for.
pub fn claim(body: &str, settings: &QueueSettings) -> Result<(Claim, Duration), BadJobs> {
    let expected = r#"{"jobs":…,"lease_ms":…,"wait_ms":…,"worker":…}, all of them optional"#;
    let written: WrittenClaim = object(body, expected)?;
    let claim = Claim {
        jobs_max: whole("jobs", written.jobs, 1..=JOBS_MAX as u64)?.unwrap_or(1) as usize,
        lease_ms: lease_ms(written.lease_ms, settings)?,
        owner: text("worker", written.worker, 0..=KEY_LEN_MAX)?.unwrap_or_default().into(),
    };
    let wait_ms = whole("wait_ms", written.wait_ms, 0..=WAIT_MS_MAX)?.unwrap_or_default();
    Ok((claim, Duration::from_millis(wait_ms)))
}

/// Which lease, and how long from now.
pub fn extend(body: &str, id: JobId, settings: &QueueSettings) -> Result<(Lease, u64), BadJobs> {
    let written: WrittenExtend = object(body, r#"{"lease":…,"lease_ms":…}"#)?;
    Ok((lease(written.lease, id)?, lease_ms(written.lease_ms, settings)?))
}

/// Which lease, and the result.
pub fn finish(body: &str, id: JobId) -> Result<(Lease, Bytes), BadJobs> {
    let written: WrittenFinish = object(body, r#"{"lease":…}, and "result" if there is one"#)?;
    Ok((lease(written.lease, id)?, left("result", written.result)?))
}

/// Which lease, how long until the next attempt, and what is left of this one.
pub fn cancel(body: &str, id: JobId) -> Result<(Lease, u64, Failure), BadJobs> {
    let expected = r#"{"lease":…}, and "delay_ms", "reason" and "progress" if there are any"#;
    let written: WrittenCancel = object(body, expected)?;
    let delay_ms = whole("delay_ms", written.delay_ms, 0..=DELAY_MS_MAX)?.unwrap_or_default();
    let reason = text("reason", written.reason, 0..=REASON_LEN_MAX)?.unwrap_or_default();
    let failure = Failure { reason: reason.into(), progress: left("progress", written.progress)? };
    Ok((lease(written.lease, id)?, delay_ms, failure))
}

/// Which lease, and what was done of the job, if that has changed.
pub fn release(body: &str, id: JobId) -> Result<(Lease, Cancel), BadJobs> {
    let written: WrittenRelease = object(body, r#"{"lease":…}, and "progress" if there is any"#)?;
    let progress = written.progress.map(|raw| content("progress", raw, LEFT_LEN_MAX)).transpose()?;
    Ok((lease(written.lease, id)?, Cancel::Released { progress }))
}

/// Which lease, and why.
pub fn stall(body: &str, id: JobId) -> Result<(Lease, Failure), BadJobs> {
    let written: WrittenStall = object(body, r#"{"lease":…,"reason":…}, and "progress" if there is any"#)?;
    let reason = text("reason", written.reason, 1..=REASON_LEN_MAX)?;
    let reason = reason.ok_or_else(|| BadField::new("reason", "a string: why nobody should try again"))?;
    let failure = Failure { reason: reason.into(), progress: left("progress", written.progress)? };
    Ok((lease(written.lease, id)?, failure))
}

/// A body that says nothing.
pub fn nothing(body: &str) -> Result<(), BadJobs> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    object(body, "{}").map(|Nothing {}| ())
}

/// Which jobs, whatever their state.
#[derive(Default)]
pub struct Filter {
    attempt_min: u64,
    key: Option<Box<str>>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
}

impl Filter {
    /// As a body says it.
    pub fn written(body: &str) -> Result<Filter, BadJobs> {
        let expected = r#"{"attempt_min":…,"key":…,"since_ms":…,"until_ms":…}, all of them optional"#;
        let written: WrittenFilter = object(body, expected)?;
        Ok(Filter {
            attempt_min: whole("attempt_min", written.attempt_min, 0..=u32::MAX.into())?.unwrap_or_default(),
            key: text("key", written.key, 1..=KEY_LEN_MAX)?.map(Box::from),
            since_ms: whole("since_ms", written.since_ms, 0..=TIME_MS_MAX)?,
            until_ms: whole("until_ms", written.until_ms, 0..=TIME_MS_MAX)?,
        })
    }

    /// As a query says it.
    fn asked(query: &SignedQuery<'_>) -> Result<Filter, BadField> {
        Ok(Filter {
            attempt_min: number(query, "attempt_min", 0..=u32::MAX.into())?.unwrap_or_default(),
            key: query.param("key").map(Box::from),
            since_ms: number(query, "since_ms", 0..=TIME_MS_MAX)?,
            until_ms: number(query, "until_ms", 0..=TIME_MS_MAX)?,
        })
    }

    fn of(self, state: State) -> Query {
        Query {
            since_ms: self.since_ms.unwrap_or_default()..self.until_ms.unwrap_or(u64::MAX),
            attempt_min: self.attempt_min as u32,
            key: self.key,
            ..Query::all(state)
        }
    }

    /// The jobs that it fits and that are stalled now, by the clock that the store lists by, in pages.
    pub fn stalled(self, now_ms: u64) -> Query {
        let all = self.of(State::Stalled);
        let until_ms = all.since_ms.end.min(now_ms.saturating_add(1));
        Query { since_ms: all.since_ms.start..until_ms, limit: super::SLICE, ..all }
    }
}

/// Which jobs, and where the page begins.
pub fn list(query: &SignedQuery<'_>) -> Result<Query, BadField> {
    let expected = || BadField::new("state", format!("one of {}", State::ALL.map(State::as_str).join(", ")));
    let state = query.param("state").and_then(State::parse);
    let limit = number(query, "limit", 1..=LIST_MAX as u64)?.unwrap_or(LIST) as usize;
    let all = Filter::asked(query)?.of(state.ok_or_else(expected)?);
    Ok(Query { after: query.param("cursor").map(cursor).transpose()?, limit, ..all })
}

/// The reverse of what a page ends with.
fn cursor(text: &str) -> Result<(u64, JobId), BadField> {
    let parsed =
        text.split_once('-').and_then(|(since_ms, id)| Some((since_ms.parse().ok()?, JobId(id.parse().ok()?))));
    parsed.ok_or_else(|| BadField::new("cursor", "the cursor of the page before"))
}

/// A number in a query.
fn number(query: &SignedQuery<'_>, key: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, BadField> {
    let parse = |text: &str| text.parse().ok().filter(|value| range.contains(value));
    query.param(key).map(|text| parse(text).ok_or_else(|| not_whole(key, &range))).transpose()
}

/// A body's object; an empty body is an empty one.
fn object<'a, T: Deserialize<'a>>(body: &'a str, expected: &'static str) -> Result<T, BadJobs> {
    let body = if body.is_empty() { "{}" } else { body };
    json::object(body).map_err(|bad| BadJobs::Body { bad, expected })
}

fn whole(key: &'static str, raw: Raw<'_>, range: RangeInclusive<u64>) -> Result<Option<u64>, BadField> {
    let parse = |raw: &RawValue| serde_json::from_str(raw.get()).ok().filter(|value| range.contains(value));
    raw.map(|raw| parse(raw).ok_or_else(|| not_whole(key, &range))).transpose()
}

fn not_whole(key: &'static str, range: &RangeInclusive<u64>) -> BadField {
    BadField::new(key, format!("a whole number from {} to {}", range.start(), range.end()))
}

fn text<'a>(key: &'static str, raw: Raw<'a>, len: RangeInclusive<usize>) -> Result<Option<Cow<'a, str>>, BadField> {
    let parse =
        |raw: &'a RawValue| serde_json::from_str::<Text>(raw.get()).ok().filter(|text| len.contains(&text.0.len()));
    let expected = || BadField::new(key, format!("a string of {} to {} bytes", len.start(), len.end()));
    raw.map(|raw| parse(raw).map(|text| text.0).ok_or_else(expected)).transpose()
}

fn lease_ms(raw: Raw<'_>, settings: &QueueSettings) -> Result<u64, BadField> {
    Ok(whole("lease_ms", raw, 1..=LEASE_MS_MAX)?.unwrap_or(settings.lease.as_millis() as u64))
}

/// The reverse of what a claim is answered with. When it ends, the store knows.
fn lease(raw: Raw<'_>, job: JobId) -> Result<Lease, BadField> {
    let expected = || BadField::new("lease", format!("the lease on job {} that its claim was answered with", job.0));
    let text = raw.and_then(|raw| serde_json::from_str::<Text>(raw.get()).ok()).ok_or_else(expected)?;
    let (id, number) = text.0.split_once('.').ok_or_else(expected)?;
    let is_of_job = id.parse() == Ok(job.0);
    let number = number.parse().ok().filter(|_| is_of_job).ok_or_else(expected)?;
    Ok(Lease { job, number, until_ms: 0 })
}

fn left(key: &'static str, raw: Raw<'_>) -> Result<Bytes, BadField> {
    raw.map_or(Ok(Bytes::new()), |raw| content(key, raw, LEFT_LEN_MAX))
}

/// What a string says, or the text of any other JSON.
fn content(key: &'static str, raw: &RawValue, len_max: usize) -> Result<Bytes, BadField> {
    let content = match raw.get() {
        text if text.starts_with('"') => serde_json::from_str::<Text>(text).map(|text| text.0),
        text => Ok(Cow::Borrowed(text)),
    };
    match content {
        Ok(content) if content.len() <= len_max => Ok(Bytes::copy_from_slice(content.as_bytes())),
        Ok(_) => Err(BadField::new(key, format!("at most {len_max} bytes"))),
        Err(_) => Err(BadField::new(key, "text in Unicode, without lone surrogates")),
    }
}
