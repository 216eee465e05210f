//! A record: what of a job passes through the stages, and what the sinks get.
//!
//! Always true: records of one job have ids of their own, the same ones at each attempt; so what an earlier attempt has
//! already published is known again by [`Record::event_id`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::sealing::{ENCRYPTED, Sealer};
use super::stage::Failed;
use crate::job::{Job, Kind};

/// A job's fields, after a decode stage.
pub type Fields = Map<String, Value>;

/// Records that one job may become in all: a split of splits is bounded too.
pub const RECORDS_MAX: usize = 10_000;

/// Bytes that splits may copy of one job: what each part has of the record that it was part of.
pub const COPIED_BYTES_MAX: usize = 64 << 20;

/// Of one step of a split: parts are numbered so that those of the next step are told apart too.
pub const PARTS_MAX: u64 = 1000;

/// Routes of one record.
pub const ROUTES_MAX: usize = 100;

/// Which record of which job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The job's number in its queue.
    pub job: u64,
    /// 0 for the whole job; `split` and `lines` number what they make of it.
    pub part: u64,
}

impl RecordId {
    /// The id of what a split makes of this record; `None` if splits are nested too deep to be numbered.
    pub(super) fn part(self, index: usize) -> Option<RecordId> {
        let part = self.part.checked_mul(PARTS_MAX)?.checked_add(index as u64 + 1)?;
        Some(RecordId { part, ..self })
    }
}

/// `17`, or `17:2` for a part.
impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            0 => write!(f, "{}", self.job),
            part => write!(f, "{}:{part}", self.job),
        }
    }
}

/// What a record carries.
#[derive(Clone, PartialEq)]
pub enum Body {
    /// The job's data, until a decode stage.
    Raw(Bytes),
    /// From then on.
    Json(Value),
}

/// Without the payload, which belongs in no log.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Raw(bytes) => write!(f, "Raw({} bytes)", bytes.len()),
            Body::Json(_) => f.write_str("Json(…)"),
        }
    }
}

/// Where a record is to be published, and as what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The channel's name, which has been checked.
    pub channel: Arc<str>,
    /// The event's name.
    pub event: Arc<str>,
}

/// How long a stage had a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lap {
    /// The stage's name.
    pub stage: Arc<str>,
    /// Microseconds.
    pub us: u64,
}

/// What a pipeline has made of a job so far, shared by all records of the job.
#[derive(Debug, Default)]
pub(crate) struct Made {
    more_records: AtomicUsize,
    copied_bytes: AtomicUsize,
}

impl Made {
    /// Of one record, so many.
    pub(super) fn records(&self, records: usize) -> Result<(), Failed> {
        let more = records.saturating_sub(1);
        match self.more_records.fetch_add(more, Ordering::Relaxed) + more < RECORDS_MAX {
            true => Ok(()),
            false => Err(format!("the job became more than {RECORDS_MAX} records").into()),
        }
    }

    /// So many more bytes: said before they are copied.
    pub(super) fn copies(&self, bytes: usize) -> Result<(), Failed> {
        match self.copied_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= COPIED_BYTES_MAX {
            true => Ok(()),
            false => Err(format!("its parts would copy more than {COPIED_BYTES_MAX} bytes of it").into()),
        }
    }
}

/// What passes through the stages.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which one.
    pub id: RecordId,
    /// What happened to the thing that the job is about.
    pub kind: Kind,
    /// The job's ordering key.
    pub key: Option<Arc<str>>,
    /// The job's name, if its producer gave it one.
    pub idempotency_key: Option<Arc<str>>,
    /// The job's attempt, from 1.
    pub attempt: u32,
    /// Whether the pipeline had it before, in this attempt or an earlier one.
    pub repeat: bool,
    /// When the job was put.
    pub put_ms: u64,
    /// When it was claimed.
    pub claimed_ms: u64,
    /// The same for all that is made of a job: its queue and its number.
    pub trace: Arc<str>,
    /// Which of the ways that lead from its queue it goes: nothing on the first, so that a pipeline that takes another's
    /// place knows what that has published.
    pub branch: Option<Arc<str>>,
    /// What it carries.
    pub body: Body,
    /// Where it goes.
    pub routes: Vec<Route>,
    /// Encrypts what goes to channels that are encrypted end to end.
    pub sealer: Option<Arc<Sealer>>,
    /// Filled in pipelines that have a `trace` stage.
    pub laps: Vec<Lap>,
    pub(crate) made: Arc<Made>,
}

/// Why a record has no text for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsayable {
    /// Publications are text.
    #[error("the data is neither decoded nor UTF-8")]
    NotText,
    /// In the clear it would be read by others than those it is for.
    #[error("the channel is encrypted, and no stage `pusher_encrypted` was before")]
    Unsealed,
    /// The system gives no random numbers.
    #[error("no randomness for a nonce")]
    NoNonce,
}

impl Record {
    /// The record that a claimed job begins as.
    pub fn new(queue: &str, job: &Job, claimed_ms: u64) -> Record {
        Record {
            id: RecordId { job: job.id.0, part: 0 },
            kind: job.spec.kind,
            key: job.spec.key.as_deref().map(Arc::from),
            idempotency_key: job.spec.idempotency_key.as_deref().map(Arc::from),
            attempt: job.attempt,
            repeat: job.attempt > 1,
            put_ms: job.put_ms,
            claimed_ms,
            trace: format!("{queue}/{}", job.id.0).into(),
            branch: None,
            body: Body::Raw(job.spec.data.clone()),
            routes: Vec::new(),
            sealer: None,
            laps: Vec::new(),
            made: Arc::default(),
        }
    }

    /// What a publication of this record is known by, so that a repeat is dropped: the job's idempotency key, or else its
    /// queue and number; the part, if it is one; and the branch, as what two pipelines say of a job is no repeat.
    pub fn event_id(&self, queue: &str) -> String {
        let part = self.id.part;
        let mut id = match (&self.idempotency_key, part) {
            (Some(key), 0) => key.to_string(),
            (Some(key), part) => format!("{key}:{part}"),
            (None, _) => format!("{queue}:{}", self.id),
        };
        if let Some(branch) = &self.branch {
            id.extend(["/", branch]);
        }
        id
    }

    /// What the record says: a decoded record's JSON; but a string, such as a template makes of a record, as it is.
    pub fn text(&self) -> Result<Cow<'_, str>, Unsayable> {
        match &self.body {
            Body::Raw(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Unsayable::NotText),
            Body::Json(Value::String(text)) => Ok(Cow::Borrowed(text)),
            Body::Json(value) => Ok(Cow::Owned(value.to_string())),
        }
    }

    /// What a sink of channels writes to this route, given [`Record::text`]: that text, and sealed where the channel is an
    /// encrypted one.
    pub fn text_for<'a>(&self, route: &Route, text: &'a str) -> Result<Cow<'a, str>, Unsayable> {
        if !route.channel.starts_with(ENCRYPTED) {
            return Ok(Cow::Borrowed(text));
        }
        let sealer = self.sealer.as_ref().ok_or(Unsayable::Unsealed)?;
        sealer.seal(&route.channel, text).map(Cow::Owned)
    }

    /// Bytes that its body takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        match &self.body {
            // Copies share them.
            Body::Raw(_) => 0,
            Body::Json(value) => bytes_of(value),
        }
    }

    /// A decoded record's fields.
    pub(super) fn fields(&self) -> Result<&Fields, Failed> {
        match &self.body {
            Body::Json(Value::Object(fields)) => Ok(fields),
            body => Err(not_fields(body)),
        }
    }

    /// See [`Record::fields`].
    pub(super) fn fields_mut(&mut self) -> Result<&mut Fields, Failed> {
        match &mut self.body {
            Body::Json(Value::Object(fields)) => Ok(fields),
            body => Err(not_fields(body)),
        }
    }
}

/// How deep this goes is bounded by the decode stages.
fn bytes_of(value: &Value) -> usize {
    let within = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes_of).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| size_of::<String>() + name.len() + bytes_of(value)).sum()
        }
    };
    size_of::<Value>() + within
}

fn not_fields(body: &Body) -> Failed {
    match body {
        Body::Raw(_) => "the record is not decoded".into(),
        Body::Json(_) => "the record is not an object".into(),
    }
}
