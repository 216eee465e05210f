//! A job, the states it can be in, and how it passes from one to the next.
//!
//! Stores keep and index [`Entry`]s; what a verb does to one is said here, once for all of them.
//!
//! Always true: a verb that fails has changed nothing.

use bytes::Bytes;

use crate::store::StoreError;

/// A job's number in its store, given in the order of putting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// What happened to the thing that a job is about. Stores write the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is new.
    #[default]
    Create = 0,
    /// It changed.
    Edit = 1,
    /// It is no more.
    Delete = 2,
}

impl Kind {
    /// All there are.
    pub const ALL: [Kind; 3] = [Kind::Create, Kind::Edit, Kind::Delete];

    /// As it is written in requests: `create`, `edit`, `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Create => "create",
            Kind::Edit => "edit",
            Kind::Delete => "delete",
        }
    }

    /// The reverse of [`Kind::as_str`].
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What a producer asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// What happened.
    pub kind: Kind,
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
    /// Begins with 1; one more after each that failed, be it that its lease ran out.
    pub attempt: u32,
    /// When it was put.
    pub put_ms: u64,
    /// What earlier attempts have done of it: opaque to the store, kept from [`Failure`] to the next claim.
    pub progress: Bytes,
    /// As it was put.
    pub spec: Spec,
}

impl Job {
    /// Bytes of what it carries.
    pub fn bytes(&self) -> usize {
        self.spec.data.len() + self.progress.len()
    }
}

/// What is left of an attempt that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// For the person who looks.
    pub reason: Box<str>,
    /// See [`Job::progress`]; replaces what was there.
    pub progress: Bytes,
}

/// How a claimed job is given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// The attempt failed; another may begin then, if this was not the last.
    Failed {
        /// At once, if that is over.
        retry_at_ms: u64,
        /// What is left of it.
        failure: Failure,
    },
    /// It was no attempt, whatever was done of it: the job waits again, at once and in its old place.
    Released {
        /// See [`Job::progress`]; replaces what was there, if there is one.
        progress: Option<Bytes>,
    },
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

/// What a job can be. Stores write the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// To be claimed, as soon as no earlier job of its key is in its way.
    Waiting = 0,
    /// Waiting for its time.
    Delayed = 1,
    /// A worker has it.
    Claimed = 2,
    /// Done; kept for a while, so that somebody can ask.
    Finished = 3,
    /// Given up; kept until somebody retries or retracts it.
    Stalled = 4,
}

impl State {
    /// All there are.
    pub const ALL: [State; 5] = [State::Waiting, State::Delayed, State::Claimed, State::Finished, State::Stalled];

    /// Whether a job in it holds later jobs of its key.
    pub fn is_active(self) -> bool {
        matches!(self, State::Waiting | State::Delayed | State::Claimed)
    }

    /// As it is written in requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Delayed => "delayed",
            State::Claimed => "claimed",
            State::Finished => "finished",
            State::Stalled => "stalled",
        }
    }

    /// The reverse of [`State::as_str`].
    pub fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }
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
    Claimed {
        /// The claim that holds it.
        lease: Lease,
        /// Who claimed it, in their own words.
        owner: Box<str>,
    },
    /// See [`State::Finished`].
    Finished {
        /// What the worker left for whoever asks.
        result: Bytes,
    },
    /// See [`State::Stalled`]; [`Entry::reason`] says why.
    Stalled,
}

/// A job where it is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The job.
    pub job: Job,
    /// What it is now.
    pub phase: Phase,
    /// Since when.
    pub since_ms: u64,
    /// Why the last attempt failed; empty if none has.
    pub reason: Box<str>,
}

impl Entry {
    /// A new job.
    pub fn new(id: JobId, spec: Spec, now_ms: u64) -> Self {
        let phase = waiting_from(spec.not_before_ms, now_ms);
        let job = Job { id, attempt: 1, put_ms: now_ms, progress: Bytes::new(), spec };
        Entry { job, phase, since_ms: now_ms, reason: "".into() }
    }

    /// What it is now.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Delayed { .. } => State::Delayed,
            Phase::Claimed { .. } => State::Claimed,
            Phase::Finished { .. } => State::Finished,
            Phase::Stalled => State::Stalled,
        }
    }

    /// Bytes of what it carries, and of what was said of it.
    pub fn bytes(&self) -> usize {
        let result = if let Phase::Finished { result } = &self.phase { result.len() } else { 0 };
        self.job.bytes() + result + self.reason.len()
    }

    /// When it becomes something else if nobody does anything.
    pub fn until_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Delayed { until_ms } | Phase::Claimed { lease: Lease { until_ms, .. }, .. } => Some(until_ms),
            Phase::Waiting | Phase::Finished { .. } | Phase::Stalled => None,
        }
    }

    /// Whether it holds later jobs of its key.
    pub fn is_active(&self) -> bool {
        self.state().is_active()
    }

    /// A delay or a lease ends at its time, whenever somebody looks. A lease that ends was an attempt.
    pub fn time_is_up(&mut self, attempts_max: u32) {
        let Some(until_ms) = self.until_ms() else { return };
        if self.state() == State::Claimed {
            self.reason = "the lease ran out".into();
            return self.fail(until_ms, until_ms, attempts_max);
        }
        self.enter(Phase::Waiting, until_ms);
    }

    /// Waiting → claimed.
    pub fn claim(&mut self, lease: Lease, owner: &str, now_ms: u64) {
        debug_assert_eq!((self.state(), self.job.id), (State::Waiting, lease.job));
        self.enter(Phase::Claimed { lease, owner: owner.into() }, now_ms);
    }

    /// Claimed → claimed for longer, or for shorter.
    pub fn extend(&mut self, given: Lease, until_ms: u64) -> Result<Lease, StoreError> {
        self.check(given)?;
        let longer = Lease { until_ms, ..given };
        if let Phase::Claimed { lease, .. } = &mut self.phase {
            *lease = longer;
        }
        Ok(longer)
    }

    /// Claimed → finished.
    pub fn finish(&mut self, lease: Lease, result: Bytes, now_ms: u64) -> Result<(), StoreError> {
        self.check(lease)?;
        self.enter(Phase::Finished { result }, now_ms);
        Ok(())
    }

    /// Claimed → waiting. If the attempt failed: delayed until its next one, or stalled after the last that it has.
    pub fn cancel(
        &mut self,
        lease: Lease,
        cancel: Cancel,
        attempts_max: u32,
        now_ms: u64,
    ) -> Result<State, StoreError> {
        self.check(lease)?;
        match cancel {
            Cancel::Failed { retry_at_ms, failure } => {
                (self.reason, self.job.progress) = (failure.reason, failure.progress);
                self.fail(retry_at_ms, now_ms, attempts_max);
            }
            Cancel::Released { progress } => {
                self.job.progress = progress.unwrap_or_else(|| std::mem::take(&mut self.job.progress));
                self.enter(Phase::Waiting, now_ms);
            }
        }
        Ok(self.state())
    }

    /// Claimed → stalled.
    pub fn stall(&mut self, lease: Lease, failure: Failure, now_ms: u64) -> Result<(), StoreError> {
        self.check(lease)?;
        (self.reason, self.job.progress) = (failure.reason, failure.progress);
        self.enter(Phase::Stalled, now_ms);
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

    /// The attempt is over. `attempts_max` of 0 is no limit.
    fn fail(&mut self, retry_at_ms: u64, now_ms: u64, attempts_max: u32) {
        if attempts_max > 0 && self.job.attempt >= attempts_max {
            return self.enter(Phase::Stalled, now_ms);
        }
        self.job.attempt = self.job.attempt.saturating_add(1);
        self.enter(waiting_from(retry_at_ms, now_ms), now_ms);
    }

    fn enter(&mut self, phase: Phase, since_ms: u64) {
        (self.phase, self.since_ms) = (phase, since_ms);
    }

    /// Leases are told apart by their numbers: whoever extended one may still hold its earlier copy.
    fn check(&self, lease: Lease) -> Result<(), StoreError> {
        match &self.phase {
            Phase::Claimed { lease: held, .. } if held.number == lease.number => Ok(()),
            _ => Err(StoreError::LeaseLost(self.job.id)),
        }
    }
}

fn waiting_from(from_ms: u64, now_ms: u64) -> Phase {
    if from_ms > now_ms { Phase::Delayed { until_ms: from_ms } } else { Phase::Waiting }
}
