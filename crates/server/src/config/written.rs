//! The configuration as people write it: every key optional, every value with the place it came from.
//!
//! The file, the environment and the flags each become a [`Written`], and the higher one is laid over the lower.
//! Nothing here knows defaults or judges values (`check`), and nothing here reads a file (`config`).

use serde::de::{self, Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the file, at this byte.
    Byte(usize),
    /// In this environment variable.
    Variable(String),
    /// In this command-line flag.
    Flag(&'static str),
}

/// A value and where it was written, so that a complaint about it can point there.
#[derive(Debug, Clone)]
pub struct At<T> {
    pub value: T,
    pub place: Place,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(from)?;
        let place = Place::Byte(spanned.span().start);
        Ok(At { value: spanned.into_inner(), place })
    }
}

/// An app's id: a string, or the bare number that Pusher's own ids are.
#[derive(Debug, Clone)]
pub struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string or a whole number")
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<Id, E> {
                Ok(Id(id.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id.to_string()))
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// How much of a rollout is dark: all of it, nothing, or a percentage.
#[derive(Debug, Clone, Copy)]
pub enum Dark {
    All(bool),
    Percent(f64),
}

impl<'de> Deserialize<'de> for Dark {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Dark;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("true, false or a number from 0 to 100")
            }
            fn visit_bool<E: de::Error>(self, all: bool) -> Result<Dark, E> {
                Ok(Dark::All(all))
            }
            fn visit_i64<E: de::Error>(self, percent: i64) -> Result<Dark, E> {
                Ok(Dark::Percent(percent as f64))
            }
            fn visit_f64<E: de::Error>(self, percent: f64) -> Result<Dark, E> {
                Ok(Dark::Percent(percent))
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// One table of the file. A macro, so that the struct and the list of its keys cannot drift apart.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Clone, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(pub $key: Option<At<$kind>>,)*
        }

        impl $name {
            /// The keys this table may hold.
            pub const KEYS: &[&str] = &[$(stringify!($key)),*];
        }
    };
}

/// The top-level scalars, each also an environment variable, and then the whole file around them.
macro_rules! scalars {
    ($($key:ident: $kind:ty = $variable:literal,)*) => {
        table! {
            /// A whole layer: a file, the environment, or the flags.
            Written {
                $($key: $kind,)*
                tls: WrittenTls,
                stages: BTreeMap<String, At<Vec<At<WrittenPart>>>>,
                ingest: WrittenIngest,
                push_stream: WrittenPushStream,
                redis: WrittenRedis,
                apps: Vec<At<WrittenApp>>,
            }
        }

        impl Written {
            /// The environment variables that set a top-level key.
            pub const VARIABLES: &[&str] = &[$($variable),*];

            /// This layer where it says something, else the layer below.
            pub fn over(self, below: Written) -> Written {
                Written {
                    $($key: self.$key.or(below.$key),)*
                    tls: self.tls.or(below.tls),
                    stages: self.stages.or(below.stages),
                    ingest: self.ingest.or(below.ingest),
                    push_stream: self.push_stream.or(below.push_stream),
                    redis: self.redis.or(below.redis),
                    apps: self.apps.or(below.apps),
                }
            }

            /// Takes one variable's text. `Ok(false)`: none of ours has this name.
            pub fn set_variable(&mut self, variable: &str, text: &str) -> Result<bool, Wrong> {
                match variable {
                    $($variable => self.$key = Some(from_text($variable, text)?),)*
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
}

scalars! {
    listen: String = "FANFARE_LISTEN",
    admin_listen: String = "FANFARE_ADMIN_LISTEN",
    loops: u32 = "FANFARE_LOOPS",
    log: String = "FANFARE_LOG",
    path_prefix: String = "FANFARE_PATH_PREFIX",
    activity_timeout_s: u32 = "FANFARE_ACTIVITY_TIMEOUT_S",
    pong_timeout_s: u32 = "FANFARE_PONG_TIMEOUT_S",
    head_timeout_s: u32 = "FANFARE_HEAD_TIMEOUT_S",
    drain_s: u32 = "FANFARE_DRAIN_S",
    connections_max: u32 = "FANFARE_CONNECTIONS_MAX",
    outbox_bytes_max: u32 = "FANFARE_OUTBOX_BYTES_MAX",
    publish_body_bytes_max: u32 = "FANFARE_PUBLISH_BODY_BYTES_MAX",
    deflate: bool = "FANFARE_DEFLATE",
    deflate_min_bytes: u32 = "FANFARE_DEFLATE_MIN_BYTES",
    heartbeat_s: u32 = "FANFARE_HEARTBEAT_S",
    longpoll_s: u32 = "FANFARE_LONGPOLL_S",
    data_dir: String = "FANFARE_DATA_DIR",
    role: String = "FANFARE_ROLE",
}

table! {
    /// `[tls]`.
    WrittenTls {
        cert: String,
        key: String,
    }
}

table! {
    /// `[push_stream]`.
    WrittenPushStream {
        app: Id,
        listen: String,
        publish_from: Vec<At<String>>,
        store_messages: bool,
        message_ttl_s: u32,
        max_messages_stored_per_channel: u32,
        max_subscribers_per_channel: u32,
        max_channel_id_length: u32,
        authorized_channels_only: bool,
        events_channel_id: String,
        allow_connections_to_events_channel: bool,
        subscriber_connection_ttl_s: u32,
        longpolling_connection_ttl_s: u32,
        timeout_with_body: bool,
        ping_message_interval_s: u32,
        ping_message_text: String,
        channel_deleted_message_text: String,
        channel_info_on_publish: bool,
        websocket_allow_publish: bool,
        allowed_origins: String,
        streaming: WrittenTemplates,
        polling: WrittenTemplates,
        long_polling: WrittenTemplates,
        eventsource: WrittenTemplates,
        websocket: WrittenTemplates,
    }
}

table! {
    /// The templates of one mode of `[push_stream]`.
    WrittenTemplates {
        header_template: String,
        message_template: String,
        footer_template: String,
        content_type: String,
    }
}

table! {
    /// `[redis]`.
    WrittenRedis {
        servers: Vec<At<String>>,
        sentinels: Vec<At<String>>,
        masters: Vec<At<String>>,
        cluster: Vec<At<String>>,
        username: String,
        password: String,
        prefix: String,
        ca: String,
        partitioned: bool,
    }
}

table! {
    /// One `[[apps]]`.
    WrittenApp {
        id: Id,
        name: String,
        enabled: bool,
        keys: Vec<At<WrittenKey>>,
        client_events: bool,
        subscription_count: bool,
        authorize_within_s: u32,
        allowed_origins: Vec<At<String>>,
        keep_newest: Vec<At<String>>,
        idempotency_s: u32,
        history: Vec<At<WrittenHistory>>,
        rollout: WrittenRollout,
        queues: Vec<At<WrittenQueue>>,
        firehose: WrittenFirehose,
        pipelines: Vec<At<WrittenPipeline>>,
        limits: WrittenLimits,
    }
}

table! {
    /// One `[[apps.history]]`.
    WrittenHistory {
        channels: String,
        enabled: bool,
        messages: u32,
        bytes: u32,
        seconds: u32,
    }
}

table! {
    /// One `[apps.rollout]`.
    WrittenRollout {
        kill: bool,
        percent: f64,
        dark: Dark,
        by: String,
        seed: String,
        allow: Vec<At<String>>,
        deny: Vec<At<String>>,
        check_again_s: u32,
    }
}

table! {
    /// One `[[apps.queues]]`.
    WrittenQueue {
        name: String,
        durability: String,
        jobs_max: u32,
        bytes_max: u32,
        finished_kept_s: u32,
        finished_kept_max: u32,
        attempts_max: u32,
        lease_s: u32,
        concurrency: u32,
    }
}

table! {
    /// One `[[apps.pipelines]]`.
    WrittenPipeline {
        name: String,
        queue: String,
        shadow: bool,
        stages: Vec<At<WrittenPart>>,
        sinks: Vec<At<WrittenPart>>,
    }
}

/// A stage or a sink of a pipeline: its keys are judged by its kind, which is found when the pipeline is compiled.
pub type WrittenPart = BTreeMap<String, At<serde_json::Value>>;

table! {
    /// `[ingest]`.
    WrittenIngest {
        faults: bool,
        file_dir: String,
        stuck_after_s: u32,
        keys: BTreeMap<String, At<String>>,
    }
}

table! {
    /// One `[apps.firehose]`.
    WrittenFirehose {
        durability: String,
        window_s: u32,
        window_bytes: u32,
        ack_timeout_s: u32,
        tokens: Vec<At<WrittenFirehoseToken>>,
    }
}

table! {
    /// One of a firehose's `tokens`.
    WrittenFirehoseToken {
        name: String,
        token: String,
        channels: Vec<At<String>>,
        events: Vec<At<String>>,
        filter: String,
        messages_per_s: u32,
        connections_max: u32,
    }
}

table! {
    /// One pair of an app's `keys`.
    WrittenKey {
        key: String,
        secret: String,
    }
}

table! {
    /// One `[apps.limits]`.
    WrittenLimits {
        connections_max: u32,
        channels_per_connection_max: u32,
        channel_name_len_max: u32,
        event_name_len_max: u32,
        payload_bytes_max: u32,
        presence_members_max: u32,
        presence_member_bytes_max: u32,
        batch_max: u32,
        publish_channels_max: u32,
        publishes_per_s: u32,
        client_events_per_s: u32,
        watchlist_max: u32,
        cache_ttl_s: u32,
        history_bytes_max: u32,
    }
}

/// A complaint about something written, and where that stands.
#[derive(Debug)]
pub struct Wrong {
    pub place: Place,
    pub message: String,
}

impl Wrong {
    /// A complaint about what stands at `place`.
    pub fn at(place: Place, message: impl Into<String>) -> Wrong {
        Wrong { place, message: message.into() }
    }
}

/// Reads a variable's text as the kind its key has in the file.
fn from_text<T: FromStr + Kind>(variable: &str, text: &str) -> Result<At<T>, Wrong> {
    let place = Place::Variable(variable.to_owned());
    match text.parse() {
        Ok(value) => Ok(At { value, place }),
        Err(_) => Err(Wrong::at(place, format!("expected {}, found {text:?}", T::WORDS))),
    }
}

/// What people call the type of a key.
trait Kind {
    const WORDS: &str;
}

impl Kind for String {
    const WORDS: &str = "a string";
}
impl Kind for bool {
    const WORDS: &str = "true or false";
}
impl Kind for u32 {
    const WORDS: &str = WHOLE_NUMBER;
}

/// What every number in the file is: all of them are held as `u32`.
pub const WHOLE_NUMBER: &str = "a whole number from 0 to 4294967295";
