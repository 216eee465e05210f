//! What a sink's outlet has counted.
//!
//! Always true, whenever one looks: due = before + withheld + waiting + entered, and entered = out + lost + failed + in
//! flight. That is why the numbers are behind one lock and not each an atomic: it is taken for a few additions.

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
    /// Records that a job or a copy had for it.
    pub due: u64,
    /// Records that an earlier attempt at their job has delivered.
    pub before: u64,
    /// Records that were not tried, as an earlier one of their job failed or the job was given up.
    pub withheld: u64,
    /// Records whose turn has not come.
    pub waiting: u64,
    /// Records that were to be delivered.
    pub entered: u64,
    /// Records that were confirmed.
    pub out: u64,
    /// What they were routed to, each counted by itself.
    pub routes: u64,
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
        self.due == self.before + self.withheld + self.waiting + self.entered
            && self.entered == self.out + self.lost_total() + self.failed + self.in_flight
    }

    /// Lost for whatever reason.
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().sum()
    }
}

/// An outlet's numbers, as they change.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<Tally>);

impl Counts {
    pub(super) fn read(&self) -> Tally {
        *self.lock()
    }

    /// Records whose turn will come, unless this is dropped before.
    pub(super) fn expect(&self, records: u64) -> Due<'_> {
        let mut tally = self.lock();
        tally.due += records;
        tally.waiting += records;
        Due { counts: self, records }
    }

    /// Records that it has had before.
    pub(super) fn pass_over(&self, records: u64) {
        let mut tally = self.lock();
        tally.due += records;
        tally.before += records;
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

/// Records that a sink is to have.
pub struct Due<'a> {
    counts: &'a Counts,
    records: u64,
}

impl<'a> Due<'a> {
    /// The next of them is on its way until it is said what became of it; dropped before that, it has failed.
    pub(super) fn enter(&mut self) -> Flight<'a> {
        debug_assert!(self.records > 0, "no more is delivered than was due");
        self.records -= 1;
        let mut tally = self.counts.lock();
        tally.waiting -= 1;
        tally.entered += 1;
        tally.in_flight += 1;
        Flight { counts: self.counts, ended: false }
    }
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        if self.records > 0 {
            let mut tally = self.counts.lock();
            tally.waiting -= self.records;
            tally.withheld += self.records;
        }
    }
}

/// A record on its way.
pub(super) struct Flight<'a> {
    counts: &'a Counts,
    ended: bool,
}

impl Flight<'_> {
    pub(super) fn out(mut self, routes: usize) {
        self.end(|tally| {
            tally.out += 1;
            tally.routes += routes as u64;
        });
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
