//! What a hub has counted of publications on their way from whoever publishes to the loops' boxes.
//!
//! Always true: asked = heard + unheard + repeated + refused + given up + in flight. Each number only grows, and what is in
//! flight is what is left: read in this order it is never too little.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::broker::{BrokerError, Published};

/// What has become of publications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// The broker was to publish so many.
    pub asked: u64,
    /// Somebody was subscribed, on any node.
    pub heard: u64,
    /// Nobody was.
    pub unheard: u64,
    /// They had been published before.
    pub repeated: u64,
    /// The broker did not confirm them: they may have been published or not.
    pub refused: u64,
    /// Whoever asked went away before the broker answered: they may have been published or not.
    pub given_up: u64,
}

impl Outcomes {
    /// Those that the broker has not answered for.
    pub fn in_flight(&self) -> u64 {
        let answered = self.heard + self.unheard + self.repeated + self.refused + self.given_up;
        self.asked.saturating_sub(answered)
    }

    /// Those that were published, as far as anybody knows.
    pub fn published(&self) -> u64 {
        self.heard + self.unheard
    }
}

/// The same, as they change.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    asked: AtomicU64,
    heard: AtomicU64,
    unheard: AtomicU64,
    repeated: AtomicU64,
    refused: AtomicU64,
    given_up: AtomicU64,
}

impl Tally {
    pub(crate) fn read(&self) -> Outcomes {
        let Tally { asked, heard, unheard, repeated, refused, given_up } = self;
        let [heard, unheard, repeated, refused, given_up] =
            [heard, unheard, repeated, refused, given_up].map(|cell| cell.load(Ordering::Acquire));
        Outcomes { asked: asked.load(Ordering::Acquire), heard, unheard, repeated, refused, given_up }
    }

    /// The broker is about to be asked.
    pub(crate) fn ask(&self, n: usize) -> Asked<'_> {
        self.asked.fetch_add(n as u64, Ordering::Relaxed);
        Asked { tally: self, n: n as u64 }
    }
}

/// Publications that the broker has not answered for; dropped before that, they are given up.
pub(crate) struct Asked<'a> {
    tally: &'a Tally,
    n: u64,
}

impl Asked<'_> {
    pub(crate) fn told(mut self, outcome: Result<&[Published], &BrokerError>) {
        let n = std::mem::take(&mut self.n);
        match outcome {
            Err(_) => _ = self.tally.refused.fetch_add(n, Ordering::Release),
            Ok(published) => published.iter().for_each(|published| self.count(published)),
        }
    }

    fn count(&self, published: &Published) {
        let cell = match published {
            Published { repeated: true, .. } => &self.tally.repeated,
            Published { heard: true, .. } => &self.tally.heard,
            Published { .. } => &self.tally.unheard,
        };
        cell.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.n > 0 {
            self.tally.given_up.fetch_add(self.n, Ordering::Release);
        }
    }
}
