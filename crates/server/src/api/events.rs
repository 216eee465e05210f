//! Events as they are posted, read into [`Event`]s that an app may publish.
//!
//! The hot path of the server: `name` and `data` stay the JSON tokens that they came as, and are copied once, into the
//! memory that all frames are made from.
//!
//! Always true: an event that was read is within its app's limits and can be delivered as it is.
//!
//! Not here: rates, windows and delivery (`publish`).

use std::borrow::Cow;
use std::sync::Arc;

use fanfare_hub::ChannelKey;
use fanfare_proto::channel::{Access, BadName, ChannelKind, ChannelName};
use fanfare_proto::json::{self, BadObject, Text};
use fanfare_proto::server::{string_token, string_token_len};
use fanfare_proto::socket_id::{BadSocketId, SocketId};
use hyper::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::info::{BadInfo, Info};
use crate::apps::App;
use crate::limits::Limits;

/// What only the server itself may say. A publisher could otherwise feign a subscription, or a member.
const RESERVED: [&str; 3] = ["pusher:", "pusher_internal:", "fanfare:"];

/// Bytes of an event's id or an idempotency key: a UUID has 36, two digests in hexadecimal 128.
const WORD_LEN_MAX: usize = 128;

/// Something to publish.
#[derive(Debug)]
pub struct Event {
    /// The name as a JSON string token.
    pub name: Arc<str>,
    /// The data as a JSON string token.
    pub data: Arc<str>,
    /// The channels, each once.
    pub targets: Vec<Target>,
    /// The socket that is not to receive it.
    pub except: Option<SocketId>,
    /// What the answer tells of each channel.
    pub info: Info,
    /// The publisher's own id for it.
    pub event_id: Option<Arc<str>>,
    /// The publisher's word for this post: the same word within the app's window is the same post.
    pub idempotency_key: Option<Arc<str>>,
    /// The media type that its publisher named.
    pub content_type: Option<Arc<str>>,
}

/// A channel to publish to.
#[derive(Debug)]
pub struct Target {
    /// Its name in the hub.
    pub key: ChannelKey,
    /// Whether it remembers the event.
    pub cache: bool,
    /// Whether its users are known.
    pub presence: bool,
    /// Whether only its subscribers can read its data.
    encrypted: bool,
}

/// Why something posted cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum BadEvent {
    /// Not the object that was expected.
    #[error("the body: {0}; expected {{\"name\":…,\"data\":…,\"channels\":[…]}}")]
    Body(BadObject),
    /// The body of a batch is not the object that was expected.
    #[error("the body: {0}; expected {{\"batch\":[{{\"name\":…,\"data\":…,\"channel\":…}}, …]}}")]
    BatchBody(BadObject),
    /// One event of a batch; nothing of the batch was published.
    #[error("event {at} of the batch: {bad}")]
    InBatch {
        /// From 0.
        at: usize,
        /// What is wrong with it.
        bad: Box<BadEvent>,
    },
    /// More events than a batch may have.
    #[error("a batch may have {max} events, this one has {found}")]
    BatchTooLarge {
        /// Events in it.
        found: usize,
        /// Events allowed.
        max: usize,
    },
    /// A field is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The name is not a JSON string.
    #[error("name must be a string")]
    NameType,
    /// The name is empty or too long.
    #[error("name must have 1 to {max} bytes, this one has {found}")]
    NameLength {
        /// Bytes in it.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The name is one that only the server may use.
    #[error("events named pusher:…, pusher_internal:… and fanfare:… are the server's own")]
    NameReserved,
    /// More data than the app allows.
    #[error("data may have {max} bytes, this has {found}")]
    TooMuchData {
        /// Bytes in it.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Both `channel` and `channels`.
    #[error("expected either channel or channels, found both")]
    BothChannels,
    /// None, or too many.
    #[error("an event goes to 1 to {max} channels, this one to {found}")]
    ChannelsLength {
        /// Channels named.
        found: usize,
        /// Channels allowed.
        max: usize,
    },
    /// A name that no channel can have.
    #[error(transparent)]
    ChannelName(#[from] BadName),
    /// Encrypted data can be read on one channel only, as the key is made from its name.
    #[error("an event on a private-encrypted- channel can be published to that channel alone")]
    EncryptedAmongOthers,
    /// No socket can have this id.
    #[error("socket_id: {0}")]
    SocketId(#[from] BadSocketId),
    /// An id or a key that is empty, too long, or could not stand in a header.
    #[error("{field} must have 1 to {WORD_LEN_MAX} bytes, and no control characters among them")]
    Word {
        /// Where it was found.
        field: &'static str,
    },
    /// The answer cannot tell what was asked.
    #[error(transparent)]
    Info(#[from] BadInfo),
}

impl BadEvent {
    /// Only size has a status of its own, wherever in a batch it was met.
    pub fn status(&self) -> StatusCode {
        match self {
            BadEvent::InBatch { bad, .. } => bad.status(),
            BadEvent::TooMuchData { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BadEvent::Body(_)
            | BadEvent::BatchBody(_)
            | BadEvent::BatchTooLarge { .. }
            | BadEvent::Missing(_)
            | BadEvent::NameType
            | BadEvent::NameLength { .. }
            | BadEvent::NameReserved
            | BadEvent::BothChannels
            | BadEvent::ChannelsLength { .. }
            | BadEvent::ChannelName(_)
            | BadEvent::EncryptedAmongOthers
            | BadEvent::SocketId(_)
            | BadEvent::Word { .. }
            | BadEvent::Info(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// An event as it is written.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<Text<'a>>,
    #[serde(borrow)]
    channels: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    socket_id: Option<Text<'a>>,
    #[serde(borrow)]
    info: Option<Text<'a>>,
    #[serde(borrow)]
    event_id: Option<Text<'a>>,
    #[serde(borrow)]
    idempotency_key: Option<Text<'a>>,
}

/// `null` is data like any other.
fn even_null<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Event {
    /// Reads the body of `POST /events`.
    pub fn parse(app: &App, text: &str) -> Result<Self, BadEvent> {
        let written = Written::parse(text)?;
        let names = written.channels.as_deref().unwrap_or_default();
        match &written.channel {
            Some(_) if !names.is_empty() => Err(BadEvent::BothChannels),
            Some(name) => written.checked(app, std::slice::from_ref(name)),
            None => written.checked(app, names),
        }
    }

    /// Reads the body of `POST /batch_events`.
    pub fn parse_batch(app: &App, text: &str) -> Result<Vec<Self>, BadEvent> {
        #[derive(Deserialize)]
        struct Batch<'a> {
            #[serde(borrow)]
            batch: Option<Vec<&'a RawValue>>,
        }
        let Batch { batch } = json::object(text).map_err(BadEvent::BatchBody)?;
        let batch = batch.ok_or(BadEvent::Missing("batch"))?;
        let (found, max) = (batch.len(), app.limits.batch_max);
        if found > max {
            return Err(BadEvent::BatchTooLarge { found, max });
        }
        let parse = |(at, event): (usize, &&RawValue)| {
            Event::parse_in_batch(app, event.get()).map_err(|bad| BadEvent::InBatch { at, bad: bad.into() })
        };
        batch.iter().enumerate().map(parse).collect()
    }

    /// An event of a batch goes to one channel, so that the answer has one entry for it.
    fn parse_in_batch(app: &App, text: &str) -> Result<Self, BadEvent> {
        let written = Written::parse(text)?;
        let channel = written.channel.as_ref().ok_or(BadEvent::Missing("channel"))?;
        written.checked(app, std::slice::from_ref(channel))
    }

    /// Makes an event of a whole body, as the deprecated call posts it.
    pub fn of_body(
        app: &App,
        name: Option<&str>,
        channel: &str,
        socket_id: Option<&str>,
        body: &str,
    ) -> Result<Self, BadEvent> {
        let name = name.ok_or(BadEvent::Missing("name"))?;
        let event = Event::of_text(app, name, &[channel], body)?;
        Ok(Event { except: socket_id.map(str::parse).transpose()?, ..event })
    }

    /// Makes an event of a text.
    pub fn of_text(app: &App, name: &str, channels: &[impl AsRef<str>], text: &str) -> Result<Self, BadEvent> {
        check_name(name, &app.limits)?;
        let data = checked_data(json::json_string_token(text).into(), &app.limits)?;
        Ok(Event {
            name: json::json_string_token(name).into(),
            data: (*data).into(),
            targets: targets(app, channels)?,
            except: None,
            info: Info::default(),
            event_id: None,
            idempotency_key: None,
            content_type: None,
        })
    }

    /// Bytes that its frames take, about: what it counts for in its app's window.
    pub fn bytes(&self) -> usize {
        /// The channel's name, headers, and what the hub keeps around them.
        const BESIDE_BYTES: usize = 256;
        (self.name.len() + self.data.len() + BESIDE_BYTES) * self.targets.len()
    }
}

impl<'a> Written<'a> {
    fn parse(text: &'a str) -> Result<Self, BadEvent> {
        json::object(text).map_err(BadEvent::Body)
    }

    fn checked(&self, app: &App, channels: &[impl AsRef<str>]) -> Result<Event, BadEvent> {
        let data = string_token(self.data.ok_or(BadEvent::Missing("data"))?);
        let info = self.info.as_ref().map_or(Ok(Info::default()), |info| Info::parse_counts(&info.0))?;
        Ok(Event {
            name: self.checked_name(&app.limits)?.into(),
            data: (*checked_data(data, &app.limits)?).into(),
            targets: targets(app, channels)?,
            except: self.socket_id.as_ref().map(|id| id.0.parse()).transpose()?,
            info,
            event_id: self.event_id.as_ref().map(|id| word("event_id", &id.0)).transpose()?,
            idempotency_key: self.idempotency_key.as_ref().map(|key| word("idempotency_key", &key.0)).transpose()?,
            content_type: None,
        })
    }

    /// The name's token, once what it says has been looked at.
    fn checked_name(&self, limits: &Limits) -> Result<&str, BadEvent> {
        let token = self.name.ok_or(BadEvent::Missing("name"))?.get();
        let Text(name) = serde_json::from_str(token).map_err(|_| BadEvent::NameType)?;
        check_name(&name, limits)?;
        Ok(token)
    }
}

fn check_name(name: &str, limits: &Limits) -> Result<(), BadEvent> {
    let (found, max) = (name.len(), limits.event_name_len_max);
    match name {
        _ if found == 0 || found > max => Err(BadEvent::NameLength { found, max }),
        _ if RESERVED.iter().any(|prefix| name.starts_with(prefix)) => Err(BadEvent::NameReserved),
        _ => Ok(()),
    }
}

/// An event's id or an idempotency key. Subscribers are told an id in a header, among other places.
pub fn word(field: &'static str, text: &str) -> Result<Arc<str>, BadEvent> {
    let sound = (1..=WORD_LEN_MAX).contains(&text.len()) && !text.contains(char::is_control);
    if sound { Ok(text.into()) } else { Err(BadEvent::Word { field }) }
}

/// The token, if what it holds is short enough: escapes are not held against the publisher.
fn checked_data<'a>(token: Cow<'a, str>, limits: &Limits) -> Result<Cow<'a, str>, BadEvent> {
    let (found, max) = (string_token_len(&token), limits.payload_bytes_max);
    if found > max { Err(BadEvent::TooMuchData { found, max }) } else { Ok(token) }
}

/// The channels of these names, each once.
pub fn targets(app: &App, channels: &[impl AsRef<str>]) -> Result<Vec<Target>, BadEvent> {
    let (found, max) = (channels.len(), app.limits.publish_channels_max);
    if found == 0 || found > max {
        return Err(BadEvent::ChannelsLength { found, max });
    }
    let mut targets: Vec<Target> = Vec::with_capacity(found);
    for name in channels {
        let target = Target::parse(app, name.as_ref())?;
        if !targets.iter().any(|known| known.key == target.key) {
            targets.push(target);
        }
    }
    if targets.len() > 1 && targets.iter().any(|target| target.encrypted) {
        return Err(BadEvent::EncryptedAmongOthers);
    }
    Ok(targets)
}

impl Target {
    /// The channel of this name.
    pub fn parse(app: &App, name: &str) -> Result<Self, BadEvent> {
        let channel = ChannelName::parse(name, app.limits.channel_name_len_max)?;
        let ChannelKind { access, cache } = channel.kind();
        Ok(Target {
            key: ChannelKey::new(&app.id, name),
            cache,
            presence: access == Access::Presence,
            encrypted: access == Access::PrivateEncrypted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::Apps;
    use crate::config::test_config;

    const LIMITS: &str = "payload_bytes_max = 8, batch_max = 2, publish_channels_max = 3, event_name_len_max = 10";

    fn app() -> Arc<App> {
        let text = format!("[[apps]]\nid = 1\nkeys = [{{ key = \"k\", secret = \"s\" }}]\nlimits = {{ {LIMITS} }}");
        Apps::new(&test_config(&text)).by_id("1").expect("configured")
    }

    fn parse(body: &str) -> Result<Event, BadEvent> {
        Event::parse(&app(), body)
    }

    fn names(event: &Event) -> Vec<&str> {
        event.targets.iter().map(|target| target.key.name()).collect()
    }

    #[test]
    fn tokens_are_kept_as_they_came() {
        let event = parse(r#"{"name":"a\u00fc","data":"\u00fc\n","channel":"c"}"#).expect("an event");
        assert_eq!((&*event.name, &*event.data), (r#""a\u00fc""#, r#""\u00fc\n""#));
    }

    #[test]
    fn data_that_is_no_string_becomes_one() {
        for (data, token) in [(r#"{"a":1}"#, r#""{\"a\":1}""#), ("null", r#""null""#), ("1.50", r#""1.50""#)] {
            let event = parse(&format!(r#"{{"name":"n","data":{data},"channel":"c"}}"#)).expect("an event");
            assert_eq!(&*event.data, token);
        }
    }

    #[test]
    fn data_is_measured_as_what_it_means() {
        assert!(
            parse(r#"{"name":"n","data":"\u0061\u0061\u0061\u0061\u0061\u0061\u0061\u0061","channel":"c"}"#).is_ok()
        );
        let bad = parse(r#"{"name":"n","data":"123456789","channel":"c"}"#);
        assert!(matches!(bad, Err(BadEvent::TooMuchData { found: 9, max: 8 })), "{bad:?}");
    }

    #[test]
    fn a_channel_named_twice_is_published_to_once() {
        let event = parse(r#"{"name":"n","data":"","channels":["a","b","a"]}"#).expect("an event");
        assert_eq!(names(&event), ["a", "b"]);
    }

    #[test]
    fn users_have_channels_of_their_own() {
        let event = parse(r##"{"name":"n","data":"","channels":["#server-to-user-ann"]}"##).expect("an event");
        assert_eq!(names(&event), ["#server-to-user-ann"]);
    }

    #[test]
    fn what_is_no_event_is_refused_with_what_was_expected() {
        let says = |body: &str, message: &str| {
            let bad = parse(body).expect_err(body).to_string();
            assert!(bad.contains(message), "{body}: {bad}");
        };
        says("[]", "not a JSON object; expected {\"name\":…");
        says("{", "not valid JSON");
        says(r#"{"name":"n","channel":"c"}"#, "data is missing");
        says(r#"{"data":"","channel":"c"}"#, "name is missing");
        says(r#"{"name":5,"data":"","channel":"c"}"#, "name must be a string");
        says(r#"{"name":"","data":"","channel":"c"}"#, "name must have 1 to 10 bytes");
        says(r#"{"name":"12345678901","data":"","channel":"c"}"#, "name must have 1 to 10 bytes, this one has 11");
        says(r#"{"name":"pusher:x","data":"","channel":"c"}"#, "the server's own");
        says(r#"{"name":"\u0070usher:x","data":"","channel":"c"}"#, "the server's own");
        says(r#"{"name":"fanfare:x","data":"","channel":"c"}"#, "the server's own");
        says(r#"{"name":"n","data":""}"#, "1 to 3 channels, this one to 0");
        says(r#"{"name":"n","data":"","channels":["a","b","c","d"]}"#, "1 to 3 channels, this one to 4");
        says(r#"{"name":"n","data":"","channels":["a"],"channel":"b"}"#, "either channel or channels");
        says(r#"{"name":"n","data":"","channel":"a b"}"#, "' ' in a channel name");
        says(r#"{"name":"n","data":"","channels":["a","private-encrypted-b"]}"#, "to that channel alone");
        says(r#"{"name":"n","data":"","channel":"c","socket_id":"1:2"}"#, "socket_id: a socket id is two numbers");
        says(r#"{"name":"n","data":"","channel":"c","event_id":""}"#, "event_id must have 1 to 128 bytes");
        says(r#"{"name":"n","data":"","channel":"c","event_id":"a\nb"}"#, "no control characters");
        let long = format!(r#"{{"name":"n","data":"","channel":"c","idempotency_key":"{}"}}"#, "k".repeat(129));
        says(&long, "idempotency_key must have 1 to 128 bytes");
        says(r#"{"name":"n","data":"","channel":"c","info":"cache"}"#, "of a single channel only");
    }

    #[test]
    fn a_batch_says_which_of_its_events_is_wrong() {
        let good = r#"{"name":"n","data":"","channel":"c"}"#;
        let batch = |events: &str| Event::parse_batch(&app(), &format!(r#"{{"batch":[{events}]}}"#));
        assert_eq!(batch(&format!("{good},{good}")).expect("two events").len(), 2);
        let bad = batch(&format!("{good},{{}}")).expect_err("no event");
        assert_eq!(bad.to_string(), "event 1 of the batch: channel is missing");
        let bad = batch(&format!("{good},{good},{good}")).expect_err("too many");
        assert_eq!(bad.to_string(), "a batch may have 2 events, this one has 3");
    }
}
