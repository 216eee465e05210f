//! Logs on disk: in the same database as the queues, written by the same thread, in the same batches.
//!
//! ```text
//! key    0 u32 · NAME u8 · log u64            value  epoch u64 · name
//!        log u32 · CHUNK u8 · first u64              last u64 · oldest_ms u64 · newest_ms u64 · bytes u64
//!        log u32 · ENTRY u8 · number u64             time_ms u64 · data
//!        log u32 · MARK u8 · reader                  number u64
//! ```
//!
//! A chunk has a row once it has ended, so that opening a log reads as many rows as it has chunks, and the entries of the last.
//! Its tables are no tables of queues, and are not there before the first log is.
//!
//! Always true: an entry is on disk before it can be read, or whoever appended it is answered.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, Slice};
use tokio::sync::{mpsc, oneshot, watch};

use super::committer::{Answer, Message, Wants};
use crate::log::window::{Chunk, Marks, Window};
use crate::log::{Ends, Fresh, Keep, Log, LogEntry, LogError, NUMBERS_SKIPPED, Tip, Written};
use crate::store::StoreError;

/// The tables' numbers begin behind those of queues.
const NAME: u8 = 16;
const CHUNK: u8 = 17;
const ENTRY: u8 = 18;
const MARK: u8 = 19;

const KEYSPACE: &str = "logs";

/// Bytes of new rows that are kept in memory until they go into a table.
const MEMTABLE_BYTES: u64 = 16 << 20;

/// Chunks that are trimmed in one batch, so that a smaller window does not hold up everybody.
const TRIMMED_MAX: usize = 64;

/// The logs of a folder, as far as anybody has asked for them.
pub(super) struct Logs {
    database: Option<Database>,
    open: HashMap<Box<str>, Arc<Table>>,
}

/// What the committer changes of a log.
pub(super) struct Table {
    number: u32,
    epoch: u64,
    name: Box<str>,
    rows: Mutex<Option<Keyspace>>,
    held: Mutex<Held>,
    /// Behind the last entry that is on disk.
    written: watch::Sender<Tip>,
}

struct Held {
    window: Window,
    marks: Marks,
    is_named: bool,
}

/// What is to be done with a log.
pub(super) struct LogAct {
    table: Arc<Table>,
    verb: Verb,
    answer: Answer,
}

enum Verb {
    Append { entries: Vec<Fresh>, now_ms: u64 },
    Mark { reader: Box<str>, forgotten: Option<Box<str>> },
    Trim { now_ms: u64 },
}

impl LogAct {
    pub(super) fn wants(&self) -> Wants {
        match &self.verb {
            Verb::Append { entries, .. } => Wants::Put { bytes: entries.iter().map(|entry| entry.data.len()).sum() },
            Verb::Mark { .. } => Wants::Synced,
            Verb::Trim { .. } => Wants::Written,
        }
    }

    /// Nothing is done.
    pub(super) fn refuse(self, why: StoreError) {
        (self.answer)(Err(why));
    }

    /// Adds its rows to what is to be written; the answer is left.
    pub(super) fn write(self, batch: &mut OwnedWriteBatch) -> Answer {
        let LogAct { table, verb, answer } = self;
        let Some(rows) = table.rows() else { return answer };
        let mut held = table.held();
        match verb {
            Verb::Append { entries, now_ms } => {
                table.write_name(&rows, &mut held, batch);
                entries.into_iter().for_each(|entry| table.write_entry(&rows, &mut held.window, entry, batch));
                table.trim(&rows, &mut held.window, now_ms, batch);
            }
            Verb::Mark { reader, forgotten } => {
                table.write_name(&rows, &mut held, batch);
                if let Some(forgotten) = forgotten {
                    batch.remove(&rows, table.mark_key(&forgotten));
                }
                let mark = held.marks.get(&reader).unwrap_or_default();
                batch.insert(&rows, table.mark_key(&reader), mark.to_le_bytes());
            }
            Verb::Trim { now_ms } => table.trim(&rows, &mut held.window, now_ms, batch),
        }
        let next = held.window.next();
        drop(held);
        Box::new(move |written: Result<(), StoreError>| {
            if written.is_ok() {
                table.written.send_if_modified(|known| std::mem::replace(&mut known.next, next) != next);
            }
            answer(written);
        })
    }
}

impl Logs {
    pub(super) fn new(database: Database) -> Logs {
        Logs { database: Some(database), open: HashMap::new() }
    }

    /// A log: one that is there, or a new one.
    pub(super) fn log(
        &mut self,
        name: &str,
        keep: Keep,
        acts: &mpsc::Sender<Message>,
    ) -> Result<Arc<dyn Log>, fjall::Error> {
        let table = match self.open.get(name) {
            Some(table) => table.clone(),
            None => {
                let database = self.database.as_ref().ok_or(fjall::Error::Locked)?;
                let taken = self.open.values().map(|table| table.number).max().unwrap_or(0);
                let table = Arc::new(Table::load(name, keep, database.keyspace(KEYSPACE, options)?, taken)?);
                self.open.insert(name.into(), table.clone());
                table
            }
        };
        table.held().window.keep = keep;
        Ok(Arc::new(DiskLog { table, acts: acts.clone() }))
    }

    /// From now on, nothing of the database is held.
    pub(super) fn close(&mut self) {
        self.database.take();
        for table in self.open.values() {
            table.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

/// Copies what can be read of all logs into a repaired database. Their readers will hear of a gap.
pub(super) fn copy_readable(from: &Database, to: &Database, now_ms: u64) -> Result<(), fjall::Error> {
    if !from.keyspace_exists(KEYSPACE) {
        return Ok(());
    }
    let (from, to) = (from.keyspace(KEYSPACE, options)?, to.keyspace(KEYSPACE, options)?);
    for row in from.iter() {
        // What cannot be read any more is missing, and so are the numbers of it.
        let Ok((key, value)) = row.into_inner() else { break };
        to.insert(key, value)?;
    }
    for (number, epoch, name) in names(&to)? {
        let table = Table::read(number, epoch, &name, Keep { age_ms: u64::MAX, bytes: u64::MAX }, to.clone())?;
        let window = &table.held().window;
        let (first, rest) = (window.next(), NUMBERS_SKIPPED - 1);
        if let Some(open) = window.last() {
            to.insert(table.key(CHUNK, open.first), chunk_value(&open))?;
        }
        let skipped = Chunk { first, last: first + rest, oldest_ms: now_ms, newest_ms: now_ms, bytes: 0 };
        to.insert(table.key(CHUNK, first), chunk_value(&skipped))?;
    }
    Ok(())
}

fn names(rows: &Keyspace) -> Result<Vec<(u32, u64, Box<str>)>, fjall::Error> {
    let mut names = Vec::new();
    for row in rows.prefix(key(0, NAME, &[])) {
        let (key, value) = row.into_inner()?;
        let number = key.last_chunk().map(|number| u64::from_be_bytes(*number) as u32);
        let (epoch, name) = value.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let name = String::from_utf8_lossy(name).into();
        names.extend(number.map(|number| (number, u64::from_le_bytes(*epoch), name)));
    }
    Ok(names)
}

fn key(log: u32, table: u8, rest: &[u8]) -> Vec<u8> {
    [&log.to_be_bytes()[..], &[table], rest].concat()
}

fn chunk_value(chunk: &Chunk) -> Vec<u8> {
    [chunk.last, chunk.oldest_ms, chunk.newest_ms, chunk.bytes].map(u64::to_le_bytes).concat()
}

fn read_chunk(key: &[u8], value: &[u8]) -> Option<Chunk> {
    let first = u64::from_be_bytes(*key.last_chunk()?);
    let mut numbers = value.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    let (last, oldest_ms, newest_ms, bytes) = (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()?);
    Some(Chunk { first, last, oldest_ms, newest_ms, bytes })
}

fn read_entry(key: &Slice, value: &Slice) -> Option<LogEntry> {
    let number = u64::from_be_bytes(*key.last_chunk()?);
    let (time_ms, data) = value.split_first_chunk()?;
    Some(LogEntry { number, time_ms: u64::from_le_bytes(*time_ms), data: Bytes::copy_from_slice(data) })
}

impl Table {
    /// One that is there, or a new one, whose name and number are written with its first entry. `taken`: the last number of
    /// those that may not have been.
    fn load(name: &str, keep: Keep, rows: Keyspace, taken: u32) -> Result<Table, fjall::Error> {
        let names = names(&rows)?;
        if let Some((number, epoch, _)) = names.iter().find(|(_, _, known)| **known == *name) {
            return Table::read(*number, *epoch, name, keep, rows);
        }
        let number = names.iter().map(|(number, ..)| *number).fold(taken, u32::max) + 1;
        Ok(Table::new(number, fastrand::u64(1..), name, Held::new(keep, false), rows))
    }

    fn read(number: u32, epoch: u64, name: &str, keep: Keep, rows: Keyspace) -> Result<Table, fjall::Error> {
        let mut held = Held::new(keep, true);
        for row in rows.prefix(key(number, CHUNK, &[])) {
            let (key, value) = row.into_inner()?;
            read_chunk(&key, &value).into_iter().for_each(|chunk| held.window.restore(chunk));
        }
        let next = held.window.next().to_be_bytes();
        for row in rows.range(key(number, ENTRY, &next)..key(number, ENTRY + 1, &[])) {
            let (key, value) = row.into_inner()?;
            if let Some(entry) = read_entry(&key, &value) {
                held.window.restore_entry(entry.number, entry.time_ms, entry.data.len());
            }
        }
        for row in rows.prefix(key(number, MARK, &[])) {
            let (key, value) = row.into_inner()?;
            let reader = String::from_utf8_lossy(&key[5..]).into();
            let mark = value.first_chunk().map_or(0, |mark| u64::from_le_bytes(*mark));
            held.marks.restore(reader, mark);
        }
        Ok(Table::new(number, epoch, name, held, rows))
    }

    fn new(number: u32, epoch: u64, name: &str, held: Held, rows: Keyspace) -> Table {
        let written = watch::Sender::new(Tip { epoch, next: held.window.next() });
        Table { number, epoch, name: name.into(), rows: Mutex::new(Some(rows)), held: Mutex::new(held), written }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows(&self) -> Option<Keyspace> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn key(&self, table: u8, number: u64) -> Vec<u8> {
        key(self.number, table, &number.to_be_bytes())
    }

    fn mark_key(&self, reader: &str) -> Vec<u8> {
        key(self.number, MARK, reader.as_bytes())
    }

    fn write_name(&self, rows: &Keyspace, held: &mut Held, batch: &mut OwnedWriteBatch) {
        if !std::mem::replace(&mut held.is_named, true) {
            let value = [&self.epoch.to_le_bytes()[..], self.name.as_bytes()].concat();
            batch.insert(rows, key(0, NAME, &u64::from(self.number).to_be_bytes()), value);
        }
    }

    fn write_entry(&self, rows: &Keyspace, window: &mut Window, entry: Fresh, batch: &mut OwnedWriteBatch) {
        let (number, ended) = window.push(entry.time_ms, entry.data.len());
        if let Some(chunk) = ended {
            batch.insert(rows, self.key(CHUNK, chunk.first), chunk_value(&chunk));
        }
        batch.insert(rows, self.key(ENTRY, number), [&entry.time_ms.to_le_bytes()[..], &entry.data].concat());
    }

    fn trim(&self, rows: &Keyspace, window: &mut Window, now_ms: u64, batch: &mut OwnedWriteBatch) {
        for _ in 0..TRIMMED_MAX {
            let Some(chunk) = window.pop_old(now_ms) else { break };
            batch.remove(rows, self.key(CHUNK, chunk.first));
            let numbers = (chunk.first..=chunk.last).filter(|_| chunk.bytes > 0);
            numbers.for_each(|number| batch.remove(rows, self.key(ENTRY, number)));
        }
    }

    fn read_entries(&self, from: Tip, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let rows = self.rows().ok_or_else(closed)?;
        let Tip { epoch, next } = *self.written.borrow();
        if from.epoch != epoch {
            return Err(LogError::Anew);
        }
        let from = from.next.max(self.held().window.first()).min(next);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for row in rows.range(self.key(ENTRY, from)..self.key(ENTRY, next)) {
            let (key, value) = row.into_inner().map_err(|error| unavailable(&error))?;
            let entry = read_entry(&key, &value).ok_or_else(|| LogError::Unavailable("an entry is damaged".into()))?;
            bytes += entry.data.len();
            entries.push(entry);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(entries)
    }
}

impl Held {
    fn new(keep: Keep, is_named: bool) -> Held {
        Held { window: Window::new(keep), marks: Marks::default(), is_named }
    }
}

fn closed() -> LogError {
    LogError::Unavailable("the store is closed".into())
}

fn unavailable(error: &dyn std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string().into())
}

impl From<StoreError> for LogError {
    fn from(error: StoreError) -> LogError {
        match error {
            StoreError::Unavailable(why) => LogError::Unavailable(why),
            other => unavailable(&other),
        }
    }
}

/// Why a log cannot be opened.
pub(super) fn bad_log(path: &Path, error: &fjall::Error) -> super::DiskError {
    let mut damage = super::Damage::default();
    damage.add(format!("the logs in {} cannot be read: {error}", path.display()));
    super::DiskError::Damaged(damage)
}

/// A log of a disk store. Of no use any more once the store is closed.
struct DiskLog {
    table: Arc<Table>,
    acts: mpsc::Sender<Message>,
}

impl DiskLog {
    /// Hands something to the committer, in order. What is answered ends when that is on disk.
    async fn act(&self, verb: Verb) -> Result<impl Future<Output = Result<(), LogError>> + Send + use<>, LogError> {
        let (sender, receiver) = oneshot::channel();
        let answer: Answer = Box::new(move |written| _ = sender.send(written));
        let act = LogAct { table: self.table.clone(), verb, answer };
        self.acts.send(Message::Log(act)).await.map_err(|_| closed())?;
        Ok(async move { receiver.await.map_err(|_| closed())?.map_err(LogError::from) })
    }
}

#[async_trait]
impl Log for DiskLog {
    async fn append(&self, entries: Vec<Fresh>, now_ms: u64) -> Result<Written, LogError> {
        let n = entries.len() as u64;
        let written = self.act(Verb::Append { entries, now_ms }).await?;
        Ok(Box::pin(async move { written.await.map(|()| n) }))
    }

    async fn read(&self, from: Tip, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let table = self.table.clone();
        let read = tokio::task::spawn_blocking(move || table.read_entries(from, bytes_max)).await;
        read.unwrap_or_else(|error| Err(unavailable(&error)))
    }

    async fn ends(&self) -> Result<Ends, LogError> {
        let (Tip { epoch, next }, window) = (*self.table.written.borrow(), &self.table.held().window);
        Ok(Ends { epoch, first: window.first().min(next), next, bytes: window.bytes() })
    }

    async fn mark(&self, reader: &str) -> Result<Option<u64>, LogError> {
        Ok(self.table.held().marks.get(reader))
    }

    async fn set_mark(&self, reader: &str, epoch: u64, number: u64) -> Result<u64, LogError> {
        if epoch != self.table.epoch {
            return Err(LogError::Anew);
        }
        let (mark, forgotten) = {
            let mut held = self.table.held();
            let first = held.window.first();
            held.marks.set(reader, number, first)?
        };
        self.act(Verb::Mark { reader: reader.into(), forgotten }).await?.await?;
        Ok(mark)
    }

    async fn trim(&self, now_ms: u64) -> Result<(), LogError> {
        self.act(Verb::Trim { now_ms }).await?.await
    }

    fn set_keep(&self, keep: Keep) {
        self.table.held().window.keep = keep;
    }

    fn wakes(&self) -> watch::Receiver<Tip> {
        self.table.written.subscribe()
    }
}
