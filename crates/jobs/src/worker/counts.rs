//! What a worker has counted of jobs, and of records between a pipeline's stages and its sinks.
//!
//! Always true, whenever one looks: claimed = finished + retried + released + stalled + lost + in flight, and
//! through = handed + given up + waiting. That is why the numbers are behind one lock each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pipeline::Record;

/// What a worker has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that it claimed.
    pub claimed: u64,
    /// Jobs that it finished.
    pub finished: u64,
    /// Jobs that it gave back, to be tried again.
    pub retried: u64,
    /// Jobs that it gave back as it was stopped.
    pub released: u64,
    /// Jobs that it stalled.
    pub stalled: u64,
    /// Jobs whose leases it lost.
    pub lost: u64,
    /// Jobs whose tasks panicked; they are among the others too.
    pub panicked: u64,
    /// Jobs that it has.
    pub in_flight: u64,
    /// Jobs that it is asking the store for, or has got and not yet begun.
    pub asked_for: u64,
    /// Jobs that its pipelines were to have, counted for each pipeline; shadows are not among them.
    pub passes: u64,
}

/// What has become of jobs in one pipeline, outside of its stages and sinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Jobs that it took.
    pub taken: u64,
    /// Records that came through the stages,
    pub through: u64,
    /// and of them: those that were handed to the sinks,
    pub handed: u64,
    /// those whose job was given up meanwhile,
    pub given_up: u64,
    /// and those that wait for others of their job.
    pub waiting: u64,
    /// Records of other pipelines that were handed to its sinks.
    pub copied: u64,
}

impl Passed {
    /// Whether nothing has been lost and nothing came from nowhere.
    pub fn balances(&self) -> bool {
        self.through == self.handed + self.given_up + self.waiting
    }
}

/// Numbers behind a lock that is taken for a few additions.
#[derive(Debug, Default)]
pub(super) struct Counting<T>(Mutex<T>);

impl<T: Copy> Counting<T> {
    pub(super) fn read(&self) -> T {
        *self.lock()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records of one job that came through a pipeline's stages; those that are not handed over are given up with it.
pub(super) struct Through<'a> {
    counting: &'a Counting<Passed>,
    records: Vec<Arc<Record>>,
}

impl<'a> Through<'a> {
    pub(super) fn none(counting: &'a Counting<Passed>) -> Through<'a> {
        Through { counting, records: Vec::new() }
    }

    pub(super) fn add(&mut self, record: Record) {
        self.counting.count(|passed| {
            passed.through += 1;
            passed.waiting += 1;
        });
        self.records.push(Arc::new(record));
    }

    /// Those of another part of the job, behind these.
    pub(super) fn append(&mut self, mut others: Through<'a>) {
        self.records.append(&mut others.records);
    }

    /// They are for the sinks.
    pub(super) fn hand_over(mut self) -> Vec<Arc<Record>> {
        let records = std::mem::take(&mut self.records);
        self.end(records.len(), |passed| &mut passed.handed);
        records
    }

    fn end(&self, records: usize, to: fn(&mut Passed) -> &mut u64) {
        if records > 0 {
            self.counting.count(|passed| {
                passed.waiting -= records as u64;
                *to(passed) += records as u64;
            });
        }
    }
}

impl Drop for Through<'_> {
    fn drop(&mut self) {
        self.end(self.records.len(), |passed| &mut passed.given_up);
    }
}
