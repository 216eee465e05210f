//! A queue's jobs and how they are found: by number, name, state, key, end, and whose turn it is.
//!
//! What a verb does to one job is said in [`job`](crate::job); here is what it does to the queue. Nothing here waits,
//! locks or writes: stores do.
//!
//! A store that keeps what producers and workers wrote elsewhere takes it out of the rows; nothing here looks at it.
//!
//! Always true: `index` takes in what `unindex` takes out, and an entry is changed only between the two.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use bytes::Bytes;
use hashbrown::HashMap;

use crate::job::{Cancel, Entry, Failure, JobId, Lease, Phase, Spec, State};
use crate::store::{Claim, Claimed, Counts, Limits, Page, Put, Query, StoreError, Totals};

/// Where a job stands in the queue: places grow with each put and each retry.
pub(crate) type Place = u64;

/// Entries that one page of a list looks at: what is asked for by key or attempt may be rare.
const LOOKED_AT_MAX: usize = 10_000;

/// Jobs that become something else by themselves, or are forgotten, in one go: a few milliseconds, in which the queue's lock
/// is held.
pub(crate) const SLICE: usize = 1_000;

/// A job, and what the queue knows of it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) entry: Entry,
    pub(crate) place: Place,
    /// Of its data, wherever that is.
    pub(crate) bytes: u64,
    /// The store's own: nothing here reads it.
    pub(crate) print: u64,
}

/// What is to be known of a queue besides its jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The number of the last job. Jobs are numbered without gaps, so a missing one can be named.
    pub(crate) jobs: u64,
    /// The last number given to a place or a lease.
    pub(crate) others: u64,
    /// The latest time that was ever named.
    pub(crate) now_ms: u64,
    pub(crate) totals: Totals,
}

/// All jobs of a queue. Keys and names are found by their hashes: a page of a tree has room for many, and a clash costs
/// a comparison.
#[derive(Debug, Default)]
pub(crate) struct Index {
    limits: Limits,
    jobs_put: u64,
    /// The last number given to a place or a lease.
    numbers: u64,
    now_ms: u64,
    jobs: HashMap<JobId, Box<Row>>,
    hasher: RandomState,
    names: BTreeSet<(u64, JobId)>,
    /// Jobs by state, those of longest standing first.
    states: BTreeSet<(State, u64, JobId)>,
    /// Delays and leases by their ends.
    ends: BTreeSet<(u64, JobId)>,
    /// The active jobs of each key, first to last.
    keys: BTreeSet<(u64, Place, JobId)>,
    /// Jobs that may be claimed.
    ready: BTreeSet<(Reverse<u8>, Place, JobId)>,
    /// What there is and was; kept in step by `unindex` and `index`.
    counts: Counts,
    /// Jobs that were put, changed or forgotten since somebody took this, if anybody does; with their prints.
    touched: Option<Vec<(JobId, u64)>>,
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

    pub(crate) fn unfinished(&self) -> usize {
        let Counts { waiting, delayed, claimed, stalled, .. } = self.counts;
        (waiting + delayed + claimed + stalled) as usize
    }

    fn known(&self, spec: &Spec) -> Option<JobId> {
        let name = spec.idempotency_key.as_ref()?;
        let hash = self.hasher.hash_one(name);
        let mut same_hash = self.names.range((hash, JobId(0))..=(hash, JobId(u64::MAX))).map(|(_, id)| *id);
        same_hash.find(|id| self.jobs[id].entry.job.spec.idempotency_key.as_ref() == Some(name))
    }

    fn put_one(&mut self, spec: Spec, now_ms: u64) -> Put {
        if let Some(known) = self.known(&spec) {
            self.counts.totals.known += 1;
            return Put::Known(known);
        }
        self.jobs_put += 1;
        self.counts.totals.put += 1;
        let (id, place, bytes) = (JobId(self.jobs_put), self.next_number(), spec.data.len() as u64);
        self.insert(Row { entry: Entry::new(id, spec, now_ms), place, bytes, print: 0 });
        self.touch(id, 0);
        Put::New(id)
    }

    pub(crate) fn claim(&mut self, claim: &Claim, now_ms: u64) -> Claimed {
        let until_ms = now_ms.saturating_add(claim.lease_ms);
        let mut jobs = Vec::new();
        while jobs.len() < claim.jobs_max
            && let Some((_, _, id)) = self.ready.first().copied()
        {
            let lease = Lease { job: id, number: self.next_number(), until_ms };
            let mut row = self.unindex(id).expect("whatever is ready is in the store");
            row.entry.claim(lease, &claim.owner, now_ms);
            jobs.push((row.entry.job.clone(), lease));
            self.touch(id, row.print);
            self.index(row);
        }
        self.counts.totals.claimed += jobs.len() as u64;
        Claimed { jobs, next_ms: self.next_ms() }
    }

    /// When the next delay or lease ends.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.ends.first().map(|(until_ms, _)| *until_ms)
    }

    pub(crate) fn extend(&mut self, lease: Lease, until_ms: u64, now_ms: u64) -> Result<Lease, StoreError> {
        self.change(lease.job, now_ms, |entry| entry.extend(lease, until_ms))
    }

    pub(crate) fn finish(&mut self, lease: Lease, result: Bytes, now_ms: u64) -> Result<(), StoreError> {
        self.change(lease.job, now_ms, |entry| entry.finish(lease, result, now_ms))?;
        self.counts.totals.finished += 1;
        Ok(())
    }

    pub(crate) fn cancel(&mut self, lease: Lease, cancel: Cancel, now_ms: u64) -> Result<State, StoreError> {
        let (attempts_max, is_release) = (self.limits.attempts_max, matches!(cancel, Cancel::Released { .. }));
        let state = self.change(lease.job, now_ms, |entry| entry.cancel(lease, cancel, attempts_max, now_ms))?;
        match is_release {
            true => self.counts.totals.released += 1,
            false => self.failed(state),
        }
        Ok(state)
    }

    pub(crate) fn stall(&mut self, lease: Lease, failure: Failure, now_ms: u64) -> Result<(), StoreError> {
        self.change(lease.job, now_ms, |entry| entry.stall(lease, failure, now_ms))?;
        self.counts.totals.stalled += 1;
        Ok(())
    }

    pub(crate) fn retry(&mut self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.change(id, now_ms, |entry| entry.retry(now_ms))?;
        self.counts.totals.retried += 1;
        Ok(())
    }

    pub(crate) fn retract(&mut self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.bring_up(id, now_ms);
        let state = self.forget(id).ok_or(StoreError::Unknown(id))?;
        self.counts.totals.retracted += u64::from(state != State::Finished);
        self.counts.totals.withdrawn += u64::from(state == State::Claimed);
        Ok(())
    }

    pub(crate) fn find(&self, id: JobId) -> Result<Entry, StoreError> {
        self.jobs.get(&id).map(|row| row.entry.clone()).ok_or(StoreError::Unknown(id))
    }

    pub(crate) fn list(&self, query: &Query) -> Page {
        let mut page = Page::default();
        let mut last = None;
        for (looked_at, (since_ms, id)) in self.candidates(query).enumerate() {
            if page.entries.len() == query.limit || looked_at == LOOKED_AT_MAX {
                page.next = last;
                break;
            }
            let entry = &self.jobs[&id].entry;
            let matches = entry.job.attempt >= query.attempt_min && is_of(&entry.job.spec, query.key.as_deref());
            page.entries.extend(matches.then(|| entry.clone()));
            last = Some((since_ms, id));
        }
        page
    }

    /// What a list looks at, in its order: the jobs of its key, if those are active and not too many; or those in its state.
    fn candidates(&self, query: &Query) -> Box<dyn Iterator<Item = (u64, JobId)> + '_> {
        let behind = query.after.map_or((0, JobId(0)), |(since_ms, JobId(id))| (since_ms, JobId(id.saturating_add(1))));
        let (from, to) = (behind.max((query.since_ms.start, JobId(0))), (query.since_ms.end, JobId(0)));
        if from >= to || query.limit == 0 {
            return Box::new(std::iter::empty());
        }
        if let Some(key) = query.key.as_deref().filter(|_| query.state.is_active()) {
            let of_key: Vec<_> = self.of_key(key).take(LOOKED_AT_MAX).collect();
            if of_key.len() < LOOKED_AT_MAX {
                let entries = of_key.into_iter().map(|(_, id)| &self.jobs[&id].entry);
                let in_state = entries.filter(|entry| entry.state() == query.state);
                let mut found: Vec<_> = in_state.map(|entry| (entry.since_ms, entry.job.id)).collect();
                found.sort_unstable();
                return Box::new(found.into_iter().filter(move |place| (from..to).contains(place)));
            }
        }
        let range = (query.state, from.0, from.1)..(query.state, to.0, to.1);
        Box::new(self.states.range(range).map(|(_, since_ms, id)| (*since_ms, *id)))
    }

    /// Places and numbers of the active jobs of a key, and of keys that have the same hash.
    fn of_key(&self, key: &str) -> impl Iterator<Item = (Place, JobId)> + '_ {
        let hash = self.hasher.hash_one(key);
        self.keys.range((hash, 0, JobId(0))..=(hash, u64::MAX, JobId(u64::MAX))).map(|(_, place, id)| (*place, *id))
    }

    pub(crate) fn counts(&self) -> Counts {
        let first = self.states.range((State::Waiting, 0, JobId(0))..).next();
        let waiting_since_ms = first.filter(|(state, ..)| *state == State::Waiting).map(|(_, since_ms, _)| *since_ms);
        Counts { waiting_since_ms, ..self.counts }
    }

    fn failed(&mut self, state: State) {
        self.counts.totals.failed += 1;
        self.counts.totals.stalled += u64::from(state == State::Stalled);
        self.counts.totals.exhausted += u64::from(state == State::Stalled);
    }

    /// Ends delays and leases that are over, so many at most. Answers how many it were.
    pub(crate) fn pass_time(&mut self, now_ms: u64, at_most: usize) -> usize {
        self.now_ms = self.now_ms.max(now_ms);
        let mut ended = 0;
        while ended < at_most
            && let Some((until_ms, id)) = self.ends.first().copied()
            && until_ms <= now_ms
        {
            self.time_is_up(id);
            ended += 1;
        }
        ended
    }

    fn time_is_up(&mut self, id: JobId) {
        let mut row = self.unindex(id).expect("whatever has an end is in the store");
        let was_claimed = row.entry.state() == State::Claimed;
        row.entry.time_is_up(self.limits.attempts_max);
        if was_claimed {
            self.failed(row.entry.state());
        }
        self.touch(id, row.print);
        self.index(row);
    }

    /// Does for one job what is due, whoever's turn it would be.
    fn bring_up(&mut self, id: JobId, now_ms: u64) {
        let until_ms = self.jobs.get(&id).and_then(|row| row.entry.until_ms());
        if until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
            self.time_is_up(id);
        }
    }

    /// Forgets a slice of what finished long ago. Answers whether there is more to do, of this or of what is due.
    pub(crate) fn sweep(&mut self, now_ms: u64) -> bool {
        let until_ms = (now_ms + 1).saturating_sub(self.limits.kept_ms);
        let mut forgotten = 0;
        while let Some((_, since_ms, id)) = self.oldest_finished()
            && (since_ms < until_ms || self.counts.kept as usize > self.limits.kept_max)
        {
            if forgotten == SLICE {
                return true;
            }
            self.forget(id);
            forgotten += 1;
        }
        self.next_ms().is_some_and(|next_ms| next_ms <= now_ms)
    }

    fn oldest_finished(&self) -> Option<(State, u64, JobId)> {
        let first = self.states.range((State::Finished, 0, JobId(0))..).next();
        first.copied().filter(|(state, ..)| *state == State::Finished)
    }

    fn forget(&mut self, id: JobId) -> Option<State> {
        let row = self.unindex(id)?;
        let spec = &row.entry.job.spec;
        if let Some(name) = &spec.idempotency_key {
            self.names.remove(&(self.hasher.hash_one(name), id));
        }
        self.offer_first(spec.key.as_deref());
        self.touch(id, row.print);
        Some(row.entry.state())
    }

    fn touch(&mut self, id: JobId, print: u64) {
        self.touched.iter_mut().for_each(|touched| touched.push((id, print)));
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    // For stores that keep what is here elsewhere too.

    /// From now on it is remembered which jobs change.
    pub(crate) fn remember_changes(&mut self) {
        self.touched.get_or_insert_default();
    }

    /// The jobs that were put, changed or forgotten since the last time, and what their prints were then.
    pub(crate) fn take_touched(&mut self) -> Vec<(JobId, u64)> {
        let mut touched = self.touched.as_mut().map(std::mem::take).unwrap_or_default();
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// All jobs.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.jobs.values().map(|row| &**row)
    }

    /// A job, if it has not been forgotten. Only what the store keeps elsewhere may be changed: data, result and print.
    pub(crate) fn row_mut(&mut self, id: JobId) -> Option<&mut Row> {
        self.jobs.get_mut(&id).map(|row| &mut **row)
    }

    pub(crate) fn numbers(&self) -> Numbers {
        Numbers { jobs: self.jobs_put, others: self.numbers, now_ms: self.now_ms, totals: self.counts.totals }
    }

    /// As it was before; with the jobs that `insert` adds.
    pub(crate) fn set_numbers(&mut self, numbers: Numbers) {
        (self.jobs_put, self.numbers, self.now_ms) = (numbers.jobs, numbers.others, numbers.now_ms);
        self.counts.totals = numbers.totals;
    }

    /// Adds a job behind all others, a new one or one from before.
    pub(crate) fn insert(&mut self, row: Row) {
        let Entry { job, .. } = &row.entry;
        if let Some(name) = &job.spec.idempotency_key {
            self.names.insert((self.hasher.hash_one(name), job.id));
        }
        self.index(Box::new(row));
    }

    /// The clock went back while nobody looked: what was left of each delay and lease is left now.
    pub(crate) fn set_clock(&mut self, now_ms: u64) {
        let back_ms = self.now_ms.saturating_sub(now_ms);
        if back_ms == 0 {
            return;
        }
        self.now_ms = now_ms;
        let entries = self.jobs.values().map(|row| &row.entry);
        let ahead = entries.filter(|entry| entry.until_ms().is_some() || entry.since_ms > now_ms);
        let ahead: Vec<_> = ahead.map(|entry| entry.job.id).collect();
        for id in ahead {
            let mut row = self.unindex(id).expect("it was just seen");
            row.entry.since_ms = row.entry.since_ms.min(now_ms);
            if let Phase::Delayed { until_ms } | Phase::Claimed { lease: Lease { until_ms, .. }, .. } =
                &mut row.entry.phase
            {
                *until_ms = until_ms.saturating_sub(back_ms);
            }
            self.touch(id, row.print);
            self.index(row);
        }
    }

    // The indexes.

    /// Changes an entry by a verb that may fail. One that becomes active again queues anew.
    fn change<T>(
        &mut self,
        id: JobId,
        now_ms: u64,
        verb: impl FnOnce(&mut Entry) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.bring_up(id, now_ms);
        let mut row = self.unindex(id).ok_or(StoreError::Unknown(id))?;
        let was_active = row.entry.is_active();
        let done = verb(&mut row.entry);
        if row.entry.is_active() && !was_active {
            row.place = self.next_number();
        }
        if done.is_ok() {
            self.touch(id, row.print);
        }
        self.index(row);
        done
    }

    fn unindex(&mut self, id: JobId) -> Option<Box<Row>> {
        let row = self.jobs.remove(&id)?;
        let spec = &row.entry.job.spec;
        self.states.remove(&(row.entry.state(), row.entry.since_ms, id));
        self.count(&row, |count, n| *count -= n);
        self.ready.remove(&(Reverse(spec.priority), row.place, id));
        if let Some(until_ms) = row.entry.until_ms() {
            self.ends.remove(&(until_ms, id));
        }
        if let Some(key) = &spec.key {
            self.keys.remove(&(self.hasher.hash_one(key), row.place, id));
        }
        Some(row)
    }

    fn index(&mut self, row: Box<Row>) {
        let (entry, place) = (&row.entry, row.place);
        let (id, state, spec) = (entry.job.id, entry.state(), &entry.job.spec);
        self.states.insert((state, entry.since_ms, id));
        self.count(&row, |count, n| *count += n);
        self.ends.extend(entry.until_ms().map(|until_ms| (until_ms, id)));
        let key = spec.key.clone();
        match &key {
            Some(key) if entry.is_active() => _ = self.keys.insert((self.hasher.hash_one(key), place, id)),
            None if state == State::Waiting => _ = self.ready.insert((Reverse(spec.priority), place, id)),
            _ => {}
        }
        self.jobs.insert(id, row);
        self.offer_first(key.as_deref());
    }

    /// The first active job of a key may be claimed, once it waits.
    fn offer_first(&mut self, key: Option<&str>) {
        let Some(key) = key else { return };
        let first = self.of_key(key).find(|(_, id)| is_of(&self.jobs[id].entry.job.spec, Some(key)));
        let Some((place, id)) = first else { return };
        let entry = &self.jobs[&id].entry;
        if entry.state() == State::Waiting {
            self.ready.insert((Reverse(entry.job.spec.priority), place, id));
        }
    }

    fn count(&mut self, row: &Row, change: fn(&mut u64, u64)) {
        let Counts { waiting, delayed, claimed, stalled, kept, bytes, .. } = &mut self.counts;
        match row.entry.state() {
            State::Waiting => change(waiting, 1),
            State::Delayed => change(delayed, 1),
            State::Claimed => change(claimed, 1),
            State::Stalled => change(stalled, 1),
            State::Finished => return change(kept, 1),
        }
        change(bytes, row.bytes);
    }
}

/// Whether a job is of this key, if it matters.
fn is_of(spec: &Spec, key: Option<&str>) -> bool {
    key.is_none() || spec.key.as_deref() == key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_once_is_done_in_slices_and_for_a_verbs_own_job_before_it() {
        let mut index = Index::new(Limits::default());
        index.put(vec![Spec::default(); 25], 1).expect("there is room");
        let claim = Claim { jobs_max: 25, lease_ms: 10, owner: "worker".into() };
        let (_, last) = index.claim(&claim, 1).jobs[24];
        assert_eq!((index.pass_time(50, 10), index.counts().waiting), (10, 10));
        assert_eq!(index.finish(last, Bytes::new(), 50), Err(StoreError::LeaseLost(last.job)));
        assert_eq!((index.counts().waiting, index.counts().totals.failed), (11, 11));
        assert!(index.sweep(50), "there is more");
        assert_eq!(index.claim(&claim, 50).next_ms, Some(11), "whoever asks again at once finds more");
        assert_eq!((index.pass_time(50, 99), index.sweep(50)), (14, false));
    }
}
