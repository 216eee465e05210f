//! The one thread that changes and writes: everything that arrived while the disk was busy is one batch.
//!
//! Always true: whoever was answered can rely on the answer after a crash; and once the disk has failed, nobody is answered
//! well any more until the store is opened anew, as nobody knows what such a disk holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode};
use tokio::sync::mpsc;

use super::folder;
use super::log::LogAct;
use super::mark::MarkFile;
use super::queue::{Held, Queue};
use super::rows::{self, Table};
use crate::index::{Index, Row, SLICE};
use crate::job::Phase;
use crate::store::StoreError;

/// Verbs that become one batch, at most.
const ACTS_MAX: usize = 4_096;

/// Bytes of data that become one batch, or little more: each waits in memory until it is written.
const BYTES_MAX: usize = 8 << 20;

/// Callers whose return is waited for, at least.
const WAVE_MIN: usize = 16;

/// Room is asked for so often,
const ROOM_ASKED_EVERY: Duration = Duration::from_secs(1);

/// and when so much was written since.
const ROOM_ASKED_BYTES: u64 = 16 << 20;

/// What comes to the thread.
pub(super) enum Message {
    Act(Act),
    Log(LogAct),
    Close,
}

/// A verb, as yet undone.
pub(super) struct Act {
    pub(super) queue: Arc<Queue>,
    pub(super) wants: Wants,
    pub(super) now_ms: u64,
    pub(super) verb: Verb,
}

/// Does something, or hears why nothing is done.
pub(super) type Verb = Box<dyn FnOnce(Result<&mut Index, StoreError>) -> Answer + Send>;

/// To be called when it is written.
pub(super) type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Room for so much, and to outlive a crash of the machine.
    Put { bytes: usize },
    /// To outlive a crash of the machine.
    Synced,
    /// To outlive a crash of the process: if it is forgotten, something is done again.
    Written,
}

impl Wants {
    fn bytes(self) -> usize {
        if let Wants::Put { bytes } = self { bytes } else { 0 }
    }
}

pub(super) struct Committer {
    pub(super) database: Database,
    pub(super) tables: Keyspace,
    pub(super) mark_file: MarkFile,
    /// The last commit that was tried.
    pub(super) commit: u64,
    /// The last job of each queue, and its name.
    pub(super) jobs: BTreeMap<u32, (u64, Box<str>)>,
    pub(super) room: Room,
    /// How the disk failed.
    pub(super) failed: Option<StoreError>,
}

impl Committer {
    pub(super) fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut wave = Wave::default();
        while let Some(message) = messages.blocking_recv() {
            wave.await_return(&messages);
            let waiting = waiting(message, &mut messages);
            let (count, is_last, begin) = (waiting.len(), waiting.is_last, Instant::now());
            let is_synced = self.commit(waiting);
            wave = if is_synced { Wave { acts: count, took: begin.elapsed() } } else { Wave::default() };
            if is_last {
                break;
            }
        }
        if let Err(error) = self.database.persist(PersistMode::SyncAll) {
            tracing::warn!(%error, "the queues were not synced when they were closed");
        }
    }

    /// Answers whether the disk was waited for.
    fn commit(&mut self, Waiting { acts, logs, bytes, is_synced, .. }: Waiting) -> bool {
        let room = self.room.check(bytes);
        let mut queues: BTreeMap<u32, (Arc<Queue>, bool)> = BTreeMap::new();
        let mut answers = Vec::with_capacity(acts.len());
        let mut due_max = SLICE;
        for Act { queue, wants, now_ms, verb } in acts {
            if let Some(refused) = self.refusal(wants, &room) {
                answers.push(verb(Err(refused)));
                continue;
            }
            let mut held = queue.held();
            due_max -= held.pass_time(now_ms, due_max);
            let next_ms = held.index.next_ms();
            answers.push(verb(Ok(&mut held.index)));
            let wakes = wants != Wants::Written || held.index.next_ms() < next_ms;
            drop(held);
            queues.entry(queue.number).or_insert((queue, false)).1 |= wakes;
        }
        let mut log_acts = Vec::with_capacity(logs.len());
        for act in logs {
            match self.refusal(act.wants(), &room) {
                Some(refused) => act.refuse(refused),
                None => log_acts.push(act),
            }
        }
        let written = self.write(queues.values().map(|(queue, _)| &**queue), log_acts, &mut answers, is_synced);
        answers.into_iter().for_each(|answer| answer(written.clone()));
        for (queue, _) in queues.into_values().filter(|(_, wakes)| *wakes) {
            queue.wakes.send_replace(());
        }
        is_synced
    }

    fn refusal(&self, wants: Wants, room: &Result<(), StoreError>) -> Option<StoreError> {
        let room = room.as_ref().err().filter(|_| matches!(wants, Wants::Put { .. }));
        self.failed.as_ref().or(room).cloned()
    }

    /// Writes what has changed in these queues, and what is to be done with logs. Unless that is on disk, nothing else will
    /// ever be.
    fn write<'a>(
        &mut self,
        queues: impl Iterator<Item = &'a Queue>,
        logs: Vec<LogAct>,
        answers: &mut Vec<Answer>,
        is_synced: bool,
    ) -> Result<(), StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.commit += 1;
        let mode = if is_synced { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(mode));
        for queue in queues {
            self.write_queue(queue, &mut queue.held(), &mut batch);
        }
        answers.extend(logs.into_iter().map(|act| act.write(&mut batch)));
        if batch.is_empty() {
            return Ok(());
        }
        insert(&mut batch, &self.tables, rows::commit(self.commit));
        let written = batch.commit().map_err(|error| error.to_string()).and_then(|()| self.mark(is_synced));
        written.map_err(|error| {
            tracing::error!(error, "the queues cannot be written; nothing is accepted until they are opened anew");
            self.failed.insert(StoreError::Unavailable(error.into())).clone()
        })
    }

    fn write_queue(&mut self, queue: &Queue, held: &mut Held, batch: &mut OwnedWriteBatch) {
        let touched = held.index.take_touched();
        let numbers = held.index.numbers();
        if touched.is_empty() && held.totals == numbers.totals {
            return;
        }
        held.totals = numbers.totals;
        let (tables, number, commit) = (&self.tables, queue.number, self.commit);
        for (id, print) in touched {
            held.sum = held.sum.wrapping_sub(print);
            match held.index.row_mut(id) {
                Some(row) => {
                    write_job(tables, number, row, commit, batch);
                    held.sum = held.sum.wrapping_add(row.print);
                }
                None if print == 0 => {}
                None => {
                    batch.remove(tables, rows::key(number, Table::Put, id));
                    batch.remove(tables, rows::key(number, Table::State, id));
                }
            }
        }
        if !held.is_named {
            held.is_named = true;
            insert(batch, tables, rows::name(number, &queue.name, commit));
        }
        insert(batch, tables, rows::numbers(number, &numbers, held.sum, commit));
        self.jobs.entry(number).or_insert_with(|| (0, queue.name.clone())).0 = numbers.jobs;
    }

    fn mark(&self, is_synced: bool) -> Result<(), String> {
        if !is_synced {
            return Ok(());
        }
        let queues = self.jobs.iter().map(|(queue, (jobs, name))| (*queue, *jobs, &**name));
        self.mark_file.write(self.commit, queues).map_err(|error| error.to_string())
    }
}

/// The callers that were answered last. Under load most of them come back at once, and whoever does not wait for them syncs the
/// first few alone, while the others wait twice as long.
#[derive(Default)]
struct Wave {
    acts: usize,
    took: Duration,
}

impl Wave {
    /// Waits for most of them, for a fraction of what the disk takes.
    fn await_return(&self, messages: &mpsc::Receiver<Message>) {
        let (most, begin) = (self.acts * 3 / 4, Instant::now());
        while self.acts >= WAVE_MIN && messages.len() < most && begin.elapsed() < self.took / 4 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// What is to be one batch.
#[derive(Default)]
struct Waiting {
    acts: Vec<Act>,
    logs: Vec<LogAct>,
    /// Of data.
    bytes: usize,
    /// Whether any of it is to outlive a crash of the machine.
    is_synced: bool,
    /// Whether the store is to be closed then.
    is_last: bool,
}

impl Waiting {
    fn add(&mut self, message: Message) {
        let wants = match message {
            Message::Act(act) => {
                let wants = act.wants;
                self.acts.push(act);
                wants
            }
            Message::Log(act) => {
                let wants = act.wants();
                self.logs.push(act);
                wants
            }
            Message::Close => return self.is_last = true,
        };
        self.bytes += wants.bytes();
        self.is_synced |= wants != Wants::Written;
    }

    fn len(&self) -> usize {
        self.acts.len() + self.logs.len()
    }

    fn has_room(&self) -> bool {
        self.len() < ACTS_MAX && self.bytes < BYTES_MAX && !self.is_last
    }
}

/// All that is there, up to a bound.
fn waiting(first: Message, messages: &mut mpsc::Receiver<Message>) -> Waiting {
    let mut waiting = Waiting::default();
    waiting.add(first);
    while waiting.has_room()
        && let Ok(message) = messages.try_recv()
    {
        waiting.add(message);
    }
    waiting
}

/// Writes a job's rows, and takes out of memory what they hold.
pub(super) fn write_job(tables: &Keyspace, queue: u32, row: &mut Row, commit: u64, batch: &mut OwnedWriteBatch) {
    let mut put_sum = rows::put_sum(row.print);
    if row.print == 0 {
        put_sum = insert(batch, tables, rows::put(queue, row, commit));
        row.entry.job.spec.data = Default::default();
    }
    let is_written = row.print != 0 || !rows::is_as_put(row);
    let state_sum = is_written.then(|| insert(batch, tables, rows::state(queue, row, commit)));
    if let Phase::Finished { result } = &mut row.entry.phase {
        *result = Default::default();
    }
    row.print = rows::print_of(put_sum, state_sum);
}

/// The checksum of the row.
pub(super) fn insert(
    batch: &mut OwnedWriteBatch,
    tables: &Keyspace,
    (key, value, sum): (rows::Key, Vec<u8>, u32),
) -> u32 {
    batch.insert(tables, key, value);
    sum
}

impl Held {
    /// Of what was due, so much at most has happened. Answers how much.
    fn pass_time(&mut self, now_ms: u64, at_most: usize) -> usize {
        if !std::mem::replace(&mut self.has_clock, true) {
            self.index.set_clock(now_ms);
        }
        self.index.pass_time(now_ms, at_most)
    }
}

/// How much more may be put on the disk.
pub(super) struct Room {
    path: PathBuf,
    folder: File,
    /// What is left for claims and finishes, and for the database to tidy up with.
    reserve_bytes: u64,
    /// What there was, when, and how much was put since.
    known: Option<(u64, Instant, u64)>,
}

impl Room {
    pub(super) fn new(path: &Path, reserve_bytes: u64) -> io::Result<Room> {
        Ok(Room { path: path.into(), folder: File::open(path)?, reserve_bytes, known: None })
    }

    /// Whether so many bytes may be put.
    fn check(&mut self, bytes: usize) -> Result<(), StoreError> {
        if bytes == 0 {
            return Ok(());
        }
        let free_bytes = self.free_bytes().map_err(|error| StoreError::Unavailable(error.to_string().into()))?;
        let bytes = bytes as u64;
        if free_bytes < self.reserve_bytes.saturating_add(bytes) {
            let (path, reserve) = (self.path.display(), self.reserve_bytes >> 20);
            let what = format!("the disk of {path} is nearly full: {} MiB left, {reserve} kept free", free_bytes >> 20);
            return Err(StoreError::Unavailable(what.into()));
        }
        if let Some((_, _, put_bytes)) = &mut self.known {
            *put_bytes += bytes;
        }
        Ok(())
    }

    /// Counted now, or a little while ago, less what was put since.
    fn free_bytes(&mut self) -> io::Result<u64> {
        if let Some((free_bytes, at, put_bytes)) = self.known
            && at.elapsed() < ROOM_ASKED_EVERY
            && put_bytes < ROOM_ASKED_BYTES
        {
            return Ok(free_bytes.saturating_sub(put_bytes));
        }
        let free_bytes = folder::free_bytes(&self.folder)?;
        self.known = Some((free_bytes, Instant::now(), 0));
        Ok(free_bytes)
    }
}
