//! A job, the states it can be in, and how it passes from one to the next.
//!
//! Stores keep and index [`Record`]s; what a verb does to one is said here, once for all of them.
//!
//! Always true: a verb that fails has changed nothing.

use bytes::Bytes;

use crate::store::StoreError;

/// A job's number in its store, given in the order of putting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// What a producer asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// Jobs of one key are worked on one at a time, in the order of putting.
    pub key: Option<Box<str>>,
    /// While the store knows a job of this name, another is not put.
    pub idempotency_key: Option<Box<str>>,
    /// The higher goes first, where keys do not say otherwise.
    pub priority: u8,
    /// Not to be claimed before.
    pub not_before_ms: u64,
    /// Opaque to the store.
    pub data: Bytes,
}

/// What a worker gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Begins with 1; one more after each claim that was given back or ran out.
    pub attempt: u32,
    /// As it was put.
    pub spec: Spec,
}

/// One claim of one job. Its number is never used again, so whoever comes late with it is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The claimed job.
    pub job: JobId,
    /// Of all claims in the store.
    pub number: u64,
    /// From then on the job is anybody's.
    pub until_ms: u64,
}

/// What a job can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// To be claimed, as soon as no earlier job of its key is in its way.
    Waiting,
    /// Waiting for its time.
    Delayed,
    /// A worker has it.
    Claimed,
    /// Done; kept for a while, so that somebody can ask.
    Finished,
    /// Given up; kept until somebody retries or retracts it.
    Stalled,
}

/// A state, and what belongs to it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// See [`State::Waiting`].
    Waiting,
    /// See [`State::Delayed`].
    Delayed {
        /// It waits from then on.
        until_ms: u64,
    },
    /// See [`State::Claimed`].
    Claimed(Lease),
    /// See [`State::Finished`].
    Finished,
    /// See [`State::Stalled`].
    Stalled {
        /// For the person who looks.
        reason: Box<str>,
    },
}

/// A job where it is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The job.
    pub job: Job,
    /// What it is now.
    pub phase: Phase,
    /// Since when.
    pub since_ms: u64,
}

impl Record {
    /// A new job.
    pub fn new(id: JobId, spec: Spec, now_ms: u64) -> Self {
        let phase = waiting_from(spec.not_before_ms, now_ms);
        Record { job: Job { id, attempt: 1, spec }, phase, since_ms: now_ms }
    }

    /// What it is now.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Delayed { .. } => State::Delayed,
            Phase::Claimed(_) => State::Claimed,
            Phase::Finished => State::Finished,
            Phase::Stalled { .. } => State::Stalled,
        }
    }

    /// When it becomes something else if nobody does anything.
    pub fn until_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Delayed { until_ms } | Phase::Claimed(Lease { until_ms, .. }) => Some(until_ms),
            Phase::Waiting | Phase::Finished | Phase::Stalled { .. } => None,
        }
    }

    /// Whether it holds later jobs of its key.
    pub fn is_active(&self) -> bool {
        matches!(self.state(), State::Waiting | State::Delayed | State::Claimed)
    }

    /// A delay or a lease ends at its time, whenever somebody looks.
    pub fn time_is_up(&mut self) {
        let Some(until_ms) = self.until_ms() else { return };
        if self.state() == State::Claimed {
            self.job.attempt = self.job.attempt.saturating_add(1);
        }
        self.enter(Phase::Waiting, until_ms);
    }

    /// Waiting → claimed.
    pub fn claim(&mut self, lease: Lease, now_ms: u64) {
        debug_assert_eq!((self.state(), self.job.id), (State::Waiting, lease.job));
        self.enter(Phase::Claimed(lease), now_ms);
    }

    /// Claimed → claimed for longer, or for shorter.
    pub fn extend(&mut self, lease: Lease, until_ms: u64) -> Result<Lease, StoreError> {
        self.check(lease)?;
        let lease = Lease { until_ms, ..lease };
        self.phase = Phase::Claimed(lease);
        Ok(lease)
    }

    /// Claimed → finished.
    pub fn finish(&mut self, lease: Lease, now_ms: u64) -> Result<(), StoreError> {
        self.check(lease)?;
        self.enter(Phase::Finished, now_ms);
        Ok(())
    }

    /// Claimed → waiting, or delayed until then.
    pub fn cancel(&mut self, lease: Lease, retry_at_ms: u64, now_ms: u64) -> Result<(), StoreError> {
        self.check(lease)?;
        self.job.attempt = self.job.attempt.saturating_add(1);
        self.enter(waiting_from(retry_at_ms, now_ms), now_ms);
        Ok(())
    }

    /// Claimed → stalled.
    pub fn stall(&mut self, lease: Lease, reason: &str, now_ms: u64) -> Result<(), StoreError> {
        self.check(lease)?;
        self.enter(Phase::Stalled { reason: reason.into() }, now_ms);
        Ok(())
    }

    /// Stalled → waiting, with a first attempt.
    pub fn retry(&mut self, now_ms: u64) -> Result<(), StoreError> {
        if self.state() != State::Stalled {
            return Err(StoreError::NotStalled(self.job.id));
        }
        self.job.attempt = 1;
        self.enter(Phase::Waiting, now_ms);
        Ok(())
    }

    fn enter(&mut self, phase: Phase, since_ms: u64) {
        (self.phase, self.since_ms) = (phase, since_ms);
    }

    /// Leases are told apart by their numbers: whoever extended one may still hold its earlier copy.
    fn check(&self, lease: Lease) -> Result<(), StoreError> {
        match self.phase {
            Phase::Claimed(held) if held.number == lease.number => Ok(()),
            _ => Err(StoreError::LeaseLost(self.job.id)),
        }
    }
}

fn waiting_from(from_ms: u64, now_ms: u64) -> Phase {
    if from_ms > now_ms { Phase::Delayed { until_ms: from_ms } } else { Phase::Waiting }
}
