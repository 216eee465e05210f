//! What the messages of the Pusher protocol travel in: WebSocket frames, or the lines of a session.

use bytes::Bytes;
use fanfare_proto::close::CloseCode;
use fanfare_proto::{server, ws, xhr};

/// What messages travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// WebSocket text frames.
    Frame,
    /// Lines, for clients without a WebSocket.
    Line,
}

impl Envelope {
    /// An envelope around the message that `message` writes.
    pub fn around(self, message: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut payload = Vec::with_capacity(192);
        message(&mut payload);
        match self {
            Envelope::Frame => ws::text_frame(&payload).into(),
            Envelope::Line => xhr::message_frame(&payload).into(),
        }
    }

    /// Asks whether anybody is there.
    pub fn ping(self) -> Bytes {
        let ping = self.around(server::ping);
        match self {
            Envelope::Frame => {
                // Both kinds: Java and Swift clients answer frames only, and older ones events only.
                let mut pings = ping.to_vec();
                ws::ping_frame(&mut pings, b"");
                pings.into()
            }
            Envelope::Line => ping,
        }
    }

    /// An error, where the code is one, and the close frame. Codes that ask to come back are no errors.
    pub fn last_words(self, code: CloseCode, message: &str) -> Vec<u8> {
        let mut out = Vec::new();
        if (4000..4200).contains(&code.code()) {
            out.extend_from_slice(&self.around(|out| server::error(out, Some(code.code()), message)));
        }
        match self {
            Envelope::Frame => ws::close_frame(&mut out, code, code.reason()),
            Envelope::Line => xhr::close_frame(&mut out, code, code.reason()),
        }
        out
    }
}
