//! The messages of channels as a program hears them: over the plain WebSocket of `/sub`, each once, from where it was after
//! every reconnect.
//!
//! Channels are named, or found by how they begin: then the server is asked which there are, again and again.
//!
//! Not here: what is done with the messages (`record`), and those of a firehose (`hose`).

use super::access::Access;
use super::request::Request;
use super::socket::{Incoming, Socket};
use crate::tokens;
use anyhow::{Context, anyhow, bail};
use fanfare_proto::close::Reconnect;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a handshake may take.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A server says something every 25 s at least.
pub(super) const SILENCE: Duration = Duration::from_secs(70);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(16);
/// How often it is asked which channels there are.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// For how long a token is good that a connection bears. When it ends, the next connection has another.
const TOKEN_S: u64 = 24 * 60 * 60;
/// Channels that are asked for at once: what they take has to fit into one message to the server.
const ASKED_MAX: usize = 50;
/// Messages by which repeats are known. They come after a reconnect only, and few.
const SEEN_MAX: usize = 100_000;

/// Which channels.
#[derive(Debug)]
pub enum Wanted {
    /// These.
    Channels(Vec<String>),
    /// All that begin so and have a subscriber, now or later.
    Prefix(String),
}

/// What is heard.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Message),
    /// Messages of this channel may be missing here.
    Gap(String),
    /// Something that happened to the connection.
    Note(String),
}

/// One message.
#[derive(Debug)]
pub struct Message {
    /// Where.
    pub channel: String,
    /// Its name.
    pub event: String,
    /// As it was published.
    pub data: String,
    /// The publisher's own id.
    pub event_id: Option<String>,
    /// When it was published.
    pub time_ms: u64,
}

/// What the server says.
#[derive(Debug, Deserialize)]
pub(super) struct Said {
    pub(super) event: String,
    pub(super) channel: Option<String>,
    data: Option<String>,
    pub(super) cursor: Option<String>,
    recovered: Option<bool>,
    event_id: Option<String>,
    #[serde(default)]
    time_ms: u64,
    message: Option<String>,
    reason: Option<String>,
    reconnect: Option<bool>,
}

impl Said {
    /// A message, if it is of a channel.
    pub(super) fn message(self) -> Option<Message> {
        Some(Message {
            channel: self.channel?,
            event: self.event,
            data: self.data.unwrap_or_default(),
            event_id: self.event_id,
            time_ms: self.time_ms,
        })
    }

    /// The end of a connection.
    pub(super) fn closed(self) -> Over {
        let told = anyhow!("closed by the server: {}", self.reason.unwrap_or_default());
        if self.reconnect == Some(false) { Over::Refused(told) } else { Over::Lost(told) }
    }
}

/// Channels that are heard.
pub struct Feed {
    access: Access,
    wanted: Wanted,
    user: String,
    socket: Option<Socket>,
    /// Asked for on this connection.
    asked: HashSet<String>,
    /// Where the first connection began: from there on a channel is heard that appears later.
    start: Option<String>,
    /// Where the next connection goes on.
    cursor: Option<String>,
    seen: Seen,
    look_at: Instant,
    /// When the connection is given up, unless something is heard.
    silent_at: Instant,
    again: Again,
}

impl Feed {
    /// Nothing is asked before the first [`Feed::next`].
    pub fn new(access: Access, wanted: Wanted, user: String) -> Feed {
        Feed {
            access,
            wanted,
            user,
            socket: None,
            asked: HashSet::new(),
            start: None,
            cursor: None,
            seen: Seen::default(),
            look_at: Instant::now(),
            silent_at: Instant::now() + SILENCE,
            again: Again::default(),
        }
    }

    /// Waits for what comes next. An error is the end: trying again would not help.
    pub async fn next(&mut self) -> anyhow::Result<Heard> {
        loop {
            let heard = match self.socket {
                None => self.connect().await,
                Some(_) => self.hear().await,
            };
            match heard {
                Ok(Some(heard)) => return Ok(heard),
                Ok(None) => {}
                Err(over) => {
                    self.socket = None;
                    return self.again.after(over).await;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Option<Heard>, Over> {
        let server = &self.access.server;
        let target = format!("/sub/{}?transport=ws&format=json", self.access.key);
        let late = || anyhow!("no answer within {} s", ANSWER_WITHIN.as_secs());
        let opened = timeout(ANSWER_WITHIN, Socket::open(server, &target)).await.unwrap_or_else(|_| Err(late()));
        self.socket = Some(opened.with_context(|| format!("cannot connect to {}", server.authority))?);
        self.asked.clear();
        self.look_at = Instant::now();
        self.silent_at = self.look_at + SILENCE;
        if let Wanted::Channels(names) = &self.wanted {
            self.subscribe(names.clone(), self.cursor.clone()).await?;
        }
        Ok(None)
    }

    async fn subscribe(&mut self, names: Vec<String>, since: Option<String>) -> Result<(), Over> {
        let token = self.token();
        for names in names.chunks(ASKED_MAX) {
            let mut ask = json!({ "subscribe": names });
            if let Some(since) = &since {
                ask["since"] = since.as_str().into();
            }
            if let Some(token) = &token {
                ask["token"] = token.as_str().into();
            }
            self.socket()?.send_text(&ask.to_string()).await?;
            self.asked.extend(names.iter().cloned());
        }
        Ok(())
    }

    /// For those channels that take one, if there is a secret to sign it with.
    fn token(&self) -> Option<String> {
        let secret = self.access.secret.as_ref()?;
        let patterns = match &self.wanted {
            Wanted::Channels(names) => names.iter().filter(|name| takes_token(name)).cloned().collect(),
            Wanted::Prefix(prefix) => vec![format!("{prefix}*")],
        };
        if patterns.is_empty() {
            return None;
        }
        let claims = json!({ "channels": patterns, "sub": self.user, "exp": tokens::now_s() + TOKEN_S });
        Some(tokens::sign(&self.access.key, secret, &claims.to_string()))
    }

    async fn hear(&mut self) -> Result<Option<Heard>, Over> {
        if matches!(self.wanted, Wanted::Prefix(_)) && Instant::now() >= self.look_at {
            self.look().await?;
        }
        let until = match self.wanted {
            Wanted::Prefix(_) => self.look_at.min(self.silent_at),
            Wanted::Channels(_) => self.silent_at,
        };
        match timeout_at(until, self.socket()?.next()).await {
            Ok(incoming) => {
                self.silent_at = Instant::now() + SILENCE;
                self.heard(incoming?)
            }
            Err(_) if until < self.silent_at => Ok(None),
            Err(_) => Err(anyhow!("the server fell silent").into()),
        }
    }

    /// Asks which channels there are, and for those that are new.
    async fn look(&mut self) -> Result<(), Over> {
        let Wanted::Prefix(prefix) = &self.wanted else { return Ok(()) };
        let request = Request::get("/channels", vec![("filter_by_prefix", Some(prefix.clone()))]);
        let answer: Value = serde_json::from_str(&request.send(&self.access).await?)?;
        let names = answer["channels"].as_object().context("the server told no channels")?;
        let new: Vec<String> = names.keys().filter(|name| !self.asked.contains(*name)).cloned().collect();
        let since = if self.asked.is_empty() { self.cursor.clone() } else { self.start.clone() };
        self.subscribe(new, since).await?;
        self.look_at = Instant::now() + LOOK_EVERY;
        Ok(())
    }

    fn heard(&mut self, incoming: Incoming) -> Result<Option<Heard>, Over> {
        let text = match incoming {
            Incoming::Text(text) => text,
            Incoming::Alive => return Ok(None),
            Incoming::Close(code, reason) => {
                let told = code.map_or("closed by the server".to_owned(), |code| {
                    format!("closed by the server: {} {reason}", code.code()).trim_end().to_owned()
                });
                let stay_away = code.is_some_and(|code| code.reconnection() == Reconnect::Never);
                return Err(if stay_away { Over::Refused(anyhow!(told)) } else { Over::Lost(anyhow!(told)) });
            }
        };
        let said: Said =
            serde_json::from_str(&text).with_context(|| format!("the server sent what is no message: {text}"))?;
        match said.event.as_str() {
            "fanfare:subscribed" => Ok(self.subscribed(said)),
            "fanfare:gap" => {
                self.cursor = said.cursor.or(self.cursor.take());
                Ok(Some(Heard::Gap(said.channel.unwrap_or_default())))
            }
            "fanfare:error" => self.refused(said),
            "fanfare:closed" => Err(said.closed()),
            event if event.starts_with("fanfare:") => Ok(None),
            _ => Ok(self.message(said)),
        }
    }

    fn subscribed(&mut self, said: Said) -> Option<Heard> {
        self.again = Again::from_here();
        self.start = self.start.take().or(said.cursor.clone());
        // When it resumes, what was missed comes next: the place to come back to is in the messages.
        self.cursor = self.cursor.take().or(said.cursor);
        let channel = said.channel?;
        Some(match said.recovered {
            Some(false) => Heard::Gap(channel),
            _ => Heard::Note(format!("subscribed to {channel}")),
        })
    }

    fn refused(&mut self, said: Said) -> Result<Option<Heard>, Over> {
        let told = said.message.unwrap_or_default();
        match (said.channel, &self.wanted) {
            // It was found, not asked for.
            (Some(channel), Wanted::Prefix(_)) => Ok(Some(Heard::Note(format!("{channel}: {told}")))),
            (Some(channel), _) => Err(Over::Refused(anyhow!("{channel}: {told}"))),
            (None, _) => Err(Over::Refused(anyhow!(told))),
        }
    }

    fn message(&mut self, said: Said) -> Option<Heard> {
        let channel = said.channel.as_ref()?;
        if let Some(cursor) = &said.cursor {
            let fresh = self.seen.is_new(format!("{channel} {cursor}"));
            self.cursor = Some(cursor.clone());
            if !fresh {
                return None;
            }
        }
        said.message().map(Heard::Message)
    }

    fn socket(&mut self) -> Result<&mut Socket, Over> {
        self.socket.as_mut().ok_or_else(|| Over::Lost(anyhow!("not connected")))
    }
}

fn takes_token(channel: &str) -> bool {
    channel.starts_with("private-") || channel.starts_with("presence-")
}

/// How a connection ends.
pub(super) enum Over {
    /// It broke: it may be tried again.
    Lost(anyhow::Error),
    /// Trying again would not help.
    Refused(anyhow::Error),
}

/// Whether and when a connection is tried again: only where there has been one, and later each time.
#[derive(Default)]
pub(super) struct Again {
    /// The next pause, once there has been a connection.
    pause: Option<Duration>,
}

impl Again {
    /// There is a connection.
    pub(super) fn from_here() -> Again {
        Again { pause: Some(RETRY_FIRST) }
    }

    /// Waits until it may be tried again. An error is the end.
    pub(super) async fn after(&mut self, over: Over) -> anyhow::Result<Heard> {
        match (over, self.pause) {
            (Over::Lost(error), Some(pause)) => {
                sleep(pause).await;
                self.pause = Some((pause * 2).min(RETRY_LONGEST));
                Ok(Heard::Note(format!("{error:#}; reconnecting")))
            }
            (Over::Lost(error) | Over::Refused(error), _) => Err(error),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Over {
    fn from(error: E) -> Over {
        Over::Lost(error.into())
    }
}

/// The latest messages.
#[derive(Default)]
struct Seen {
    keys: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    fn is_new(&mut self, key: String) -> bool {
        if !self.keys.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        true
    }
}

impl Wanted {
    /// What two flags say.
    pub fn of(channels: Vec<String>, prefix: Option<String>) -> anyhow::Result<Wanted> {
        match (channels.is_empty(), prefix) {
            (false, None) => Ok(Wanted::Channels(channels)),
            (true, Some(prefix)) => Ok(Wanted::Prefix(prefix)),
            _ => bail!("say what to record: --channel, or --prefix (\"\" is every channel)"),
        }
    }
}
