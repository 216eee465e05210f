//! A queue as a list of rows that is searched from end to end: too simple to be wrong, and a store is compared with it
//! verb by verb.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{LIMITS, list_all};
use crate::job::{Cancel, Entry, Failure, Job, JobId, Lease, Phase, Spec, State};
use crate::store::{Claim, Claimed, Counts, JobStore, Put, Query, StoreError, Totals};

/// One verb. A lease is the n-th last that was ever given, so that many of them have ended.
#[derive(Clone, Debug)]
pub enum Verb {
    /// Puts jobs.
    Put(Vec<Written>),
    /// Claims so many for so long.
    Claim(usize, u64),
    /// Extends a lease to so many milliseconds from now.
    Extend(usize, u64),
    /// Finishes.
    Finish(usize),
    /// Cancels, for so many milliseconds.
    Cancel(usize, u64),
    /// Releases; whether something was done of it.
    Release(usize, bool),
    /// Stalls.
    Stall(usize),
    /// Retries a job.
    Retry(usize),
    /// Retracts a job.
    Retract(usize),
    /// Lists.
    List(Asked),
    /// Sweeps.
    Sweep,
    /// Closes the store and opens it again, where it can be.
    Reopen,
}

/// A job to put.
#[derive(Clone, Debug)]
pub struct Written {
    key: Option<u8>,
    name: Option<u8>,
    priority: u8,
    delay_ms: u64,
    bytes: usize,
}

/// What a list is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    state: State,
    key: Option<u8>,
    attempt_min: u32,
    since_ms: Range<u64>,
    limit: usize,
}

/// Verbs, each with the milliseconds that pass before it.
pub fn verbs() -> impl Strategy<Value = Vec<(Verb, u64)>> {
    prop::collection::vec((verb(), 0..12u64), 1..200)
}

fn verb() -> impl Strategy<Value = Verb> {
    let (delay, nth) = (0..40u64, 0..6usize);
    prop_oneof![
        8 => prop::collection::vec(written(), 0..4).prop_map(Verb::Put),
        10 => (1..4usize, 1..40u64).prop_map(|(jobs, lease_ms)| Verb::Claim(jobs, lease_ms)),
        2 => (nth.clone(), delay.clone()).prop_map(|(lease, by_ms)| Verb::Extend(lease, by_ms)),
        4 => nth.clone().prop_map(Verb::Finish),
        4 => (nth.clone(), delay).prop_map(|(lease, delay_ms)| Verb::Cancel(lease, delay_ms)),
        3 => (nth.clone(), any::<bool>()).prop_map(|(lease, progressed)| Verb::Release(lease, progressed)),
        2 => nth.clone().prop_map(Verb::Stall),
        2 => nth.clone().prop_map(Verb::Retry),
        2 => nth.prop_map(Verb::Retract),
        3 => asked().prop_map(Verb::List),
        2 => Just(Verb::Sweep),
        1 => Just(Verb::Reopen),
    ]
}

fn written() -> impl Strategy<Value = Written> {
    let (key, name) = (prop::option::of(0..3u8), prop::option::weighted(0.3, 0..4u8));
    (key, name, 0..3u8, 0..40u64, 0..25usize).prop_map(|(key, name, priority, delay_ms, bytes)| {
        let delay_ms = delay_ms.saturating_sub(30);
        Written { key, name, priority, delay_ms, bytes }
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let state = prop::sample::select(&State::ALL[..]);
    (state, prop::option::of(0..3u8), 0..4u32, 0..500u64, 0..500u64, 1..4usize).prop_map(
        |(state, key, attempt_min, since_ms, length_ms, limit)| {
            let since_ms = since_ms..since_ms + length_ms;
            Asked { state, key, attempt_min, since_ms, limit }
        },
    )
}

/// An entry and its place in the queue.
#[derive(Clone, Debug)]
struct Row {
    entry: Entry,
    queued: usize,
}

impl Row {
    fn state(&self) -> State {
        self.entry.state()
    }

    fn key(&self) -> Option<&str> {
        self.entry.job.spec.key.as_deref()
    }

    fn enter(&mut self, phase: Phase, since_ms: u64) {
        (self.entry.phase, self.entry.since_ms) = (phase, since_ms);
    }

    /// Also: whether that was the last attempt.
    fn fail(&mut self, retry_at_ms: u64, now_ms: u64) -> bool {
        let last = self.entry.job.attempt == LIMITS.attempts_max;
        self.entry.job.attempt += u32::from(!last);
        let phase = match retry_at_ms > now_ms {
            _ if last => Phase::Stalled,
            true => Phase::Delayed { until_ms: retry_at_ms },
            false => Phase::Waiting,
        };
        self.enter(phase, now_ms);
        last
    }
}

fn count_failure(totals: &mut Totals, last: bool) {
    totals.failed += 1;
    totals.stalled += u64::from(last);
    totals.exhausted += u64::from(last);
}

#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    queued: usize,
    totals: Totals,
}

impl Model {
    fn pass_time(&mut self, now_ms: u64) {
        for row in &mut self.rows {
            match row.entry.phase {
                Phase::Delayed { until_ms } if until_ms <= now_ms => row.enter(Phase::Waiting, until_ms),
                Phase::Claimed { lease, .. } if lease.until_ms <= now_ms => {
                    row.entry.reason = "the lease ran out".into();
                    count_failure(&mut self.totals, row.fail(lease.until_ms, lease.until_ms));
                }
                _ => {}
            }
        }
    }

    fn row(&mut self, id: JobId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.entry.job.id == id)
    }

    /// The number of a job, or one of none.
    fn nth(&self, nth: usize) -> JobId {
        self.rows.get(nth).map_or(JobId(u64::MAX), |row| row.entry.job.id)
    }

    fn leased(&mut self, lease: Lease) -> Result<&mut Row, StoreError> {
        let row = self.row(lease.job).ok_or(StoreError::Unknown(lease.job))?;
        match &row.entry.phase {
            Phase::Claimed { lease: held, .. } if held.number == lease.number => Ok(row),
            _ => Err(StoreError::LeaseLost(lease.job)),
        }
    }

    fn queue(&mut self) -> usize {
        self.queued += 1;
        self.queued
    }

    fn claimable(&self) -> Option<JobId> {
        let active = |row: &Row| !matches!(row.state(), State::Finished | State::Stalled);
        let held = |row: &Row| {
            let before = |other: &Row| active(other) && other.key() == row.key() && other.queued < row.queued;
            row.key().is_some() && self.rows.iter().any(before)
        };
        let free = self.rows.iter().filter(|row| row.state() == State::Waiting && !held(row));
        free.min_by_key(|row| (u8::MAX - row.entry.job.spec.priority, row.queued)).map(|row| row.entry.job.id)
    }

    fn named(&self, spec: &Spec) -> Option<JobId> {
        let name = spec.idempotency_key.as_ref()?;
        let row = self.rows.iter().find(|row| row.entry.job.spec.idempotency_key.as_ref() == Some(name))?;
        Some(row.entry.job.id)
    }

    /// What is put twice in one batch has to have room twice.
    fn has_room(&self, specs: &[Spec]) -> bool {
        let unfinished = self.rows.iter().filter(|row| row.state() != State::Finished).map(|row| &row.entry.job.spec);
        let new: Vec<_> = specs.iter().filter(|spec| self.named(spec).is_none()).collect();
        let all: Vec<_> = unfinished.chain(new.iter().copied()).collect();
        let bytes: usize = all.iter().map(|spec| spec.data.len()).sum();
        new.is_empty() || (all.len() <= LIMITS.jobs_max && bytes <= LIMITS.bytes_max)
    }

    fn expect_put(&mut self, specs: Vec<Spec>, puts: Result<Vec<Put>, StoreError>, now_ms: u64) {
        let (jobs_max, bytes_max) = (LIMITS.jobs_max, LIMITS.bytes_max);
        if !self.has_room(&specs) {
            return assert_eq!(puts, Err(StoreError::Full { jobs_max, bytes_max }));
        }
        let puts = puts.expect("there is room");
        assert_eq!(puts.len(), specs.len());
        for (spec, put) in specs.into_iter().zip(puts) {
            if let Some(known) = self.named(&spec) {
                self.totals.known += 1;
                assert_eq!(put, Put::Known(known));
                continue;
            }
            let Put::New(id) = put else { panic!("{put:?} is not known") };
            assert!(self.row(id).is_none());
            let (until_ms, queued) = (spec.not_before_ms, self.queue());
            let phase = if until_ms > now_ms { Phase::Delayed { until_ms } } else { Phase::Waiting };
            let job = Job { id, attempt: 1, put_ms: now_ms, progress: Bytes::new(), spec };
            self.rows.push(Row { entry: Entry { job, phase, since_ms: now_ms, reason: "".into() }, queued });
            self.totals.put += 1;
        }
    }

    fn expect_claimed(&mut self, claim: &Claim, claimed: &Claimed, now_ms: u64) {
        for (job, lease) in &claimed.jobs {
            assert_eq!(Some(job.id), self.claimable());
            assert_eq!((lease.job, lease.until_ms), (job.id, now_ms + claim.lease_ms));
            let row = self.row(job.id).expect("it may be claimed");
            assert_eq!(*job, row.entry.job);
            row.enter(Phase::Claimed { lease: *lease, owner: claim.owner.clone() }, now_ms);
            self.totals.claimed += 1;
        }
        assert!(claimed.jobs.len() == claim.jobs_max || self.claimable().is_none());
        assert_eq!(claimed.next_ms, self.rows.iter().filter_map(|row| row.entry.until_ms()).min());
    }

    fn extend(&mut self, lease: Lease, until_ms: u64) -> Result<Lease, StoreError> {
        let longer = Lease { until_ms, ..lease };
        let row = self.leased(lease)?;
        if let Phase::Claimed { lease, .. } = &mut row.entry.phase {
            *lease = longer;
        }
        Ok(longer)
    }

    fn fail(&mut self, lease: Lease, retry_at_ms: u64, failure: Failure, now_ms: u64) -> Result<State, StoreError> {
        let row = self.leased(lease)?;
        (row.entry.reason, row.entry.job.progress) = (failure.reason, failure.progress);
        let last = row.fail(retry_at_ms, now_ms);
        let state = row.state();
        count_failure(&mut self.totals, last);
        Ok(state)
    }

    fn release(&mut self, lease: Lease, progress: Option<Bytes>, now_ms: u64) -> Result<State, StoreError> {
        let row = self.leased(lease)?;
        row.entry.job.progress = progress.unwrap_or(row.entry.job.progress.clone());
        row.enter(Phase::Waiting, now_ms);
        self.totals.released += 1;
        Ok(State::Waiting)
    }

    fn finish(&mut self, lease: Lease, result: Bytes, now_ms: u64) -> Result<(), StoreError> {
        self.leased(lease)?.enter(Phase::Finished { result }, now_ms);
        self.totals.finished += 1;
        Ok(())
    }

    fn stall(&mut self, lease: Lease, failure: Failure, now_ms: u64) -> Result<(), StoreError> {
        let row = self.leased(lease)?;
        (row.entry.reason, row.entry.job.progress) = (failure.reason, failure.progress);
        row.enter(Phase::Stalled, now_ms);
        self.totals.stalled += 1;
        Ok(())
    }

    fn retry(&mut self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        let queued = self.queue();
        let row = self.row(id).ok_or(StoreError::Unknown(id))?;
        if row.state() != State::Stalled {
            return Err(StoreError::NotStalled(id));
        }
        (row.entry.job.attempt, row.queued) = (1, queued);
        row.enter(Phase::Waiting, now_ms);
        self.totals.retried += 1;
        Ok(())
    }

    fn retract(&mut self, id: JobId) -> Result<(), StoreError> {
        let state = self.row(id).ok_or(StoreError::Unknown(id))?.state();
        self.rows.retain(|row| row.entry.job.id != id);
        self.totals.retracted += u64::from(state != State::Finished);
        self.totals.withdrawn += u64::from(state == State::Claimed);
        Ok(())
    }

    fn sweep(&mut self, now_ms: u64) {
        self.rows.retain(|row| row.state() != State::Finished || row.entry.since_ms + LIMITS.kept_ms > now_ms);
        let finished = self.list(&Query::all(State::Finished));
        for entry in finished.iter().rev().skip(LIMITS.kept_max) {
            self.rows.retain(|row| row.entry.job.id != entry.job.id);
        }
    }

    fn list(&self, query: &Query) -> Vec<Entry> {
        let matches = |row: &&Row| {
            row.state() == query.state
                && query.since_ms.contains(&row.entry.since_ms)
                && row.entry.job.attempt >= query.attempt_min
                && (query.key.is_none() || row.key() == query.key.as_deref())
        };
        let mut entries: Vec<_> = self.rows.iter().filter(matches).map(|row| row.entry.clone()).collect();
        entries.sort_by_key(|entry| (entry.since_ms, entry.job.id));
        entries
    }

    fn counts(&self) -> Counts {
        let of = |state| self.rows.iter().filter(move |row| row.state() == state);
        let count = |state| of(state).count() as u64;
        let unfinished = self.rows.iter().filter(|row| row.state() != State::Finished);
        Counts {
            waiting: count(State::Waiting),
            delayed: count(State::Delayed),
            claimed: count(State::Claimed),
            stalled: count(State::Stalled),
            kept: count(State::Finished),
            bytes: unfinished.map(|row| row.entry.job.spec.data.len() as u64).sum(),
            clock_ms: None,
            waiting_since_ms: of(State::Waiting).map(|row| row.entry.since_ms).min(),
            totals: self.totals,
        }
    }
}

/// The store, the model, and the leases that were given.
struct Both {
    store: Arc<dyn JobStore>,
    model: Model,
    leases: Vec<Lease>,
}

fn text(number: u8) -> Box<str> {
    number.to_string().into()
}

impl Both {
    async fn act(&mut self, verb: Verb, now_ms: u64) {
        let leased = |nth: usize| self.leases.iter().rev().nth(nth).copied();
        let failure = Failure { reason: now_ms.to_string().into(), progress: now_ms.to_string().into() };
        let (store, model) = (&self.store, &mut self.model);
        match verb {
            Verb::Put(written) => {
                let specs: Vec<_> = written.iter().map(|written| written.spec(now_ms)).collect();
                let puts = store.put(specs.clone(), now_ms).await;
                model.pass_time(now_ms);
                model.expect_put(specs, puts, now_ms);
            }
            Verb::Claim(jobs_max, lease_ms) => {
                let claim = Claim { jobs_max, lease_ms, owner: now_ms.to_string().into() };
                let claimed = store.claim(claim.clone(), now_ms).await.expect("a store claims");
                model.pass_time(now_ms);
                model.expect_claimed(&claim, &claimed, now_ms);
                self.leases.extend(claimed.jobs.into_iter().map(|(_, lease)| lease));
            }
            Verb::Extend(nth, by_ms) => {
                let (Some(lease), until_ms) = (leased(nth), now_ms + by_ms) else { return };
                let extended = store.extend(lease, until_ms, now_ms).await;
                model.pass_time(now_ms);
                assert_eq!(extended, model.extend(lease, until_ms));
            }
            Verb::Finish(nth) => {
                let (Some(lease), result) = (leased(nth), Bytes::from(now_ms.to_string())) else { return };
                let finished = store.finish(lease, result.clone(), now_ms).await;
                model.pass_time(now_ms);
                assert_eq!(finished, model.finish(lease, result, now_ms));
            }
            Verb::Cancel(nth, delay_ms) => {
                let (Some(lease), retry_at_ms) = (leased(nth), now_ms + delay_ms) else { return };
                let failed = Cancel::Failed { retry_at_ms, failure: failure.clone() };
                let cancelled = store.cancel(lease, failed, now_ms).await;
                model.pass_time(now_ms);
                assert_eq!(cancelled, model.fail(lease, retry_at_ms, failure, now_ms));
            }
            Verb::Release(nth, progressed) => {
                let Some(lease) = leased(nth) else { return };
                let progress = progressed.then(|| failure.progress.clone());
                let released = store.cancel(lease, Cancel::Released { progress: progress.clone() }, now_ms).await;
                model.pass_time(now_ms);
                assert_eq!(released, model.release(lease, progress, now_ms));
            }
            Verb::Stall(nth) => {
                let Some(lease) = leased(nth) else { return };
                let stalled = store.stall(lease, failure.clone(), now_ms).await;
                model.pass_time(now_ms);
                assert_eq!(stalled, model.stall(lease, failure, now_ms));
            }
            Verb::Retry(nth) => {
                let id = model.nth(nth);
                let retried = store.retry(id, now_ms).await;
                model.pass_time(now_ms);
                assert_eq!(retried, model.retry(id, now_ms));
            }
            Verb::Retract(nth) => {
                let id = model.nth(nth);
                let retracted = store.retract(id, now_ms).await;
                model.pass_time(now_ms);
                assert_eq!(retracted, model.retract(id));
            }
            Verb::List(asked) => {
                let query = asked.query();
                assert_eq!(list_all(store, query.clone()).await, model.list(&query));
            }
            Verb::Sweep => {
                assert_eq!(store.sweep(now_ms).await, Ok(()));
                model.pass_time(now_ms);
                model.sweep(now_ms);
            }
            Verb::Reopen => {}
        }
    }

    async fn compare(&self) {
        for state in State::ALL {
            let query = Query::all(state);
            assert_eq!(list_all(&self.store, query.clone()).await, self.model.list(&query), "{state:?}");
        }
        let counts = self.store.counts().await.expect("a store counts");
        assert_eq!(counts, self.model.counts());
        let Counts { waiting, delayed, claimed, stalled, totals, .. } = counts;
        assert_eq!(totals.put, waiting + delayed + claimed + stalled + totals.finished + totals.retracted);
        let ended = totals.finished + totals.failed + totals.parked() + totals.withdrawn + totals.released;
        assert_eq!(totals.claimed, claimed + ended);
    }
}

impl Written {
    fn spec(&self, now_ms: u64) -> Spec {
        Spec {
            key: self.key.map(text),
            idempotency_key: self.name.map(text),
            priority: self.priority,
            not_before_ms: now_ms + self.delay_ms,
            data: vec![b'.'; self.bytes].into(),
            ..Spec::default()
        }
    }
}

impl Asked {
    fn query(self) -> Query {
        let Asked { state, key, attempt_min, since_ms, limit } = self;
        Query { state, since_ms, attempt_min, key: key.map(text), after: None, limit }
    }
}

/// Does the verbs on a store that is empty and has the [`LIMITS`], and on the model. `reopen` gets the only handle.
pub async fn compare(
    store: Arc<dyn JobStore>,
    verbs: Vec<(Verb, u64)>,
    reopen: impl AsyncFn(Arc<dyn JobStore>) -> Arc<dyn JobStore>,
) {
    let mut both = Both { store, model: Model::default(), leases: Vec::new() };
    let mut now_ms = 0;
    for (verb, passed_ms) in verbs {
        now_ms += passed_ms;
        if let Verb::Reopen = verb {
            both.store = reopen(both.store).await;
        }
        both.act(verb, now_ms).await;
        both.compare().await;
    }
}
