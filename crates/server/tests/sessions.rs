//! The Pusher protocol without a WebSocket, byte for byte: what pusher-js' `xhr_streaming` and `xhr_polling` send and hear.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{KEY, PATIENCE, Response, Server, one_app};

const SESSION: &str = "7/abcdefgh";

fn start() -> Server {
    Server::start(&one_app(""))
}

fn path(verb: &str) -> String {
    format!("/pusher/app/{KEY}/{SESSION}/{verb}?protocol=7&client=js&version=8.6.0&t=1&n=1")
}

/// A request whose answer goes on.
struct Streaming {
    stream: BufReader<TcpStream>,
    head: Vec<String>,
    body: Vec<u8>,
    ended: bool,
}

impl Streaming {
    fn open(server: &Server, target: &str) -> Self {
        let mut stream = server.tcp();
        let head =
            format!("POST {target} HTTP/1.1\r\nHost: x\r\nOrigin: http://page.example\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the request is sent");
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let line = read_line(&mut stream);
            if line.is_empty() {
                break;
            }
            head.push(line.to_ascii_lowercase());
        }
        assert_eq!(head[0], "http/1.1 200 ok");
        Self { stream, head, body: Vec::new(), ended: false }
    }

    /// The next frame, without its line end; `None` once the answer has ended.
    fn frame(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.body.iter().position(|byte| *byte == b'\n') {
                let rest = self.body.split_off(at + 1);
                let line = std::mem::replace(&mut self.body, rest);
                return Some(String::from_utf8(line[..at].to_vec()).expect("a frame is text"));
            }
            if self.ended {
                assert!(self.body.is_empty(), "the answer ends within a frame");
                return None;
            }
            let size = usize::from_str_radix(&read_line(&mut self.stream), 16).expect("a chunk's size");
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk).expect("a whole chunk");
            self.body.extend_from_slice(&chunk[..size]);
            self.ended = size == 0;
        }
    }

    /// The one message of the next frame.
    fn message(&mut self) -> Value {
        let frame = self.frame().expect("a frame");
        message(&frame)
    }
}

fn read_line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line in time");
    line.trim_end().to_owned()
}

fn message(frame: &str) -> Value {
    let texts: Vec<String> = serde_json::from_str(frame.strip_prefix('a').unwrap_or_else(|| panic!("{frame}")))
        .expect("an array of strings");
    assert_eq!(texts.len(), 1);
    serde_json::from_str(&texts[0]).expect("a message")
}

fn poll(server: &Server) -> String {
    let answer = server.request("POST", &path("xhr"), &[], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn say(server: &Server, messages: &[Value]) -> Response {
    let texts: Vec<String> = messages.iter().map(Value::to_string).collect();
    server.request("POST", &path("xhr_send"), &[("Content-Type", "application/json")], &json!(texts).to_string())
}

fn subscribe(server: &Server, channel: &str) {
    let answer = say(server, &[json!({"event": "pusher:subscribe", "data": {"channel": channel}})]);
    assert_eq!(answer.status, 204, "{answer:?}");
}

/// An open stream that is subscribed to `room`.
fn listening(server: &Server) -> Streaming {
    let mut stream = Streaming::open(server, &path("xhr_streaming"));
    assert_eq!(stream.frame().as_deref(), Some("o"));
    assert_eq!(stream.message()["event"], "pusher:connection_established");
    subscribe(server, "room");
    assert_eq!(stream.message()["event"], "pusher_internal:subscription_succeeded");
    stream
}

#[test]
fn a_stream_begins_with_o_and_the_greeting_and_goes_on() {
    let server = start();
    let mut stream = listening(&server);
    for line in [
        "content-type: application/javascript; charset=utf-8",
        "cache-control: no-cache, no-store, no-transform",
        "x-accel-buffering: no",
        "access-control-allow-origin: http://page.example",
        "transfer-encoding: chunked",
    ] {
        assert!(stream.head.iter().any(|have| have == line), "{line} in {:?}", stream.head);
    }
    server.publish("room", "said", "one\n\"two\"");
    let frame = stream.frame().expect("a frame");
    assert_eq!(frame, r#"a["{\"event\":\"said\",\"channel\":\"room\",\"data\":\"one\\n\\\"two\\\"\"}"]"#);
}

#[test]
fn polls_take_what_waits_and_wait_where_nothing_does() {
    let server = start();
    let mut first = poll(&server);
    while !first.contains("connection_established") {
        first += &poll(&server);
    }
    assert!(first.starts_with("o\na[\""), "{first}");
    subscribe(&server, "room");
    assert!(poll(&server).contains("subscription_succeeded"));

    // While nobody polls.
    server.publish("room", "said", "1");
    server.publish("room", "said", "2");
    let mut heard = poll(&server);
    if !heard.contains(r#"\"2\""#) {
        heard += &poll(&server);
    }
    let data: Vec<_> = heard.lines().map(|frame| message(frame)["data"].clone()).collect();
    assert_eq!(data, ["1", "2"]);

    // While somebody waits.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| poll(&server));
        server.publish("room", "said", "3");
        assert_eq!(message(waiting.join().expect("no panic").trim_end())["data"], "3");
    });
}

#[test]
fn a_client_that_opens_its_next_stream_goes_on_without_another_o() {
    let server = start();
    let mut first = listening(&server);
    let mut second = Streaming::open(&server, &path("xhr_streaming"));
    assert_eq!(first.frame(), None, "one request at a time");
    server.publish("room", "said", "hello");
    assert_eq!(second.message()["data"], "hello");
}

#[test]
fn nothing_is_sent_behind_the_frame_at_which_a_client_abandons_its_stream() {
    let server = start();
    let mut stream = listening(&server);
    let data = "ü".repeat(4_500);
    let event = |n: usize| json!({"name": n.to_string(), "channel": "room", "data": data});
    for tens in 0..10 {
        let batch: Vec<_> = (0..10).map(|n| event(tens * 10 + n)).collect();
        assert_eq!(server.post("/batch_events", &json!({"batch": batch})).status, 200);
    }
    // As pusher-js counts: characters of JavaScript, from the first byte of an answer.
    let (mut units, mut next) = (0, 0);
    while next < 100 {
        let frame = stream.frame().expect("a frame");
        units += frame.encode_utf16().count() + 1;
        if frame.starts_with("a[\"{\\\"event\\\":\\\"") && !frame.contains("pusher") {
            assert_eq!(message(&frame)["event"], next.to_string());
            next += 1;
        }
        if units > 256 << 10 {
            assert!(stream.body.is_empty(), "{} bytes would be lost", stream.body.len());
            stream = Streaming::open(&server, &path("xhr_streaming"));
            units = 0;
        }
    }
    assert!(units < 256 << 10, "more than one stream was needed");
}

/// More than a pipe holds, so that what it hands over ends within a frame.
#[test]
fn a_poll_ends_with_a_whole_frame() {
    let server = start();
    assert!(poll(&server).starts_with("o\n"));
    subscribe(&server, "room");
    let data = "x".repeat(9_000);
    let batch: Vec<_> = (0..10).map(|n| json!({"name": n.to_string(), "channel": "room", "data": data})).collect();
    for _ in 0..2 {
        assert_eq!(server.post("/batch_events", &json!({"batch": batch})).status, 200);
    }
    let mut heard = Vec::new();
    while heard.len() < 20 {
        let answer = poll(&server);
        assert!(answer.ends_with('\n'), "the answer ends within a frame");
        let messages = answer.lines().filter(|frame| frame.starts_with('a')).map(message);
        let events = messages.map(|message| message["event"].as_str().expect("an event").to_owned());
        heard.extend(events.filter(|event| !event.starts_with("pusher")));
    }
    let expected: Vec<_> = (0..20).map(|n| (n % 10).to_string()).collect();
    assert_eq!(heard, expected);
}

#[test]
fn a_refusal_is_heard_like_any_other_message() {
    let server = start();
    let target = "/pusher/app/nobody/1/abcdefgh/xhr_streaming?protocol=7";
    let mut stream = Streaming::open(&server, target);
    assert_eq!(stream.frame().as_deref(), Some("o"));
    let error = stream.message();
    assert_eq!((&error["event"], &error["data"]["code"]), (&json!("pusher:error"), &json!(4001)));
    assert_eq!(stream.frame().as_deref(), Some(r#"c[4001,"Application does not exist"]"#));
    assert_eq!(stream.frame(), None);
}

#[test]
fn the_path_prefix_is_taken_and_pushers_own_may_be_left_out() {
    let server = Server::start(&format!("path_prefix = \"/live\"\n{}", one_app("")));
    for (n, base) in ["/pusher/app", "/app", "/live/app", "/live/pusher/app"].into_iter().enumerate() {
        let mut stream = Streaming::open(&server, &format!("{base}/{KEY}/{n}/abcdefgh/xhr_streaming?protocol=7"));
        assert_eq!(stream.frame().as_deref(), Some("o"), "{base}");
        assert_eq!(stream.message()["event"], "pusher:connection_established", "{base}");
    }
}

#[test]
fn preflights_are_answered() {
    let server = start();
    let headers = [("Origin", "http://page.example"), ("Access-Control-Request-Headers", "content-type")];
    let answer = server.request("OPTIONS", &path("xhr_send"), &headers, "");
    assert_eq!(answer.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "http://page.example"),
        ("access-control-allow-methods", "POST, OPTIONS"),
        ("access-control-allow-headers", "Content-Type"),
        ("access-control-max-age", "86400"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
}

#[test]
fn what_is_no_message_is_refused() {
    let server = start();
    let send = |body: &str| server.request("POST", &path("xhr_send"), &[], body).status;
    assert_eq!(send("[]"), 404, "there is no session yet");
    let _stream = listening(&server);
    assert_eq!(send("[]"), 204);
    for bad in ["", "{}", "[1]", "[\"a\""] {
        assert_eq!(send(bad), 400, "{bad}");
    }
    assert_eq!(send(&format!("[\"{}\"]", "x".repeat(100_000))), 413);
    assert_eq!(server.request("GET", &path("xhr"), &[], "").status, 405);
}

#[test]
fn a_session_is_its_own_apps() {
    let other = "[[apps]]\nid = \"2\"\nkeys = [{ key = \"other\", secret = \"s\" }]\n";
    let server = Server::start(&format!("{}{other}", one_app("")));
    let _stream = listening(&server);
    let target = format!("/pusher/app/other/{SESSION}/xhr_send");
    assert_eq!(server.request("POST", &target, &[], "[]").status, 404);
}

#[test]
fn a_ping_of_the_clients_own_is_answered_and_an_answer_is_not() {
    let server = start();
    let mut stream = listening(&server);
    assert_eq!(say(&server, &[]).status, 204);
    assert_eq!(stream.frame().as_deref(), Some("h"));
    // Which is how pusher-js answers a heartbeat.
    assert_eq!(say(&server, &[]).status, 204);
    server.publish("room", "said", "hello");
    assert_eq!(stream.message()["data"], "hello");
}

#[test]
fn a_session_that_nobody_reads_ends() {
    let server = start();
    drop(listening(&server));
    await_connections(&server, 1.0);
    await_connections(&server, 0.0);
    assert_eq!(say(&server, &[]).status, 404);
}

#[test]
fn a_reader_that_does_not_read_is_closed_as_any_other() {
    let server = Server::start(&format!("outbox_bytes_max = 65536\n{}", one_app("")));
    let _stream = listening(&server);
    let data = "x".repeat(10_000);
    let deadline = Instant::now() + 3 * PATIENCE;
    while server.metric("fanfare_connections") > 0.0 {
        assert!(Instant::now() < deadline, "it is still open");
        let batch: Vec<_> = (0..10).map(|_| json!({"name": "said", "channel": "room", "data": data})).collect();
        assert_eq!(server.post("/batch_events", &json!({"batch": batch})).status, 200);
    }
}

#[test]
fn a_stop_is_told_and_ends_the_stream_in_order() {
    let mut server = Server::start(&format!("drain_s = 1\n{}", one_app("")));
    let mut stream = listening(&server);
    server.signal("TERM");
    assert_eq!(stream.frame().as_deref(), Some(r#"c[4200,"Reconnect now"]"#));
    assert_eq!(stream.frame(), None);
    assert!(server.wait().success());
}

fn await_connections(server: &Server, n: f64) {
    let deadline = Instant::now() + 2 * PATIENCE;
    while server.metric("fanfare_connections") != n {
        assert!(Instant::now() < deadline, "never {n} connections");
        thread::sleep(Duration::from_millis(50));
    }
}
