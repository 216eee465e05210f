//! WebSocket frames (RFC 6455): made, taken apart, and put together into messages.
//!
//! A frame from server to client carries no mask, so header and payload are the same bytes for every subscriber;
//! [`frame_header`] and [`text_frame`] make them once. [`Assembler`] is the server's reading side, [`Header`] and
//! [`masked_frame`] are what a client needs.
//!
//! Not here: the HTTP of the handshake but for [`accept_key`]; compression, which is [`crate::deflate`].

mod assembler;
mod frame;
mod violation;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

pub use assembler::{Assembler, Incoming, Limits};
pub use frame::{
    BINARY, CLOSE, CONTINUATION, CONTROL_LEN_MAX, FIN, Header, PING, PONG, RSV1, TEXT, close_echo, close_frame,
    frame_header, masked_frame, masked_part, ping_frame, pong_frame, text_frame, unmask,
};
pub use violation::Violation;

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    STANDARD.encode(digest)
}
