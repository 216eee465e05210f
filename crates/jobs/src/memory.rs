//! A job store in memory: for tests, and for queues that may be lost.
//!
//! Always true: `index` takes in what `unindex` takes out, and a record is changed only between the two.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::job::{Job, JobId, Lease, Record, Spec, State};
use crate::store::{JobStore, Put, StoreError};

/// Where a job stands in the queue: places grow with each put and each retry.
type Place = u64;

/// Jobs in memory.
#[derive(Debug)]
pub struct MemoryStore(Mutex<Tables>);

impl MemoryStore {
    /// Takes `jobs_max` jobs that are not finished (beyond it: [`StoreError::Full`]), and knows finished ones for `kept_ms`.
    pub fn new(jobs_max: usize, kept_ms: u64) -> Self {
        MemoryStore(Mutex::new(Tables { jobs_max, kept_ms, ..Tables::default() }))
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tables after all that was due has happened.
    fn tables_at(&self, now_ms: u64) -> MutexGuard<'_, Tables> {
        let mut tables = self.tables();
        tables.pass_time(now_ms);
        tables
    }
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn put(&self, spec: Spec, now_ms: u64) -> Result<Put, StoreError> {
        self.tables_at(now_ms).put(spec, now_ms)
    }

    async fn claim(&self, lease_ms: u64, now_ms: u64) -> Result<Option<(Job, Lease)>, StoreError> {
        Ok(self.tables_at(now_ms).claim(lease_ms, now_ms))
    }

    async fn extend(&self, lease: Lease, until_ms: u64, now_ms: u64) -> Result<Lease, StoreError> {
        self.tables_at(now_ms).change(lease.job, |record| record.extend(lease, until_ms))
    }

    async fn finish(&self, lease: Lease, now_ms: u64) -> Result<(), StoreError> {
        self.tables_at(now_ms).change(lease.job, |record| record.finish(lease, now_ms))
    }

    async fn cancel(&self, lease: Lease, retry_at_ms: u64, now_ms: u64) -> Result<(), StoreError> {
        self.tables_at(now_ms).change(lease.job, |record| record.cancel(lease, retry_at_ms, now_ms))
    }

    async fn stall(&self, lease: Lease, reason: &str, now_ms: u64) -> Result<(), StoreError> {
        self.tables_at(now_ms).change(lease.job, |record| record.stall(lease, reason, now_ms))
    }

    async fn retry(&self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.tables_at(now_ms).change(id, |record| record.retry(now_ms))
    }

    async fn retract(&self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.tables_at(now_ms).forget(id).ok_or(StoreError::Unknown(id))
    }

    async fn list(&self, state: State, since_ms: Range<u64>, limit: usize) -> Result<Vec<Record>, StoreError> {
        Ok(self.tables().list(state, since_ms, limit))
    }

    async fn sweep(&self, now_ms: u64) -> Result<(), StoreError> {
        let mut tables = self.tables_at(now_ms);
        tables.forget_old(now_ms);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Tables {
    jobs_max: usize,
    kept_ms: u64,
    /// The last number given: to a job, a place or a lease.
    numbers: u64,
    jobs: HashMap<JobId, (Record, Place)>,
    names: HashMap<Box<str>, JobId>,
    /// Jobs by state, those of longest standing first.
    states: BTreeSet<(State, u64, JobId)>,
    /// Delays and leases by their ends.
    ends: BTreeSet<(u64, JobId)>,
    /// The active jobs of each key, first to last.
    keys: HashMap<Box<str>, BTreeMap<Place, JobId>>,
    /// Jobs that may be claimed.
    ready: BTreeSet<(Reverse<u8>, Place, JobId)>,
    /// Jobs that are not finished.
    unfinished: usize,
}

impl Tables {
    fn put(&mut self, spec: Spec, now_ms: u64) -> Result<Put, StoreError> {
        let name = spec.idempotency_key.clone();
        if let Some(known) = name.as_ref().and_then(|name| self.names.get(name)) {
            return Ok(Put::Known(*known));
        }
        if self.unfinished >= self.jobs_max {
            return Err(StoreError::Full { jobs_max: self.jobs_max });
        }
        let place = self.next_number();
        let id = JobId(place);
        self.names.extend(name.map(|name| (name, id)));
        self.index(Record::new(id, spec, now_ms), place);
        Ok(Put::New(id))
    }

    fn claim(&mut self, lease_ms: u64, now_ms: u64) -> Option<(Job, Lease)> {
        let (_, _, id) = *self.ready.first()?;
        let lease = Lease { job: id, number: self.next_number(), until_ms: now_ms.saturating_add(lease_ms) };
        let (mut record, place) = self.unindex(id)?;
        record.claim(lease, now_ms);
        let job = record.job.clone();
        self.index(record, place);
        Some((job, lease))
    }

    fn list(&self, state: State, since_ms: Range<u64>, limit: usize) -> Vec<Record> {
        if since_ms.is_empty() {
            return Vec::new();
        }
        let from = (state, since_ms.start, JobId(0));
        let to = (state, since_ms.end, JobId(0));
        self.states.range(from..to).take(limit).map(|(_, _, id)| self.jobs[id].0.clone()).collect()
    }

    fn pass_time(&mut self, now_ms: u64) {
        while let Some((_, id)) = self.ends.first().copied().filter(|(until_ms, _)| *until_ms <= now_ms) {
            let (mut record, place) = self.unindex(id).expect("whatever has an end is in the store");
            record.time_is_up();
            self.index(record, place);
        }
    }

    fn forget_old(&mut self, now_ms: u64) {
        let until_ms = (now_ms + 1).saturating_sub(self.kept_ms);
        for record in self.list(State::Finished, 0..until_ms, usize::MAX) {
            self.forget(record.job.id);
        }
    }

    fn forget(&mut self, id: JobId) -> Option<()> {
        let (record, _) = self.unindex(id)?;
        if let Some(name) = &record.job.spec.idempotency_key {
            self.names.remove(name);
        }
        self.offer_first(record.job.spec.key.as_deref());
        Some(())
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    // The indexes.

    /// Changes a record by a verb that may fail. One that becomes active again queues anew.
    fn change<T>(
        &mut self,
        id: JobId,
        verb: impl FnOnce(&mut Record) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (mut record, place) = self.unindex(id).ok_or(StoreError::Unknown(id))?;
        let was_active = record.is_active();
        let done = verb(&mut record);
        let place = if record.is_active() && !was_active { self.next_number() } else { place };
        self.index(record, place);
        done
    }

    fn unindex(&mut self, id: JobId) -> Option<(Record, Place)> {
        let (record, place) = self.jobs.remove(&id)?;
        let spec = &record.job.spec;
        self.states.remove(&(record.state(), record.since_ms, id));
        self.unfinished -= usize::from(record.state() != State::Finished);
        self.ready.remove(&(Reverse(spec.priority), place, id));
        if let Some(until_ms) = record.until_ms() {
            self.ends.remove(&(until_ms, id));
        }
        if let Some(places) = spec.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            places.remove(&place);
        }
        Some((record, place))
    }

    fn index(&mut self, record: Record, place: Place) {
        let (id, state, key) = (record.job.id, record.state(), record.job.spec.key.clone());
        self.states.insert((state, record.since_ms, id));
        self.unfinished += usize::from(state != State::Finished);
        self.ends.extend(record.until_ms().map(|until_ms| (until_ms, id)));
        match &key {
            Some(key) if record.is_active() => _ = self.keys.entry(key.clone()).or_default().insert(place, id),
            None if state == State::Waiting => _ = self.ready.insert((Reverse(record.job.spec.priority), place, id)),
            _ => {}
        }
        self.jobs.insert(id, (record, place));
        self.offer_first(key.as_deref());
    }

    /// The first active job of a key may be claimed, once it waits.
    fn offer_first(&mut self, key: Option<&str>) {
        let Some((key, places)) = key.and_then(|key| self.keys.get_key_value(key)) else { return };
        let Some((place, id)) = places.first_key_value() else {
            let key = key.clone();
            self.keys.remove(&key);
            return;
        };
        let record = &self.jobs[id].0;
        if record.state() == State::Waiting {
            self.ready.insert((Reverse(record.job.spec.priority), *place, *id));
        }
    }
}
