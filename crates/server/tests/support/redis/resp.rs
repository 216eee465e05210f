//! The client's half of RESP2, one command at a time.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Int(i64),
    Text(String),
    Error(String),
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a text, an error or a number; of anything else none.
    pub fn text(&self) -> String {
        match self {
            Reply::Text(text) | Reply::Error(text) => text.clone(),
            Reply::Int(n) => n.to_string(),
            Reply::Nil | Reply::Array(_) => String::new(),
        }
    }

    /// The number.
    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            Reply::Int(n) => *n,
            other => other.text().parse().unwrap_or_else(|_| panic!("no number: {other:?}")),
        }
    }

    /// The entries of an array; of anything else none.
    pub fn array(&self) -> &[Reply] {
        match self {
            Reply::Array(entries) => entries,
            _ => &[],
        }
    }

    /// The texts of an array's entries.
    pub fn texts(&self) -> Vec<String> {
        self.array().iter().map(Reply::text).collect()
    }
}

/// A connection.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(addr: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Client(BufReader::new(stream)))
    }

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, words: &[&str]) -> Result<Reply> {
        self.send(words)?;
        self.read()
    }

    /// Sends a command alone.
    pub fn send(&mut self, words: &[&str]) -> Result<()> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(command.as_bytes())
    }

    /// The next answer, or what a subscription brings.
    pub fn read(&mut self) -> Result<Reply> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let broken = || Error::new(ErrorKind::InvalidData, format!("not RESP: {line:?}"));
        let (kind, rest) = line.split_at_checked(1).ok_or_else(broken)?;
        let number = || rest.parse::<i64>().map_err(|_| broken());
        Ok(match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(number()?),
            "$" => match usize::try_from(number()?) {
                Ok(len) => Reply::Text(self.bulk(len)?),
                Err(_) => Reply::Nil,
            },
            "*" => match usize::try_from(number()?) {
                Ok(len) => Reply::Array((0..len).map(|_| self.read()).collect::<Result<_>>()?),
                Err(_) => Reply::Nil,
            },
            _ => return Err(broken()),
        })
    }

    fn bulk(&mut self, len: usize) -> Result<String> {
        let mut bytes = vec![0; len + 2];
        self.0.read_exact(&mut bytes)?;
        bytes.truncate(len);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
