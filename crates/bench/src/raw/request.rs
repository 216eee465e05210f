//! What is said to the reference, parsed no further than it needs.

use fanfare_proto::server;
use fanfare_proto::ws::{CLOSE, Header, TEXT, text_frame, unmask};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Something to do.
pub enum Asked {
    Upgrade {
        key: String,
    },
    Subscribe {
        channel: String,
    },
    Publish(Vec<Publication>),
    /// A request that is not about publications.
    Other,
    /// A sign of life.
    Nothing,
    Leave,
}

/// A channel and the frame for all of its subscribers.
pub struct Publication {
    pub channel: String,
    pub frame: Vec<u8>,
}

const HEADERS_MAX: usize = 64;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    name: &'a RawValue,
    channel: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    batch: Vec<Event<'a>>,
}

#[derive(Deserialize)]
struct Message {
    event: String,
    data: Subscription,
}

#[derive(Deserialize)]
struct Subscription {
    channel: String,
}

/// The request at the front of `bytes` and its length, once it is whole.
pub fn http(bytes: &[u8]) -> Option<(Asked, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let head_len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(head_len)) => head_len,
        Ok(httparse::Status::Partial) => return None,
        Err(_) => return Some((Asked::Leave, bytes.len())),
    };
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    if let Some(key) = header("sec-websocket-key") {
        return Some((Asked::Upgrade { key: key.to_owned() }, head_len));
    }
    let body_len: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let body = bytes.get(head_len..)?.get(..body_len)?;
    let path = head.path.unwrap_or("").split('?').next().unwrap_or("");
    Some((posted(path, body), head_len + body_len))
}

fn posted(path: &str, body: &[u8]) -> Asked {
    let events = match path.rsplit('/').next() {
        Some("events") => serde_json::from_slice(body).map(|event| vec![event]),
        Some("batch_events") => serde_json::from_slice(body).map(|Batch { batch }| batch),
        _ => return Asked::Other,
    };
    match events {
        Ok(events) => Asked::Publish(events.iter().flat_map(publications).collect()),
        Err(_) => Asked::Leave,
    }
}

fn publications<'a>(event: &'a Event<'_>) -> impl Iterator<Item = Publication> + 'a {
    event.channels.iter().chain(&event.channel).map(|channel| {
        let mut message = Vec::new();
        server::event(&mut message, event.name.get(), Some(channel), event.data.get(), None);
        Publication { channel: channel.clone(), frame: text_frame(&message) }
    })
}

/// The frame at the front of `bytes` and its length, once it is whole.
pub fn frame(bytes: &[u8]) -> Option<(Asked, usize)> {
    let Ok(header) = Header::parse(bytes) else {
        return Some((Asked::Leave, bytes.len()));
    };
    let header = header?;
    let end = header.whole_frame(bytes.len())?;
    let mut payload = bytes[header.size..end].to_vec();
    unmask(&mut payload, header.mask.unwrap_or_default());
    let asked = match header.opcode {
        TEXT => said(&payload),
        CLOSE => Asked::Leave,
        _ => Asked::Nothing,
    };
    Some((asked, end))
}

fn said(message: &[u8]) -> Asked {
    match serde_json::from_slice::<Message>(message) {
        Ok(message) if message.event == "pusher:subscribe" => Asked::Subscribe { channel: message.data.channel },
        _ => Asked::Nothing,
    }
}
