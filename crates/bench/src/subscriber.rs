//! One client connection: connect, upgrade, subscribe, then hand over every publication that arrives.
//!
//! Reads into a buffer that all connections of the process share; keeps bytes of its own only while a frame is incomplete.
//! Edge-triggered: each call reads until the socket has given less than was asked for.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};
use fanfare_proto::ws::{CLOSE, PING, PONG, TEXT, masked_frame};
use mio::net::TcpStream;
use socket2::{Domain, Socket, Type};

use crate::stamp::Stamp;
use crate::target::Server;
use crate::{sys, wire};

/// What every connection of a process says.
pub struct Script {
    pub upgrade: Vec<u8>,
    /// One for each channel.
    pub subscribe: Vec<Vec<u8>>,
}

/// A connection and how far it has come.
pub struct Subscriber {
    pub stream: TcpStream,
    pub channel: u32,
    phase: Phase,
    /// Where in a message the stamp was last time, and so most likely is again.
    stamp_at: usize,
    /// An incomplete head or frame.
    rest: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Upgrading,
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

impl Subscriber {
    /// Begins to connect. `source` is one of loopback's many addresses: each has ports for itself.
    pub fn connect(server: &Server, source: Option<Ipv4Addr>, channel: u32) -> io::Result<Subscriber> {
        let socket = Socket::new(Domain::for_address(server.address), Type::STREAM.nonblocking(), None)?;
        if let Some(source) = source {
            socket.bind(&std::net::SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&server.address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from_std(socket.into());
        Ok(Subscriber { stream, channel, phase: Phase::Connecting, stamp_at: 0, rest: Vec::new() })
    }

    /// Asks for the upgrade as soon as the socket takes it; `false` while it does not yet.
    pub fn try_upgrade(&mut self, script: &Script) -> Result<bool> {
        if self.phase != Phase::Connecting {
            return Ok(true);
        }
        match self.stream.write(&script.upgrade) {
            Ok(n) if n == script.upgrade.len() => self.phase = Phase::Upgrading,
            Ok(_) => bail!("a new socket did not take a whole request"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(false),
            Err(error) => return Err(error).context("connect"),
        }
        Ok(true)
    }

    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Reads all that is there. `publication` gets each message's data, from the stamp on, and when it was read.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        script: &Script,
        publication: &mut impl FnMut(&[u8], u64),
    ) -> Result<Progress> {
        let was_live = self.is_live();
        loop {
            let held = self.rest.len();
            ensure!(held < scratch.len(), "a frame of more than {held} bytes");
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
            let bytes = &scratch[..held + got];
            let Some(used) = self.consume(bytes, script, publication)? else {
                return self.closed();
            };
            self.rest.clear();
            self.rest.extend_from_slice(&bytes[used..]);
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

    /// Takes what is complete from the front of `bytes`, and tells how much that was; `None` after a close frame.
    fn consume(
        &mut self,
        bytes: &[u8],
        script: &Script,
        publication: &mut impl FnMut(&[u8], u64),
    ) -> Result<Option<usize>> {
        let mut at = 0;
        if self.phase == Phase::Upgrading {
            let Some(head) = wire::head_len(bytes) else {
                return Ok(Some(0));
            };
            wire::check_upgrade(&bytes[..head])?;
            self.phase = Phase::Establishing;
            at = head;
        }
        let now_ns = sys::monotonic_ns();
        while let Some(frame) = wire::next_frame(bytes, &mut at)? {
            match frame.opcode {
                TEXT => match self.find_stamp(frame.payload) {
                    Some(from) => publication(&frame.payload[from..], now_ns),
                    None => self.heard(frame.payload, script)?,
                },
                PING => self.pong(frame.payload)?,
                PONG => {}
                CLOSE if self.is_live() => return Ok(None),
                CLOSE => bail!("closed while {:?}: {}", self.phase, String::from_utf8_lossy(frame.payload)),
                other => bail!("a frame with opcode {other}"),
            }
        }
        Ok(Some(at))
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

    /// Acts upon one of the protocol's own messages.
    fn heard(&mut self, message: &[u8], script: &Script) -> Result<()> {
        match self.phase {
            Phase::Establishing if wire::is_event(message, "pusher:connection_established") => {
                self.phase = Phase::Subscribing;
                self.send(&script.subscribe[self.channel as usize])
            }
            Phase::Subscribing if wire::is_event(message, "pusher_internal:subscription_succeeded") => {
                self.phase = Phase::Live;
                Ok(())
            }
            _ if wire::is_event(message, "pusher:ping") => self.send(&wire::pong_event_frame()),
            // Others' counts and members, or what a channel had cached.
            Phase::Subscribing | Phase::Live if !wire::is_event(message, "pusher:error") => Ok(()),
            _ => bail!("unexpected while {:?}: {}", self.phase, String::from_utf8_lossy(message)),
        }
    }

    fn pong(&mut self, payload: &[u8]) -> Result<()> {
        let mut frame = Vec::new();
        masked_frame(&mut frame, PONG, payload, wire::MASK);
        self.send(&frame)
    }

    /// These few bytes always fit: nothing else is ever sent, and the server reads.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stream.write(bytes).context("answering the server")?;
        ensure!(sent == bytes.len(), "the server does not read");
        Ok(())
    }
}
