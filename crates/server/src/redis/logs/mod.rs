//! Firehoses' logs that are kept by the Redis servers that nodes share: what any of them appends, any of them reads.
//!
//! A log belongs to one unit, picked by the name of its app as a channel's is, and all of its keys are in that unit's slot. How
//! far it has come is told to all nodes on the log's own channel; whoever missed that finds out a second later.
//!
//! Not here: what a log is (`fanfare_jobs`), and who may read (`firehose`).

mod appender;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare_jobs::Log;
use fanfare_jobs::log::Keep;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::appender::APPENDS_MAX;
use self::store::RedisLog;
use super::assurance::Assurances;
use super::{Redis, UnitIx};
use crate::config::Durability;

/// How often a log is looked at of which nothing is heard.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The logs of this node that others share; cheap to clone.
#[derive(Clone)]
pub struct RedisLogs(Arc<Inner>);

struct Inner {
    redis: Redis,
    /// By the channel of their news.
    logs: Mutex<HashMap<Vec<u8>, Arc<RedisLog>>>,
    assurances: Assurances,
}

impl RedisLogs {
    /// To be told what the links hear.
    pub(super) fn new(redis: Redis, assurances: Assurances) -> RedisLogs {
        RedisLogs(Arc::new(Inner { redis, logs: Mutex::default(), assurances }))
    }

    /// An app's log; the same one each time. Must be called on the runtime.
    pub fn log(&self, app: &str, durability: Durability, keep: Keep) -> Arc<dyn Log> {
        self.begin(app, durability, keep, |log| log)
    }

    fn begin(
        &self,
        app: &str,
        durability: Durability,
        keep: Keep,
        made: impl FnOnce(RedisLog) -> RedisLog,
    ) -> Arc<RedisLog> {
        let redis = self.0.redis.clone();
        // No channel is called so.
        let unit = redis.unit_of(app, "#firehose");
        let assurance = match durability {
            Durability::Disk => Some(self.0.assurances.of(unit)),
            Durability::Memory => None,
        };
        let (sender, appends) = mpsc::channel(APPENDS_MAX);
        let log = made(RedisLog::new(redis, unit, app, keep, assurance, sender));
        let mut logs = self.logs();
        if let Some(known) = logs.get(log.news()) {
            return known.clone();
        }
        let log = Arc::new(log);
        logs.insert(log.news().to_vec(), log.clone());
        tokio::spawn(appender::run(log.clone(), appends));
        tokio::spawn(attend(self.0.redis.clone(), log.clone()));
        log
    }

    /// A message on a channel; whether it was about a log.
    pub(super) fn message(&self, channel: &[u8], payload: &[u8]) -> bool {
        let logs = self.logs();
        let log = logs.get(channel);
        log.into_iter().for_each(|log| log.hear(payload));
        log.is_some()
    }

    /// The unit serves again; what it told meanwhile was not heard.
    pub(super) fn up(&self, unit: UnitIx) {
        self.logs().values().filter(|log| log.unit() == unit).for_each(|log| log.doubt());
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<RedisLog>>> {
        // A map is sound between any two statements, so a poisoned lock tells nothing.
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Also says what is wrong before the first publisher meets it.
async fn attend(redis: Redis, log: Arc<RedisLog>) {
    if let Err(error) = log.is_assured().await {
        tracing::warn!(app = log.name(), %error, "a firehose will take nothing");
    }
    // Until that is done, looks find out.
    tokio::spawn(redis.listen(log.unit(), log.news().to_vec()));
    loop {
        _ = timeout(LOOK_EVERY, log.doubted()).await;
        log.look().await;
    }
}
