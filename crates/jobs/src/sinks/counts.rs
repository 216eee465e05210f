//! What a sink's outlet has counted.
//!
//! Always true, whenever one looks: entered = out + lost + failed + in flight. That is why the numbers are behind one
//! lock and not each an atomic: it is taken for a few additions.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why a record that nobody waits for did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// Too many such records were under way.
    Overflow,
    /// The target was left alone at the time, or failed it a few times.
    Unhealthy,
    /// The target did not want it.
    Refused,
}

impl Lost {
    /// All of them, in the order of their numbers.
    pub const ALL: [Lost; 3] = [Lost::Overflow, Lost::Unhealthy, Lost::Refused];

    /// As it is written in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Lost::Overflow => "overflow",
            Lost::Unhealthy => "unhealthy",
            Lost::Refused => "refused",
        }
    }
}

/// An outlet's numbers since it was compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records that were to be delivered.
    pub entered: u64,
    /// Records that were confirmed.
    pub out: u64,
    /// Records that nobody waited for and that did not arrive, by [`Lost::ALL`].
    pub lost: [u64; Lost::ALL.len()],
    /// Records whose job is tried again or stalled.
    pub failed: u64,
    /// Records on their way.
    pub in_flight: u64,
    /// Tries that failed, whatever became of the record.
    pub errors: u64,
    /// Tries after the first.
    pub retried: u64,
    /// How often the target was left alone.
    pub opened: u64,
}

impl Tally {
    /// Whether nothing has been lost without a reason and nothing came from nowhere.
    pub fn balances(&self) -> bool {
        self.entered == self.out + self.lost.iter().sum::<u64>() + self.failed + self.in_flight
    }
}

/// An outlet's numbers, as they change.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<Tally>);

impl Counts {
    pub(super) fn read(&self) -> Tally {
        *self.lock()
    }

    /// A record that is on its way until it is said what became of it; dropped before that, it has failed.
    pub(super) fn enter(&self) -> Flight<'_> {
        let mut tally = self.lock();
        tally.entered += 1;
        tally.in_flight += 1;
        Flight { counts: self, ended: false }
    }

    /// A try failed.
    pub(super) fn error(&self, opened: bool) {
        let mut tally = self.lock();
        tally.errors += 1;
        tally.opened += u64::from(opened);
    }

    /// Another one begins.
    pub(super) fn retry(&self) {
        self.lock().retried += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record on its way.
pub(super) struct Flight<'a> {
    counts: &'a Counts,
    ended: bool,
}

impl Flight<'_> {
    pub(super) fn out(mut self) {
        self.end(|tally| tally.out += 1);
    }

    pub(super) fn lost(mut self, why: Lost) {
        self.end(|tally| tally.lost[why as usize] += 1);
    }

    fn end(&mut self, to: impl FnOnce(&mut Tally)) {
        let mut tally = self.counts.lock();
        tally.in_flight -= 1;
        to(&mut tally);
        self.ended = true;
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(|tally| tally.failed += 1);
        }
    }
}
