//! A socket under TLS, as a loop reads and writes it: the session is driven by hand, and nothing waits.
//!
//! The door makes the handshake and hands the session over. From then on bytes go in through the session to the socket until
//! that is full, and come out of it until the socket has no more: `mio` tells of each change once.
//!
//! Always true: at most [`BUFFER_BYTES_MAX`] of what was taken lies here encrypted and unsent, and only while the socket is
//! full; [`Tls::flush`] must then be called when it no longer is.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;

use fanfare_hub::shard::Sent;
use mio::net::TcpStream;
use rustls::ServerConnection;

/// Bytes kept encrypted for a socket that is full: one record of the largest size.
const BUFFER_BYTES_MAX: usize = 16 << 10;

/// A socket under TLS.
#[derive(Debug)]
pub struct Tls {
    pub socket: TcpStream,
    session: ServerConnection,
    /// The peer has said all that it will.
    ended: bool,
}

impl Tls {
    /// Goes on with a session whose handshake is done; what it has decrypted already goes to the end of `unread`.
    pub fn new(socket: TcpStream, mut session: ServerConnection, unread: &mut Vec<u8>) -> Self {
        session.set_buffer_limit(Some(BUFFER_BYTES_MAX));
        // It ends with `WouldBlock`, or the peer's farewell, which the next read meets again.
        let _ = session.reader().read_to_end(unread);
        Tls { socket, session, ended: false }
    }

    /// Reads until `into` is full or the socket empty.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut n = 0;
        while n < into.len() {
            match self.read_some(&mut into[n..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(more) => n += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if n > 0 => {
                    // What has come counts first; the next read meets the error again.
                    self.ended = error.kind() != ErrorKind::WouldBlock;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(n)
    }

    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            // The end of the socket without a farewell is told by the reader, as an error.
            self.session.read_tls(&mut self.socket)?;
            let processed = self.session.process_new_packets();
            // An alert, or the answer to a change of keys. A socket that does not take it fails at the next write.
            let _ = self.flush();
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
    }

    /// Whether the peer has said all that it will: the next read is the last.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Offers bytes; what is taken has gone, or goes with [`Tls::flush`].
    pub fn write(&mut self, parts: &[IoSlice<'_>]) -> Sent {
        match self.write_all(parts) {
            Ok(taken) => Sent::Took(taken),
            Err(_) => Sent::Broken,
        }
    }

    fn write_all(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = 0;
        for part in parts {
            let mut rest = &part[..];
            while !rest.is_empty() {
                let n = self.session.writer().write(rest)?;
                taken += n;
                rest = &rest[n..];
                // Only what found no room waits for the socket: small parts share a record's way out.
                if !rest.is_empty() && !self.flush()? {
                    return Ok(taken);
                }
            }
        }
        self.flush()?;
        Ok(taken)
    }

    /// Sends what lies here; returns whether nothing is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says farewell and that nothing more will be written.
    pub fn finish(mut self) -> TcpStream {
        self.session.send_close_notify();
        // Both fail when the peer has gone already, which is all the same now.
        let _ = self.flush();
        let _ = self.socket.shutdown(Shutdown::Write);
        self.socket
    }
}
