//! One connection in hyper's hands, over HTTP/1.1 or HTTP/2, until it ends or the server stops.

use std::convert::Infallible;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch;

use super::idle::Traffic;
use super::rewind::Rewind;
use super::socket::Socket;
use super::stopped;
use crate::edge::Body;

/// How long a kept connection may stand idle between two requests. Longer than the 60 s that proxies keep theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Requests at once on one HTTP/2 connection. Each may be a subscriber that stays, so a proxy that brings many opens more
/// connections; a browser with every tab of a site on one has room.
const STREAMS_MAX: u32 = 256;

/// What may be on its way to us on one HTTP/2 connection: a publisher's calls must not wait for each other's round trips.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// What may be on its way to us in one request: most bodies whole.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// Bytes of an answer that hyper keeps for a stream whose peer gives it no window. What is more waits in the pipe behind it,
/// and then in the outbox, whose bound is the one that counts.
const STREAM_SEND_BYTES: usize = 16 << 10;

/// Bytes of answers that hyper keeps for an HTTP/1.1 peer that does not read; the same for a request's head.
const UNSENT_BYTES_MAX: usize = 64 << 10;

/// Bytes of a request's headers, as in HTTP/1.1.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// How often a silent HTTP/2 connection is asked whether anybody is there, and how long it has to say so.
const PING_EVERY: Duration = Duration::from_secs(25);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves HTTP/1.1, upgrades included.
pub async fn http1<S, F, A>(io: Rewind<S>, answer: F, mut stopping: watch::Receiver<bool>)
where
    S: Socket,
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let mut builder = http1::Builder::new();
    // No `pipeline_flush`: with it hyper takes all of a body that it cannot send, however large.
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(UNSENT_BYTES_MAX);
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

/// Serves HTTP/2.
pub async fn http2<S, F, A>(io: Rewind<S>, answer: F, mut stopping: watch::Receiver<bool>)
where
    S: Socket,
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    let traffic = Traffic::default();
    let counted = traffic.clone();
    let answer = move |request| {
        let (request_under_way, answer) = (counted.begin(), answer(request));
        async move { answer.await.map(|response| response.map(|body| request_under_way.with(body))) }
    };
    let connection = builder.serve_connection(TokioIo::new(io), service_fn(answer));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopped(&mut stopping) => {}
        () = traffic.idle(IDLE_TIMEOUT) => {}
    }
    // GOAWAY: the peer opens nothing more here, and what is open goes on until its loop ends it.
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
