//! The front door: accepts, reads the first request head, and decides who serves the socket.
//!
//! A WebSocket upgrade moves the socket into a loop, usually without its ever being known to the runtime: most heads
//! arrive whole with the first read. Everything else is served by hyper, whose later requests may be upgrades too: the
//! decision is per request, not per connection. Under TLS the runtime makes the handshake first, and a loop goes on with
//! the session; HTTP/2 is hyper's alone.
//!
//! | file | what it is |
//! |---|---|
//! | `head` | the first request head |
//! | `files` | whether the process has files left for clients |
//! | `serve`, `idle` | a connection in hyper's hands, and when it stands idle |
//! | `socket`, `rewind` | the sockets that are served so, and what was read of them before |
//!
//! Always true: a peer that sends nothing, or little by little, costs one small task for at most the head timeout.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_VERSION};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::certificates::HTTP2;
use super::listen::{Listen, Refused, Transport};
use super::neighbours::Neighbours;
use super::sessions::Sessions;
use super::upgrade::{Gatekeeper, Handshake, Head, handshake, is_upgrade};
use super::{Admission, Arrival, Body, Loops, Order, Refusal, Returned, Stream};
use crate::config::Role;
use files::{Files, Room};
use head::{BadHead, HEADERS_MAX, HyperHead, Opening, Parsed};
use rewind::Rewind;
use socket::Socket;

mod files;
pub mod head;
mod idle;
mod rewind;
mod serve;
mod socket;

/// Room in the kernel for what a peer has not acknowledged. A new socket begins with 16 KiB and grows by its round trips:
/// a burst that is larger stalls until a delayed acknowledgement, 40 ms later. It is a bound, and costs nothing while unused.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Connections accepted before other tasks get a turn.
const ACCEPTS_IN_A_ROW: u32 = 16;

/// How long to stop accepting when the process is out of file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// The first byte of whatever begins a TLS handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What answers plain HTTP requests.
pub trait Http: Send + Sync + 'static {
    /// Answers one request; never fails, for an error is an answer too.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// A listening socket: an address in use, or one that is not ours, is found out here.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
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
    loops: Loops,
    sessions: Arc<Sessions>,
    http: Arc<H>,
    tls: Option<TlsAcceptor>,
    files: Files,
    stopping: watch::Receiver<bool>,
    _last: Last,
}

/// Closes when the door and all that it serves are gone.
pub type Last = mpsc::Sender<std::convert::Infallible>;

impl<H: Http> Door<H> {
    /// A door to these loops, with `http` behind it for everything else. With `tls` it speaks nothing else. It closes when
    /// `stopping` turns true. To be called on the runtime.
    pub fn new(
        gatekeeper: Gatekeeper,
        loops: Loops,
        http: Arc<H>,
        tls: Option<Arc<ServerConfig>>,
        neighbours: Option<Arc<dyn Neighbours>>,
        stopping: watch::Receiver<bool>,
        last: Last,
    ) -> Arc<Self> {
        let tls = tls.map(TlsAcceptor::from);
        let sessions = Sessions::start(gatekeeper.clone(), loops.clone(), neighbours);
        let files = Files::of_the_process();
        Arc::new(Door { gatekeeper, loops, sessions, http, tls, files, stopping, _last: last })
    }

    /// Accepts until told to stop, and takes back what the loops return.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        mut returned: mpsc::UnboundedReceiver<Returned>,
    ) -> std::io::Result<()> {
        let mut stopping = self.stopping.clone();
        let again = async {
            while let Some((stream, bytes)) = returned.recv().await {
                // Only bare sockets ask for something else: all others are given nothing but their one request.
                if let Stream::Plain(socket) = stream {
                    tokio::spawn(self.clone().receive(socket, bytes));
                }
            }
            // A node without loops takes nothing back.
            std::future::pending::<()>().await
        };
        tokio::select! {
            result = accept_each(listener, |stream| self.clone().enter(stream)) => result,
            () = again => Ok(()),
            () = stopped(&mut stopping) => Ok(()),
        }
    }

    async fn enter(self: Arc<Self>, mut stream: TcpStream) {
        match self.files.room_for(&stream) {
            Room::Enough => {}
            Room::Scarce => return self.turn_away(stream),
            // Closed without a word.
            Room::Exhausted => return,
        }
        if let Some(acceptor) = self.tls.clone() {
            tokio::spawn(self.shake_hands(stream, acceptor));
            return;
        }
        let mut start = [0; 2048];
        match stream.read(&mut start) {
            Ok(n) if n > 0 => {
                if let Some(upgrade) = self.upgrade(&start[..n], true) {
                    return self.hand_over(stream.into(), upgrade).await;
                }
                tokio::spawn(self.receive(stream, start[..n].to_vec()));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::spawn(self.receive(stream, Vec::new()));
            }
            // It left again.
            _ => {}
        }
    }

    /// Tells a peer to come back later; under TLS that would take a handshake, and it hears the end alone.
    fn turn_away(&self, stream: TcpStream) {
        if self.tls.is_none()
            && let Ok(socket) = tokio::net::TcpStream::from_std(stream.into())
        {
            tokio::spawn(BadHead::NoRoom.answer(socket));
        }
    }

    async fn receive(self: Arc<Self>, stream: TcpStream, bytes: Vec<u8>) {
        let Ok(socket) = tokio::net::TcpStream::from_std(stream.into()) else { return };
        self.read_head(socket, bytes).await;
    }

    async fn shake_hands(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let Ok(socket) = tokio::net::TcpStream::from_std(stream.into()) else { return };
        let mut first = [0];
        match self.in_time(socket.peek(&mut first)).await {
            Some(Ok(n)) if n > 0 && first[0] == TLS_HANDSHAKE => {}
            Some(Ok(n)) if n > 0 => return BadHead::Bare.answer(socket).await,
            _ => return,
        }
        // Who fails here is told so by an alert.
        let Some(Ok(socket)) = self.in_time(acceptor.accept(socket)).await else { return };
        match socket.get_ref().1.alpn_protocol() {
            Some(HTTP2) => self.serve_http2(socket, Vec::new()).await,
            _ => self.read_head(socket, Vec::new()).await,
        }
    }

    /// What a peer has the head timeout for; nothing is waited for once the door has closed.
    async fn in_time<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        let timeout = Duration::from_secs(u64::from(self.gatekeeper.settings.head_timeout_s));
        let mut stopping = self.stopping.clone();
        tokio::select! {
            done = tokio::time::timeout(timeout, step) => done.ok(),
            () = stopped(&mut stopping) => None,
        }
    }

    /// Waits for the rest of the head, then serves the socket.
    async fn read_head<S: Socket>(self: Arc<Self>, mut socket: S, mut bytes: Vec<u8>) {
        let opening = match self.in_time(head::read(&mut socket, &mut bytes)).await {
            Some(Ok(opening)) => opening,
            Some(Err(bad)) => return bad.answer(socket).await,
            None => return BadHead::Slow.answer(socket).await,
        };
        if opening == Opening::Http2 {
            return self.serve_http2(socket, bytes).await;
        }
        let Some(mut upgrade) = self.upgrade(&bytes, S::BARE) else { return self.serve_http1(socket, bytes).await };
        match socket.into_stream(&mut upgrade.unread) {
            Some(stream) => self.hand_over(stream, upgrade).await,
            None => self.give_back(&upgrade.verdict),
        }
    }

    /// The decision about a head that is whole and asks for something of a loop's; `None` for any other, which hyper is to
    /// see. `bare`: the socket can come back when a later request is none of a loop's.
    fn upgrade(&self, bytes: &[u8], bare: bool) -> Option<Upgrade> {
        if !self.gatekeeper.settings.role.is_edge() {
            return None;
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head_len)) = request.parse(bytes) else { return None };
        let head = Parsed(&request);
        if request.method != Some("GET") {
            return None;
        }
        let (head, verdict) = match self.gatekeeper.reader.read(&head) {
            // Whoever names another transport gets that, even if it offers to become a WebSocket.
            Some(Ok(listen)) if listen.transport != Transport::Socket => {
                (Vec::new(), Ok(self.subscriber(listen, bare)?))
            }
            listen if is_upgrade(&head) => self.socket(&head, listen)?,
            _ => return None,
        };
        Some(Upgrade { head, unread: bytes[head_len..].to_vec(), verdict })
    }

    /// A WebSocket. A bad handshake is answered by hyper, like any other bad request; so is one that may not subscribe.
    fn socket(&self, head: &impl Head, listen: Option<Result<Listen, Refused>>) -> Option<(Vec<u8>, Verdict)> {
        let handshake = handshake(head, self.gatekeeper.settings.deflate).ok()?;
        let verdict = match listen {
            Some(listen) => self.gatekeeper.admit(listen.ok()?, handshake.deflates()),
            None => self.gatekeeper.decide(head, &handshake),
        };
        Some((handshake.response(), verdict))
    }

    /// A subscriber by plain HTTP, if a loop can have its socket and there is room; hyper serves it or says so otherwise.
    fn subscriber(&self, listen: Listen, bare: bool) -> Option<Admission> {
        let for_a_loop = listen.is_for_a_loop() && (bare || listen.transport != Transport::LongPoll);
        if !for_a_loop { None } else { self.gatekeeper.admit(listen, false).ok() }
    }

    async fn hand_over(&self, stream: Stream, upgrade: Upgrade) {
        let Upgrade { head, unread, verdict } = upgrade;
        self.loops.next().orders.send(Order::Adopt(Box::new(Arrival { stream, head, unread, verdict }))).await;
    }

    async fn serve_http1<S: Socket>(self: Arc<Self>, socket: S, bytes: Vec<u8>) {
        let stopping = self.stopping.clone();
        let answer = move |request| {
            let door = self.clone();
            async move { Ok(door.answer::<S>(request).await) }
        };
        serve::http1(Rewind::new(bytes.into(), socket), answer, stopping).await;
    }

    async fn serve_http2(self: Arc<Self>, socket: impl Socket, bytes: Vec<u8>) {
        let stopping = self.stopping.clone();
        let answer = move |request| {
            let door = self.clone();
            async move { Ok(door.answer_plain(request).await) }
        };
        serve::http2(Rewind::new(bytes.into(), socket), answer, stopping).await;
    }

    /// Answers one request on a connection over `S`, which may still become a WebSocket.
    async fn answer<S: Socket>(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let head = HyperHead(&request);
        let is_edge = self.gatekeeper.settings.role.is_edge();
        if request.method() != hyper::Method::GET || !is_upgrade(&head) || !is_edge {
            return self.answer_plain(request).await;
        }
        let listen = self.gatekeeper.reader.read(&head);
        if matches!(&listen, Some(Ok(listen)) if listen.transport != Transport::Socket) {
            return self.answer_plain(request).await;
        }
        match handshake(&head, self.gatekeeper.settings.deflate) {
            Ok(handshake) => {
                let verdict = match listen {
                    Some(Ok(listen)) => self.gatekeeper.admit(listen, handshake.deflates()),
                    Some(Err(_)) => return self.http.answer(request).await,
                    None => self.gatekeeper.decide(&head, &handshake),
                };
                let response = switching(&handshake);
                tokio::spawn(self.take_over::<S>(request, verdict));
                response
            }
            Err(bad) => bad_handshake(&bad.to_string()),
        }
    }

    /// Answers a request that is no upgrade.
    async fn answer_plain(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let role = self.gatekeeper.settings.role;
        if !role.is_edge() && (self.gatekeeper.is_for_subscribers(&path) || is_upgrade(&HyperHead(&request))) {
            return elsewhere(role);
        }
        match self.sessions.call(&path) {
            Some(call) => self.sessions.answer(call, request).await,
            None => self.http.answer(request).await,
        }
    }

    /// Takes the socket out of hyper's hands once the 101 has been sent.
    async fn take_over<S: Socket>(self: Arc<Self>, request: Request<Incoming>, verdict: Verdict) {
        let parts = match hyper::upgrade::on(request).await.map(|upgraded| upgraded.downcast::<TokioIo<Rewind<S>>>()) {
            Ok(Ok(parts)) => parts,
            // The peer left between its request and our answer.
            _ => return self.give_back(&verdict),
        };
        let mut unread = parts.read_buf.to_vec();
        match parts.io.into_inner().into_socket().into_stream(&mut unread) {
            Some(stream) => self.hand_over(stream, Upgrade { head: Vec::new(), unread, verdict }).await,
            None => self.give_back(&verdict),
        }
    }

    /// Uncounts a connection that never reached a loop.
    fn give_back(&self, verdict: &Verdict) {
        if let Ok(admission) = verdict {
            self.gatekeeper.give_back(admission);
        }
    }
}

/// To a subscriber who came to a node that holds none.
fn elsewhere(role: Role) -> Response<Body> {
    let text = format!(
        "{{\"error\":\"this node has the role \\\"{role}\\\" and holds no subscribers: connect to a node with the role \\\"edge\\\"\"}}\n"
    );
    let mut response = Response::new(Body::from(Full::from(text)));
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// How long a peer may take nothing of what it is sent, where hyper writes: it waits for a full socket without end, and would
/// keep that for a reader who was given up long ago.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The address that a request came from, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves plain HTTP alone, with each request's [`Peer`], until `stopping` turns true.
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
            // Both fail when the peer has gone already.
            let Ok(peer) = stream.peer_addr() else { return };
            let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
            tokio::spawn(serve::http1(
                Rewind::new(Bytes::new(), stream),
                move |mut request| {
                    request.extensions_mut().insert(Peer(peer.ip()));
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

/// A socket that a loop is to serve.
struct Upgrade {
    head: Vec<u8>,
    unread: Vec<u8>,
    verdict: Verdict,
}

type Verdict = Result<Admission, Refusal>;

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
