//! The idempotency keys of one app's publishers, each with what became of the first publication under it.
//!
//! Always true: a key that is known has an item in the queue, so that it goes when its window ends or room is needed.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::broker::{Idempotency, Mark};
use crate::key::ChannelKey;

/// Keys of one app in one stripe. 16,384 in each of 8 stripes last for a window of 120 s at 1,000 keyed publications
/// a second, and take some 30 MB at worst; beyond it the oldest go first.
const KEYS_MAX: usize = 16_384;

/// A channel's name, and the key that a publisher used on it.
pub type Name = (ChannelKey, Arc<str>);

/// What is known of a key.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// The mark of the publication, if it was stored.
    pub mark: Option<Mark>,
    pub expires_at: Instant,
}

/// The keys of one app in one stripe.
#[derive(Debug, Default)]
pub struct Keys {
    known: HashMap<Name, First>,
    /// In the order of use, which is that of expiry as long as the window is not changed.
    order: VecDeque<(Name, Instant)>,
}

impl Keys {
    /// What became of the first publication under the key.
    pub fn first(&self, key: &ChannelKey, word: &Arc<str>, now: Instant) -> Option<First> {
        if self.known.is_empty() {
            return None;
        }
        self.known.get(&(key.clone(), word.clone())).copied().filter(|first| first.expires_at > now)
    }

    /// Remembers a publication under its key.
    pub fn remember(&mut self, key: &ChannelKey, word: &Idempotency, mark: Option<Mark>, now: Instant) {
        self.put((key.clone(), word.key.clone()), First { mark, expires_at: now + word.window });
        self.expire(now);
    }

    /// Takes over what another life remembered; to be called in the order of expiry.
    pub fn put(&mut self, name: Name, first: First) {
        self.order.push_back((name.clone(), first.expires_at));
        self.known.insert(name, first);
    }

    /// Forgets keys whose window has ended, and the oldest while there are too many.
    pub fn expire(&mut self, now: Instant) {
        while let Some((name, at)) = self.order.front() {
            if *at > now && self.order.len() <= KEYS_MAX {
                return;
            }
            // A key that was used again after its window stands in the queue once more.
            if self.known.get(name).is_some_and(|first| first.expires_at == *at) {
                self.known.remove(name);
            }
            self.order.pop_front();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All of them, with their channels.
    pub fn into_known(self) -> impl Iterator<Item = (Name, First)> {
        self.known.into_iter()
    }
}
