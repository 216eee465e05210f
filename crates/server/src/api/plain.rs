//! `/pub/{app_key}/{channel}[/{channel}…]`: publishing by anything that can make an HTTP request.
//!
//! The body is the data as it is. Who may is said by `Authorization: Bearer` and the key's secret, or a token with the right
//! to publish to every channel named; there is no other way in (a cookie would let other people's pages publish).
//!
//! Rates, windows, limits and history are those of the signed API: both leave through one [`Publisher`].
//!
//! [`Publisher`]: super::publish::Publisher

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::{Published, Since};
use http_body_util::Full;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

use super::channels::Channels;
use super::error::Refused;
use super::events::{Event, Target, word};
use super::info::{Attributes, Info};
use super::receipt::{Position, Receipt, Told};
use super::{Answer, Api, cors};
use crate::apps::App;
use crate::body::{self, Readable};
use crate::doors::Door;
use crate::tokens::{BadToken, bearer};

const METHODS: &str = "GET, POST, PUT, DELETE, OPTIONS";

/// The event of a post that names none.
const EVENT: &str = "message";

const EVENT_TYPE: HeaderName = HeaderName::from_static("event-type");
const EVENT_ID: HeaderName = HeaderName::from_static("event-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Bytes of a media type: what subscribers are told again with every message.
const CONTENT_TYPE_LEN_MAX: usize = 128;

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum BadPlain {
    /// No app has this key.
    #[error("no app has the key {key:?}")]
    Key {
        /// As it was sent.
        key: String,
    },
    /// The page is not one of the app's.
    #[error("pages of this origin may not use this app")]
    Origin,
    /// Another method.
    #[error("expected one of {METHODS}")]
    Method,
    /// Nobody said who is asking.
    #[error("expected Authorization: Bearer and the secret of this key, or a token with the right to publish")]
    NoBearer,
    /// Neither the secret nor a good token.
    #[error("the bearer is not the secret of this key, and as a token: {0}")]
    Bearer(#[from] BadToken),
    /// A good token for something else.
    #[error("this token does not let its bearer publish to {channel}")]
    MayNot {
        /// The first channel that it does not cover.
        channel: String,
    },
    /// A good token, for what no token is good for.
    #[error("a channel is deleted with the secret of the key only")]
    SecretOnly,
    /// Binary data: other transports could not carry it.
    #[error("the body must be text in UTF-8")]
    NotUtf8,
    /// There is nothing to publish.
    #[error("the body is empty")]
    Empty,
    /// A header that is not text, or too long.
    #[error("{0} must be plain text, of at most {CONTENT_TYPE_LEN_MAX} bytes")]
    Header(HeaderName),
}

impl BadPlain {
    /// What its sender may do about it.
    pub fn status(&self) -> StatusCode {
        match self {
            BadPlain::Key { .. } => StatusCode::NOT_FOUND,
            BadPlain::Origin | BadPlain::MayNot { .. } | BadPlain::SecretOnly => StatusCode::FORBIDDEN,
            BadPlain::Method => StatusCode::METHOD_NOT_ALLOWED,
            BadPlain::NoBearer | BadPlain::Bearer(_) => StatusCode::UNAUTHORIZED,
            BadPlain::NotUtf8 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            BadPlain::Empty | BadPlain::Header(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// Answers one request to these channels; pages of allowed origins may read every answer.
pub async fn answer<B: Readable>(
    api: &Api,
    head: &Parts,
    key: &str,
    channels: &[Cow<'_, str>],
    body: B,
) -> Response<Full<Bytes>> {
    let Some(app) = api.apps.by_key(key) else {
        return Refused::from(BadPlain::Key { key: key.to_owned() }).response();
    };
    let origin = head.headers.get(ORIGIN);
    if !app.origin_allowed(origin.map(|origin| origin.to_str().unwrap_or_default())) {
        return Refused::from(BadPlain::Origin).response();
    }
    let call = Call { api, head, app, key, channels };
    cors::readable(call.answer(body).await.unwrap_or_else(|refused| refused.response()), origin)
}

struct Call<'a> {
    api: &'a Api,
    head: &'a Parts,
    app: Arc<App>,
    key: &'a str,
    channels: &'a [Cow<'a, str>],
}

impl Call<'_> {
    async fn answer<B: Readable>(&self, body: B) -> Answer {
        match self.head.method {
            Method::OPTIONS => return Ok(cors::preflight(METHODS)),
            Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE => {}
            _ => return Ok(method_not_allowed()),
        }
        if !self.app.enabled {
            return Err(Refused::Disabled);
        }
        self.authorize()?;
        match self.head.method {
            Method::DELETE => self.delete(body).await,
            Method::POST | Method::PUT => self.publish(body).await,
            _ => self.tell().await,
        }
    }

    fn authorize(&self) -> Result<(), BadPlain> {
        let authorization = self.head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = authorization.and_then(bearer).ok_or(BadPlain::NoBearer)?;
        if self.app.secret(self.key).is_some_and(|secret| secret.is(bearer.as_bytes())) {
            return Ok(());
        }
        let claims = self.api.tokens.verify(&self.app, bearer)?;
        if self.head.method == Method::DELETE {
            return Err(BadPlain::SecretOnly);
        }
        match self.channels.iter().find(|channel| !claims.may_publish(channel)) {
            Some(channel) => Err(BadPlain::MayNot { channel: channel.to_string() }),
            None => Ok(()),
        }
    }

    async fn publish<B: Readable>(&self, body: B) -> Answer {
        let event = self.event(body).await?.ok_or(BadPlain::Empty)?;
        let published = self.api.publisher.publish(&self.app, Door::Plain, std::slice::from_ref(&event)).await?;
        let mut told = Vec::with_capacity(event.targets.len());
        for (target, published) in event.targets.iter().zip(&published) {
            let attributes = self.api.publisher.attributes(event.info, target).await?;
            told.push((target.key.name(), Told { attributes, receipt: Some(Receipt::of(&target.key, published)) }));
        }
        let mut response = super::ok(&Channels::of(told));
        *response.status_mut() = status(&published);
        Ok(response)
    }

    /// Forgets what is stored, after a last message if there is one.
    async fn delete<B: Readable>(&self, body: B) -> Answer {
        if let Some(event) = self.event(body).await? {
            self.api.publisher.publish(&self.app, Door::Plain, &[event]).await?;
        }
        let mut told = Vec::with_capacity(self.channels.len());
        for target in self.targets()? {
            self.api.recall.forget(&target.key);
            let now = self.api.hub.clear(&target.key).await?;
            told.push((target.key.name().to_owned(), Position::of(&target.key, &now)));
        }
        Ok(super::ok(&Channels::of(told.iter().map(|(name, position)| (name.as_str(), position)))))
    }

    /// The state of the channel, or of each in a list.
    async fn tell(&self) -> Answer {
        #[derive(Serialize)]
        struct List {
            channels: Vec<State>,
        }
        let mut states = Vec::with_capacity(self.channels.len());
        for target in self.targets()? {
            states.push(self.state(&target).await?);
        }
        Ok(match states.as_slice() {
            [one] => super::ok(one),
            _ => super::ok(&List { channels: states }),
        })
    }

    async fn state(&self, target: &Target) -> Result<State, Refused> {
        let history = self.api.hub.history(&target.key, &Since::Now, 0).await?;
        let counts = Info { user_count: true, subscription_count: true, ..Info::default() };
        Ok(State {
            channel: target.key.name().to_owned(),
            position: Position::of(&target.key, &history.now),
            stored_messages: history.held.messages,
            stored_bytes: history.held.bytes,
            counts: self.api.publisher.attributes(counts, target).await?,
        })
    }

    fn targets(&self) -> Result<Vec<Target>, Refused> {
        Ok(super::events::targets(&self.app, self.channels)?)
    }

    /// What is posted; `None`: nothing.
    async fn event<B: Readable>(&self, body: B) -> Result<Option<Event>, Refused> {
        let name = self.header(&EVENT_TYPE)?.unwrap_or(EVENT);
        let bytes = body::read(body, self.app.limits.payload_bytes_max).await?;
        let text = std::str::from_utf8(&bytes).map_err(|_| BadPlain::NotUtf8)?;
        if text.is_empty() {
            return Ok(None);
        }
        let event_id = self.header(&EVENT_ID)?.map(|id| word("Event-Id", id)).transpose()?;
        let idempotency_key = self.header(&IDEMPOTENCY_KEY)?.map(|key| word("Idempotency-Key", key)).transpose()?;
        let content_type = self.content_type()?;
        let event = Event::of_text(&self.app, name, self.channels, text)?;
        Ok(Some(Event { info: self.info()?, event_id, idempotency_key, content_type, ..event }))
    }

    /// A header as text, which may be any Unicode.
    fn header(&self, name: &HeaderName) -> Result<Option<&str>, BadPlain> {
        let value = self.head.headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()));
        value.transpose().map_err(|_| BadPlain::Header(name.clone()))
    }

    fn content_type(&self) -> Result<Option<Arc<str>>, BadPlain> {
        // curl calls every body a form that is not called something else; none is one.
        let named = |value: &&HeaderValue| !value.is_empty() && **value != "application/x-www-form-urlencoded";
        let value = self.head.headers.get(CONTENT_TYPE).filter(named);
        let text = value.map(|value| value.to_str().ok().filter(|text| text.len() <= CONTENT_TYPE_LEN_MAX));
        text.map(|text| text.map(Arc::from).ok_or(BadPlain::Header(CONTENT_TYPE))).transpose()
    }

    fn info(&self) -> Result<Info, Refused> {
        let query = self.head.uri.query().unwrap_or_default();
        let asked = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "info");
        Ok(asked.map_or(Ok(Info::default()), |(_, info)| Info::parse_counts(&info))?)
    }
}

/// A channel, as its publisher sees it.
#[derive(Serialize)]
struct State {
    channel: String,
    #[serde(flatten)]
    position: Position,
    stored_messages: usize,
    stored_bytes: usize,
    #[serde(flatten)]
    counts: Attributes,
}

/// 201: somebody is there to hear it; 202: nobody is; 200: it had been published before.
fn status(published: &[Published]) -> StatusCode {
    match published {
        all if all.iter().all(|published| published.repeated) => StatusCode::OK,
        some if some.iter().any(|published| published.heard) => StatusCode::CREATED,
        _ => StatusCode::ACCEPTED,
    }
}

fn method_not_allowed() -> Response<Full<Bytes>> {
    let mut response = Refused::from(BadPlain::Method).response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
    response
}
