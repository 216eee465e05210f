//! What pusher-js says and hears where it has no WebSocket: the frames of its `xhr_streaming` and `xhr_polling` transports,
//! which are those of SockJS.
//!
//! Each frame is a line: its first letter says what it is, the rest is JSON.
//!
//! Not here: sessions, and which request gets which frame (the server's `edge`).

use crate::close::CloseCode;
use crate::json::{Text, json_string};

/// The first frame of a session. On a session that its client takes for open it means that the server knows nothing of it.
pub const OPEN: &[u8] = b"o\n";

/// Keeps proxies from giving up; a client that streams answers it with an empty array.
pub const HEARTBEAT: &[u8] = b"h\n";

/// A frame around one message.
pub fn message_frame(message: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(message).expect("our messages are JSON text");
    // What is escaped again are the quotes of keys and values, which make up a fifth or so.
    let mut out = Vec::with_capacity(message.len() + message.len() / 4 + 8);
    out.extend_from_slice(b"a[");
    json_string(&mut out, text);
    out.extend_from_slice(b"]\n");
    out
}

/// The last frame of a session.
pub fn close_frame(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    out.extend_from_slice(format!("c[{},", code.code()).as_bytes());
    json_string(out, reason);
    out.extend_from_slice(b"]\n");
}

/// Why a body is not what a client sends.
#[derive(Debug, thiserror::Error)]
#[error("expected a JSON array of strings: {0}")]
pub struct BadMessages(#[from] serde_json::Error);

/// The messages that a client sends in one request; none at all is a sign of life.
pub fn messages(body: &str) -> Result<Vec<String>, BadMessages> {
    let texts: Vec<Text<'_>> = serde_json::from_str(body)?;
    Ok(texts.into_iter().map(|text| text.0.into_owned()).collect())
}

/// How long a text is to JavaScript, which counts UTF-16 code units. `bytes` need not be whole characters.
pub fn utf16_len(bytes: &[u8]) -> usize {
    let units = |byte: &u8| match byte {
        0x80..=0xbf => 0,
        0xf0.. => 2,
        _ => 1,
    };
    bytes.iter().map(units).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_line_whatever_the_message_holds() {
        let frame = message_frame("{\"data\":\"a\\nb\"}\u{2028}ü".as_bytes());
        assert_eq!(frame, "a[\"{\\\"data\\\":\\\"a\\\\nb\\\"}\u{2028}ü\"]\n".as_bytes());
    }

    #[test]
    fn a_close_frame_holds_code_and_reason() {
        let mut out = Vec::new();
        close_frame(&mut out, CloseCode::RECONNECT, "come \"back\"");
        assert_eq!(out, br#"c[4200,"come \"back\""]"#.iter().chain(b"\n").copied().collect::<Vec<_>>());
    }

    #[test]
    fn a_body_holds_any_number_of_messages() {
        assert!(messages("[]").expect("a sign of life").is_empty());
        assert_eq!(messages(r#"["{}", "a\"b"]"#).expect("two messages"), ["{}", "a\"b"]);
        for bad in ["", "{}", "[1]", "\"a\"", "[\"a\"", "[\"a\"]]"] {
            assert!(messages(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_are_those_of_javascript() {
        assert_eq!(utf16_len("aü€".as_bytes()), 3);
        assert_eq!(utf16_len("🦀".as_bytes()), 2);
    }
}
