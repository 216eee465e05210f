//! The configuration: as written (`written`), then checked ([`Config`]).
//!
//! Layers in rising order: defaults, `fanfare.toml`, the environment (`FANFARE_…`), flags. This module alone reads
//! files and environment; everybody else is handed a [`Config`].
//!
//! Always true of a [`Config`]:
//! - no two apps share an id or a key, and every app has a key;
//! - the development credentials are in it only if `listen` is a loopback address.
//!
//! Not here: what a reload does to running apps (`apps`).

mod check;
mod environment;
mod error;
mod firehose;
mod network;
mod origin;
mod pipelines;
mod push_stream;
mod queues;
mod redis;
mod role;
mod rollout;
mod tenants;
mod watch;
mod written;

pub use error::ConfigError;
pub use firehose::{FirehoseSettings, FirehoseToken};
pub use network::Network;
pub use origin::OriginRule;
pub use pipelines::{IngestSettings, PipelineSettings};
pub use push_stream::{PushStreamSettings, Templates};
pub use queues::{Durability, QueueSettings};
pub use redis::{Login, RedisServer, RedisServers, RedisSettings};
pub use role::Role;
pub use watch::watch;

use crate::limits::Limits;
use crate::rollout::Rollout;
use fanfare_proto::channel::ChannelPattern;
use fanfare_proto::sign::{digest_matches, hmac_digest};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use written::{At, Place, Written, Wrong};

/// The file that is read when it exists and no other is named.
const DEFAULT_FILE: &str = "fanfare.toml";

/// Where the readers of the demo page and its comments are.
const DEMO_CHANNELS: [&str; 2] = ["presence-demo", "thread.demo"];

/// The development app's queue, and its pipeline.
pub const COMMENTS: &str = "comments";

/// The development app's credentials: printed in the documentation, so no secret at all.
const DEVELOPMENT_ID: &str = "1";
const DEVELOPMENT_KEY: &str = "fanfare-key";
const DEVELOPMENT_SECRET: &str = "fanfare-secret";

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What this node is there for.
    pub role: Role,
    /// The public listener.
    pub listen: SocketAddr,
    /// Metrics and health.
    pub admin_listen: SocketAddr,
    /// Event loops; 0 = one for each CPU that the process may use.
    pub loops: usize,
    /// What is logged, in the language of `RUST_LOG`.
    pub log: String,
    /// Accepted before `/app` and `/apps`; empty, or `/…` without a slash at its end.
    pub path_prefix: String,
    /// Silence after which a client is to ping, as it is told when it connects; and the server too.
    pub activity_timeout_s: u32,
    /// How long a ping may stay unanswered. Beyond: close 4201.
    pub pong_timeout_s: u32,
    /// How long a request head may take to arrive.
    pub head_timeout_s: u32,
    /// The time over which a stopping server spreads its closes (4200).
    pub drain_s: u32,
    /// Connections at once on this node, of all apps; 0 = unlimited. Beyond: close 4100.
    pub connections_max: u32,
    /// Bytes that a slow reader may owe us. Beyond: it is closed.
    pub outbox_bytes_max: usize,
    /// Bytes of one API request's body. Beyond: 413.
    pub publish_body_bytes_max: usize,
    /// Whether permessage-deflate is offered.
    pub deflate: bool,
    /// Smaller publications are sent as they are.
    pub deflate_min_bytes: usize,
    /// How often a subscriber over plain HTTP hears from us when there is nothing to say.
    pub heartbeat_s: u32,
    /// How long a long-poll waits that does not say so itself.
    pub longpoll_s: u32,
    /// Where histories wait while the server restarts; `None`: nowhere.
    pub data_dir: Option<PathBuf>,
    /// The certificate with which `listen` speaks TLS; `None`: it does not.
    pub tls: Option<TlsFiles>,
    /// The listener that speaks as nginx's push-stream module does.
    pub push_stream: Option<PushStreamSettings>,
    /// The Redis servers that nodes share; `None`: this node is alone.
    pub redis: Option<RedisSettings>,
    /// What the pipelines of all apps share.
    pub ingest: IngestSettings,
    /// The tenants.
    pub apps: Vec<AppSettings>,
    /// No apps were configured, so `apps` is the development app.
    pub dev: bool,
}

impl Default for Config {
    fn default() -> Config {
        let data_dir = default_data_dir(6001);
        Config {
            role: Role::All,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6001)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9601)),
            loops: 0,
            log: "info".to_owned(),
            path_prefix: String::new(),
            activity_timeout_s: 120,
            pong_timeout_s: 30,
            head_timeout_s: 10,
            drain_s: 10,
            connections_max: 0,
            outbox_bytes_max: 1 << 20,
            publish_body_bytes_max: 1 << 20,
            deflate: true,
            deflate_min_bytes: 256,
            heartbeat_s: 20,
            longpoll_s: 25,
            data_dir: Some(data_dir.clone()),
            tls: None,
            push_stream: None,
            redis: None,
            ingest: IngestSettings::default(),
            apps: vec![AppSettings::development(true)],
            dev: true,
        }
    }
}

/// Servers on one machine must not share a directory, and differ in their ports.
fn default_data_dir(port: u16) -> PathBuf {
    Path::new("fanfare-data").join(port.to_string())
}

/// A certificate and its key, as PEM files that were there when the configuration was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and a root.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// One app, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSettings {
    /// In the paths of the HTTP API. Never empty, no `/`.
    pub id: Arc<str>,
    /// For people; the id if none was given.
    pub name: Arc<str>,
    /// A disabled app refuses connections (4003) and requests (403).
    pub enabled: bool,
    /// At least one. The first signs what the server sends; all of them are accepted.
    pub keys: Vec<Key>,
    /// Whether clients may send `client-…` events to each other.
    pub client_events: bool,
    /// Whether subscribers hear how many they are.
    pub subscription_count: bool,
    /// A connection that has neither signed in nor joined an authorised channel by then is closed (4009); 0 = never.
    pub authorize_within_s: u32,
    /// Pages that may connect; empty = all.
    pub allowed_origins: Vec<OriginRule>,
    /// Channels, by name or by beginning and `*`, whose slow subscribers keep the newest publications instead of being
    /// closed.
    pub keep_newest: Vec<ChannelPattern>,
    /// What is kept of which channels: the first rule that fits decides, and [`Retention::default`] where none does.
    pub history: Vec<HistoryRule>,
    /// Where its servers put jobs.
    pub queues: Vec<QueueSettings>,
    /// Who may read everything that it publishes; `None`: nobody, and it is not kept.
    pub firehose: Option<FirehoseSettings>,
    /// What is done with them, where nobody comes to claim them.
    pub pipelines: Vec<PipelineSettings>,
    /// How long a publication with the idempotency key of an earlier one is taken for the same.
    pub idempotency_s: u32,
    /// Which of its visitors are to have a feed.
    pub rollout: Rollout,
    /// What it may use.
    pub limits: Limits,
}

impl AppSettings {
    /// An enabled app with one pair and every other setting at its default.
    fn new(id: &str, key: Key) -> AppSettings {
        AppSettings {
            id: id.into(),
            name: id.into(),
            enabled: true,
            keys: vec![key],
            client_events: false,
            subscription_count: false,
            authorize_within_s: 0,
            allowed_origins: Vec::new(),
            keep_newest: Vec::new(),
            history: Vec::new(),
            queues: Vec::new(),
            firehose: None,
            pipelines: Vec::new(),
            idempotency_s: 120,
            rollout: Rollout::default(),
            limits: Limits::default(),
        }
    }

    /// What runs when nothing was configured.
    /// `on_disk`: whether its jobs are to outlive a crash.
    fn development(on_disk: bool) -> AppSettings {
        let key = Key::new(DEVELOPMENT_KEY, DEVELOPMENT_SECRET);
        let app = AppSettings {
            name: "development".into(),
            client_events: true,
            history: DEMO_CHANNELS.map(HistoryRule::of_the_demo).into(),
            queues: vec![QueueSettings::new(COMMENTS, on_disk)],
            ..AppSettings::new(DEVELOPMENT_ID, key)
        };
        app.with(vec![PipelineSettings::of_comments()])
    }

    /// The same with these pipelines, which work on its queues.
    fn with(mut self, pipelines: Vec<PipelineSettings>) -> AppSettings {
        for queue in &mut self.queues {
            queue.piped = pipelines.iter().any(|pipeline| pipeline.queue == queue.name);
        }
        AppSettings { pipelines, ..self }
    }

    /// Whether it answers to the credentials that everybody knows.
    pub fn is_development(&self) -> bool {
        self.keys.iter().any(Key::is_development)
    }
}

/// One `[[apps.history]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRule {
    /// Which channels.
    pub channels: ChannelPattern,
    /// What is kept of each; `None`: nothing.
    pub retention: Option<Retention>,
}

impl HistoryRule {
    /// A thread of comments that is still there after a while.
    fn of_the_demo(channel: &str) -> HistoryRule {
        HistoryRule {
            channels: ChannelPattern::parse(channel, channel.len()).expect("a channel's name"),
            retention: Some(Retention { messages: 500, ttl: Duration::from_secs(3600), ..Retention::default() }),
        }
    }
}

/// How much of a channel's past is kept: as much as all three bounds allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Publications.
    pub messages: usize,
    /// Bytes of their data.
    pub bytes: usize,
    /// Age.
    pub ttl: Duration,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { messages: 100, bytes: 256 << 10, ttl: Duration::from_secs(60) }
    }
}

/// A key, which is public, with the secret that signs for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// In URLs and signatures.
    pub key: Arc<str>,
    /// Shared with the app's own servers only.
    pub secret: Secret,
}

impl Key {
    fn new(key: &str, secret: &str) -> Key {
        Key { key: key.into(), secret: Secret(secret.into()) }
    }

    fn is_development(&self) -> bool {
        &*self.key == DEVELOPMENT_KEY && self.secret.as_bytes() == DEVELOPMENT_SECRET.as_bytes()
    }
}

/// A secret. It cannot be printed, only used.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// A secret from elsewhere than the configuration, such as a flag.
    pub fn new(secret: &str) -> Secret {
        Secret(secret.into())
    }

    /// Whether somebody knows it, in a time that does not tell how much of it.
    pub fn is(&self, given: &[u8]) -> bool {
        digest_matches(b"", self.as_bytes(), &hmac_digest(b"", given))
    }

    /// The key of a signature.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the command line says: the topmost layer.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--admin-listen`.
    pub admin_listen: Option<String>,
    /// `--loops`.
    pub loops: Option<u32>,
    /// `--data-dir`.
    pub data_dir: Option<String>,
    /// `--role`.
    pub role: Option<String>,
}

impl Flags {
    fn written(&self) -> Written {
        fn at<T: Clone>(value: &Option<T>, flag: &'static str) -> Option<At<T>> {
            let place = Place::Flag(flag);
            value.clone().map(|value| At { value, place })
        }
        Written {
            listen: at(&self.listen, "--listen"),
            admin_listen: at(&self.admin_listen, "--admin-listen"),
            loops: at(&self.loops, "--loops"),
            data_dir: at(&self.data_dir, "--data-dir"),
            role: at(&self.role, "--role"),
            ..Written::default()
        }
    }
}

/// Where a configuration comes from, so that it can be read again.
#[derive(Debug, Clone)]
pub struct Source {
    /// Settled once: a file that vanishes later is an error, and not a reason to fall back to the development app.
    file: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    flags: Flags,
}

impl Source {
    /// The named file, or `./fanfare.toml` if there is one; then this process' environment; then the flags.
    pub fn new(file: Option<PathBuf>, flags: Flags) -> Source {
        let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists());
        let variable = |(name, text): (OsString, OsString)| Some((name.into_string().ok()?, text.into_string().ok()?));
        Source { file: file.or_else(default), environment: std::env::vars_os().filter_map(variable).collect(), flags }
    }

    /// The file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads and checks everything.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let file = self.file.as_deref().unwrap_or(Path::new(""));
        self.checked(file, &self.text()?)
    }

    fn checked(&self, file: &Path, text: &str) -> Result<Config, ConfigError> {
        let written: Written = toml::from_str(text).map_err(|error| ConfigError::from_toml(&error, file, text))?;
        self.layered(written, file).map_err(|wrong| ConfigError::from_wrong(wrong, file, text))
    }

    fn text(&self) -> Result<String, ConfigError> {
        let Some(file) = &self.file else {
            return Ok(String::new());
        };
        std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.clone(), source })
    }

    fn layered(&self, written: Written, file: &Path) -> Result<Config, Wrong> {
        let environment = environment::written(&self.environment, written.apps.is_some())?;
        let folder = file.parent().unwrap_or(Path::new(""));
        check::config(self.flags.written().over(environment.over(written)), folder)
    }
}

/// A configuration from the text of a file alone, for the tests of other modules.
#[cfg(test)]
pub fn test_config(text: &str) -> Config {
    let source = Source { file: None, environment: BTreeMap::new(), flags: Flags::default() };
    source.checked(Path::new("fanfare.toml"), text).expect("the test's configuration is sound")
}

/// The Redis servers that `FANFARE_REDIS` would name by this text, for the tests of other modules.
#[cfg(test)]
pub fn test_redis(text: &str) -> RedisSettings {
    redis::checked(redis::from_variable(text)).expect("the test's servers are sound")
}

#[cfg(test)]
mod tests;
