//! A job store in memory: for tests, and for queues that may be lost.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::index::{Index, SLICE};
use crate::job::{Cancel, Entry, Failure, JobId, Lease, Spec, State};
use crate::store::{Claim, Claimed, Counts, JobStore, Limits, Page, Put, Query, StoreError};

/// Jobs in memory.
#[derive(Debug)]
pub struct MemoryStore {
    index: Mutex<Index>,
    wakes: watch::Sender<()>,
}

impl MemoryStore {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        MemoryStore { index: Mutex::new(Index::new(limits)), wakes: watch::Sender::new(()) }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index after what was due has happened, or a slice of it.
    fn index_at(&self, now_ms: u64) -> MutexGuard<'_, Index> {
        let mut index = self.index();
        index.pass_time(now_ms, SLICE);
        index
    }

    /// Does what may let a job be claimed, and says so. The lock is free again before anybody wakes.
    fn waking<T>(&self, now_ms: u64, verb: impl FnOnce(&mut Index) -> T) -> T {
        let done = verb(&mut self.index_at(now_ms));
        self.wakes.send_replace(());
        done
    }
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn put(&self, specs: Vec<Spec>, now_ms: u64) -> Result<Vec<Put>, StoreError> {
        self.waking(now_ms, |index| index.put(specs, now_ms))
    }

    async fn claim(&self, claim: Claim, now_ms: u64) -> Result<Claimed, StoreError> {
        Ok(self.index_at(now_ms).claim(&claim, now_ms))
    }

    async fn extend(&self, lease: Lease, until_ms: u64, now_ms: u64) -> Result<Lease, StoreError> {
        let mut index = self.index_at(now_ms);
        let next_ms = index.next_ms();
        let extended = index.extend(lease, until_ms, now_ms);
        let sooner = index.next_ms() < next_ms;
        drop(index);
        if sooner {
            self.wakes.send_replace(());
        }
        extended
    }

    async fn finish(&self, lease: Lease, result: Bytes, now_ms: u64) -> Result<(), StoreError> {
        self.waking(now_ms, |index| index.finish(lease, result, now_ms))
    }

    async fn cancel(&self, lease: Lease, cancel: Cancel, now_ms: u64) -> Result<State, StoreError> {
        self.waking(now_ms, |index| index.cancel(lease, cancel, now_ms))
    }

    async fn stall(&self, lease: Lease, failure: Failure, now_ms: u64) -> Result<(), StoreError> {
        self.waking(now_ms, |index| index.stall(lease, failure, now_ms))
    }

    async fn retry(&self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.waking(now_ms, |index| index.retry(id, now_ms))
    }

    async fn retract(&self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.waking(now_ms, |index| index.retract(id, now_ms))
    }

    async fn find(&self, id: JobId) -> Result<Entry, StoreError> {
        self.index().find(id)
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        Ok(self.index().list(&query))
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        Ok(self.index().counts())
    }

    async fn sweep(&self, now_ms: u64) -> Result<(), StoreError> {
        while self.waking(now_ms, |index| index.sweep(now_ms)) {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn set_limits(&self, limits: Limits) {
        self.index().set_limits(limits);
    }

    fn wakes(&self) -> watch::Receiver<()> {
        self.wakes.subscribe()
    }
}
