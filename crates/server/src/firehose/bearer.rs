//! A token, and what all who bear it share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fanfare_jobs::pipeline::Condition;

use super::filter::Filter;
use super::pace::Pace;
use crate::config::FirehoseToken;

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
        }
    }

    /// A place for one more connection, if there is any.
    pub fn connect(self: Arc<Self>) -> Option<Connection> {
        let room = |now| (now < self.token.connections_max).then_some(now + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Connection(self))
    }

    /// How many there are.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A connection's place among those of its token, until it is dropped.
#[derive(Debug)]
pub struct Connection(pub Arc<Bearer>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
