//! The few words that a Pusher client says and hears, as bytes. The grammar is `fanfare-proto`'s.

use std::ops::Range;

use anyhow::{Result, ensure};
use fanfare_proto::ws::{Header, TEXT, masked_frame};

/// Asks for the upgrade, with RFC 6455's own example of a key: it need not be secret, only answered rightly.
pub const UPGRADE_LINES: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const HANDSHAKE_ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Servers must unmask whatever the mask is; a fixed one spares this side a random source.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The name of the `n`th channel of a run.
pub fn channel_name(prefix: &str, n: u32) -> String {
    format!("{prefix}-{n}")
}

/// The length of the head that `bytes` begin with, blank line and all, once it is there.
pub fn head_len(bytes: &[u8]) -> Option<usize> {
    position(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Checks that a head grants the upgrade.
pub fn check_upgrade(head: &[u8]) -> Result<()> {
    let granted = head.starts_with(b"HTTP/1.1 101 ") && contains(head, HANDSHAKE_ACCEPT);
    ensure!(granted, "the upgrade was refused: {}", String::from_utf8_lossy(head).trim_end());
    Ok(())
}

/// Asks for a channel; for what came after the cursor too, unless that is empty.
pub fn subscribe_frame(channel: &str, cursor: &str) -> Vec<u8> {
    let since = if cursor.is_empty() { String::new() } else { format!(r#","since":"{cursor}""#) };
    text(&format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}","auth":""{since}}}}}"#))
}

/// Answers `pusher:ping`.
pub fn pong_event_frame() -> Vec<u8> {
    text(r#"{"event":"pusher:pong","data":{}}"#)
}

fn text(message: &str) -> Vec<u8> {
    let mut frame = Vec::with_capacity(message.len() + 8);
    masked_frame(&mut frame, TEXT, message.as_bytes(), MASK);
    frame
}

/// Whether a message is this event. The name is looked for as servers write it, without parsing the JSON around it.
pub fn is_event(message: &[u8], name: &str) -> bool {
    contains(message, format!(r#""{name}""#).as_bytes())
}

/// The value of the first string member of this name, if it needs no unescaping, as cursors never do. The members that
/// are looked for are named as no publication's data is.
pub fn string_member<'a>(message: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let opens = format!(r#""{name}":""#);
    let begins = position(message, opens.as_bytes())? + opens.len();
    let value = &message[begins..];
    Some(&value[..value.iter().position(|&byte| byte == b'"')?])
}

pub fn contains(text: &[u8], part: &[u8]) -> bool {
    position(text, part).is_some()
}

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// A frame from the server.
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
}

/// Takes a whole frame from `bytes` at `at` and moves `at` behind it; `None` while it is incomplete.
#[inline]
pub fn next_frame<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<Frame<'a>>> {
    let rest = &bytes[*at..];
    let Some(header) = Header::parse(rest)? else {
        return Ok(None);
    };
    let Some(end) = header.whole_frame(rest.len()) else {
        return Ok(None);
    };
    ensure!(header.mask.is_none() && header.fin, "a masked or fragmented frame from the server");
    *at += end;
    let payload: Range<usize> = header.size..end;
    Ok(Some(Frame { opcode: header.opcode, payload: &rest[payload] }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_proto::ws::{accept_key, text_frame};

    #[test]
    fn the_fixed_key_has_the_fixed_answer() {
        let key = UPGRADE_LINES.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("it is there");
        assert_eq!(accept_key(key).as_bytes(), HANDSHAKE_ACCEPT);
    }

    #[test]
    fn a_cursor_is_found_in_a_message() {
        let message = br#"{"channel":"c","data":"d","cursor":"a-1","time_ms":5}"#;
        assert_eq!(string_member(message, "cursor"), Some(&b"a-1"[..]));
        assert_eq!(string_member(message, "event_id"), None);
        assert_eq!(string_member(br#"{"cursor":"cut off"#, "cursor"), None);
    }

    #[test]
    fn frames_are_taken_one_by_one_and_only_whole() {
        let bytes = [text_frame(b"one"), text_frame(&[b'x'; 300])].concat();
        let mut at = 0;
        let first = next_frame(&bytes[..bytes.len() - 1], &mut at).expect("legal").expect("whole");
        assert_eq!((first.opcode, first.payload), (TEXT, &b"one"[..]));
        assert!(next_frame(&bytes[..bytes.len() - 1], &mut at).expect("legal").is_none());
        assert_eq!(next_frame(&bytes, &mut at).expect("legal").expect("whole").payload.len(), 300);
        assert_eq!(at, bytes.len());
    }
}
