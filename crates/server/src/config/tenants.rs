//! From written to checked: the apps, their keys and their limits.

use super::check::{any, number};
use super::written::{At, Id, Place, WrittenApp, WrittenHistory, WrittenKey, WrittenLimits, WrittenRollout, Wrong};
use super::{AppSettings, Config, HistoryRule, Key, OriginRule, Retention, firehose, pipelines, queues, rollout};
use crate::limits::Limits;
use fanfare_proto::channel::{self, ChannelPattern};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

const DAY_S: u32 = 24 * 60 * 60;
const YEAR_S: u32 = 365 * 24 * 60 * 60;
const HOUR_S: u32 = 60 * 60;
/// Longer names are nothing that a library accepts (200) or a person reads.
const CHANNEL_NAME_LEN_MAX: u32 = 1000;
/// Beyond it, what resumes would be given more than it could take in.
const MESSAGES_MAX: u32 = 1_000_000;
/// The parser of messages knows no longer one.
const EVENT_NAME_LEN_MAX: u32 = channel::EVENT_NAME_LEN_MAX as u32;

/// Checks every app, and that no two of them answer to the same id or key.
pub(super) fn apps(
    written: Vec<At<WrittenApp>>,
    config: &Config,
    lists: &pipelines::Lists,
) -> Result<Vec<AppSettings>, Wrong> {
    let mut taken = Taken::default();
    written.into_iter().map(|written| app(written, config, lists, &mut taken)).collect()
}

/// The names that apps before this one took.
#[derive(Default)]
struct Taken {
    ids: HashSet<Arc<str>>,
    keys: HashSet<Arc<str>>,
}

fn app(
    written: At<WrittenApp>,
    config: &Config,
    lists: &pipelines::Lists,
    taken: &mut Taken,
) -> Result<AppSettings, Wrong> {
    let At { value: app, place } = written;
    let id = id(app.id, place.clone(), taken)?;
    let disk = config.data_dir.is_some() || config.redis.is_some();
    let settings = AppSettings {
        name: app.name.map_or(id.clone(), |name| name.value.into()),
        enabled: any(app.enabled, true),
        keys: keys(app.keys, place, taken)?,
        client_events: any(app.client_events, false),
        subscription_count: any(app.subscription_count, false),
        authorize_within_s: number(app.authorize_within_s, 0..=HOUR_S, 0)?,
        allowed_origins: any(app.allowed_origins, Vec::new()).into_iter().map(origin).collect::<Result<_, _>>()?,
        keep_newest: any(app.keep_newest, Vec::new()).into_iter().map(channels).collect::<Result<_, _>>()?,
        history: any(app.history, Vec::new()).into_iter().map(history).collect::<Result<_, _>>()?,
        queues: queues::checked(any(app.queues, Vec::new()), disk)?,
        firehose: app.firehose.map(|written| firehose::checked(written, disk)).transpose()?,
        pipelines: Vec::new(),
        idempotency_s: number(app.idempotency_s, 0..=DAY_S, 120)?,
        rollout: rollout::checked(any(app.rollout, WrittenRollout::default()))?,
        limits: limits(any(app.limits, WrittenLimits::default()), config)?,
        id,
    };
    let pipelines = pipelines::checked(any(app.pipelines, Vec::new()), &settings, &config.ingest, lists)?;
    Ok(settings.with(pipelines))
}

fn id(written: Option<At<Id>>, app: Place, taken: &mut Taken) -> Result<Arc<str>, Wrong> {
    let Some(At { value: Id(id), place }) = written else {
        return Err(Wrong::at(app, "this app needs an `id`"));
    };
    // It stands in paths, and before the `/` of a channel's full name.
    if !plain(&id) {
        let message = format!("expected an id of letters, digits, `-`, `_`, `.` and `~`, found {id:?}");
        return Err(Wrong::at(place, message));
    }
    claim(&mut taken.ids, &id).ok_or_else(|| Wrong::at(place, format!("another app has the id \"{id}\" already")))
}

fn keys(written: Option<At<Vec<At<WrittenKey>>>>, app: Place, taken: &mut Taken) -> Result<Vec<Key>, Wrong> {
    let Some(At { value, place }) = written else {
        let message = "this app needs `keys`, such as keys = [{ key = \"…\", secret = \"…\" }]";
        return Err(Wrong::at(app, message));
    };
    if value.is_empty() {
        return Err(Wrong::at(place, "an app needs at least one key"));
    }
    value.into_iter().map(|pair| key(pair, taken)).collect()
}

fn key(written: At<WrittenKey>, taken: &mut Taken) -> Result<Key, Wrong> {
    let At { value: pair, place: pair_place } = written;
    let Some(At { value: key, place }) = pair.key else {
        return Err(Wrong::at(pair_place, "this pair needs a `key`"));
    };
    let Some(secret) = pair.secret else {
        return Err(Wrong::at(pair_place, format!("the key \"{key}\" needs a `secret`")));
    };
    // It stands in paths and before the `:` of a signature, and clients escape it in neither.
    if !plain(&key) {
        let message = format!("expected a key of letters, digits, `-`, `_`, `.` and `~`, found {key:?}");
        return Err(Wrong::at(place, message));
    }
    if secret.value.is_empty() {
        return Err(Wrong::at(secret.place, format!("the secret of \"{key}\" is empty")));
    }
    match claim(&mut taken.keys, &key) {
        Some(key) => Ok(Key::new(&key, &secret.value)),
        None => Err(Wrong::at(place, format!("the key \"{key}\" is used twice"))),
    }
}

/// A name that needs no escaping anywhere.
pub(super) fn plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c))
}

/// Adds a name, unless it is there.
fn claim(names: &mut HashSet<Arc<str>>, name: &str) -> Option<Arc<str>> {
    let name: Arc<str> = name.into();
    names.insert(name.clone()).then_some(name)
}

fn origin(entry: At<String>) -> Result<OriginRule, Wrong> {
    OriginRule::parse(&entry.value).map_err(|message| Wrong::at(entry.place, message))
}

pub(super) fn channels(entry: At<String>) -> Result<ChannelPattern, Wrong> {
    let pattern = ChannelPattern::parse(&entry.value, CHANNEL_NAME_LEN_MAX as usize);
    pattern.map_err(|error| Wrong::at(entry.place, error.to_string()))
}

fn history(At { value: rule, place }: At<WrittenHistory>) -> Result<HistoryRule, Wrong> {
    let Some(pattern) = rule.channels else {
        return Err(Wrong::at(place, "a history rule needs `channels`: a name, or a beginning and `*`"));
    };
    let default = Retention::default();
    let ttl_s = number(rule.seconds, 1..=YEAR_S, default.ttl.as_secs())?;
    let retention = Retention {
        messages: number(rule.messages, 1..=MESSAGES_MAX, default.messages)?,
        bytes: number(rule.bytes, 1..=u32::MAX, default.bytes)?,
        ttl: Duration::from_secs(ttl_s),
    };
    Ok(HistoryRule { channels: channels(pattern)?, retention: any(rule.enabled, true).then_some(retention) })
}

fn limits(written: WrittenLimits, config: &Config) -> Result<Limits, Wrong> {
    let default = Limits::default();
    let count = |written, default: usize| number(written, 1..=u32::MAX, default);
    // A larger payload could neither be taken in nor be handed on. Both bounds were read as `u32`.
    let bytes_max = config.outbox_bytes_max.min(config.publish_body_bytes_max) as u32;
    let bytes = |written, default: usize| number(written, 1..=bytes_max, default);
    let length = |written, max, default: usize| number(written, 1..=max, default);
    Ok(Limits {
        connections_max: any(written.connections_max, default.connections_max),
        channels_per_connection_max: any(written.channels_per_connection_max, default.channels_per_connection_max),
        channel_name_len_max: length(written.channel_name_len_max, CHANNEL_NAME_LEN_MAX, default.channel_name_len_max)?,
        event_name_len_max: length(written.event_name_len_max, EVENT_NAME_LEN_MAX, default.event_name_len_max)?,
        payload_bytes_max: bytes(written.payload_bytes_max, default.payload_bytes_max)?,
        presence_members_max: number(written.presence_members_max, 1..=u32::MAX, default.presence_members_max)?,
        presence_member_bytes_max: bytes(written.presence_member_bytes_max, default.presence_member_bytes_max)?,
        batch_max: count(written.batch_max, default.batch_max)?,
        publish_channels_max: count(written.publish_channels_max, default.publish_channels_max)?,
        publishes_per_s: any(written.publishes_per_s, default.publishes_per_s),
        client_events_per_s: any(written.client_events_per_s, default.client_events_per_s),
        watchlist_max: number(written.watchlist_max, 0..=u32::MAX, default.watchlist_max)?,
        cache_ttl_s: number(written.cache_ttl_s, 1..=YEAR_S, default.cache_ttl_s)?,
        history_bytes_max: number(written.history_bytes_max, 0..=u32::MAX, default.history_bytes_max)?,
    })
}
