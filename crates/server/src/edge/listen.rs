//! What a request under `/sub` asks for: which channels, by which transport, from where on, and with what right.
//!
//! A pure function of the request's head, but for the tenants and the tokens it looks up.
//!
//! Always true:
//! - whoever gets a [`Listen`] may read every channel in it;
//! - a token appears in nothing that is said or logged.
//!
//! Not here: whether there is room (`upgrade::Gatekeeper`), the subscription itself (`feed`).

use std::borrow::Cow;
use std::sync::Arc;

use fanfare_hub::{Begin, ChannelKey, Form, Member, Since};
use fanfare_proto::channel::{Access, BadName, ChannelName};
use fanfare_proto::cursor::{BadCursor, Cursor};
use percent_encoding::percent_decode_str;

use super::forms::{Format, Framing, feed_form};
use super::upgrade::{Head, is_upgrade};
use crate::apps::{App, Apps};
use crate::tokens::{self, BadToken, Claims, Tokens};

/// Publications that `backtrack` may ask for. A history keeps fewer by default.
pub const BACKTRACK_MAX: u32 = 10_000;

/// The longest that a long-poll may ask to wait. Proxies give up after 60 s.
const WAIT_S_MAX: u32 = 60;

/// How a subscriber is sent what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A WebSocket.
    Socket,
    /// Server-Sent Events.
    Sse,
    /// Lines, for as long as the response lasts.
    Stream,
    /// One answer, as soon as there is something to say.
    LongPoll,
    /// One answer at once.
    Poll,
}

/// Who is to be let read an answer by its browser (Fetch standard, "CORS protocol").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// No page asks, so nothing has to be said.
    None,
    /// A page that the app does not name: it may read what is public, and nothing by a visitor's cookie.
    Stranger,
    /// A page of this origin, which the app names.
    Named(Box<str>),
}

impl Page {
    /// The page of a request with this `Origin`.
    pub fn of(app: &App, origin: Option<&str>) -> Page {
        match (origin, named(app, origin)) {
            (None, _) => Page::None,
            (Some(_), None) => Page::Stranger,
            (_, Some(named)) => Page::Named(named.into()),
        }
    }

    /// Adds the lines of a response's head that let it read the response.
    pub fn cors(&self, out: &mut Vec<u8>) {
        match self {
            Page::None => return,
            Page::Stranger => out.extend_from_slice(b"Access-Control-Allow-Origin: *\r\n"),
            Page::Named(origin) => {
                super::forms::header(out, "Access-Control-Allow-Origin", origin);
                out.extend_from_slice(b"Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n");
            }
        }
        out.extend_from_slice(EXPOSED);
    }
}

/// What an answer is written on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A socket whose peer knows no chunks.
    Http10,
    /// A socket whose peer does.
    Http11,
    /// The body of an answer that hyper frames.
    Body,
}

impl Carrier {
    /// Whether a stream on it goes out in chunks.
    pub fn is_chunked(self) -> bool {
        self == Carrier::Http11
    }
}

/// A channel that a subscriber may read.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which.
    pub key: ChannelKey,
    /// As whom, on presence channels.
    pub member: Option<Member>,
    /// Whether the newest event is kept for newcomers.
    pub cache: bool,
}

/// What a request asks for, and may have.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Whose channels.
    pub app: Arc<App>,
    /// Each once. Empty only for WebSockets, which name theirs later.
    pub channels: Vec<Wanted>,
    /// How.
    pub transport: Transport,
    /// What is said of each message.
    pub format: Format,
    /// From where on; `None`: the next publication is the first.
    pub begin: Option<Begin>,
    /// What let it in, where something had to.
    pub claims: Option<Arc<Claims>>,
    /// The page that asks, if it is a page.
    pub page: Page,
    /// It sent `If-None-Match`: an answer without news is 304.
    pub conditional: bool,
    /// What its answer is written on.
    pub carrier: Carrier,
    /// Another request may follow on the connection.
    pub keep_alive: bool,
    /// How long a long-poll waits, in seconds.
    pub wait_s: Option<u32>,
    /// The session that a poller of presence channels goes on with.
    pub sid: Option<Box<str>>,
}

impl Listen {
    /// The form in which its messages are written to a socket. `deflate`: whether a WebSocket takes compressed ones.
    pub fn form(&self, deflate: bool) -> Form {
        let framing = match (self.transport, self.carrier.is_chunked()) {
            (Transport::Socket, _) if deflate => Framing::SocketDeflated,
            (Transport::Socket, _) => Framing::Socket,
            (Transport::Sse, true) => Framing::SseChunked,
            (Transport::Sse, false) => Framing::Sse,
            (Transport::Stream, true) => Framing::LinesChunked,
            (Transport::Stream, false) => Framing::Lines,
            (Transport::LongPoll | Transport::Poll, _) => Framing::Answer,
        };
        feed_form(framing, self.format)
    }

    /// Whether others see who listens.
    pub fn has_presence(&self) -> bool {
        self.channels.iter().any(|wanted| wanted.member.is_some())
    }

    /// Whether a loop can serve it on a plain socket of its own; else hyper answers.
    pub fn is_for_a_loop(&self) -> bool {
        match self.transport {
            Transport::Socket | Transport::Sse | Transport::Stream => true,
            Transport::LongPoll => !self.has_presence() && self.sid.is_none(),
            Transport::Poll => false,
        }
    }
}

/// Why a request under `/sub` is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No app has this key.
    #[error("there is no app with key {0}")]
    App(String),
    /// The app was switched off.
    #[error("the app is disabled")]
    Disabled,
    /// A page that the app does not know.
    #[error("origin {0} is not allowed by the app")]
    Origin(String),
    /// No channel at all.
    #[error("expected /sub/{{app_key}}/{{channel}}, and further channels after further slashes")]
    NoChannel,
    /// Not a channel's name.
    #[error("{0}")]
    Name(#[from] BadName),
    /// More channels than a connection may hold.
    #[error("no more than {0} channels per connection")]
    TooMany(u32),
    /// Not what a parameter may be.
    #[error("{name} must be {expected}")]
    Parameter {
        /// Which.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// Not a cursor.
    #[error("{0}")]
    Cursor(#[from] BadCursor),
    /// Somebody else's cursor.
    #[error("the cursor is of another app")]
    ForeignCursor,
    /// A channel that is not for everybody, and nothing to show.
    #[error("{0} takes a token: Authorization: Bearer, the cookie fanfare_token, or ?token=")]
    NoToken(String),
    /// A token that is not good.
    #[error("{0}")]
    Token(#[from] BadToken),
    /// A good token for other channels.
    #[error("the token does not cover {0}")]
    NotCovered(String),
    /// Nobody to be present.
    #[error("{0} takes a token with a sub: the member's id")]
    NoSubject(String),
    /// A channel that only a signed-in Pusher connection has.
    #[error("{0} is for Pusher connections whose user signed in")]
    UserChannel(String),
}

impl Refused {
    /// The status that says what to do about it.
    pub fn status(&self) -> u16 {
        match self {
            Refused::App(_) => 404,
            Refused::Disabled | Refused::Origin(_) | Refused::TooMany(_) => 403,
            Refused::NotCovered(_) | Refused::NoSubject(_) | Refused::UserChannel(_) => 403,
            Refused::NoToken(_) | Refused::Token(_) => 401,
            Refused::NoChannel | Refused::Name(_) | Refused::Parameter { .. } => 400,
            Refused::Cursor(_) | Refused::ForeignCursor => 400,
        }
    }
}

/// Reads requests under `/sub`; cheap to clone.
#[derive(Clone)]
pub struct Reader {
    /// The tenants.
    pub apps: Apps,
    /// What lets readers in.
    pub tokens: Tokens,
    /// Accepted before `/sub`.
    pub path_prefix: Arc<str>,
}

impl Reader {
    /// What the head asks for; `None` if it is not about `/sub` at all.
    pub fn read(&self, head: &impl Head) -> Option<Result<Listen, Refused>> {
        let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
        let rest = self.rest_of(path)?;
        Some(self.listen(head, rest, Query(query)))
    }

    /// The page that asks for this path, for answers to requests that were not read further.
    pub fn page(&self, path: &str, origin: Option<&str>) -> Page {
        let app = self.rest_of(path).and_then(|rest| self.apps.by_key(rest.split('/').next()?));
        match app {
            Some(app) => Page::of(&app, origin),
            None => origin.map_or(Page::None, |_| Page::Stranger),
        }
    }

    /// Whether a path is one of ours.
    pub fn is_ours(&self, path: &str) -> bool {
        self.rest_of(path).is_some()
    }

    fn rest_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let bare = path.strip_prefix(&*self.path_prefix).filter(|rest| rest.starts_with('/')).unwrap_or(path);
        bare.strip_prefix("/sub/")
    }

    fn listen(&self, head: &impl Head, rest: &str, query: Query<'_>) -> Result<Listen, Refused> {
        let (key, names) = rest.split_once('/').unwrap_or((rest, ""));
        let app = self.apps.by_key(key).ok_or_else(|| Refused::App(shown(key)))?;
        let origin = head.header("origin");
        self.check(&app, origin.as_deref())?;
        let page = Page::of(&app, origin.as_deref());
        let transport = transport(head, &query)?;
        let claims = self.claims(head, &app, &query)?;
        let channels = channels(&app, names, claims.as_deref())?;
        if channels.is_empty() && transport != Transport::Socket {
            return Err(Refused::NoChannel);
        }
        let format = format(&query, channels.len())?;
        let conditional = head.header("if-none-match").is_some();
        Ok(Listen {
            begin: begin(head, &query, &app)?.or_else(|| newest(transport, format)),
            format,
            wait_s: number(&query, "wait", 1, WAIT_S_MAX, "seconds from 1 to 60")?,
            sid: query.value("sid").map(|sid| sid.into_owned().into()),
            carrier: if head.is_http_11() { Carrier::Http11 } else { Carrier::Http10 },
            keep_alive: keeps_alive(head) && !has_body(head),
            app,
            channels,
            transport,
            claims,
            page,
            conditional,
        })
    }

    fn check(&self, app: &App, origin: Option<&str>) -> Result<(), Refused> {
        if !app.enabled {
            return Err(Refused::Disabled);
        }
        match app.origin_allowed(origin) {
            true => Ok(()),
            false => Err(Refused::Origin(shown(origin.unwrap_or_default()))),
        }
    }

    fn claims(&self, head: &impl Head, app: &App, query: &Query<'_>) -> Result<Option<Arc<Claims>>, Refused> {
        let authorization = head.header("authorization");
        let cookies = head.header("cookie").filter(|_| is_at_home(head, app));
        let token = authorization.as_deref().and_then(tokens::bearer).map(Cow::Borrowed);
        let token = token.or_else(|| query.value("token")).or_else(|| Some(cookie(cookies.as_deref()?)?.into()));
        token.map(|token| Ok(Arc::new(self.tokens.verify(app, &token)?))).transpose()
    }
}

fn transport(head: &impl Head, query: &Query<'_>) -> Result<Transport, Refused> {
    let accepts = |kind: &str| head.header("accept").is_some_and(|accept| accept.contains(kind));
    let expected = "ws, sse, stream, longpoll or poll; ws takes a WebSocket upgrade";
    let bad = Refused::Parameter { name: "transport", expected };
    match (query.value("transport").as_deref(), is_upgrade(head)) {
        (None | Some("ws"), true) => Ok(Transport::Socket),
        (Some("sse"), _) => Ok(Transport::Sse),
        (Some("stream"), _) => Ok(Transport::Stream),
        (Some("longpoll"), _) => Ok(Transport::LongPoll),
        (Some("poll"), _) => Ok(Transport::Poll),
        (Some(_), _) => Err(bad),
        (None, _) if accepts("text/event-stream") => Ok(Transport::Sse),
        (None, _) if accepts("application/x-ndjson") => Ok(Transport::Stream),
        (None, _) => Ok(Transport::LongPoll),
    }
}

fn format(query: &Query<'_>, channels: usize) -> Result<Format, Refused> {
    match query.value("format").as_deref() {
        None if channels == 1 => Ok(Format::Raw),
        None | Some("json") => Ok(Format::Json),
        Some("raw") => Ok(Format::Raw),
        Some(_) => Err(Refused::Parameter { name: "format", expected: "raw or json" }),
    }
}

fn channels(app: &App, names: &str, claims: Option<&Claims>) -> Result<Vec<Wanted>, Refused> {
    let mut channels: Vec<Wanted> = Vec::new();
    for name in names.split('/').filter(|name| !name.is_empty()) {
        let name = percent_decode_str(name).decode_utf8_lossy();
        if channels.iter().all(|wanted| wanted.key.name() != name) {
            channels.push(wanted(app, &name, claims)?);
        }
    }
    let max = app.limits.channels_per_connection_max;
    match max > 0 && channels.len() > max as usize {
        true => Err(Refused::TooMany(max)),
        false => Ok(channels),
    }
}

/// A channel by its name, for whoever bears this token.
pub fn wanted(app: &App, name: &str, claims: Option<&Claims>) -> Result<Wanted, Refused> {
    let kind = ChannelName::parse(name, app.limits.channel_name_len_max)?.kind();
    let key = ChannelKey::new(&app.id, name);
    let member = match (kind.access, claims) {
        (Access::Public, _) => None,
        (Access::ServerToUser(_), _) => return Err(Refused::UserChannel(shown(name))),
        (_, None) => return Err(Refused::NoToken(shown(name))),
        (_, Some(claims)) if !claims.may_read(name) => return Err(Refused::NotCovered(shown(name))),
        (Access::Presence, Some(claims)) => Some(member(name, claims)?),
        (Access::Private | Access::PrivateEncrypted, Some(_)) => None,
    };
    Ok(Wanted { key, member, cache: kind.cache })
}

fn member(channel: &str, claims: &Claims) -> Result<Member, Refused> {
    let user_id = claims.sub.as_deref().ok_or_else(|| Refused::NoSubject(shown(channel)))?;
    Ok(Member { user_id: user_id.to_owned(), user_info: claims.info.as_deref().map(Into::into) })
}

/// Where to resume. A browser that reconnects by itself repeats the URL that it began with, so headers win.
fn begin(head: &impl Head, query: &Query<'_>, app: &App) -> Result<Option<Begin>, Refused> {
    let header = |name| head.header(name).filter(|value| !value.trim().is_empty()).map(|value| tag(&value).to_owned());
    let named = ["since", "last_event_id", "lastEventID", "lastEventId"].into_iter();
    let text = header("last-event-id").or_else(|| header("if-none-match"));
    let text =
        text.or_else(|| named.filter_map(|name| query.value(name)).find(|text| !text.is_empty()).map(Cow::into_owned));
    beginning(text.as_deref(), number(query, "backtrack", 0, BACKTRACK_MAX, "a whole number")?, app)
}

/// Where to begin, given a cursor, how many of the last publications, or both.
pub fn beginning(since: Option<&str>, backtrack: Option<u32>, app: &App) -> Result<Option<Begin>, Refused> {
    let last = backtrack.map(|last| last.min(BACKTRACK_MAX));
    match since {
        Some(text) => Ok(Some(Begin { since: Since::Cursor(cursor(text, app)?), or_last: last.unwrap_or(0) })),
        None => Ok(last.map(|last| Since::Last(last).into())),
    }
}

/// A poll of payloads alone that names no place is answered with the newest: there is nowhere else to say where it is.
fn newest(transport: Transport, format: Format) -> Option<Begin> {
    (transport == Transport::Poll && format == Format::Raw).then(|| Since::Last(1).into())
}

/// A cursor that one of this app's channels gave.
pub fn cursor(text: &str, app: &App) -> Result<Cursor, Refused> {
    let cursor = Cursor::parse(text)?;
    if cursor.is_of_app(&app.id) { Ok(cursor) } else { Err(Refused::ForeignCursor) }
}

/// What an entity tag says, weak or strong; a bare text is itself.
fn tag(value: &str) -> &str {
    let value = value.trim();
    let value = value.strip_prefix("W/").unwrap_or(value);
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

fn number(
    query: &Query<'_>,
    name: &'static str,
    min: u32,
    max: u32,
    expected: &'static str,
) -> Result<Option<u32>, Refused> {
    let Some(text) = query.value(name) else { return Ok(None) };
    match text.parse() {
        Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
        _ => Err(Refused::Parameter { name, expected }),
    }
}

fn keeps_alive(head: &impl Head) -> bool {
    let says = |token: &str| {
        let connection = head.header("connection");
        connection.is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    if head.is_http_11() { !says("close") } else { says("keep-alive") }
}

fn named<'o>(app: &App, origin: Option<&'o str>) -> Option<&'o str> {
    origin.filter(|origin| !app.allowed_origins.is_empty() && app.origin_allowed(Some(origin)))
}

/// Whether a cookie speaks for whoever asks. A browser sends it along with what any page asks for, and WebSockets ask no
/// leave; so the page must be our own, or one that the app names, or no page at all.
fn is_at_home(head: &impl Head, app: &App) -> bool {
    let Some(origin) = head.header("origin") else { return true };
    let own = origin.split_once("://").map(|(_, host)| host);
    named(app, Some(&origin)).is_some() || own == head.header("host").as_deref()
}

/// Nobody here reads a body, so what follows such a head must not be taken for another one.
fn has_body(head: &impl Head) -> bool {
    let length = head.header("content-length").is_some_and(|length| length.trim() != "0");
    length || head.header("transfer-encoding").is_some()
}

fn cookie(cookies: &str) -> Option<String> {
    let token = cookies.split(';').find_map(|pair| pair.trim().strip_prefix("fanfare_token="))?;
    Some(token.to_owned())
}

/// A query string.
struct Query<'q>(&'q str);

impl<'q> Query<'q> {
    fn value(&self, name: &str) -> Option<Cow<'q, str>> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()?;
        Some(percent_decode_str(value).decode_utf8_lossy())
    }
}

/// The headers that a page may read, beyond those that all may.
const EXPOSED: &[u8] = b"Access-Control-Expose-Headers: ETag, Fanfare-Cursor, Fanfare-Recovered, Fanfare-Event, \
Fanfare-Event-Id, Fanfare-Sid, Retry-After\r\n";

/// Caches and proxies that would hold a stream back are told not to.
pub const UNBUFFERED: &[u8] = b"Cache-Control: no-cache, no-store, no-transform\r\nX-Accel-Buffering: no\r\n";

/// What a peer sent, short enough to be sent back.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
