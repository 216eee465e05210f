//! A connection's reading side: bytes in, messages out.
//!
//! The usual message arrives whole, in one frame within one read; it is unmasked where it lies and borrowed from
//! there. Only what is incomplete is kept, in one box that an idle connection does not have.
//!
//! Always true:
//! - which items come out does not depend on how the bytes were cut into reads;
//! - bytes that were not consumed were not changed;
//! - memory grows with what has arrived, never with what was announced, and stays below the limit;
//! - text is refused at the first byte that cannot be UTF-8, even in the middle of a frame.

use std::borrow::Cow;
use std::ops::Range;

use simdutf8::{basic, compat};

use super::frame::{CLOSE, CONTINUATION, Header, PING, TEXT, unmask};
use super::violation::Violation;
use crate::close::CloseCode;
use crate::deflate::{BadDeflate, inflate};

/// What a connection may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes in a message, after inflating; more closes with 1009.
    pub message_bytes_max: usize,
}

/// Something that a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message.
    Text(Cow<'a, str>),
    /// A binary message.
    Binary(Cow<'a, [u8]>),
    /// To be answered with a pong of the same bytes.
    Ping(&'a [u8]),
    /// A sign of life.
    Pong,
    /// The peer's last word. The code is one that may travel.
    Close {
        /// The code, if there was one.
        code: Option<u16>,
        /// The reason, often empty.
        reason: &'a str,
    },
}

/// What a connection remembers of a message that is still coming.
#[derive(Debug, Default)]
pub struct Assembler {
    partial: Option<Box<Partial>>,
}

#[derive(Debug)]
struct Partial {
    text: bool,
    deflated: bool,
    bytes: Vec<u8>,
    /// How many of `bytes` are known to be UTF-8.
    checked: usize,
    frame: OpenFrame,
}

/// The frame that is being read.
#[derive(Debug)]
struct OpenFrame {
    fin: bool,
    /// Payload still to come.
    left: u64,
    /// Turned so that its first byte is for the next byte to come.
    mask: [u8; 4],
}

/// What became of the bytes at the front. Ranges, because the caller holds the bytes.
enum Step {
    /// Not enough bytes to go on.
    Starved,
    /// This many were taken in; nothing came of them yet.
    Absorbed(usize),
    /// A control frame, with its payload here.
    Control { opcode: u8, payload: Range<usize> },
    /// A message in one frame, with its payload here.
    Whole { text: bool, payload: Range<usize> },
    /// A message that had to be put together, and where its last frame ends.
    Assembled(Incoming<'static>, usize),
}

impl Assembler {
    /// Whether nothing is incomplete here; bytes that the caller still holds are not counted.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Takes the next item from the front of `bytes`, and tells how many of them were consumed.
    ///
    /// With an item, call again for the bytes behind it. Without one, nothing more can be done until more has
    /// arrived; the caller keeps what was not consumed, which is at most one control frame.
    pub fn next<'a>(
        &'a mut self,
        bytes: &'a mut [u8],
        limits: &Limits,
        deflate: bool,
    ) -> Result<(usize, Option<Incoming<'a>>), Violation> {
        let mut at = 0;
        while at < bytes.len() {
            match self.step(&mut bytes[at..], limits, deflate)? {
                Step::Starved => break,
                Step::Absorbed(used) => at += used,
                Step::Assembled(message, used) => return Ok((at + used, Some(message))),
                Step::Control { opcode, payload } => {
                    let end = at + payload.end;
                    return Ok((end, Some(control(opcode, &bytes[at + payload.start..end])?)));
                }
                Step::Whole { text, payload } => {
                    let end = at + payload.end;
                    return Ok((end, Some(whole(text, &bytes[at + payload.start..end])?)));
                }
            }
        }
        Ok((at, None))
    }

    fn step(&mut self, bytes: &mut [u8], limits: &Limits, deflate: bool) -> Result<Step, Violation> {
        if let Some(partial) = self.partial.take_if(|partial| partial.frame.left > 0) {
            return self.absorb(partial, bytes, limits, 0);
        }
        let Some(header) = Header::parse(bytes)? else {
            return Ok(Step::Starved);
        };
        let mask = header.mask.ok_or(Violation::Unmasked)?;
        let frame_end = header.whole_frame(bytes.len());
        if header.is_control() {
            let Some(end) = frame_end else {
                return Ok(Step::Starved);
            };
            unmask(&mut bytes[header.size..end], mask);
            return Ok(Step::Control { opcode: header.opcode, payload: header.size..end });
        }
        self.admit(&header, limits, deflate)?;
        match frame_end {
            Some(end) if header.fin && self.is_idle() && !header.rsv1 => {
                unmask(&mut bytes[header.size..end], mask);
                Ok(Step::Whole { text: header.opcode == TEXT, payload: header.size..end })
            }
            _ => {
                let partial = self.open(&header, mask);
                self.absorb(partial, &mut bytes[header.size..], limits, header.size)
            }
        }
    }

    /// Whether a data frame may come now, and be as long as it says.
    fn admit(&self, header: &Header, limits: &Limits, deflate: bool) -> Result<(), Violation> {
        let continues = header.opcode == CONTINUATION;
        if header.rsv1 && (continues || !deflate) {
            return Err(Violation::ReservedBits);
        }
        let (before, deflated) = match &self.partial {
            Some(_) if !continues => return Err(Violation::MessageWithinMessage),
            None if continues => return Err(Violation::NothingToContinue),
            Some(partial) => (partial.bytes.len(), partial.deflated),
            None => (0, header.rsv1),
        };
        let bytes_max = limits.message_bytes_max;
        let wire_max = if deflated { deflated_bytes_max(bytes_max) } else { bytes_max };
        if header.len.saturating_add(before as u64) > wire_max as u64 {
            return Err(Violation::TooBig { bytes_max });
        }
        Ok(())
    }

    /// The message that an admitted frame belongs to, ready for its payload.
    fn open(&mut self, header: &Header, mask: [u8; 4]) -> Box<Partial> {
        let frame = OpenFrame { fin: header.fin, left: header.len, mask };
        match self.partial.take() {
            Some(mut partial) => {
                partial.frame = frame;
                partial
            }
            None => Box::new(Partial {
                text: header.opcode == TEXT,
                deflated: header.rsv1,
                bytes: Vec::new(),
                checked: 0,
                frame,
            }),
        }
    }

    /// Takes in what is there of the open frame, `before` bytes behind the front. The message goes back to its place
    /// only while it is incomplete.
    fn absorb(
        &mut self,
        mut partial: Box<Partial>,
        bytes: &mut [u8],
        limits: &Limits,
        before: usize,
    ) -> Result<Step, Violation> {
        let used = before + partial.absorb(bytes)?;
        if partial.frame.fin && partial.frame.left == 0 {
            return Ok(Step::Assembled(partial.finish(limits)?, used));
        }
        self.partial = Some(partial);
        Ok(Step::Absorbed(used))
    }
}

impl Partial {
    fn absorb(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let left = usize::try_from(self.frame.left).unwrap_or(usize::MAX);
        let used = left.min(bytes.len());
        let payload = &mut bytes[..used];
        unmask(payload, self.frame.mask);
        self.bytes.extend_from_slice(payload);
        self.frame.left -= used as u64;
        self.frame.mask.rotate_left(used % 4);
        if self.text && !self.deflated {
            self.check_text()?;
        }
        Ok(used)
    }

    /// Refuses what cannot become UTF-8; a character that is only cut off may still be completed.
    fn check_text(&mut self) -> Result<(), Violation> {
        match compat::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::Utf8),
        }
        Ok(())
    }

    fn finish(self, limits: &Limits) -> Result<Incoming<'static>, Violation> {
        let bytes = match self.deflated {
            true => inflate(&self.bytes, limits.message_bytes_max)?,
            false => self.bytes,
        };
        if !self.text {
            return Ok(Incoming::Binary(Cow::Owned(bytes)));
        }
        let text = String::from_utf8(bytes).map_err(|_| Violation::Utf8)?;
        Ok(Incoming::Text(Cow::Owned(text)))
    }
}

/// What a message of `bytes_max` can take when it does not compress: stored blocks add a little.
fn deflated_bytes_max(bytes_max: usize) -> usize {
    bytes_max.saturating_add(bytes_max / 256).saturating_add(64)
}

impl From<BadDeflate> for Violation {
    fn from(error: BadDeflate) -> Self {
        match error {
            BadDeflate::Corrupt => Self::Deflate,
            BadDeflate::TooBig { bytes_max } => Self::TooBig { bytes_max },
        }
    }
}

fn whole(text: bool, payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    if text { Ok(Incoming::Text(Cow::Borrowed(utf8(payload)?))) } else { Ok(Incoming::Binary(Cow::Borrowed(payload))) }
}

fn control(opcode: u8, payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    match opcode {
        CLOSE => close(payload),
        PING => Ok(Incoming::Ping(payload)),
        _ => Ok(Incoming::Pong),
    }
}

fn close(payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        let empty = Incoming::Close { code: None, reason: "" };
        return if payload.is_empty() { Ok(empty) } else { Err(Violation::ClosePayload) };
    };
    let code = u16::from_be_bytes(*code);
    CloseCode::from_peer(code).ok_or(Violation::CloseCode(code))?;
    Ok(Incoming::Close { code: Some(code), reason: utf8(reason)? })
}

fn utf8(bytes: &[u8]) -> Result<&str, Violation> {
    basic::from_utf8(bytes).map_err(|_| Violation::Utf8)
}
