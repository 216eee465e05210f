//! Queues whose jobs are kept by the Redis servers that nodes share, so that any of them may put and any may work.
//!
//! A queue belongs to one unit, picked by its name as a channel's is, and all of its keys are in that unit's slot. Where
//! jobs may have become ones that can be claimed, the unit tells all nodes on the queue's own channel; whoever missed that
//! finds out with the next sweep.
//!
//! Not here: what a queue is (`fanfare_jobs`), and who may ask (`queues`, `api`).

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod crowd_tests;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fanfare_jobs::JobStore;

use self::store::RedisStore;
use super::assurance::Assurances;
use super::{Redis, UnitIx};
use crate::config::{Durability, QueueSettings};

/// The queues of this node that others share; cheap to clone.
#[derive(Clone)]
pub struct RedisJobs(Arc<Inner>);

struct Inner {
    redis: Redis,
    /// By the channel of their news.
    queues: Mutex<HashMap<Vec<u8>, Arc<RedisStore>>>,
    assurances: Assurances,
}

impl RedisJobs {
    /// To be told what the links hear.
    pub(super) fn new(redis: Redis, assurances: Assurances) -> RedisJobs {
        RedisJobs(Arc::new(Inner { redis, queues: Mutex::default(), assurances }))
    }

    /// A queue of an app; the same one each time. Must be called on the runtime.
    pub fn queue(&self, app: &str, settings: &QueueSettings) -> Arc<dyn JobStore> {
        let store = self.store(app, settings);
        let mut queues = self.queues();
        if let Some(known) = queues.get(store.news()) {
            known.set_limits(settings.limits);
            return known.clone();
        }
        let store = Arc::new(store);
        queues.insert(store.news().to_vec(), store.clone());
        tokio::spawn(begin(self.0.redis.clone(), store.clone()));
        store
    }

    fn store(&self, app: &str, settings: &QueueSettings) -> RedisStore {
        let QueueSettings { name, durability, limits, .. } = settings;
        let redis = self.0.redis.clone();
        // No channel is called so.
        let unit = redis.unit_of(app, &format!("#queue-{name}"));
        let assurance = match durability {
            Durability::Disk => Some(self.0.assurances.of(unit)),
            Durability::Memory => None,
        };
        RedisStore::new(redis, unit, &format!("{app}/{name}"), *limits, assurance)
    }

    /// A message on a channel; whether it was about a queue.
    pub(super) fn message(&self, channel: &[u8]) -> bool {
        let queues = self.queues();
        let queue = queues.get(channel);
        queue.into_iter().for_each(|queue| queue.wake());
        queue.is_some()
    }

    /// The unit serves again; what it told meanwhile was not heard.
    pub(super) fn up(&self, unit: UnitIx) {
        self.queues().values().filter(|queue| queue.unit() == unit).for_each(|queue| queue.wake());
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<RedisStore>>> {
        // A map is sound between any two statements, so a poisoned lock tells nothing.
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Also says what is wrong before the first producer meets it. Until its news are heard, sweeps wake those who wait.
async fn begin(redis: Redis, queue: Arc<RedisStore>) {
    redis.listen(queue.unit(), queue.news().to_vec()).await;
    if let Err(error) = queue.is_assured().await {
        tracing::warn!(queue = queue.name(), %error, "a queue will take no jobs");
    }
}
