//! The messages of the plain HTTP doors and of the plain WebSocket: JSON objects, and their framing as Server-Sent Events
//! (WHATWG HTML §9.2) and as HTTP/1.1 chunks (RFC 9112 §7.1).
//!
//! Always true:
//! - an object holds no line break, so that a line is an object and an SSE `data` field is one too;
//! - what a publisher sent is spliced in as the JSON string token it was;
//! - no text of a publisher ends an SSE event early: line breaks of every kind become further `data` lines, and an
//!   event name or id that holds one is cut there.
//!
//! Not here: Pusher's own messages (`server`), when which message is sent.

use crate::json::{json_string, json_string_token};

/// What begins the names of our own events. Nobody may publish such an event.
pub const RESERVED: &str = "fanfare:";

/// What a message is spliced from.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// A JSON string token, quotes included.
    pub event: &'a str,
    /// A JSON string token, quotes included.
    pub data: &'a str,
    /// Where to resume after it; transient messages have none.
    pub cursor: Option<&'a str>,
    /// The publisher's own id.
    pub event_id: Option<&'a str>,
    /// The verified user behind a client event, as a JSON string token.
    pub user_id: Option<&'a str>,
    /// Milliseconds since the Unix epoch; 0 is not told.
    pub time_ms: u64,
}

/// A publication as an object.
pub fn message(out: &mut Vec<u8>, message: &Message<'_>) {
    out.extend_from_slice(br#"{"channel":"#);
    json_string(out, message.channel);
    field(out, "event", message.event);
    field(out, "data", message.data);
    if let Some(cursor) = message.cursor {
        field(out, "cursor", &json_string_token(cursor));
    }
    if let Some(id) = message.event_id {
        field(out, "event_id", &json_string_token(id));
    }
    if let Some(user_id) = message.user_id {
        field(out, "user_id", user_id);
    }
    if message.time_ms > 0 {
        field(out, "time_ms", &message.time_ms.to_string());
    }
    out.push(b'}');
}

/// `fanfare:subscribed`. `recovered` is told to those who asked to resume; `presence` is what
/// [`crate::server::presence_data`] made.
pub fn subscribed(
    out: &mut Vec<u8>,
    channel: &str,
    recovered: Option<bool>,
    cursor: Option<&str>,
    presence: Option<&str>,
) {
    begin(out, "subscribed", Some(channel));
    if let Some(recovered) = recovered {
        field(out, "recovered", if recovered { "true" } else { "false" });
    }
    if let Some(cursor) = cursor {
        field(out, "cursor", &json_string_token(cursor));
    }
    if let Some(inner) = presence.and_then(|object| object.strip_prefix('{')?.strip_suffix('}')) {
        out.push(b',');
        out.extend_from_slice(inner.as_bytes());
    }
    out.push(b'}');
}

/// `fanfare:unsubscribed`.
pub fn unsubscribed(out: &mut Vec<u8>, channel: &str) {
    begin(out, "unsubscribed", Some(channel));
    out.push(b'}');
}

/// `fanfare:error`: a request that was refused, with the status that HTTP would give it.
pub fn error(out: &mut Vec<u8>, channel: Option<&str>, status: u16, message: &str) {
    begin(out, "error", channel);
    field(out, "status", &status.to_string());
    field(out, "message", &json_string_token(message));
    out.push(b'}');
}

/// `fanfare:closed`, the last words. `reconnect`: whether to come back is any use.
pub fn closed(out: &mut Vec<u8>, reason: &str, reconnect: bool) {
    begin(out, "closed", None);
    field(out, "reason", &json_string_token(reason));
    field(out, "reconnect", if reconnect { "true" } else { "false" });
    out.push(b'}');
}

fn begin(out: &mut Vec<u8>, event: &str, channel: Option<&str>) {
    out.extend_from_slice(br#"{"event":"#);
    json_string(out, &format!("{RESERVED}{event}"));
    if let Some(channel) = channel {
        field(out, "channel", &json_string_token(channel));
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [",\"", name, "\":", value] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A Server-Sent Event. `message` is what browsers call an event without a name.
pub fn sse(out: &mut Vec<u8>, id: Option<&str>, event: &str, data: &str) {
    if let Some(id) = id {
        line(out, "id", id);
    }
    if event != "message" {
        line(out, "event", first_line(event));
    }
    for text in lines(data) {
        line(out, "data", text);
    }
    out.push(b'\n');
}

/// The field of that name. The space is left out where nothing follows; parsers take one off.
fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, if value.is_empty() { ":" } else { ": " }, value, "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn first_line(text: &str) -> &str {
    lines(text).next().unwrap_or_default()
}

/// Split at CR, LF and CRLF, as a parser of event streams would.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\r', '\n']) else {
            rest = None;
            return Some(text);
        };
        let skipped = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + skipped..]);
        Some(&text[..end])
    })
}

/// What a subscriber calls an event that Pusher's protocol names in its own way.
pub fn public_name(event: &str) -> Option<&'static str> {
    match event {
        "\"pusher_internal:member_added\"" => Some("\"fanfare:member_added\""),
        "\"pusher_internal:member_removed\"" => Some("\"fanfare:member_removed\""),
        "\"pusher_internal:subscription_count\"" => Some("\"fanfare:subscription_count\""),
        _ => None,
    }
}

/// One chunk. An empty one would end the body, so nothing stands for nothing.
pub fn chunk(out: &mut Vec<u8>, payload: &[u8]) {
    if !payload.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", payload.len()).as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }
}

/// The chunk that ends a body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
