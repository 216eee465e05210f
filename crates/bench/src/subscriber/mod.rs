//! One client connection: connect, subscribe, then hand over every publication that arrives.
//!
//! Reads into a buffer that all connections of the process share; keeps bytes of its own only while a message is incomplete.
//! Edge-triggered: each call reads until the socket has given less than was asked for.
//!
//! Here is what all transports have in common; what each of them says and hears: `frames` (`pusher`, `ws`), `body` (`sse`,
//! `stream`), `polls` (`longpoll`).

mod body;
mod frames;
mod polls;

use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::http::Chunks;
use crate::stamp::Stamp;
use crate::target::Server;
use crate::transport::{Script, Transport};
use crate::wire;

/// A connection and how far it has come.
pub struct Subscriber {
    pub stream: TcpStream,
    pub channel: u32,
    phase: Phase,
    /// Where in a message the stamp was last time, and so most likely is again.
    stamp_at: usize,
    /// An incomplete head, frame, event or line.
    rest: Vec<u8>,
    /// The framing of an endless answer.
    chunks: Chunks,
    /// Where to go on from: a cursor, or for pollers the header lines to send back. Empty at a first visit.
    cursor: String,
    /// What the server said about the cursor that we came with.
    recovered: Option<bool>,
    /// Bytes that were read since the subscription was granted, and not yet taken.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// The first request is sent; its answer is awaited.
    Opening,
    Establishing,
    Subscribing,
    Live,
}

/// What a call to [`Subscriber::receive`] led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing to act upon.
    Same,
    /// The subscription has just been granted.
    BecameLive,
    /// The server has closed a live connection.
    Closed,
}

/// Where publications go: each one's data, from the stamp on, and when it was read.
pub trait Sink: FnMut(&[u8], u64) {}
impl<F: FnMut(&[u8], u64)> Sink for F {}

impl Subscriber {
    /// Begins to connect, to go on from `cursor`. `source` is one of loopback's many addresses: each has ports for itself.
    pub fn connect(server: &Server, source: Option<Ipv4Addr>, channel: u32, cursor: String) -> io::Result<Subscriber> {
        let socket = Socket::new(Domain::for_address(server.address), Type::STREAM.nonblocking(), None)?;
        if let Some(source) = source {
            socket.bind(&std::net::SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&server.address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(Subscriber {
            stream: TcpStream::from_std(socket.into()),
            channel,
            phase: Phase::Connecting,
            stamp_at: 0,
            rest: Vec::new(),
            chunks: Chunks::default(),
            cursor,
            recovered: None,
            bytes: 0,
        })
    }

    /// Sends the first request as soon as the socket takes it; `false` while it does not yet.
    pub fn try_open(&mut self, script: &Script) -> Result<bool> {
        if self.phase != Phase::Connecting {
            return Ok(true);
        }
        let request = script.opening(self.channel, &self.cursor);
        match self.stream.write(&request) {
            Ok(n) if n == request.len() => self.phase = Phase::Opening,
            Ok(_) => bail!("a new socket did not take a whole request"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(false),
            Err(error) => return Err(error).context("connect"),
        }
        Ok(true)
    }

    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether the server said that it could not tell everything since the cursor.
    pub fn has_gap(&self) -> bool {
        self.recovered == Some(false)
    }

    /// How many bytes have been read since this was last asked; none before the subscription.
    pub fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// Ends the connection; what is left is the cursor.
    pub fn cut(self) -> String {
        self.cursor
    }

    /// Reads all that is there, and hands over the publications in it.
    pub fn receive(&mut self, scratch: &mut [u8], script: &Script, sink: &mut impl Sink) -> Result<Progress> {
        let was_live = self.is_live();
        loop {
            let held = self.rest.len();
            ensure!(held < scratch.len(), "a message of more than {held} bytes");
            scratch[..held].copy_from_slice(&self.rest);
            let room = scratch.len() - held;
            let got = match self.stream.read(&mut scratch[held..]) {
                Ok(0) => return self.closed(),
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) if was_live => return Ok(Progress::Closed),
                Err(error) => return Err(error).context("handshake"),
            };
            self.bytes += if was_live { got as u64 } else { 0 };
            let bytes = &mut scratch[..held + got];
            let Some(rest) = self.consume(bytes, held, script, sink)? else {
                return self.closed();
            };
            self.rest.clear();
            self.rest.extend_from_slice(&bytes[rest]);
            if got < room {
                break;
            }
        }
        Ok(if self.is_live() && !was_live { Progress::BecameLive } else { Progress::Same })
    }

    fn closed(&self) -> Result<Progress> {
        ensure!(self.is_live(), "the server closed the connection while {:?}", self.phase);
        Ok(Progress::Closed)
    }

    /// Takes what is complete from `bytes`, of which the first `held` have been here before, and tells which of them to keep;
    /// `None` when the server has ended the conversation.
    fn consume(
        &mut self,
        bytes: &mut [u8],
        held: usize,
        script: &Script,
        sink: &mut impl Sink,
    ) -> Result<Option<Range<usize>>> {
        match script.transport() {
            Transport::Pusher | Transport::Ws => self.consume_frames(bytes, script, sink),
            Transport::Sse | Transport::Stream => self.consume_body(bytes, held, script, sink),
            Transport::Longpoll => self.consume_answers(bytes, script, sink),
        }
    }

    #[inline]
    fn find_stamp(&mut self, message: &[u8]) -> Option<usize> {
        if self.phase != Phase::Live {
            return None;
        }
        let expected = message.get(self.stamp_at..).is_some_and(Stamp::begins);
        if !expected {
            self.stamp_at = Stamp::find(message)?;
        }
        Some(self.stamp_at)
    }

    /// Acts upon a control event of `/sub`.
    fn controlled(&mut self, message: &[u8]) -> Result<()> {
        if wire::is_event(message, "fanfare:subscribed") {
            self.granted(message);
            return Ok(());
        }
        let refused = wire::is_event(message, "fanfare:error");
        ensure!(!refused, "refused while {:?}: {}", self.phase, String::from_utf8_lossy(message));
        // Counts, members, the news of a gap (which the account will show), or the end, which the socket will tell.
        Ok(())
    }

    /// The subscription is granted: whatever comes from here on is to be accounted for.
    fn granted(&mut self, message: &[u8]) {
        self.phase = Phase::Live;
        let says = |word: &[u8]| wire::contains(message, word).then_some(());
        self.recovered = says(br#""recovered":true"#).map(|()| true).or(says(br#""recovered":false"#).map(|()| false));
    }

    fn keep_cursor(&mut self, cursor: &[u8]) -> Result<()> {
        self.cursor.clear();
        self.cursor.push_str(std::str::from_utf8(cursor).context("a cursor that is not text")?);
        Ok(())
    }

    /// These few bytes always fit: nothing else is ever sent, and the server reads.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stream.write(bytes).context("answering the server")?;
        ensure!(sent == bytes.len(), "the server does not read");
        Ok(())
    }
}
