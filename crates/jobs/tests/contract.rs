//! The store in memory keeps the contract, and does under random verbs what a model does that is too simple to be wrong.

use std::sync::Arc;

use fanfare_jobs::testing::{JOBS_MAX, KEPT_MS};
use fanfare_jobs::{Job, JobId, JobStore, Lease, MemoryStore, Put, Spec, State, StoreError};
use proptest::prelude::*;

async fn start() -> Arc<dyn JobStore> {
    Arc::new(MemoryStore::new(JOBS_MAX, KEPT_MS))
}

fanfare_jobs::job_store_contract!(
    #[tokio::test]
    start
);

/// One verb. A lease is the n-th that was ever given, so that many of them have ended.
#[derive(Clone, Debug)]
enum Verb {
    Put { key: Option<u8>, name: Option<u8>, priority: u8, delay_ms: u64 },
    Claim { lease_ms: u64 },
    Extend { lease: usize, by_ms: u64 },
    Finish { lease: usize },
    Cancel { lease: usize, delay_ms: u64 },
    Stall { lease: usize },
    Retry { job: usize },
    Retract { job: usize },
    Sweep,
}

fn verb() -> impl Strategy<Value = Verb> {
    let (delay, nth) = (0..40u64, 0..6usize);
    prop_oneof![
        4 => (prop::option::of(0..3u8), prop::option::weighted(0.3, 0..4u8), 0..3u8, delay.clone()).prop_map(
            |(key, name, priority, delay_ms)| Verb::Put { key, name, priority, delay_ms: delay_ms.saturating_sub(30) }
        ),
        5 => (1..40u64).prop_map(|lease_ms| Verb::Claim { lease_ms }),
        1 => (nth.clone(), delay.clone()).prop_map(|(lease, by_ms)| Verb::Extend { lease, by_ms }),
        2 => nth.clone().prop_map(|lease| Verb::Finish { lease }),
        2 => (nth.clone(), delay).prop_map(|(lease, delay_ms)| Verb::Cancel { lease, delay_ms }),
        1 => nth.clone().prop_map(|lease| Verb::Stall { lease }),
        1 => nth.clone().prop_map(|job| Verb::Retry { job }),
        1 => nth.prop_map(|job| Verb::Retract { job }),
        1 => Just(Verb::Sweep),
    ]
}

/// A job of the model: a row in a list that is searched from end to end.
#[derive(Clone, Debug)]
struct Row {
    job: Job,
    state: State,
    until_ms: u64,
    lease: u64,
    since_ms: u64,
    queued: usize,
}

#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    queued: usize,
}

impl Model {
    fn pass_time(&mut self, now_ms: u64) {
        for row in &mut self.rows {
            if matches!(row.state, State::Delayed | State::Claimed) && row.until_ms <= now_ms {
                row.job.attempt += u32::from(row.state == State::Claimed);
                (row.state, row.since_ms) = (State::Waiting, row.until_ms);
            }
        }
    }

    fn row(&mut self, id: JobId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.job.id == id)
    }

    fn leased(&mut self, lease: Lease) -> Result<&mut Row, StoreError> {
        let row = self.row(lease.job).ok_or(StoreError::Unknown(lease.job))?;
        let held = row.state == State::Claimed && row.lease == lease.number;
        if held { Ok(row) } else { Err(StoreError::LeaseLost(lease.job)) }
    }

    fn queue(&mut self) -> usize {
        self.queued += 1;
        self.queued
    }

    fn claimable(&self) -> Option<JobId> {
        let active = |row: &Row| !matches!(row.state, State::Finished | State::Stalled);
        let held = |row: &Row| {
            let before =
                |other: &Row| active(other) && other.job.spec.key == row.job.spec.key && other.queued < row.queued;
            row.job.spec.key.is_some() && self.rows.iter().any(before)
        };
        let free = self.rows.iter().filter(|row| row.state == State::Waiting && !held(row));
        free.min_by_key(|row| (u8::MAX - row.job.spec.priority, row.queued)).map(|row| row.job.id)
    }

    fn expect_put(&mut self, spec: Spec, put: Result<Put, StoreError>, now_ms: u64) {
        let name = &spec.idempotency_key;
        let known = self.rows.iter().find(|row| name.is_some() && row.job.spec.idempotency_key == *name);
        match (known, put) {
            (Some(row), put) => assert_eq!(put, Ok(Put::Known(row.job.id))),
            (None, Ok(Put::New(id))) => {
                assert!(self.row(id).is_none() && self.unfinished() < JOBS_MAX);
                let (until_ms, queued) = (spec.not_before_ms, self.queue());
                let state = if until_ms > now_ms { State::Delayed } else { State::Waiting };
                let job = Job { id, attempt: 1, spec };
                self.rows.push(Row { job, state, until_ms, lease: 0, since_ms: now_ms, queued });
            }
            (None, put) => {
                assert_eq!((put, self.unfinished()), (Err(StoreError::Full { jobs_max: JOBS_MAX }), JOBS_MAX));
            }
        }
    }

    fn unfinished(&self) -> usize {
        self.rows.iter().filter(|row| row.state != State::Finished).count()
    }

    fn claim(&mut self, lease: Lease, now_ms: u64) -> Job {
        let row = self.row(lease.job).expect("it may be claimed");
        (row.state, row.until_ms, row.lease, row.since_ms) = (State::Claimed, lease.until_ms, lease.number, now_ms);
        row.job.clone()
    }

    fn cancel(&mut self, lease: Lease, retry_at_ms: u64, now_ms: u64) -> Result<(), StoreError> {
        let row = self.leased(lease)?;
        row.job.attempt += 1;
        row.state = if retry_at_ms > now_ms { State::Delayed } else { State::Waiting };
        (row.until_ms, row.since_ms) = (retry_at_ms, now_ms);
        Ok(())
    }

    fn end(&mut self, lease: Lease, state: State, now_ms: u64) -> Result<(), StoreError> {
        let row = self.leased(lease)?;
        (row.state, row.since_ms) = (state, now_ms);
        Ok(())
    }

    fn retry(&mut self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        let queued = self.queue();
        let row = self.row(id).ok_or(StoreError::Unknown(id))?;
        if row.state != State::Stalled {
            return Err(StoreError::NotStalled(id));
        }
        (row.state, row.job.attempt, row.since_ms, row.queued) = (State::Waiting, 1, now_ms, queued);
        Ok(())
    }

    fn sweep(&mut self, now_ms: u64) {
        self.rows.retain(|row| row.state != State::Finished || row.since_ms + KEPT_MS > now_ms);
    }

    fn list(&self, state: State) -> Vec<(u64, Job)> {
        let rows = self.rows.iter().filter(|row| row.state == state);
        let mut jobs: Vec<_> = rows.map(|row| (row.since_ms, row.job.clone())).collect();
        jobs.sort_by_key(|(since_ms, job)| (*since_ms, job.id));
        jobs
    }
}

/// The store, the model, and the leases that were given.
struct Both {
    store: Arc<dyn JobStore>,
    model: Model,
    leases: Vec<Lease>,
}

impl Both {
    async fn act(&mut self, verb: Verb, now_ms: u64) {
        let lease = |nth: usize| self.leases.iter().rev().nth(nth).copied();
        let job = |nth: usize| self.model.rows.get(nth).map_or(JobId(u64::MAX), |row| row.job.id);
        match verb {
            Verb::Put { key, name, priority, delay_ms } => {
                let text = |number: u8| number.to_string().into();
                let (key, idempotency_key) = (key.map(text), name.map(text));
                let not_before_ms = now_ms + delay_ms;
                let spec = Spec { key, idempotency_key, priority, not_before_ms, data: Default::default() };
                let put = self.store.put(spec.clone(), now_ms).await;
                self.model.pass_time(now_ms);
                self.model.expect_put(spec, put, now_ms);
            }
            Verb::Claim { lease_ms } => self.claim(lease_ms, now_ms).await,
            Verb::Extend { lease: nth, by_ms } => {
                let (Some(lease), until_ms) = (lease(nth), now_ms + by_ms) else { return };
                let extended = self.store.extend(lease, until_ms, now_ms).await;
                self.model.pass_time(now_ms);
                let wanted = self.model.leased(lease).map(|row| row.until_ms = until_ms);
                assert_eq!(extended, wanted.map(|()| Lease { until_ms, ..lease }));
            }
            Verb::Finish { lease: nth } => {
                let Some(lease) = lease(nth) else { return };
                let finished = self.store.finish(lease, now_ms).await;
                self.model.pass_time(now_ms);
                assert_eq!(finished, self.model.end(lease, State::Finished, now_ms));
            }
            Verb::Cancel { lease: nth, delay_ms } => {
                let (Some(lease), retry_at_ms) = (lease(nth), now_ms + delay_ms) else { return };
                let cancelled = self.store.cancel(lease, retry_at_ms, now_ms).await;
                self.model.pass_time(now_ms);
                assert_eq!(cancelled, self.model.cancel(lease, retry_at_ms, now_ms));
            }
            Verb::Stall { lease: nth } => {
                let Some(lease) = lease(nth) else { return };
                let stalled = self.store.stall(lease, "poison", now_ms).await;
                self.model.pass_time(now_ms);
                assert_eq!(stalled, self.model.end(lease, State::Stalled, now_ms));
            }
            Verb::Retry { job: nth } => {
                let id = job(nth);
                let retried = self.store.retry(id, now_ms).await;
                self.model.pass_time(now_ms);
                assert_eq!(retried, self.model.retry(id, now_ms));
            }
            Verb::Retract { job: nth } => {
                let id = job(nth);
                let known = self.model.row(id).is_some();
                let retracted = self.store.retract(id, now_ms).await;
                self.model.pass_time(now_ms);
                assert_eq!(retracted, if known { Ok(()) } else { Err(StoreError::Unknown(id)) });
                self.model.rows.retain(|row| row.job.id != id);
            }
            Verb::Sweep => {
                assert_eq!(self.store.sweep(now_ms).await, Ok(()));
                self.model.pass_time(now_ms);
                self.model.sweep(now_ms);
            }
        }
    }

    async fn claim(&mut self, lease_ms: u64, now_ms: u64) {
        let claimed = self.store.claim(lease_ms, now_ms).await.expect("a store claims");
        self.model.pass_time(now_ms);
        assert_eq!(claimed.as_ref().map(|(job, _)| job.id), self.model.claimable());
        let Some((job, lease)) = claimed else { return };
        assert_eq!(job, self.model.claim(lease, now_ms));
        self.leases.push(lease);
    }

    async fn compare(&self) {
        for state in [State::Waiting, State::Delayed, State::Claimed, State::Finished, State::Stalled] {
            let records = self.store.list(state, 0..u64::MAX, usize::MAX).await.expect("a store lists");
            let found: Vec<_> = records.into_iter().map(|record| (record.since_ms, record.job)).collect();
            assert_eq!(found, self.model.list(state), "{state:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_store_does_what_the_model_does(verbs in prop::collection::vec((verb(), 0..12u64), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
        runtime.block_on(async {
            let mut both = Both { store: start().await, model: Model::default(), leases: Vec::new() };
            let mut now_ms = 0;
            for (verb, passed_ms) in verbs {
                now_ms += passed_ms;
                both.act(verb, now_ms).await;
                both.compare().await;
            }
        });
    }
}
