//! What has become of publications in an app's firehose.
//!
//! Always true: the counts that are read are of one moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// All of them, since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Handed to the log.
    pub offered: u64,
    /// In the log.
    pub appended: u64,
    /// There already, by their names.
    pub known: u64,
    /// Not written, or nobody knows.
    pub failed: u64,
    /// Being written now.
    pub appending: u64,
    /// Sent to somebody.
    pub sent: u64,
    /// Bytes of that.
    pub sent_bytes: u64,
    /// Read for somebody whom they were not for.
    pub withheld: u64,
    /// Sent to somebody who acknowledges.
    pub due: u64,
    /// Acknowledged by somebody whom they were sent to.
    pub acked: u64,
    /// Not acknowledged when the connection ended: to be sent again.
    pub returned: u64,
    /// On their way to an acknowledgement now.
    pub unacked: u64,
    /// Times that somebody was told of a gap.
    pub gaps: u64,
}

/// Where they are kept.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

impl Tally {
    /// Something has happened.
    pub fn note(&self, happened: impl FnOnce(&mut Counts)) {
        happened(&mut self.counts());
    }

    /// How it is now.
    pub fn read(&self) -> Counts {
        *self.counts()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
