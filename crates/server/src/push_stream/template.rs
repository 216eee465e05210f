//! Templates: what a mode writes before, around and after messages.
//!
//! A template is parsed once, when the server starts; what has no token in it is written as it stands. `Shape` is what a mode's
//! transport asks of each message: lines of an event stream, a WebSocket frame, or nothing.

use bytes::Bytes;
use fanfare_proto::ws;

use super::clock::http_date;

/// What a transport asks of the bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: they follow each other.
    Plain,
    /// Fields of a `text/event-stream`.
    EventSource,
    /// A text frame.
    WebSocket,
}

/// A message as templates see it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its number on its channel; below zero for what is no publication.
    pub id: i64,
    /// What was published.
    pub text: &'a str,
    /// The channel's id.
    pub channel: &'a str,
    /// When, in seconds since the Unix epoch.
    pub time_s: u64,
    /// Its number among the messages of that second.
    pub tag: u32,
    /// The publisher's own id for it.
    pub event_id: Option<&'a str>,
    /// The publisher's name for what kind of event it is.
    pub event_type: Option<&'a str>,
}

impl<'a> Message<'a> {
    /// The text of a ping.
    pub const PING: i64 = -1;
    /// The last message of a channel that was deleted.
    pub const DELETED: i64 = -2;
    /// What ends a long-poll that waited in vain.
    pub const TIMED_OUT: i64 = -3;

    /// A message that nobody published: of no time, and with one of the ids below zero.
    pub fn reserved(id: i64, channel: &'a str, text: &'a str) -> Self {
        Message { id, text, channel, time_s: 0, tag: 0, event_id: None, event_type: None }
    }
}

/// How a message is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    shape: Shape,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Id,
    Text,
    Size,
    Channel,
    Time,
    Tag,
    EventId,
    EventType,
}

const TOKENS: [(&str, Part); 8] = [
    ("~id~", Part::Id),
    ("~text~", Part::Text),
    ("~size~", Part::Size),
    ("~channel~", Part::Channel),
    ("~time~", Part::Time),
    ("~tag~", Part::Tag),
    ("~event-id~", Part::EventId),
    ("~event-type~", Part::EventType),
];

impl Template {
    /// Reads a message template.
    pub fn parse(text: &str, shape: Shape) -> Self {
        let text = match shape {
            Shape::EventSource if !text.starts_with("data: ") => format!("data: {text}\n"),
            Shape::EventSource if !text.ends_with('\n') => format!("{text}\n"),
            _ => text.to_owned(),
        };
        Template { shape, parts: parts(&text) }
    }

    /// The bytes of a message, ready for the transport.
    pub fn render(&self, message: &Message<'_>) -> Bytes {
        let mut out = Vec::with_capacity(message.text.len() + 64);
        match self.shape {
            Shape::Plain => self.write(&mut out, message),
            Shape::EventSource => self.write_event(&mut out, message),
            Shape::WebSocket => {
                let mut text = Vec::with_capacity(message.text.len() + 64);
                self.write(&mut text, message);
                out = ws::text_frame(&text);
            }
        }
        out.into()
    }

    /// An event: its own id and type, where it has them, and the template once for each line of the text.
    fn write_event(&self, out: &mut Vec<u8>, message: &Message<'_>) {
        for (field, value) in [("id: ", message.event_id), ("event: ", message.event_type)] {
            // A value of several lines would be other fields.
            let Some(value) = value.filter(|value| !value.contains(['\r', '\n'])) else { continue };
            [field, value, "\n"].iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        }
        for line in lines(message.text) {
            self.write(out, &Message { text: line, ..*message });
        }
        out.push(b'\n');
    }

    fn write(&self, out: &mut Vec<u8>, message: &Message<'_>) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Id => out.extend_from_slice(message.id.to_string().as_bytes()),
                Part::Text => out.extend_from_slice(message.text.as_bytes()),
                Part::Size => out.extend_from_slice(message.text.len().to_string().as_bytes()),
                Part::Channel => out.extend_from_slice(message.channel.as_bytes()),
                Part::Time => out.extend_from_slice(http_date(message.time_s).as_bytes()),
                Part::Tag => out.extend_from_slice(message.tag.to_string().as_bytes()),
                Part::EventId => out.extend_from_slice(message.event_id.unwrap_or_default().as_bytes()),
                Part::EventType => out.extend_from_slice(message.event_type.unwrap_or_default().as_bytes()),
            }
        }
    }
}

/// What is written before or after all messages.
pub fn frame(text: &str, shape: Shape) -> Bytes {
    match shape {
        Shape::WebSocket if !text.is_empty() => ws::text_frame(text.as_bytes()).into(),
        Shape::EventSource if !text.starts_with(": ") => {
            lines(text).map(|line| format!(": {line}\n")).collect::<String>().into()
        }
        _ => Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let token = TOKENS
            .iter()
            .find(|(token, _)| rest.get(..token.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(token)));
        let len = match token {
            Some((token, part)) => {
                push_literal(&mut parts, &mut literal);
                parts.push(part.clone());
                token.len()
            }
            None => {
                literal.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    push_literal(&mut parts, &mut literal);
    parts
}

fn push_literal(parts: &mut Vec<Part>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(Part::Literal(std::mem::take(literal).into()));
    }
}

/// The lines of a text that are not empty, whichever way they end.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\r', '\n']).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Message<'static> = Message {
        id: 7,
        text: "hi ~id~",
        channel: "room",
        time_s: 784_111_777,
        tag: 2,
        event_id: Some("e1"),
        event_type: Some("said"),
    };

    #[track_caller]
    fn check(template: &str, shape: Shape, message: &Message<'_>, wanted: &str) {
        assert_eq!(Template::parse(template, shape).render(message), wanted.as_bytes());
    }

    #[test]
    fn every_token_is_replaced_in_any_case_and_once() {
        check("~text~", Shape::Plain, &MESSAGE, "hi ~id~");
        check("~ID~|~size~|~Channel~|~tag~|~event-id~|~event-type~", Shape::Plain, &MESSAGE, "7|7|room|2|e1|said");
        check("~time~", Shape::Plain, &MESSAGE, "Sun, 06 Nov 1994 08:49:37 GMT");
        check("~~id~~nothing~é~", Shape::Plain, &MESSAGE, "~7~nothing~é~");
        check("", Shape::Plain, &MESSAGE, "");
    }

    #[test]
    fn what_was_not_sent_along_is_empty() {
        let bare = Message { event_id: None, event_type: None, ..MESSAGE };
        check("[~event-id~~event-type~]", Shape::Plain, &bare, "[]");
        check("~text~", Shape::EventSource, &bare, "data: hi ~id~\n\n");
    }

    #[test]
    fn an_event_has_a_data_line_for_each_line_of_its_text() {
        check("~text~", Shape::EventSource, &MESSAGE, "id: e1\nevent: said\ndata: hi ~id~\n\n");
        let torn = Message { text: "a\r\nb\rc\nd", event_id: None, event_type: Some("x\ndata: forged"), ..MESSAGE };
        check("~text~", Shape::EventSource, &torn, "data: a\ndata: b\ndata: c\ndata: d\n\n");
        check("data: ~id~:~text~", Shape::EventSource, &torn, "data: 7:a\ndata: 7:b\ndata: 7:c\ndata: 7:d\n\n");
    }

    #[test]
    fn a_websocket_message_is_a_text_frame() {
        let rendered = Template::parse("~channel~", Shape::WebSocket).render(&MESSAGE);
        assert_eq!(rendered.as_ref(), b"\x81\x04room");
    }

    #[test]
    fn before_and_after_an_event_stream_stand_comments() {
        assert_eq!(frame("a\r\nb", Shape::EventSource), ": a\n: b\n");
        assert_eq!(frame(": kept\n", Shape::EventSource), ": kept\n");
        assert_eq!(frame("", Shape::EventSource), "");
        assert_eq!(frame("<html>", Shape::Plain), "<html>");
        assert_eq!(frame("hi", Shape::WebSocket).as_ref(), b"\x81\x02hi");
        assert_eq!(frame("", Shape::WebSocket), "");
    }
}
