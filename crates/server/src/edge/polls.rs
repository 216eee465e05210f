//! The conversation with a connection that polls: one answer for each request, and the subscription rests in between.
//!
//! Always true:
//! - an answer leaves whole: first the lines that differ between readers, then what all of them share;
//! - a request that is none of this loop's goes back to the door with everything that was read.
//!
//! Not here: what all subscribers of `/sub` have in common (`feed`).

use std::borrow::Cow;

use fanfare_hub::shard::ConnKey;
use fanfare_proto::cursor::Cursor;
use fanfare_proto::json::json_string_token;

use super::conn::{Conn, Joining, Polls, Talk};
use super::desk::Desk;
use super::door::head::{HEADERS_MAX, Parsed};
use super::feed::{cursor_after, cursor_of, merged};
use super::forms::{self, Format, Part};
use super::listen::{self, Carrier, Listen, Page, Transport};
use super::upgrade::is_upgrade;

/// Input that may wait while a long-poll does: the next request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long a connection may stand idle between two polls, as at hyper's.
const IDLE_S: u32 = 75;

/// How much longer a poll waits for what is being read for it. A broker that takes more is away.
const READING_S: u32 = 5;

impl Desk {
    /// Tells what was missed; if that is nothing, waits.
    pub fn answer_or_wait(&mut self, key: ConnKey, joining: Joining) {
        let entered = &joining.entered;
        let mut replays = entered.iter().filter_map(|(_, entrance)| entrance.replay.as_ref());
        let resumes = entered.iter().any(|(awaited, _)| awaited.resumes);
        let recovered = resumes.then(|| replays.all(|replay| replay.recovered));
        let missed = merged(entered);
        let cursor = cursor_of(entered);
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) else { return };
        polls.cursor = cursor;
        if missed.is_empty() && recovered != Some(false) {
            return if polls.waits { self.go_live(key, entered) } else { self.answer_nothing(key) };
        }
        let part = match (polls.format, missed.first()) {
            (Format::Json, _) => forms::json_part(missed.iter().map(|frames| &**frames), None, recovered),
            (Format::Raw, Some(oldest)) => {
                polls.cursor = cursor_after(entered, oldest);
                forms::raw_part(oldest, None, recovered)
            }
            (Format::Raw, None) => return self.answer_without_content(key, recovered),
        };
        self.answer(key, part);
    }

    /// Sends an answer that leaves its reader at the cursor that is kept for it, and is done with this request.
    fn answer(&mut self, key: ConnKey, part: Vec<u8>) {
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &conn.talk) else { return };
        if !polls.asks {
            return;
        }
        self.shard.rest(key);
        self.shard.send(key, part.into());
        self.answered(key);
    }

    fn answer_without_content(&mut self, key: ConnKey, recovered: Option<bool>) {
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) else { return };
        let status = if polls.conditional && recovered.is_none() { "304 Not Modified" } else { "204 No Content" };
        if !std::mem::take(&mut polls.asks) {
            return;
        }
        let mut head = Vec::with_capacity(256);
        polls.first_lines(&mut head, status);
        forms::recovered_header(&mut head, recovered);
        forms::cursor_headers(&mut head, polls.cursor.as_ref().map(Cursor::to_string).as_deref());
        head.extend_from_slice(b"\r\n");
        self.answer_whole(key, head);
    }

    /// Sends an answer, first lines and all.
    pub fn answer_whole(&mut self, key: ConnKey, answer: Vec<u8>) {
        if let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) {
            polls.asks = false;
        }
        self.shard.rest(key);
        self.shard.send(key, answer.into());
        self.answered(key);
    }

    /// The wait of a long-poll is over. What is being read for it is awaited a little: a broker that takes longer than every poll
    /// waits would otherwise be asked again and again, and never heard.
    pub fn end_wait(&mut self, key: ConnKey) {
        let Some(conn) = self.shard.wire(key) else { return };
        let reads = conn.more.as_ref().is_some_and(|more| more.joining.is_some());
        match &mut conn.talk {
            Talk::Polls(polls) if reads && polls.waits => {
                polls.waits = false;
                conn.deadline_s += READING_S;
            }
            _ => self.answer_nothing(key),
        }
    }

    /// There is nothing to say to a poller.
    pub fn answer_nothing(&mut self, key: ConnKey) {
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) else { return };
        match (polls.format, polls.conditional) {
            (Format::Json, false) => self.answer(key, forms::json_part(std::iter::empty(), None, None)),
            _ => self.answer_without_content(key, None),
        }
    }

    /// An answer is on its way, and the connection waits for the next request.
    pub fn answered(&mut self, key: ConnKey) {
        let until_s = self.now_s() + IDLE_S;
        let Some(conn) = self.shard.wire(key) else { return };
        if let Some(more) = conn.more.as_mut() {
            // What the control plane still says about this request comes too late.
            more.joining = None;
        }
        conn.trim();
        conn.deadline_s = until_s;
        self.idle.push(key);
    }

    /// Whether a connection has had its last answer, all of it.
    pub fn is_done(&mut self, key: ConnKey) -> bool {
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &conn.talk) else { return false };
        let last = !polls.keep_alive && !polls.asks;
        last && !self.shard.owes(key)
    }

    /// Whether a request came while an answer was still on its way out, which it is no more.
    pub fn has_request(&mut self, key: ConnKey) -> bool {
        let unread = |conn: &Conn| conn.more.as_ref().is_some_and(|more| !more.unread.is_empty());
        let waits = |conn: &Conn| matches!(&conn.talk, Talk::Polls(polls) if polls.asks);
        !self.shard.owes(key) && self.shard.wire(key).is_some_and(|conn| unread(conn) && !waits(conn))
    }

    /// Where it stands.
    pub fn set_poll_cursor(&mut self, key: ConnKey, cursor: Cursor) {
        if let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &mut conn.talk) {
            polls.cursor = Some(cursor);
        }
    }

    /// Takes in requests on a connection that polls: one at a time, and none that is not a loop's. Returns how many bytes
    /// have been dealt with; the rest waits.
    pub fn hear_requests(&mut self, key: ConnKey, bytes: &[u8]) -> usize {
        // An answer is finished before anything else is said, or done with its connection.
        let owes = self.shard.owes(key);
        let Some(Talk::Polls(polls)) = self.shard.wire(key).map(|conn| &conn.talk) else { return bytes.len() };
        if polls.asks || owes {
            if bytes.len() > HEAD_BYTES_MAX {
                self.close(key, None, true);
            }
            return 0;
        }
        // Its last request has been answered; what it says now is no other one.
        if !polls.keep_alive {
            return bytes.len();
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
}

impl Polls {
    /// A connection that asks for this.
    pub fn of(listen: &Listen) -> Polls {
        Polls {
            asks: true,
            format: listen.format,
            page: listen.page.clone(),
            carrier: listen.carrier,
            cursor: None,
            conditional: listen.conditional,
            keep_alive: listen.keep_alive,
            waits: listen.transport == Transport::LongPoll,
        }
    }

    /// The lines of an answer that differ between readers.
    pub fn first_lines(&self, out: &mut Vec<u8>, status: &str) {
        for part in ["HTTP/1.1 ", status, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(listen::UNBUFFERED);
        self.page.cors(out);
        let connection: &[u8] = match (self.carrier, self.keep_alive) {
            (Carrier::Http10, true) => b"Connection: keep-alive\r\n",
            (_, true) => b"",
            (_, false) => b"Connection: close\r\n",
        };
        out.extend_from_slice(connection);
    }

    /// An answer up to what all readers share of its body.
    pub fn begin_answer(&self, out: &mut Vec<u8>, part: &Part<'_>) {
        let cursor = self.cursor_after(part.cursor);
        self.first_lines(out, "200 OK");
        forms::cursor_headers(out, cursor.as_deref());
        out.extend_from_slice(part.fields);
        let beginning = match self.format {
            Format::Json => forms::json_beginning(cursor.as_deref()),
            Format::Raw => String::new(),
        };
        forms::header(out, "Content-Length", &(beginning.len() + part.body.len()).to_string());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(beginning.as_bytes());
    }

    /// Where it stands after what leads there. What nobody can resume from leaves it where it was, and it may not know where
    /// that is; on several channels, one message says nothing of the others.
    fn cursor_after<'a>(&self, newest: Option<&'a str>) -> Option<Cow<'a, str>> {
        match (&self.cursor, newest) {
            (Some(own), Some(newest)) if own.places().len() > 1 => {
                let newest = Cursor::parse(newest).expect("this node made it");
                Some(own.advanced(&newest).to_string().into())
            }
            (_, Some(newest)) => Some(newest.into()),
            (own, None) => own.as_ref().map(|own| own.to_string().into()),
        }
    }
}

/// A refusal that came too late for the door.
pub fn refusal(status: u16, message: &str, keep_alive: bool) -> Vec<u8> {
    let reason = if status == 403 { "403 Forbidden" } else { "503 Service Unavailable" };
    let body = format!("{{\"error\":{}}}", json_string_token(message));
    let mut out = format!("HTTP/1.1 {reason}\r\n").into_bytes();
    out.extend_from_slice(listen::UNBUFFERED);
    Page::Stranger.cors(&mut out);
    forms::header(&mut out, "Content-Type", "application/json");
    forms::header(&mut out, "Retry-After", "1");
    forms::header(&mut out, "Content-Length", &body.len().to_string());
    out.extend_from_slice(if keep_alive { b"\r\n" } else { b"Connection: close\r\n\r\n" });
    out.extend_from_slice(body.as_bytes());
    out
}
