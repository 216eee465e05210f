//! What a connection of a loop is read from and written to: a socket, bare or under TLS, or a pipe into an answer of
//! hyper's.
//!
//! Always true: nothing here waits; a stream that takes less than it was offered tells its loop when it takes more.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;

use fanfare_hub::shard::{ConnKey, Sent};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::LoopHandle;
use super::envelope::Envelope;
use super::pipe::{News, Pipe, PipeReader};
use super::tls::Tls;

/// What a connection is read from and written to.
#[derive(Debug)]
pub enum Stream {
    /// A socket.
    Plain(TcpStream),
    /// A socket under TLS; in a box, as few have one.
    Tls(Box<Tls>),
    /// The way into the body of an answer; nothing comes out of it.
    Pipe(Pipe),
}

impl Stream {
    /// A stream of this loop whose bytes become the body of an answer.
    pub fn pipe(to: &LoopHandle) -> (Stream, PipeReader) {
        let (pipe, reader) = to.pipes.make();
        (Stream::Pipe(pipe), reader)
    }

    /// Has the loop told of what happens here, under this name.
    pub fn register(&mut self, registry: &Registry, key: ConnKey) -> io::Result<()> {
        let (token, interest) = (Token(key.bits() as usize), Interest::READABLE | Interest::WRITABLE);
        match self {
            Stream::Plain(socket) => registry.register(socket, token, interest),
            Stream::Tls(tls) => registry.register(&mut tls.socket, token, interest),
            Stream::Pipe(pipe) => {
                pipe.adopt(key);
                Ok(())
            }
        }
    }

    /// Ends the loop's interest in it.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => registry.deregister(socket),
            Stream::Tls(tls) => registry.deregister(&mut tls.socket),
            Stream::Pipe(_) => Ok(()),
        }
    }

    /// Reads what has arrived; `WouldBlock` when that is nothing.
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(into),
            Stream::Tls(tls) => tls.read(into),
            Stream::Pipe(_) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Whether the next read is known to be the last, which the socket alone does not show.
    pub fn has_ended(&self) -> bool {
        matches!(self, Stream::Tls(tls) if tls.has_ended())
    }

    /// The socket takes bytes again: sends what was taken before and has not gone.
    pub fn flush(&mut self) {
        if let Stream::Tls(tls) = self {
            // A socket that fails here fails at the next write too.
            let _ = tls.flush();
        }
    }

    /// Offers bytes.
    pub fn write(&mut self, parts: &[IoSlice<'_>]) -> Sent {
        match self {
            Stream::Plain(socket) => write_socket(socket, parts),
            Stream::Tls(tls) => tls.write(parts),
            Stream::Pipe(pipe) => pipe.write(parts),
        }
    }

    /// What the messages of the Pusher protocol travel in here.
    pub fn envelope(&self) -> Envelope {
        match self {
            Stream::Plain(_) | Stream::Tls(_) => Envelope::Frame,
            Stream::Pipe(_) => Envelope::Line,
        }
    }

    /// The news of a pipe.
    pub fn hear_news(&self) -> News {
        match self {
            Stream::Plain(_) | Stream::Tls(_) => News::Room,
            Stream::Pipe(pipe) => pipe.hear_news(),
        }
    }

    /// Says that nothing more will be written. What is returned still holds our last words and is to be read until the
    /// peer closes too.
    pub fn finish(self) -> Option<TcpStream> {
        match self {
            Stream::Plain(socket) => {
                // It fails when the peer has gone already, which is all the same now.
                let _ = socket.shutdown(Shutdown::Write);
                Some(socket)
            }
            Stream::Tls(tls) => Some(tls.finish()),
            // The body goes on until what was written has been read.
            Stream::Pipe(_) => None,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Stream::Plain(socket)
    }
}

fn write_socket(socket: &mut TcpStream, parts: &[IoSlice<'_>]) -> Sent {
    loop {
        let written = match parts {
            [only] => socket.write(only),
            many => socket.write_vectored(many),
        };
        return match written {
            Ok(n) => Sent::Took(n),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Sent::Took(0),
            Err(_) => Sent::Broken,
        };
    }
}
