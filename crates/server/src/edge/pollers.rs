//! Those who poll presence channels: members between two polls, and what happens meanwhile is kept for them.
//!
//! A session is a subscriber of a loop that takes lines of JSON from a pipe, as any stream over HTTP/2 does; a poll takes what has
//! come and makes an answer of it. Between two polls it lies here under the `sid` that the answer named.
//!
//! Always true:
//! - a request that reads from a session has it alone; another that names it meanwhile gets a session of its own;
//! - a session goes on only for the same channels and users, and only from where its last answer ended. Anybody else, and
//!   whoever missed an answer, is let in anew, from the cursor that they name;
//! - a session that nobody takes up for [`UNREAD_MAX`] ends, and its members have left.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use fanfare_hub::{Begin, Since};
use fanfare_proto::cursor::Cursor;
use fanfare_proto::json::{Text, json_string_token, object};
use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::forms;
use super::listen::{Listen, Transport};
use super::pipe::PipeReader;

/// How long a session waits for its next poll. Its member then has the grace of everybody whose connection ended, so
/// membership ends ten seconds after the last answer.
const UNREAD_MAX: Duration = Duration::from_secs(5);

/// How often sessions are looked at that nobody takes up.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The sessions that wait for their next poll; cheap to clone.
#[derive(Clone)]
pub struct Pollers {
    waiting: Arc<Mutex<HashMap<Box<str>, Waiting>>>,
    /// Names are what nobody can guess: a keyed hash of a number.
    random: RandomState,
    named: Arc<AtomicU64>,
}

struct Waiting {
    since: Instant,
    session: Session,
}

/// A poller of presence channels.
pub struct Session {
    /// The app, the channels, and the user on each.
    who: String,
    reader: PipeReader,
    /// The beginning of a line.
    begun: Vec<u8>,
    /// Subscriptions that are not in yet.
    opening: usize,
    messages: VecDeque<Message>,
    /// Where the reader stands when it has had everything that was answered.
    cursor: Option<Cursor>,
    /// Whether everything that was missed follows, until it has been told.
    recovered: Option<bool>,
    /// Who is there, until it has been told: fields of an object.
    rosters: Vec<String>,
    /// Why it has ended.
    over: Option<Over>,
}

/// A message as its line says it.
struct Message {
    line: String,
    cursor: Option<Cursor>,
}

/// Why a session has ended.
#[derive(Clone, Debug)]
pub struct Over {
    /// The status of the answer.
    pub status: u16,
    /// For the person who reads it.
    pub message: String,
    /// Its client goes on elsewhere: that needs no error.
    goes_on: bool,
}

/// What is read of a line.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    event: Text<'a>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
    #[serde(borrow)]
    event_id: Option<Text<'a>>,
    #[serde(borrow)]
    cursor: Option<Text<'a>>,
    recovered: Option<bool>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    status: Option<u16>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
}

impl Pollers {
    /// No sessions yet. Must be called on the runtime, where those that nobody takes up are ended.
    pub fn start() -> Self {
        let pollers = Pollers { waiting: Arc::default(), random: RandomState::new(), named: Arc::default() };
        let swept = Arc::downgrade(&pollers.waiting);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                let Some(waiting) = swept.upgrade() else { return };
                locked(&waiting).retain(|_, waiting| waiting.since.elapsed() < UNREAD_MAX);
            }
        });
        pollers
    }

    /// Takes up the session that a poll goes on with.
    pub fn take_up(&self, listen: &Listen) -> Option<(Box<str>, Session)> {
        let name = listen.sid.as_deref()?;
        let mut waiting = locked(&self.waiting);
        // One that does not go on stays until its time is up: its user is let in anew before, and has never left.
        waiting.get(name).filter(|waiting| waiting.session.goes_on_for(listen))?;
        let (name, Waiting { session, .. }) = waiting.remove_entry(name)?;
        Some((name, session))
    }

    /// A name for a new session.
    pub fn name(&self) -> Box<str> {
        let number = self.named.fetch_add(1, Ordering::Relaxed);
        let half = |side: u8| self.random.hash_one((number, side));
        format!("{:016x}{:016x}", half(0), half(1)).into()
    }

    /// Reads from a session for one request; whatever becomes of that, the session waits for the next one.
    pub fn reading(&self, name: Box<str>, session: Session) -> Reading {
        Reading { pollers: self.clone(), name, session: Some(session) }
    }
}

/// A session in the hands of one request.
pub struct Reading {
    pollers: Pollers,
    name: Box<str>,
    session: Option<Session>,
}

impl Reading {
    /// What there is to say by `until`, as an answer's head behind the lines that differ between readers, and its body.
    pub async fn answer(mut self, listen: &Listen, until: Duration) -> Result<Answer, Over> {
        let session = self.session.as_mut().expect("it is taken out at the end only");
        // A wait that is over has an answer too.
        let _ = tokio::time::timeout(until, session.fill(listen.transport == Transport::LongPoll)).await;
        match session.over.clone().filter(|_| session.messages.is_empty()) {
            Some(over) if !over.goes_on => {
                self.session = None;
                Err(over)
            }
            over => {
                let answer = session.answer(listen, &self.name);
                self.session.take_if(|_| over.is_some());
                Ok(answer)
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let waiting = Waiting { since: Instant::now(), session };
            locked(&self.pollers.waiting).insert(std::mem::take(&mut self.name), waiting);
        }
    }
}

/// An answer to a poll.
pub enum Answer {
    /// There is something to say: head fields, an empty line, and the body.
    Content(Vec<u8>),
    /// There is nothing: head fields alone.
    Nothing(Vec<u8>),
    /// The same to who asks whether anything has changed.
    Unchanged(Vec<u8>),
}

impl Session {
    /// What the lines from `reader` will tell whoever asked for this.
    pub fn new(listen: &Listen, reader: PipeReader) -> Self {
        Session {
            who: who(listen),
            reader,
            begun: Vec::new(),
            opening: listen.channels.len(),
            messages: VecDeque::new(),
            cursor: None,
            // It goes on from a session that is not here, and does not say where that was.
            recovered: (listen.sid.is_some() && listen.begin.is_none()).then_some(false),
            rosters: Vec::new(),
            over: None,
        }
    }

    fn goes_on_for(&self, listen: &Listen) -> bool {
        let from_here = match &listen.begin {
            Some(Begin { since: Since::Cursor(cursor), .. }) => self.cursor.as_ref() == Some(cursor),
            _ => true,
        };
        from_here && self.who == who(listen)
    }

    /// Reads what has come, and, where it `waits`, until there is something to say.
    async fn fill(&mut self, waits: bool) {
        loop {
            let patient = (waits && self.messages.is_empty() && self.recovered != Some(false)) || self.opening > 0;
            if self.over.is_some() {
                return;
            }
            let reader = &mut self.reader;
            let read = poll_fn(|cx| match reader.poll_read(cx) {
                Poll::Pending if !patient => Poll::Ready(None),
                other => other.map(Some),
            });
            match read.await {
                None => return,
                Some(None) => self.over = self.over.take().or(Some(Over::stopping())),
                Some(Some(bytes)) => self.take_in(&bytes),
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.begun.extend_from_slice(bytes);
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = self.begun.split_off(end + 1);
        let lines = std::mem::replace(&mut self.begun, rest);
        let lines = String::from_utf8(lines).expect("lines of ours are JSON");
        // An empty line is a heartbeat.
        lines.lines().filter(|line| !line.is_empty()).for_each(|line| self.hear(line));
    }

    fn hear(&mut self, text: &str) {
        let line: Line<'_> = object(text).expect("lines of ours are objects of ours");
        let cursor = line.cursor.as_ref().and_then(|cursor| Cursor::parse(&cursor.0).ok());
        match &*line.event.0 {
            "fanfare:subscribed" => {
                self.opening = self.opening.saturating_sub(1);
                self.recovered = match (self.recovered, line.recovered) {
                    (Some(all), Some(this)) => Some(all && this),
                    (one, other) => one.or(other),
                };
                if let (Some(channel), Some(roster)) = (line.channel, line.presence) {
                    self.rosters.push(format!("{}:{}", json_string_token(&channel.0), roster.get()));
                }
                self.cursor = both(self.cursor.take(), cursor);
            }
            "fanfare:error" => {
                self.opening = self.opening.saturating_sub(1);
                let message = line.message.map_or(String::new(), |message| message.0.into_owned());
                self.over = Some(Over { status: line.status.unwrap_or(503), message, goes_on: false });
            }
            "fanfare:closed" => {
                let message = line.reason.map_or(String::new(), |reason| reason.0.into_owned());
                let goes_on = message == "drain";
                self.over = Some(Over { status: 503, message, goes_on });
            }
            event => {
                if event == "fanfare:gap" {
                    self.recovered = Some(false);
                }
                self.messages.push_back(Message { line: text.to_owned(), cursor });
            }
        }
    }

    fn answer(&mut self, listen: &Listen, name: &str) -> Answer {
        let mut head = Vec::new();
        forms::header(&mut head, "Fanfare-Sid", name);
        let recovered = self.recovered.take();
        match listen.format {
            forms::Format::Json if !(self.messages.is_empty() && listen.conditional && recovered.is_none()) => {
                let body = self.json(name, recovered);
                self.content(head, "application/json", recovered, &body)
            }
            forms::Format::Raw if !self.messages.is_empty() => self.raw(head, recovered),
            _ => {
                forms::recovered_header(&mut head, recovered);
                forms::cursor_headers(&mut head, self.cursor_text().as_deref());
                match listen.conditional && recovered.is_none() {
                    true => Answer::Unchanged(head),
                    false => Answer::Nothing(head),
                }
            }
        }
    }

    fn json(&mut self, name: &str, recovered: Option<bool>) -> Vec<u8> {
        let mut lines = Vec::with_capacity(self.messages.len());
        while let Some(Message { line, cursor }) = self.messages.pop_front() {
            lines.push(line);
            self.advance(cursor);
        }
        let mut body = forms::json_beginning(self.cursor_text().as_deref());
        body += &format!("\"messages\":[{}]", lines.join(","));
        if let Some(recovered) = recovered {
            body += &format!(",\"recovered\":{recovered}");
        }
        if !self.rosters.is_empty() {
            body += &format!(",\"presence\":{{{}}}", std::mem::take(&mut self.rosters).join(","));
        }
        body += &format!(",\"sid\":\"{name}\"}}");
        body.into_bytes()
    }

    /// One payload is one answer; the poller asks for the next.
    fn raw(&mut self, mut head: Vec<u8>, recovered: Option<bool>) -> Answer {
        let Message { line, cursor } = self.messages.pop_front().expect("the caller looked");
        self.advance(cursor);
        let line: Line<'_> = object(&line).expect("it was read before");
        forms::header(&mut head, "Fanfare-Event", &line.event.0);
        if let Some(id) = &line.event_id {
            forms::header(&mut head, "Fanfare-Event-Id", &id.0);
        }
        let body = line.data.map_or(String::new(), |data| data.0.into_owned());
        self.content(head, "text/plain; charset=utf-8", recovered, body.as_bytes())
    }

    fn content(&self, mut head: Vec<u8>, media_type: &str, recovered: Option<bool>, body: &[u8]) -> Answer {
        forms::header(&mut head, "Content-Type", media_type);
        forms::recovered_header(&mut head, recovered);
        forms::cursor_headers(&mut head, self.cursor_text().as_deref());
        forms::finish(&mut head, body);
        Answer::Content(head)
    }

    /// Goes on to where a message leads; what nobody can resume from leads nowhere.
    fn advance(&mut self, shown: Option<Cursor>) {
        let Some(shown) = shown else { return };
        self.cursor = Some(self.cursor.as_ref().map_or_else(|| shown.clone(), |own| own.advanced(&shown)));
    }

    fn cursor_text(&self) -> Option<String> {
        self.cursor.as_ref().map(Cursor::to_string)
    }
}

impl Over {
    fn stopping() -> Self {
        Over { status: 503, message: "the server is stopping".to_owned(), goes_on: true }
    }
}

/// Where a reader of several channels stands that begins on all of them at once.
fn both(one: Option<Cursor>, other: Option<Cursor>) -> Option<Cursor> {
    match (one, other) {
        (Some(one), Some(other)) => {
            let places = one.places().iter().chain(other.places()).copied();
            Some(Cursor::of(places, one.settled().min(other.settled())))
        }
        (one, other) => one.or(other),
    }
}

/// A session is for this app, these channels, and this user on each.
fn who(listen: &Listen) -> String {
    let mut who = listen.app.id.to_string();
    for wanted in &listen.channels {
        let user = wanted.member.as_ref().map_or("", |member| &member.user_id);
        who += &format!("\n{}\n{user}", wanted.key.name());
    }
    who
}

/// Nothing that holds one of these locks can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
