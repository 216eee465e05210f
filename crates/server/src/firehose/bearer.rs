//! A token, and what all who bear it share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use fanfare_jobs::pipeline::Condition;

use super::filter::Filter;
use super::pace::Pace;
use crate::config::FirehoseToken;

/// Connections that share a consumer's place: one that reads, one that takes over, and one that has not quite gone yet. Beyond,
/// newer ones have to come again: each costs us a filter before it is known to take over.
const SHARERS_MAX: usize = 3;

/// A token, for as long as the configuration says the same of it.
#[derive(Debug)]
pub struct Bearer {
    /// As configured.
    pub token: FirehoseToken,
    /// What its bearers may have.
    pub filter: Arc<Filter>,
    /// How fast.
    pub pace: Option<Pace>,
    connections: AtomicU32,
    /// The places of consumers, each of which has one.
    seated: Mutex<HashMap<Box<str>, Weak<Connection>>>,
}

impl Bearer {
    /// Nobody bears it yet.
    pub fn new(token: &FirehoseToken) -> Bearer {
        let compile = |source: &Arc<str>| Condition::parse(source).expect("the configuration was checked");
        let filter = Filter {
            channels: token.channels.clone(),
            events: token.events.clone(),
            condition: token.filter.as_ref().map(compile),
        };
        Bearer {
            filter: Arc::new(filter),
            pace: Pace::new(token.messages_per_s),
            token: token.clone(),
            connections: AtomicU32::new(0),
            seated: Mutex::default(),
        }
    }

    /// A place for one more connection, if there is any. A consumer that is here has its place already, whatever has become of
    /// the connection that it takes over from.
    pub fn connect(self: &Arc<Self>, consumer: Option<&str>) -> Option<Arc<Connection>> {
        let mut seated = self.seated();
        if let Some(place) = consumer.and_then(|consumer| seated.get(consumer)) {
            if place.strong_count() >= SHARERS_MAX {
                return None;
            }
            if let Some(place) = place.upgrade() {
                return Some(place);
            }
        }
        let room = |now| (now < self.token.connections_max).then_some(now + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        let place = Arc::new(Connection { bearer: self.clone(), consumer: consumer.map(Box::from) });
        if let Some(consumer) = consumer {
            seated.insert(consumer.into(), Arc::downgrade(&place));
        }
        Some(place)
    }

    /// How many there are.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    fn seated(&self) -> MutexGuard<'_, HashMap<Box<str>, Weak<Connection>>> {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those of its token, until it is dropped.
#[derive(Debug)]
pub struct Connection {
    /// Whose it is.
    pub bearer: Arc<Bearer>,
    consumer: Option<Box<str>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.bearer.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(consumer) = &self.consumer else { return };
        let mut seated = self.bearer.seated();
        if seated.get(consumer).is_some_and(|place| place.strong_count() == 0) {
            seated.remove(consumer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_consumers_place_is_lent_to_those_who_take_over_and_to_no_crowd() {
        let token = FirehoseToken {
            name: "all".into(),
            token: Secret::new("token-of-all-that-is"),
            channels: Vec::new(),
            events: Vec::new(),
            filter: None,
            messages_per_s: 0,
            connections_max: 1,
        };
        let bearer = Arc::new(Bearer::new(&token));
        let mut places: Vec<_> = (0..SHARERS_MAX).map(|_| bearer.connect(Some("shop")).expect("a place")).collect();
        assert!(bearer.connect(Some("shop")).is_none() && bearer.connect(None).is_none());
        places.pop();
        places.push(bearer.connect(Some("shop")).expect("a place"));
        assert_eq!(bearer.connections(), 1);
        places.clear();
        assert_eq!(bearer.connections(), 0);
        assert!(bearer.connect(None).is_some());
    }
}
