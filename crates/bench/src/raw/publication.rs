//! One publication, in the bytes that Fanfare would send to subscribers of each transport. Each form is made when the first
//! subscriber needs it.

use std::cell::OnceCell;

use fanfare_proto::cursor::{Cursor, Place, channel_hash};
use fanfare_proto::ws::text_frame;
use fanfare_proto::{feed, server};

use super::request::Event;
use crate::transport::Transport;

/// The app and the epoch in cursors: any will do, so these are as long as real ones.
const APP: &str = "1";
const EPOCH: u64 = 1_790_000_000_000 << 10;

/// An event with its place in a channel.
pub struct Publication {
    pub offset: u64,
    event: Event,
    /// The data as text, without its JSON.
    data: String,
    forms: [OnceCell<Form>; 5],
}

/// Ready-made bytes.
pub struct Form {
    pub bytes: Vec<u8>,
    /// Where the last character of the data is.
    pub last: usize,
}

impl Publication {
    pub fn new(offset: u64, event: Event) -> Publication {
        let data = serde_json::from_str(&event.data).unwrap_or_else(|_| event.data.clone());
        Publication { offset, event, data, forms: Default::default() }
    }

    pub fn form(&self, transport: Transport) -> &Form {
        self.forms[transport as usize].get_or_init(|| match transport {
            Transport::Pusher => self.frame(),
            Transport::Ws => self.ending(text_frame(self.data.as_bytes()), ""),
            Transport::Sse => self.sse(),
            Transport::Stream => self.ending(chunk(format!("{}\n", self.data).as_bytes()), "\n\r\n"),
            Transport::Longpoll => self.answer(self.offset),
        })
    }

    fn frame(&self) -> Form {
        let Event { channel, name, data } = &self.event;
        let mut message = Vec::new();
        server::event(&mut message, name, Some(channel), data, None);
        self.ending(text_frame(&message), "\"}")
    }

    fn sse(&self) -> Form {
        let name: String = serde_json::from_str(&self.event.name).unwrap_or_default();
        let mut event = Vec::new();
        feed::sse(&mut event, Some(&cursor(&self.event.channel, self.offset)), &name, &self.data);
        self.ending(chunk(&event), "\n\n\r\n")
    }

    /// An answer to a poll, with the cursor of this offset.
    pub fn answer(&self, offset: u64) -> Form {
        let head = answer_head("200 OK", &self.event.channel, offset);
        let length = self.data.len();
        let answer =
            format!("{head}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{}", self.data);
        self.ending(answer.into_bytes(), "")
    }

    /// A form whose data is followed by this.
    fn ending(&self, bytes: Vec<u8>, end: &str) -> Form {
        let last = bytes.len().saturating_sub(end.len() + 1);
        Form { bytes, last }
    }
}

/// The beginning of an endless answer: head, the control event that grants the subscription, nothing else.
pub fn stream_begins(transport: Transport, channel: &str, offset: u64, recovered: Option<bool>) -> Vec<u8> {
    let subscribed = subscribed(channel, offset, recovered);
    let (content_type, first) = match transport {
        Transport::Sse => {
            let mut event = b":ok\nretry: 2000\n\n".to_vec();
            feed::sse(&mut event, Some(&cursor(channel, offset)), "fanfare:subscribed", &subscribed);
            ("text/event-stream", event)
        }
        _ => ("text/plain; charset=utf-8", format!("{subscribed}\n").into_bytes()),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n");
    [head.into_bytes(), chunk(&first)].concat()
}

/// `fanfare:subscribed`.
pub fn subscribed(channel: &str, offset: u64, recovered: Option<bool>) -> String {
    let mut message = Vec::new();
    feed::subscribed(&mut message, channel, recovered, Some(&cursor(channel, offset)), None);
    String::from_utf8_lossy(&message).into_owned()
}

/// The answer to a poll that does not say from where on.
pub fn position(channel: &str, offset: u64) -> Vec<u8> {
    (answer_head("204 No Content", channel, offset) + "\r\n").into_bytes()
}

fn answer_head(status: &str, channel: &str, offset: u64) -> String {
    format!("HTTP/1.1 {status}\r\nETag: \"{}\"\r\n", cursor(channel, offset))
}

fn cursor(channel: &str, offset: u64) -> String {
    let place = Place { channel_hash: channel_hash(APP, channel), epoch: EPOCH, offset };
    Cursor::single(place, offset).to_string()
}

/// The offset that a cursor names.
pub fn offset_of(cursor: &str) -> Option<u64> {
    Some(Cursor::parse(cursor).ok()?.places().first()?.offset)
}

fn chunk(payload: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(payload.len() + 8);
    feed::chunk(&mut framed, payload);
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_character_of_the_data_is_known_in_each_form() {
        let event = Event { channel: "c".into(), name: "\"n\"".into(), data: "\"data:#\"".into() };
        let publication = Publication::new(7, event);
        for transport in [Transport::Pusher, Transport::Ws, Transport::Sse, Transport::Stream, Transport::Longpoll] {
            let form = publication.form(transport);
            assert_eq!(form.bytes[form.last], b'#', "{}", String::from_utf8_lossy(&form.bytes));
        }
    }

    #[test]
    fn an_answers_cursor_is_read_back() {
        assert_eq!(offset_of(&cursor("c", 300)), Some(300));
        assert_eq!(offset_of("nonsense"), None);
    }
}
