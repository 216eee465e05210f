//! A node's share of an app's limits, where several nodes serve the app.
//!
//! Connections: the node takes as many as it has been granted, and asks for more before it needs them. Publications: it holds
//! some tokens of the app's common bucket, and asks when they do not do.
//!
//! Always true: without anybody to ask, what was granted last holds.
//!
//! Not here: who grants (`redis::limits`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;

use crate::apps::App;
use crate::limits::{PublishRate, RetryAfter};

/// How long a refusal is repeated without asking again: as long as others may hold what they do not need.
const REFUSAL_MS: u64 = 100;

/// Who grants shares.
#[async_trait]
pub trait Lessor: Send + Sync {
    /// The app's share of connections is nearly used up, or was too small.
    fn more(&self, app: &App);

    /// Takes `n` tokens out of the app's bucket, and at most `ahead` more if there are: says how many more. `None`: it does not
    /// answer.
    async fn take(&self, app: &App, n: u32, ahead: u32) -> Option<Result<u32, RetryAfter>>;
}

/// What this node has been granted of one app's limits.
#[derive(Default)]
pub struct Lease {
    lessor: OnceLock<Arc<dyn Lessor>>,
    connections: Connections,
    tokens: Mutex<Tokens>,
    /// Until then, the bucket is known to be empty.
    refused_until_ms: AtomicU64,
    /// The node's part of the rate, and what measures it while nobody can be asked.
    part_per_s: AtomicU32,
    alone: PublishRate,
}

#[derive(Debug, Default)]
struct Connections {
    granted: AtomicU32,
    /// Refused since they were last asked for.
    wanted: AtomicU32,
    /// In use when that was last told.
    told: AtomicU32,
}

#[derive(Debug, Default)]
struct Tokens {
    held: u32,
    /// Taken since the last look.
    spent: u32,
    /// Taken between the two looks before.
    pace: u32,
}

/// What a node tells of its connections, to be granted a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// As granted last.
    pub granted: u32,
    /// Refused since then.
    pub wanted: u32,
}

impl Lease {
    /// From now on `lessor` grants shares, and this many connections are granted.
    pub fn begin(&self, lessor: &Arc<dyn Lessor>, connections: u32, part_per_s: u32) {
        self.grant(connections, part_per_s);
        let _first_or_the_same = self.lessor.set(lessor.clone());
    }

    /// Who is to be asked; nobody where this node is alone.
    pub fn lessor(&self) -> Option<&Arc<dyn Lessor>> {
        self.lessor.get()
    }

    /// The node may have so many connections.
    pub fn grant(&self, connections: u32, part_per_s: u32) {
        self.connections.granted.store(connections, Ordering::Relaxed);
        self.part_per_s.store(part_per_s, Ordering::Relaxed);
    }

    /// How many connections the node may have.
    pub fn connections_max(&self) -> u32 {
        match self.lessor() {
            Some(_) => self.connections.granted.load(Ordering::Relaxed),
            None => u32::MAX,
        }
    }

    /// A connection was taken and leaves room for so many; or it was refused.
    pub fn connected(&self, app: &App, room: Option<u32>) {
        let Some(lessor) = self.lessor() else { return };
        if room.is_none() {
            self.connections.wanted.fetch_add(1, Ordering::Relaxed);
        }
        let granted = self.connections.granted.load(Ordering::Relaxed);
        // Half of the room that a share has at first is used up when a few are left.
        if granted < app.limits.connections_max && room.is_none_or(|room| room < 2 + granted / 16) {
            lessor.more(app);
        }
    }

    /// What is to be told about connections. What was refused is told once.
    pub fn wish(&self) -> Wish {
        let Connections { granted, wanted, .. } = &self.connections;
        Wish { granted: granted.load(Ordering::Relaxed), wanted: wanted.swap(0, Ordering::Relaxed) }
    }

    /// So many connections are in use; whether that is news.
    pub fn told(&self, used: u32) -> bool {
        self.connections.told.swap(used, Ordering::Relaxed) != used
    }

    /// Tokens that nobody used since the last look; they are to be given back.
    pub fn leftover(&self) -> u32 {
        let mut tokens = self.tokens();
        tokens.pace = std::mem::take(&mut tokens.spent);
        if tokens.pace > 0 { 0 } else { std::mem::take(&mut tokens.held) }
    }

    /// Whether tokens are held or were used since the last look.
    pub fn is_publishing(&self) -> bool {
        let tokens = self.tokens();
        tokens.held > 0 || tokens.spent > 0 || tokens.pace > 0
    }

    /// Counts publications against the app's common rate, all of them or none.
    pub async fn publish(&self, lessor: &dyn Lessor, app: &App, n: u32, now_ms: u64) -> Result<(), RetryAfter> {
        let refused_until_ms = self.refused_until_ms.load(Ordering::Relaxed);
        if now_ms < refused_until_ms {
            return Err(RetryAfter { ms: refused_until_ms - now_ms });
        }
        let Some(ahead) = self.take(n) else { return Ok(()) };
        match lessor.take(app, n, ahead).await {
            Some(Ok(more)) => {
                let mut tokens = self.tokens();
                tokens.held = tokens.held.saturating_add(more);
                tokens.spent = tokens.spent.saturating_add(n);
                Ok(())
            }
            Some(Err(refused)) => {
                self.refused_until_ms.store(now_ms + refused.ms.min(REFUSAL_MS), Ordering::Relaxed);
                Err(refused)
            }
            None => self.alone.take(n, now_ms, self.part_per_s.load(Ordering::Relaxed).max(1)),
        }
    }

    /// Takes them out of those held; or says how many to hold besides, at the present pace.
    fn take(&self, n: u32) -> Option<u32> {
        let mut tokens = self.tokens();
        if tokens.held < n {
            return Some(tokens.pace.max(tokens.spent));
        }
        tokens.held -= n;
        tokens.spent = tokens.spent.saturating_add(n);
        None
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        // They are sound between any two statements, so a poisoned lock tells nothing.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("connections", &self.connections).finish_non_exhaustive()
    }
}
