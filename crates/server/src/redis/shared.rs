//! All that nodes share over Redis, started together: the links tell each part what they hear.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_hub::{BrokerEvents, ChannelKey, Hub, StoreError};
use fanfare_jobs::log::Keep;
use fanfare_jobs::{JobStore, Log};
use tokio::time::{Instant, sleep};

use super::assurance::Assurances;
use super::broker::{Ears, RedisBroker};
use super::jobs::RedisJobs;
use super::limits::RedisLimits;
use super::logs::RedisLogs;
use super::nodes::{Nodes, Report};
use super::presence::RedisPresence;
use super::relay::Relay;
use super::revocations::Revocations;
use super::{CallError, LinkEvents, Redis, StartError, UnitIx};
use crate::apps::Apps;
use crate::config::{Durability, QueueSettings, RedisSettings};
use crate::queues;
use crate::readiness::{Readiness, Unready};
use crate::tokens::Tokens;

/// How long a server may be away before newcomers are sent elsewhere, and how often that is looked at.
const AWAY_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What this node shares with others. Cheap to clone.
#[derive(Clone)]
pub struct Shared {
    redis: Redis,
    /// Carries publications.
    pub broker: RedisBroker,
    /// Knows who is here.
    pub presence: RedisPresence,
    /// Knows which node has which session, and asks it.
    pub relay: Relay,
    jobs: RedisJobs,
    logs: RedisLogs,
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

/// Passes on what the links say. All listeners need the servers before they can listen.
#[derive(Default)]
struct Listeners {
    ears: Ears,
    others: OnceLock<Others>,
}

struct Others {
    presence: RedisPresence,
    revocations: Revocations,
    limits: RedisLimits,
    relay: Relay,
    jobs: RedisJobs,
    logs: RedisLogs,
}

#[async_trait]
impl LinkEvents for Listeners {
    async fn message(&self, unit: UnitIx, channel: &[u8], payload: Bytes) {
        if let Some(Others { revocations, limits, relay, jobs, logs, .. }) = self.others.get()
            && (revocations.message(channel, &payload)
                || limits.message(unit, channel, &payload)
                || relay.message(unit, channel, &payload)
                || jobs.message(channel)
                || logs.message(channel, &payload))
        {
            return;
        }
        self.ears.message(unit, channel, payload).await;
    }

    fn down(&self, unit: UnitIx) {
        self.ears.down(unit);
    }

    async fn up(&self, unit: UnitIx, generation: u64) {
        if let Some(Others { presence, revocations, limits, jobs, logs, .. }) = self.others.get() {
            jobs.up(unit);
            logs.up(unit);
            presence.up(unit, generation);
            revocations.up(unit);
            limits.up(unit);
        }
        self.ears.up(unit, generation).await;
    }
}

impl queues::Shared for Shared {
    fn queue(&self, app: &str, settings: &QueueSettings) -> Arc<dyn JobStore> {
        self.jobs.queue(app, settings)
    }

    fn log(&self, app: &str, durability: Durability, keep: Keep) -> Arc<dyn Log> {
        self.logs.log(app, durability, keep)
    }
}

impl Shared {
    /// Connects to the servers, and delivers to `events` from then on. `outbox_bytes_max` is what a reader may owe.
    pub async fn start(
        settings: &RedisSettings,
        events: Arc<dyn BrokerEvents>,
        apps: Apps,
        tokens: Tokens,
        outbox_bytes_max: usize,
    ) -> Result<Shared, NotShared> {
        let listeners = Arc::new(Listeners::default());
        let redis = Redis::start(settings, listeners.clone()).await?;
        let presence = RedisPresence::start(redis.clone()).await?;
        let revocations = Revocations::new(redis.clone(), tokens.clone());
        let limits = RedisLimits::new(presence.clone(), apps);
        let relay = Relay::new(redis.clone());
        let assurances = Assurances::new(&redis);
        let jobs = RedisJobs::new(redis.clone(), assurances.clone());
        let logs = RedisLogs::new(redis.clone(), assurances);
        let others = Others {
            presence: presence.clone(),
            revocations: revocations.clone(),
            limits: limits.clone(),
            relay: relay.clone(),
            jobs: jobs.clone(),
            logs: logs.clone(),
        };
        listeners.others.set(others).unwrap_or_else(|_| unreachable!("it is set here only"));
        // From here on they are told what they listen for.
        revocations.start().await?;
        tokens.share(Arc::new(revocations));
        limits.start().await?;
        relay.start().await?;
        let broker = RedisBroker::start(redis.clone(), &listeners.ears, events, outbox_bytes_max).await?;
        Ok(Shared { redis, broker, presence, relay, jobs, logs })
    }

    /// Sends newcomers to other nodes while a server is away from this one, for as long as the process runs. Those who are here
    /// stay: a failover is over before they would be anywhere else.
    pub async fn watch(self, readiness: Readiness) {
        let mut up_at = Instant::now();
        loop {
            sleep(LOOK_EVERY).await;
            if self.redis.units().all(|unit| self.redis.is_up(unit)) {
                up_at = Instant::now();
            }
            readiness.set(Unready::RedisAway, up_at.elapsed() > AWAY_MAX);
        }
    }

    /// Goes over to other servers.
    pub async fn change(&self, settings: &RedisSettings) {
        self.redis.change(settings).await;
    }

    /// Says from now on to the other nodes what this one is.
    pub fn report(&self, report: impl Fn() -> Report + Send + 'static) -> Nodes {
        Nodes::start(self.redis.clone(), report)
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
