//! What was done to recover, counted since the node started: for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count. It only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// So many more.
    pub fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of a node, over all servers.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Units fenced: each once at the start, and whenever another process may serve it.
    pub fences: Count,
    /// Channels subscribed to again.
    pub resubscriptions: Count,
    /// Times that a channel's history was read for what was missing.
    pub refills: Count,
    /// Publications that were found there.
    pub refilled: Count,
    /// Times that the subscribers of a channel were told that something is missing.
    pub gaps: Count,
}
