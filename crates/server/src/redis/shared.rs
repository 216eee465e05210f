//! All that nodes share over Redis, started together: the links tell the broker and the presence store what they hear.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_hub::{BrokerEvents, ChannelKey, Hub, StoreError};

use super::broker::{Ears, RedisBroker};
use super::presence::RedisPresence;
use super::{CallError, LinkEvents, Redis, StartError, UnitIx};
use crate::apps::Apps;
use crate::config::RedisSettings;

/// What this node shares with others. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// Carries publications.
    pub broker: RedisBroker,
    /// Knows who is here.
    pub presence: RedisPresence,
}

/// Why a node could not join the others.
#[derive(Debug, thiserror::Error)]
pub enum NotShared {
    /// A server is not there, or not as it must be.
    #[error("Redis: {0}")]
    Start(#[from] StartError),
    /// A server went away in the meantime.
    #[error("Redis, a moment after it was there: {0}")]
    Call(#[from] CallError),
    /// The same, of the presence store.
    #[error("presence: {0}")]
    Presence(#[from] StoreError),
}

/// Passes on what the links say. Both listeners need the servers before they can listen.
#[derive(Default)]
struct Listeners {
    ears: Ears,
    presence: OnceLock<RedisPresence>,
}

#[async_trait]
impl LinkEvents for Listeners {
    async fn message(&self, unit: UnitIx, channel: &[u8], payload: Bytes) {
        self.ears.message(unit, channel, payload).await;
    }

    fn down(&self, unit: UnitIx) {
        self.ears.down(unit);
    }

    async fn up(&self, unit: UnitIx, generation: u64) {
        if let Some(presence) = self.presence.get() {
            presence.up(unit, generation);
        }
        self.ears.up(unit, generation).await;
    }
}

impl Shared {
    /// Connects to the servers, and delivers to `events` from then on.
    pub async fn start(settings: &RedisSettings, events: Arc<dyn BrokerEvents>) -> Result<Shared, NotShared> {
        let listeners = Arc::new(Listeners::default());
        let redis = Redis::start(settings, listeners.clone()).await?;
        let presence = RedisPresence::start(redis.clone()).await?;
        listeners.presence.set(presence.clone()).unwrap_or_else(|_| unreachable!("it is set here only"));
        let broker = RedisBroker::start(redis, &listeners.ears, events).await?;
        Ok(Shared { broker, presence })
    }

    /// Tells this node's subscribers what other nodes left untold, from now on.
    pub fn attend(&self, hub: &Hub, apps: Apps) {
        // As for whoever subscribes here: members of presence channels are told more than a count.
        let announces = move |key: &ChannelKey| {
            !key.name().starts_with("presence-") && apps.by_id(key.app()).is_some_and(|app| app.subscription_count)
        };
        self.presence.attend(hub.presence_events(announces));
        hub.audit(self.presence.doubt());
    }
}
