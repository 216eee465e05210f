//! The same client against this server and against nginx with nchan (Debian's `libnginx-mod-nchan`), which took over what
//! push-stream has of HTTP: publishing by POST, streams of events, long and short polls that go on by `Last-Modified` and
//! `Etag`, WebSockets. Where both speak of the same thing, the client must not notice which of them it has.
//!
//! Skipped where nginx or the module is not installed; `cargo xtask setup` installs both.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Face;
use super::client::Stream;
use crate::support::{Response, WebSocket, eventually, request};

const NGINX: &str = "/usr/sbin/nginx";
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
const EPOCH: &str = "Thu, 01 Jan 1970 00:00:00 GMT";
const TEXTS: [&str; 5] = ["one", "two words", "{\"json\":[1,2]}", "line\nbreak", "gr\u{fc}\u{df}e \u{1f600}"];

struct Nginx {
    child: Child,
    addr: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// `None` where it is not installed.
    fn start() -> Option<Nginx> {
        if !Path::new(NGINX).exists() || !Path::new(MODULE).exists() {
            eprintln!("skipped: there is no nginx with nchan here");
            return None;
        }
        // A port that was free a moment ago: nginx cannot tell which one it was given.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path().to_str().expect("its path is text");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {dir}/{name};\n"))
            .concat();
        let locations: String =
            [("lp", "longpoll"), ("poll", "intervalpoll"), ("ev", "eventsource"), ("ws", "websocket")]
                .map(|(path, mode)| {
                    format!("location ~ ^/{path}/(.*)$ {{ nchan_subscriber {mode}; nchan_channel_id $1; }}\n")
                })
                .concat();
        let config = format!(
            "load_module {MODULE};\npid {dir}/pid;\nerror_log {dir}/log;\ndaemon off;\nmaster_process off;\n\
             events {{ }}\nhttp {{\naccess_log off;\n{temporary}server {{\nlisten {free};\n\
             location /pub {{ nchan_publisher; nchan_channel_id $arg_id; }}\n{locations}}}\n}}\n"
        );
        std::fs::write(folder.path().join("conf"), config).expect("the configuration is written");
        let mut command = Command::new(NGINX);
        command.args(["-e", &format!("{dir}/log"), "-p", dir, "-c", &format!("{dir}/conf")]).stderr(Stdio::null());
        let child = command.spawn().expect("nginx starts");
        let nginx = Nginx { child, addr: free, _folder: folder };
        eventually("nginx listens", || TcpStream::connect(free).is_ok());
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Calls the client with both servers, and asserts that it comes to the same.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(client: impl Fn(SocketAddr) -> T) -> Option<T> {
    let nginx = Nginx::start()?;
    let face = Face::start("longpolling_connection_ttl_s = 60");
    let (ours, theirs) = (client(face.addr), client(nginx.addr));
    assert_eq!(ours, theirs, "ours on the left, nchan's on the right");
    Some(ours)
}

fn publish(addr: SocketAddr, text: &str) {
    let response = request(addr, "POST", "/pub?id=room", &[], text);
    assert!((200..300).contains(&response.status), "{response:?}");
}

fn get(addr: SocketAddr, target: &str, resume: &[(String, String)]) -> Response {
    let headers: Vec<(&str, &str)> = resume.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    request(addr, "GET", target, &headers, "")
}

fn beginning() -> Vec<(String, String)> {
    vec![("If-Modified-Since".into(), EPOCH.into()), ("If-None-Match".into(), "0".into())]
}

/// What a client sends back, as it was sent.
fn resume(response: &Response) -> Vec<(String, String)> {
    let header = |name: &str| response.header(name).unwrap_or_else(|| panic!("no {name} in {response:?}")).to_owned();
    vec![("If-Modified-Since".into(), header("last-modified")), ("If-None-Match".into(), header("etag"))]
}

/// All that polls bring, one after the other: how much an answer holds is each server's own business.
fn poll_all(addr: SocketAddr, target: &str, len: usize) -> String {
    let (mut all, mut headers) = (String::new(), beginning());
    while all.len() < len {
        let response = get(addr, target, &headers);
        assert_eq!(response.status, 200, "{response:?}");
        all.push_str(&response.body);
        headers = resume(&response);
    }
    all
}

#[test]
fn a_chain_of_long_polls() {
    let all = TEXTS.concat();
    let heard = same(|addr| {
        TEXTS.iter().for_each(|text| publish(addr, text));
        poll_all(addr, "/lp/room", all.len())
    });
    assert!(heard.is_none_or(|heard| heard == all));
}

#[test]
fn a_chain_of_short_polls_that_ends_with_304() {
    let all = TEXTS.concat();
    same(|addr| {
        TEXTS.iter().for_each(|text| publish(addr, text));
        let (mut heard, mut headers) = (String::new(), beginning());
        loop {
            let response = get(addr, "/poll/room", &headers);
            if response.status == 304 {
                break assert_eq!(heard, all);
            }
            heard.push_str(&response.body);
            headers = resume(&response);
        }
    });
}

#[test]
fn a_long_poll_that_waits() {
    same(|addr| {
        publish(addr, "before");
        let first = get(addr, "/lp/room", &beginning());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| get(addr, "/lp/room", &resume(&first)));
            publish(addr, "after");
            let response = waiting.join().expect("an answer");
            (response.status, response.body)
        })
    });
}

#[test]
fn a_stream_of_events() {
    same(|addr| {
        let mut stream = Stream::open(addr, "/ev/room", &[("Accept", "text/event-stream")]);
        assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
        let mut events = Vec::new();
        for text in TEXTS {
            publish(addr, text);
            events.push(event(&mut stream));
            assert_eq!(events.last().map(String::as_str), Some(text));
        }
        events
    });
}

/// The data of the next event, as a browser reads it.
fn event(stream: &mut Stream) -> String {
    let mut data = Vec::new();
    loop {
        let line = stream.take_to("\n");
        match line.trim_end_matches('\n') {
            "" if !data.is_empty() => return data.join("\n"),
            line => data.extend(line.strip_prefix("data: ").map(str::to_owned)),
        }
    }
}

#[test]
fn a_websocket() {
    same(|addr| {
        let mut socket = WebSocket::open(addr, "/ws/room", &[]).expect("a WebSocket");
        // Subscribed is who was sent something; where that begins is each server's own business.
        let heard = TEXTS.map(|text| {
            publish(addr, text);
            socket.frame().expect("a frame").text()
        });
        assert_eq!(heard, TEXTS);
        heard
    });
}
