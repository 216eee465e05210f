//! What a Pusher server answers: each function appends the JSON text of one message.
//!
//! Always true, because a client library breaks otherwise:
//! - `data` is never left out;
//! - `data` is a JSON *string*, except in `pusher:error`, where it is an *object*;
//! - what a publisher or client sent is spliced in as the token it was, never parsed again.

use serde::Serialize;

pub use crate::json::{json_string, string_token, string_token_len};
use crate::socket_id::SocketId;

/// `pusher:connection_established`, the first message of every connection.
pub fn established(out: &mut Vec<u8>, socket: SocketId, activity_timeout_s: u32) {
    let data = format!(r#"{{"socket_id":"{socket}","activity_timeout":{activity_timeout_s}}}"#);
    message(out, "pusher:connection_established", None, &data);
}

/// `pusher:error`. Its data is an object: the Swift client drops the error otherwise.
pub fn error(out: &mut Vec<u8>, code: Option<u16>, message: &str) {
    #[derive(Serialize)]
    struct Data<'a> {
        code: Option<u16>,
        message: &'a str,
    }
    out.extend_from_slice(br#"{"event":"pusher:error","data":"#);
    out.extend_from_slice(to_json(&Data { code, message }).as_bytes());
    out.push(b'}');
}

/// `pusher:subscription_error`, which pusher-js hands to the channel's own listeners.
pub fn channel_error(out: &mut Vec<u8>, channel: &str, kind: &str, message: &str, status: u16) {
    #[derive(Serialize)]
    struct Data<'a> {
        r#type: &'a str,
        error: &'a str,
        status: u16,
    }
    let data = to_json(&Data { r#type: kind, error: message, status });
    self::message(out, "pusher:subscription_error", Some(channel), &data);
}

/// `pusher_internal:subscription_succeeded`, with what [`presence_data`] made for a presence channel.
pub fn subscription_succeeded(out: &mut Vec<u8>, channel: &str, presence: Option<&str>) {
    message(out, "pusher_internal:subscription_succeeded", Some(channel), presence.unwrap_or("{}"));
}

/// `pusher:ping`.
pub fn ping(out: &mut Vec<u8>) {
    message(out, "pusher:ping", None, "{}");
}

/// `pusher:pong`.
pub fn pong(out: &mut Vec<u8>) {
    message(out, "pusher:pong", None, "{}");
}

/// `pusher:cache_miss`, after the subscription to an empty cache channel succeeded.
pub fn cache_miss(out: &mut Vec<u8>, channel: &str) {
    message(out, "pusher:cache_miss", Some(channel), "{}");
}

/// `pusher:signin_success`, with the very string that was signed.
pub fn signin_success(out: &mut Vec<u8>, user_data: &str) {
    #[derive(Serialize)]
    struct Data<'a> {
        user_data: &'a str,
    }
    message(out, "pusher:signin_success", None, &to_json(&Data { user_data }));
}

/// `pusher_internal:watchlist_events`: pairs of `online` or `offline` and the ids of users.
pub fn watchlist(out: &mut Vec<u8>, events: &[(&str, &[&str])]) {
    #[derive(Serialize)]
    struct Data<'a> {
        events: Vec<Event<'a>>,
    }
    #[derive(Serialize)]
    struct Event<'a> {
        name: &'a str,
        user_ids: &'a [&'a str],
    }
    let events = events.iter().map(|&(name, user_ids)| Event { name, user_ids }).collect();
    message(out, "pusher_internal:watchlist_events", None, &to_json(&Data { events }));
}

/// Any other event, spliced from JSON string tokens (quotes included): nothing is parsed or escaped again.
pub fn event(out: &mut Vec<u8>, event_json: &str, channel: Option<&str>, data_json: &str, user_id_json: Option<&str>) {
    begin(out, event_json, channel);
    out.extend_from_slice(data_json.as_bytes());
    if let Some(user_id) = user_id_json {
        out.extend_from_slice(br#","user_id":"#);
        out.extend_from_slice(user_id.as_bytes());
    }
    out.push(b'}');
}

/// Adds to the message in `out` where to resume after it, and its publisher's own id (`?positions=1`).
pub fn positioned(out: &mut Vec<u8>, cursor: Option<&str>, event_id: Option<&str>) {
    if out.pop_if(|last| *last == b'}').is_none() {
        return;
    }
    for (name, value) in [("cursor", cursor), ("event_id", event_id)] {
        if let Some(value) = value {
            out.extend_from_slice(format!(r#","{name}":"#).as_bytes());
            json_string(out, value);
        }
    }
    out.push(b'}');
}

/// Adds to a `subscription_succeeded` in `out` whether everything missed follows, and where to resume if nothing does.
pub fn recovered(out: &mut Vec<u8>, recovered: bool, cursor: Option<&str>) {
    if out.pop_if(|last| *last == b'}').is_some() {
        out.extend_from_slice(format!(r#","recovered":{recovered}"#).as_bytes());
        out.push(b'}');
        positioned(out, cursor, None);
    }
}

/// Who is in a presence channel, for [`subscription_succeeded`]. Members must be given once each.
pub fn presence_data<'a>(members: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let (mut ids, mut hash, mut count) = (Vec::new(), Vec::new(), 0u64);
    for (user_id, user_info) in members {
        if count > 0 {
            ids.push(b',');
            hash.push(b',');
        }
        let id_from = ids.len();
        json_string(&mut ids, user_id);
        hash.extend_from_slice(&ids[id_from..]);
        hash.push(b':');
        hash.extend_from_slice(user_info.unwrap_or("null").as_bytes());
        count += 1;
    }
    let (ids, hash) = (text(ids), text(hash));
    format!(r#"{{"presence":{{"ids":[{ids}],"hash":{{{hash}}},"count":{count}}}}}"#)
}

/// The data of `pusher_internal:member_added`, as JSON text.
pub fn member_added_data(user_id: &str, user_info: Option<&str>) -> String {
    let user_id = crate::json::json_string_token(user_id);
    let user_info = user_info.unwrap_or("null");
    format!(r#"{{"user_id":{user_id},"user_info":{user_info}}}"#)
}

/// The data of `pusher_internal:member_removed`, as JSON text.
pub fn member_removed_data(user_id: &str) -> String {
    let user_id = crate::json::json_string_token(user_id);
    format!(r#"{{"user_id":{user_id}}}"#)
}

/// The data of `pusher_internal:subscription_count`, as JSON text.
pub fn subscription_count_data(n: u64) -> String {
    format!(r#"{{"subscription_count":{n}}}"#)
}

/// An event of the protocol itself, whose data is the string of `data`.
fn message(out: &mut Vec<u8>, event: &str, channel: Option<&str>, data: &str) {
    begin(out, &format!("\"{event}\""), channel);
    json_string(out, data);
    out.push(b'}');
}

/// Everything up to the data.
fn begin(out: &mut Vec<u8>, event_json: &str, channel: Option<&str>) {
    out.extend_from_slice(br#"{"event":"#);
    out.extend_from_slice(event_json.as_bytes());
    if let Some(channel) = channel {
        out.extend_from_slice(br#","channel":"#);
        json_string(out, channel);
    }
    out.extend_from_slice(br#","data":"#);
}

fn to_json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("strings and numbers always have a JSON form")
}

fn text(json: Vec<u8>) -> String {
    String::from_utf8(json).expect("made of strings only")
}
