//! Who shares the servers: each node says every second what it is and what it sees, and hears what the others say.
//!
//! For people, metrics, and changes of the servers; no user's request waits for it.
//!
//! Always true: a node that says nothing for five seconds is none.

use super::dial::Running;
use super::recovery::Recovery;
use super::{CallError, Redis, Script, UnitIx};
use redis::Value;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// How often a node says something.
const EVERY: Duration = Duration::from_secs(1);
/// How long that is good for.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// Units on which it is said: enough that one is there, and few enough for the many of a Cluster.
const UNITS_MAX: usize = 3;

static NODE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/node.lua")));

/// What a node says of itself. Fields that a version does not know are left out, and those that it misses are empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Where its subscribers and publishers connect.
    pub listen: String,
    /// Of the program.
    pub version: String,
    /// What it is there for.
    pub role: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Connections of clients.
    pub connections: u64,
    /// Stands for the set of servers, by which channels are assigned: nodes that differ in it do not hear each other.
    pub ring: String,
    /// What it sees of the servers.
    pub servers: Vec<Server>,
}

/// What a node sees of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Its address.
    pub server: String,
    /// Whether it serves.
    pub up: bool,
    /// The units that it has.
    pub units: usize,
    /// This node's subscriptions there.
    pub subscriptions: usize,
    /// How long a message takes there and back.
    pub lag_us: u64,
    /// How often it was lost since the node started.
    pub lost: u64,
    /// Channels that any node is subscribed to there.
    pub channels: u64,
    /// Bytes that it uses.
    pub memory: u64,
    /// Bytes that it may use; 0 = as many as there are.
    pub memory_max: u64,
}

/// This node among the others. Cheap to clone; the last one falls silent.
#[derive(Clone)]
pub struct Nodes {
    inner: Arc<Inner>,
    _task: Arc<Running>,
}

struct Inner {
    redis: Redis,
    name: String,
    heard: Mutex<BTreeMap<String, Report>>,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Nodes").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Nodes {
    /// Says `report` every second, with the servers filled in.
    pub fn start(redis: Redis, report: impl Fn() -> Report + Send + 'static) -> Nodes {
        let inner = Arc::new(Inner { name: redis.node().to_owned(), redis, heard: Mutex::default() });
        let speaking = inner.clone();
        let task = Running::start(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut agreed = true;
            loop {
                ticks.tick().await;
                let (servers, ring) = (speaking.redis.servers(), speaking.redis.ring());
                let text = serde_json::to_string(&Report { servers, ring: ring.clone(), ..report() })
                    .expect("it is plain data");
                let heard = said(&speaking.redis, &speaking.name, &text).await;
                let agree = strangers(&heard, &ring) == 0;
                if agreed && !agree {
                    tracing::warn!("nodes are configured with different Redis servers, and do not hear each other");
                }
                agreed = agree;
                *speaking.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
            }
        });
        Nodes { inner, _task: Arc::new(task) }
    }

    /// What all nodes said lately, this one included.
    pub fn heard(&self) -> BTreeMap<String, Report> {
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many nodes assign channels by another set of servers.
    pub fn strangers(&self) -> usize {
        strangers(&self.heard(), &self.inner.redis.ring())
    }

    /// What this node sees of the servers.
    pub fn servers(&self) -> Vec<Server> {
        self.inner.redis.servers()
    }

    /// What this node did to recover.
    pub fn recovery(&self) -> &Recovery {
        self.inner.redis.recovery()
    }

    /// Says good-bye, so that nobody waits for this node.
    pub async fn leave(&self) {
        said(&self.inner.redis, &self.inner.name, "").await;
    }
}

fn strangers(heard: &BTreeMap<String, Report>, ring: &str) -> usize {
    heard.values().filter(|report| report.ring != ring).count()
}

/// What nodes have said lately, for whoever is none.
pub async fn heard(redis: &Redis) -> BTreeMap<String, Report> {
    said(redis, "", "").await
}

/// Says something where it can be said, and hears what others said there.
async fn said(redis: &Redis, name: &str, text: &str) -> BTreeMap<String, Report> {
    let mut heard = BTreeMap::new();
    let units: Vec<UnitIx> = redis.units().take(UNITS_MAX).collect();
    for unit in units {
        match said_on(redis, unit, name, text).await {
            Ok(said) => heard.extend(said),
            Err(error) => tracing::debug!(%error, "cannot say who we are"),
        }
    }
    heard
}

async fn said_on(redis: &Redis, unit: UnitIx, name: &str, text: &str) -> Result<BTreeMap<String, Report>, CallError> {
    let good_for = GOOD_FOR.as_millis().to_string();
    let args = [name.into(), text.into(), good_for.into_bytes()];
    let answer = redis.call(unit, &NODE, &[redis.key(unit, "reports")], &args).await?;
    Ok(reports(answer))
}

/// What cannot be read is of a version that says something else.
fn reports(answer: Value) -> BTreeMap<String, Report> {
    let words: Vec<String> = redis::from_redis_value(answer).unwrap_or_default();
    let read = |pair: &[String]| Some((pair[0].clone(), serde_json::from_str(&pair[1]).ok()?));
    words.chunks_exact(2).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_other_versions_are_read_as_far_as_they_are_known() {
        let words = ["a", r#"{"listen":"here","news":[1]}"#, "b", "what?"];
        let words = words.into_iter().map(|word| Value::BulkString(word.into())).collect();
        let known = Report { listen: "here".to_owned(), ..Report::default() };
        assert_eq!(reports(Value::Array(words)), BTreeMap::from([("a".to_owned(), known)]));
    }
}
