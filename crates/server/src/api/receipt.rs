//! Where a publication went, as answers tell it.

use fanfare_hub::{ChannelKey, Mark, Published};
use serde::Serialize;

use super::info::Attributes;

/// A place in a channel's stream.
#[derive(Debug, Serialize)]
pub struct Position {
    epoch: String,
    offset: u64,
    cursor: String,
}

impl Position {
    /// This place of the channel.
    pub fn of(key: &ChannelKey, mark: &Mark) -> Self {
        Position {
            epoch: format!("{:x}", mark.position.epoch),
            offset: mark.position.offset,
            cursor: mark.cursor(key).to_string(),
        }
    }
}

/// What became of a publication. A repeat may be of one whose position is no longer known.
#[derive(Debug, Serialize)]
pub struct Receipt {
    #[serde(flatten)]
    position: Option<Position>,
    repeated: bool,
}

impl Receipt {
    /// What the broker said of a publication on this channel.
    pub fn of(key: &ChannelKey, published: &Published) -> Self {
        let position = published.mark.map(|mark| Position::of(key, &mark));
        Receipt { position, repeated: published.repeated }
    }
}

/// All that may be told of one channel of an event.
#[derive(Debug, Serialize)]
pub struct Told {
    /// Asked for by `info`.
    #[serde(flatten)]
    pub attributes: Attributes,
    /// Told where the publisher numbers its posts, or always has it told.
    #[serde(flatten)]
    pub receipt: Option<Receipt>,
}
