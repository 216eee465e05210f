//! What is kept for each connection.
//!
//! An idle subscriber costs the fixed part only; what few connections need stands in a box that most never get.

use std::io::IoSlice;
use std::sync::Arc;

use fanfare_hub::ChannelKey;
use fanfare_hub::mail::Entrance;
use fanfare_hub::shard::{Sent, Wire};
use fanfare_proto::cursor::Cursor;
use fanfare_proto::ws::Assembler;
use serde_json::value::RawValue;

use super::forms::{Format, Framing, Part};
use super::listen::{Carrier, Page};
use super::stream::Stream;
use crate::apps::Usage;
use crate::limits::Bucket;
use crate::tokens::Claims;

/// Answers up to this long leave in one piece.
const ANSWER_BYTES: usize = 2048;

/// A connection of a loop.
#[derive(Debug)]
pub struct Conn {
    pub stream: Stream,
    /// Where its place is counted; `None` on the echo route.
    pub usage: Option<Arc<Usage>>,
    pub talk: Talk,
    pub assembler: Assembler,
    pub more: Option<Box<More>>,
    /// The token that let it in.
    pub claims: Option<Arc<Claims>>,
    /// When a WebSocket last said anything, or a stream was last sent a heartbeat, in seconds since the loop began.
    pub heard_s: u32,
    /// When something ends, in seconds since the loop began: the time to authorise itself, the token, the wait of a
    /// long-poll. 0 = nothing does.
    pub deadline_s: u32,
    pub deflate: bool,
    /// It was pinged and has not been heard since.
    pub pinged: bool,
    /// It was stopped in the middle of its input, and goes on in a later turn.
    pub paused: bool,
}

/// Which conversation a connection is in.
#[derive(Debug)]
pub enum Talk {
    /// Every message comes back (conformance tests).
    Echo,
    /// The Pusher protocol.
    Pusher {
        /// Whether it is told positions, and may resume.
        positions: bool,
    },
    /// The plain WebSocket of `/sub`.
    Socket,
    /// A response that goes on: Server-Sent Events or lines.
    Stream(Framing),
    /// Long-polls, one after the other.
    Polls(Box<Polls>),
}

/// A connection that polls.
#[derive(Debug)]
pub struct Polls {
    /// It waits for an answer; else for its next request.
    pub asks: bool,
    pub format: Format,
    pub page: Page,
    pub carrier: Carrier,
    /// Where it stands.
    pub cursor: Option<Cursor>,
    /// It sent `If-None-Match`.
    pub conditional: bool,
    /// Another request may follow.
    pub keep_alive: bool,
    /// It waits for something to say, where there is nothing.
    pub waits: bool,
}

/// Subscriptions of `/sub` that are let in together, so that what they missed can be told in order.
#[derive(Debug, Default)]
pub struct Joining {
    /// The first bytes of a stream: head and opening.
    pub lead: Vec<u8>,
    /// Those that the control plane has not answered.
    pub awaited: Vec<Awaited>,
    /// Those that it has, in the order in which they were asked for.
    pub entered: Vec<(Awaited, Entrance)>,
}

/// A subscription on its way in.
#[derive(Clone, Debug)]
pub struct Awaited {
    pub key: ChannelKey,
    pub token: u32,
    /// It asked to resume, so it is told whether that went well.
    pub resumes: bool,
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
    /// Subscriptions of `/sub` that wait for each other.
    pub joining: Option<Joining>,
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

    /// Gives up the rarely needed part when nothing is in it any more.
    pub fn trim(&mut self) {
        let empty = |more: &More| {
            more.unread.is_empty() && more.user.is_none() && more.members.is_empty() && more.joining.is_none()
        };
        if !matches!(self.talk, Talk::Pusher { .. }) && self.more.as_deref().is_some_and(empty) {
            self.more = None;
        }
    }

    /// Takes the input that was kept back.
    pub fn take_unread(&mut self) -> Vec<u8> {
        self.more.as_mut().map(|more| std::mem::take(&mut more.unread)).unwrap_or_default()
    }
}

impl Wire for Conn {
    fn write(&mut self, parts: &[IoSlice<'_>]) -> Sent {
        match &mut self.talk {
            Talk::Polls(polls) if polls.asks => {
                polls.asks = false;
                // One batch is one answer.
                write_answer(&mut self.stream, polls, parts.first().map_or(&[], |part| &**part))
            }
            _ => self.stream.write(parts),
        }
    }

    fn once(&self) -> bool {
        matches!(&self.talk, Talk::Polls(polls) if polls.asks)
    }
}

/// Writes an answer: a reader's own lines, then what all readers share. A socket that does not even take the former has no
/// room for a poller's answer, and never will: nothing else was written on it.
fn write_answer(stream: &mut Stream, polls: &Polls, shared: &[u8]) -> Sent {
    let part = Part::read(shared);
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    polls.begin_answer(&mut answer, &part);
    let (own, replaced) = (answer.len(), shared.len() - part.body.len());
    let sent = if own + part.body.len() <= ANSWER_BYTES {
        // Copying little costs less than telling the kernel of two places.
        answer.extend_from_slice(part.body);
        stream.write(&[IoSlice::new(&answer)])
    } else {
        stream.write(&[IoSlice::new(&answer), IoSlice::new(part.body)])
    };
    match sent {
        Sent::Took(n) if n >= own => Sent::Took(n - own + replaced),
        _ => Sent::Broken,
    }
}
