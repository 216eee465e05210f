//! Over a WebSocket: the Pusher protocol, or plain messages.

use std::ops::Range;

use anyhow::{Result, bail};
use fanfare_proto::ws::{CLOSE, PING, PONG, TEXT, masked_frame};

use super::{Phase, Sink, Subscriber};
use crate::transport::{Script, Transport};
use crate::{sys, wire};

impl Subscriber {
    pub(super) fn consume_frames(
        &mut self,
        bytes: &[u8],
        script: &Script,
        sink: &mut impl Sink,
    ) -> Result<Option<Range<usize>>> {
        let mut at = 0;
        if self.phase == Phase::Opening {
            let Some(head) = wire::head_len(bytes) else {
                return Ok(Some(0..bytes.len()));
            };
            wire::check_upgrade(&bytes[..head])?;
            self.phase = match script.transport() {
                Transport::Pusher => Phase::Establishing,
                _ => Phase::Subscribing,
            };
            at = head;
        }
        let now_ns = sys::monotonic_ns();
        while let Some(frame) = wire::next_frame(bytes, &mut at)? {
            match frame.opcode {
                TEXT => self.heard(frame.payload, now_ns, script, sink)?,
                PING => self.pong(frame.payload)?,
                PONG => {}
                CLOSE if self.is_live() => return Ok(None),
                CLOSE => bail!("closed while {:?}: {}", self.phase, String::from_utf8_lossy(frame.payload)),
                other => bail!("a frame with opcode {other}"),
            }
        }
        Ok(Some(at..bytes.len()))
    }

    #[inline]
    fn heard(&mut self, message: &[u8], now_ns: u64, script: &Script, sink: &mut impl Sink) -> Result<()> {
        if script.keeps_cursors()
            && let Some(cursor) = wire::string_member(message, "cursor")
        {
            self.keep_cursor(cursor)?;
        }
        match self.find_stamp(message) {
            Some(from) => sink(&message[from..], now_ns),
            None if script.transport() == Transport::Pusher => self.told(message, script)?,
            None => self.controlled(message)?,
        }
        Ok(())
    }

    /// Acts upon one of the Pusher protocol's own messages.
    fn told(&mut self, message: &[u8], script: &Script) -> Result<()> {
        match self.phase {
            Phase::Establishing if wire::is_event(message, "pusher:connection_established") => {
                self.phase = Phase::Subscribing;
                self.send(&script.subscribe(self.channel, &self.cursor))
            }
            Phase::Subscribing if wire::is_event(message, "pusher_internal:subscription_succeeded") => {
                self.granted(message);
                Ok(())
            }
            _ if wire::is_event(message, "pusher:ping") => self.send(&wire::pong_event_frame()),
            // Others' counts and members, or what a channel had cached.
            Phase::Subscribing | Phase::Live if !wire::is_event(message, "pusher:error") => Ok(()),
            _ => bail!("unexpected while {:?}: {}", self.phase, String::from_utf8_lossy(message)),
        }
    }

    fn pong(&mut self, payload: &[u8]) -> Result<()> {
        let mut frame = Vec::new();
        masked_frame(&mut frame, PONG, payload, wire::MASK);
        self.send(&frame)
    }
}
