//! One core's event loop: plain epoll through `mio`, no runtime, no locks.
//!
//! A turn: poll; read what is readable; drain the mailboxes; show publications in a bounded slice; send requests to the
//! control plane; flush. While a giant channel is being walked, turns follow each other without waiting, so that sockets,
//! mail and other apps are served between its slices.
//!
//! Always true: the loop never waits for anything but its poll, so its mailboxes always drain.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_hub::hub::Requests;
use fanfare_hub::mail::{Bell, Inbox, MAILBOX_LETTERS_MAX, Mailbox, Wake, mailbox};
use fanfare_hub::publication::Form;
use fanfare_hub::shard::{ConnKey, Doom, Sent, Shard};
use fanfare_hub::{Encode, Mail};
use fanfare_proto::close::CloseCode;
use fanfare_proto::ws::{Assembler, Incoming, Limits};
use fanfare_proto::{deflate, ws};
use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use tokio::sync::mpsc;

use super::conn::{Conn, Talk};
use super::departures::Departures;
use super::desk::Desk;
use super::farewell::Farewells;
use super::feed::{self, Farewell};
use super::forms::pusher_form;
use super::listen::Reader;
use super::pipe::{News, Pipes};
use super::plain;
use super::replays::Replays;
use super::stream::Stream;
use super::{Admission, Arrival, LoopHandle, LoopStats, Occupancy, Order, Returned, Settings, message_bytes_max};

const WAKE: Token = Token(usize::MAX);

/// Bytes read at once, into one buffer that all connections of the loop share.
const SCRATCH_BYTES: usize = 64 << 10;

/// Full buffers read from one connection before others get their turn.
const READS_IN_A_ROW: u32 = 4;

/// Orders that wait before the door does.
const ORDERS_MAX: usize = 1024;

/// Connections looked at in one tick at least; beyond it a round takes up to eight.
const SWEEP_MIN: u32 = 4096;

/// The longest message of the echo route: Autobahn sends 16 MiB.
const ECHO_BYTES_MAX: usize = 17 << 20;

/// What one turn takes in at most: sockets that have something to say, letters, and new connections. A crowd that comes at
/// once then costs everybody else a few hundred microseconds at a time.
const EVENTS_PER_TURN: usize = 128;
const LETTERS_PER_TURN: usize = 256;
const ORDERS_PER_TURN: usize = 32;

const TICK: Duration = Duration::from_secs(1);
/// How often to look while connections are let go one after the other.
const FAREWELL_TICK: Duration = Duration::from_millis(20);

/// How long to wait for the control plane before offering it the same requests again.
const BUSY_TICK: Duration = Duration::from_millis(1);

/// A loop that has been made and not yet run: its mailboxes exist, so that the hub can be made before it runs.
pub struct Prepared {
    poll: Poll,
    mail: Inbox<Mail>,
    orders: Inbox<Order>,
    handle: LoopHandle,
}

/// Makes a loop's poll and mailboxes.
pub fn prepare() -> std::io::Result<(Prepared, Mailbox<Mail>)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let wake: Wake = Arc::new(move || {
        // It fails only when the kernel is out of memory; the next tick looks at the mailboxes anyway.
        let _ = waker.wake();
    });
    let bell = Bell::new(wake);
    let (mail_in, mail) = mailbox(MAILBOX_LETTERS_MAX, bell.clone());
    let (orders_in, orders) = mailbox(ORDERS_MAX, bell.clone());
    let handle = LoopHandle { orders: orders_in, pipes: Pipes::new(bell), stats: Arc::default() };
    Ok((Prepared { poll, mail, orders, handle }, mail_in))
}

/// What every loop works with; cheap to clone.
#[derive(Clone)]
pub struct Kit {
    /// The tenants, and what requests under `/sub` ask for.
    pub reader: Reader,
    /// The node's rules.
    pub settings: Arc<Settings>,
    /// The node's count of connections.
    pub occupancy: Occupancy,
    /// Where requests to the control plane go.
    pub requests: Requests,
    /// What makes publications' bytes.
    pub encoder: Arc<dyn Encode>,
    /// Where connections go whose next request is none of a loop's.
    pub returns: mpsc::UnboundedSender<Returned>,
}

impl Prepared {
    /// How the control plane reaches it.
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }

    /// Runs the loop on this thread until it has been drained. `salt` begins the socket ids of its connections and must be
    /// new at every start.
    pub fn run(self, index: usize, salt: u64, kit: Kit) -> std::io::Result<()> {
        let Kit { reader, settings, occupancy, requests, encoder, returns } = kit;
        let desk = Desk {
            index,
            salt,
            shard: Shard::new(salt, settings.outbox_bytes_max),
            apps: reader.apps.clone(),
            settings,
            stats: self.handle.stats,
            occupancy,
            requests,
            reader,
            returns,
            encoder,
            replays: Replays::default(),
            idle: Vec::new(),
            asked: Vec::new(),
            waiting: VecDeque::new(),
            departures: Departures::default(),
            farewells: Farewells::default(),
            registry: self.poll.registry().try_clone()?,
            now_ms: 0,
        };
        let shard_loop = ShardLoop {
            poll: self.poll,
            mail: self.mail,
            orders: self.orders,
            orders_left: false,
            mail_left: false,
            pipes: self.handle.pipes,
            desk,
            scratch: vec![0; SCRATCH_BYTES],
            paused: Vec::new(),
            swept: 0,
            began: Instant::now(),
            ticked: Duration::ZERO,
            drain: None,
        };
        shard_loop.run()
    }
}

/// One core's event loop.
struct ShardLoop {
    poll: Poll,
    mail: Inbox<Mail>,
    orders: Inbox<Order>,
    /// Orders may be left for a later turn.
    orders_left: bool,
    /// So does mail.
    mail_left: bool,
    pipes: Pipes,
    desk: Desk,
    scratch: Vec<u8>,
    /// Connections whose input waits for the control plane, or for their turn.
    paused: Vec<ConnKey>,
    /// The slot that the next sweep begins with.
    swept: u32,
    began: Instant,
    ticked: Duration,
    drain: Option<Drain>,
}

/// A stop under way.
#[derive(Clone, Copy)]
struct Drain {
    began_ms: u64,
    over_ms: u64,
    /// The slot to close next.
    next: u32,
}

impl ShardLoop {
    fn run(mut self) -> std::io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.drained() {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.desk.now_ms = self.began.elapsed().as_millis() as u64;
            for event in &events {
                self.socket_event(event);
            }
            self.resume_paused();
            self.read_mail();
            self.desk.close_doomed();
            // Requests go first: whoever hears that it is subscribed has then been counted.
            self.desk.send_requests();
            self.desk.shard.turn();
            self.desk.close_doomed();
            self.desk.let_go();
            self.rest_answered();
            self.tick();
            self.write_stats();
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let waits = !self.paused.is_empty() || self.orders_left;
        if self.desk.shard.has_work() || self.mail_left || (waits && !self.desk.is_busy()) {
            Duration::ZERO
        } else if !self.desk.waiting.is_empty() {
            BUSY_TICK
        } else if self.drain.is_some() || !self.desk.departures.is_empty() {
            FAREWELL_TICK
        } else {
            (self.ticked + TICK).saturating_sub(self.began.elapsed())
        }
    }

    // Sockets.

    fn socket_event(&mut self, event: &Event) {
        let token = event.token();
        if token == WAKE {
            return;
        }
        if Farewells::owns(token) {
            return self.desk.farewells.ready(token, &mut self.scratch);
        }
        let key = ConnKey::from_bits(token.0 as u64);
        if event.is_writable() {
            if let Some(conn) = self.desk.shard.wire(key) {
                conn.stream.flush();
            }
            self.desk.shard.writable(key);
        }
        if event.is_readable() {
            self.read(key, event.is_read_closed());
        }
    }

    /// Reads until there is no more, for `mio` tells of each arrival once; who sends without end waits for the next turn.
    /// `ended`: the peer may have closed already. It is told together with its last bytes, so a short read is not the end.
    fn read(&mut self, key: ConnKey, ended: bool) {
        let now_s = self.desk.now_s();
        for _ in 0..READS_IN_A_ROW {
            let Some(conn) = self.desk.shard.wire(key) else { return };
            if conn.paused {
                return;
            }
            // What could not be consumed is less than a control frame, unless the connection is paused.
            let unread = conn.take_unread();
            let kept = unread.len();
            self.scratch[..kept].copy_from_slice(&unread);
            match conn.stream.read(&mut self.scratch[kept..]) {
                Ok(0) => return self.desk.close(key, None, false),
                Ok(n) => {
                    conn.heard_s = now_s;
                    conn.pinged = false;
                    let more = kept + n == self.scratch.len() || ended || conn.stream.has_ended();
                    self.consume(key, kept + n);
                    if !more {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => self.keep_unread(key, 0, kept),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.keep_unread(key, 0, kept),
                Err(_) => return self.desk.close(key, Some(Doom::Broken), false),
            }
        }
        self.pause(key);
    }

    /// Pollers that have had their answer are free for their next request, which may have come already.
    fn rest_answered(&mut self) {
        for key in self.desk.shard.take_answered() {
            self.desk.shard.rest(key);
            self.desk.answered(key);
        }
        for key in std::mem::take(&mut self.desk.idle) {
            if self.desk.is_done(key) {
                self.desk.close(key, None, true);
                continue;
            }
            if self.desk.has_request(key) {
                self.pause(key);
            }
        }
    }

    fn keep_unread(&mut self, key: ConnKey, from: usize, to: usize) {
        if let Some(conn) = self.desk.shard.wire(key).filter(|_| from < to) {
            conn.more().unread.extend_from_slice(&self.scratch[from..to]);
        }
    }

    /// Takes in `len` bytes of the scratch buffer that a connection sent.
    fn consume(&mut self, key: ConnKey, len: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let consumed = match self.desk.shard.wire(key).map(|conn| &conn.talk) {
            Some(Talk::Echo | Talk::Pusher { .. } | Talk::Socket) => self.consume_frames(key, &mut scratch[..len]),
            Some(Talk::Polls(_)) => self.desk.hear_requests(key, &scratch[..len]),
            // A stream has said all that it had to with its request.
            Some(Talk::Stream(_)) | None => len,
        };
        self.scratch = scratch;
        self.keep_unread(key, consumed, len);
    }

    fn consume_frames(&mut self, key: ConnKey, bytes: &mut [u8]) -> usize {
        let Some(conn) = self.desk.shard.wire(key) else { return bytes.len() };
        let (deflate, echo) = (conn.deflate, matches!(conn.talk, Talk::Echo));
        let mut assembler = std::mem::take(&mut conn.assembler);
        let limits = Limits { message_bytes_max: self.largest_message(key, echo) };
        let mut at = 0;
        loop {
            if self.desk.is_busy() {
                self.pause(key);
                break;
            }
            match assembler.next(&mut bytes[at..], &limits, deflate) {
                Ok((used, None)) => {
                    at += used;
                    break;
                }
                Ok((used, Some(incoming))) => {
                    at += used;
                    LoopStats::count(&self.desk.stats.messages_in);
                    self.incoming(key, incoming, echo, deflate);
                }
                Err(violation) => {
                    LoopStats::count(&self.desk.stats.closed_violation);
                    self.desk.close_with(key, violation.close_code(), &violation.to_string(), None);
                }
            }
            if !self.desk.shard.is_open(key) {
                return bytes.len();
            }
        }
        self.put_back(key, assembler);
        at
    }

    fn put_back(&mut self, key: ConnKey, assembler: Assembler) {
        if let Some(conn) = self.desk.shard.wire(key) {
            conn.assembler = assembler;
        }
    }

    /// The largest message of a connection.
    fn largest_message(&self, key: ConnKey, echo: bool) -> usize {
        match self.desk.app(key) {
            _ if echo => ECHO_BYTES_MAX,
            Some(app) => message_bytes_max(&app),
            None => 8 << 10,
        }
    }

    fn incoming(&mut self, key: ConnKey, incoming: Incoming<'_>, echo: bool, deflate: bool) {
        match incoming {
            Incoming::Text(text) if echo => self.echo(key, ws::TEXT, text.as_bytes(), deflate),
            Incoming::Binary(bytes) if echo => self.echo(key, ws::BINARY, &bytes, deflate),
            Incoming::Text(text) if self.desk.is_feed(key) => self.desk.hear_feed(key, &text),
            Incoming::Text(text) => self.desk.hear(key, &text),
            Incoming::Binary(_) => {
                self.desk.close_with(key, CloseCode::UNSUPPORTED, "binary messages are not part of the protocol", None);
            }
            Incoming::Ping(payload) => {
                let mut pong = Vec::with_capacity(payload.len() + 2);
                ws::pong_frame(&mut pong, payload);
                self.desk.shard.send(key, pong.into());
            }
            Incoming::Pong => {}
            Incoming::Close { code, .. } => {
                let mut echo = Vec::new();
                ws::close_echo(&mut echo, code);
                self.desk.shard.last_words(key, echo.into());
                self.desk.close(key, None, true);
            }
        }
    }

    fn echo(&mut self, key: ConnKey, opcode: u8, payload: &[u8], compress: bool) {
        let mut out = Vec::with_capacity(payload.len() + 10);
        if compress {
            let deflated = deflate::deflate(payload);
            ws::frame_header(&mut out, ws::FIN | ws::RSV1 | opcode, deflated.len());
            out.extend_from_slice(&deflated);
        } else {
            ws::frame_header(&mut out, ws::FIN | opcode, payload.len());
            out.extend_from_slice(payload);
        }
        self.desk.shard.send(key, out.into());
    }

    // Input that waits: for the control plane, or for a turn.

    fn pause(&mut self, key: ConnKey) {
        if let Some(conn) = self.desk.shard.wire(key).filter(|conn| !conn.paused) {
            conn.paused = true;
            self.paused.push(key);
        }
    }

    fn resume_paused(&mut self) {
        if self.desk.is_busy() {
            return;
        }
        for key in std::mem::take(&mut self.paused) {
            let Some(conn) = self.desk.shard.wire(key) else { continue };
            conn.paused = false;
            let unread = conn.take_unread();
            self.scratch[..unread.len()].copy_from_slice(&unread);
            self.consume(key, unread.len());
            // While it waited, nobody looked at whether it has closed.
            self.read(key, true);
        }
    }

    // Mail.

    fn read_mail(&mut self) {
        self.mail.bell().hush();
        self.mail_left = true;
        for _ in 0..LETTERS_PER_TURN {
            let Some(letter) = self.mail.take() else {
                self.mail_left = false;
                break;
            };
            match letter {
                Mail::Publication(frames) => self.desk.shard.publish(frames),
                Mail::Opened(key) => self.desk.opened(&key),
                Mail::Refused(key) => self.desk.refused(&key),
                Mail::Entered { key, conn, token, outcome } => self.desk.entered(&key, conn, token, outcome),
                Mail::Say { conn, texts } => {
                    for text in texts {
                        self.desk.say(conn, |out| out.extend_from_slice(&text));
                    }
                }
            }
        }
        self.read_news();
        self.read_orders();
    }

    /// What clients of sessions say waits while the control plane keeps us waiting, as what sockets say does.
    fn read_orders(&mut self) {
        self.orders_left = true;
        for _ in 0..ORDERS_PER_TURN {
            if self.desk.is_busy() {
                return;
            }
            let Some(order) = self.orders.take() else {
                self.orders_left = false;
                return;
            };
            match order {
                Order::Hear { conn, texts } => self.hear(conn, &texts),
                Order::Adopt(arrival) => self.adopt(*arrival),
                Order::Recheck { done } => {
                    self.desk.recheck();
                    drop(done);
                }
                Order::Drain { over_ms } => {
                    self.drain = Some(Drain { began_ms: self.desk.now_ms, over_ms, next: 0 });
                }
            }
        }
    }

    /// What the client of a session said; nothing is a sign of life.
    fn hear(&mut self, key: ConnKey, texts: &[String]) {
        let now_s = self.desk.now_s();
        let Some(conn) = self.desk.shard.wire(key) else { return };
        conn.heard_s = now_s;
        conn.pinged = false;
        for text in texts {
            LoopStats::count(&self.desk.stats.messages_in);
            self.desk.hear(key, text);
        }
    }

    /// Pipes that have room again, or lost their readers.
    fn read_news(&mut self) {
        for key in self.pipes.take_news() {
            match self.desk.shard.wire(key).map(|conn| conn.stream.hear_news()) {
                Some(News::Room) => self.desk.shard.writable(key),
                Some(News::Gone) => self.desk.close(key, None, false),
                None => {}
            }
        }
    }

    fn adopt(&mut self, arrival: Arrival) {
        let Arrival { stream, head, unread, verdict } = arrival;
        match verdict {
            Ok(admission) => self.admit(stream, head, &unread, admission),
            Err(refusal) => {
                let mut words = head;
                words.extend_from_slice(&stream.envelope().last_words(refusal.code, &refusal.message));
                self.turn_away(stream, &words);
            }
        }
    }

    fn turn_away(&mut self, mut stream: Stream, words: &[u8]) {
        // A new socket takes a few hundred bytes; if it does not, its peer is gone.
        if stream.write(&[IoSlice::new(words)]) == Sent::Took(words.len())
            && let Some(socket) = stream.finish()
        {
            let now_s = self.desk.now_s();
            self.desk.farewells.keep(&self.desk.registry, socket, false, now_s);
        }
    }

    fn admit(&mut self, stream: Stream, head: Vec<u8>, unread: &[u8], admission: Admission) {
        let (app, deflate) = (admission.app().cloned(), admission.deflate());
        let now_s = self.desk.now_s();
        let (talk, deadline_s, form) = match &admission {
            Admission::Echo { .. } => (Talk::Echo, 0, Form::TEXT),
            Admission::Pusher { app, positions, .. } => {
                let form = pusher_form(stream.envelope(), *positions, deflate);
                (Talk::Pusher { positions: *positions }, deadline(now_s, app.authorize_within_s), form)
            }
            Admission::Feed { listen, .. } => (Talk::Socket, 0, listen.form(deflate)),
        };
        let conn = Conn {
            stream,
            usage: app.as_ref().map(|app| app.usage.clone()),
            talk,
            assembler: Assembler::default(),
            more: None,
            claims: None,
            heard_s: now_s,
            deadline_s,
            deflate,
            pinged: false,
            paused: false,
        };
        let key = self.desk.shard.open(conn, app.as_ref().map_or(u32::MAX, |app| app.ix.0), form);
        LoopStats::count(&self.desk.stats.connected);
        let conn = self.desk.shard.wire(key).expect("opened above");
        if let Err(error) = conn.stream.register(self.poll.registry(), key) {
            tracing::warn!(%error, "a socket cannot be watched and is closed");
            return self.desk.close(key, None, false);
        }
        if !head.is_empty() {
            self.desk.shard.send(key, head.into());
        }
        match admission {
            Admission::Echo { .. } => {}
            Admission::Pusher { .. } => self.desk.greet(key),
            Admission::Feed { listen, .. } => self.desk.listen(key, *listen),
        }
        self.scratch[..unread.len()].copy_from_slice(unread);
        self.consume(key, unread.len());
    }

    // Time.

    fn tick(&mut self) {
        let elapsed = self.began.elapsed();
        if self.drain.is_some() {
            self.drain_some();
        }
        if elapsed < self.ticked + TICK {
            return;
        }
        self.ticked = elapsed;
        self.desk.shard.tick();
        self.desk.replays.forget();
        let now_s = self.desk.now_s();
        self.desk.farewells.tick(now_s);
        self.sweep(now_s);
    }

    /// Looks at some of the connections: who is silent, who has not authorised itself in time.
    fn sweep(&mut self, now_s: u32) {
        let end = self.desk.shard.slots();
        let share = (end / 8).max(SWEEP_MIN).min(end);
        for _ in 0..share {
            self.swept = if self.swept + 1 >= end { 0 } else { self.swept + 1 };
            if let Some(key) = self.desk.shard.holder(self.swept) {
                self.look_at(key, now_s);
            }
        }
    }

    fn look_at(&mut self, key: ConnKey, now_s: u32) {
        let (activity_s, pong_s) = (self.desk.settings.activity_timeout_s, self.desk.settings.pong_timeout_s);
        let Some(conn) = self.desk.shard.wire(key) else { return };
        let over = conn.deadline_s != 0 && now_s >= conn.deadline_s;
        match &conn.talk {
            Talk::Echo => {}
            Talk::Pusher { .. } if over => {
                let message = "Connection not authorized within timeout";
                return self.desk.close_with(key, CloseCode::UNAUTHORIZED, message, None);
            }
            Talk::Socket | Talk::Stream(_) if over => return self.desk.end_feed(key, Farewell::TOKEN_EXPIRED),
            Talk::Polls(polls) => {
                let asks = polls.asks;
                return self.look_at_poller(key, asks, over);
            }
            Talk::Stream(framing) => {
                let beat = feed::heartbeat(*framing);
                return self.beat(key, now_s, beat);
            }
            Talk::Socket => self.socket_beat(key, now_s),
            Talk::Pusher { .. } => {}
        }
        let Some(conn) = self.desk.shard.wire(key) else { return };
        let plain = matches!(conn.talk, Talk::Socket);
        // Both times are cut to seconds, so only one more of them is surely as long as was promised.
        let silent_s = now_s.saturating_sub(conn.heard_s);
        if conn.pinged && silent_s > activity_s + pong_s {
            LoopStats::count(&self.desk.stats.closed_silent);
            return self.desk.close_with(key, CloseCode::PONG_MISSING, "", None);
        }
        if !plain && !conn.pinged && silent_s > activity_s {
            conn.pinged = true;
            let ping = conn.stream.envelope().ping();
            self.desk.shard.send(key, ping);
        }
    }

    fn look_at_poller(&mut self, key: ConnKey, asks: bool, over: bool) {
        if over && asks {
            self.desk.end_wait(key);
        } else if over || self.desk.is_done(key) {
            self.desk.close(key, None, true);
        } else if self.desk.has_request(key) {
            self.pause(key);
        }
    }

    /// Shows a stream's reader, and every proxy in between, that it lives.
    fn beat(&mut self, key: ConnKey, now_s: u32, beat: &'static [u8]) {
        let after_s = self.beat_after_s();
        let Some(conn) = self.desk.shard.wire(key) else { return };
        if now_s.saturating_sub(conn.heard_s) >= after_s {
            conn.heard_s = now_s;
            self.desk.shard.send(key, Bytes::from_static(beat));
        }
    }

    /// A page sees no ping frame, so it is sent a message too.
    fn socket_beat(&mut self, key: ConnKey, now_s: u32) {
        let after_s = self.beat_after_s();
        let Some(conn) = self.desk.shard.wire(key) else { return };
        if !conn.pinged && now_s.saturating_sub(conn.heard_s) >= after_s {
            conn.pinged = true;
            self.desk.shard.send(key, plain::socket_heartbeat().into());
        }
    }

    /// A sweep of many connections takes up to eight seconds, so one begins early.
    fn beat_after_s(&self) -> u32 {
        (self.desk.settings.heartbeat_s * 3 / 4).max(1)
    }

    // Stopping.

    /// Each slot has its moment, however often we look: those who are closed answer, and wake us for it.
    fn drain_some(&mut self) {
        let Some(Drain { began_ms, over_ms, next }) = self.drain else { return };
        let (slots, gone_ms) = (self.desk.shard.slots(), self.desk.now_ms - began_ms);
        let to = match gone_ms < over_ms {
            true => (u64::from(slots) * gone_ms / over_ms) as u32,
            false => slots,
        };
        for key in (next..to).filter_map(|slot| self.desk.shard.holder(slot)).collect::<Vec<_>>() {
            self.desk.send_on(key);
        }
        // Newcomers take freed slots behind us: once the time is up, every round begins anew until nobody is left.
        let next = if gone_ms < over_ms { to } else { 0 };
        self.drain = Some(Drain { began_ms, over_ms, next });
    }

    fn drained(&self) -> bool {
        self.drain.is_some() && self.desk.shard.connections() == 0 && self.desk.farewells.is_empty()
    }

    fn write_stats(&self) {
        let stats = &self.desk.stats;
        stats.connections.store(self.desk.shard.connections() as u64, Ordering::Relaxed);
        stats.channels.store(self.desk.shard.channels() as u64, Ordering::Relaxed);
        stats.set_ledger(&self.desk.shard.ledger());
    }
}

/// 0 stands for no deadline. The second that has begun is not counted, or the time given would be shorter than promised.
fn deadline(now_s: u32, within_s: u32) -> u32 {
    if within_s == 0 { 0 } else { now_s + 1 + within_s }
}
