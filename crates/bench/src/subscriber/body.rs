//! Over an endless HTTP answer in chunks: server-sent events, or lines.

use std::ops::Range;

use anyhow::Result;

use super::{Phase, Sink, Subscriber};
use crate::transport::{Script, Transport};
use crate::{http, sse, sys, wire};

impl Subscriber {
    pub(super) fn consume_body(
        &mut self,
        bytes: &mut [u8],
        held: usize,
        script: &Script,
        sink: &mut impl Sink,
    ) -> Result<Option<Range<usize>>> {
        let (mut at, mut framed_from) = (0, held);
        if self.phase == Phase::Opening {
            let Some(head) = wire::head_len(bytes) else {
                return Ok(Some(0..bytes.len()));
            };
            http::check_stream(&bytes[..head])?;
            self.phase = Phase::Subscribing;
            (at, framed_from) = (head, head);
        }
        let end = framed_from + self.chunks.unframe(&mut bytes[framed_from..])?;
        let body = &bytes[..end];
        match script.transport() {
            Transport::Sse => self.take_events(body, &mut at, sink)?,
            _ => self.take_lines(body, &mut at, script, sink)?,
        }
        Ok((!self.chunks.have_ended()).then_some(at..end))
    }

    fn take_events(&mut self, body: &[u8], at: &mut usize, sink: &mut impl Sink) -> Result<()> {
        let now_ns = sys::monotonic_ns();
        while let Some(event) = sse::next_event(body, at)? {
            if let Some(id) = event.id {
                self.keep_cursor(id)?;
            }
            let Some(data) = event.data else { continue };
            match self.find_stamp(data) {
                Some(from) => sink(&data[from..], now_ns),
                None => self.controlled(data)?,
            }
        }
        Ok(())
    }

    fn take_lines(&mut self, body: &[u8], at: &mut usize, script: &Script, sink: &mut impl Sink) -> Result<()> {
        let now_ns = sys::monotonic_ns();
        while let Some(line) = sse::next_line(body, at) {
            if script.keeps_cursors()
                && let Some(cursor) = wire::string_member(line, "cursor")
            {
                self.keep_cursor(cursor)?;
            }
            match self.find_stamp(line) {
                Some(from) => sink(&line[from..], now_ns),
                None => self.controlled(line)?,
            }
        }
        Ok(())
    }
}
