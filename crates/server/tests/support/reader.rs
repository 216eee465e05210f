//! A subscriber of `/sub` by whatever transport, who hears JSON.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::Value;

use super::http::Response;
use super::sse;
use super::websocket::{WebSocket, opcode};
use super::wire::{Body, Wire};
use super::{KEY, Server};

/// How a reader is sent what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Sse,
    Stream,
    LongPoll,
    Socket,
}

pub const TRANSPORTS: [Transport; 4] = [Transport::Sse, Transport::Stream, Transport::LongPoll, Transport::Socket];

/// Those whose readers are told of everything on one response.
pub const STREAMS: [Transport; 3] = [Transport::Sse, Transport::Stream, Transport::Socket];

impl Transport {
    /// As the query calls it.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Sse => "sse",
            Transport::Stream => "stream",
            Transport::LongPoll => "longpoll",
            Transport::Socket => "ws",
        }
    }
}

/// The path and query under which channels are read by a transport as JSON. `more` begins with `&`, or is empty.
pub fn target(transport: Transport, channels: &str, more: &str) -> String {
    format!("/sub/{KEY}/{channels}?format=json&transport={}{more}", transport.name())
}

/// The subscriber.
pub struct Reader {
    how: How,
    heard: VecDeque<Value>,
    /// The last cursor that it was told.
    pub cursor: Option<String>,
}

enum How {
    Sse { body: Body, parser: sse::Parser },
    Lines { body: Body, rest: Vec<u8> },
    Socket(WebSocket),
    Polls { wire: Wire, channels: String, more: String },
}

impl Reader {
    /// A reader who is subscribed: what is published from now on is heard.
    #[track_caller]
    pub fn open(server: &Server, transport: Transport, channels: &str) -> Self {
        Self::with(server, transport, channels, "")
    }

    /// The same with more of a query. A poller is first told where it is, unless the query says so.
    #[track_caller]
    pub fn with(server: &Server, transport: Transport, channels: &str, more: &str) -> Self {
        let mut reader = Self::ask(server.addr, transport, channels, more, &[]).unwrap_or_else(|why| panic!("{why:?}"));
        match &mut reader.how {
            How::Polls { wire, .. } if !more.contains("since=") && !more.contains("backtrack=") => {
                let answer = wire.ask(&format!("/sub/{KEY}/{channels}?format=json&transport=poll{more}"), &[]);
                assert_eq!(answer.status, 200, "{answer:?}");
                reader.cursor = answer.header("fanfare-cursor").map(str::to_owned);
            }
            How::Polls { .. } => {}
            _ => channels.split('/').for_each(|_| reader.expect_subscribed()),
        }
        reader
    }

    /// A reader of whom nothing was heard yet, or the refusal. A poller has not asked anything yet.
    #[track_caller]
    pub fn ask(
        addr: SocketAddr,
        transport: Transport,
        channels: &str,
        more: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Box<Response>> {
        let target = target(transport, channels, more);
        let how = match transport {
            Transport::Socket => How::Socket(WebSocket::open(addr, &target, headers)?),
            Transport::LongPoll => {
                How::Polls { wire: Wire::to(addr), channels: channels.to_owned(), more: more.to_owned() }
            }
            Transport::Sse | Transport::Stream => {
                let mut wire = Wire::to(addr);
                wire.get(&target, headers);
                let mut response = wire.head();
                let mut body = wire.body(&response);
                if response.status != 200 {
                    response.body = String::from_utf8(body.part().unwrap_or_default()).expect("a refusal is text");
                    return Err(Box::new(response));
                }
                match transport {
                    Transport::Sse => How::Sse { body, parser: sse::Parser::default() },
                    _ => How::Lines { body, rest: Vec::new() },
                }
            }
        };
        Ok(Self { how, heard: VecDeque::new(), cursor: None })
    }

    #[track_caller]
    fn expect_subscribed(&mut self) {
        let message = self.next();
        assert_eq!(message["event"], "fanfare:subscribed", "{message}");
    }

    /// The next message; heartbeats are passed over.
    #[track_caller]
    pub fn next(&mut self) -> Value {
        self.heard().expect("another message before the end")
    }

    /// The next message, or `None` once the server has ended the response.
    #[track_caller]
    pub fn heard(&mut self) -> Option<Value> {
        while self.heard.is_empty() {
            let more = self.listen()?;
            self.heard.extend(more);
        }
        let message = self.heard.pop_front()?;
        // What was missed follows the confirmation, and may yet be cut off.
        if let Some(cursor) = message["cursor"].as_str().filter(|_| message["recovered"] != true) {
            self.cursor = Some(cursor.to_owned());
        }
        Some(message)
    }

    /// Whether a message is there that was heard together with the last one.
    pub fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// The data of the next message, which is not of our own making.
    #[track_caller]
    pub fn data(&mut self) -> String {
        let message = self.next();
        let event = message["event"].as_str().unwrap_or_default();
        assert!(!event.starts_with("fanfare:"), "expected a publication, got {message}");
        message["data"].as_str().unwrap_or_else(|| panic!("no data in {message}")).to_owned()
    }

    /// The frames of a reader by WebSocket.
    pub fn socket(&mut self) -> &mut WebSocket {
        match &mut self.how {
            How::Socket(socket) => socket,
            _ => panic!("not a WebSocket"),
        }
    }

    /// Some messages, perhaps none; `None` at the end.
    #[track_caller]
    fn listen(&mut self) -> Option<Vec<Value>> {
        match &mut self.how {
            How::Sse { body, parser } => {
                let events = parser.feed(&body.part()?);
                Some(events.iter().map(|event| parsed(&event.data)).collect())
            }
            How::Lines { body, rest } => {
                rest.extend(body.part()?);
                let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let lines = String::from_utf8(rest.drain(..whole).collect()).expect("lines in UTF-8");
                Some(lines.lines().filter(|line| !line.is_empty()).map(parsed).collect())
            }
            How::Socket(socket) => match socket.answering_pings()? {
                frame if frame.opcode == opcode::TEXT => Some(vec![parsed(&frame.text())]),
                frame if frame.opcode == opcode::CLOSE => None,
                other => panic!("expected a message, got {other:?}"),
            },
            How::Polls { wire, channels, more } => {
                let since = self.cursor.as_ref().map(|cursor| format!("&since={cursor}")).unwrap_or_default();
                let answer = wire.ask(&target(Transport::LongPoll, channels, &format!("{since}{more}")), &[]);
                assert_eq!(answer.status, 200, "{answer:?}");
                let mut answer = answer.json();
                self.cursor = answer["cursor"].as_str().map(str::to_owned).or(self.cursor.take());
                let Value::Array(messages) = answer["messages"].take() else { panic!("{answer}") };
                // The place behind all of them is the answer's.
                let cursorless = |mut message: Value| {
                    message.as_object_mut().expect("an object").remove("cursor");
                    message
                };
                Some(messages.into_iter().map(cursorless).collect())
            }
        }
    }
}

#[track_caller]
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}
