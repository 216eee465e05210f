//! Pusher connections without a WebSocket: pusher-js' `xhr_streaming` and `xhr_polling`, over sessions that outlive their
//! requests.
//!
//! A session is an ordinary connection of a loop whose wire is a pipe. One request at a time reads from it: a stream
//! without end, or polls that end with what they found. What the client says comes in requests of its own. Any of them may
//! come to another node than the one that has the session, and is passed on to that.
//!
//! Always true:
//! - a session belongs to the app whose key stands in its path, and its name is never logged: who knows it can read it;
//! - a session that no request reads from for [`UNREAD_MAX`] ends, and what it is owed until then has the bound of any
//!   other connection.
//!
//! Not here: the frames (`proto::xhr`), what is said (`pusher`).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use fanfare_hub::shard::ConnKey;
use fanfare_proto::xhr;
use hashbrown::HashMap;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Sleep;

use super::neighbours::{Answer, Answers, Neighbours, Place, Question, Unreachable, WAIT};
use super::pipe::PipeReader;
use super::relayed::Relayed;
use super::upgrade::Gatekeeper;
use super::{Arrival, Body, LoopHandle, Loops, Order, Stream, message_bytes_max};

/// How long nobody may read from a session: a new connection over TLS on a bad network. pusher-js opens the next request in
/// the moment in which it is done with the last, and never comes back to a session of which a request failed.
const UNREAD_MAX: Duration = Duration::from_secs(6);

/// How often unread sessions are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often other nodes are told which sessions are here.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// How long a request is silent before a heartbeat. Proxies give up after 30 s at the earliest.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(25);

/// UTF-16 code units after which a streaming client abandons its request at the end of a frame, and opens the next
/// (pusher-js, `MAX_BUFFER_LENGTH`). What is sent behind that frame would be lost with the request, so nothing is.
pub const STREAM_UNITS_MAX: usize = 256 << 10;

/// Bytes of a session's name, key included. Ours are some 40.
const NAME_LEN_MAX: usize = 128;

/// Every session of this node.
pub struct Sessions {
    gatekeeper: Gatekeeper,
    loops: Loops,
    by_name: Mutex<HashMap<Box<str>, Arc<Session>>>,
    /// The nodes to which a request may come that is about a session of ours, and the reverse.
    neighbours: Option<Arc<dyn Neighbours>>,
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'p> {
    key: &'p str,
    /// The app's key and what the client made up.
    name: &'p str,
    verb: Verb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Stream,
    Poll,
    Send,
}

/// A session that its loop knows.
struct Session {
    home: LoopHandle,
    line: Mutex<Line>,
}

/// Who reads from a session.
struct Line {
    reader: PipeReader,
    /// Whole frames that were taken from the pipe and belong to the next request.
    rest: Bytes,
    /// The beginning of a frame: a full pipe is cut anywhere, and no request may end or be given a heartbeat within a frame.
    begun: BytesMut,
    /// Counts requests: only the latest one reads.
    ticket: u64,
    /// The latest request, while it waits.
    waiting: Option<Waker>,
    /// Since when no request reads.
    unread_since: Option<Instant>,
    /// A heartbeat is due at once.
    beat: bool,
    /// A streaming client has yet to answer the last heartbeat.
    beaten: bool,
    /// The loop has closed it, and everything was read.
    ended: bool,
}

impl Sessions {
    /// No sessions yet. Must be called on the runtime, where unread sessions are looked for.
    pub fn start(gatekeeper: Gatekeeper, loops: Loops, neighbours: Option<Arc<dyn Neighbours>>) -> Arc<Self> {
        let sessions = Arc::new(Sessions { gatekeeper, loops, by_name: Mutex::default(), neighbours });
        let swept = Arc::downgrade(&sessions);
        if let Some(neighbours) = &sessions.neighbours {
            let answers: Weak<Sessions> = swept.clone();
            neighbours.serve(answers);
        }
        tokio::spawn(async move {
            let mut kept = tokio::time::Instant::now();
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                let Some(sessions) = swept.upgrade() else { return };
                let gone = sessions.sweep();
                let Some(neighbours) = &sessions.neighbours else { continue };
                neighbours.forget(&gone).await;
                if kept.elapsed() >= KEEP_EVERY {
                    kept = tokio::time::Instant::now();
                    let names: Vec<Box<str>> = locked(&sessions.by_name).keys().cloned().collect();
                    neighbours.keep(&names).await;
                }
            }
        });
        sessions
    }

    /// What a path asks for; `None` if it is not about sessions.
    pub fn call<'p>(&self, path: &'p str) -> Option<Call<'p>> {
        let bare = path.strip_prefix(self.gatekeeper.settings.path_prefix.as_str());
        Call::parse(bare.filter(|bare| bare.starts_with('/')).unwrap_or(path))
    }

    /// Answers a request for what [`Sessions::call`] read in its path.
    pub async fn answer(&self, call: Call<'_>, request: Request<Incoming>) -> Response<Body> {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = match *request.method() {
            Method::OPTIONS => preflight(),
            Method::POST => match call.verb {
                Verb::Stream => self.receive(call, Way::Stream { units: 0 }, &request).await,
                Verb::Poll => self.receive(call, Way::Poll, &request).await,
                Verb::Send => self.send(call, request).await,
            },
            _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "expected POST"),
        };
        // A page that may not listen is told so by a close frame, which it has to be able to read.
        let allowed = origin.unwrap_or(HeaderValue::from_static("*"));
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        response
    }

    /// Reads from a session; begins it if there is none.
    async fn receive(&self, call: Call<'_>, way: Way, request: &Request<Incoming>) -> Response<Body> {
        let body = match self.find(call.name) {
            Some(session) => {
                // A sign of life, as good as any message.
                session.hear(Vec::new()).await;
                Body::Session(Reading::begin(session, way))
            }
            None => match self.elsewhere(call.name, true).await {
                Ok(Some(relayed)) => relayed.read(way),
                // A client that has a session already takes a new one for the loss of its own, and comes back.
                _ => Body::Session(Reading::begin(self.begin(call, request).await, way)),
            },
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        // A type that no browser sniffs at: it would hold back the first bytes.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/javascript; charset=UTF-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, no-transform"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// The session, if another node has it. With `claim`, it is this node's from now on if none has.
    async fn elsewhere(&self, name: &str, claim: bool) -> Result<Option<Relayed>, Unreachable> {
        let Some(neighbours) = &self.neighbours else { return Ok(None) };
        Ok(match neighbours.place(name, claim).await? {
            Place::At(node) => Some(Relayed { neighbours: neighbours.clone(), node, session: name.to_owned() }),
            Place::Here | Place::Nowhere => None,
        })
    }

    async fn begin(&self, call: Call<'_>, request: &Request<Incoming>) -> Arc<Session> {
        let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        let verdict = self.gatekeeper.decide_pusher(call.key, request.uri().query().unwrap_or_default(), origin, false);
        let admitted = verdict.is_ok();
        let home = self.loops.next().clone();
        let (stream, reader) = Stream::pipe(&home);
        let session = Arc::new(Session { home, line: Mutex::new(Line::new(reader)) });
        if admitted {
            // Who is refused reads why in this answer, and has no session to come back to.
            locked(&self.by_name).insert(call.name.into(), session.clone());
        }
        let head = xhr::OPEN.to_vec();
        let arrival = Arrival { stream, head, unread: Vec::new(), verdict };
        session.home.orders.send(Order::Adopt(Box::new(arrival))).await;
        session
    }

    /// Takes what a client says.
    async fn send(&self, call: Call<'_>, request: Request<Incoming>) -> Response<Body> {
        let Some(app) = self.gatekeeper.apps.by_key(call.key) else { return no_session() };
        let session = self.find(call.name);
        let relayed = match session.is_none() {
            true => self.elsewhere(call.name, false).await.unwrap_or_default(),
            false => None,
        };
        if session.is_none() && relayed.is_none() {
            return no_session();
        }
        let body = Limited::new(request.into_body(), message_bytes_max(&app));
        let Ok(body) = body.collect().await else {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the message is too big");
        };
        let Some(texts) = std::str::from_utf8(&body.to_bytes()).ok().and_then(|body| xhr::messages(body).ok()) else {
            return refuse(StatusCode::BAD_REQUEST, "expected a JSON array of strings");
        };
        let heard = match (session, relayed) {
            (Some(session), _) => {
                session.take(texts).await;
                true
            }
            (None, Some(relayed)) => relayed.hear(texts).await.unwrap_or_default(),
            (None, None) => false,
        };
        if heard { status(StatusCode::NO_CONTENT) } else { no_session() }
    }

    fn find(&self, name: &str) -> Option<Arc<Session>> {
        let session = locked(&self.by_name).get(name).cloned()?;
        let ended = session.line().ended;
        (!ended).then_some(session)
    }

    /// Drops those that have ended, or that nobody reads from any more; their loops close them then. Returns their names.
    fn sweep(&self) -> Vec<Box<str>> {
        let over = |session: &Session| {
            let line = session.line();
            line.ended || line.unread_since.is_some_and(|since| since.elapsed() >= UNREAD_MAX)
        };
        let all: Vec<_> = locked(&self.by_name).iter().map(|(name, session)| (name.clone(), session.clone())).collect();
        let gone: Vec<_> = all.into_iter().filter(|(_, session)| over(session)).map(|(name, _)| name).collect();
        gone.iter().for_each(|name| _ = locked(&self.by_name).remove(name));
        gone
    }
}

#[async_trait]
impl Answers for Sessions {
    async fn answer(&self, question: Question) -> Answer {
        let (Question::Read { session, .. } | Question::Hear { session, .. }) = &question;
        let Some(session) = self.find(session) else { return Answer::Unknown };
        match question {
            Question::Hear { texts, .. } => {
                session.take(texts).await;
                Answer::Heard
            }
            Question::Read { units, beat_ms, .. } => {
                session.hear(Vec::new()).await;
                let way = units.map_or(Way::Poll, |units| Way::Stream { units });
                let mut reading = Reading::begin(session, way);
                reading.heartbeat = Box::pin(tokio::time::sleep(Duration::from_millis(beat_ms)));
                match tokio::time::timeout(WAIT, poll_fn(|cx| reading.poll_read(cx))).await {
                    Ok(Some(frames)) => Answer::Frames(frames),
                    Ok(None) => Answer::End,
                    Err(_) => Answer::Nothing,
                }
            }
        }
    }
}

impl<'p> Call<'p> {
    /// `/pusher/app/{key}/{number}/{session}/{verb}`, where pusher-js puts the first part unless it is told otherwise.
    fn parse(path: &'p str) -> Option<Self> {
        let name_and_verb = path.strip_prefix("/pusher").unwrap_or(path).strip_prefix("/app/")?;
        let (name, verb) = name_and_verb.rsplit_once('/')?;
        let mut parts = name.split('/');
        let (key, _number, _session) = (parts.next()?, parts.next()?, parts.next()?);
        let verb = match verb {
            "xhr_streaming" => Verb::Stream,
            "xhr" => Verb::Poll,
            "xhr_send" => Verb::Send,
            _ => return None,
        };
        (parts.next().is_none() && name.len() <= NAME_LEN_MAX).then_some(Call { key, name, verb })
    }
}

impl Session {
    /// Takes what its client said in a request; nothing is a sign of life.
    async fn take(&self, texts: Vec<String>) {
        if texts.is_empty() {
            self.line().answer_ping();
        }
        self.hear(texts).await;
    }

    /// Passes on what its client said.
    async fn hear(&self, texts: Vec<String>) {
        // Without a key it has not been adopted yet, and its client has heard nothing that it could answer.
        let conn: Option<ConnKey> = self.line().reader.key();
        if let Some(conn) = conn {
            self.home.orders.send(Order::Hear { conn, texts }).await;
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        locked(&self.line)
    }
}

/// How a request reads.
#[derive(Debug)]
pub enum Way {
    /// On and on, as far as its client keeps what it gets.
    Stream { units: usize },
    /// What there is, or the next that comes.
    Poll,
}

/// The body of a request that reads from a session.
pub struct Reading {
    session: Arc<Session>,
    ticket: u64,
    way: Way,
    heartbeat: Pin<Box<Sleep>>,
    /// A poll that has its answer.
    done: bool,
}

impl Reading {
    /// Takes over from the request before, which ends.
    fn begin(session: Arc<Session>, way: Way) -> Self {
        let mut line = session.line();
        line.ticket += 1;
        line.unread_since = None;
        let (ticket, before) = (line.ticket, line.waiting.take());
        drop(line);
        before.into_iter().for_each(Waker::wake);
        Reading { session, ticket, way, heartbeat: Box::pin(tokio::time::sleep(HEARTBEAT_EVERY)), done: false }
    }

    /// The next bytes of this answer; `None` at its end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let session = self.session.clone();
        let mut line = session.line();
        if self.done || line.ticket != self.ticket {
            return Poll::Ready(None);
        }
        line.waiting = Some(cx.waker().clone());
        if matches!(self.way, Way::Stream { units } if units > STREAM_UNITS_MAX) {
            // The client is about to open the next request.
            return Poll::Pending;
        }
        let frames = match line.poll_frames(cx) {
            Poll::Ready(Some(frames)) => frames,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                if !std::mem::take(&mut line.beat) {
                    ready!(self.heartbeat.as_mut().poll(cx));
                }
                line.beaten = matches!(self.way, Way::Stream { .. });
                Bytes::from_static(xhr::HEARTBEAT)
            }
        };
        self.heartbeat.as_mut().reset(tokio::time::Instant::now() + HEARTBEAT_EVERY);
        Poll::Ready(Some(self.take_share(&mut line, frames)))
    }

    /// What of these frames this answer may hold; the rest waits for the next one.
    fn take_share(&mut self, line: &mut Line, mut frames: Bytes) -> Bytes {
        let Way::Stream { units } = &mut self.way else {
            self.done = true;
            return frames;
        };
        let mut share = 0;
        for frame in frames.split_inclusive(|byte| *byte == b'\n') {
            if *units > STREAM_UNITS_MAX {
                break;
            }
            *units += xhr::utf16_len(frame);
            share += frame.len();
        }
        line.rest = frames.split_off(share);
        frames
    }
}

impl Line {
    /// The end of a pipe that nobody has read from.
    fn new(reader: PipeReader) -> Self {
        Line {
            reader,
            rest: Bytes::new(),
            begun: BytesMut::new(),
            ticket: 0,
            waiting: None,
            unread_since: None,
            beat: false,
            beaten: false,
            ended: false,
        }
    }

    /// A sign of life is the answer to our heartbeat, or a ping of the client's own, which is answered by a heartbeat: both
    /// look alike, and to answer an answer would never end.
    fn answer_ping(&mut self) {
        if !std::mem::take(&mut self.beaten) {
            self.beat = true;
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// The next whole frames; `None` once the loop has closed the session.
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let Some(bytes) = ready!(self.reader.poll_read(cx)) else {
                self.ended = true;
                return Poll::Ready(None);
            };
            let end = bytes.iter().rposition(|byte| *byte == b'\n');
            self.begun.extend_from_slice(&bytes);
            if let Some(end) = end {
                let whole = self.begun.len() - bytes.len() + end + 1;
                let begun = BytesMut::from(&self.begun[whole..]);
                self.begun.truncate(whole);
                return Poll::Ready(Some(std::mem::replace(&mut self.begun, begun).freeze()));
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut line = self.session.line();
        if line.ticket == self.ticket {
            line.waiting = None;
            line.unread_since = Some(Instant::now());
        }
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("way", &self.way).finish_non_exhaustive()
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from(Full::default()));
    *response.status_mut() = status;
    response
}

fn refuse(why: StatusCode, message: &'static str) -> Response<Body> {
    let mut response = status(why);
    *response.body_mut() = Full::from(format!("{message}\n")).into();
    response
}

fn no_session() -> Response<Body> {
    refuse(StatusCode::NOT_FOUND, "there is no such session")
}

fn preflight() -> Response<Body> {
    let mut response = status(StatusCode::NO_CONTENT);
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Nothing that holds one of these locks can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_pusher_js_are_understood() {
        let name = "key/123/abcdefgh";
        for (path, verb) in [
            ("/pusher/app/key/123/abcdefgh/xhr_streaming", Verb::Stream),
            ("/app/key/123/abcdefgh/xhr", Verb::Poll),
            ("/pusher/app/key/123/abcdefgh/xhr_send", Verb::Send),
        ] {
            assert_eq!(Call::parse(path), Some(Call { key: "key", name, verb }), "{path}");
        }
    }

    /// Who has half a frame neither abandons its stream nor understands what comes next.
    #[test]
    fn what_a_full_pipe_cut_is_read_whole() {
        use crate::edge::pipe::Pipes;
        use fanfare_hub::mail::Bell;
        use std::io::IoSlice;

        let (pipe, reader) = Pipes::new(Bell::new(Arc::new(|| {}))).make();
        let mut line = Line::new(reader);
        let mut written = |bytes: &[u8]| {
            pipe.write(&[IoSlice::new(bytes)]);
            line.poll_frames(&mut Context::from_waker(Waker::noop()))
        };
        assert_eq!(written(b"one\ntwo\nthr"), Poll::Ready(Some("one\ntwo\n".into())));
        assert_eq!(written(b"e"), Poll::Pending);
        assert_eq!(written(b"e\nfour"), Poll::Ready(Some("three\n".into())));
        drop(pipe);
        assert_eq!(line.poll_frames(&mut Context::from_waker(Waker::noop())), Poll::Ready(None));
    }

    #[test]
    fn other_paths_are_left_to_others() {
        let long = format!("/app/key/1/{}/xhr", "x".repeat(200));
        for path in
            ["/", "/app/key", "/app/key/xhr", "/app/key/1/abcd", "/app/key/1/abcd/jsonp", "/app/k/1/2/3/xhr", &long]
        {
            assert_eq!(Call::parse(path), None, "{path}");
        }
    }
}
