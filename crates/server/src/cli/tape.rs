//! A recording: what was published to some channels, and when, as lines of JSON.
//!
//! ```text
//! {"fanfare_recording":1,"began_ms":1700000000000}                     the first line
//! {"at_ms":0,"channel":"news","event":"headline","data":"…"}           one for each message, from the first one on
//! {"end":true,"messages":1,"gaps":0}                                   the last line, unless the recorder was killed
//! ```
//!
//! Always true: a line reaches the file whole, in one write. So all that a crash can do is to leave out the end.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

/// The version of the format.
const VERSION: u32 = 1;

/// More than any line that a server could have sent, and little enough to hold.
const LINE_BYTES_MAX: usize = 64 << 20;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    fanfare_recording: u32,
    began_ms: u64,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When it was published, from the first one on.
    pub at_ms: u64,
    /// Where.
    pub channel: String,
    /// Its name.
    pub event: String,
    /// As it was published.
    pub data: String,
    /// The publisher's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: bool,
    messages: u64,
    gaps: u64,
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    /// It cannot be read at all.
    #[error("line {line}: {source}")]
    Unreadable {
        /// Counted from 1.
        line: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line that is not what it should be: somebody changed it, or a copy of it broke off.
    #[error("line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What was expected there, or found.
        why: String,
    },
}

/// Writes a recording.
pub struct Recorder<W> {
    to: W,
    messages: u64,
    gaps: u64,
}

impl<W: Write> Recorder<W> {
    /// Begins one.
    pub fn begin(to: W, began_ms: u64) -> std::io::Result<Recorder<W>> {
        let mut recorder = Recorder { to, messages: 0, gaps: 0 };
        recorder.line(&Head { fanfare_recording: VERSION, began_ms })?;
        Ok(recorder)
    }

    /// Adds a message.
    pub fn add(&mut self, entry: &Entry) -> std::io::Result<()> {
        self.messages += 1;
        self.line(entry)
    }

    /// Counts a place where messages may be missing.
    pub fn gap(&mut self) {
        self.gaps += 1;
    }

    /// Messages and gaps so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.messages, self.gaps)
    }

    /// Ends it.
    pub fn end(mut self) -> std::io::Result<()> {
        self.line(&End { end: true, messages: self.messages, gaps: self.gaps })
    }

    fn line(&mut self, line: &impl Serialize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line).expect("strings and numbers are JSON");
        text.push(b'\n');
        self.to.write_all(&text)?;
        self.to.flush()
    }
}

/// Reads a recording, line by line.
pub struct Tape<R> {
    from: R,
    line: u64,
    text: Vec<u8>,
    messages: u64,
    ended: Option<End>,
}

/// What is in a recording.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Messages.
    pub messages: u64,
    /// Places where messages may be missing.
    pub gaps: u64,
    /// When the last message was published.
    pub length_ms: u64,
    /// Whether it was ended, and not broken off.
    pub ended: bool,
}

impl Tape<BufReader<File>> {
    /// Opens a file.
    pub fn open(file: &Path) -> Result<Self, Damaged> {
        let file = File::open(file).map_err(|source| Damaged::Unreadable { line: 1, source })?;
        Tape::begin(BufReader::new(file))
    }
}

impl<R: BufRead> Tape<R> {
    /// Reads the first line.
    pub fn begin(from: R) -> Result<Self, Damaged> {
        let mut tape = Tape { from, line: 0, text: Vec::new(), messages: 0, ended: None };
        let head = match tape.advance()? {
            true => serde_json::from_slice::<Head>(&tape.text).ok(),
            false => None,
        };
        tape.line = 1;
        match head {
            Some(Head { fanfare_recording: VERSION, .. }) => Ok(tape),
            Some(Head { fanfare_recording, .. }) => {
                Err(tape.wrong(format!("a recording of version {fanfare_recording}; this knows version {VERSION}")))
            }
            None => Err(tape.wrong("not a recording: expected {\"fanfare_recording\":1,…}")),
        }
    }

    /// The next message; `None`: there are no more.
    pub fn next(&mut self) -> Result<Option<Entry>, Damaged> {
        if !self.advance()? {
            return Ok(None);
        }
        if self.ended.is_some() {
            return Err(self.wrong("something follows the end"));
        }
        let entry = match serde_json::from_slice::<Entry>(&self.text) {
            Ok(entry) => entry,
            Err(error) => {
                let end = serde_json::from_slice::<End>(&self.text).map_err(|_| self.wrong(no_message(&error)))?;
                if end.messages != self.messages {
                    let why = format!("there should be {} messages before, found {}", end.messages, self.messages);
                    return Err(self.wrong(why));
                }
                self.ended = Some(end);
                return self.next();
            }
        };
        self.messages += 1;
        Ok(Some(entry))
    }

    /// Reads all of it, so that damage is found before anything is published.
    pub fn survey(mut self) -> Result<Survey, Damaged> {
        let mut survey = Survey::default();
        while let Some(entry) = self.next()? {
            survey.messages += 1;
            survey.length_ms = survey.length_ms.max(entry.at_ms);
        }
        survey.ended = self.ended.is_some();
        survey.gaps = self.ended.map_or(0, |end| end.gaps);
        Ok(survey)
    }

    /// Reads a line; `false`: there is none.
    fn advance(&mut self) -> Result<bool, Damaged> {
        self.text.clear();
        self.line += 1;
        let limit = LINE_BYTES_MAX as u64;
        let read = std::io::Read::take(&mut self.from, limit).read_until(b'\n', &mut self.text);
        let read = read.map_err(|source| Damaged::Unreadable { line: self.line, source })?;
        if read > 0 && self.text.pop() != Some(b'\n') {
            return Err(self.wrong("it breaks off"));
        }
        Ok(read > 0)
    }

    fn wrong(&self, why: impl Into<String>) -> Damaged {
        Damaged::Line { line: self.line, why: why.into() }
    }
}

/// The parser's own line is always 1.
fn no_message(error: &serde_json::Error) -> String {
    let words = error.to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    format!("no message: {words}, at byte {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at_ms: u64, data: &str) -> Entry {
        Entry { at_ms, channel: "news".to_owned(), event: "said".to_owned(), data: data.to_owned(), event_id: None }
    }

    fn recorded() -> String {
        let mut text = Vec::new();
        let mut recorder = Recorder::begin(&mut text, 1_700_000_000_000).expect("a Vec takes all");
        for (at_ms, data) in [(0, "{\"a\":1}"), (40, "line\nbreak"), (25, "ü")] {
            recorder.add(&entry(at_ms, data)).expect("a Vec takes all");
        }
        recorder.gap();
        recorder.end().expect("a Vec takes all");
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    fn refused(text: &str) -> String {
        let tape = Tape::begin(text.as_bytes());
        tape.and_then(Tape::survey).expect_err("it is damaged").to_string()
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let text = recorded();
        assert_eq!(text.lines().next(), Some(r#"{"fanfare_recording":1,"began_ms":1700000000000}"#));
        assert_eq!(text.lines().nth(1), Some(r#"{"at_ms":0,"channel":"news","event":"said","data":"{\"a\":1}"}"#));
        let mut tape = Tape::begin(text.as_bytes()).expect("sound");
        let mut read = Vec::new();
        while let Some(entry) = tape.next().expect("sound") {
            read.push(entry);
        }
        assert_eq!(read, [entry(0, "{\"a\":1}"), entry(40, "line\nbreak"), entry(25, "ü")]);
        let survey = Tape::begin(text.as_bytes()).and_then(Tape::survey).expect("sound");
        assert_eq!(survey, Survey { messages: 3, gaps: 1, length_ms: 40, ended: true });
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let text = recorded();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        assert_eq!(refused(""), "line 1: not a recording: expected {\"fanfare_recording\":1,…}");
        assert_eq!(refused(&lines[1..].concat()), "line 1: not a recording: expected {\"fanfare_recording\":1,…}");
        assert_eq!(
            refused(&text.replace("recording\":1", "recording\":2")),
            "line 1: a recording of version 2; this knows version 1"
        );
        assert_eq!(refused(&text[..text.len() - 20]), "line 5: it breaks off");
        assert_eq!(
            refused(&[lines[0], lines[1], lines[3], lines[4]].concat()),
            "line 4: there should be 3 messages before, found 2"
        );
        assert_eq!(refused(&format!("{text}{}", lines[1])), "line 6: something follows the end");
        let wrong = refused(&text.replace("\"event\":\"said\",\"data\":\"line", "\"event\":7,\"data\":\"line"));
        assert_eq!(wrong, "line 3: no message: invalid type: integer `7`, expected a string, at byte 38");
        assert!(refused(&text.replace("\"data\":\"ü\"", "")).starts_with("line 4: no message: "));
    }

    #[test]
    fn a_recording_that_was_killed_lacks_its_end_only() {
        let text = recorded();
        let killed: String = text.split_inclusive('\n').take(3).collect();
        let survey = Tape::begin(killed.as_bytes()).and_then(Tape::survey).expect("sound");
        assert_eq!(survey, Survey { messages: 2, gaps: 0, length_ms: 40, ended: false });
    }
}
