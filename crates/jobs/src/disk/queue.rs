//! One queue on disk, as its users see it: hands verbs to the committer, and fetches what jobs carry.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use fjall::Keyspace;
use tokio::sync::{mpsc, oneshot, watch};

use super::committer::{Act, Message, Wants};
use super::rows::{self, Table};
use crate::index::{Index, Row};
use crate::job::{Cancel, Entry, Failure, JobId, Lease, Phase, Spec, State};
use crate::store::{Claim, Claimed, Counts, JobStore, Limits, Page, Put, Query, StoreError, Totals};

/// A queue's tables. Jobs in them carry no data and no result: those are on disk.
pub(super) struct Queue {
    pub(super) number: u32,
    pub(super) name: Box<str>,
    held: Mutex<Held>,
    pub(super) wakes: watch::Sender<()>,
}

/// What the committer changes.
pub(super) struct Held {
    pub(super) index: Index,
    /// Of the prints of its jobs.
    pub(super) sum: u64,
    /// Whether its name is on disk,
    pub(super) is_named: bool,
    /// and these totals.
    pub(super) totals: Totals,
    /// Whether a verb has named the time since the store was opened.
    pub(super) has_clock: bool,
}

impl Queue {
    pub(super) fn new(number: u32, name: Box<str>, index: Index, sum: u64, is_named: bool) -> Queue {
        let totals = index.numbers().totals;
        let held = Mutex::new(Held { index, sum, is_named, totals, has_clock: false });
        Queue { number, name, held, wakes: watch::Sender::new(()) }
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a job carries, or why it cannot be had.
enum Carried {
    There(Bytes),
    /// The job was forgotten meanwhile.
    Forgotten,
    Damaged,
}

/// The tables on disk, as long as the store is open.
#[derive(Clone)]
pub(super) struct Reader(pub(super) Arc<Mutex<Option<Keyspace>>>);

impl Reader {
    fn row(&self, key: rows::Key) -> Result<Option<fjall::Slice>, StoreError> {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let value = tables.ok_or_else(closed)?.get(key);
        value.map_err(|error| StoreError::Unavailable(error.to_string().into()))
    }

    /// Reads a row of a job, and a part of it.
    fn carried(
        &self,
        queue: u32,
        table: Table,
        id: JobId,
        part: impl FnOnce(rows::Open<'_>) -> Option<Bytes>,
    ) -> Result<Carried, StoreError> {
        let key = rows::key(queue, table, id);
        let Some(value) = self.row(key)? else { return Ok(Carried::Forgotten) };
        Ok(rows::open(&key, &value).and_then(part).map_or(Carried::Damaged, Carried::There))
    }

    fn data(&self, queue: u32, id: JobId) -> Result<Carried, StoreError> {
        self.carried(queue, Table::Put, id, |open| Some(rows::read_put(id, open)?.entry.job.spec.data))
    }

    fn result(&self, queue: u32, row: &mut Row) -> Result<Carried, StoreError> {
        self.carried(queue, Table::State, row.entry.job.id, |open| {
            rows::read_state(row, open)?;
            match &row.entry.phase {
                Phase::Finished { result } => Some(result.clone()),
                _ => None,
            }
        })
    }

    /// The entry with all that it carries; `None` if the job was forgotten or is not finished any more.
    fn fill(&self, queue: u32, mut entry: Entry) -> Result<Option<Entry>, StoreError> {
        match self.data(queue, entry.job.id)? {
            Carried::There(data) => entry.job.spec.data = data,
            Carried::Forgotten => return Ok(None),
            Carried::Damaged => entry.reason = DAMAGED.into(),
        }
        if entry.state() != State::Finished {
            return Ok(Some(entry));
        }
        let mut row = Row { entry: entry.clone(), place: 0, bytes: 0, print: 0 };
        match self.result(queue, &mut row)? {
            Carried::There(result) => entry.phase = Phase::Finished { result },
            Carried::Forgotten => return Ok(None),
            Carried::Damaged => entry.reason = DAMAGED.into(),
        }
        Ok(Some(entry))
    }
}

/// Why a job stalls whose data the disk has lost.
const DAMAGED: &str = "what the disk holds of it is damaged";

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

/// A queue of a disk store. Of no use any more once the store is closed.
pub(super) struct DiskQueue {
    pub(super) queue: Arc<Queue>,
    pub(super) acts: mpsc::Sender<Message>,
    pub(super) reader: Reader,
}

impl DiskQueue {
    /// Answers when the verb is on disk, or at least handed to the system.
    async fn act<T: Send + 'static>(
        &self,
        wants: Wants,
        now_ms: u64,
        verb: impl FnOnce(&mut Index) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let verb = Box::new(move |index: Result<&mut Index, StoreError>| {
            let done = index.and_then(verb);
            let answer = move |written: Result<(), StoreError>| _ = sender.send(written.and(done));
            Box::new(answer) as Box<dyn FnOnce(Result<(), StoreError>) + Send>
        });
        let act = Act { queue: self.queue.clone(), wants, now_ms, verb };
        self.acts.send(Message::Act(act)).await.map_err(|_| closed())?;
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Reads where waiting for the disk holds nobody up.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader, u32) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reader, number) = (self.reader.clone(), self.queue.number);
        let read = tokio::task::spawn_blocking(move || read(&reader, number)).await;
        read.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string().into())))
    }
}

#[async_trait]
impl JobStore for DiskQueue {
    async fn put(&self, specs: Vec<Spec>, now_ms: u64) -> Result<Vec<Put>, StoreError> {
        let bytes = specs.iter().map(rows::put_bytes).sum();
        self.act(Wants::Put { bytes }, now_ms, move |index| index.put(specs, now_ms)).await
    }

    async fn claim(&self, claim: Claim, now_ms: u64) -> Result<Claimed, StoreError> {
        let mut claimed = self.act(Wants::Written, now_ms, move |index| Ok(index.claim(&claim, now_ms))).await?;
        if claimed.jobs.is_empty() {
            return Ok(claimed);
        }
        let jobs = std::mem::take(&mut claimed.jobs);
        let found = self.reading(move |reader, queue| {
            let read = jobs.into_iter().map(|(job, lease)| (reader.data(queue, job.id), job, lease));
            Ok(read.collect::<Vec<_>>())
        });
        let mut unread = None;
        for (carried, mut job, lease) in found.await? {
            match carried {
                Ok(Carried::There(data)) => {
                    job.spec.data = data;
                    claimed.jobs.push((job, lease));
                }
                Ok(Carried::Forgotten) => {}
                Ok(Carried::Damaged) => {
                    let failure = Failure { reason: DAMAGED.into(), progress: job.progress };
                    match self.stall(lease, failure, now_ms).await {
                        // Somebody retracted it meanwhile, or its lease was a very short one.
                        Ok(()) | Err(StoreError::LeaseLost(_) | StoreError::Unknown(_)) => {}
                        Err(error) => unread = Some(error),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, job = job.id.0, "what a job carries cannot be read");
                    unread = Some(error);
                }
            }
        }
        // The others are not to wait for one that cannot be read: it has this attempt behind it when its lease ends.
        unread.filter(|_| claimed.jobs.is_empty()).map_or(Ok(claimed), Err)
    }

    async fn extend(&self, lease: Lease, until_ms: u64, now_ms: u64) -> Result<Lease, StoreError> {
        self.act(Wants::Written, now_ms, move |index| index.extend(lease, until_ms, now_ms)).await
    }

    async fn finish(&self, lease: Lease, result: Bytes, now_ms: u64) -> Result<(), StoreError> {
        self.act(Wants::Synced, now_ms, move |index| index.finish(lease, result, now_ms)).await
    }

    async fn cancel(&self, lease: Lease, cancel: Cancel, now_ms: u64) -> Result<State, StoreError> {
        self.act(Wants::Synced, now_ms, move |index| index.cancel(lease, cancel, now_ms)).await
    }

    async fn stall(&self, lease: Lease, failure: Failure, now_ms: u64) -> Result<(), StoreError> {
        self.act(Wants::Synced, now_ms, move |index| index.stall(lease, failure, now_ms)).await
    }

    async fn retry(&self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.act(Wants::Synced, now_ms, move |index| index.retry(id, now_ms)).await
    }

    async fn retract(&self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.act(Wants::Synced, now_ms, move |index| index.retract(id, now_ms)).await
    }

    async fn find(&self, id: JobId) -> Result<Entry, StoreError> {
        let entry = self.queue.held().index.find(id)?;
        self.reading(move |reader, queue| reader.fill(queue, entry)).await?.ok_or(StoreError::Unknown(id))
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        let Page { entries, next } = self.queue.held().index.list(&query);
        if entries.is_empty() {
            return Ok(Page { entries, next });
        }
        let filled = self.reading(move |reader, queue| {
            let filled = entries.into_iter().filter_map(|entry| reader.fill(queue, entry).transpose());
            filled.collect::<Result<Vec<_>, _>>()
        });
        Ok(Page { entries: filled.await?, next })
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        Ok(self.queue.held().index.counts())
    }

    async fn sweep(&self, now_ms: u64) -> Result<(), StoreError> {
        while self.act(Wants::Written, now_ms, move |index| Ok(index.sweep(now_ms))).await? {}
        Ok(())
    }

    fn set_limits(&self, limits: Limits) {
        self.queue.held().index.set_limits(limits);
    }

    fn wakes(&self) -> watch::Receiver<()> {
        self.queue.wakes.subscribe()
    }
}
