//! Whether a unit's server has on disk what it answers for: it must append each write to its log and sync that before it
//! answers. Asked of the server itself, again and again, as somebody may change it while it runs.
//!
//! Always true: what was said of one server is never believed of another, which would have another generation. Between the asking
//! and a write another one may take over, so whoever writes checks before, to refuse in time, and behind, to be sure.
//!
//! Not here: replicas. A replica that is promoted may lack what its primary had on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{CallError, Redis, UnitIx};

/// What the server must be set to, by name.
const NEEDED: [(&str, &str); 4] = [
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("no-appendfsync-on-rewrite", "no"),
    // A queue is a few large keys: whichever of them is evicted, all of its jobs are lost.
    ("maxmemory-policy", "noeviction"),
];
/// How long a good answer is believed, and a bad one.
const GOOD_FOR: Duration = Duration::from_secs(10);
const BAD_FOR: Duration = Duration::from_secs(1);
const OTHERWISE: &str =
    "or give the queue or the firehose durability = \"memory\", with which it is kept as well as Redis keeps anything";

/// What is known of all units; cheap to clone.
#[derive(Clone)]
pub(super) struct Assurances(Arc<[Arc<Assurance>]>);

impl Assurances {
    pub(super) fn new(redis: &Redis) -> Assurances {
        Assurances(redis.units().map(|unit| Arc::new(Assurance::new(redis.clone(), unit))).collect())
    }

    /// What is known of the one.
    pub(super) fn of(&self, unit: UnitIx) -> Arc<Assurance> {
        self.0[usize::from(unit.0)].clone()
    }
}

/// What is known of a unit's server.
pub(super) struct Assurance {
    redis: Redis,
    unit: UnitIx,
    said: Mutex<Option<Said>>,
}

#[derive(Clone)]
struct Said {
    /// Of the server, before it was asked.
    generation: u64,
    until: Instant,
    verdict: Result<(), Box<str>>,
}

impl Assurance {
    fn new(redis: Redis, unit: UnitIx) -> Assurance {
        Assurance { redis, unit, said: Mutex::default() }
    }

    /// Whether what the server answers for is on disk; or why not, for the person who can change it.
    pub(super) async fn check(&self) -> Result<(), Box<str>> {
        let generation = self.redis.generation(self.unit);
        let known = self.said().clone().filter(|said| said.generation == generation && Instant::now() < said.until);
        if let Some(said) = known {
            return said.verdict;
        }
        let verdict = self.ask().await;
        let until = Instant::now() + if verdict.is_ok() { GOOD_FOR } else { BAD_FOR };
        *self.said() = Some(Said { generation, until, verdict: verdict.clone() });
        verdict
    }

    async fn ask(&self) -> Result<(), Box<str>> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET");
        NEEDED.iter().for_each(|(name, _)| _ = command.arg(name));
        let answer = self.redis.ask_server(self.unit, command).await;
        let server = self.redis.address(self.unit);
        match answer {
            Ok(settings) => {
                let settings: HashMap<String, String> = redis::from_redis_value(settings).unwrap_or_default();
                wrong(&settings).map_or(Ok(()), |wrong| Err(format!("the Redis server {server} {wrong}").into()))
            }
            Err(CallError::Refused(why)) => Err(format!(
                "the Redis server {server} does not say whether it has {}, as it refuses CONFIG GET ({why}): \
                 let this node ask, {OTHERWISE}",
                needed()
            )
            .into()),
            Err(away) => Err(away.to_string().into()),
        }
    }

    fn said(&self) -> MutexGuard<'_, Option<Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is not as it must be.
fn wrong(settings: &HashMap<String, String>) -> Option<String> {
    let value = |name: &str| settings.get(name).map_or("", String::as_str);
    let (name, _) = NEEDED.iter().find(|(name, needed)| value(name) != *needed)?;
    let value = value(name);
    Some(format!("has {name} {value:?}, and durability = \"disk\" needs {}: set it there, {OTHERWISE}", needed()))
}

fn needed() -> String {
    NEEDED.map(|(name, value)| format!("{name} {value}")).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(settings: [&str; 4], begin: Option<&str>) {
        let settings = NEEDED.iter().zip(settings).map(|((name, _), value)| (name.to_string(), value.to_owned()));
        let wrong = wrong(&settings.collect());
        assert_eq!(wrong.is_none(), begin.is_none(), "{wrong:?}");
        assert!(wrong.unwrap_or_default().starts_with(begin.unwrap_or_default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        check(["yes", "always", "no", "noeviction"], None);
        check(
            ["no", "always", "no", "noeviction"],
            Some("has appendonly \"no\", and durability = \"disk\" needs appendonly yes, appendfsync always"),
        );
        check(["yes", "everysec", "no", "noeviction"], Some("has appendfsync \"everysec\""));
        check(["yes", "always", "yes", "noeviction"], Some("has no-appendfsync-on-rewrite \"yes\""));
        check(["yes", "always", "no", "allkeys-lru"], Some("has maxmemory-policy \"allkeys-lru\""));
        assert!(wrong(&HashMap::new()).is_some(), "it did not say");
    }
}
