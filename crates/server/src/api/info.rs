//! The `info` parameter: which attributes of a channel an answer tells.

use fanfare_hub::Counts;
use serde::Serialize;

/// The attributes that were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Info {
    /// Distinct users, of presence channels.
    pub user_count: bool,
    /// Sockets subscribed.
    pub subscription_count: bool,
    /// The newest event, of cache channels.
    pub cache: bool,
    /// The end of the channel's stream.
    pub position: bool,
}

/// Why `info` cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadInfo {
    /// There is no such attribute.
    #[error(
        "info: unknown attribute {0:?}, expected user_count, subscription_count or (of one channel) cache, position"
    )]
    Unknown(String),
    /// Only the question about a single channel tells what is stored of it.
    #[error("info: {0} can be asked of a single channel only")]
    StoredOfMany(&'static str),
    /// Only presence channels know their users.
    #[error("user_count is known of presence channels only: filter_by_prefix must begin with presence-")]
    UserCountOfAll,
    /// Only presence channels know their users.
    #[error("{channel} is no presence channel, so its users are not known")]
    NoPresence {
        /// The channel that was asked about.
        channel: String,
    },
}

impl Info {
    /// Reads `a,b`.
    pub fn parse(text: &str) -> Result<Self, BadInfo> {
        let mut info = Info::default();
        for attribute in text.split(',').map(str::trim).filter(|attribute| !attribute.is_empty()) {
            match attribute {
                "user_count" => info.user_count = true,
                "subscription_count" => info.subscription_count = true,
                "cache" => info.cache = true,
                "position" => info.position = true,
                other => return Err(BadInfo::Unknown(other.to_owned())),
            }
        }
        Ok(info)
    }

    /// Reads what can be told of many channels at once.
    pub fn parse_counts(text: &str) -> Result<Self, BadInfo> {
        let info = Info::parse(text)?;
        match info {
            Info { cache: true, .. } => Err(BadInfo::StoredOfMany("cache")),
            Info { position: true, .. } => Err(BadInfo::StoredOfMany("position")),
            counts => Ok(counts),
        }
    }

    /// Whether nothing was asked for.
    pub fn is_empty(self) -> bool {
        self == Info::default()
    }

    /// What was asked for. The users of a channel without presence are not known, hence not told.
    pub fn attributes(self, counts: Counts, presence: bool) -> Attributes {
        Attributes {
            user_count: (self.user_count && presence).then_some(counts.users),
            subscription_count: self.subscription_count.then_some(counts.subscribers),
        }
    }
}

/// A channel's counts in an answer.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Attributes {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_count: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_separated_by_commas() {
        let both = Info { user_count: true, subscription_count: true, ..Info::default() };
        assert_eq!(Info::parse("user_count,subscription_count"), Ok(both));
        assert_eq!(Info::parse("subscription_count, user_count,"), Ok(both));
        assert_eq!(Info::parse(""), Ok(Info::default()));
        assert_eq!(Info::parse("users"), Err(BadInfo::Unknown("users".into())));
        assert_eq!(Info::parse_counts("cache"), Err(BadInfo::StoredOfMany("cache")));
        assert_eq!(Info::parse_counts("position"), Err(BadInfo::StoredOfMany("position")));
    }

    #[test]
    fn users_are_told_of_presence_channels_only() {
        let info = Info { user_count: true, subscription_count: true, ..Info::default() };
        let told = |presence| serde_json::to_string(&info.attributes(Counts { subscribers: 3, users: 2 }, presence));
        assert_eq!(told(true).expect("numbers"), r#"{"user_count":2,"subscription_count":3}"#);
        assert_eq!(told(false).expect("numbers"), r#"{"subscription_count":3}"#);
    }
}
