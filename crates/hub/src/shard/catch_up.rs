//! A subscription between its request and its first live message: what arrives meanwhile is held, then shown without
//! what the subscriber was told already.

use std::sync::Arc;

use crate::broker::StreamPosition;
use crate::publication::{Frames, Kind};

/// What a subscriber was told when it was let in; nothing of that is shown to it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct After {
    /// The position of the newest stored publication that it has.
    pub stored: Option<StreamPosition>,
    /// The version of the roster that it has.
    pub presence: Option<u64>,
}

impl After {
    /// Nothing to compare with: whatever comes is new.
    pub(super) fn is_nothing(&self) -> bool {
        *self == After::default()
    }

    /// Whether the subscriber has this one already.
    fn has(&self, frames: &Frames) -> bool {
        let stored = frames.position().zip(self.stored);
        stored.is_some_and(|(position, seen)| position.epoch == seen.epoch && position.offset <= seen.offset)
            || self.version_of(frames).is_some_and(|(version, seen)| version <= seen)
    }

    /// Whether the subscriber has none of those that follow this one either. Only positions follow delivery order: two
    /// nodes may tell of their members' changes in another order than the store made them, and an epoch that is not the
    /// one seen may be the one before it.
    fn is_past(&self, frames: &Frames) -> bool {
        let stored = frames.position().zip(self.stored);
        self.presence.is_none()
            && stored.is_some_and(|(position, seen)| position.epoch == seen.epoch && position.offset > seen.offset)
    }

    fn version_of(&self, frames: &Frames) -> Option<(u64, u64)> {
        match frames.publication().kind {
            Kind::Presence { version } => Some(version).zip(self.presence),
            _ => None,
        }
    }
}

/// The state of a subscription that is catching up.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// Which request of the connection's this is: an answer to an earlier one does not let it in.
    token: u32,
    held: Vec<Arc<Frames>>,
    held_bytes: usize,
    after: Option<After>,
    /// Ticks since it was let in.
    ticks: u8,
}

/// Ticks after which a subscriber that was let in is taken for caught up: what was under way then has long arrived.
const TICKS_MAX: u8 = 5;

impl CatchUp {
    pub fn new(token: u32) -> Self {
        CatchUp { token, ..CatchUp::default() }
    }

    /// Whether this answer is the one that it waits for.
    pub fn awaits(&self, token: u32) -> bool {
        self.token == token && !self.entered()
    }

    /// Whether the subscriber has been let in.
    pub fn entered(&self) -> bool {
        self.after.is_some()
    }

    /// Holds one back; returns the bytes held so far.
    pub fn hold(&mut self, frames: &Arc<Frames>) -> usize {
        self.held_bytes += frames.publication().data.len();
        self.held.push(frames.clone());
        self.held_bytes
    }

    /// Lets the subscriber in; returns what was held.
    pub fn enter(&mut self, after: After) -> Vec<Arc<Frames>> {
        self.after = Some(after);
        std::mem::take(&mut self.held)
    }

    /// Whether to show it, and whether everything that follows is new too.
    pub fn judge(&self, frames: &Frames) -> (bool, bool) {
        let after = self.after.unwrap_or_default();
        (!after.has(frames), after.is_past(frames))
    }

    /// Counts a tick; true when there is nothing left to compare.
    pub fn tick(&mut self) -> bool {
        self.ticks += u8::from(self.entered());
        self.ticks >= TICKS_MAX
    }
}
