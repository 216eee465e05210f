//! What a stripe asks again for: channels that could not be opened, and subscribers that could not be let in, while the broker
//! or the presence store was away.
//!
//! Always true: whoever waits here is let in, or told that it cannot be, within [`PATIENCE`] and one more answer's time.

use std::time::Duration;

use fanfare_proto::socket_id::SocketId;
use hashbrown::HashMap;
use tokio::time::Instant;

use crate::key::ChannelKey;
use crate::mail::Begin;
use crate::presence::Member;
use crate::shard::ConnKey;
use crate::stripe::Open;

/// How long a newcomer waits for a broker that is away: a failover takes a few seconds, and is then over for everybody.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Subscribers of a stripe that wait to be let in; more are told at once that they cannot be.
const OUTSIDE_MAX: usize = 4096;

/// Whoever waits.
#[derive(Default)]
pub(crate) struct Patience {
    pub unopened: HashMap<ChannelKey, Unopened>,
    outside: Vec<Entry>,
    /// When to ask again; nobody waits where there is no such time.
    again: Option<Instant>,
}

/// A channel that could not be opened yet.
pub(crate) struct Unopened {
    pub open: Open,
    /// Whether its subscribers are to be told how many they are.
    pub announce: bool,
    pub until: Instant,
}

/// A subscriber that asks to be let in.
pub(crate) struct Entry {
    pub key: ChannelKey,
    pub from: usize,
    pub conn: ConnKey,
    pub token: u32,
    pub socket: SocketId,
    pub member: Option<(Member, u32)>,
    pub cached: bool,
    pub begin: Option<Begin>,
    pub until: Instant,
}

/// Until when somebody who comes now waits.
pub(crate) fn until() -> Instant {
    Instant::now() + PATIENCE
}

impl Patience {
    /// When to ask again.
    pub fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Keeps a channel for the next attempt.
    pub fn keep_shut(&mut self, key: ChannelKey, unopened: Unopened) {
        self.unopened.insert(key, unopened);
        self.again.get_or_insert_with(|| Instant::now() + PAUSE);
    }

    /// Keeps a subscriber for the next attempt; gives it back when it has waited for too long, or too many do.
    #[expect(clippy::result_large_err, reason = "it comes back to be told no, which is seldom")]
    pub fn keep_outside(&mut self, entry: Entry) -> Result<(), Entry> {
        if entry.until <= Instant::now() || self.outside.len() >= OUTSIDE_MAX {
            return Err(entry);
        }
        self.outside.push(entry);
        self.again.get_or_insert_with(|| Instant::now() + PAUSE);
        Ok(())
    }

    /// A subscriber left before it was let in.
    pub fn forget(&mut self, key: &ChannelKey, socket: SocketId) {
        self.outside.retain(|entry| entry.socket != socket || entry.key != *key);
    }

    /// All who wait, for an attempt; whoever fails again is to be kept again.
    pub fn take(&mut self) -> (HashMap<ChannelKey, Unopened>, Vec<Entry>) {
        self.again = None;
        (std::mem::take(&mut self.unopened), std::mem::take(&mut self.outside))
    }
}
