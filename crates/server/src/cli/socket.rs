//! The client's end of one WebSocket: the handshake, messages in, frames out.
//!
//! Just what `fanfare subscribe` needs: text messages, no compression. A message over [`MESSAGE_BYTES_MAX`] ends it.

use super::access::Server;
use anyhow::{bail, ensure};
use fanfare_proto::close::CloseCode;
use fanfare_proto::ws::{self, Header};
use std::hash::{BuildHasher, RandomState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Far more than a server sends, and little enough to hold.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const HEAD_BYTES_MAX: usize = 16 << 10;

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Bytes that came and were not taken yet.
    received: Vec<u8>,
    /// The parts of a fragmented message so far.
    parts: Vec<u8>,
}

/// What the server sent.
#[derive(Debug)]
pub enum Incoming {
    /// A message.
    Text(String),
    /// A ping was answered or a pong came: the peer lives.
    Alive,
    /// A close frame: its code, if it had one that may travel, and its reason.
    Close(Option<CloseCode>, String),
}

impl Socket {
    /// Connects and shakes hands.
    pub async fn open(server: &Server, target: &str) -> anyhow::Result<Socket> {
        let stream = TcpStream::connect(&server.authority).await?;
        stream.set_nodelay(true)?;
        let mut socket = Socket { stream, received: Vec::new(), parts: Vec::new() };
        // Sixteen zero bytes: the key only proves that a WebSocket server answers, and ours is not cached on the way.
        let key = "AAAAAAAAAAAAAAAAAAAAAA==";
        let head = format!(
            "GET {}{target} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
            server.prefix, server.authority
        );
        socket.stream.write_all(head.as_bytes()).await?;
        while !socket.take_answer(&ws::accept_key(key))? {
            ensure!(socket.received.len() < HEAD_BYTES_MAX, "the answer has no end");
            socket.read().await?;
        }
        Ok(socket)
    }

    /// Reads the answer to the handshake, once all of it is there.
    fn take_answer(&mut self, accept: &str) -> anyhow::Result<bool> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(len) = answer.parse(&self.received)? else {
            return Ok(false);
        };
        let code = answer.code.unwrap_or_default();
        ensure!(code == 101, "not a WebSocket server: HTTP {code} {}", answer.reason.unwrap_or_default());
        let accepted = answer.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("sec-websocket-accept") && header.value == accept.as_bytes()
        });
        ensure!(accepted, "not a WebSocket server: wrong Sec-WebSocket-Accept");
        self.received.drain(..len);
        Ok(true)
    }

    /// Waits for what comes next. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> anyhow::Result<Incoming> {
        loop {
            match self.take_frame()? {
                Some((header, payload)) => {
                    if let Some(incoming) = self.frame(header, payload).await? {
                        return Ok(incoming);
                    }
                }
                None => self.read().await?,
            }
        }
    }

    fn take_frame(&mut self) -> anyhow::Result<Option<(Header, Vec<u8>)>> {
        let Some(header) = Header::parse(&self.received)? else {
            return Ok(None);
        };
        ensure!(header.len <= MESSAGE_BYTES_MAX as u64, "a message of {} bytes is too big", header.len);
        let Some(whole) = header.whole_frame(self.received.len()) else {
            return Ok(None);
        };
        let payload = self.received[header.size..whole].to_vec();
        self.received.drain(..whole);
        Ok(Some((header, payload)))
    }

    /// What a frame means, unless it is but a part of a message.
    async fn frame(&mut self, header: Header, payload: Vec<u8>) -> anyhow::Result<Option<Incoming>> {
        match header.opcode {
            ws::PING => {
                self.send(ws::PONG, &payload).await?;
                Ok(Some(Incoming::Alive))
            }
            ws::PONG => Ok(Some(Incoming::Alive)),
            ws::CLOSE => Ok(Some(close(&payload))),
            ws::TEXT | ws::CONTINUATION => self.part(header.fin, payload),
            opcode => bail!("a frame of kind {opcode} was not asked for"),
        }
    }

    fn part(&mut self, last: bool, payload: Vec<u8>) -> anyhow::Result<Option<Incoming>> {
        self.parts.extend(payload);
        ensure!(self.parts.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes is too big", self.parts.len());
        if !last {
            return Ok(None);
        }
        let text = String::from_utf8(std::mem::take(&mut self.parts))?;
        Ok(Some(Incoming::Text(text)))
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        let n = self.stream.read_buf(&mut self.received).await?;
        ensure!(n > 0, "the connection ended without a word");
        Ok(())
    }

    /// Sends a text message.
    pub async fn send_text(&mut self, text: &str) -> anyhow::Result<()> {
        self.send(ws::TEXT, text.as_bytes()).await
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 14);
        ws::masked_frame(&mut frame, opcode, payload, mask());
        Ok(self.stream.write_all(&frame).await?)
    }
}

/// Masks keep proxies from taking payloads for requests; the standard library's hash keys are random enough for it.
fn mask() -> [u8; 4] {
    let [a, b, c, d, ..] = RandomState::new().hash_one(()).to_ne_bytes();
    [a, b, c, d]
}

fn close(payload: &[u8]) -> Incoming {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => {
            let code = CloseCode::from_peer(u16::from_be_bytes(*code));
            Incoming::Close(code, String::from_utf8_lossy(reason).into_owned())
        }
        None => Incoming::Close(None, String::new()),
    }
}
