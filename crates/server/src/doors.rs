//! By which door publications come, counted for each app.
//!
//! Not here: what becomes of them, which the hub counts for all doors together.

use std::sync::atomic::{AtomicU64, Ordering};

/// Who asks the hub to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The signed HTTP API.
    Api,
    /// Plain publishing (`/pub`).
    Plain,
    /// The sink `channels` of pipelines.
    Pipelines,
    /// The push-stream listener.
    PushStream,
    /// What pipelines published before a crash.
    Recall,
}

impl Door {
    /// All of them, in the order of their numbers.
    pub const ALL: [Door; 5] = [Door::Api, Door::Plain, Door::Pipelines, Door::PushStream, Door::Recall];

    /// As it is written in the ledger and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Door::Api => "api",
            Door::Plain => "plain",
            Door::Pipelines => "pipelines",
            Door::PushStream => "push_stream",
            Door::Recall => "recall",
        }
    }
}

/// What has come by each door.
#[derive(Debug, Default)]
pub struct Doors {
    asked: [AtomicU64; Door::ALL.len()],
    shown: AtomicU64,
}

impl Doors {
    /// The hub is about to be asked to publish so many.
    pub fn ask(&self, door: Door, n: usize) {
        self.asked[door as usize].fetch_add(n as u64, Ordering::Relaxed);
    }

    /// So many of what pipelines had were confirmed to them.
    pub fn confirm(&self, n: usize) {
        self.shown.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// How many came by this door.
    pub fn asked(&self, door: Door) -> u64 {
        self.asked[door as usize].load(Ordering::Relaxed)
    }

    /// How many were confirmed to pipelines.
    pub fn confirmed(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }
}
