//! The sockets that the door serves: bare, and under TLS.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::edge::stream::Stream;
use crate::edge::tls::Tls;

/// A socket of the runtime that may become a loop's.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether a loop can give it back to the runtime.
    const BARE: bool;

    /// The socket away from the runtime; what was taken from it and not read yet goes to the end of `unread`. `None` if the
    /// runtime does not let go of it.
    fn into_stream(self, unread: &mut Vec<u8>) -> Option<Stream>;
}

impl Socket for TcpStream {
    const BARE: bool = true;

    fn into_stream(self, _unread: &mut Vec<u8>) -> Option<Stream> {
        let socket = mio::net::TcpStream::from_std(self.into_std().ok()?);
        Some(Stream::Plain(socket))
    }
}

impl Socket for TlsStream<TcpStream> {
    const BARE: bool = false;

    fn into_stream(self, unread: &mut Vec<u8>) -> Option<Stream> {
        let (socket, session) = self.into_inner();
        let socket = mio::net::TcpStream::from_std(socket.into_std().ok()?);
        Some(Stream::Tls(Box::new(Tls::new(socket, session, unread))))
    }
}
