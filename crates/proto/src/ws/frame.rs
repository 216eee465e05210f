//! Single frames: their headers read and written, their payloads masked.

use super::Violation;
use crate::close::CloseCode;

/// Set in a frame's first byte: the last one of its message.
pub const FIN: u8 = 0x80;
/// Set in a message's first frame: the message is compressed.
pub const RSV1: u8 = 0x40;
/// Opcode: more of the message before.
pub const CONTINUATION: u8 = 0x0;
/// Opcode: a text message begins.
pub const TEXT: u8 = 0x1;
/// Opcode: a binary message begins.
pub const BINARY: u8 = 0x2;
/// Opcode: the peer is leaving.
pub const CLOSE: u8 = 0x8;
/// Opcode: answer me.
pub const PING: u8 = 0x9;
/// Opcode: the answer.
pub const PONG: u8 = 0xa;

/// Bytes in the payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_LEN_MAX: usize = 125;

/// Set in the second byte: a mask follows the length.
const MASKED: u8 = 0x80;
const RSV2_RSV3: u8 = 0x30;

/// What stands before a payload. The opcode is one of the six that RFC 6455 knows, and a control frame is short and
/// whole; the rest of the rules depends on the side and is not checked here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the message ends with this frame.
    pub fin: bool,
    /// Whether a compressed message begins.
    pub rsv1: bool,
    /// [`TEXT`] and so on.
    pub opcode: u8,
    /// Always there from a client, never from a server.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload that were announced.
    pub len: u64,
    /// Bytes of the header itself.
    pub size: usize,
}

impl Header {
    /// Reads the header at the front of `bytes`; `None` when there is not all of it yet.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        check_start(first, second)?;
        let Some((len, rest)) = read_len(second & !MASKED, rest)? else {
            return Ok(None);
        };
        let (mask, rest) = match rest.split_first_chunk::<4>() {
            _ if second & MASKED == 0 => (None, rest),
            Some((mask, rest)) => (Some(*mask), rest),
            None => return Ok(None),
        };
        Ok(Some(Self {
            fin: first & FIN != 0,
            rsv1: first & RSV1 != 0,
            opcode: first & 0x0f,
            mask,
            len,
            size: bytes.len() - rest.len(),
        }))
    }

    /// Whether this is a close, ping or pong.
    pub fn is_control(&self) -> bool {
        is_control(self.opcode)
    }

    /// Header and payload together, if all of the frame is in the `have` bytes that begin with it.
    pub fn whole_frame(&self, have: usize) -> Option<usize> {
        let whole = self.size.checked_add(usize::try_from(self.len).ok()?)?;
        (whole <= have).then_some(whole)
    }
}

fn is_control(opcode: u8) -> bool {
    opcode & 0x8 != 0
}

/// What the first two bytes alone can have wrong.
fn check_start(first: u8, second: u8) -> Result<(), Violation> {
    let (opcode, short_len) = (first & 0x0f, usize::from(second & !MASKED));
    if first & RSV2_RSV3 != 0 {
        return Err(Violation::ReservedBits);
    }
    match opcode {
        CONTINUATION | TEXT | BINARY => Ok(()),
        CLOSE | PING | PONG if first & RSV1 != 0 => Err(Violation::ReservedBits),
        CLOSE | PING | PONG if first & FIN == 0 => Err(Violation::ControlFragmented),
        CLOSE | PING | PONG if short_len > CONTROL_LEN_MAX => Err(Violation::ControlTooLong),
        CLOSE | PING | PONG => Ok(()),
        _ => Err(Violation::Opcode(opcode)),
    }
}

/// The length that `short` stands for or announces, and what follows it.
fn read_len(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let read = match short {
        126 => rest.split_first_chunk().map(|(len, rest)| (u16::from_be_bytes(*len).into(), rest)),
        127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len), rest)),
        _ => Some((short.into(), rest)),
    };
    match read {
        Some((len, _)) if len > i64::MAX as u64 => Err(Violation::Length),
        read => Ok(read),
    }
}

/// Appends an unmasked header. `first` is `FIN`, `RSV1` and the opcode together.
pub fn frame_header(out: &mut Vec<u8>, first: u8, len: usize) {
    header(out, first, 0, len);
}

fn header(out: &mut Vec<u8>, first: u8, masked: u8, len: usize) {
    if len <= CONTROL_LEN_MAX {
        out.extend_from_slice(&[first, masked | len as u8]);
    } else if let Ok(len) = u16::try_from(len) {
        out.extend_from_slice(&[first, masked | 126]);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.extend_from_slice(&[first, masked | 127]);
        out.extend_from_slice(&(len as u64).to_be_bytes());
    }
}

/// A whole text message for any number of clients.
pub fn text_frame(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    frame_header(&mut out, FIN | TEXT, payload.len());
    out.extend_from_slice(payload);
    out
}

/// Appends a close frame; a reason that is too long is cut.
pub fn close_frame(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_LEN_MAX - 2)];
    frame_header(out, FIN | CLOSE, reason.len() + 2);
    out.extend_from_slice(&code.code().to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends the answer to a peer's close frame: the code that it sent, or none.
pub fn close_echo(out: &mut Vec<u8>, code: Option<u16>) {
    match code.and_then(CloseCode::from_peer) {
        Some(code) => close_frame(out, code, ""),
        None => frame_header(out, FIN | CLOSE, 0),
    }
}

/// Appends a ping of at most [`CONTROL_LEN_MAX`] bytes.
pub fn ping_frame(out: &mut Vec<u8>, payload: &[u8]) {
    control_frame(out, PING, payload);
}

/// Appends the answer to a ping, with the ping's own payload.
pub fn pong_frame(out: &mut Vec<u8>, payload: &[u8]) {
    control_frame(out, PONG, payload);
}

fn control_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    debug_assert!(payload.len() <= CONTROL_LEN_MAX);
    frame_header(out, FIN | opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a whole message as a client sends it.
pub fn masked_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    masked_part(out, FIN | opcode, payload, mask);
}

/// Appends one frame as a client sends it, `FIN` and `RSV1` in `first` as the caller likes.
pub fn masked_part(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: [u8; 4]) {
    header(out, first, MASKED, payload.len());
    out.extend_from_slice(&mask);
    let begin = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[begin..], mask);
}

/// Masks or unmasks, which is the same. Eight bytes at a time; the compiler makes wider ones of that.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
