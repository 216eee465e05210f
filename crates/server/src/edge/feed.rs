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
use fanfare_hub::mail::Entrance;
use fanfare_hub::mail::Replay;
use fanfare_hub::shard::{After, ConnKey, Subscribed, Traits};
use fanfare_hub::{ChannelKey, Form, Frames, Request, Since, StoreError, StreamPosition};
use fanfare_proto::close::CloseCode;
use fanfare_proto::cursor::Cursor;
use fanfare_proto::json::{self, json_string_token};
use fanfare_proto::{feed, ws};
use serde::Deserialize;

use super::conn::{Awaited, Conn, Joining, Polls, Talk};
use super::desk::Desk;
use super::door::head::{HEADERS_MAX, Parsed};
use super::forms::{self, Format, Framing};
use super::listen::{self, Carrier, Listen, Refused, Transport, Wanted};
use super::upgrade::is_upgrade;
use crate::apps::App;
use crate::tokens::{self, Claims};

/// The base of the time after which a browser reconnects by itself; as much again is added at random, so that a
/// crowd does not come back at once.
const RETRY_MS: u64 = 1000;

/// Input that may wait while a long-poll does: the next request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What a client of a plain WebSocket may say.
#[derive(Debug, Deserialize)]
struct Ask {
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    unsubscribe: Vec<String>,
    since: Option<String>,
    backtrack: Option<u32>,
    token: Option<String>,
}

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
        let lead = lead(&listen, self.salt ^ key.bits());
        let Some(conn) = self.shard.wire(key) else { return };
        conn.claims = listen.claims.clone();
        conn.deadline_s = deadline_s;
        conn.talk = match listen.transport {
            Transport::Socket => Talk::Socket,
            Transport::Sse if listen.carrier.is_chunked() => Talk::Stream(Framing::SseChunked),
            Transport::Sse => Talk::Stream(Framing::Sse),
            Transport::Stream if listen.carrier.is_chunked() => Talk::Stream(Framing::LinesChunked),
            Transport::Stream => Talk::Stream(Framing::Lines),
            Transport::LongPoll | Transport::Poll => Talk::Polls(Box::new(Polls {
                lead: Some(lead.clone()),
                format: listen.format,
                cursor: None,
                conditional: listen.conditional,
                keep_alive: listen.keep_alive,
                waits: listen.transport == Transport::LongPoll,
            })),
        };
        if matches!(conn.talk, Talk::Stream(_)) {
            conn.more().joining.get_or_insert_default().lead = lead;
        }
        if !self.is_live_at_once(key, &listen) {
            self.subscribe_all(key, listen.channels, listen.since);
        }
    }

    /// A poller that has the newest is back: nothing has to be asked.
    fn is_live_at_once(&mut self, key: ConnKey, listen: &Listen) -> bool {
        let [Wanted { key: channel, .. }] = &*listen.channels else { return false };
        let (Transport::LongPoll, Some(Since::Cursor(cursor))) = (listen.transport, &listen.since) else {
            return false;
        };
        let Some(place) = cursor.place(channel.hash()) else { return false };
        if !self.shard.is_current(channel.as_str(), StreamPosition { epoch: place.epoch, offset: place.offset }) {
            return false;
        }
        self.shard.subscribe(key, channel.as_str(), Traits::default(), false);
        self.set_poll_cursor(key, cursor.to_string());
        true
    }

    /// Subscribes to channels that are let in together. What an open WebSocket asks for meanwhile joins them.
    pub fn subscribe_all(&mut self, key: ConnKey, channels: Vec<Wanted>, since: Option<Since>) {
        let resumes = since.is_some();
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
            let (cached, since) = (cache && !resumes, Some(since.clone().unwrap_or(Since::Now)));
            self.ask(Request::Enter { key: channel, from, conn: key, token, socket, member, cached, since });
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
            Ok(entrance) => joining.entered.push((awaited, entrance)),
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
            _ => {
                self.control(key, None, "fanfare:error", |out| feed::error(out, Some(channel.name()), status, message));
                self.release_if_complete(key);
            }
        }
    }

    fn release_if_complete(&mut self, key: ConnKey) {
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
        if !lead.is_empty() {
            self.shard.send(key, lead.into());
        }
        let nothing_missed = entered.iter().all(|(_, entrance)| missed(entrance).is_empty());
        let cursor = nothing_missed.then(|| cursor_of(&entered)).flatten();
        for (awaited, entrance) in &entered {
            let roster = entrance.roster.as_ref().map(|(json, _)| json.as_str());
            let recovered = entrance.replay.as_ref().filter(|_| awaited.resumes).map(|replay| replay.recovered);
            let own = entrance.replay.as_ref().map(|replay| replay.now.cursor(&awaited.key).to_string());
            self.control(key, cursor.as_deref(), "fanfare:subscribed", |out| {
                feed::subscribed(out, awaited.key.name(), recovered, own.as_deref(), roster);
            });
        }
        for bytes in self.replay(key, &entered) {
            self.shard.send(key, bytes);
        }
        self.go_live(key, &entered);
    }

    fn go_live(&mut self, key: ConnKey, entered: &[(Awaited, Entrance)]) {
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

    /// A message of our own, as this subscriber's transport has it.
    pub fn control(&mut self, key: ConnKey, id: Option<&str>, event: &str, object: impl FnOnce(&mut Vec<u8>)) {
        let Some(conn) = self.shard.wire(key) else { return };
        let framing = match conn.talk {
            Talk::Socket => Framing::Socket,
            Talk::Stream(framing) => framing,
            Talk::Echo | Talk::Pusher { .. } | Talk::Polls(_) => return,
        };
        let bytes = control(framing, id, event, object);
        // What was begun is finished first.
        match conn.more.as_mut().and_then(|more| more.joining.as_mut()).filter(|joining| !joining.lead.is_empty()) {
            Some(joining) => joining.lead.extend_from_slice(&bytes),
            None => self.shard.send(key, bytes.into()),
        }
    }

    // Long-polls.

    fn answer_or_wait(&mut self, key: ConnKey, joining: Joining) {
        let entered = &joining.entered;
        let mut replays = entered.iter().filter_map(|(_, entrance)| entrance.replay.as_ref());
        let resumes = entered.iter().any(|(awaited, _)| awaited.resumes);
        let recovered = resumes.then(|| replays.all(|replay| replay.recovered));
        let missed = merged(entered);
        let cursor = cursor_of(entered);
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) else { return };
        polls.cursor = cursor.clone();
        let waits = polls.waits;
        if missed.is_empty() && recovered != Some(false) {
            return if waits { self.go_live(key, entered) } else { self.answer_nothing(key) };
        }
        let answer = match (polls.format, missed.first()) {
            (Format::Json, _) => {
                forms::json_answer(missed.iter().map(|frames| &**frames), cursor.as_deref(), recovered)
            }
            (Format::Raw, Some(oldest)) => forms::raw_answer(oldest, recovered),
            (Format::Raw, None) => return self.answer_without_content(key, recovered),
        };
        self.answer(key, answer);
    }

    /// Sends the rest of an answer behind its first lines, and is done with this request.
    fn answer(&mut self, key: ConnKey, rest: Vec<u8>) {
        self.shard.rest(key);
        self.shard.send(key, rest.into());
        self.answered(key);
    }

    fn answer_without_content(&mut self, key: ConnKey, recovered: Option<bool>) {
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) else { return };
        let status = if polls.conditional && recovered.is_none() { "304 Not Modified" } else { "204 No Content" };
        let Some(mut head) = polls.lead.take() else { return };
        // The lead was made for an answer with content.
        let end_of_line = head.windows(2).position(|pair| pair == b"\r\n").unwrap_or(0);
        head.splice(..end_of_line, format!("HTTP/1.1 {status}").into_bytes());
        forms::recovered_header(&mut head, recovered);
        forms::cursor_headers(&mut head, polls.cursor.as_deref());
        head.extend_from_slice(b"\r\n");
        self.answer_whole(key, head);
    }

    /// Sends an answer, first lines and all.
    fn answer_whole(&mut self, key: ConnKey, answer: Vec<u8>) {
        if let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) {
            polls.lead = None;
        }
        self.shard.rest(key);
        self.shard.send(key, answer.into());
        self.answered(key);
    }

    /// The wait of a long-poll is over.
    pub fn answer_nothing(&mut self, key: ConnKey) {
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) else { return };
        match (polls.format, polls.conditional) {
            (Format::Json, false) => {
                let answer = forms::json_answer(std::iter::empty(), polls.cursor.as_deref(), None);
                self.answer(key, answer);
            }
            _ => self.answer_without_content(key, None),
        }
    }

    /// An answer is on its way, and the connection waits for the next request.
    pub fn answered(&mut self, key: ConnKey) {
        let until_s = self.now_s() + IDLE_S;
        let Some(conn) = self.shard.wire(key) else { return };
        conn.trim();
        // One that says nothing more is ended by the sweep, once its answer has gone out.
        conn.deadline_s = until_s;
        let keep_alive = matches!(&conn.talk, Talk::Polls(polls) if polls.keep_alive);
        if !keep_alive {
            conn.deadline_s = 1;
        }
        self.idle.push(key);
    }

    fn set_poll_cursor(&mut self, key: ConnKey, cursor: String) {
        if let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) {
            polls.cursor = Some(cursor);
        }
    }

    /// Takes in requests on a connection that polls: one at a time, and none that is not a loop's. Returns how many bytes
    /// have been dealt with; the rest waits.
    pub fn hear_requests(&mut self, key: ConnKey, bytes: &[u8]) -> usize {
        let waits = |conn: &mut Conn| matches!(&conn.talk, Talk::Polls(polls) if polls.lead.is_some());
        if self.shard.wire(key).is_none_or(waits) {
            if bytes.len() > HEAD_BYTES_MAX {
                self.close(key, None, true);
            }
            return 0;
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return 0,
            Ok(httparse::Status::Complete(len)) if request.method == Some("GET") => {
                let head = Parsed(&request);
                let listen = self
                    .reader
                    .read(&head)
                    .and_then(Result::ok)
                    .filter(|listen| !is_upgrade(&head) && self.may_poll_here(key, listen));
                if let Some(listen) = listen {
                    self.shard.set_form(key, listen.form(false));
                    self.listen(key, listen);
                    return len;
                }
            }
            _ => {}
        }
        // Whatever it is, the door answers it.
        self.give_back(key, bytes.to_vec());
        bytes.len()
    }

    /// Whether a further request is one that this loop can serve: on another app, the place would have to be counted anew.
    fn may_poll_here(&self, key: ConnKey, listen: &Listen) -> bool {
        listen.is_for_a_loop() && self.shard.app(key) == Some(listen.app.ix.0)
    }

    // The plain WebSocket.

    /// Whether a connection speaks the language of `/sub`.
    pub fn is_feed(&mut self, key: ConnKey) -> bool {
        matches!(self.shard.wire(key).map(|conn| &conn.talk), Some(Talk::Socket))
    }

    /// Answers one text message of a plain WebSocket.
    pub fn hear_feed(&mut self, key: ConnKey, text: &str) {
        let Some(app) = self.app(key) else {
            return self.close_with(key, CloseCode::APP_UNKNOWN, "the app was removed", None);
        };
        let ask: Ask = match json::object(text) {
            Ok(ask) => ask,
            Err(error) => {
                let message = format!(
                    "expected {{\"subscribe\":[channels],\"since\"?:cursor,\"backtrack\"?:n,\"token\"?:jwt}} or {{\"unsubscribe\":[channels]}}: {error}"
                );
                return self.complain_feed(key, None, 400, &message);
            }
        };
        for name in &ask.unsubscribe {
            self.leave_feed(key, &app, name);
        }
        if let Err(refused) = self.join_feed(key, &app, ask) {
            let (channel, refused) = refused;
            self.complain_feed(key, channel.as_deref(), refused.status(), &refused.to_string());
        }
    }

    fn join_feed(&mut self, key: ConnKey, app: &App, ask: Ask) -> Result<(), (Option<String>, Refused)> {
        if let Some(token) = &ask.token {
            let claims = self.reader.tokens.verify(app, token).map_err(|error| (None, error.into()))?;
            self.bear(key, claims);
        }
        let since = match (&ask.since, ask.backtrack) {
            (Some(text), _) => Some(Since::Cursor(listen::cursor(text, app).map_err(|refused| (None, refused))?)),
            (None, backtrack) => backtrack.map(|last| Since::Last(last.min(listen::BACKTRACK_MAX))),
        };
        let claims = self.shard.wire(key).and_then(|conn| conn.claims.clone());
        let mut channels = Vec::with_capacity(ask.subscribe.len());
        let mut refused = None;
        for name in &ask.subscribe {
            match listen::wanted(app, name, claims.as_deref()) {
                Ok(wanted) if self.shard.is_subscribed(key, wanted.key.as_str()) => {}
                Ok(wanted) => channels.push(wanted),
                Err(why) => refused = Some((Some(name.clone()), why)),
            }
        }
        let max = app.limits.channels_per_connection_max as usize;
        if max > 0 && self.shard.subscriptions(key) + channels.len() > max {
            return Err((None, Refused::TooMany(app.limits.channels_per_connection_max)));
        }
        self.subscribe_all(key, channels, since);
        refused.map_or(Ok(()), Err)
    }

    /// The newest token counts, and its time.
    fn bear(&mut self, key: ConnKey, claims: Claims) {
        let deadline_s = self.expires_s(&claims);
        if let Some(conn) = self.shard.wire(key) {
            conn.deadline_s = deadline_s;
            conn.claims = Some(Arc::new(claims));
        }
    }

    fn leave_feed(&mut self, key: ConnKey, app: &App, name: &str) {
        let channel = Desk::channel_key(app, name);
        if self.shard.unsubscribe(key, channel.as_str()).is_none() {
            return self.complain_feed(key, Some(name), 404, "not subscribed to this channel");
        }
        if let Some(joining) = self.shard.wire(key).and_then(|conn| conn.more.as_mut()?.joining.as_mut()) {
            joining.awaited.retain(|awaited| awaited.key != channel);
        }
        self.forget_member(key, &channel);
        self.control(key, None, "", |out| feed::unsubscribed(out, name));
        self.release_if_complete(key);
    }

    fn complain_feed(&mut self, key: ConnKey, channel: Option<&str>, status: u16, message: &str) {
        self.control(key, None, "fanfare:error", |out| feed::error(out, channel, status, message));
    }

    // The end.

    /// Lets a subscriber of `/sub` go.
    pub fn end_feed(&mut self, key: ConnKey, farewell: Farewell) {
        let mut words = self.feed_words(key, farewell);
        if matches!(self.shard.wire(key).map(|conn| &conn.talk), Some(Talk::Socket)) {
            ws::close_frame(&mut words, CloseCode::UNAUTHORIZED, farewell.reason);
        }
        if !words.is_empty() {
            self.shard.last_words(key, words.into());
        }
        self.close(key, None, true);
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
            Talk::Polls(polls) => match polls.lead.take() {
                Some(_) => refusal(503, farewell.reason, false),
                None => Vec::new(),
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

    /// When a token ends, in seconds since the loop began.
    fn expires_s(&self, claims: &Claims) -> u32 {
        let left_s = claims.exp_s.saturating_sub(tokens::now_s());
        self.now_s().saturating_add(u32::try_from(left_s).unwrap_or(u32::MAX)).max(1)
    }
}

/// How long a connection may stand idle between two polls, as at hyper's.
const IDLE_S: u32 = 75;

impl Farewell {
    /// The token ran out.
    pub const TOKEN_EXPIRED: Farewell = Farewell { reason: "token_expired", reconnect: true };
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

/// A heartbeat: it shows that the connection lives, and means nothing else.
pub fn heartbeat(framing: Framing) -> &'static [u8] {
    match framing {
        Framing::SseChunked => b"3\r\n:\n\n\r\n",
        Framing::Sse => b":\n\n",
        Framing::LinesChunked => b"1\r\n\n\r\n",
        Framing::Lines => b"\n",
        Framing::Socket | Framing::SocketDeflated | Framing::Answer => b"",
    }
}

/// The heartbeat of a plain WebSocket: pages see no ping frames.
pub fn socket_heartbeat() -> Vec<u8> {
    let mut out = control(Framing::Socket, None, "", |out| out.extend_from_slice(br#"{"event":"fanfare:ping"}"#));
    ws::ping_frame(&mut out, b"");
    out
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

/// What a response begins with: of a stream, head and opening; of a long-poll, the lines that differ between readers.
fn lead(listen: &Listen, random: u64) -> Vec<u8> {
    let opening = match listen.transport {
        Transport::Socket => return Vec::new(),
        Transport::LongPoll | Transport::Poll => return poll_lead(listen),
        Transport::Sse => format!(":ok\nretry: {}\n\n", RETRY_MS + random % (2 * RETRY_MS)),
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
    let mut out = first_lines(listen);
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

fn poll_lead(listen: &Listen) -> Vec<u8> {
    let mut out = first_lines(listen);
    let connection: &[u8] = match (listen.carrier, listen.keep_alive) {
        (Carrier::Http10, true) => b"Connection: keep-alive\r\n",
        (_, true) => b"",
        (_, false) => b"Connection: close\r\n",
    };
    out.extend_from_slice(connection);
    out
}

fn first_lines(listen: &Listen) -> Vec<u8> {
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    out.extend_from_slice(listen::UNBUFFERED);
    listen::cors(&mut out, listen.origin.as_deref());
    out
}

/// A refusal that came too late for the door.
fn refusal(status: u16, message: &str, keep_alive: bool) -> Vec<u8> {
    let reason = if status == 403 { "403 Forbidden" } else { "503 Service Unavailable" };
    let body = format!("{{\"error\":{}}}", json_string_token(message));
    let mut out = format!("HTTP/1.1 {reason}\r\n").into_bytes();
    out.extend_from_slice(listen::UNBUFFERED);
    listen::cors(&mut out, None);
    forms::header(&mut out, "Content-Type", "application/json");
    forms::header(&mut out, "Retry-After", "1");
    forms::header(&mut out, "Content-Length", &body.len().to_string());
    out.extend_from_slice(if keep_alive { b"\r\n" } else { b"Connection: close\r\n\r\n" });
    out.extend_from_slice(body.as_bytes());
    out
}

/// Where a reader stands that has been shown everything so far.
fn cursor_of(entered: &[(Awaited, Entrance)]) -> Option<String> {
    let replays = || entered.iter().filter_map(|(awaited, entrance)| Some((awaited, entrance.replay.as_ref()?)));
    let settled = replays().map(|(_, replay)| replay.now.settled).min()?;
    let places = replays().map(|(awaited, replay)| replay.now.place(&awaited.key));
    Some(Cursor::of(places, settled).to_string())
}

/// The publications that a newcomer is shown first.
fn missed(entrance: &Entrance) -> &[Arc<Frames>] {
    entrance.replay.as_ref().map_or(&[], |replay: &Replay| &replay.frames)
}

/// What was missed on all channels, in the order in which it was stored.
fn merged(entered: &[(Awaited, Entrance)]) -> Vec<Arc<Frames>> {
    let mut all: Vec<_> = entered.iter().flat_map(|(_, entrance)| missed(entrance)).cloned().collect();
    all.sort_by_key(|frames| frames.mark().map(|mark| mark.stamp));
    all
}

/// What was lately replayed, by what it holds: the same for everybody who missed the same.
#[derive(Debug, Default)]
pub struct Replays(Vec<Joined>);

#[derive(Debug)]
struct Joined {
    channel: ChannelKey,
    form: Form,
    first: Option<StreamPosition>,
    last: Option<StreamPosition>,
    bytes: Bytes,
}

/// Replays that are remembered. A crowd comes back for a few channels at a time.
const REPLAYS_MAX: usize = 8;

impl Replays {
    /// The bytes of all of these, which are some of one channel; made if nobody has lately missed the same.
    pub fn bytes(&mut self, form: Form, missed: &[Arc<Frames>]) -> Bytes {
        let (oldest, newest) = (&missed[0], &missed[missed.len() - 1]);
        let (channel, first, last) = (oldest.key(), oldest.position(), newest.position());
        let same = |joined: &&Joined| {
            (joined.form, joined.first, joined.last) == (form, first, last) && joined.channel == *channel
        };
        if let Some(joined) = self.0.iter().find(same) {
            return joined.bytes.clone();
        }
        if self.0.len() == REPLAYS_MAX {
            self.0.remove(0);
        }
        let bytes = oldest.encoder().join(form, missed);
        self.0.push(Joined { channel: channel.clone(), form, first, last, bytes: bytes.clone() });
        bytes
    }

    /// Forgets all of them; about once a second, so that they hold memory while a crowd comes back and not after.
    pub fn forget(&mut self) {
        self.0 = Vec::new();
    }
}
