//! Questions about channels: which are occupied, by how many, by whom, and what was last said.

use fanfare_hub::{Cached, Counts, Hub, Since};
use fanfare_proto::sign::SignedQuery;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::Answer;
use super::error::Refused;
use super::events::Target;
use super::info::{Attributes, BadInfo, Info};
use super::receipt::Position;
use crate::apps::App;

/// `GET /channels`
pub async fn list(hub: &Hub, app: &App, query: &SignedQuery<'_>) -> Answer {
    let prefix = query.param("filter_by_prefix").unwrap_or_default();
    let info = Info::parse_counts(query.param("info").unwrap_or_default())?;
    let presence = prefix.starts_with("presence-");
    if info.user_count && !presence {
        return Err(BadInfo::UserCountOfAll.into());
    }
    let channels = hub.channels(&app.id, prefix).await?;
    let told = channels.iter().map(|(name, counts)| (name.as_str(), info.attributes(*counts, presence)));
    Ok(super::ok(&Channels::of(told)))
}

/// `GET /channels/{name}`
pub async fn one(hub: &Hub, app: &App, name: &str, query: &SignedQuery<'_>) -> Answer {
    #[derive(Serialize)]
    struct Channel {
        occupied: bool,
        #[serde(flatten)]
        attributes: Attributes,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache: Option<Option<Newest>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        position: Option<Position>,
    }
    let target = Target::parse(app, name)?;
    let info = Info::parse(query.param("info").unwrap_or_default())?;
    if info.user_count && !target.presence {
        return Err(no_presence(name));
    }
    let counts = hub.counts(&target.key).await?;
    let cache = if info.cache { Some(hub.cached(&target.key).await?.map(Newest::from)) } else { None };
    let position = match info.position {
        true => Some(Position::of(&target.key, &hub.history(&target.key, &Since::Now, 0).await?.now)),
        false => None,
    };
    let attributes = info.attributes(counts, target.presence);
    Ok(super::ok(&Channel { occupied: is_occupied(counts), attributes, cache, position }))
}

/// `GET /channels/{name}/users`
pub async fn members(hub: &Hub, app: &App, name: &str) -> Answer {
    #[derive(Serialize)]
    struct Users {
        users: Vec<User>,
    }
    #[derive(Serialize)]
    struct User {
        id: String,
    }
    let target = Target::parse(app, name)?;
    if !target.presence {
        return Err(no_presence(name));
    }
    let members = hub.members(&target.key).await?;
    let users = members.into_iter().map(|member| User { id: member.user_id }).collect();
    Ok(super::ok(&Users { users }))
}

/// `GET /channels/{name}/stats`, deprecated.
pub async fn stats(hub: &Hub, app: &App, name: &str) -> Answer {
    #[derive(Serialize)]
    struct Stats {
        occupied: bool,
        user_count: u64,
        connection_count: u64,
    }
    let counts = hub.counts(&Target::parse(app, name)?.key).await?;
    Ok(super::ok(&Stats {
        occupied: is_occupied(counts),
        user_count: counts.users,
        connection_count: counts.subscribers,
    }))
}

fn is_occupied(counts: Counts) -> bool {
    counts.subscribers > 0
}

fn no_presence(channel: &str) -> Refused {
    BadInfo::NoPresence { channel: channel.to_owned() }.into()
}

/// `{"channels":{name:{…}}}`: an object even when it is empty, as PHP takes it for one.
#[derive(Serialize)]
#[serde(bound = "T: Serialize")]
pub struct Channels<'a, T> {
    #[serde(serialize_with = "as_map")]
    channels: Vec<(&'a str, T)>,
}

impl<'a, T> Channels<'a, T> {
    /// These channels, each once.
    pub fn of(channels: impl IntoIterator<Item = (&'a str, T)>) -> Self {
        Channels { channels: channels.into_iter().collect() }
    }
}

fn as_map<T: Serialize, S: Serializer>(pairs: &[(&str, T)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, told)| (name, told)))
}

/// The newest event of a cache channel.
#[derive(Serialize)]
struct Newest {
    data: Box<RawValue>,
    ttl: u64,
}

impl From<Cached> for Newest {
    fn from(cached: Cached) -> Self {
        let data = RawValue::from_string(cached.publication.data.to_string());
        Newest {
            data: data.expect("a publication's data is a JSON token"),
            // Rounded up: an event that is served for another instant has not expired.
            ttl: cached.ttl.as_millis().div_ceil(1000) as u64,
        }
    }
}
