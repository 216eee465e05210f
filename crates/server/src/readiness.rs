//! Whether new connections are welcome on this node: what a load balancer asks.
//!
//! Not here: who asks (`metrics`), and who knows (`app`, `redis`, `queues`, `firehose`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Whether new connections are welcome; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicU8>);

/// Why none are welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// The node stops.
    Stopping = 1,
    /// A Redis server has been away for some time.
    RedisAway = 2,
    /// The jobs of a queue cannot be kept.
    QueueUnwritable = 4,
    /// What is published cannot go into a firehose.
    FirehoseUnwritable = 8,
}

impl Readiness {
    /// Says of one reason whether it is there.
    pub fn set(&self, why: Unready, there: bool) {
        match there {
            true => self.0.fetch_or(why as u8, Ordering::Relaxed),
            false => self.0.fetch_and(!(why as u8), Ordering::Relaxed),
        };
    }

    /// Why no connections are welcome; nothing when they are.
    pub fn unready(&self) -> Option<Unready> {
        let reasons = self.0.load(Ordering::Relaxed);
        [Unready::Stopping, Unready::RedisAway, Unready::QueueUnwritable, Unready::FirehoseUnwritable]
            .into_iter()
            .find(|why| reasons & *why as u8 != 0)
    }
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Unready::Stopping => "stopping",
            Unready::RedisAway => "a Redis server is away",
            Unready::QueueUnwritable => "a queue cannot be written",
            Unready::FirehoseUnwritable => "a firehose cannot be written",
        })
    }
}
