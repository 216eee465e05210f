//! One publication, and its forms on the wire.
//!
//! Always true: a publication is encoded at most once per form per node. The publisher's `event` and `data` are kept as
//! the JSON string tokens that they arrived as and are spliced into the frame; nothing is parsed or escaped again.
//!
//! Not here: what the forms are, but for Pusher's own two; a node brings its [`Encode`].

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fanfare_proto::socket_id::SocketId;
use fanfare_proto::{deflate, feed, server, ws};
use tokio::sync::OwnedSemaphorePermit;

use crate::broker::{InFlight, Mark, StreamPosition};
use crate::hold::{Hold, held};
use crate::key::ChannelKey;

/// What a publication is to the sockets that it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event on its channel.
    Event,
    /// A change of a presence channel's members; `version` rises with each change of that channel.
    Presence {
        /// The channel's version after this change.
        version: u64,
    },
    /// An event that names no channel on the wire (watchlists).
    Unaddressed,
    /// Not shown to anybody: close every socket subscribed here (`terminate_connections`).
    Terminate,
    /// Nothing that anybody published: something before it may be missing for good. Whoever takes a form in which that cannot
    /// be said is to go, and to come back ([`crate::shard::Shard::take_gapped`]).
    Gap,
}

/// One message to all subscribers of a channel.
#[derive(Debug)]
pub struct Publication {
    /// The event's name as a JSON string token, quotes included.
    pub event: Arc<str>,
    /// The event's data as a JSON string token, quotes included.
    pub data: Arc<str>,
    /// The verified user behind a client event on a presence channel, as a JSON string token.
    pub user_id: Option<Box<str>>,
    /// A socket that must not receive it.
    pub except: Option<SocketId>,
    /// What it is to its receivers.
    pub kind: Kind,
    /// The publisher's own id for it.
    pub event_id: Option<Arc<str>>,
    /// The media type that its publisher named.
    pub content_type: Option<Arc<str>>,
    /// When it was published, in milliseconds since the Unix epoch; 0 if nobody is to be told.
    pub time_ms: u64,
    /// Its number among what the node published in the same second, from 1; 0 before it is published.
    pub tag: u32,
    /// The publisher's share of its app's window, until it is published; given back once every loop has walked its
    /// subscribers.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Publication {
    /// An ordinary event; both arguments are JSON string tokens, quotes included.
    pub fn event(event: impl Into<Arc<str>>, data: impl Into<Arc<str>>) -> Self {
        Publication {
            event: event.into(),
            data: data.into(),
            user_id: None,
            except: None,
            kind: Kind::Event,
            event_id: None,
            content_type: None,
            time_ms: 0,
            tag: 0,
            permit: None,
        }
    }

    /// The same content without its share of the window, for whoever keeps it beyond delivery.
    pub fn kept(&self) -> Self {
        Publication {
            event: self.event.clone(),
            data: self.data.clone(),
            user_id: self.user_id.clone(),
            except: None,
            kind: self.kind,
            event_id: self.event_id.clone(),
            content_type: self.content_type.clone(),
            time_ms: self.time_ms,
            tag: self.tag,
            permit: None,
        }
    }

    /// The message as a server-to-client JSON text.
    pub fn text(&self, channel: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.event.len() + channel.len() + self.data.len());
        let channel = (self.kind != Kind::Unaddressed).then_some(channel);
        server::event(&mut out, &self.event, channel, &self.data, self.user_id.as_deref());
        out
    }
}

/// A form in which a subscriber takes its messages: a number that the node's [`Encode`] gives a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form(pub u8);

impl Form {
    /// A Pusher message in a WebSocket text frame.
    pub const TEXT: Form = Form(0);
    /// The same, compressed where that pays (RFC 7692, no context takeover).
    pub const DEFLATED: Form = Form(1);
}

/// Turns publications into what goes out on sockets.
pub trait Encode: Send + Sync {
    /// How many forms there are.
    fn forms(&self) -> usize;

    /// All bytes of one publication in a form, framing included. None at all: it is not shown in this form.
    fn encode(&self, form: Form, frames: &Frames) -> Bytes;

    /// Several publications of one channel as they leave together.
    fn join(&self, form: Form, frames: &[Arc<Frames>]) -> Bytes {
        let len = frames.iter().map(|frames| frames.bytes(form).len()).sum();
        let mut out = Vec::with_capacity(len);
        frames.iter().for_each(|frames| out.extend_from_slice(frames.bytes(form)));
        out.into()
    }
}

/// Pusher's two forms: [`Form::TEXT`] and [`Form::DEFLATED`].
#[derive(Clone, Copy, Debug)]
pub struct PusherForms {
    /// Messages of fewer bytes are not worth compressing.
    pub deflate_bytes_min: usize,
}

impl Encode for PusherForms {
    fn forms(&self) -> usize {
        2
    }

    fn encode(&self, form: Form, frames: &Frames) -> Bytes {
        if frames.is_gap() {
            return Bytes::new();
        }
        let text = frames.publication().text(frames.key().name());
        match form {
            Form::DEFLATED => {
                deflated_frame(&text, self.deflate_bytes_min).unwrap_or_else(|| frames.bytes(Form::TEXT).clone())
            }
            _ => ws::text_frame(&text).into(),
        }
    }
}

/// A compressed WebSocket text frame, if that is shorter and there are at least `bytes_min` bytes.
pub fn deflated_frame(text: &[u8], bytes_min: usize) -> Option<Bytes> {
    if text.len() < bytes_min {
        return None;
    }
    let deflated = deflate::deflate(text);
    if deflated.len() >= text.len() {
        return None;
    }
    let mut out = Vec::with_capacity(deflated.len() + 10);
    ws::frame_header(&mut out, ws::FIN | ws::RSV1 | ws::TEXT, deflated.len());
    out.extend_from_slice(&deflated);
    Some(out.into())
}

/// A publication on its way through this node: its frames are made when first asked for, by whichever loop comes first.
pub struct Frames {
    key: ChannelKey,
    publication: Arc<Publication>,
    mark: Option<Mark>,
    encoder: Arc<dyn Encode>,
    forms: Box<[OnceLock<Bytes>]>,
    in_flight: InFlight,
}

impl Frames {
    /// Nothing is encoded yet.
    pub fn new(key: ChannelKey, publication: Arc<Publication>, mark: Option<Mark>, encoder: Arc<dyn Encode>) -> Self {
        let forms = std::iter::repeat_with(OnceLock::new).take(encoder.forms()).collect();
        Frames { key, publication, mark, encoder, forms, in_flight: InFlight::default() }
    }

    /// What tells the channel's subscribers that something may be missing before `now`.
    pub fn gap(key: ChannelKey, now: Mark, encoder: Arc<dyn Encode>) -> Self {
        let event = format!("\"{}gap\"", feed::RESERVED);
        let gap = Publication { kind: Kind::Gap, ..Publication::event(event, "\"{}\"") };
        Frames::new(key, Arc::new(gap), Some(now), encoder)
    }

    /// Whether they tell of a gap.
    pub fn is_gap(&self) -> bool {
        self.publication.kind == Kind::Gap
    }

    /// As they are delivered: what they hold is given back when the last loop has shown and dropped them.
    pub fn carrying(self, in_flight: InFlight) -> Self {
        Frames { in_flight, ..self }
    }

    /// The channel that it goes to.
    pub fn key(&self) -> &ChannelKey {
        &self.key
    }

    /// What was published.
    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// Its place in its channel and among all others, if it was stored.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// Its place in the channel's stream, if it was stored.
    pub fn position(&self) -> Option<StreamPosition> {
        self.mark.map(|mark| mark.position)
    }

    /// All bytes in a form, shared by every subscriber that takes it.
    pub fn bytes(&self, form: Form) -> &Bytes {
        self.forms[usize::from(form.0)].get_or_init(|| self.encoder.encode(form, self))
    }

    /// The same for an outbox: what they hold is given back when the last of them has been written.
    pub fn owed(&self, form: Form) -> Bytes {
        held(self.bytes(form).clone(), self.hold().into_iter())
    }

    /// What its bytes keep.
    pub(crate) fn hold(&self) -> Option<&Hold> {
        self.in_flight.hold.as_ref()
    }

    /// What made its bytes.
    pub fn encoder(&self) -> &dyn Encode {
        &*self.encoder
    }
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("key", &self.key).field("mark", &self.mark).finish_non_exhaustive()
    }
}
