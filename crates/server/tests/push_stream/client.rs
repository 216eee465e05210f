//! A subscriber that reads an answer without end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Face;
use crate::support::{SILENCE, connect};

/// An answer that goes on.
pub struct Stream {
    stream: TcpStream,
    /// Status line and headers, in lower case.
    pub head: String,
    raw: Vec<u8>,
    /// What has been read of the body and not been expected yet.
    pub body: String,
    ended: bool,
}

impl Face {
    /// Subscribes and reads the head.
    pub fn stream(&self, target: &str, headers: &[(&str, &str)]) -> Stream {
        Stream::open(self.addr, target, headers)
    }
}

impl Stream {
    /// Sends the request and reads the head.
    pub fn open(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Stream {
        let mut stream = connect(addr);
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).expect("the request is sent");
        let mut stream = Stream { stream, head: String::new(), raw: Vec::new(), body: String::new(), ended: false };
        let end = loop {
            if let Some(end) = stream.raw.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            assert!(stream.read(), "closed within the head");
        };
        let rest = stream.raw.split_off(end + 4);
        stream.head = String::from_utf8(std::mem::replace(&mut stream.raw, rest)).expect("a head").to_lowercase();
        stream.unchunk();
        stream
    }

    /// Asserts that this comes next.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        while self.body.len() < text.len() && !self.ended && self.read() {
            self.unchunk();
        }
        let next: String = self.body.chars().take(text.chars().count()).collect();
        assert_eq!(next, text, "in {:?}", self.body);
        self.body.drain(..text.len());
    }

    /// Takes what comes next up to and with this.
    #[track_caller]
    pub fn take_to(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.body.find(end) {
                return self.body.drain(..at + end.len()).collect();
            }
            assert!(!self.ended && self.read(), "closed before {end:?}: {:?}", self.body);
            self.unchunk();
        }
    }

    /// Asserts that the answer ends here.
    #[track_caller]
    pub fn expect_end(&mut self) {
        while !self.ended && self.read() {
            self.unchunk();
        }
        assert_eq!(self.body, "", "nothing but the end");
        assert!(self.ended, "the last chunk came");
    }

    /// Asserts that nothing comes for a while.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.stream.set_read_timeout(Some(SILENCE)).expect("a time-out can be set");
        let read = self.stream.read(&mut [0; 64]);
        assert!(read.is_err() && self.body.is_empty(), "expected nothing, found {read:?} and {:?}", self.body);
        self.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out can be set");
    }

    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let n = self.stream.read(&mut bytes).expect("more of the answer in time");
        self.raw.extend_from_slice(&bytes[..n]);
        n > 0
    }

    /// Takes the chunks that are whole; without chunks, everything.
    fn unchunk(&mut self) {
        if !self.head.contains("transfer-encoding: chunked") {
            let bytes = std::mem::take(&mut self.raw);
            return self.body.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
        while let Some(line) = self.raw.windows(2).position(|bytes| bytes == b"\r\n") {
            let size = std::str::from_utf8(&self.raw[..line]).expect("a chunk's size");
            let size = usize::from_str_radix(size, 16).expect("a chunk's size");
            let end = line + 2 + size + 2;
            if self.raw.len() < end {
                return;
            }
            self.ended |= size == 0;
            self.body.push_str(std::str::from_utf8(&self.raw[line + 2..line + 2 + size]).expect("text"));
            self.raw.drain(..end);
        }
    }
}
