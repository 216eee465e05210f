//! What is kept for each connection.
//!
//! An idle subscriber costs the fixed part only; what few connections need stands in a box that most never get.

use std::io::IoSlice;
use std::sync::Arc;

use fanfare_hub::ChannelKey;
use fanfare_hub::shard::{Sent, Wire};
use fanfare_proto::ws::Assembler;
use serde_json::value::RawValue;

use super::stream::Stream;
use crate::apps::Usage;
use crate::limits::Bucket;

/// A WebSocket connection.
#[derive(Debug)]
pub struct Conn {
    pub stream: Stream,
    /// Where its place is counted; `None` on the echo route.
    pub usage: Option<Arc<Usage>>,
    pub assembler: Assembler,
    pub more: Option<Box<More>>,
    /// When it last said anything, in seconds since the loop began.
    pub heard_s: u32,
    /// By when it must have authorised itself; 0 = it need not, or has.
    pub authorize_by_s: u32,
    pub deflate: bool,
    /// It was pinged and has not been heard since.
    pub pinged: bool,
    /// It was stopped in the middle of its input, and goes on in a later turn.
    pub paused: bool,
}

/// What few connections need.
#[derive(Debug, Default)]
pub struct More {
    /// Input that could not be consumed yet.
    pub unread: Vec<u8>,
    /// Client events sent.
    pub events: Bucket,
    /// Who signed in.
    pub user: Option<User>,
    /// Presence channels, and this connection's user on each, as a JSON string token.
    pub members: Vec<(Box<str>, Box<str>)>,
}

/// A user that a connection signed in as.
#[derive(Debug)]
pub struct User {
    pub id: String,
    /// The user's own channel, by which the control plane knows it; its app may be gone when the connection closes.
    pub channel: ChannelKey,
    pub user_info: Option<Box<RawValue>>,
    /// Subscriptions that signing in made: the user's own channel, and one for each user it watches.
    pub subscriptions: usize,
}

impl Conn {
    /// The rarely needed part, made when it is.
    pub fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// Who signed in, if somebody has.
    pub fn user(&self) -> Option<&User> {
        self.more.as_ref()?.user.as_ref()
    }

    /// Takes the input that was kept back.
    pub fn take_unread(&mut self) -> Vec<u8> {
        self.more.as_mut().map(|more| std::mem::take(&mut more.unread)).unwrap_or_default()
    }
}

impl Wire for Conn {
    fn write(&mut self, parts: &[IoSlice<'_>]) -> Sent {
        self.stream.write(parts)
    }
}
