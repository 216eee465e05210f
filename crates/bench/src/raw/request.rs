//! What is said to the reference, parsed no further than it needs.

use fanfare_proto::ws::{CLOSE, Header, TEXT, unmask};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::publication::offset_of;
use crate::transport::Transport;

/// Something to do.
pub enum Asked {
    /// A WebSocket for the Pusher protocol.
    Upgrade {
        key: String,
    },
    Subscribe {
        channel: String,
    },
    /// A subscription by `/sub` that stays. `key` is a WebSocket's.
    Listen {
        channel: String,
        transport: Transport,
        key: String,
        since: Option<u64>,
    },
    /// A request for the first publication after `since`, which it waits for. Without that, it is told where it stands.
    Poll {
        channel: String,
        since: Option<u64>,
    },
    Publish(Vec<Event>),
    /// A request that is not about publications.
    Other,
    /// A sign of life.
    Nothing,
    Leave,
}

/// What is to be published. Name and data are the JSON tokens that they came as.
pub struct Event {
    pub channel: String,
    pub name: String,
    pub data: String,
}

const HEADERS_MAX: usize = 64;

#[derive(Deserialize)]
struct Posted<'a> {
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
    batch: Vec<Posted<'a>>,
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
    let key = header("sec-websocket-key");
    let (path, query) = head.path.unwrap_or("").split_once('?').unwrap_or((head.path.unwrap_or(""), ""));
    if path.starts_with("/sub/") {
        let cursor = header("last-event-id").or(header("if-none-match")).map(|tag| tag.trim_matches('"'));
        return Some((subscription(path, query, key, cursor.and_then(offset_of)), head_len));
    }
    if let Some(key) = key {
        return Some((Asked::Upgrade { key: key.to_owned() }, head_len));
    }
    let body_len: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let body = bytes.get(head_len..)?.get(..body_len)?;
    Some((posted(path, body), head_len + body_len))
}

/// What `GET /sub/{key}/{channel}?transport=…` asks for.
fn subscription(path: &str, query: &str, key: Option<&str>, since: Option<u64>) -> Asked {
    let channel = path.rsplit('/').next().unwrap_or("").to_owned();
    let transport = query.split('&').find_map(|pair| pair.strip_prefix("transport="));
    let key = key.unwrap_or("").to_owned();
    let listen = |channel, transport| Asked::Listen { channel, transport, key, since };
    match transport {
        Some("ws") => listen(channel, Transport::Ws),
        Some("sse") => listen(channel, Transport::Sse),
        Some("stream") => listen(channel, Transport::Stream),
        Some("longpoll") => Asked::Poll { channel, since },
        _ => Asked::Leave,
    }
}

fn posted(path: &str, body: &[u8]) -> Asked {
    let events = match path.rsplit('/').next() {
        Some("events") => serde_json::from_slice(body).map(|event| vec![event]),
        Some("batch_events") => serde_json::from_slice(body).map(|Batch { batch }| batch),
        _ => return Asked::Other,
    };
    match events {
        Ok(events) => Asked::Publish(events.iter().flat_map(each_channel).collect()),
        Err(_) => Asked::Leave,
    }
}

fn each_channel<'a>(posted: &'a Posted<'_>) -> impl Iterator<Item = Event> + 'a {
    posted.channels.iter().chain(&posted.channel).map(|channel| Event {
        channel: channel.clone(),
        name: posted.name.get().to_owned(),
        data: posted.data.get().to_owned(),
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
