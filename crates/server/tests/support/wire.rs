//! A connection of HTTP/1.x on which requests follow each other, and whose answers are read as they come.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;
use super::http::{self, Response};

/// The connection. Nothing is sent that a test does not say.
pub struct Wire {
    pub stream: TcpStream,
    received: Vec<u8>,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunked,
    UntilClose,
}

impl Wire {
    pub fn to(addr: SocketAddr) -> Self {
        Self { stream: http::connect(addr), received: Vec::new() }
    }

    /// Sends bytes. A peer that has closed already is no failure here: tests see the close.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self.stream.write_all(bytes.as_ref()) {
            Err(error) if !is_gone(error.kind()) => panic!("cannot send: {error}"),
            _ => {}
        }
    }

    /// Sends a GET of HTTP/1.1 with these headers.
    pub fn get(&mut self, target: &str, headers: &[(&str, &str)]) {
        self.send(head("GET", target, headers));
    }

    /// Reads a whole answer, and leaves what follows it for the next.
    #[track_caller]
    pub fn answer(&mut self) -> Response {
        let mut response = self.head();
        let mut body = self.body_of(&response);
        let mut bytes = Vec::new();
        while let Some(part) = body.part() {
            bytes.extend_from_slice(&part);
        }
        self.received = body.wire.received;
        response.body = String::from_utf8(bytes).expect("a body in UTF-8");
        response
    }

    /// Reads a whole answer if there is another; `None` once the server has closed.
    #[track_caller]
    pub fn next_status(&mut self) -> Option<u16> {
        let another = !self.received.is_empty() || self.more();
        another.then(|| self.answer().status)
    }

    /// A request and its whole answer.
    #[track_caller]
    pub fn ask(&mut self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.get(target, headers);
        self.answer()
    }

    /// Reads an answer's head alone.
    #[track_caller]
    pub fn head(&mut self) -> Response {
        loop {
            if let Some(at) = http::find(&self.received, b"\r\n\r\n") {
                let head: Vec<u8> = self.received.drain(..at + 4).collect();
                return Response::head(&head);
            }
            assert!(self.more(), "closed within a head: {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    /// The body behind a head that was read with [`Wire::head`].
    pub fn body(self, response: &Response) -> Body {
        let length = length(response);
        Body { wire: self, length, ended: length == Length::Bytes(0) }
    }

    fn body_of(&mut self, response: &Response) -> Body {
        let stream = self.stream.try_clone().expect("a second handle");
        Self { stream, received: std::mem::take(&mut self.received) }.body(response)
    }

    /// Whether the server closes the connection, and says nothing before.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert!(!self.more(), "expected the end, got {:?}", String::from_utf8_lossy(&self.received));
    }

    /// Asserts that nothing comes for a while.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.stream.set_read_timeout(Some(super::SILENCE)).expect("a time-out can be set");
        let mut chunk = [0; 1024];
        let heard = self.stream.read(&mut chunk);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        match heard {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => panic!("expected nothing, got {other:?} {:?}", String::from_utf8_lossy(&chunk)),
        }
    }

    /// Reads some more; false once the server has closed.
    #[track_caller]
    fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(n) => {
                    self.received.extend_from_slice(&chunk[..n]);
                    return n > 0;
                }
                Err(error) if is_gone(error.kind()) => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("nothing came: {error}; so far {:?}", String::from_utf8_lossy(&self.received)),
            }
        }
    }
}

/// A body that is read as it comes.
pub struct Body {
    wire: Wire,
    length: Length,
    ended: bool,
}

impl Body {
    /// The next bytes of it, as the server framed them; `None` at its end. A body in chunks that is cut off is a failure.
    #[track_caller]
    pub fn part(&mut self) -> Option<Vec<u8>> {
        while !self.ended {
            let part = match self.length {
                Length::Chunked => self.chunk(),
                Length::Bytes(len) => (self.wire.received.len() >= len).then(|| self.take(len)),
                Length::UntilClose => (!self.wire.received.is_empty()).then(|| std::mem::take(&mut self.wire.received)),
            };
            match part {
                Some(part) if part.is_empty() => self.ended = true,
                Some(part) => {
                    self.ended |= matches!(self.length, Length::Bytes(_));
                    return Some(part);
                }
                None if self.wire.more() => {}
                None => {
                    assert_eq!(self.length, Length::UntilClose, "cut off: {:?}", self.wire.received);
                    self.ended = true;
                }
            }
        }
        None
    }

    /// The connection, for tests that look beyond the body.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// One chunk if all of it is there; an empty one is the last.
    fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = http::find(&self.wire.received, b"\r\n")?;
        let size = std::str::from_utf8(&self.wire.received[..line]).expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        let whole = line + 2 + size + 2;
        if self.wire.received.len() < whole {
            return None;
        }
        let chunk = self.take(whole);
        assert_eq!(&chunk[whole - 2..], b"\r\n", "what ends a chunk");
        Some(chunk[line + 2..whole - 2].to_vec())
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        self.wire.received.drain(..len).collect()
    }
}

/// A request's head.
pub fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: fanfare.test\r\n{more}\r\n")
}

fn length(response: &Response) -> Length {
    if response.header("transfer-encoding") == Some("chunked") {
        return Length::Chunked;
    }
    match response.header("content-length") {
        _ if matches!(response.status, 204 | 304) => Length::Bytes(0),
        Some(len) => Length::Bytes(len.parse().expect("a length")),
        None => Length::UntilClose,
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}
