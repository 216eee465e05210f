//! What a Pusher client says.
//!
//! One call turns the text of a message into a [`ClientMessage`]; most of its strings borrow from that text. Only the
//! form is checked: whether a channel name is legal, a signature right or a client event allowed is decided by those
//! who know the app.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::channel::{BadEventName, event_name_ok};
use crate::json::{self, BadObject, Text};

/// Objects and arrays within each other in the data of a client event. It is relayed as text, so this protects the
/// parsers of its receivers; 128 is where serde_json itself stops.
pub const DEPTH_MAX: usize = 128;

/// Characters of an offending event name that an error repeats.
const ECHO_CHARS_MAX: usize = 64;

/// A message from a client.
#[derive(Debug)]
pub enum ClientMessage<'a> {
    /// `pusher:subscribe`.
    Subscribe {
        /// Which channel, not yet checked.
        channel: Cow<'a, str>,
        /// `key:signature`; an empty one counts as absent.
        auth: Option<Cow<'a, str>>,
        /// The exact string that the signature covers.
        channel_data: Option<Cow<'a, str>>,
        /// The cursor from which to resume (`?positions=1`).
        since: Option<Cow<'a, str>>,
        /// How many of the last publications to begin with (`?positions=1`).
        backtrack: Option<u32>,
    },
    /// `pusher:unsubscribe`.
    Unsubscribe {
        /// Which channel.
        channel: Cow<'a, str>,
    },
    /// `pusher:ping`.
    Ping,
    /// `pusher:pong`.
    Pong,
    /// `pusher:signin`.
    Signin {
        /// `key:signature`.
        auth: Cow<'a, str>,
        /// The exact string that the signature covers.
        user_data: Cow<'a, str>,
    },
    /// `client-…`.
    ClientEvent {
        /// The whole name, `client-` included.
        event: Cow<'a, str>,
        /// Which channel.
        channel: Cow<'a, str>,
        /// Whatever the caller passed.
        data: Option<&'a RawValue>,
    },
}

/// Why a message was not understood. All of them leave the connection open.
#[derive(Debug, thiserror::Error)]
pub enum BadMessage {
    /// The message as a whole.
    #[error("message: {0}")]
    Envelope(#[source] BadObject),
    /// The `data` of a `pusher:` event.
    #[error("data of {event}: {source}")]
    Data {
        /// The event it came with.
        event: String,
        /// What is wrong with it.
        source: BadObject,
    },
    /// The message has no `event`.
    #[error("a message needs an \"event\"")]
    MissingEvent,
    /// The event cannot do without one of its fields.
    #[error("{event} needs \"{field}\"")]
    MissingField {
        /// The event.
        event: String,
        /// Which field.
        field: &'static str,
    },
    /// A client event whose name is too long.
    #[error(transparent)]
    EventName(#[from] BadEventName),
    /// A client event whose data is nested too deeply.
    #[error("client event data nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// `pusher:` and `pusher_internal:` belong to the protocol.
    #[error("{event} is not an event that clients may send")]
    Reserved {
        /// The event.
        event: String,
    },
    /// Any other name must begin with `client-`.
    #[error("{event:?} refused: events sent by clients must begin with client-")]
    NotAClientEvent {
        /// The event.
        event: String,
    },
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    event: Option<Text<'a>>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// All that the `data` of a `pusher:` event may hold.
#[derive(Default, Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow)]
    auth: Option<Text<'a>>,
    #[serde(borrow)]
    channel_data: Option<Text<'a>>,
    #[serde(borrow)]
    user_data: Option<Text<'a>>,
    #[serde(borrow)]
    since: Option<Text<'a>>,
    backtrack: Option<u32>,
}

impl<'a> ClientMessage<'a> {
    /// Reads one message.
    pub fn parse(text: &'a str) -> Result<Self, BadMessage> {
        let Envelope { event, channel, data } = json::object(text).map_err(BadMessage::Envelope)?;
        let Text(event) = event.ok_or(BadMessage::MissingEvent)?;
        match event.as_ref() {
            "pusher:ping" => Ok(Self::Ping),
            "pusher:pong" => Ok(Self::Pong),
            "pusher:subscribe" => subscribe(Payload::read(&event, data)?),
            "pusher:unsubscribe" => unsubscribe(Payload::read(&event, data)?),
            "pusher:signin" => signin(Payload::read(&event, data)?),
            name if name.starts_with("client-") => client_event(event, channel, data),
            name if name.starts_with("pusher:") || name.starts_with("pusher_internal:") => {
                Err(BadMessage::Reserved { event: echo(name) })
            }
            name => Err(BadMessage::NotAClientEvent { event: echo(name) }),
        }
    }
}

fn subscribe(payload: Payload<'_>) -> Result<ClientMessage<'_>, BadMessage> {
    Ok(ClientMessage::Subscribe {
        channel: required("pusher:subscribe", "channel", payload.channel)?,
        // pusher-js sends an empty auth for public channels.
        auth: payload.auth.map(|auth| auth.0).filter(|auth| !auth.is_empty()),
        channel_data: payload.channel_data.map(|data| data.0),
        since: payload.since.map(|since| since.0),
        backtrack: payload.backtrack,
    })
}

fn unsubscribe(payload: Payload<'_>) -> Result<ClientMessage<'_>, BadMessage> {
    let channel = required("pusher:unsubscribe", "channel", payload.channel)?;
    Ok(ClientMessage::Unsubscribe { channel })
}

fn signin(payload: Payload<'_>) -> Result<ClientMessage<'_>, BadMessage> {
    Ok(ClientMessage::Signin {
        auth: required("pusher:signin", "auth", payload.auth)?,
        user_data: required("pusher:signin", "user_data", payload.user_data)?,
    })
}

fn client_event<'a>(
    event: Cow<'a, str>,
    channel: Option<Text<'a>>,
    data: Option<&'a RawValue>,
) -> Result<ClientMessage<'a>, BadMessage> {
    event_name_ok(&event)?;
    if data.is_some_and(|data| !json::depth_within(data.get(), DEPTH_MAX)) {
        return Err(BadMessage::TooDeep);
    }
    let channel = required(&event, "channel", channel)?;
    Ok(ClientMessage::ClientEvent { event, channel, data })
}

impl<'a> Payload<'a> {
    /// Reads an object, or a JSON string that holds an object: Laravel's clients send the latter.
    fn read(event: &str, data: Option<&'a RawValue>) -> Result<Self, BadMessage> {
        let bad = |source| BadMessage::Data { event: echo(event), source };
        let Some(data) = data else {
            return Ok(Self::default());
        };
        if !data.get().starts_with('"') {
            return json::object(data.get()).map_err(bad);
        }
        let inner: String = serde_json::from_str(data.get()).map_err(|error| bad(error.into()))?;
        json::object::<Payload<'_>>(&inner).map(Payload::into_owned).map_err(bad)
    }

    fn into_owned(self) -> Payload<'static> {
        Payload {
            channel: self.channel.map(Text::into_owned),
            auth: self.auth.map(Text::into_owned),
            channel_data: self.channel_data.map(Text::into_owned),
            user_data: self.user_data.map(Text::into_owned),
            since: self.since.map(Text::into_owned),
            backtrack: self.backtrack,
        }
    }
}

fn required<'a>(event: &str, field: &'static str, value: Option<Text<'a>>) -> Result<Cow<'a, str>, BadMessage> {
    match value {
        Some(Text(value)) => Ok(value),
        None => Err(BadMessage::MissingField { event: echo(event), field }),
    }
}

/// As much of a name as an answer should repeat.
fn echo(name: &str) -> String {
    name.chars().take(ECHO_CHARS_MAX).collect()
}
