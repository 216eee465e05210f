//! The channels that this listener knows of: those that were published to or subscribed to through it.
//!
//! The hub knows a channel by its subscribers, and the broker by its history. What is kept here is only what neither says: that a
//! channel without either was used a moment ago, and what was published without being stored.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

/// How long a channel without messages and subscribers is remembered.
pub const INACTIVITY: Duration = Duration::from_secs(30);

/// Channels that are remembered. Beyond it new ones are served like any, and not remembered once nothing else knows them.
const CHANNELS_MAX: usize = 100_000;

/// The channels in use.
#[derive(Debug, Default)]
pub struct Registry(Mutex<HashMap<String, Known>>);

#[derive(Debug)]
struct Known {
    used_at: Instant,
    unstored: u64,
}

impl Registry {
    /// Notes that a channel is used; whether it is new.
    pub fn touch(&self, id: &str, now: Instant) -> bool {
        let mut known = self.known();
        let is_new = !known.contains_key(id);
        if is_new && known.len() >= CHANNELS_MAX {
            return false;
        }
        known.entry_ref(id).or_insert(Known { used_at: now, unstored: 0 }).used_at = now;
        is_new
    }

    /// Counts a publication that nobody stored.
    pub fn unstored(&self, id: &str) {
        if let Some(known) = self.known().get_mut(id) {
            known.unstored += 1;
        }
    }

    /// How many publications of the channel nobody stored, if it is known.
    pub fn get(&self, id: &str) -> Option<u64> {
        self.known().get(id).map(|known| known.unstored)
    }

    /// Forgets a channel; whether it was known.
    pub fn forget(&self, id: &str) -> bool {
        self.known().remove(id).is_some()
    }

    /// The channels whose ids begin so.
    pub fn ids(&self, prefix: &str) -> Vec<String> {
        self.known().keys().filter(|id| id.starts_with(prefix)).cloned().collect()
    }

    /// The channels that were not used for a while.
    pub fn inactive(&self, now: Instant) -> Vec<String> {
        let inactive = |known: &Known| now.saturating_duration_since(known.used_at) >= INACTIVITY;
        self.known().iter().filter(|(_, known)| inactive(known)).map(|(id, _)| id.clone()).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // Each use above is one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_new_once_and_inactive_after_a_while() {
        let (registry, now) = (Registry::default(), Instant::now());
        assert!(registry.touch("a", now) && !registry.touch("a", now));
        assert!(registry.touch("b", now + INACTIVITY));
        registry.unstored("a");
        assert_eq!((registry.get("a"), registry.get("b"), registry.get("c")), (Some(1), Some(0), None));
        assert!(registry.inactive(now).is_empty());
        assert_eq!(registry.inactive(now + INACTIVITY), ["a"]);
        assert_eq!(registry.ids("b"), ["b"]);
        assert!(registry.forget("a") && !registry.forget("a"));
    }
}
