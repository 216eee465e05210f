//! How jobs are written: each row has a key, and a value that says its format, its checksum and the commit it is of.
//!
//! ```text
//! key    queue u32 · table u8 · job u64            big-endian, so that a queue's rows lie together
//! value  format u8 · crc32 u32 · commit u64 · body the checksum is of the key, the commit and the body
//! ```
//!
//! A job has one row for what was put, and one for what became of it since, if anything did.

use bytes::Bytes;

use crate::index::{Numbers, Place, Row};
use crate::job::{Entry, Job, JobId, Kind, Lease, Phase, Spec, State};
use crate::store::Totals;

/// The first byte of each value.
const FORMAT: u8 = 1;

/// Bytes before a value's body.
const HEAD_BYTES: usize = 13;

/// A row's key.
pub(super) type Key = [u8; 13];

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// A queue's numbers; of queue 0: the last commit.
    Numbers,
    /// A queue's name.
    Name,
    /// A job as it was put.
    Put,
    /// What became of it.
    State,
}

/// Written with each commit.
pub(super) const COMMIT: Key = key(0, Table::Numbers, JobId(0));

pub(super) const fn key(queue: u32, table: Table, JobId(id): JobId) -> Key {
    let ([a, b, c, d], [e, f, g, h, i, j, k, l]) = (queue.to_be_bytes(), id.to_be_bytes());
    [a, b, c, d, table as u8, e, f, g, h, i, j, k, l]
}

pub(super) fn parse_key(key: &[u8]) -> Option<(u32, Table, JobId)> {
    let (queue, rest) = key.split_first_chunk::<4>()?;
    let (table, id) = rest.split_first()?;
    let table = [Table::Numbers, Table::Name, Table::Put, Table::State].into_iter().find(|t| *t as u8 == *table)?;
    Some((u32::from_be_bytes(*queue), table, JobId(u64::from_be_bytes(id.try_into().ok()?))))
}

/// A value whose body is written behind its head; [`Sealed::seal`] fills the head in.
pub(super) struct Sealed {
    key: Key,
    value: Vec<u8>,
}

impl Sealed {
    fn new(key: Key, commit: u64, body_bytes: usize) -> Sealed {
        let mut value = Vec::with_capacity(HEAD_BYTES + body_bytes);
        value.push(FORMAT);
        value.extend([0; 4]);
        value.extend(commit.to_le_bytes());
        Sealed { key, value }
    }

    fn u8(mut self, number: u8) -> Self {
        self.value.push(number);
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.value.extend(number.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.value.extend((bytes.len() as u32).to_le_bytes());
        self.value.extend(bytes);
        self
    }

    fn text(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.u8(1).bytes(text.as_bytes()),
            None => self.u8(0),
        }
    }

    /// The row, and its checksum.
    fn seal(mut self) -> (Key, Vec<u8>, u32) {
        let sum = checksum(&self.key, &self.value);
        self.value[1..5].copy_from_slice(&sum.to_le_bytes());
        (self.key, self.value, sum)
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&value[5..]);
    hasher.finalize()
}

/// A value that is as it was written.
pub(super) struct Open<'a> {
    pub(super) commit: u64,
    pub(super) sum: u32,
    body: Fields<'a>,
}

/// `None` if the row is not as it was written.
pub(super) fn open<'a>(key: &[u8], value: &'a [u8]) -> Option<Open<'a>> {
    let (head, body) = value.split_at_checked(HEAD_BYTES)?;
    let sum = u32::from_le_bytes(head[1..5].try_into().ok()?);
    let commit = u64::from_le_bytes(head[5..].try_into().ok()?);
    (head[0] == FORMAT && checksum(key, value) == sum).then_some(Open { commit, sum, body: Fields(body) })
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|taken| taken.try_into().ok()).map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(length as usize)
    }

    fn string(&mut self) -> Option<Box<str>> {
        std::str::from_utf8(self.bytes()?).ok().map(Box::from)
    }

    fn text(&mut self) -> Option<Option<Box<str>>> {
        if self.u8()? == 0 { Some(None) } else { self.string().map(Some) }
    }
}

/// That a commit took place.
pub(super) fn commit(commit: u64) -> (Key, Vec<u8>, u32) {
    Sealed::new(COMMIT, commit, 0).seal()
}

/// The commit that a row is of, whatever else it says.
pub(super) fn commit_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.get(5..HEAD_BYTES)?.try_into().ok()?))
}

pub(super) fn name(queue: u32, name: &str, commit: u64) -> (Key, Vec<u8>, u32) {
    let key = key(queue, Table::Name, JobId(0));
    Sealed::new(key, commit, name.len() + 4).bytes(name.as_bytes()).seal()
}

pub(super) fn read_name(open: Open<'_>) -> Option<Box<str>> {
    let mut body = open.body;
    body.string()
}

/// A queue's numbers, and the sum of what is written of its jobs: see [`print_of`].
pub(super) fn numbers(queue: u32, numbers: &Numbers, sum: u64, commit: u64) -> (Key, Vec<u8>, u32) {
    let key = key(queue, Table::Numbers, JobId(0));
    let fields = [numbers.jobs, numbers.others, numbers.now_ms, sum].into_iter().chain(numbers.totals.to_array());
    fields.fold(Sealed::new(key, commit, (4 + Totals::COUNT) * 8), Sealed::u64).seal()
}

pub(super) fn read_numbers(open: Open<'_>) -> Option<(Numbers, u64)> {
    let mut body = open.body;
    let (jobs, others, now_ms, sum) = (body.u64()?, body.u64()?, body.u64()?, body.u64()?);
    let mut totals = [0; Totals::COUNT];
    for total in &mut totals {
        *total = body.u64()?;
    }
    Some((Numbers { jobs, others, now_ms, totals: Totals::from_array(totals) }, sum))
}

/// About as many as a job takes when it is put.
pub(super) fn put_bytes(spec: &Spec) -> usize {
    let names = [&spec.key, &spec.idempotency_key].into_iter().flatten();
    64 + spec.data.len() + names.map(|name| name.len()).sum::<usize>()
}

pub(super) fn put(queue: u32, row: &Row, commit: u64) -> (Key, Vec<u8>, u32) {
    let Job { id, put_ms, spec, .. } = &row.entry.job;
    let sealed = Sealed::new(key(queue, Table::Put, *id), commit, put_bytes(spec));
    let sealed = sealed.u64(row.place).u64(*put_ms).u64(spec.not_before_ms).u8(spec.kind as u8).u8(spec.priority);
    let mut sealed = sealed.text(spec.key.as_deref()).text(spec.idempotency_key.as_deref());
    sealed.value.extend(&spec.data);
    sealed.seal()
}

/// The job as it was when it was put.
pub(super) fn read_put(id: JobId, open: Open<'_>) -> Option<Row> {
    let mut body = open.body;
    let (place, put_ms, not_before_ms) = (body.u64()?, body.u64()?, body.u64()?);
    let kind = body.u8()?;
    let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind)?;
    let (priority, key, idempotency_key) = (body.u8()?, body.text()?, body.text()?);
    let data = Bytes::copy_from_slice(body.0);
    let bytes = data.len() as u64;
    let spec = Spec { kind, key, idempotency_key, priority, not_before_ms, data };
    Some(Row { entry: Entry::new(id, spec, put_ms), place, bytes, print: 0 })
}

/// Whether nothing has happened to a job since it was put.
pub(super) fn is_as_put(Row { entry, .. }: &Row) -> bool {
    let Entry { job, phase, since_ms, reason } = entry;
    let first = match phase {
        Phase::Waiting => job.spec.not_before_ms <= job.put_ms,
        Phase::Delayed { until_ms } => *until_ms == job.spec.not_before_ms,
        _ => false,
    };
    first && *since_ms == job.put_ms && job.attempt == 1 && reason.is_empty() && job.progress.is_empty()
}

pub(super) fn state(queue: u32, Row { entry, place, .. }: &Row, commit: u64) -> (Key, Vec<u8>, u32) {
    let Entry { job, phase, since_ms, reason } = entry;
    let sealed = Sealed::new(key(queue, Table::State, job.id), commit, 64 + reason.len() + job.progress.len());
    let sealed = sealed.u64(*place).u64(job.attempt.into()).u64(*since_ms).bytes(reason.as_bytes());
    let sealed = sealed.bytes(&job.progress).u8(entry.state() as u8);
    let sealed = match phase {
        Phase::Waiting | Phase::Stalled => sealed,
        Phase::Delayed { until_ms } => sealed.u64(*until_ms),
        Phase::Claimed { lease, owner } => sealed.u64(lease.until_ms).u64(lease.number).bytes(owner.as_bytes()),
        Phase::Finished { result } => sealed.bytes(result),
    };
    sealed.seal()
}

/// Makes of a job as it was put what it is now.
pub(super) fn read_state(row: &mut Row, open: Open<'_>) -> Option<()> {
    let mut body = open.body;
    let place: Place = body.u64()?;
    let (attempt, since_ms) = (u32::try_from(body.u64()?).ok()?, body.u64()?);
    let (reason, progress) = (body.string()?, Bytes::copy_from_slice(body.bytes()?));
    let state = body.u8()?;
    let phase = match State::ALL.into_iter().find(|known| *known as u8 == state)? {
        State::Waiting => Phase::Waiting,
        State::Delayed => Phase::Delayed { until_ms: body.u64()? },
        State::Claimed => {
            let (until_ms, number) = (body.u64()?, body.u64()?);
            Phase::Claimed { lease: Lease { job: row.entry.job.id, number, until_ms }, owner: body.string()? }
        }
        State::Finished => Phase::Finished { result: Bytes::copy_from_slice(body.bytes()?) },
        State::Stalled => Phase::Stalled,
    };
    let entry = &mut row.entry;
    (entry.phase, entry.since_ms, entry.reason) = (phase, since_ms, reason);
    (entry.job.attempt, entry.job.progress, row.place) = (attempt, progress, place);
    Some(())
}

/// What is written of a job, in one number: never 0, and 0 if nothing is. A queue's numbers hold the sum of them, so that
/// a row that is missing, or one that is older than it should be, is found out.
pub(super) fn print_of(put_sum: u32, state_sum: Option<u32>) -> u64 {
    u64::from(state_sum.unwrap_or(0)) << 32 | u64::from(put_sum.max(1))
}

/// The sum of a job's first row.
pub(super) fn put_sum(print: u64) -> u32 {
    print as u32
}
