//! Requests under `/sub` that hyper serves: preflights, refusals, and every subscriber whose socket no loop can have, which
//! is all of HTTP/2.
//!
//! A subscriber is a connection of a loop here too, written on a pipe: what a loop says on a socket becomes the body of an
//! answer, and a poller's answer, head and all, becomes hyper's.
//!
//! Not here: what is said (`feed`), what is kept between two polls of a presence channel (`pollers`).

use std::future::poll_fn;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fanfare_proto::json::json_string_token;
use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};

use super::door::head::{HEADERS_MAX, HyperHead};
use super::forms::Format;
use super::listen::{self, Carrier, Listen, Page, Refused, Transport};
use super::pipe::PipeReader;
use super::pollers::{Answer, Over, Pollers, Session};
use super::upgrade::Gatekeeper;
use super::{Arrival, Body, Loops, Order, Refusal, Stream};

/// The answers to requests under `/sub`.
pub struct Subscriptions {
    gatekeeper: Gatekeeper,
    loops: Loops,
    pollers: Pollers,
}

impl Subscriptions {
    /// For subscribers of these loops. Must be called on the runtime.
    pub fn new(gatekeeper: Gatekeeper, loops: Loops) -> Self {
        Subscriptions { gatekeeper, loops, pollers: Pollers::start() }
    }

    /// Whether requests for this path are answered here.
    pub fn are_at(&self, path: &str) -> bool {
        self.gatekeeper.reader.is_ours(path)
    }

    /// Answers one request.
    pub async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let origin = request.headers().get("origin").and_then(|origin| origin.to_str().ok());
        let page = &self.gatekeeper.reader.page(request.uri().path(), origin);
        match *request.method() {
            Method::OPTIONS => return preflight(page, "GET, OPTIONS"),
            Method::GET => {}
            _ => return refusal(page, StatusCode::METHOD_NOT_ALLOWED, "expected GET"),
        }
        match self.gatekeeper.reader.read(&HyperHead(request)) {
            Some(Ok(listen)) => self.serve(listen).await,
            Some(Err(refused)) => refused_response(page, &refused),
            None => refused_response(page, &Refused::NoChannel),
        }
    }

    async fn serve(&self, mut listen: Listen) -> Response<Body> {
        if matches!(listen.transport, Transport::LongPoll | Transport::Poll) && listen.has_presence() {
            return self.serve_poller(listen).await;
        }
        listen.carrier = Carrier::Body;
        let (transport, format, page) = (listen.transport, listen.format, listen.page.clone());
        let reader = match self.adopt(listen).await {
            Ok(reader) => reader,
            Err(refusal) => return full(&page, &refusal),
        };
        let media_type = match (transport, format) {
            (Transport::LongPoll | Transport::Poll | Transport::Socket, _) => return whole(reader).await,
            (Transport::Sse, _) => "text/event-stream; charset=utf-8",
            (Transport::Stream, Format::Json) => "application/x-ndjson",
            (Transport::Stream, Format::Raw) => "text/plain; charset=utf-8",
        };
        let mut response = Response::new(Body::from(reader));
        head(response.headers_mut(), &page);
        response.headers_mut().insert("content-type", HeaderValue::from_static(media_type));
        response
    }

    /// Answers one poll of presence channels, whose session goes on until the next.
    async fn serve_poller(&self, listen: Listen) -> Response<Body> {
        let page = &listen.page;
        let (name, session) = match self.pollers.take_up(&listen) {
            Some(known) => known,
            None => match self.adopt(as_lines(&listen)).await {
                Ok(reader) => (self.pollers.name(), Session::new(&listen, reader)),
                Err(refusal) => return full(page, &refusal),
            },
        };
        let wait_s = listen.wait_s.unwrap_or(self.gatekeeper.settings.longpoll_s);
        let wait = Duration::from_secs(u64::from(wait_s));
        let (status, mut rest) = match self.pollers.reading(name, session).answer(&listen, wait).await {
            Ok(Answer::Content(rest)) => ("200 OK", rest),
            Ok(Answer::Unchanged(rest)) => ("304 Not Modified", [&rest[..], b"\r\n"].concat()),
            Ok(Answer::Nothing(rest)) => ("204 No Content", [&rest[..], b"\r\n"].concat()),
            Err(Over { status, message, .. }) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                return refusal(page, status, &message);
            }
        };
        let mut answer = format!("HTTP/1.1 {status}\r\n").into_bytes();
        answer.append(&mut rest);
        let mut response = parse(&answer).expect("an answer of ours is whole");
        head(response.headers_mut(), page);
        response
    }

    /// Puts a subscriber into a loop; what it is told comes out of the reader.
    async fn adopt(&self, listen: Listen) -> Result<PipeReader, Refusal> {
        let verdict = Ok(self.gatekeeper.admit(listen, false)?);
        let home = self.loops.next();
        let (stream, reader) = Stream::pipe(home);
        let arrival = Arrival { stream, head: Vec::new(), unread: Vec::new(), verdict };
        home.orders.send(Order::Adopt(Box::new(arrival))).await;
        Ok(reader)
    }
}

/// The stream of lines that stands behind a session of polls.
fn as_lines(listen: &Listen) -> Listen {
    let (transport, format, carrier) = (Transport::Stream, Format::Json, Carrier::Body);
    Listen { transport, format, carrier, ..listen.clone() }
}

/// A poller's answer as its loop wrote it, read into hyper's terms.
async fn whole(mut reader: PipeReader) -> Response<Body> {
    let mut bytes = BytesMut::new();
    loop {
        if let Some(response) = parse(&bytes) {
            return response;
        }
        match poll_fn(|cx| reader.poll_read(cx)).await {
            Some(more) => bytes.extend_from_slice(&more),
            // The loop ended first: the process stops, or the app has gone.
            None => return refusal(&Page::Stranger, StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
        }
    }
}

/// The answer, if all of it is there.
fn parse(bytes: &[u8]) -> Option<Response<Body>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(len)) = parsed.parse(bytes) else { return None };
    let mut response = Response::new(Body::from(Full::default()));
    *response.status_mut() = StatusCode::from_u16(parsed.code?).ok()?;
    for field in parsed.headers.iter() {
        if let (Ok(name), Ok(value)) = (field.name.parse::<HeaderName>(), HeaderValue::from_bytes(field.value)) {
            response.headers_mut().append(name, value);
        }
    }
    // Whether the connection goes on is between hyper and the peer.
    response.headers_mut().remove("connection");
    let body_len =
        response.headers().get("content-length").and_then(|len| len.to_str().ok()?.parse().ok()).unwrap_or(0);
    let body = bytes.get(len..len + body_len)?;
    *response.body_mut() = Full::from(Bytes::copy_from_slice(body)).into();
    Some(response)
}

fn refused_response(page: &Page, refused: &Refused) -> Response<Body> {
    let status = StatusCode::from_u16(refused.status()).expect("a status of ours");
    refusal(page, status, &refused.to_string())
}

/// No room: come back later.
fn full(page: &Page, why: &Refusal) -> Response<Body> {
    let mut response = refusal(page, StatusCode::SERVICE_UNAVAILABLE, &why.message);
    response.headers_mut().insert("retry-after", HeaderValue::from_static("5"));
    response
}

/// An error as JSON, which pages may read.
fn refusal(page: &Page, status: StatusCode, message: &str) -> Response<Body> {
    let body = format!("{{\"error\":{}}}\n", json_string_token(message));
    let mut response = Response::new(Body::from(Full::from(body)));
    *response.status_mut() = status;
    head(response.headers_mut(), page);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert("allow", HeaderValue::from_static("GET, OPTIONS"));
    }
    response
}

/// What every answer says to proxies and pages.
fn head(headers: &mut HeaderMap, page: &Page) {
    let mut lines = listen::UNBUFFERED.to_vec();
    page.cors(&mut lines);
    let text = String::from_utf8_lossy(&lines);
    for (name, value) in text.lines().filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
            headers.insert(name, value);
        }
    }
}

/// The answer to a page that asks first (Fetch standard, "CORS-preflight request").
pub fn preflight(page: &Page, methods: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    head(response.headers_mut(), page);
    let allowed = [
        ("access-control-allow-methods", methods),
        ("access-control-allow-headers", ALLOWED_HEADERS),
        ("access-control-max-age", "86400"),
        ("allow", methods),
    ];
    for (name, value) in allowed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().remove("cache-control");
    response
}

const ALLOWED_HEADERS: &str = "Last-Event-ID, Cache-Control, Authorization, Content-Type, If-None-Match, \
If-Modified-Since, Idempotency-Key, Event-Id, Event-Type";
