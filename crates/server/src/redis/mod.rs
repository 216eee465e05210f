//! The Redis servers that nodes share: connections to them, and which of them serves a channel.
//!
//! A *unit* is where stamps rise and scripts are atomic: a standalone server, what a Sentinel group calls a master, or one of
//! the partitions of a Cluster. A channel belongs to one unit. Pub/sub is the sharded kind everywhere ([`PUBLISH`]): standalone
//! servers know it too, and there is one kind less to tell apart.
//!
//! Always true:
//! - a call reaches its server once at most, unless the server has said that it did nothing;
//! - between [`LinkEvents::down`] and [`LinkEvents::up`] of a unit, messages of its channels may have been missed; at other
//!   times none was, as far as the server and the probe can tell.
//!
//! Not here: what the scripts do (`broker`, `presence`, `jobs`, `logs`).

mod assurance;
pub mod broker;
#[cfg(test)]
mod broker_chaos;
#[cfg(test)]
mod broker_tests;
mod channels;
mod cluster;
mod commands;
#[cfg(test)]
mod contract;
mod dial;
mod echoes;
mod fault;
pub mod jobs;
mod leases;
mod limits;
mod link;
mod logs;
mod mirror;
pub mod nodes;
mod pace;
mod presence;
#[cfg(test)]
mod presence_tests;
mod record;
pub mod recovery;
mod refusal;
mod relay;
#[allow(dead_code)]
mod revocations;
mod ring;
mod script;
mod sentinel;
pub mod shared;
mod stamps;
mod streams;
mod subscriber;
mod subscriptions;
#[cfg(test)]
mod tests;
mod topology;
mod unit;
mod upkeep;

pub use script::Script;

use crate::config::{RedisServers, RedisSettings};
use async_trait::async_trait;
use bytes::Bytes;
use dial::{Dialer, Running};
use fanfare_proto::cursor::channel_hash;
use link::Common;
use recovery::Recovery;
use redis::{Cmd, Value};
use ring::Ring;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use topology::Topology;
use unit::{Question, Unit};

/// The command that publishes, in scripts and outside. A script that runs is not refused it: who has given a slot away, or has only
/// some of a script's keys left, refuses the whole script before its first write, and who is about to give one away still publishes.
pub const PUBLISH: &str = "SPUBLISH";

static TELL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/tell.lua")));

/// A unit, by its number on this node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct UnitIx(pub u16);

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The unit's server is not connected: nothing was sent.
    #[error("the Redis server is not connected")]
    Down,
    /// No answer, within 2 s or before the connection broke: whether it was done is unknown.
    #[error("the Redis server did not answer")]
    Timeout,
    /// The server's memory is full: nothing was done.
    #[error("the Redis server's memory is full")]
    Full,
    /// The server refused.
    #[error("the Redis server refused: {0}")]
    Refused(String),
}

/// Why the servers could not be used from the start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A server is not as it must be, or not there.
    #[error("{server}: {reason}")]
    Server {
        /// As the configuration names it.
        server: String,
        /// What was wrong with it, last.
        reason: String,
    },
    /// The settings cannot be used: correct them.
    #[error("{0}")]
    Settings(String),
}

/// Who is told what the servers send and how they are.
#[async_trait]
pub trait LinkEvents: Send + Sync {
    /// A message on a subscribed channel, in the order in which the server sent them. One task for each server calls it,
    /// and reads no further while it waits.
    async fn message(&self, unit: UnitIx, channel: &[u8], payload: Bytes);
    /// From now on, something may be missed on the unit's channels.
    fn down(&self, unit: UnitIx);
    /// The unit's server is connected and fenced with `generation`, and all of its channels are subscribed again. Called
    /// also the first time. Dropped where it stands when the unit goes down again meanwhile.
    async fn up(&self, unit: UnitIx, generation: u64);
}

/// How long a subscription may take.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long servers may take to be there when the node starts. What will not mend itself ends the start at once.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts to listen for news.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at whether they are.
const START_PAUSE: Duration = Duration::from_millis(20);

/// The servers. Cheap to clone; the last one ends all connections.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    node: String,
    topology: Arc<Topology>,
    /// Whether units may be given to other servers.
    partitioned: bool,
    ring: Ring,
    recovery: Arc<Recovery>,
    _tasks: Vec<Running>,
}

impl Redis {
    /// Connects to all servers, and waits until each of them serves.
    pub async fn start(settings: &RedisSettings, events: Arc<dyn LinkEvents>) -> Result<Redis, StartError> {
        let dialer = Dialer::new(settings).map_err(|error| StartError::Settings(error.to_string()))?;
        let random = RandomState::new().hash_one(std::process::id());
        let common = Arc::new(Common {
            dialer,
            events: events.clone(),
            node: format!("{random:016x}"),
            clustered: matches!(settings.servers, RedisServers::Cluster(_)),
            doubt: Notify::new(),
            recovery: Arc::default(),
        });
        let (node, recovery) = (common.node.clone(), common.recovery.clone());
        let units = topology::units(settings, 0);
        for unit in &units {
            let _ = unit.subscriptions().want(&subscriber::probe_channel(unit, &common.node));
        }
        let ring = topology::ring_of(&units);
        let topology = Arc::new(Topology::new(settings, units, common));
        let live = |unit: &Arc<Unit>| Running::start(unit.clone().live(events.clone()));
        let mut tasks: Vec<Running> = topology.units().iter().map(live).collect();
        let following = topology.clone();
        tasks.push(Running::start(async move { following.follow().await }));
        let redis = Redis {
            inner: Arc::new(Inner { node, topology, partitioned: settings.partitioned, ring, recovery, _tasks: tasks }),
        };
        redis.all_risen().await?;
        Ok(redis)
    }

    async fn all_risen(&self) -> Result<(), StartError> {
        let deadline = Instant::now() + START_TIMEOUT;
        while let Some((server, fault)) = self.inner.topology.fault() {
            if fault.lasting || Instant::now() > deadline {
                return Err(StartError::Server { server, reason: fault.text });
            }
            sleep(START_PAUSE).await;
        }
        Ok(())
    }

    /// What this process calls itself among those that share the servers.
    pub fn node(&self) -> &str {
        &self.inner.node
    }

    /// Goes over to other servers, if the settings were made for it ([`RedisSettings::partitioned`]): the units that move go down,
    /// and come up again with another generation. Other nodes that still have the old servers cannot use those units any more.
    pub async fn change(&self, settings: &RedisSettings) {
        self.inner.topology.change(settings.servers.clone()).await;
    }

    /// Stands for the set of servers: nodes among which it differs do not assign channels alike.
    pub fn ring(&self) -> String {
        format!("{:016x}", self.inner.topology.fingerprint())
    }

    /// What this node sees of the servers.
    pub fn servers(&self) -> Vec<nodes::Server> {
        self.inner.topology.servers()
    }

    /// What was done to recover.
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// All units.
    pub fn units(&self) -> impl Iterator<Item = UnitIx> {
        self.inner.ring.units()
    }

    /// The unit that a channel belongs to.
    pub fn unit_of(&self, app: &str, name: &str) -> UnitIx {
        self.unit_of_hash(channel_hash(app, name))
    }

    /// The unit of a channel that only a cursor's hash stands for.
    pub fn unit_of_hash(&self, channel_hash: u64) -> UnitIx {
        self.inner.ring.unit_of(channel_hash)
    }

    /// The whole name of a key or a pub/sub channel of a unit.
    pub fn key(&self, unit: UnitIx, rest: &str) -> Vec<u8> {
        self.unit(unit).key(rest)
    }

    /// Runs a script: one `EVALSHA`, or `EVAL` where the server does not know it. `KEYS[1]` is the unit's fence, a hash whose field
    /// `generation` must be `ARGV[1]`, or else the script changes nothing and answers the error `FENCED generation`; `KEYS[2]` is
    /// the unit's stamp. Then come `keys` and `args`. Calls made one after another on one task are executed in that order.
    pub async fn call(
        &self,
        unit: UnitIx,
        script: &Script,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
    ) -> Result<Value, CallError> {
        self.unit(unit).ask(&Question::Script { script, keys, args }).await
    }

    /// Publishes what is not kept; returns how many nodes received it. One command; a script only where the unit may have been given
    /// to another server, as this one would still take it.
    pub async fn publish(&self, unit: UnitIx, channel: &[u8], payload: &[u8]) -> Result<u64, CallError> {
        let receivers = if self.inner.partitioned {
            self.call(unit, &TELL, &[channel.to_vec()], &[payload.to_vec()]).await?
        } else {
            let mut command = redis::cmd(PUBLISH);
            command.arg(channel).arg(payload);
            self.unit(unit).ask(&Question::Command(command)).await?
        };
        redis::from_redis_value(receivers).map_err(|error| CallError::Refused(error.to_string()))
    }

    /// Asks the unit's server about itself.
    async fn ask_server(&self, unit: UnitIx, command: Cmd) -> Result<Value, CallError> {
        self.unit(unit).ask(&Question::Command(command)).await
    }

    /// Where the unit's server is, for the person who has to do something about it.
    fn address(&self, unit: UnitIx) -> String {
        self.unit(unit).home().map_or_else(String::new, |link| link.address.to_string())
    }

    /// Under which generation the unit's server is known; 0: under none.
    fn generation(&self, unit: UnitIx) -> u64 {
        self.unit(unit).generation()
    }

    /// Subscribes to a channel, named whole (by [`Redis::key`]); returns once the server has confirmed it. Kept over
    /// reconnects until [`Redis::unsubscribe`]; not kept if this fails.
    pub async fn subscribe(&self, unit: UnitIx, channel: Vec<u8>) -> Result<(), CallError> {
        let there = self.unit(unit);
        there.arrival().await.ok_or(CallError::Down)?;
        let Some(done) = there.subscriptions().want(&channel) else { return Ok(()) };
        there.have_changed();
        // Nobody but `unsubscribe` drops the other end.
        match timeout(SUBSCRIBE_TIMEOUT, done).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(CallError::Down),
            Err(_) => {
                self.unsubscribe(unit, &channel);
                Err(CallError::Timeout)
            }
        }
    }

    /// The same, however long it takes.
    async fn listen(self, unit: UnitIx, channel: Vec<u8>) {
        while let Err(error) = self.subscribe(unit, channel.clone()).await {
            tracing::debug!(%error, "news are not heard yet");
            sleep(LISTEN_PAUSE).await;
        }
    }

    /// Ends a subscription. A message that is on its way may still come.
    pub fn unsubscribe(&self, unit: UnitIx, channel: &[u8]) {
        let unit = self.unit(unit);
        unit.subscriptions().unwant(channel);
        unit.have_changed();
    }

    /// Whether the unit is up.
    pub fn is_up(&self, unit: UnitIx) -> bool {
        self.unit(unit).has_risen()
    }

    fn unit(&self, unit: UnitIx) -> &Arc<Unit> {
        &self.inner.topology.units()[usize::from(unit.0)]
    }
}
