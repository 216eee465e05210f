//! What a queue's doors have counted: puts that were asked for here, and claims over HTTP.
//!
//! Always true, whenever one looks: asked = taken + refused + unheard + in flight.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Jobs that somebody here wanted to put, and jobs that somebody claimed over HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtTheDoor {
    /// Jobs that were to be put.
    pub asked: u64,
    /// Those that are in the queue: new ones, and those that were known.
    pub taken: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Those whose producer went away before the queue answered: they may be in it or not.
    pub unheard: u64,
    /// Those that the queue has not answered for.
    pub in_flight: u64,
    /// Jobs that were handed to workers elsewhere.
    pub handed: u64,
    /// Jobs that such workers are asking for.
    pub asked_for: u64,
}

/// The same, as it changes.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<AtTheDoor>);

impl Tally {
    pub(super) fn read(&self) -> AtTheDoor {
        *self.lock()
    }

    /// So many jobs are about to be put.
    pub(super) fn put(&self, jobs: usize) -> Putting<'_> {
        let jobs = jobs as u64;
        let mut door = self.lock();
        door.asked += jobs;
        door.in_flight += jobs;
        Putting { tally: self, jobs, ended: false }
    }

    /// So many jobs at most are about to be claimed.
    pub(super) fn claim(&self, jobs_max: usize) {
        self.lock().asked_for += jobs_max as u64;
    }

    /// Of so many, so many were.
    pub(super) fn claimed(&self, jobs_max: usize, jobs: usize) {
        let mut door = self.lock();
        door.asked_for -= jobs_max as u64;
        door.handed += jobs as u64;
    }

    fn lock(&self) -> MutexGuard<'_, AtTheDoor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Jobs on their way into the queue; dropped before it is said what became of them, nobody will hear.
pub(super) struct Putting<'a> {
    tally: &'a Tally,
    jobs: u64,
    ended: bool,
}

impl Putting<'_> {
    pub(super) fn answered(mut self, taken: bool) {
        self.end(if taken { |door| &mut door.taken } else { |door| &mut door.refused });
    }

    fn end(&mut self, to: fn(&mut AtTheDoor) -> &mut u64) {
        self.ended = true;
        let mut door = self.tally.lock();
        door.in_flight -= self.jobs;
        *to(&mut door) += self.jobs;
    }
}

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(|door| &mut door.unheard);
        }
    }
}
