//! Connections that have to come back and are let go one after the other: a gap in a channel with many subscribers is no
//! reason for all of them to stand at the door at once.
//!
//! Not here: why they have to go (`desk`), a node that stops (`shard_loop`).

use std::collections::VecDeque;

use fanfare_hub::shard::ConnKey;

/// Between two of them.
const EVERY_MS: u64 = 2;

/// The first goes after up to so long, so that loops and nodes do not keep step.
const JITTER_MS: u64 = 500;

/// How far a loop that was busy may catch up.
const BEHIND_MS_MAX: u64 = 20;

/// Those who are to go, in the order of their going.
#[derive(Debug, Default)]
pub struct Departures {
    waiting: VecDeque<ConnKey>,
    /// When the next one goes.
    next_ms: u64,
}

impl Departures {
    /// One more of them. `random` is where between now and [`JITTER_MS`] it goes, if none are waiting.
    pub fn add(&mut self, conn: ConnKey, now_ms: u64, random: u64) {
        if self.waiting.is_empty() {
            self.next_ms = self.next_ms.max(now_ms + random % JITTER_MS);
        }
        self.waiting.push_back(conn);
    }

    /// The next one whose time has come.
    pub fn take_due(&mut self, now_ms: u64) -> Option<ConnKey> {
        if self.waiting.is_empty() || self.next_ms > now_ms {
            return None;
        }
        self.next_ms = self.next_ms.max(now_ms.saturating_sub(BEHIND_MS_MAX)) + EVERY_MS;
        self.waiting.pop_front()
    }

    /// Whether nobody is to go.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundred_go_in_a_second() {
        let mut departures = Departures::default();
        let conns: Vec<ConnKey> = (0..1000).map(|slot| ConnKey { slot, generation: 0 }).collect();
        conns.iter().for_each(|conn| departures.add(*conn, 10_000, 123));
        assert_eq!(departures.take_due(10_122), None);
        let mut gone = Vec::new();
        for now_ms in (10_123..11_123).step_by(10) {
            gone.extend(std::iter::from_fn(|| departures.take_due(now_ms)));
        }
        assert_eq!(gone, conns[..gone.len()]);
        assert!((480..=510).contains(&gone.len()), "{}", gone.len());
        // A loop that stood still does not let them all go at once.
        let burst = std::iter::from_fn(|| departures.take_due(20_000)).count();
        assert!(burst <= 11, "{burst}");
        assert!(!departures.is_empty());
    }
}
