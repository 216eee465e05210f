//! What is kept of a publication, and how it is written to a reader.
//!
//! An entry of a log is the object of `/sub` without a cursor; the cursor is put in front when it is sent, so that an entry is
//! written once, whoever reads it and wherever.

use bytes::Bytes;
use fanfare_hub::Publication;
use fanfare_proto::feed::{self, Message, RESERVED};

use super::cursor::Cursor;

/// How a reader is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A JSON object in each line.
    Lines,
    /// Server-Sent Events.
    Sse,
}

/// What is kept of a publication.
pub fn entry(channel: &str, publication: &Publication) -> Bytes {
    let mut out = Vec::with_capacity(96 + publication.event.len() + publication.data.len());
    let message = Message {
        channel,
        event: &publication.event,
        data: &publication.data,
        cursor: None,
        event_id: publication.event_id.as_deref(),
        user_id: None,
        time_ms: publication.time_ms,
    };
    feed::message(&mut out, &message);
    out.into()
}

impl Form {
    /// What answers in this form are.
    pub fn media_type(self) -> &'static str {
        match self {
            Form::Lines => "application/x-ndjson",
            Form::Sse => "text/event-stream; charset=utf-8",
        }
    }

    /// A publication.
    pub fn message(self, out: &mut Vec<u8>, cursor: Cursor, entry: &[u8]) {
        let id = cursor.to_string();
        let rest = entry.strip_prefix(b"{").unwrap_or(entry);
        let parts = [&b"{\"cursor\":\""[..], id.as_bytes(), b"\",", rest];
        match self {
            Form::Lines => {
                parts.into_iter().for_each(|part| out.extend_from_slice(part));
                out.push(b'\n');
            }
            Form::Sse => {
                out.extend_from_slice(format!("id: {id}\ndata: ").as_bytes());
                parts.into_iter().for_each(|part| out.extend_from_slice(part));
                out.extend_from_slice(b"\n\n");
            }
        }
    }

    /// Where the reader begins; whether that is behind what it had, if it said.
    pub fn subscribed(self, out: &mut Vec<u8>, cursor: Cursor, recovered: Option<bool>) {
        let recovered = recovered.map_or(String::new(), |recovered| format!(",\"recovered\":{recovered}"));
        self.control(out, "subscribed", Some(cursor), &recovered);
    }

    /// Something is missing; it goes on behind the cursor. How many entries that are, if they were counted.
    pub fn gap(self, out: &mut Vec<u8>, cursor: Cursor, missed: Option<u64>) {
        let missed = missed.map_or(String::new(), |missed| format!(",\"missed\":{missed}"));
        self.control(out, "gap", Some(cursor), &missed);
    }

    /// Nothing was for this reader since its last cursor, which may be forgotten for this one.
    pub fn cursor(self, out: &mut Vec<u8>, cursor: Cursor) {
        self.control(out, "cursor", Some(cursor), "");
    }

    /// The last words.
    pub fn closed(self, out: &mut Vec<u8>, reason: &str, reconnect: bool) {
        let mut object = Vec::new();
        feed::closed(&mut object, reason, reconnect);
        self.framed(out, "closed", None, &object);
    }

    /// There is nothing to say.
    pub fn heartbeat(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Form::Lines => b"\n",
            Form::Sse => b":\n\n",
        });
    }

    fn control(self, out: &mut Vec<u8>, name: &str, cursor: Option<Cursor>, more: &str) {
        let cursor_field = cursor.map_or(String::new(), |cursor| format!(",\"cursor\":\"{cursor}\""));
        let object = format!("{{\"event\":\"{RESERVED}{name}\"{cursor_field}{more}}}");
        self.framed(out, name, cursor, object.as_bytes());
    }

    fn framed(self, out: &mut Vec<u8>, name: &str, cursor: Option<Cursor>, object: &[u8]) {
        match self {
            Form::Lines => {
                out.extend_from_slice(object);
                out.push(b'\n');
            }
            Form::Sse => {
                let id = cursor.map(|cursor| cursor.to_string());
                let text = std::str::from_utf8(object).expect("JSON is text");
                feed::sse(out, id.as_deref(), &format!("{RESERVED}{name}"), text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURSOR: Cursor = Cursor { epoch: 1, number: 2 };

    #[test]
    fn a_publication_is_an_object_with_its_cursor_in_front() {
        let publication =
            Publication { event_id: Some("e-1".into()), time_ms: 5, ..Publication::event("\"said\"", "\"a\\nb\"") };
        let entry = entry("room", &publication);
        let expected = r#"{"cursor":"8QAAAAAAAAABAAAAAAAAAAI","channel":"room","event":"said","data":"a\nb","event_id":"e-1","time_ms":5}"#;
        let (mut lines, mut events) = (Vec::new(), Vec::new());
        Form::Lines.message(&mut lines, CURSOR, &entry);
        Form::Sse.message(&mut events, CURSOR, &entry);
        assert_eq!(String::from_utf8_lossy(&lines), format!("{expected}\n"));
        assert_eq!(String::from_utf8_lossy(&events), format!("id: 8QAAAAAAAAABAAAAAAAAAAI\ndata: {expected}\n\n"));
    }

    #[test]
    fn what_is_ours_is_named_so() {
        let mut out = Vec::new();
        Form::Lines.subscribed(&mut out, CURSOR, Some(true));
        Form::Lines.gap(&mut out, CURSOR, Some(7));
        Form::Lines.heartbeat(&mut out);
        Form::Lines.closed(&mut out, "over", false);
        let expected = "{\"event\":\"fanfare:subscribed\",\"cursor\":\"8QAAAAAAAAABAAAAAAAAAAI\",\"recovered\":true}\n\
                        {\"event\":\"fanfare:gap\",\"cursor\":\"8QAAAAAAAAABAAAAAAAAAAI\",\"missed\":7}\n\n\
                        {\"event\":\"fanfare:closed\",\"reason\":\"over\",\"reconnect\":false}\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
