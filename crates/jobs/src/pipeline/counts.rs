//! What a stage has counted.
//!
//! Always true, whenever one looks: entered + made = out + dropped + failed + in flight. That is why the numbers are
//! behind one lock and not each an atomic: it is taken for a few additions.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::stage::Reason;

/// A stage's numbers since it was compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records that came in.
    pub entered: u64,
    /// Records made of them, beyond the first.
    pub made: u64,
    /// Records that went on.
    pub out: u64,
    /// Records dropped on purpose, by [`Reason::ALL`].
    pub dropped: [u64; Reason::ALL.len()],
    /// Records whose job is tried again or stalled.
    pub failed: u64,
    /// Records that are here.
    pub in_flight: u64,
    /// Errors, whatever became of the record.
    pub errors: u64,
}

impl Tally {
    /// Dropped for whatever reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether nothing has been lost and nothing came from nowhere.
    pub fn balances(&self) -> bool {
        self.entered + self.made == self.out + self.dropped_total() + self.failed + self.in_flight
    }
}

/// A stage's numbers, as they change.
#[derive(Debug, Default)]
pub struct Counts(Mutex<Tally>);

impl Counts {
    /// The numbers of this moment.
    pub fn read(&self) -> Tally {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self) {
        let mut tally = self.lock();
        tally.entered += 1;
        tally.in_flight += 1;
    }

    /// One record leaves as `records`, which may not be none.
    pub(super) fn leave(&self, records: u64) {
        debug_assert!(records > 0, "a record that goes on as nothing is dropped");
        let mut tally = self.lock();
        tally.in_flight -= 1;
        tally.made += records - 1;
        tally.out += records;
    }

    pub(super) fn dropped(&self, reason: Reason) {
        let mut tally = self.lock();
        tally.in_flight -= 1;
        tally.dropped[reason as usize] += 1;
    }

    pub(super) fn fail(&self) {
        let mut tally = self.lock();
        tally.in_flight -= 1;
        tally.failed += 1;
    }

    pub(super) fn error(&self) {
        self.lock().errors += 1;
    }
}
