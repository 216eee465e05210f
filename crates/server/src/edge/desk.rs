//! What a loop knows: its shard, the apps, what it still has to ask the control plane, and the time.
//!
//! Always true:
//! - requests leave at the end of a turn, changes of subscriber counts before this turn's others, so that a channel's route exists before
//!   anybody enters it;
//! - an answer that tells a client that it is subscribed leaves the loop after the request that counts it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fanfare_hub::hub::Requests;
use fanfare_hub::shard::{Change, ConnKey, Doom, Shard};
use fanfare_hub::{ChannelKey, Encode, Request};
use fanfare_proto::close::CloseCode;
use fanfare_proto::socket_id::SocketId;
use fanfare_proto::{server, ws};
use mio::Registry;
use tokio::sync::mpsc;

use super::conn::{Conn, Talk, User};
use super::departures::Departures;
use super::farewell::Farewells;
use super::feed::Farewell;
use super::listen::Reader;
use super::replays::Replays;
use super::{LoopStats, Occupancy, Returned, Settings};
use crate::apps::{App, AppIx, Apps};

/// Requests that may wait before the loop stops reading. One read holds some hundred at most.
const REQUESTS_WAITING_MAX: usize = 1024;

/// What a loop knows.
pub struct Desk {
    /// This loop's number.
    pub index: usize,
    /// The first half of its socket ids.
    pub salt: u64,
    pub shard: Shard<Conn>,
    pub apps: Apps,
    pub settings: Arc<Settings>,
    pub stats: Arc<LoopStats>,
    pub occupancy: Occupancy,
    pub requests: Requests,
    pub reader: Reader,
    /// Where connections go whose next request is none of a loop's.
    pub returns: mpsc::UnboundedSender<Returned>,
    pub encoder: Arc<dyn Encode>,
    pub replays: Replays,
    /// Pollers that have just had their answer: what they sent meanwhile is to be looked at.
    pub idle: Vec<ConnKey>,
    /// Requests of this turn.
    pub asked: Vec<Request>,
    /// Requests of earlier turns that found no room.
    pub waiting: VecDeque<Request>,
    pub departures: Departures,
    pub farewells: Farewells,
    pub registry: Registry,
    /// Since the loop began.
    pub now_ms: u64,
}

impl Desk {
    /// Seconds since the loop began.
    pub fn now_s(&self) -> u32 {
        (self.now_ms / 1000) as u32
    }

    /// Whether the control plane keeps us waiting: read nothing more until it has caught up.
    pub fn is_busy(&self) -> bool {
        self.waiting.len() + self.asked.len() >= REQUESTS_WAITING_MAX
    }

    /// Asks the control plane, at the end of this turn.
    pub fn ask(&mut self, request: Request) {
        self.asked.push(request);
    }

    /// Sends what is to be asked; what finds no room stays, in order.
    pub fn send_requests(&mut self) {
        for Change { key, n, announce } in self.shard.take_changes() {
            self.waiting.push_back(Request::Members { key, from: self.index, n, announce });
        }
        self.waiting.extend(self.asked.drain(..));
        while let Some(request) = self.waiting.pop_front() {
            if let Err(request) = self.requests.try_send(request) {
                self.waiting.push_front(request);
                return;
            }
        }
    }

    /// The socket id of a connection of this loop.
    pub fn socket_id(&self, key: ConnKey) -> SocketId {
        SocketId { a: self.salt, b: key.bits() }
    }

    /// The app of a connection, as it is configured now.
    pub fn app(&self, key: ConnKey) -> Option<Arc<App>> {
        self.apps.by_ix(AppIx(self.shard.app(key)?))
    }

    /// Sends a server-to-client message, written by `message`.
    pub fn say(&mut self, key: ConnKey, message: impl FnOnce(&mut Vec<u8>)) {
        let Some(conn) = self.shard.wire(key) else { return };
        let envelope = conn.stream.envelope();
        self.shard.send(key, envelope.around(message));
    }

    /// Says what is wrong and stays open.
    pub fn complain(&mut self, key: ConnKey, code: Option<u16>, message: &str) {
        self.say(key, |out| server::error(out, code, message));
    }

    /// Closes with a code; `message` goes out before it as an error, where the code is one. Who does not speak the Pusher
    /// protocol is told in its own way.
    pub fn close_with(&mut self, key: ConnKey, code: CloseCode, message: &str, doom: Option<Doom>) {
        let Some(conn) = self.shard.wire(key) else { return };
        let words = match &conn.talk {
            Talk::Pusher { .. } | Talk::Echo => conn.stream.envelope().last_words(code, message),
            Talk::Socket => {
                let mut words = self.feed_words(key, Farewell::of(code));
                ws::close_frame(&mut words, code, code.reason());
                words
            }
            Talk::Stream(_) | Talk::Polls(_) => self.feed_words(key, Farewell::of(code)),
        };
        if !words.is_empty() {
            self.shard.last_words(key, words.into());
        }
        self.close(key, doom, true);
    }

    /// The node stops: has a client go on elsewhere. A poll that waits is over, which needs no error.
    pub fn send_on(&mut self, key: ConnKey) {
        match self.shard.wire(key).map(|conn| &mut conn.talk) {
            Some(Talk::Polls(polls)) if polls.asks => {
                polls.keep_alive = false;
                self.answer_nothing(key);
            }
            _ => self.close_with(key, CloseCode::RECONNECT, "", None),
        }
    }

    /// Gives a connection back to the door, with what it has sent.
    pub fn give_back(&mut self, key: ConnKey, bytes: Vec<u8>) {
        let Some((mut conn, _)) = self.shard.close(key, None) else { return };
        self.uncount(&conn);
        if conn.stream.deregister(&self.registry).is_ok() {
            // The door has closed: then there is nobody to answer.
            let _ = self.returns.send((conn.stream, bytes));
        }
    }

    fn uncount(&self, conn: &Conn) {
        self.occupancy.fetch_sub(1, Ordering::Relaxed);
        if let Some(usage) = &conn.usage {
            usage.disconnect();
        }
    }

    /// Forgets a connection. `spoken`: our last words are on the way, so the socket is kept for its peer to read them.
    pub fn close(&mut self, key: ConnKey, doom: Option<Doom>, spoken: bool) {
        let socket = self.socket_id(key);
        let Some((mut conn, left)) = self.shard.close(key, doom) else { return };
        // A Pusher socket that ended has left; a reader over HTTP comes back, unless it was told not to.
        let may_return = matches!(conn.talk, Talk::Socket | Talk::Stream(_)) && doom != Some(Doom::Terminated);
        for (channel, _) in left.into_iter().filter(|(_, traits)| traits.presence) {
            self.ask(Request::Leave { key: channel, socket, may_return });
        }
        if let Some(User { id, channel, .. }) = conn.more.as_mut().and_then(|more| more.user.take()) {
            self.ask(Request::SignedOut { key: channel, socket, user: id });
        }
        self.uncount(&conn);
        if spoken && let Some(socket) = conn.stream.finish() {
            let now_s = self.now_s();
            self.farewells.keep(&self.registry, socket, true, now_s);
        }
    }

    /// Closes those whom the shard gave up.
    pub fn close_doomed(&mut self) {
        for (key, why) in self.shard.take_doomed() {
            match why {
                Doom::SlowConsumer => {
                    LoopStats::count(&self.stats.closed_slow);
                    tracing::debug!(socket_id = %self.socket_id(key), "slow consumer closed");
                    self.close_with(key, CloseCode::OVER_CAPACITY, "slow consumer: read faster", Some(why));
                }
                Doom::Terminated => {
                    LoopStats::count(&self.stats.closed_told);
                    self.close_with(key, CloseCode::UNAUTHORIZED, "connection terminated by the app", Some(why));
                }
                Doom::Broken => self.close(key, Some(why), false),
            }
        }
    }

    /// Has a Pusher connection come back, which is all that its client understands; not at once, as others have to, too.
    pub fn depart(&mut self, key: ConnKey) {
        self.departures.add(key, self.now_ms, self.salt ^ self.now_ms);
    }

    /// Lets those go, one after the other, who may have missed something or could not be let in.
    pub fn let_go(&mut self) {
        for key in self.shard.take_gapped() {
            self.depart(key);
        }
        while let Some(key) = self.departures.take_due(self.now_ms) {
            if self.shard.is_open(key) {
                LoopStats::count(&self.stats.closed_gap);
                self.close_with(key, CloseCode::RECONNECT, "", None);
            }
        }
    }

    /// Closes connections of apps that are gone or disabled, and those whose token was revoked.
    pub fn recheck(&mut self) {
        for key in (0..self.shard.slots()).filter_map(|slot| self.shard.holder(slot)).collect::<Vec<_>>() {
            let echo = self.shard.wire(key).is_none_or(|conn| conn.usage.is_none());
            let (code, message) = match self.app(key) {
                _ if echo => continue,
                Some(app) if app.enabled => {
                    let claims = self.shard.wire(key).and_then(|conn| conn.claims.clone());
                    if claims.is_some_and(|claims| self.reader.tokens.is_revoked(&app.id, &claims)) {
                        LoopStats::count(&self.stats.closed_told);
                        self.end_feed(key, Farewell::TOKEN_REVOKED);
                    }
                    continue;
                }
                Some(_) => (CloseCode::APP_DISABLED, "the app is disabled"),
                None => (CloseCode::APP_UNKNOWN, "the app was removed"),
            };
            LoopStats::count(&self.stats.closed_told);
            self.close_with(key, code, message, None);
        }
    }

    /// The key of a channel of an app.
    pub fn channel_key(app: &App, channel: &str) -> ChannelKey {
        ChannelKey::new(&app.id, channel)
    }
}
