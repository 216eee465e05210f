//! The place in a channel from which a client resumes, as text that every transport can carry.
//!
//! Opaque to clients. It is a function of the publication alone, so that one encoding serves all subscribers, and it
//! keeps to `A–Z a–z 0–9 - _ .`, because any other character in `Last-Event-ID` costs browsers a CORS preflight.
//!
//! Always true: every cursor has exactly one text, and no other text reads as it.

use std::fmt;
use std::str::FromStr;

/// Bytes in a cursor's text, for every form that there will ever be.
pub const CURSOR_LEN_MAX: usize = 128;

/// Hexadecimal digits of a `u64`.
const FIELD_LEN_MAX: usize = 16;

/// A position in a channel, and the stamp that places it among other channels of its ordering unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which channel.
    pub channel_hash: u64,
    /// Which life of the channel's history; a new one whenever history could have been lost.
    pub epoch: u64,
    /// Which publication: +1 for each.
    pub offset: u64,
    /// Rises strictly within one ordering unit.
    pub stamp: u64,
}

/// The text is no cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: send back the one last received, unchanged")]
pub struct BadCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}.{:x}", self.channel_hash, self.epoch, self.offset, self.stamp)
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let mut fields = text.split('.').map(field);
        let mut next = || fields.next().unwrap_or(Err(BadCursor));
        let cursor = Self { channel_hash: next()?, epoch: next()?, offset: next()?, stamp: next()? };
        match fields.next() {
            None => Ok(cursor),
            Some(_) => Err(BadCursor),
        }
    }
}

/// A number as `{:x}` writes it, and in no other way.
fn field(text: &str) -> Result<u64, BadCursor> {
    let padded = text.len() > 1 && text.starts_with('0');
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if padded || !digits || text.len() > FIELD_LEN_MAX {
        return Err(BadCursor);
    }
    u64::from_str_radix(text, 16).map_err(|_| BadCursor)
}
