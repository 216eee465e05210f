//! Server-Sent Events, read as the WHATWG's HTML standard says (§9.2.6 "Interpreting an event stream").

/// An event as a page would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `message` unless the stream says otherwise.
    pub event: String,
    pub data: String,
    /// The last id that the stream gave, whether with this event or before it.
    pub last_id: String,
}

/// The parser. Bytes go in as they come, however they are cut.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    data: String,
    event: String,
    last_id: String,
    /// Milliseconds, as the stream last said.
    pub retry_ms: Option<u64>,
    /// Comments, without their colon.
    pub comments: Vec<String>,
}

impl Parser {
    /// The events that these bytes complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            let ends_line = match byte {
                // The second half of a CRLF.
                b'\n' if std::mem::take(&mut self.after_cr) => continue,
                b'\n' | b'\r' => true,
                _ => false,
            };
            self.after_cr = *byte == b'\r';
            if ends_line {
                let line = String::from_utf8(std::mem::take(&mut self.line)).expect("a stream in UTF-8");
                events.extend(self.end_of_line(&line));
            } else {
                self.line.push(*byte);
            }
        }
        events
    }

    fn end_of_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" => self.comments.push(value.to_owned()),
            "event" => self.event = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.last_id = value.to_owned(),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => self.retry_ms = value.parse().ok(),
            other => panic!("a field that means nothing: {other:?}"),
        }
        None
    }

    fn dispatch(&mut self) -> Option<Event> {
        let (event, mut data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
        data.pop()?;
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Event { event, data, last_id: self.last_id.clone() })
    }
}
