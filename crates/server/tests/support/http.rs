//! HTTP/1.1, one request for each connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use fanfare_proto::sign::sign_query;
use serde_json::Value;

use super::{KEY, PATIENCE, SECRET, now_s};

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, which is text wherever tests look at it.
    pub body: String,
}

impl Response {
    /// The first header of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|header| header.0 == name);
        header.map(|header| header.1.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in the body of {self:?}"))
    }

    /// Asserts the status and the body, as JSON.
    #[track_caller]
    pub fn expect(&self, status: u16, body: &str) {
        let wanted: Value = serde_json::from_str(body).expect("the test expects JSON");
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.json(), wanted);
    }

    /// Reads head and body; `leftover` gets what follows a head without a length, when that is an upgrade's.
    pub fn read(stream: &mut TcpStream, leftover: &mut Vec<u8>) -> Self {
        let mut bytes = Vec::new();
        let head_len = loop {
            if let Some(at) = find(&bytes, b"\r\n\r\n") {
                break at + 4;
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) => panic!("closed within a head: {:?}", String::from_utf8_lossy(&bytes)),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                // A process that was stopped for a while.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("an answer in time: {error}"),
            }
        };
        let rest = bytes.split_off(head_len);
        let mut response = Self::head(&bytes);
        if response.status == 101 {
            *leftover = rest;
        } else {
            response.body = response.read_body(stream, rest);
        }
        response
    }

    /// Reads a head that is whole.
    pub fn head(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).expect("a head in UTF-8");
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Self {
            status: status.expect("a status line"),
            headers: lines.filter_map(header).collect(),
            body: String::new(),
        }
    }

    fn read_body(&self, stream: &mut TcpStream, mut bytes: Vec<u8>) -> String {
        let length = self.header("content-length");
        match length.map(|length| length.parse::<usize>().expect("a length")) {
            Some(length) => {
                let mut rest = vec![0; length.saturating_sub(bytes.len())];
                stream.read_exact(&mut rest).expect("the whole body");
                bytes.extend_from_slice(&rest);
            }
            None if self.status == 204 || self.status == 304 => {}
            None => _ = stream.read_to_end(&mut bytes).expect("the whole body"),
        }
        if self.header("transfer-encoding") == Some("chunked") {
            bytes = unchunked(&bytes);
        }
        String::from_utf8(bytes).expect("a body in UTF-8")
    }
}

/// A connection that gives up after [`PATIENCE`].
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("the server accepts");
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(PATIENCE)).expect("a time-out can be set");
    }
    stream.set_nodelay(true).expect("nodelay can be set");
    stream
}

/// Sends a request on a connection of its own and reads the answer.
pub fn request(addr: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let mut stream = connect(addr);
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = match method {
        "GET" | "HEAD" | "OPTIONS" if body.is_empty() => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let text = format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{length}{more}\r\n{body}");
    stream.write_all(text.as_bytes()).expect("the request is sent");
    Response::read(&mut stream, &mut Vec::new())
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(line) = find(bytes, b"\r\n") {
        let size = std::str::from_utf8(&bytes[..line]).expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        let start = line + 2;
        whole.extend_from_slice(&bytes[start..start + size]);
        bytes = &bytes[start + size + 2..];
    }
    whole
}

/// Where something first stands.
pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The answer to a signed `POST`: its status, and its body as JSON. None, if the server ends before it has given one.
pub fn try_post(to: SocketAddr, path: &str, body: &Value) -> Option<(u16, Value)> {
    let body = body.to_string();
    let query = sign_query(SECRET.as_bytes(), KEY, "POST", path, &[], body.as_bytes(), now_s());
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let head =
        format!("POST {path}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}", body.len());
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}
