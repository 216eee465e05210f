//! The first request head of a connection, before anybody knows who is to serve it.

use std::borrow::Cow;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::socket::Socket;
use crate::edge::upgrade::Head;

/// Bytes of a request head; what nginx takes by default is half of it.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Headers of a request.
pub const HEADERS_MAX: usize = 100;

/// What begins HTTP/2 where nothing was negotiated (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a peer whose head was refused may go on sending, so that it hears why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The longest time after which one who found no room is asked to come back.
const RETRY_AFTER_S_MAX: u64 = 5;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A whole request head.
    Head,
    /// The preface of HTTP/2.
    Http2,
}

/// Why a first head was not understood; hyper never sees it.
#[derive(Clone, Copy, Debug)]
pub enum BadHead {
    Closed,
    Malformed,
    TooLarge,
    Slow,
    /// Bare HTTP on a listener that speaks TLS.
    Bare,
    /// The process has no files left for clients. Whatever the head says, this is the answer.
    NoRoom,
}

/// Reads until the head is whole; `bytes` may hold its beginning already.
pub async fn read(socket: &mut impl Socket, bytes: &mut Vec<u8>) -> Result<Opening, BadHead> {
    loop {
        if let Some(opening) = opening(bytes)? {
            return Ok(opening);
        }
        match socket.read_buf(bytes).await {
            Ok(n) if n > 0 => {}
            _ => return Err(BadHead::Closed),
        }
    }
}

/// What `bytes` begin with; `None` if they are not enough to tell.
fn opening(bytes: &[u8]) -> Result<Option<Opening>, BadHead> {
    let shared = bytes.len().min(PREFACE.len());
    if bytes[..shared] == PREFACE[..shared] {
        return Ok((shared == PREFACE.len()).then_some(Opening::Http2));
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    match httparse::Request::new(&mut headers).parse(bytes) {
        Ok(httparse::Status::Complete(_)) => Ok(Some(Opening::Head)),
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => Err(BadHead::TooLarge),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(BadHead::TooLarge),
        Err(_) => Err(BadHead::Malformed),
    }
}

impl BadHead {
    /// Says what is wrong, and closes.
    pub async fn answer(self, mut socket: impl Socket) {
        let mut retry_after = String::new();
        let (status, message) = match self {
            BadHead::Closed => return,
            BadHead::NoRoom => {
                // Those who are turned away together do not come back together.
                let seconds = 1 + RandomState::new().hash_one(0) % RETRY_AFTER_S_MAX;
                retry_after = format!("Retry-After: {seconds}\r\n");
                ("503 Service Unavailable", "this server has no room for more connections")
            }
            BadHead::Malformed => ("400 Bad Request", "expected an HTTP/1.1 request"),
            BadHead::Bare => ("400 Bad Request", "this address speaks TLS: use https:// or wss://"),
            BadHead::TooLarge => ("431 Request Header Fields Too Large", "a request head may have 16 KiB"),
            BadHead::Slow => ("408 Request Timeout", "the request head took too long to arrive"),
        };
        let len = message.len() + 1;
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\nConnection: close\r\n{retry_after}\r\n{message}\n"
        );
        // The peer may have left; then there is nobody to tell.
        if socket.write_all(answer.as_bytes()).await.is_ok() && socket.shutdown().await.is_ok() {
            // Closing on unread input is a reset, which may destroy the answer on its way (RFC 9112 §9.6).
            let _ = tokio::time::timeout(LAST_WORDS, read_and_forget(socket)).await;
        }
    }
}

/// Returns once the peer has closed. A buffer lives only while there is something to read: who says nothing costs none.
async fn read_and_forget(mut socket: impl AsyncRead + Unpin) {
    poll_fn(|cx| {
        loop {
            let mut room = [0; 4096];
            let mut into = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut socket).poll_read(cx, &mut into)) {
                Ok(()) if !into.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// A head as `httparse` reads it.
pub struct Parsed<'a, 'h, 'b>(pub &'a httparse::Request<'h, 'b>);

impl Head for Parsed<'_, '_, '_> {
    fn target(&self) -> &str {
        self.0.path.unwrap_or("/")
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let named = self.0.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        join(named.filter_map(|header| std::str::from_utf8(header.value).ok()))
    }

    fn is_http_11(&self) -> bool {
        self.0.version != Some(0)
    }
}

/// A head as hyper reads it.
pub struct HyperHead<'a>(pub &'a Request<Incoming>);

impl Head for HyperHead<'_> {
    fn target(&self) -> &str {
        self.0.uri().path_and_query().map_or("/", |target| target.as_str())
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        join(self.0.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()))
    }

    fn is_http_11(&self) -> bool {
        self.0.version() > hyper::Version::HTTP_10
    }
}

/// Several headers of one name mean their values with commas between (RFC 9110 §5.3).
fn join<'a>(mut values: impl Iterator<Item = &'a str>) -> Option<Cow<'a, str>> {
    let first = values.next()?;
    Some(values.fold(Cow::Borrowed(first), |all, value| Cow::Owned(format!("{all}, {value}"))))
}
