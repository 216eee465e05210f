//! What a loop counts, for the control plane to read.
//!
//! Each loop has cells of its own and writes them once per turn, so that counting costs no shared cache line.

use std::sync::atomic::{AtomicU64, Ordering};

use fanfare_hub::shard::Ledger;

macro_rules! cells {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The cells of one loop.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct LoopStats {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The sum over loops at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Snapshot {
            /// Adds what one loop has counted.
            pub fn add(&mut self, stats: &LoopStats) {
                $(self.$name += stats.$name.load(Ordering::Relaxed);)*
            }
        }
    };
}

cells! {
    /// Connections that are open.
    connections,
    /// Connections that were ever adopted.
    connected,
    /// Channels with a subscriber, counted per loop.
    channels,
    /// Messages that clients sent.
    messages_in,
    /// Publications that arrived by mail.
    publications,
    /// Deliveries that became due.
    owed,
    /// Deliveries that the kernel took.
    written,
    /// Deliveries lost to a connection that closed first.
    dropped_closed,
    /// Deliveries lost to a reader that was too slow.
    dropped_slow,
    /// Deliveries that newer ones replaced.
    dropped_older,
    /// Deliveries that wait in outboxes.
    queued,
    /// Connections closed as slow consumers.
    closed_slow,
    /// Connections closed for their silence.
    closed_silent,
    /// Connections closed because their app or user had to go.
    closed_told,
    /// Connections that had to come back: they may have missed something, or could not be let in.
    closed_gap,
    /// Connections that broke the WebSocket protocol.
    closed_violation,
}

impl LoopStats {
    /// Copies the shard's ledger.
    pub fn set_ledger(&self, ledger: &Ledger) {
        self.publications.store(ledger.publications, Ordering::Relaxed);
        self.owed.store(ledger.owed, Ordering::Relaxed);
        self.written.store(ledger.written, Ordering::Relaxed);
        self.dropped_closed.store(ledger.dropped_closed, Ordering::Relaxed);
        self.dropped_slow.store(ledger.dropped_slow, Ordering::Relaxed);
        self.dropped_older.store(ledger.dropped_older, Ordering::Relaxed);
        self.queued.store(ledger.queued, Ordering::Relaxed);
    }

    /// Counts one more. Only the loop that owns the cells writes, so a load and a store are enough.
    pub fn count(cell: &AtomicU64) {
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}
