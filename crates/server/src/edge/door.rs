//! The front door: accepts, reads the first request head, and decides who serves the socket.
//!
//! A WebSocket upgrade moves the socket into a loop, usually without its ever being known to the runtime: most heads
//! arrive whole with the first read. Everything else is served by hyper, whose later requests may be upgrades too: the
//! decision is per request, not per connection.
//!
//! Always true: a peer that sends nothing, or little by little, costs one small task for at most the head timeout.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, SEC_WEBSOCKET_VERSION};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::upgrade::{Gatekeeper, Handshake, Head, handshake, is_upgrade};
use super::{Admission, Arrival, Body, LoopHandle, Order, Refusal};
use rewind::Rewind;

mod rewind;

/// Bytes of a request head; what nginx takes by default is half of it.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 100;

/// Room in the kernel for what a peer has not acknowledged. A new socket begins with 16 KiB and grows by its round trips:
/// a burst that is larger stalls until a delayed acknowledgement, 40 ms later. It is a bound, and costs nothing while unused.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Connections accepted before other tasks get a turn.
const ACCEPTS_IN_A_ROW: u32 = 64;

/// How long to stop accepting when the process is out of file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// How long a kept connection may stand idle between two requests. Longer than the 60 s that proxies keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a peer whose head was refused may go on sending, so that it hears why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What answers plain HTTP requests.
pub trait Http: Send + Sync + 'static {
    /// Answers one request; never fails, for an error is an answer too.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// A listening socket: an address in use, or one that is not ours, is found out here.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// The public front door.
pub struct Door<H> {
    gatekeeper: Gatekeeper,
    loops: Vec<LoopHandle>,
    next: AtomicUsize,
    http: Arc<H>,
    stopping: watch::Receiver<bool>,
}

impl<H: Http> Door<H> {
    /// A door to these loops, with `http` behind it for everything else. It closes when `stopping` turns true.
    pub fn new(
        gatekeeper: Gatekeeper,
        loops: Vec<LoopHandle>,
        http: Arc<H>,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Door { gatekeeper, loops, next: AtomicUsize::new(0), http, stopping })
    }

    /// Accepts until told to stop.
    pub async fn run(self: Arc<Self>, listener: TcpListener) -> std::io::Result<()> {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            result = accept_each(listener, |stream| self.clone().enter(stream)) => result,
            () = stopped(&mut stopping) => Ok(()),
        }
    }

    async fn enter(self: Arc<Self>, mut stream: TcpStream) {
        let mut start = [0; 2048];
        match stream.read(&mut start) {
            Ok(n) if n > 0 => {
                if let Some(upgrade) = self.upgrade(&start[..n]) {
                    return self.hand_over(stream, upgrade).await;
                }
                tokio::spawn(self.read_head(stream, start[..n].to_vec()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::spawn(self.read_head(stream, Vec::new()));
            }
            // It left again.
            _ => {}
        }
    }

    /// Waits for the rest of the head, then serves the socket.
    async fn read_head(self: Arc<Self>, stream: TcpStream, mut bytes: Vec<u8>) {
        let Ok(mut stream) = tokio::net::TcpStream::from_std(stream.into()) else { return };
        let timeout = Duration::from_secs(u64::from(self.gatekeeper.settings.head_timeout_s));
        let whole = tokio::time::timeout(timeout, read_until_whole(&mut stream, &mut bytes)).await;
        match whole {
            Ok(Ok(())) => {}
            Ok(Err(bad)) => return bad.answer(stream).await,
            Err(_) => return BadHead::Slow.answer(stream).await,
        }
        match (self.upgrade(&bytes), stream) {
            (None, stream) => self.serve_http(stream, bytes).await,
            (Some(upgrade), stream) => match stream.into_std() {
                Ok(stream) => self.hand_over(TcpStream::from_std(stream), upgrade).await,
                Err(_) => self.give_back(&upgrade.verdict),
            },
        }
    }

    /// The decision about a head that is whole and asks for an upgrade; `None` for any other, which hyper is to see.
    fn upgrade(&self, bytes: &[u8]) -> Option<Upgrade> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head_len)) = request.parse(bytes) else { return None };
        let head = Parsed(&request);
        if request.method != Some("GET") || !is_upgrade(&head) {
            return None;
        }
        // A bad handshake is answered by hyper, like any other bad request.
        let handshake = handshake(&head, self.gatekeeper.settings.deflate).ok()?;
        let verdict = self.gatekeeper.decide(&head, &handshake);
        Some(Upgrade { head: handshake.response(), unread: bytes[head_len..].to_vec(), verdict })
    }

    async fn hand_over(&self, stream: TcpStream, upgrade: Upgrade) {
        let Upgrade { head, unread, verdict } = upgrade;
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len();
        self.loops[index]
            .orders
            .send(Order::Adopt(Box::new(Arrival { stream: stream.into(), head, unread, verdict })))
            .await;
    }

    async fn serve_http(self: Arc<Self>, stream: tokio::net::TcpStream, bytes: Vec<u8>) {
        let stopping = self.stopping.clone();
        let io = Rewind::new(bytes.into(), stream);
        let answer = move |request| {
            let door = self.clone();
            async move { Ok::<_, std::convert::Infallible>(door.answer(request).await) }
        };
        serve(io, answer, stopping).await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let head = HyperHead(&request);
        if request.method() != hyper::Method::GET || !is_upgrade(&head) {
            return self.http.answer(request).await;
        }
        match handshake(&head, self.gatekeeper.settings.deflate) {
            Ok(handshake) => {
                let verdict = self.gatekeeper.decide(&head, &handshake);
                let response = switching(&handshake);
                tokio::spawn(self.take_over(request, verdict));
                response
            }
            Err(bad) => bad_handshake(&bad.to_string()),
        }
    }

    /// Takes the socket out of hyper's hands once the 101 has been sent.
    async fn take_over(self: Arc<Self>, request: Request<Incoming>, verdict: Result<Admission, Refusal>) {
        let stream = match hyper::upgrade::on(request).await.map(|upgraded| upgraded.downcast::<TokioIo<Rewind>>()) {
            Ok(Ok(parts)) => parts.io.into_inner().into_stream().map(|stream| (stream, parts.read_buf)),
            _ => None,
        };
        match stream {
            Some((stream, unread)) => {
                let upgrade = Upgrade { head: Vec::new(), unread: unread.to_vec(), verdict };
                self.hand_over(TcpStream::from_std(stream), upgrade).await;
            }
            // The peer left between its request and our answer.
            None => self.give_back(&verdict),
        }
    }

    /// Uncounts a connection that never reached a loop.
    fn give_back(&self, verdict: &Result<Admission, Refusal>) {
        let Ok(admission) = verdict else { return };
        self.gatekeeper.occupancy.fetch_sub(1, Ordering::Relaxed);
        if let Some(app) = &admission.app {
            app.usage.disconnect();
        }
    }
}

/// Serves plain HTTP alone, for the admin listener, until `stopping` turns true.
pub async fn serve_only<H: Http>(
    listener: TcpListener,
    http: Arc<H>,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let stop = stopping.clone();
    let each = |stream: TcpStream| {
        let (http, stop) = (http.clone(), stop.clone());
        async move {
            let Ok(stream) = tokio::net::TcpStream::from_std(stream.into()) else { return };
            tokio::spawn(serve(
                Rewind::new(Bytes::new(), stream),
                move |request| {
                    let http = http.clone();
                    async move { Ok(http.answer(request).await) }
                },
                stop,
            ));
        }
    };
    tokio::select! {
        result = accept_each(listener, each) => result,
        () = stopped(&mut stopping) => Ok(()),
    }
}

async fn serve<F, A>(io: Rewind, answer: F, mut stopping: watch::Receiver<bool>)
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
{
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).pipeline_flush(true);
    let connection = builder.serve_connection(TokioIo::new(io), service_fn(answer)).with_upgrades();
    tokio::pin!(connection);
    // How a connection ended is the peer's business: it has had its answers, or has left.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Returns once `stopping` is true, or nobody can say so any more.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn accept_each<F: Future<Output = ()>>(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> F,
) -> std::io::Result<()> {
    #[expect(deprecated, reason = "unsound for types that lie about their descriptor; a listener owns its own")]
    let listener = AsyncFd::new(listener)?;
    loop {
        let mut ready = listener.readable().await?;
        for _ in 0..ACCEPTS_IN_A_ROW {
            match ready.try_io(|listener| listener.get_ref().accept()) {
                Ok(Ok((stream, _))) => each(stream).await,
                Ok(Err(error)) if is_exhaustion(&error) => {
                    tracing::warn!(%error, "cannot accept connections: raise the limit of open files (ulimit -n)");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    break;
                }
                // The peer left before it was accepted.
                Ok(Err(_)) => {}
                Err(_would_block) => break,
            }
        }
        drop(ready);
        tokio::task::yield_now().await;
    }
}

fn is_exhaustion(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A socket that is to become a WebSocket.
struct Upgrade {
    head: Vec<u8>,
    unread: Vec<u8>,
    verdict: Result<Admission, Refusal>,
}

/// Why a first head was not understood; hyper never sees it.
#[derive(Clone, Copy, Debug)]
enum BadHead {
    Closed,
    Malformed,
    TooLarge,
    Slow,
}

impl BadHead {
    async fn answer(self, mut stream: tokio::net::TcpStream) {
        let (status, message) = match self {
            BadHead::Closed => return,
            BadHead::Malformed => ("400 Bad Request", "expected an HTTP/1.1 request"),
            BadHead::TooLarge => ("431 Request Header Fields Too Large", "a request head may have 16 KiB"),
            BadHead::Slow => ("408 Request Timeout", "the request head took too long to arrive"),
        };
        let len = message.len() + 1;
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{message}\n"
        );
        // The peer may have left; then there is nobody to tell.
        if stream.write_all(answer.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
            // Closing on unread input is a reset, which may destroy the answer on its way (RFC 9112 §9.6).
            let _ = tokio::time::timeout(LAST_WORDS, read_and_forget(&stream)).await;
        }
    }
}

/// Returns once the peer has closed. A buffer lives only while there is something to read: who says nothing costs none.
async fn read_and_forget(stream: &tokio::net::TcpStream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 4096]) {
            Ok(n) if n > 0 => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

async fn read_until_whole(stream: &mut tokio::net::TcpStream, bytes: &mut Vec<u8>) -> Result<(), BadHead> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        match httparse::Request::new(&mut headers).parse(bytes) {
            Ok(httparse::Status::Complete(_)) => return Ok(()),
            Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => return Err(BadHead::TooLarge),
            Ok(httparse::Status::Partial) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooLarge),
            Err(_) => return Err(BadHead::Malformed),
        }
        match stream.read_buf(bytes).await {
            Ok(n) if n > 0 => {}
            _ => return Err(BadHead::Closed),
        }
    }
}

struct Parsed<'a, 'h, 'b>(&'a httparse::Request<'h, 'b>);

impl Head for Parsed<'_, '_, '_> {
    fn target(&self) -> &str {
        self.0.path.unwrap_or("/")
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let named = self.0.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        join(named.filter_map(|header| std::str::from_utf8(header.value).ok()))
    }
}

struct HyperHead<'a>(&'a Request<Incoming>);

impl Head for HyperHead<'_> {
    fn target(&self) -> &str {
        self.0.uri().path_and_query().map_or("/", |target| target.as_str())
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        join(self.0.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()))
    }
}

/// Several headers of one name mean their values with commas between (RFC 9110 §5.3).
fn join<'a>(mut values: impl Iterator<Item = &'a str>) -> Option<Cow<'a, str>> {
    let first = values.next()?;
    Some(values.fold(Cow::Borrowed(first), |all, value| Cow::Owned(format!("{all}, {value}"))))
}

fn switching(handshake: &Handshake) -> Response<Body> {
    let mut response = Response::new(Full::default().into());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in handshake.headers() {
        // A subprotocol is echoed, so it has passed hyper's own check on the way in.
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name.parse::<hyper::header::HeaderName>().expect("a header of ours"), value);
        }
    }
    response
}

fn bad_handshake(message: &str) -> Response<Body> {
    let mut response = Response::new(Full::from(format!("{message}\n")).into());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}
