//! The client's half of RFC 6455, frame by frame and as wrong as a test wants it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;
use super::http::{self, Response};

/// The opcodes that tests name.
pub mod opcode {
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

const FIN: u8 = 0x80;

/// An answer other than 101.
pub type Refusal = Box<Response>;

/// A frame as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// Set on compressed messages.
    pub rsv1: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload of a text frame, or the frame in words.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The code of a close frame.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().copied();
        (self.opcode == opcode::CLOSE).then(|| code.map(u16::from_be_bytes))?
    }
}

/// An open WebSocket. Nothing is answered unasked: not even a ping.
pub struct WebSocket {
    /// For tests that write bytes which are no frame.
    pub stream: TcpStream,
    /// The answer to the handshake.
    pub handshake: Response,
    received: Vec<u8>,
}

impl WebSocket {
    /// Shakes hands with further headers, such as `Origin` or `Sec-WebSocket-Protocol`.
    pub fn open(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Self, Refusal> {
        Self::open_saying(addr, target, headers, b"")
    }

    /// The same for a client that does not wait for the answer before it sends its first bytes.
    pub fn open_saying(
        addr: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
        first: &[u8],
    ) -> Result<Self, Refusal> {
        let mut stream = http::connect(addr);
        let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
        );
        stream.write_all(&[head.as_bytes(), first].concat()).expect("the handshake is sent");
        let mut received = Vec::new();
        let handshake = Response::read(&mut stream, &mut received);
        if handshake.status != 101 {
            return Err(Box::new(handshake));
        }
        // The answer that RFC 6455 §1.3 gives for this key.
        let accept = handshake.header("sec-websocket-accept");
        assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        Ok(Self { stream, handshake, received })
    }

    pub fn send_text(&mut self, text: &str) {
        self.send_frame(FIN | opcode::TEXT, text.as_bytes());
    }

    pub fn ping(&mut self, payload: &[u8]) {
        self.send_frame(FIN | opcode::PING, payload);
    }

    pub fn pong(&mut self, payload: &[u8]) {
        self.send_frame(FIN | opcode::PONG, payload);
    }

    /// Begins the closing handshake.
    pub fn close(&mut self, code: u16) {
        self.send_frame(FIN | opcode::CLOSE, &code.to_be_bytes());
    }

    /// Sends a masked frame whose first byte is as given.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send_bytes(&masked_frame(first, payload));
    }

    /// Sends bytes that need not be a frame. A peer that has closed already is no failure here: tests see the close.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if !is_gone(error.kind()) => panic!("cannot send: {error}"),
            _ => {}
        }
    }

    /// The next frame; `None` once the server has closed the connection.
    #[track_caller]
    pub fn frame(&mut self) -> Option<Frame> {
        self.frame_within(PATIENCE).unwrap_or_else(|Silent| panic!("no frame within {PATIENCE:?}"))
    }

    /// The same, where silence is one of the things that may happen.
    pub fn frame_within(&mut self, patience: Duration) -> Result<Option<Frame>, Silent> {
        let timeout = Some(patience);
        self.stream.set_read_timeout(timeout).expect("a time-out can be set");
        loop {
            if let Some((frame, len)) = parse(&self.received) {
                self.received.drain(..len);
                return Ok(Some(frame));
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(error) if is_gone(error.kind()) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Silent),
            }
        }
    }

    /// The next frame that is not a ping; pings are answered.
    #[track_caller]
    pub fn answering_pings(&mut self) -> Option<Frame> {
        loop {
            match self.frame() {
                Some(ping) if ping.opcode == opcode::PING => self.pong(&ping.payload),
                other => return other,
            }
        }
    }

    /// Ends our direction of the connection without a word.
    pub fn hang_up(&mut self) {
        // It may have been closed by the server, which comes to the same.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

/// Nothing came in the time that was given.
#[derive(Debug)]
pub struct Silent;

/// A client's frame, masked with a fixed key: it hides nothing here, but the server must undo it.
pub fn masked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The first whole frame, which a server never masks, and its length.
fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let [first, second] = *bytes.first_chunk()?;
    assert_eq!(second & 0x80, 0, "a server's frames are not masked");
    let (start, len) = match second {
        126 => (4, u16::from_be_bytes(*bytes[2..].first_chunk()?) as usize),
        127 => (10, u64::from_be_bytes(*bytes[2..].first_chunk()?) as usize),
        len => (2, len as usize),
    };
    let payload = bytes.get(start..start + len)?.to_vec();
    let frame = Frame { fin: first & FIN != 0, rsv1: first & 0x40 != 0, opcode: first & 0x0f, payload };
    Some((frame, start + len))
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}
