//! Sockets that have been closed and still hold our last words.
//!
//! Closing a socket with unread input makes the kernel send a reset, and the reset may destroy the close frame on its way.
//! So a closed socket is read, and what it says thrown away, until the peer closes too or its time is up.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};

use fanfare_hub::slots::Slots;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// Set in the tokens of these sockets. A connection's token reaches it after 2^31 uses of one slot.
const MARK: usize = 1 << 63;

/// How long a peer has to read our last words.
const PATIENCE_S: u32 = 2;

/// Sockets kept at once; beyond it the oldest goes at once.
const KEPT_MAX: usize = 4096;

/// The sockets, oldest first.
#[derive(Debug, Default)]
pub struct Farewells {
    streams: Slots<TcpStream>,
    order: VecDeque<(u32, u32, u32)>,
}

impl Farewells {
    /// Keeps a socket whose writing side was shut down. `known`: the registry has it already.
    pub fn keep(&mut self, registry: &Registry, mut stream: TcpStream, known: bool, now_s: u32) {
        while self.streams.len() >= KEPT_MAX {
            self.drop_oldest();
        }
        let token = Token(MARK | self.streams.next() as usize);
        let registered = match known {
            true => registry.reregister(&mut stream, token, Interest::READABLE),
            false => registry.register(&mut stream, token, Interest::READABLE),
        };
        // A socket that cannot be watched is closed now; its peer may miss the last words.
        if registered.is_err() {
            return;
        }
        let (slot, generation) = self.streams.insert(stream);
        self.order.push_back((slot, generation, now_s + PATIENCE_S));
    }

    /// Whether a token is one of these.
    pub fn owns(token: Token) -> bool {
        token.0 & MARK != 0
    }

    /// Reads and forgets; the socket goes when its peer has closed.
    pub fn ready(&mut self, token: Token, scratch: &mut [u8]) {
        let slot = (token.0 & !MARK) as u32;
        let Some(stream) = self.streams.get_mut(slot) else { return };
        loop {
            match stream.read(scratch) {
                Ok(n) if n > 0 => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    self.streams.remove(slot);
                    return;
                }
            }
        }
    }

    /// Closes those whose time is up.
    pub fn tick(&mut self, now_s: u32) {
        while self.order.front().is_some_and(|(_, _, until_s)| *until_s <= now_s) {
            self.drop_oldest();
        }
    }

    /// Whether nobody is left.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    fn drop_oldest(&mut self) {
        let Some((slot, generation, _)) = self.order.pop_front() else { return };
        if self.streams.generation(slot) == Some(generation) {
            self.streams.remove(slot);
        }
    }
}
