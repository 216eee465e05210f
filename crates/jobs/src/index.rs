//! A queue's jobs and how they are found: by number, name, state, key, end, and whose turn it is.
//!
//! What a verb does to one job is said in [`job`](crate::job); here is what it does to the queue. Nothing here waits,
//! locks or writes: stores do.
//!
//! Always true: `index` takes in what `unindex` takes out, and an entry is changed only between the two.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use crate::job::{Entry, Failure, JobId, Lease, Spec, State};
use crate::store::{Claim, Claimed, Counts, Limits, Page, Put, Query, StoreError};

/// Where a job stands in the queue: places grow with each put and each retry.
type Place = u64;

/// Entries that one page of a list looks at: what is asked for by key or attempt may be rare.
const LOOKED_AT_MAX: usize = 10_000;

/// All jobs of a queue.
#[derive(Debug, Default)]
pub(crate) struct Index {
    limits: Limits,
    /// The last number given: to a job, a place or a lease.
    numbers: u64,
    jobs: HashMap<JobId, (Entry, Place)>,
    names: HashMap<Box<str>, JobId>,
    /// Jobs by state, those of longest standing first.
    states: BTreeSet<(State, u64, JobId)>,
    /// Delays and leases by their ends.
    ends: BTreeSet<(u64, JobId)>,
    /// The active jobs of each key, first to last.
    keys: HashMap<Box<str>, BTreeMap<Place, JobId>>,
    /// Jobs that may be claimed.
    ready: BTreeSet<(Reverse<u8>, Place, JobId)>,
    /// What there is and was; kept in step by `unindex` and `index`.
    counts: Counts,
}

impl Index {
    pub(crate) fn new(limits: Limits) -> Index {
        Index { limits, ..Index::default() }
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub(crate) fn put(&mut self, specs: Vec<Spec>, now_ms: u64) -> Result<Vec<Put>, StoreError> {
        self.check_room(&specs)?;
        Ok(specs.into_iter().map(|spec| self.put_one(spec, now_ms)).collect())
    }

    /// All that is new must fit. Those that the same put names twice are counted twice, which errs on the safe side.
    fn check_room(&self, specs: &[Spec]) -> Result<(), StoreError> {
        let new = specs.iter().filter(|spec| self.known(spec).is_none());
        let (jobs, bytes) = new.fold((0, 0), |(jobs, bytes), spec| (jobs + 1, bytes + spec.data.len()));
        let Limits { jobs_max, bytes_max, .. } = self.limits;
        let fits = self.unfinished() + jobs <= jobs_max && self.counts.bytes as usize + bytes <= bytes_max;
        if fits || jobs == 0 { Ok(()) } else { Err(StoreError::Full { jobs_max, bytes_max }) }
    }

    fn unfinished(&self) -> usize {
        let Counts { waiting, delayed, claimed, stalled, .. } = self.counts;
        (waiting + delayed + claimed + stalled) as usize
    }

    fn known(&self, spec: &Spec) -> Option<JobId> {
        self.names.get(spec.idempotency_key.as_ref()?).copied()
    }

    fn put_one(&mut self, spec: Spec, now_ms: u64) -> Put {
        if let Some(known) = self.known(&spec) {
            self.counts.totals.known += 1;
            return Put::Known(known);
        }
        let place = self.next_number();
        let id = JobId(place);
        self.names.extend(spec.idempotency_key.clone().map(|name| (name, id)));
        self.counts.totals.put += 1;
        self.index(Entry::new(id, spec, now_ms), place);
        Put::New(id)
    }

    pub(crate) fn claim(&mut self, claim: &Claim, now_ms: u64) -> Claimed {
        let until_ms = now_ms.saturating_add(claim.lease_ms);
        let mut jobs = Vec::new();
        while jobs.len() < claim.jobs_max
            && let Some((_, _, id)) = self.ready.first().copied()
        {
            let lease = Lease { job: id, number: self.next_number(), until_ms };
            let (mut entry, place) = self.unindex(id).expect("whatever is ready is in the store");
            entry.claim(lease, &claim.owner, now_ms);
            jobs.push((entry.job.clone(), lease));
            self.index(entry, place);
        }
        self.counts.totals.claimed += jobs.len() as u64;
        Claimed { jobs, next_ms: self.ends.first().map(|(until_ms, _)| *until_ms) }
    }

    pub(crate) fn extend(&mut self, lease: Lease, until_ms: u64) -> Result<Lease, StoreError> {
        self.change(lease.job, |entry| entry.extend(lease, until_ms))
    }

    pub(crate) fn finish(&mut self, lease: Lease, result: Bytes, now_ms: u64) -> Result<(), StoreError> {
        self.change(lease.job, |entry| entry.finish(lease, result, now_ms))?;
        self.counts.totals.finished += 1;
        Ok(())
    }

    pub(crate) fn cancel(
        &mut self,
        lease: Lease,
        retry_at_ms: u64,
        failure: Failure,
        now_ms: u64,
    ) -> Result<State, StoreError> {
        let attempts_max = self.limits.attempts_max;
        let state = self.change(lease.job, |entry| entry.cancel(lease, retry_at_ms, failure, attempts_max, now_ms))?;
        self.failed(state);
        Ok(state)
    }

    pub(crate) fn stall(&mut self, lease: Lease, failure: Failure, now_ms: u64) -> Result<(), StoreError> {
        self.change(lease.job, |entry| entry.stall(lease, failure, now_ms))?;
        self.counts.totals.stalled += 1;
        Ok(())
    }

    pub(crate) fn retry(&mut self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.change(id, |entry| entry.retry(now_ms))?;
        self.counts.totals.retried += 1;
        Ok(())
    }

    pub(crate) fn retract(&mut self, id: JobId) -> Result<(), StoreError> {
        let state = self.forget(id).ok_or(StoreError::Unknown(id))?;
        self.counts.totals.retracted += u64::from(state != State::Finished);
        Ok(())
    }

    pub(crate) fn find(&self, id: JobId) -> Result<Entry, StoreError> {
        self.jobs.get(&id).map(|(entry, _)| entry.clone()).ok_or(StoreError::Unknown(id))
    }

    pub(crate) fn list(&self, query: &Query) -> Page {
        let Query { state, ref since_ms, attempt_min, ref key, after, limit } = *query;
        if since_ms.is_empty() || limit == 0 {
            return Page::default();
        }
        let first = after.map(|(since_ms, JobId(id))| (since_ms, JobId(id.saturating_add(1))));
        let from = first.unwrap_or((0, JobId(0))).max((since_ms.start, JobId(0)));
        let to = (since_ms.end, JobId(0));
        let mut page = Page::default();
        if from >= to {
            return page;
        }
        let range = (state, from.0, from.1)..(state, to.0, to.1);
        let mut last = None;
        for (looked_at, (_, since_ms, id)) in self.states.range(range).enumerate() {
            if page.entries.len() == limit || looked_at == LOOKED_AT_MAX {
                page.next = last;
                break;
            }
            let entry = &self.jobs[id].0;
            let matches = entry.job.attempt >= attempt_min && (key.is_none() || entry.job.spec.key == *key);
            page.entries.extend(matches.then(|| entry.clone()));
            last = Some((*since_ms, *id));
        }
        page
    }

    pub(crate) fn counts(&self) -> Counts {
        let first = self.states.range((State::Waiting, 0, JobId(0))..).next();
        let waiting_since_ms = first.filter(|(state, ..)| *state == State::Waiting).map(|(_, since_ms, _)| *since_ms);
        Counts { waiting_since_ms, ..self.counts }
    }

    fn failed(&mut self, state: State) {
        self.counts.totals.failed += 1;
        self.counts.totals.stalled += u64::from(state == State::Stalled);
    }

    /// Ends the delays and leases that are over.
    pub(crate) fn pass_time(&mut self, now_ms: u64) {
        while let Some((_, id)) = self.ends.first().copied().filter(|(until_ms, _)| *until_ms <= now_ms) {
            let (mut entry, place) = self.unindex(id).expect("whatever has an end is in the store");
            let was_claimed = entry.state() == State::Claimed;
            entry.time_is_up(self.limits.attempts_max);
            if was_claimed {
                self.failed(entry.state());
            }
            self.index(entry, place);
        }
    }

    pub(crate) fn forget_old(&mut self, now_ms: u64) {
        let until_ms = (now_ms + 1).saturating_sub(self.limits.kept_ms);
        while let Some((_, since_ms, id)) = self.oldest_finished()
            && (since_ms < until_ms || self.counts.kept as usize > self.limits.kept_max)
        {
            self.forget(id);
        }
    }

    fn oldest_finished(&self) -> Option<(State, u64, JobId)> {
        let first = self.states.range((State::Finished, 0, JobId(0))..).next();
        first.copied().filter(|(state, ..)| *state == State::Finished)
    }

    fn forget(&mut self, id: JobId) -> Option<State> {
        let (entry, _) = self.unindex(id)?;
        if let Some(name) = &entry.job.spec.idempotency_key {
            self.names.remove(name);
        }
        self.offer_first(entry.job.spec.key.as_deref());
        Some(entry.state())
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    // The indexes.

    /// Changes an entry by a verb that may fail. One that becomes active again queues anew.
    fn change<T>(
        &mut self,
        id: JobId,
        verb: impl FnOnce(&mut Entry) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (mut entry, place) = self.unindex(id).ok_or(StoreError::Unknown(id))?;
        let was_active = entry.is_active();
        let done = verb(&mut entry);
        let place = if entry.is_active() && !was_active { self.next_number() } else { place };
        self.index(entry, place);
        done
    }

    fn unindex(&mut self, id: JobId) -> Option<(Entry, Place)> {
        let (entry, place) = self.jobs.remove(&id)?;
        let spec = &entry.job.spec;
        self.states.remove(&(entry.state(), entry.since_ms, id));
        self.count(&entry, |count, n| *count -= n);
        self.ready.remove(&(Reverse(spec.priority), place, id));
        if let Some(until_ms) = entry.until_ms() {
            self.ends.remove(&(until_ms, id));
        }
        if let Some(places) = spec.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            places.remove(&place);
        }
        Some((entry, place))
    }

    fn index(&mut self, entry: Entry, place: Place) {
        let (id, state, key) = (entry.job.id, entry.state(), entry.job.spec.key.clone());
        self.states.insert((state, entry.since_ms, id));
        self.count(&entry, |count, n| *count += n);
        self.ends.extend(entry.until_ms().map(|until_ms| (until_ms, id)));
        match &key {
            Some(key) if entry.is_active() => _ = self.keys.entry(key.clone()).or_default().insert(place, id),
            None if state == State::Waiting => _ = self.ready.insert((Reverse(entry.job.spec.priority), place, id)),
            _ => {}
        }
        self.jobs.insert(id, (entry, place));
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
        let entry = &self.jobs[id].0;
        if entry.state() == State::Waiting {
            self.ready.insert((Reverse(entry.job.spec.priority), *place, *id));
        }
    }

    fn count(&mut self, entry: &Entry, change: fn(&mut u64, u64)) {
        let Counts { waiting, delayed, claimed, stalled, kept, bytes, .. } = &mut self.counts;
        match entry.state() {
            State::Waiting => change(waiting, 1),
            State::Delayed => change(delayed, 1),
            State::Claimed => change(claimed, 1),
            State::Stalled => change(stalled, 1),
            State::Finished => return change(kept, 1),
        }
        change(bytes, entry.job.spec.data.len() as u64);
    }
}
