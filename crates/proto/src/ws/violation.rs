//! The ways in which a peer can break the WebSocket protocol, and the close code each one earns.

use crate::close::CloseCode;

/// What a peer did wrong. The connection cannot go on: nobody knows where its next frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Clients must mask what they send.
    #[error("frame from a client without a mask")]
    Unmasked,
    /// A reserved bit without an extension that gives it a meaning.
    #[error("reserved bit set")]
    ReservedBits,
    /// An opcode that has no meaning.
    #[error("unknown opcode {0:#x}")]
    Opcode(u8),
    /// A length above 2^63.
    #[error("frame length out of range")]
    Length,
    /// A control frame above 125 bytes.
    #[error("control frame longer than 125 bytes")]
    ControlTooLong,
    /// A control frame in parts.
    #[error("fragmented control frame")]
    ControlFragmented,
    /// A continuation of nothing.
    #[error("continuation frame without a message to continue")]
    NothingToContinue,
    /// A message that begins within another.
    #[error("new message before the last one ended")]
    MessageWithinMessage,
    /// Text that is not UTF-8.
    #[error("text is not valid UTF-8")]
    Utf8,
    /// A close frame of one byte.
    #[error("close frame with half a code")]
    ClosePayload,
    /// A close code that must not travel.
    #[error("close code {0} is not allowed on the wire")]
    CloseCode(u16),
    /// More than a message may hold, before or after inflating.
    #[error("message longer than {bytes_max} bytes")]
    TooBig {
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// A compressed message that does not inflate.
    #[error("compressed message does not inflate")]
    Deflate,
}

impl Violation {
    /// What the peer is told.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Unmasked
            | Self::ReservedBits
            | Self::Opcode(_)
            | Self::Length
            | Self::ControlTooLong
            | Self::ControlFragmented
            | Self::NothingToContinue
            | Self::MessageWithinMessage
            | Self::ClosePayload
            | Self::CloseCode(_) => CloseCode::PROTOCOL,
            Self::Utf8 | Self::Deflate => CloseCode::INVALID_UTF8,
            Self::TooBig { .. } => CloseCode::TOO_BIG,
        }
    }
}
