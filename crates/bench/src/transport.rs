//! The ways to subscribe that the clients know, and the requests that each begins with.
//!
//! All but `pusher` ask `GET /sub/{key}/{channel}` and say which transport they want. What comes back is read in
//! `subscriber`.

use serde::{Deserialize, Serialize};

use crate::target::{Dialect, Server};
use crate::wire;

/// The longest that a poll may wait; a waiting poller is to stay idle.
const WAIT_S: u32 = 55;

/// How subscribers listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A WebSocket with the Pusher protocol on it
    Pusher,
    /// A plain WebSocket
    Ws,
    /// Server-sent events
    Sse,
    /// Lines over one endless HTTP answer
    Stream,
    /// One HTTP answer for each publication
    Longpoll,
}

/// How a run's subscribers listen, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manner {
    pub server: Server,
    pub dialect: Dialect,
    pub key: String,
    pub channel_prefix: String,
    pub transport: Transport,
    /// Whether each subscriber keeps the cursor of what it heard last, to go on from there. Long-pollers always do.
    pub keeps_cursors: bool,
}

/// What the connections of a process say, made ready.
pub struct Script {
    manner: Manner,
    /// For each channel, what opens a connection, without the line that ends the head.
    openings: Vec<String>,
    /// For each channel, a poll that waits, likewise.
    polls: Vec<String>,
}

impl Script {
    pub fn new(manner: Manner, channels: u32) -> Script {
        let openings = (0..channels).map(|n| manner.opening(n)).collect();
        let polls = match manner.transport {
            Transport::Longpoll => (0..channels).map(|n| manner.poll(n, "")).collect(),
            _ => Vec::new(),
        };
        Script { manner, openings, polls }
    }

    pub fn transport(&self) -> Transport {
        self.manner.transport
    }

    pub fn keeps_cursors(&self) -> bool {
        self.manner.keeps_cursors
    }

    /// The first request on a connection; from where the cursor points, unless that is empty.
    pub fn opening(&self, channel: u32, cursor: &str) -> Vec<u8> {
        let resumes = match self.transport() {
            _ if cursor.is_empty() => String::new(),
            Transport::Longpoll => return self.next_poll(channel, cursor),
            // Says so when it subscribes.
            Transport::Pusher => String::new(),
            Transport::Ws | Transport::Sse | Transport::Stream => format!("Last-Event-ID: {cursor}\r\n"),
        };
        [&self.openings[channel as usize], resumes.as_str(), "\r\n"].concat().into_bytes()
    }

    /// The request that waits for what comes after the cursor, which here is the header lines to send back.
    pub fn next_poll(&self, channel: u32, cursor: &str) -> Vec<u8> {
        [&self.polls[channel as usize], cursor, "\r\n"].concat().into_bytes()
    }

    /// Asks for a channel, the Pusher way.
    pub fn subscribe(&self, channel: u32, cursor: &str) -> Vec<u8> {
        wire::subscribe_frame(&wire::channel_name(&self.manner.channel_prefix, channel), cursor)
    }
}

impl Manner {
    /// What opens a connection to the `n`th channel.
    fn opening(&self, n: u32) -> String {
        let Manner { key, keeps_cursors, .. } = self;
        match self.transport {
            Transport::Pusher => {
                let (version, positions) =
                    (env!("CARGO_PKG_VERSION"), if *keeps_cursors { "&positions=1" } else { "" });
                let path = format!("/app/{key}?protocol=7&client=fanfare-bench&version={version}{positions}");
                self.request(&path) + wire::UPGRADE_LINES
            }
            Transport::Ws => self.request(&self.path("ws", n)) + wire::UPGRADE_LINES,
            Transport::Sse => self.request(&self.path("sse", n)) + "Accept: text/event-stream\r\n",
            Transport::Stream => self.request(&self.path("stream", n)),
            // Answered at once with the crew's greeting, and with a cursor: so nothing is missed from there on, however late the
            // server reads what follows.
            Transport::Longpoll => self.poll(n, "&backtrack=1"),
        }
    }

    fn poll(&self, n: u32, begins: &str) -> String {
        match self.dialect {
            Dialect::Fanfare => self.request(&format!("{}&wait={WAIT_S}{begins}", self.path("longpoll", n))),
            Dialect::Nchan => self.request(&format!("/sub?id={}", wire::channel_name(&self.channel_prefix, n))),
        }
    }

    fn path(&self, transport: &str, n: u32) -> String {
        let channel = wire::channel_name(&self.channel_prefix, n);
        // Raw messages carry no cursor, except where the transport has a place of its own for it.
        let format = match self.transport {
            Transport::Ws | Transport::Stream if self.keeps_cursors => "json",
            _ => "raw",
        };
        format!("/sub/{}/{channel}?transport={transport}&format={format}", self.key)
    }

    fn request(&self, path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.server.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(transport: Transport, dialect: Dialect, keeps_cursors: bool) -> Script {
        let server = Server { address: ([127, 0, 0, 1], 6001).into(), host: "h:1".into() };
        let (key, channel_prefix) = ("k".into(), "c".into());
        Script::new(Manner { server, dialect, key, channel_prefix, transport, keeps_cursors }, 2)
    }

    fn opening(script: &Script, cursor: &str) -> String {
        String::from_utf8(script.opening(1, cursor)).expect("ASCII")
    }

    #[test]
    fn a_stream_begins_where_its_cursor_points() {
        let script = script(Transport::Sse, Dialect::Fanfare, true);
        let begins = "GET /sub/k/c-1?transport=sse&format=raw HTTP/1.1\r\nHost: h:1\r\nAccept: text/event-stream\r\n";
        assert_eq!(opening(&script, ""), format!("{begins}\r\n"));
        assert_eq!(opening(&script, "at-7"), format!("{begins}Last-Event-ID: at-7\r\n\r\n"));
    }

    #[test]
    fn where_raw_messages_have_no_place_for_a_cursor_json_has() {
        for transport in [Transport::Ws, Transport::Stream] {
            assert!(opening(&script(transport, Dialect::Fanfare, false), "").contains("format=raw"));
            assert!(opening(&script(transport, Dialect::Fanfare, true), "").contains("format=json"));
        }
        assert!(opening(&script(Transport::Pusher, Dialect::Fanfare, true), "").contains("&positions=1 "));
    }

    #[test]
    fn a_poller_begins_with_the_newest_message_and_then_waits() {
        let script = script(Transport::Longpoll, Dialect::Fanfare, false);
        let begins = "GET /sub/k/c-1?transport=longpoll&format=raw&wait=55&backtrack=1 HTTP/1.1\r\n";
        assert!(opening(&script, "").starts_with(begins));
        let waits = "GET /sub/k/c-1?transport=longpoll&format=raw&wait=55 HTTP/1.1\r\nHost: h:1\r\nIf-None-Match: \"x\"\r\n\r\n";
        assert_eq!(script.next_poll(1, "If-None-Match: \"x\"\r\n"), waits.as_bytes());
        assert_eq!(opening(&script, "If-None-Match: \"x\"\r\n"), waits);
    }

    #[test]
    fn nchan_has_one_address_for_both() {
        let script = script(Transport::Longpoll, Dialect::Nchan, false);
        assert_eq!(opening(&script, ""), "GET /sub?id=c-1 HTTP/1.1\r\nHost: h:1\r\n\r\n");
    }
}
