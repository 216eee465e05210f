//! What a token says of its bearer.

use super::{BadToken, LEEWAY_S};
use fanfare_proto::channel::{BadName, ChannelPattern};
use fanfare_proto::json;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// Longer ones are nobody's: an app's own limit is lower.
const PATTERN_LEN_MAX: usize = 1000;

/// The claims of a token that was good when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// When it expires, in seconds since 1970.
    pub exp_s: u64,
    /// The user: on presence channels, the member's id.
    pub sub: Option<Arc<str>>,
    /// What presence channels tell of the user: any JSON.
    pub info: Option<Arc<str>>,
    pub(super) jti: Option<Arc<str>>,
    /// When it was made; 0: it does not say.
    pub(super) iat_s: u64,
    /// When it begins to be good.
    pub(super) nbf_s: u64,
    channels: Vec<ChannelPattern>,
    publish: Vec<ChannelPattern>,
}

/// As it is written; what else there may be is the application's own.
#[derive(Deserialize)]
struct Written {
    channels: Option<Vec<String>>,
    publish: Option<Vec<String>>,
    /// A NumericDate may have a fraction.
    exp: f64,
    #[serde(default)]
    nbf: f64,
    #[serde(default)]
    iat: f64,
    sub: Option<String>,
    jti: Option<String>,
    info: Option<Box<RawValue>>,
}

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Result<Claims, BadToken> {
        let text = std::str::from_utf8(payload).map_err(|_| BadToken::Claims)?;
        let written: Written = json::object(text).map_err(|_| BadToken::Claims)?;
        if written.channels.is_none() && written.publish.is_none() {
            return Err(BadToken::Claims);
        }
        Ok(Claims {
            // A float becomes the nearest whole number that there is, and a negative one 0.
            exp_s: written.exp as u64,
            iat_s: written.iat as u64,
            nbf_s: written.nbf as u64,
            sub: written.sub.map(Arc::from),
            jti: written.jti.map(Arc::from),
            info: written.info.map(|info| Box::<str>::from(info).into()),
            channels: patterns(written.channels)?,
            publish: patterns(written.publish)?,
        })
    }

    /// When it lets nobody in any more, and whoever it has let in is to go.
    pub fn until_s(&self) -> u64 {
        self.exp_s.saturating_add(LEEWAY_S)
    }

    /// Whether its bearer may subscribe to the channel.
    pub fn may_read(&self, channel: &str) -> bool {
        any(&self.channels, channel)
    }

    /// Whether its bearer may publish to the channel.
    pub fn may_publish(&self, channel: &str) -> bool {
        any(&self.publish, channel)
    }
}

fn patterns(written: Option<Vec<String>>) -> Result<Vec<ChannelPattern>, BadName> {
    written.unwrap_or_default().iter().map(|text| ChannelPattern::parse(text, PATTERN_LEN_MAX)).collect()
}

/// Users' own channels must be named as such: `*` is meant to say "everything that there is to see".
fn any(patterns: &[ChannelPattern], channel: &str) -> bool {
    let own = channel.starts_with('#');
    patterns.iter().any(|pattern| pattern.as_str().starts_with('#') == own && pattern.matches(channel))
}
