//! One publication, and its forms on the wire.
//!
//! Always true: a publication is encoded at most once per form per node. The publisher's `event` and `data` are kept as
//! the JSON string tokens that they arrived as and are spliced into the frame; nothing is parsed or escaped again.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fanfare_proto::socket_id::SocketId;
use fanfare_proto::{deflate, server, ws};
use tokio::sync::OwnedSemaphorePermit;

use crate::broker::StreamPosition;
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
    /// The publisher's share of its app's window; given back once every loop has walked its subscribers.
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

/// A form in which a subscriber takes its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A WebSocket text frame.
    Text,
    /// A WebSocket text frame, compressed where that pays (RFC 7692, no context takeover).
    Deflated,
}

/// A publication on its way through this node: its frames are made when first asked for, by whichever loop comes first.
#[derive(Debug)]
pub struct Frames {
    key: ChannelKey,
    publication: Arc<Publication>,
    position: Option<StreamPosition>,
    deflate_bytes_min: usize,
    text: OnceLock<Bytes>,
    deflated: OnceLock<Bytes>,
}

impl Frames {
    /// Nothing is encoded yet. Messages under `deflate_bytes_min` bytes are not worth compressing.
    pub fn new(
        key: ChannelKey,
        publication: Arc<Publication>,
        position: Option<StreamPosition>,
        deflate_bytes_min: usize,
    ) -> Self {
        Frames { key, publication, position, deflate_bytes_min, text: OnceLock::new(), deflated: OnceLock::new() }
    }

    /// The channel that it goes to.
    pub fn key(&self) -> &ChannelKey {
        &self.key
    }

    /// What was published.
    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// Its place in the channel's stream, if it was stored.
    pub fn position(&self) -> Option<StreamPosition> {
        self.position
    }

    /// The whole frame, header and all, shared by every subscriber that takes this form.
    pub fn bytes(&self, form: Form) -> &Bytes {
        match form {
            Form::Text => self.text.get_or_init(|| self.encode_text()),
            Form::Deflated => self.deflated.get_or_init(|| self.encode_deflated()),
        }
    }

    fn encode_text(&self) -> Bytes {
        frame(ws::FIN | ws::TEXT, &self.publication.text(self.key.name()))
    }

    fn encode_deflated(&self) -> Bytes {
        let text = self.publication.text(self.key.name());
        if text.len() < self.deflate_bytes_min {
            return self.bytes(Form::Text).clone();
        }
        let deflated = deflate::deflate(&text);
        if deflated.len() >= text.len() {
            return self.bytes(Form::Text).clone();
        }
        frame(ws::FIN | ws::RSV1 | ws::TEXT, &deflated)
    }
}

fn frame(first: u8, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    ws::frame_header(&mut out, first, payload.len());
    out.extend_from_slice(payload);
    out.into()
}
