//! TLS and HTTP/2 on the public listener.

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::json;
use support::{Certificate, KEY, PATIENCE, Server, Tunnel, connect_tls, one_app, opcode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A server that speaks TLS. Every helper of `server` reaches it through a tunnel.
struct Secret {
    server: Server,
    /// Where it listens for itself.
    addr: SocketAddr,
    certificate: Certificate,
    _tunnel: Tunnel,
}

impl Secret {
    fn start(more: &str, args: &[&str]) -> Self {
        Secret::with(more, &one_app(""), args)
    }

    fn with(more: &str, app: &str, args: &[&str]) -> Self {
        let certificate = Certificate::new();
        let config = format!("{more}\n{}{app}", certificate.config());
        let mut server = Server::start_with(&config, args);
        let tunnel = Tunnel::to(server.addr, certificate.client(&["http/1.1"]));
        let addr = std::mem::replace(&mut server.addr, tunnel.addr);
        Self { server, addr, certificate, _tunnel: tunnel }
    }

    /// A connection for requests over HTTP/2.
    async fn http2(&self) -> http2::SendRequest<Empty<Bytes>> {
        let socket = connect_tls(self.addr, self.certificate.client(&["h2", "http/1.1"])).await.expect("a handshake");
        assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        http2(socket).await
    }

    /// The certificate that a new connection is shown.
    fn shown(&self, client: Arc<ClientConfig>) -> Option<CertificateDer<'static>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let socket = runtime.block_on(connect_tls(self.addr, client)).ok()?;
        socket.get_ref().1.peer_certificates().map(|chain| chain[0].clone())
    }
}

#[test]
fn a_pusher_socket_works_over_tls() {
    let secret = Secret::start("", &[]);
    let mut socket = secret.server.connect();
    socket.subscribe("room");
    secret.server.publish("room", "said", "hello");
    socket.expect(r#"{"event":"said","channel":"room","data":"hello"}"#);
}

#[test]
fn messages_larger_than_every_buffer_go_both_ways() {
    let secret = Secret::start("", &["--echo"]);
    let mut socket = secret.server.websocket("/echo");
    let message: String = (0..1_000_000).map(|n| format!("{n:07},")).collect();
    let mut writer = socket.stream.try_clone().expect("a second handle");
    let frame = support::masked_frame(0x80 | opcode::TEXT, message.as_bytes());
    let writing = std::thread::spawn(move || writer.write_all(&frame));
    let echoed = socket.answering_pings().expect("an echo");
    writing.join().expect("no panic").expect("all is sent");
    assert!(echoed.payload == message.as_bytes(), "{} bytes came back", echoed.payload.len());
}

#[test]
fn many_small_messages_in_one_record_are_all_heard() {
    let secret = Secret::start("", &[]);
    let mut socket = secret.server.connect();
    let ping = support::masked_frame(0x80 | opcode::TEXT, br#"{"event":"pusher:ping","data":{}}"#);
    socket.ws.send_bytes(&ping.repeat(2000));
    for _ in 0..2000 {
        socket.expect(r#"{"event":"pusher:pong","data":"{}"}"#);
    }
}

#[test]
fn a_reader_that_pauses_misses_nothing() {
    let secret = Secret::start("outbox_bytes_max = 67108864", &[]);
    let mut socket = secret.server.connect();
    socket.subscribe("room");
    let data = "x".repeat(9_000);
    for tens in 0..60 {
        let event = |n| json!({"name": format!("said-{}", tens * 10 + n), "channel": "room", "data": data});
        let batch: Vec<_> = (0..10).map(event).collect();
        assert_eq!(secret.server.post("/batch_events", &json!({"batch": batch})).status, 200);
    }
    for n in 0..600 {
        assert_eq!(socket.recv()["event"], format!("said-{n}"));
    }
}

#[test]
fn the_last_words_are_followed_by_a_farewell() {
    let secret = Secret::start("", &[]);
    let client = ClientConnection::new(secret.certificate.client(&[]), "localhost".try_into().expect("a name"));
    let socket = std::net::TcpStream::connect(secret.addr).expect("the server accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let mut stream = StreamOwned::new(client.expect("a client"), socket);
    let head = "GET /app/nobody?protocol=7 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("the head is sent");
    let mut heard = Vec::new();
    // A stream that ends without a farewell is an error to rustls.
    stream.read_to_end(&mut heard).expect("a clean end");
    assert!(String::from_utf8_lossy(&heard).contains(r#""code":4001"#), "{}", String::from_utf8_lossy(&heard));
}

#[test]
fn an_upgrade_may_come_later_on_a_kept_connection() {
    let secret = Secret::start("", &[]);
    let mut stream = secret.server.tcp();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("the request is sent");
    assert_eq!(support::Response::read(&mut stream, &mut Vec::new()).status, 200);
    let head = format!(
        "GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("the request is sent");
    let mut heard = Vec::new();
    assert_eq!(support::Response::read(&mut stream, &mut heard).status, 101);
    while !String::from_utf8_lossy(&heard).contains("pusher:connection_established") {
        let mut chunk = [0; 1024];
        let n = stream.read(&mut chunk).expect("a greeting in time");
        assert!(n > 0, "closed before the greeting");
        heard.extend_from_slice(&chunk[..n]);
    }
}

#[test]
fn bare_http_is_told_to_use_https() {
    let secret = Secret::start("", &[]);
    let mut stream = std::net::TcpStream::connect(secret.addr).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("the request is sent");
    let answer = support::Response::read(&mut stream, &mut Vec::new());
    assert_eq!((answer.status, answer.body.contains("https://")), (400, true), "{answer:?}");
}

#[tokio::test]
async fn http2_is_spoken_to_those_who_prefer_it() {
    let secret = Secret::start("", &[]);
    let mut http2 = secret.http2().await;
    for _ in 0..3 {
        assert_eq!(get(&mut http2, "https://localhost/").await, StatusCode::OK);
    }
    assert_eq!(get(&mut http2, "https://localhost/apps/1/channels").await, StatusCode::UNAUTHORIZED);
}

#[test]
fn a_stream_of_events_goes_through_tls() {
    let secret = Secret::start("", &[]);
    let mut stream = secret.server.tcp();
    let head = format!("GET /sub/{KEY}/room HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("the request is sent");
    let mut heard = String::new();
    for wanted in ["fanfare:subscribed", "data: hello"] {
        while !heard.contains(wanted) {
            let mut chunk = [0; 4096];
            let n = stream.read(&mut chunk).expect("an event in time");
            assert!(n > 0, "closed after {heard:?}");
            heard.push_str(std::str::from_utf8(&chunk[..n]).expect("events are text"));
        }
        secret.server.publish("room", "said", "hello");
    }
    assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{heard}");
}

#[test]
fn long_polls_follow_each_other_through_tls() {
    let secret = Secret::start("", &[]);
    let mut stream = secret.server.tcp();
    let mut cursor = String::new();
    for n in 0..3 {
        secret.server.publish("room", "said", &n.to_string());
        let since = if cursor.is_empty() { "backtrack=1".to_owned() } else { format!("since={cursor}") };
        let head = format!("GET /sub/{KEY}/room?transport=longpoll&{since} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the request is sent");
        let answer = support::Response::read(&mut stream, &mut Vec::new());
        assert_eq!((answer.status, answer.body.as_str()), (200, n.to_string().as_str()));
        cursor = answer.header("fanfare-cursor").expect("a cursor").to_owned();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn subscribers_share_one_http2_connection() {
    let secret = Secret::start("", &[]);
    let mut http2 = secret.http2().await;
    let mut streams = Vec::new();
    for (n, accept) in ["text/event-stream", "application/x-ndjson"].into_iter().cycle().take(20).enumerate() {
        let uri = format!("https://localhost/sub/{KEY}/room-{n}?format=json");
        let request = Request::get(uri).header("accept", accept).body(Empty::<Bytes>::new()).expect("a request");
        http2.ready().await.expect("the connection is open");
        let answer = http2.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.headers()["content-type"].to_str().expect("text").starts_with(accept));
        let mut body = answer.into_body();
        await_in(&mut body, "fanfare:subscribed").await;
        streams.push(body);
    }
    for (n, body) in streams.iter_mut().enumerate() {
        secret.server.publish(&format!("room-{n}"), "said", &format!("hello {n}"));
        await_in(body, &format!("hello {n}")).await;
    }
    let connections = || secret.server.metric("fanfare_connections");
    assert_eq!(connections(), 20.0);
    drop(streams);
    let deadline = Instant::now() + PATIENCE;
    while connections() > 0.0 {
        assert!(Instant::now() < deadline, "readers that left are still counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_http2_reader_that_does_not_read_is_closed_and_its_neighbour_is_not() {
    let secret = Secret::start("outbox_bytes_max = 65536", &[]);
    let mut http2 = secret.http2().await;
    let mut bodies = Vec::new();
    for channel in ["loud", "quiet"] {
        let uri = format!("https://localhost/sub/{KEY}/{channel}?transport=stream");
        let request = Request::get(uri).body(Empty::<Bytes>::new()).expect("a request");
        http2.ready().await.expect("the connection is open");
        let mut body = http2.send_request(request).await.expect("an answer").into_body();
        await_in(&mut body, "fanfare:subscribed").await;
        bodies.push(body);
    }
    let data = "x".repeat(10_000);
    let batch: Vec<_> = (0..10).map(|_| json!({"name": "said", "channel": "loud", "data": data})).collect();
    let deadline = Instant::now() + 3 * PATIENCE;
    while secret.server.metric("fanfare_connections") > 1.0 {
        assert!(Instant::now() < deadline, "it is still open");
        assert_eq!(secret.server.post("/batch_events", &json!({"batch": batch})).status, 200);
    }
    secret.server.publish("quiet", "said", "hello");
    await_in(&mut bodies[1], "hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_ends_http2_streams_in_order() {
    let mut secret = Secret::start("drain_s = 1", &[]);
    let mut http2 = secret.http2().await;
    let uri = format!("https://localhost/sub/{KEY}/room?transport=stream&format=json");
    let request = Request::get(uri).body(Empty::<Bytes>::new()).expect("a request");
    let mut body = http2.send_request(request).await.expect("an answer").into_body();
    await_in(&mut body, "fanfare:subscribed").await;
    secret.server.signal("TERM");
    await_in(&mut body, r#""reason":"drain""#).await;
    assert!(body.frame().await.is_none_or(|frame| frame.is_ok()), "no error at the end");
    assert!(secret.server.wait().success());
}

#[tokio::test]
async fn http2_is_spoken_without_tls_to_those_who_know() {
    let server = Server::start(&one_app(""));
    let mut http2 = http2(TcpStream::connect(server.addr).await.expect("the server accepts")).await;
    assert_eq!(get(&mut http2, "http://localhost/").await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_http2_connection_does_not_hold_up_a_stop() {
    let mut secret = Secret::start("drain_s = 1", &[]);
    let mut http2 = secret.http2().await;
    assert_eq!(get(&mut http2, "https://localhost/").await, StatusCode::OK);
    secret.server.signal("TERM");
    assert!(secret.server.wait().success());
}

#[test]
fn a_renewed_certificate_is_shown_to_newcomers() {
    let mut secret = Secret::start("", &[]);
    let mut old = secret.server.connect();
    assert_eq!(secret.shown(secret.certificate.client(&[])), Some(secret.certificate.der()));

    secret.certificate.renew();
    let deadline = Instant::now() + PATIENCE;
    while secret.shown(secret.certificate.client(&[])) != Some(secret.certificate.der()) {
        assert!(Instant::now() < deadline, "the old certificate is still shown");
        std::thread::sleep(Duration::from_millis(50));
    }
    old.subscribe("room");
}

#[test]
fn a_certificate_that_does_not_fit_its_key_changes_nothing() {
    let secret = Secret::start("", &[]);
    std::fs::write(secret.certificate.cert_file(), "no certificate").expect("the file is written");
    secret.server.signal("HUP");
    let deadline = Instant::now() + PATIENCE;
    while !secret.server.log().contains("new certificate refused") {
        assert!(Instant::now() < deadline, "{}", secret.server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(secret.shown(secret.certificate.client(&[])), Some(secret.certificate.der()));
}

async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(socket: S) -> http2::SendRequest<Empty<Bytes>> {
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.expect("the server speaks HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Reads until a text has come.
async fn await_in(body: &mut Incoming, wanted: &str) {
    let mut heard = String::new();
    while !heard.contains(wanted) {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
        let frame = frame.unwrap_or_else(|_| panic!("no {wanted} in {heard:?}"));
        let frame = frame.unwrap_or_else(|| panic!("the end, after {heard:?}")).expect("no error");
        heard.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
    }
}

async fn get(http2: &mut http2::SendRequest<Empty<Bytes>>, uri: &str) -> StatusCode {
    let request = Request::get(uri).body(Empty::new()).expect("a request");
    http2.ready().await.expect("the connection is open");
    let answer = http2.send_request(request).await.expect("an answer");
    let status = answer.status();
    answer.into_body().collect().await.expect("the whole body");
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firehose_flows_over_http2() {
    let firehose = "data_dir = \"data\"";
    let secret = Secret::with(
        firehose,
        &one_app("[apps.firehose]\ntokens = [{ name = \"all\", token = \"token-of-all-that-is\" }]"),
        &[],
    );
    let mut http2 = secret.http2().await;
    let request = Request::get(format!("https://localhost/firehose/{KEY}"))
        .header("authorization", "Bearer token-of-all-that-is")
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let response = http2.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut heard = String::new();
    for wanted in ["fanfare:subscribed", "\"data\":\"first\"", "\"data\":\"second\""] {
        while !heard.contains(wanted) {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("it comes in time");
            let data = frame.expect("it goes on").expect("it is sound").into_data().expect("data");
            heard.push_str(std::str::from_utf8(&data).expect("JSON is text"));
        }
        let next = if wanted == "fanfare:subscribed" { "first" } else { "second" };
        tokio::task::block_in_place(|| secret.server.publish("room", "said", next));
    }
}
