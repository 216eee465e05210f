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

    /// Whether the subscriber has this one already. `None`: it has no place, so nobody can say.
    fn has(&self, frames: &Frames) -> Option<bool> {
        if let (Kind::Presence { version }, Some(seen)) = (frames.publication().kind, self.presence) {
            return Some(version <= seen);
        }
        let (position, seen) = (frames.position()?, self.stored?);
        Some(position.epoch == seen.epoch && position.offset <= seen.offset)
    }
}

/// The state of a subscription that is catching up.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    held: Vec<Arc<Frames>>,
    held_bytes: usize,
    after: Option<After>,
    /// Ticks since it was let in.
    ticks: u8,
}

/// Ticks after which a subscriber that was let in is taken for caught up: what was under way then has long arrived.
const TICKS_MAX: u8 = 5;

impl CatchUp {
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
        match self.after.unwrap_or_default().has(frames) {
            Some(true) => (false, false),
            Some(false) => (true, true),
            None => (true, false),
        }
    }

    /// Counts a tick; true when there is nothing left to compare.
    pub fn tick(&mut self) -> bool {
        self.ticks += u8::from(self.entered());
        self.ticks >= TICKS_MAX
    }
}
