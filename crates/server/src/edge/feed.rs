//! The conversation with one subscriber of `/sub`, by whatever transport.
//!
//! Subscriptions that are asked for together are let in together: what they missed is merged by stamp, so that a cursor
//! never stands before something of another channel that has not been shown.
//!
//! Always true:
//! - a response begins when its subscriptions are in, so that it may still be a refusal;
//! - whoever asked to resume is told whether everything missed follows.
//!
//! Not here: what a request may ask for (`listen`), bytes of publications (`forms`), the Pusher protocol (`pusher`).

use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::mail::{Entrance, Replay};
use fanfare_hub::shard::{After, ConnKey, Doom, Subscribed, Traits};
use fanfare_hub::{Begin, ChannelKey, Encode, Frames, Request, Since, StoreError, StreamPosition};
use fanfare_proto::close::CloseCode;
use fanfare_proto::cursor::{Cursor, Place};
use fanfare_proto::json::json_string_token;
use fanfare_proto::{feed, ws};

use super::conn::{Awaited, Joining, Polls, Talk};
use super::desk::Desk;
use super::forms::{self, Format, Framing};
use super::listen::{self, Carrier, Listen, Transport, Wanted};
use super::polls::refusal;
use crate::tokens::{self, Claims};

/// The base of the time after which a browser reconnects by itself; as much again is added at random, so that a
/// crowd does not come back at once.
const RETRY_MS: u64 = 1000;

/// Why a subscriber of `/sub` is let go, and whether it is any use to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// As clients know it.
    pub reason: &'static str,
    /// Whether to come back.
    pub reconnect: bool,
}

impl Desk {
    /// Begins what an admitted request asks for.
    pub fn listen(&mut self, key: ConnKey, listen: Listen) {
        let deadline_s = self.ends_s(&listen);
        let random = self.salt ^ key.bits();
        let Some(conn) = self.shard.wire(key) else { return };
        conn.claims = listen.claims.clone();
        conn.deadline_s = deadline_s;
        conn.talk = match listen.transport {
            Transport::Socket => Talk::Socket,
            Transport::Sse if listen.carrier.is_chunked() => Talk::Stream(Framing::SseChunked),
            Transport::Sse => Talk::Stream(Framing::Sse),
            Transport::Stream if listen.carrier.is_chunked() => Talk::Stream(Framing::LinesChunked),
            Transport::Stream => Talk::Stream(Framing::Lines),
            Transport::LongPoll | Transport::Poll => Talk::Polls(Box::new(Polls::of(&listen))),
        };
        if matches!(conn.talk, Talk::Stream(_)) {
            conn.more().joining.get_or_insert_default().lead = lead(&listen, random);
        }
        if !self.is_live_at_once(key, &listen) {
            self.subscribe_all(key, listen.channels, listen.begin);
        }
    }

    /// A poller that has the newest is back: nothing has to be asked.
    fn is_live_at_once(&mut self, key: ConnKey, listen: &Listen) -> bool {
        let [Wanted { key: channel, .. }] = &*listen.channels else { return false };
        let (Transport::LongPoll, Some(Begin { since: Since::Cursor(cursor), .. })) = (listen.transport, &listen.begin)
        else {
            return false;
        };
        let Some(place) = cursor.place(channel.hash()) else { return false };
        if !self.shard.is_current(channel.as_str(), StreamPosition { epoch: place.epoch, offset: place.offset }) {
            return false;
        }
        self.shard.subscribe(key, channel.as_str(), Traits::default(), false);
        self.set_poll_cursor(key, cursor.clone());
        true
    }

    /// Subscribes to channels that are let in together. What an open WebSocket asks for meanwhile joins them.
    pub fn subscribe_all(&mut self, key: ConnKey, channels: Vec<Wanted>, begin: Option<Begin>) {
        let resumes = begin.is_some();
        for Wanted { key: channel, member, cache } in channels {
            let Some(app) = self.app(key) else { return };
            let presence = member.is_some();
            let traits = Traits {
                presence,
                announce: app.subscription_count && !presence,
                newest: app.keeps_newest(channel.name()),
            };
            let Subscribed::Held(token) = self.shard.subscribe(key, channel.as_str(), traits, true) else { continue };
            let conn = self.shard.wire(key).expect("it has just subscribed");
            let more = conn.more();
            if let Some(member) = &member {
                more.members.push((channel.name().into(), json_string_token(&member.user_id).into()));
            }
            let awaited = Awaited { key: channel.clone(), token, resumes };
            more.joining.get_or_insert_default().awaited.push(awaited);
            let (from, socket) = (self.index, self.socket_id(key));
            let member = member.map(|member| (member, app.limits.presence_members_max));
            let (cached, begin) = (cache && !resumes, Some(begin.clone().unwrap_or(Since::Now.into())));
            self.ask(Request::Enter { key: channel, from, conn: key, token, socket, member, cached, begin });
        }
        self.release_if_complete(key);
    }

    /// The control plane let one subscription in, or did not.
    pub fn feed_entered(
        &mut self,
        key: ConnKey,
        channel: &ChannelKey,
        token: u32,
        outcome: Result<Entrance, StoreError>,
    ) {
        let Some(joining) = self.shard.wire(key).and_then(|conn| conn.more().joining.as_mut()) else { return };
        let Some(place) = joining.awaited.iter().position(|awaited| awaited.token == token) else { return };
        let awaited = joining.awaited.remove(place);
        match outcome {
            Ok(mut entrance) => {
                show_cached(&mut entrance, channel, &self.encoder);
                joining.entered.push((awaited, entrance));
            }
            Err(error) => {
                self.shard.unsubscribe(key, channel.as_str());
                self.forget_member(key, channel);
                let status = match error {
                    StoreError::Full { .. } => 403,
                    StoreError::Unavailable => 503,
                };
                return self.feed_refused(key, channel, status, &error.to_string());
            }
        }
        self.release_if_complete(key);
    }

    /// The gate of a channel stayed shut, or its entrance.
    pub fn feed_refused(&mut self, key: ConnKey, channel: &ChannelKey, status: u16, message: &str) {
        let Some(conn) = self.shard.wire(key) else { return };
        if let Some(joining) = conn.more().joining.as_mut() {
            joining.awaited.retain(|awaited| awaited.key != *channel);
        }
        match &conn.talk {
            Talk::Polls(polls) => {
                let answer = refusal(status, message, polls.keep_alive);
                self.answer_whole(key, answer);
            }
            // Who has been refused a channel does not ask for it again; who has been cut off does.
            _ if status == 503 => self.end_feed(key, Farewell::UNAVAILABLE),
            _ => {
                self.control(key, None, "fanfare:error", |out| feed::error(out, Some(channel.name()), status, message));
                self.release_if_complete(key);
            }
        }
    }

    /// Lets in those that wait for each other, if all of them have been answered.
    pub fn release_if_complete(&mut self, key: ConnKey) {
        let Some(conn) = self.shard.wire(key) else { return };
        let more = conn.more();
        if more.joining.as_ref().is_none_or(|joining| !joining.awaited.is_empty()) {
            return;
        }
        let joining = more.joining.take().expect("looked at above");
        conn.trim();
        match conn.talk {
            Talk::Polls(_) => self.answer_or_wait(key, joining),
            Talk::Stream(_) | Talk::Socket => self.release(key, joining),
            Talk::Echo | Talk::Pusher { .. } => {}
        }
    }

    /// Opens a stream: what the subscriber is on, what it missed, then live.
    fn release(&mut self, key: ConnKey, joining: Joining) {
        let Joining { lead, entered, .. } = joining;
        let Some(framing) = self.framing(key) else { return };
        let nothing_missed = entered.iter().all(|(_, entrance)| missed(entrance).is_empty());
        let cursor = nothing_missed.then(|| cursor_of(&entered)).flatten().map(|cursor| cursor.to_string());
        let mut words = lead;
        for (awaited, entrance) in &entered {
            let roster = entrance.roster.as_ref().map(|(json, _)| json.as_str());
            let recovered = entrance.replay.as_ref().filter(|_| awaited.resumes).map(|replay| replay.recovered);
            // Where it will stand when it has been shown what it missed: nothing to be kept before that.
            let own = entrance.replay.as_ref().filter(|_| nothing_missed);
            let own = own.map(|replay| replay.now.cursor(&awaited.key).to_string());
            words.extend(control(framing, cursor.as_deref(), "fanfare:subscribed", |out| {
                feed::subscribed(out, awaited.key.name(), recovered, own.as_deref(), roster);
            }));
        }
        let mut parts = self.replay(key, &entered);
        parts.insert(0, words.into());
        self.shard.send_all(key, parts);
        self.go_live(key, &entered);
    }

    /// Shows what comes from now on.
    pub fn go_live(&mut self, key: ConnKey, entered: &[(Awaited, Entrance)]) {
        for (awaited, entrance) in entered {
            let after = After {
                stored: entrance.replay.as_ref().map(|replay| replay.now.position),
                presence: entrance.roster.as_ref().map(|(_, version)| *version),
            };
            self.shard.entered(key, awaited.key.as_str(), awaited.token, Bytes::new(), after);
        }
    }

    /// What was missed on one channel comes out of a little memory: a crowd that was cut off together missed the same.
    fn replay(&mut self, key: ConnKey, entered: &[(Awaited, Entrance)]) -> Vec<Bytes> {
        let Some(form) = self.shard.form(key) else { return Vec::new() };
        let mut with_missed = entered.iter().map(|(_, entrance)| missed(entrance)).filter(|missed| !missed.is_empty());
        match (with_missed.next(), with_missed.next()) {
            (None, _) => Vec::new(),
            (Some(missed), None) => vec![self.replays.bytes(form, missed)],
            _ => merged(entered).iter().map(|frames| frames.bytes(form).clone()).collect(),
        }
    }

    /// How a subscriber is told of what is no publication; a poller is not, outside of its answers.
    fn framing(&mut self, key: ConnKey) -> Option<Framing> {
        match self.shard.wire(key)?.talk {
            Talk::Socket => Some(Framing::Socket),
            Talk::Stream(framing) => Some(framing),
            Talk::Echo | Talk::Pusher { .. } | Talk::Polls(_) => None,
        }
    }

    /// A message of our own, as this subscriber's transport has it.
    pub fn control(&mut self, key: ConnKey, id: Option<&str>, event: &str, object: impl FnOnce(&mut Vec<u8>)) {
        let Some(framing) = self.framing(key) else { return };
        let bytes = control(framing, id, event, object);
        let Some(conn) = self.shard.wire(key) else { return };
        // What was begun is finished first.
        match conn.more.as_mut().and_then(|more| more.joining.as_mut()).filter(|joining| !joining.lead.is_empty()) {
            Some(joining) => joining.lead.extend_from_slice(&bytes),
            None => self.shard.send(key, bytes.into()),
        }
    }

    // The end.

    /// Lets a subscriber of `/sub` go.
    pub fn end_feed(&mut self, key: ConnKey, farewell: Farewell) {
        let mut words = self.feed_words(key, farewell);
        if matches!(self.shard.wire(key).map(|conn| &conn.talk), Some(Talk::Socket)) {
            let code = if farewell == Farewell::UNAVAILABLE { CloseCode::RECONNECT } else { CloseCode::UNAUTHORIZED };
            ws::close_frame(&mut words, code, farewell.reason);
        }
        if !words.is_empty() {
            self.shard.last_words(key, words.into());
        }
        let doom = (!farewell.reconnect).then_some(Doom::Terminated);
        self.close(key, doom, true);
    }

    /// The last words to a subscriber of `/sub`.
    pub fn feed_words(&mut self, key: ConnKey, farewell: Farewell) -> Vec<u8> {
        let Some(conn) = self.shard.wire(key) else { return Vec::new() };
        let said = |framing| {
            control(framing, None, "fanfare:closed", |out| feed::closed(out, farewell.reason, farewell.reconnect))
        };
        match &mut conn.talk {
            Talk::Socket => said(Framing::Socket),
            Talk::Stream(framing) => {
                let framing = *framing;
                let mut words = conn.more.as_mut().and_then(|more| more.joining.take()).unwrap_or_default().lead;
                words.extend_from_slice(&said(framing));
                if matches!(framing, Framing::SseChunked | Framing::LinesChunked) {
                    words.extend_from_slice(feed::LAST_CHUNK);
                }
                words
            }
            Talk::Polls(polls) => match std::mem::take(&mut polls.asks) {
                true => refusal(503, farewell.reason, false),
                false => Vec::new(),
            },
            Talk::Echo | Talk::Pusher { .. } => Vec::new(),
        }
    }

    /// When it ends by itself: a long-poll's wait, or the token that let a stream in.
    fn ends_s(&self, listen: &Listen) -> u32 {
        let now_s = self.now_s();
        if matches!(listen.transport, Transport::LongPoll | Transport::Poll) {
            return now_s + listen.wait_s.unwrap_or(self.settings.longpoll_s);
        }
        listen.claims.as_ref().map_or(0, |claims| self.expires_s(claims))
    }

    /// When a token ends, in seconds since the loop began. Not earlier: whoever came back with it at once would be let in again.
    pub fn expires_s(&self, claims: &Claims) -> u32 {
        let left_s = claims.until_s().saturating_sub(tokens::now_s());
        (self.now_s() + 1).saturating_add(u32::try_from(left_s).unwrap_or(u32::MAX))
    }
}

impl Farewell {
    /// The token ran out.
    pub const TOKEN_EXPIRED: Farewell = Farewell { reason: "token_expired", reconnect: true };
    /// What it asked for could not be had for a while.
    pub const UNAVAILABLE: Farewell = Farewell { reason: "unavailable", reconnect: true };
    /// The token was taken back.
    pub const TOKEN_REVOKED: Farewell = Farewell { reason: "token_revoked", reconnect: false };

    /// What a close code means to a subscriber of `/sub`.
    pub fn of(code: CloseCode) -> Farewell {
        match code {
            CloseCode::OVER_CAPACITY => Farewell { reason: "slow_consumer", reconnect: true },
            CloseCode::APP_DISABLED | CloseCode::APP_UNKNOWN => Farewell { reason: "app_disabled", reconnect: false },
            CloseCode::UNAUTHORIZED => Farewell { reason: "terminated", reconnect: false },
            CloseCode::RECONNECT => Farewell { reason: "drain", reconnect: true },
            CloseCode::PONG_MISSING => Farewell { reason: "silent", reconnect: true },
            _ => Farewell { reason: "protocol_error", reconnect: true },
        }
    }
}

/// A heartbeat: it shows that the connection lives, and means nothing else. An event stream's has no empty line behind it,
/// which some readers take for an event without data.
pub fn heartbeat(framing: Framing) -> &'static [u8] {
    match framing {
        Framing::SseChunked => b"2\r\n:\n\r\n",
        Framing::Sse => b":\n",
        Framing::LinesChunked => b"1\r\n\n\r\n",
        Framing::Lines => b"\n",
        Framing::Socket | Framing::SocketDeflated | Framing::Answer => b"",
    }
}

fn control(framing: Framing, id: Option<&str>, event: &str, object: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut json = Vec::with_capacity(160);
    object(&mut json);
    let mut out = Vec::with_capacity(json.len() + 64);
    match framing {
        Framing::Socket | Framing::SocketDeflated | Framing::Answer => return ws::text_frame(&json),
        Framing::SseChunked | Framing::Sse => {
            feed::sse(&mut out, id, event, std::str::from_utf8(&json).expect("JSON is text"));
        }
        Framing::LinesChunked | Framing::Lines => {
            out.extend_from_slice(&json);
            out.push(b'\n');
        }
    }
    if matches!(framing, Framing::SseChunked | Framing::LinesChunked) {
        let mut chunked = Vec::with_capacity(out.len() + 12);
        feed::chunk(&mut chunked, &out);
        return chunked;
    }
    out
}

/// What a stream begins with: head and opening.
fn lead(listen: &Listen, random: u64) -> Vec<u8> {
    let opening = match listen.transport {
        Transport::Socket | Transport::LongPoll | Transport::Poll => return Vec::new(),
        // No empty line: some readers take that for an event without data. What comes next has one.
        Transport::Sse => format!(":ok\nretry: {}\n", RETRY_MS + random % (2 * RETRY_MS)),
        Transport::Stream => String::new(),
    };
    let mut out = match listen.carrier {
        Carrier::Body => return opening.into_bytes(),
        Carrier::Http10 | Carrier::Http11 => stream_head(listen),
    };
    match listen.carrier.is_chunked() {
        true => feed::chunk(&mut out, opening.as_bytes()),
        false => out.extend_from_slice(opening.as_bytes()),
    }
    out
}

fn stream_head(listen: &Listen) -> Vec<u8> {
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    out.extend_from_slice(listen::UNBUFFERED);
    listen.page.cors(&mut out);
    let media_type = match (listen.transport, listen.format) {
        (Transport::Sse, _) => "text/event-stream; charset=utf-8",
        (_, Format::Json) => "application/x-ndjson",
        (_, Format::Raw) => "text/plain; charset=utf-8",
    };
    forms::header(&mut out, "Content-Type", media_type);
    let length = if listen.carrier.is_chunked() { "Transfer-Encoding: chunked" } else { "Connection: close" };
    out.extend_from_slice(length.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// Where a reader stands that has been shown everything so far.
pub fn cursor_of(entered: &[(Awaited, Entrance)]) -> Option<Cursor> {
    let settled = settled(entered)?;
    let places = replays(entered).map(|(key, replay)| replay.now.place(key));
    Some(Cursor::of(places, settled))
}

/// Where a reader stands that has been shown the oldest of what it missed, and nothing else. That one's own cursor would not
/// do: of two that were published at the same moment, each may have to be replayed after the other.
pub fn cursor_after(entered: &[(Awaited, Entrance)], oldest: &Frames) -> Option<Cursor> {
    let mark = oldest.mark()?;
    // All that is older has been shown to this reader, as far as it was there to be read.
    let settled = settled(entered)?.min(mark.stamp).max(mark.settled);
    let places = replays(entered).map(|(key, replay)| match replay.frames.first().and_then(|next| next.mark()) {
        Some(next) => Place { offset: next.position.offset - 1, ..next.place(key) },
        None => replay.now.place(key),
    });
    let own = mark.place(oldest.key());
    Some(Cursor::of([own].into_iter().chain(places), settled))
}

/// Up to which stamp all that there was has been read.
fn settled(entered: &[(Awaited, Entrance)]) -> Option<u64> {
    replays(entered).map(|(_, replay)| replay.now.settled).min()
}

fn replays(entered: &[(Awaited, Entrance)]) -> impl Iterator<Item = (&ChannelKey, &Replay)> {
    entered.iter().filter_map(|(awaited, entrance)| Some((&awaited.key, entrance.replay.as_ref()?)))
}

/// A cache channel's newest event comes first, for those who do not say where they are.
fn show_cached(entrance: &mut Entrance, channel: &ChannelKey, encoder: &Arc<dyn Encode>) {
    let (Some(Some(cached)), Some(replay)) = (entrance.cached.take(), entrance.replay.as_mut()) else { return };
    if replay.frames.is_empty() {
        let frames = Frames::new(channel.clone(), cached.publication, Some(cached.mark), encoder.clone());
        replay.frames.push(Arc::new(frames));
    }
}

/// The publications that a newcomer is shown first.
fn missed(entrance: &Entrance) -> &[Arc<Frames>] {
    entrance.replay.as_ref().map_or(&[], |replay: &Replay| &replay.frames)
}

/// What was missed on all channels, in the order in which it was stored.
pub fn merged(entered: &[(Awaited, Entrance)]) -> Vec<Arc<Frames>> {
    let mut all: Vec<_> = entered.iter().flat_map(|(_, entrance)| missed(entrance)).cloned().collect();
    all.sort_by_key(|frames| frames.mark().map(|mark| mark.stamp));
    all
}
