//! One connection of a subscriber, by whatever transport. Where the other test clients fail the test, this one returns an
//! error: here, connections are meant to break.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{KEY, masked_frame, opcode, sse};

/// How long a server may take to answer a request, or to greet.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How a subscriber hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Sse,
    LongPoll,
    Plain,
    /// A Pusher socket with `?positions=1`.
    Positions,
    /// A Pusher socket as stock clients open it: it cannot resume.
    Stock,
}

pub const TRANSPORTS: [Transport; 5] =
    [Transport::Sse, Transport::LongPoll, Transport::Plain, Transport::Positions, Transport::Stock];

/// What a subscriber is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    Publication {
        channel: String,
        number: u64,
        sent_us: u64,
    },
    /// `None` for those who did not ask to resume.
    Subscribed {
        channel: String,
        recovered: Option<bool>,
    },
    /// Something may be missing here.
    Gap {
        channel: String,
    },
}

/// The connection.
pub struct Ear {
    line: Line,
    how: How,
    channels: Vec<String>,
    /// The place to come back to.
    pub cursor: Option<String>,
}

enum How {
    Sse { parser: sse::Parser },
    Frames,
    Poll { asked: bool },
}

impl Ear {
    /// Connects, and asks for the channels from this cursor on. Nothing was heard yet.
    pub fn open(addr: SocketAddr, transport: Transport, channels: &[String], cursor: Option<String>) -> Result<Ear> {
        let mut line = Line::open(addr)?;
        let since = cursor.as_ref().map_or(String::new(), |cursor| format!("&since={cursor}"));
        let sub = format!("/sub/{KEY}/{}?format=json{since}", channels.join("/"));
        let how = match transport {
            Transport::Sse => {
                line.get(&format!("{sub}&transport=sse"), "")?;
                line.expect_status(&["200"])?;
                line.chunked = true;
                How::Sse { parser: sse::Parser::default() }
            }
            Transport::LongPoll => How::Poll { asked: false },
            Transport::Plain => {
                line.upgrade(&format!("{sub}&transport=ws"))?;
                How::Frames
            }
            Transport::Positions => {
                line.upgrade(&format!("/app/{KEY}?protocol=7&positions=1"))?;
                line.say_all(channels, cursor.as_deref())?;
                How::Frames
            }
            Transport::Stock => {
                line.upgrade(&format!("/app/{KEY}?protocol=7"))?;
                line.say_all(channels, None)?;
                How::Frames
            }
        };
        Ok(Ear { line, how, channels: channels.to_vec(), cursor })
    }

    /// What was said next, perhaps nothing of interest. Silence for longer than `patience` is an error, as is the end.
    pub fn listen(&mut self, patience: Duration) -> Result<Vec<Word>> {
        let messages: Vec<_> = match &mut self.how {
            How::Sse { parser } => {
                let bytes = self.line.chunk(patience)?;
                parser.feed(&bytes).iter().map(|event| parsed(event.data.as_bytes())).collect::<Result<_>>()?
            }
            How::Frames => self.line.message(patience)?.into_iter().collect(),
            How::Poll { .. } => return self.poll(patience),
        };
        Ok(messages.into_iter().filter_map(|message| self.word(message)).collect())
    }

    /// A word for those messages that have one; remembers the place behind it.
    fn word(&mut self, message: Value) -> Option<Word> {
        let recovered = message["recovered"].as_bool();
        // What was missed follows the confirmation, and may yet be cut off.
        if let Some(cursor) = message["cursor"].as_str().filter(|_| recovered != Some(true)) {
            self.cursor = Some(cursor.to_owned());
        }
        let channel = message["channel"].as_str()?.to_owned();
        match message["event"].as_str()? {
            "fanfare:subscribed" | "pusher_internal:subscription_succeeded" => {
                Some(Word::Subscribed { channel, recovered })
            }
            "fanfare:gap" => Some(Word::Gap { channel }),
            "n" => {
                let mut numbers = message["data"].as_str()?.split(' ').map_while(|word| word.parse().ok());
                Some(Word::Publication { channel, number: numbers.next()?, sent_us: numbers.next()? })
            }
            _ => None,
        }
    }

    /// A poll that waits, behind one that says where to begin if that is not known.
    fn poll(&mut self, patience: Duration) -> Result<Vec<Word>> {
        let How::Poll { asked } = &mut self.how else { return Err(ErrorKind::Unsupported.into()) };
        let first = !std::mem::replace(asked, true);
        let waiting = if first { "poll" } else { "longpoll&wait=2" };
        let since = self.cursor.as_ref().map_or(String::new(), |cursor| format!("&since={cursor}"));
        let target = format!("/sub/{KEY}/{}?format=json&transport={waiting}{since}", self.channels.join("/"));
        self.line.get(&target, "")?;
        self.line.patience = patience.max(ANSWER_WITHIN);
        let head = self.line.expect_status(&["200", "304"])?;
        let body = self.line.body(&head)?;
        let mut answer = if body.is_empty() { json!({}) } else { parsed(&body)? };
        let recovered = answer["recovered"].as_bool();
        let mut words = Vec::new();
        if first || recovered == Some(false) {
            let subscribed = |channel: &String| Word::Subscribed { channel: channel.clone(), recovered };
            words.extend(self.channels.iter().map(subscribed));
        }
        if let Value::Array(messages) = answer["messages"].take() {
            words.extend(messages.into_iter().filter_map(|message| self.word(message)));
        }
        // The place behind all of them is the answer's.
        self.cursor = answer["cursor"].as_str().map(str::to_owned).or(self.cursor.take());
        Ok(words)
    }
}

fn parsed(text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).map_err(|error| broken(&format!("{error} in {:?}", String::from_utf8_lossy(text))))
}

fn broken(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

/// A socket, and what was received of it.
struct Line {
    stream: TcpStream,
    received: Vec<u8>,
    /// Whether what follows is a body in chunks.
    chunked: bool,
    patience: Duration,
}

impl Line {
    fn open(addr: SocketAddr) -> Result<Line> {
        let stream = TcpStream::connect_timeout(&addr, ANSWER_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        Ok(Line { stream, received: Vec::new(), chunked: false, patience: ANSWER_WITHIN })
    }

    fn get(&mut self, target: &str, more: &str) -> Result<()> {
        write!(self.stream, "GET {target} HTTP/1.1\r\nHost: fanfare.test\r\n{more}\r\n")
    }

    fn upgrade(&mut self, target: &str) -> Result<()> {
        let headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        self.get(target, headers)?;
        self.expect_status(&["101"]).map(drop)
    }

    fn say_all(&mut self, channels: &[String], cursor: Option<&str>) -> Result<()> {
        channels.iter().try_for_each(|channel| {
            let mut data = json!({"channel": channel});
            if let Some(cursor) = cursor {
                data["since"] = cursor.into();
            }
            self.say(opcode::TEXT, json!({"event": "pusher:subscribe", "data": data}).to_string().as_bytes())
        })
    }

    fn say(&mut self, opcode: u8, payload: &[u8]) -> Result<()> {
        self.stream.write_all(&masked_frame(0x80 | opcode, payload))
    }

    /// Reads a head, which must begin with one of these statuses.
    fn expect_status(&mut self, wanted: &[&str]) -> Result<String> {
        let head = self.take_until(b"\r\n\r\n")?;
        let head = String::from_utf8(head).map_err(|_| broken("a head in UTF-8"))?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap_or_default();
        if wanted.contains(&status) { Ok(head) } else { Err(broken(&head)) }
    }

    fn body(&mut self, head: &str) -> Result<Vec<u8>> {
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        if header("transfer-encoding") == Some("chunked") {
            let mut body = Vec::new();
            loop {
                match self.take_chunk()? {
                    part if part.is_empty() => return Ok(body),
                    part => body.extend(part),
                }
            }
        }
        let len = header("content-length").map_or(Some(0), |len| len.trim().parse().ok());
        self.take(len.ok_or_else(|| broken(head))?)
    }

    /// The next chunk of a body that must not end.
    fn chunk(&mut self, patience: Duration) -> Result<Vec<u8>> {
        self.patience = patience;
        let chunk = self.take_chunk()?;
        if chunk.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(chunk) }
    }

    fn take_chunk(&mut self) -> Result<Vec<u8>> {
        let line = self.take_until(b"\r\n")?;
        let size = std::str::from_utf8(&line).ok().and_then(|line| usize::from_str_radix(line.trim(), 16).ok());
        let size = size.ok_or_else(|| broken("a chunk's size"))?;
        let mut chunk = self.take(size + 2)?;
        chunk.truncate(size);
        Ok(chunk)
    }

    /// The next message of a WebSocket; pings of both kinds are answered.
    fn message(&mut self, patience: Duration) -> Result<Option<Value>> {
        self.patience = patience;
        let head = self.take(2)?;
        let len = match head[1] {
            126 => self.take(2)?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)),
            127 => self.take(8)?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)),
            len => usize::from(len),
        };
        let payload = self.take(len)?;
        match head[0] & 0x0f {
            opcode::TEXT => {
                let message = parsed(&payload)?;
                if message["event"] == "pusher:ping" {
                    self.say(opcode::TEXT, br#"{"event":"pusher:pong","data":{}}"#)?;
                }
                Ok(Some(message))
            }
            opcode::PING => self.say(opcode::PONG, &payload).map(|()| None),
            opcode::CLOSE => Err(Error::new(ErrorKind::ConnectionReset, format!("closed: {payload:?}"))),
            _ => Ok(None),
        }
    }

    fn take_until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                return self.take(at + end.len());
            }
            self.more()?;
        }
    }

    fn take(&mut self, len: usize) -> Result<Vec<u8>> {
        while self.received.len() < len {
            self.more()?;
        }
        Ok(self.received.drain(..len).collect())
    }

    /// Receives something within the patience that there is.
    fn more(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        let mut piece = [0; 16 << 10];
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.received.extend_from_slice(&piece[..read]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
