//! The parts of HTTP/1.1 that a client needs to hear: whole answers, endless ones, and the chunks that those come in.
//!
//! Strict where leniency would hide a server's fault: chunks must be framed to the letter, and an answer must say how long
//! it is. Chunks are taken out of their frames in place, byte by byte only at the frames.

use anyhow::{Context, Result, bail, ensure};

const HEADERS_MAX: usize = 64;
/// More digits than any chunk here has.
const SIZE_DIGITS_MAX: u8 = 7;

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
    pub etag: Option<&'a str>,
    pub last_modified: Option<&'a str>,
    pub recovered: Option<&'a str>,
}

/// Takes a whole answer from `bytes` at `at` and moves `at` behind it; `None` while it is incomplete.
pub fn next_answer<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<Answer<'a>>> {
    let rest = &bytes[*at..];
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = head.parse(rest).context("the answer is not HTTP/1.1")? else {
        return Ok(None);
    };
    let status = head.code.unwrap_or(0);
    let body_len = match status {
        204 | 304 => 0,
        _ => header(&head, "content-length")
            .and_then(|length| length.trim().parse::<usize>().ok())
            .context("an answer without Content-Length")?,
    };
    let Some(body) = rest[head_len..].get(..body_len) else {
        return Ok(None);
    };
    *at += head_len + body_len;
    let [etag, last_modified, recovered] =
        ["etag", "last-modified", "fanfare-recovered"].map(|name| header(&head, name));
    Ok(Some(Answer { status, body, etag, last_modified, recovered }))
}

fn header<'a>(head: &httparse::Response<'_, 'a>, name: &str) -> Option<&'a str> {
    let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok()
}

/// Checks that a head begins an endless answer in chunks.
pub fn check_stream(bytes: &[u8]) -> Result<()> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    head.parse(bytes).context("the answer is not HTTP/1.1")?;
    let granted = head.code == Some(200) && header(&head, "transfer-encoding") == Some("chunked");
    ensure!(granted, "the stream was refused: {}", String::from_utf8_lossy(bytes).trim_end());
    Ok(())
}

/// Where in a body of chunks the last byte was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunks(Place);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the line that tells a chunk's size: what it says so far.
    Size {
        value: usize,
        digits: u8,
    },
    /// Behind the carriage return of that line.
    SizeEnd {
        value: usize,
    },
    /// In a chunk that has so many bytes left.
    Data {
        left: usize,
    },
    /// In the line end behind a chunk's data; whether its carriage return has been.
    DataEnd {
        returned: bool,
    },
    /// Behind the empty chunk: how much of the last line end has been.
    Ending {
        seen: u8,
    },
    Ended,
}

impl Default for Place {
    fn default() -> Place {
        Place::Size { value: 0, digits: 0 }
    }
}

impl Chunks {
    pub fn have_ended(&self) -> bool {
        self.0 == Place::Ended
    }

    /// Moves the data of the chunks to the front of `bytes`; returns how much that is.
    pub fn unframe(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let (mut at, mut data) = (0, 0);
        while at < bytes.len() {
            if let Place::Data { left } = self.0 {
                let here = left.min(bytes.len() - at);
                bytes.copy_within(at..at + here, data);
                (at, data) = (at + here, data + here);
                self.0 =
                    if here == left { Place::DataEnd { returned: false } } else { Place::Data { left: left - here } };
            } else {
                self.0 = self.0.after(bytes[at])?;
                at += 1;
            }
        }
        Ok(data)
    }
}

impl Place {
    /// Where one byte of framing leads.
    fn after(self, byte: u8) -> Result<Place> {
        Ok(match (self, byte) {
            (Place::Size { value, digits }, _) if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS_MAX => {
                let digit = (byte as char).to_digit(16).expect("just checked") as usize;
                Place::Size { value: value * 16 + digit, digits: digits + 1 }
            }
            (Place::Size { value, digits: 1.. }, b'\r') => Place::SizeEnd { value },
            (Place::SizeEnd { value: 0 }, b'\n') => Place::Ending { seen: 0 },
            (Place::SizeEnd { value }, b'\n') => Place::Data { left: value },
            (Place::DataEnd { returned: false }, b'\r') => Place::DataEnd { returned: true },
            (Place::DataEnd { returned: true }, b'\n') => Place::default(),
            (Place::Ending { seen: 0 }, b'\r') => Place::Ending { seen: 1 },
            (Place::Ending { seen: 1 }, b'\n') => Place::Ended,
            _ => bail!("byte {byte:#04x} of chunked framing does not belong at {self:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"5\r\nhello\r\nA\r\n, chunked!\r\n1\r\n!\r\n0\r\n\r\n";

    /// What comes out when the bytes arrive in pieces of this size.
    fn unframed(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, bool)> {
        let (mut chunks, mut data) = (Chunks::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            let n = chunks.unframe(&mut piece)?;
            data.extend_from_slice(&piece[..n]);
        }
        Ok((data, chunks.have_ended()))
    }

    #[test]
    fn chunks_come_out_the_same_however_they_are_cut() {
        for piece in 1..=CHUNKED.len() {
            let (data, ended) = unframed(CHUNKED, piece).expect("legal");
            assert_eq!((data.as_slice(), ended), (&b"hello, chunked!!"[..], true), "in pieces of {piece}");
        }
        let unfinished = &CHUNKED[..CHUNKED.len() - 1];
        assert!(!unframed(unfinished, 3).expect("legal so far").1);
    }

    #[test]
    fn bad_framing_is_refused() {
        for bytes in
            ["\r\n", "5;a=b\r\n", "5\nhello", "2\r\nabc\r\n", "2\r\nab\n", "0\r\nTrailer: x\r\n", "x", "12345678\r\n"]
        {
            assert!(unframed(bytes.as_bytes(), 1).is_err(), "{bytes:?}");
        }
        assert!(unframed(b"0\r\n\r\nmore", 2).is_err());
    }

    #[test]
    fn answers_are_taken_one_by_one_and_only_whole() {
        let first = b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Length: 2\r\n\r\nhi".as_slice();
        let second = b"HTTP/1.1 304 Not Modified\r\nEtag: 0\r\nLast-Modified: then\r\n\r\n".as_slice();
        let bytes = [first, second].concat();
        for cut in 0..first.len() {
            assert_eq!(next_answer(&bytes[..cut], &mut 0).expect("legal so far"), None);
        }
        let mut at = 0;
        let answer = next_answer(&bytes, &mut at).expect("legal").expect("whole");
        assert_eq!(
            answer,
            Answer { status: 200, body: b"hi", etag: Some("\"a\""), last_modified: None, recovered: None }
        );
        let answer = next_answer(&bytes, &mut at).expect("legal").expect("whole");
        assert_eq!((answer.status, answer.etag, answer.last_modified), (304, Some("0"), Some("then")));
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn an_answer_without_a_length_is_refused() {
        assert!(next_answer(b"HTTP/1.1 200 OK\r\n\r\n", &mut 0).is_err());
    }

    #[test]
    fn only_an_endless_answer_is_a_stream() {
        assert!(check_stream(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_ok());
        assert!(check_stream(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err());
        let refusal = check_stream(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").expect_err("not 200");
        assert!(refusal.to_string().starts_with("the stream was refused: HTTP/1.1 403"));
    }
}
