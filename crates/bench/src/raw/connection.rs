//! A socket of the reference: what it has not finished saying, and what it has not yet taken.

use std::io::{self, ErrorKind, Read, Write};

use fanfare_proto::server;
use fanfare_proto::ws::{accept_key, text_frame};
use mio::net::TcpStream;

use super::publication;
use super::request::{self, Asked};
use crate::transport::Transport;

/// Nobody looks at it, so everybody gets the same; clients want its form.
pub const ESTABLISHED: &[u8] =
    br#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.1\",\"activity_timeout\":120}"}"#;

/// One connection, which speaks HTTP until it becomes a subscriber.
pub struct Connection {
    pub stream: TcpStream,
    /// What it is subscribed to, or waits for.
    pub channels: Vec<String>,
    /// How it listens; other than by polls once it has been granted that.
    pub transport: Transport,
    /// An incomplete request or frame.
    rest: Vec<u8>,
    /// What the socket did not take.
    backlog: Vec<u8>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let transport = Transport::Longpoll;
        Ok(Connection { stream, channels: Vec::new(), transport, rest: Vec::new(), backlog: Vec::new() })
    }

    /// Reads behind what was kept: how much there is now, and whether that was all; `None` at the end of the stream.
    pub fn fill(&mut self, scratch: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
        let held = self.rest.len();
        scratch[..held].copy_from_slice(&self.rest);
        let got = self.stream.read(&mut scratch[held..])?;
        self.rest.clear();
        Ok((got > 0).then_some((held + got, held + got < scratch.len())))
    }

    /// Keeps what is incomplete for the next read.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// What the front of `bytes` asks for, and how long that is.
    pub fn next_request(&self, bytes: &[u8]) -> Option<(Asked, usize)> {
        match self.transport {
            Transport::Longpoll => request::http(bytes),
            Transport::Pusher | Transport::Ws => request::frame(bytes),
            Transport::Sse | Transport::Stream => (!bytes.is_empty()).then_some((Asked::Nothing, bytes.len())),
        }
    }

    /// Becomes a WebSocket, on which this is said first.
    pub fn upgrade(&mut self, transport: Transport, key: &str, first: &[u8]) {
        let accept = accept_key(key);
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.transport = transport;
        self.send(&[head.as_bytes(), &text_frame(first)].concat());
    }

    /// Becomes a subscriber by `/sub`.
    pub fn listen(&mut self, transport: Transport, key: &str, channel: &str, offset: u64, recovered: Option<bool>) {
        if transport == Transport::Ws {
            self.upgrade(transport, key, publication::subscribed(channel, offset, recovered).as_bytes());
        } else {
            self.transport = transport;
            self.send(&publication::stream_begins(transport, channel, offset, recovered));
        }
        self.channels.push(channel.to_owned());
    }

    pub fn confirm(&mut self, channel: &str) {
        let mut message = Vec::new();
        server::subscription_succeeded(&mut message, channel, None);
        self.send(&text_frame(&message));
        self.channels.push(channel.to_owned());
    }

    /// Sends, and remembers what was not taken. An error shows again at the next read.
    pub fn send(&mut self, bytes: &[u8]) {
        if !self.backlog.is_empty() {
            return self.backlog.extend_from_slice(bytes);
        }
        match self.stream.write(bytes) {
            Ok(sent) if sent == bytes.len() => {}
            Ok(sent) => self.backlog.extend_from_slice(&bytes[sent..]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.backlog.extend_from_slice(bytes),
            Err(_) => {}
        }
    }

    /// Sends what was left over, now that there may be room.
    pub fn flush(&mut self) {
        while !self.backlog.is_empty() {
            match self.stream.write(&self.backlog) {
                Ok(sent) => drop(self.backlog.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.backlog.clear(),
            }
        }
    }
}
