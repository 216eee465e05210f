//! The connections to one server, and whether they are any good.
//!
//! A server counts as gone when it leaves a question open for two seconds, is no primary any more, or has become another
//! process. The connection for pub/sub counts as gone when what we publish does not come back on it.

use super::LinkEvents;
use super::commands::Commands;
use super::dial::{ANSWER_TIMEOUT, Address, DialError, Dialer, Running};
use super::fault::Fault;
use super::nodes::Server;
use super::recovery::Recovery;
use super::subscriber::{Subscriber, probe_channel};
use crate::config::Login;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// How often a server is asked how it is.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How often a message goes round.
const PROBE: Duration = Duration::from_secs(1);
/// How long it may take to come back.
const PROBE_MAX: Duration = Duration::from_secs(3);
/// How long it may take while other messages come.
const PROBE_BUSY_MAX: Duration = Duration::from_secs(30);
/// Pauses between attempts to connect.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What we need: sharded pub/sub, and `INFO` in scripts.
const VERSION_MIN: u32 = 7;

/// What all links have in common.
pub(super) struct Common {
    pub dialer: Dialer,
    pub events: Arc<dyn LinkEvents>,
    /// What this process calls itself in its probes.
    pub node: String,
    /// Whether servers belong to a Cluster.
    pub clustered: bool,
    /// Told when a server may not be what it was.
    pub doubt: Notify,
    pub recovery: Arc<Recovery>,
}

/// A server.
pub(super) struct Link {
    pub address: Address,
    commands: watch::Sender<Option<Arc<Commands>>>,
    subscriber: watch::Sender<Option<Arc<Subscriber>>>,
    /// What was wrong last.
    fault: Mutex<Fault>,
    doubted: Notify,
    usage: Mutex<Usage>,
    /// How often either connection was lost.
    lost: AtomicU64,
    common: Arc<Common>,
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    memory: u64,
    memory_max: u64,
    channels: u64,
}

impl Usage {
    fn read(info: &str) -> Usage {
        let number = |name| field(info, name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Usage {
            memory: number("used_memory"),
            memory_max: number("maxmemory"),
            channels: number("pubsubshard_channels"),
        }
    }
}

/// A link with its task.
pub(super) struct LiveLink {
    pub link: Arc<Link>,
    _task: Running,
}

impl LiveLink {
    /// Begins to connect.
    pub fn start(address: Address, login: Login, common: Arc<Common>) -> LiveLink {
        let link = Arc::new(Link {
            address,
            commands: watch::Sender::new(None),
            subscriber: watch::Sender::new(None),
            fault: Mutex::default(),
            doubted: Notify::new(),
            usage: Mutex::default(),
            lost: AtomicU64::new(0),
            common,
        });
        let task = Running::start({
            let link = link.clone();
            async move { link.supervise(&login).await }
        });
        LiveLink { link, _task: task }
    }
}

impl Drop for LiveLink {
    fn drop(&mut self) {
        self.link.commands.send_replace(None);
        self.link.subscriber.send_replace(None);
    }
}

/// Waits for something that is there.
async fn some<T>(watched: &watch::Sender<Option<Arc<T>>>) -> Arc<T> {
    let mut watched = watched.subscribe();
    let there = watched.wait_for(Option::is_some).await.expect("the link holds the sender");
    there.clone().expect("it was waited for")
}

/// Waits until it is no longer the one that is there.
async fn gone<T>(watched: &watch::Sender<Option<Arc<T>>>, known: &Arc<T>) {
    let mut watched = watched.subscribe();
    let other = |now: &Option<Arc<T>>| !now.as_ref().is_some_and(|now| Arc::ptr_eq(now, known));
    let _ = watched.wait_for(other).await;
}

impl Link {
    /// The connection for commands, once there is one.
    pub async fn commands(&self) -> Arc<Commands> {
        some(&self.commands).await
    }

    /// The connection for commands, if there is one.
    pub fn commands_now(&self) -> Option<Arc<Commands>> {
        self.commands.borrow().clone()
    }

    /// Whether it was found to be of no use; not so while it is dialled for the first time.
    pub fn is_gone(&self) -> bool {
        self.commands.borrow().is_none() && !self.fault().text.is_empty()
    }

    /// Waits until that connection is lost.
    pub async fn commands_lost(&self, commands: &Arc<Commands>) {
        gone(&self.commands, commands).await;
    }

    /// The connection for pub/sub, once there is one.
    pub async fn subscriber(&self) -> Arc<Subscriber> {
        some(&self.subscriber).await
    }

    /// The connection for pub/sub, if there is one.
    pub fn subscriber_now(&self) -> Option<Arc<Subscriber>> {
        self.subscriber.borrow().clone()
    }

    /// Waits until that connection is lost.
    pub async fn subscriber_lost(&self, subscriber: &Arc<Subscriber>) {
        gone(&self.subscriber, subscriber).await;
    }

    /// Something was said that a server in good health does not say: look at once.
    pub fn doubt(&self) {
        self.doubted.notify_one();
        self.common.doubt.notify_one();
    }

    /// What was done to recover, on all links.
    pub fn recovery(&self) -> &Recovery {
        &self.common.recovery
    }

    /// Remembers what was wrong.
    pub fn blame(&self, fault: impl Into<Fault>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault.into();
    }

    /// What was wrong last.
    pub fn fault(&self) -> Fault {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is seen of the server by this node, of whose subscriptions so many are there.
    pub fn server(&self, units: usize, subscriptions: usize) -> Server {
        let Usage { memory, memory_max, channels } = *self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let subscriber = self.subscriber_now();
        Server {
            server: self.address.to_string(),
            up: subscriber.is_some(),
            units,
            subscriptions,
            lag_us: subscriber.map_or(0, |subscriber| subscriber.lag_us()),
            lost: self.lost.load(Ordering::Relaxed),
            channels,
            memory,
            memory_max,
        }
    }

    fn note(&self, info: &str) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = Usage::read(info);
    }

    async fn supervise(&self, login: &Login) {
        let mut pause = Pause::default();
        loop {
            let attempt = Commands::dial(&self.common.dialer, &self.address, login).await;
            if let Err(error) = self.attend(attempt, login, &mut pause).await {
                self.blame(error);
            }
            self.common.doubt.notify_one();
            sleep(pause.next()).await;
        }
    }

    /// Stays with a connection for as long as it is good.
    async fn attend(
        &self,
        attempt: Result<(Commands, Running), DialError>,
        login: &Login,
        pause: &mut Pause,
    ) -> Result<(), DialError> {
        let (commands, mut driver) = attempt?;
        let health = self.examine(&commands).await?;
        let commands = Arc::new(commands);
        *pause = Pause::default();
        self.commands.send_replace(Some(commands.clone()));
        tracing::info!(server = %self.address, "connected to Redis");
        let why = tokio::select! {
            () = driver.ended() => "the connection was closed".to_owned(),
            why = self.heartbeat(&commands, &health) => why,
            why = self.keep_subscribed(&commands, login) => why,
        };
        tracing::warn!(server = %self.address, why, "lost Redis");
        self.blame(Fault::passing(why));
        self.commands.send_replace(None);
        self.subscriber.send_replace(None);
        self.lost.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a server is fit, and who it is.
    async fn examine(&self, commands: &Commands) -> Result<Health, DialError> {
        let info: String = redis::from_redis_value(commands.ask(&redis::cmd("INFO")).await?)
            .map_err(|error| DialError::Unfit(error.to_string()))?;
        self.note(&info);
        let health = Health::read(&info);
        let version = field(&info, "redis_version").unwrap_or("0");
        let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        let clustered = field(&info, "cluster_enabled") == Some("1");
        let unfit = if major < VERSION_MIN {
            format!("it is Redis {version}, and {VERSION_MIN} is needed")
        } else if clustered && !self.common.clustered {
            "it belongs to a Cluster, which is to be configured as `cluster`".to_owned()
        } else if !clustered && self.common.clustered {
            "it belongs to no Cluster".to_owned()
        } else if field(&info, "redis_mode") == Some("sentinel") {
            "it is a Sentinel, which is to be configured as one of `sentinels`".to_owned()
        } else if !health.primary {
            return Err(DialError::Replica);
        } else {
            if let Some(policy) = field(&info, "maxmemory_policy").filter(|policy| *policy != "noeviction") {
                tracing::warn!(server = %self.address, policy, "maxmemory-policy should be noeviction: Redis may drop histories, and the jobs of whole queues");
            }
            return Ok(health);
        };
        Err(DialError::Unfit(unfit))
    }

    /// Asks how the server is until the answer is bad; returns what was.
    async fn heartbeat(&self, commands: &Commands, known: &Health) -> String {
        let mut command = redis::cmd("INFO");
        command.arg("replication").arg("memory").arg("stats");
        loop {
            let _ = timeout(HEARTBEAT, self.doubted.notified()).await;
            let answer = match timeout(ANSWER_TIMEOUT, commands.ask(&command)).await {
                Ok(answer) => answer,
                Err(_) => return format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
            };
            match answer.and_then(|value| Ok(redis::from_redis_value::<String>(value)?)) {
                Ok(info) if Health::read(&info) == *known => self.note(&info),
                Ok(_) => return "it is no longer the primary that it was".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Keeps a connection for pub/sub. Returns if the other connection turns out to be of no use.
    async fn keep_subscribed(&self, commands: &Commands, login: &Login) -> String {
        let mut pause = Pause::default();
        loop {
            match self.common.dialer.pubsub(&self.address, login).await {
                Err(error) => self.blame(error),
                Ok(stream) => {
                    let subscriber = Arc::new(Subscriber::new(self.address.to_string(), self.common.recovery.clone()));
                    self.subscriber.send_replace(Some(subscriber.clone()));
                    let why = tokio::select! {
                        why = subscriber.run(stream, self.common.events.clone()) => why,
                        () = self.probe(commands, &subscriber, &mut pause) => "a probe did not come back".to_owned(),
                    };
                    self.subscriber.send_replace(None);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(server = %self.address, why, "lost the subscriptions at Redis");
                    self.blame(Fault::passing(why));
                }
            }
            sleep(pause.next()).await;
        }
    }

    /// Sends messages round until one does not come back.
    async fn probe(&self, commands: &Commands, subscriber: &Subscriber, pause: &mut Pause) {
        let mut number = 0;
        let mut back = Instant::now();
        loop {
            sleep(PROBE).await;
            if subscriber.probed() == number {
                back = Instant::now();
                *pause = Pause::default();
            } else if is_lost(back.elapsed(), subscriber.idle_ms()) {
                return;
            }
            let Some(unit) = subscriber.any_unit().filter(|unit| unit.has_risen()) else {
                number = subscriber.probed();
                continue;
            };
            if subscriber.probed() == number {
                number += 1;
            }
            subscriber.probes();
            let mut publish = redis::cmd(super::PUBLISH);
            publish.arg(probe_channel(&unit, &self.common.node)).arg(number);
            // A server that does not answer is the heartbeat's matter.
            let _ = commands.ask(&publish).await;
        }
    }
}

/// Whether a probe that has been away for so long is lost, if the reader has waited for the server for so long.
fn is_lost(away: Duration, idle_ms: Option<u64>) -> bool {
    let idle = idle_ms.is_some_and(|ms| Duration::from_millis(ms) >= PROBE);
    away > PROBE + PROBE_MAX && idle || away > PROBE + PROBE_BUSY_MAX && idle_ms.is_some()
}

/// Who a server is.
#[derive(Debug, PartialEq, Eq)]
struct Health {
    primary: bool,
    /// New whenever a process begins, or becomes primary.
    replication: String,
}

impl Health {
    fn read(info: &str) -> Health {
        Health {
            primary: field(info, "role") == Some("master"),
            replication: field(info, "master_replid").unwrap_or_default().to_owned(),
        }
    }
}

/// A field of what `INFO` answers.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Pauses that double, each somewhere between half and all of its length, so that nodes do not come back all at once.
#[derive(Debug)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Pause {
        Pause(PAUSE_MIN)
    }
}

impl Pause {
    fn next(&mut self) -> Duration {
        let whole = self.0;
        self.0 = (whole * 2).min(PAUSE_MAX);
        let chance = (RandomState::new().hash_one(()) >> 32) as f64 / f64::from(u32::MAX);
        whole.mul_f64(0.5 + chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_field() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:abc\r\nmaster_replid2:000\r\n";
        assert_eq!(Health::read(info), Health { primary: true, replication: "abc".to_owned() });
    }

    #[test]
    fn a_node_that_is_behind_does_not_take_its_probe_for_lost() {
        let seconds = Duration::from_secs;
        assert!(is_lost(seconds(5), Some(5_000)), "nothing comes");
        assert!(!is_lost(seconds(2), Some(2_000)), "not yet");
        assert!(!is_lost(seconds(60), None), "somebody does not take a message");
        assert!(!is_lost(seconds(5), Some(3)), "other messages come");
        assert!(is_lost(seconds(60), Some(3)), "other messages come, and it never does");
    }

    #[test]
    fn pauses_grow_to_a_second() {
        let mut pause = Pause::default();
        let pauses: Vec<Duration> = (0..8).map(|_| pause.next()).collect();
        assert!(pauses[0] <= PAUSE_MIN && pauses[7] >= PAUSE_MAX / 2 && pauses[7] <= PAUSE_MAX, "{pauses:?}");
    }
}
