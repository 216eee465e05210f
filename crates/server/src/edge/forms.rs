//! The forms in which this node's subscribers take their messages, and the encoder behind them.
//!
//! Always true: a form is a function of the publication alone, so that its bytes are made once and serve every subscriber;
//! what differs between readers (request heads, allowed origins) is written before it.
//!
//! Not here: when anything is sent (`desk`, `pusher`, `feed`).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::publication::{PusherForms, deflated_frame};
use fanfare_hub::{Encode, Form, Frames, Kind};
use fanfare_proto::feed::{self, Message};
use fanfare_proto::{server, ws, xhr};

use super::envelope::Envelope;

/// Pusher messages with a cursor, as `?positions=1` asks for.
pub const POSITIONED: Form = Form(2);
/// The same, compressed where that pays.
pub const POSITIONED_DEFLATED: Form = Form(3);

/// The form of a Pusher connection.
pub fn pusher_form(envelope: Envelope, positions: bool, deflate: bool) -> Form {
    if envelope == Envelope::Line {
        return if positions { POSITIONED_LINES } else { LINES };
    }
    match (positions, deflate) {
        (false, false) => Form::TEXT,
        (false, true) => Form::DEFLATED,
        (true, false) => POSITIONED,
        (true, true) => POSITIONED_DEFLATED,
    }
}

/// The number of the first form that [`feed_form`] makes.
const FEED: u8 = 4;
const FRAMINGS: u8 = 7;

/// Pusher messages for clients without a WebSocket.
const LINES: Form = Form(FEED + 2 * FRAMINGS);
/// The same with a cursor.
const POSITIONED_LINES: Form = Form(LINES.0 + 1);

const FORMS: u8 = LINES.0 + 2;

/// How a subscriber of `/sub` is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Framing {
    /// WebSocket text frames.
    Socket,
    /// The same, compressed where that pays.
    SocketDeflated,
    /// Server-Sent Events, each in a chunk.
    SseChunked,
    /// Server-Sent Events.
    Sse,
    /// Lines, each in a chunk.
    LinesChunked,
    /// Lines.
    Lines,
    /// What the answers to a long-poll have in common: see [`Part`].
    Answer,
}

/// What is said of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    /// The payload alone.
    Raw,
    /// A JSON object around it.
    Json,
}

/// The form of a subscriber of `/sub`.
pub fn feed_form(framing: Framing, format: Format) -> Form {
    Form(FEED + 2 * framing as u8 + format as u8)
}

/// Every form of this node.
pub struct Forms {
    pusher: PusherForms,
}

impl Forms {
    /// Messages of fewer than `deflate_bytes_min` bytes are never compressed.
    pub fn new(deflate_bytes_min: usize) -> Self {
        Forms { pusher: PusherForms { deflate_bytes_min } }
    }

    fn positioned(&self, frames: &Frames, deflated: bool) -> Bytes {
        if frames.publication().kind == Kind::Unaddressed {
            return frames.bytes(if deflated { Form::DEFLATED } else { Form::TEXT }).clone();
        }
        if deflated {
            let text = positioned_text(frames);
            let deflated = deflated_frame(&text, self.pusher.deflate_bytes_min);
            return deflated.unwrap_or_else(|| frames.bytes(POSITIONED).clone());
        }
        ws::text_frame(&positioned_text(frames)).into()
    }

    fn feed(&self, frames: &Frames, framing: Framing, format: Format) -> Bytes {
        if !matches!(frames.publication().kind, Kind::Event | Kind::Presence { .. } | Kind::Gap) {
            return Bytes::new();
        }
        let form = |framing| feed_form(framing, format);
        match framing {
            Framing::Socket => ws::text_frame(&item(frames, format)).into(),
            Framing::SocketDeflated => {
                let deflated = deflated_frame(&item(frames, format), self.pusher.deflate_bytes_min);
                deflated.unwrap_or_else(|| frames.bytes(form(Framing::Socket)).clone())
            }
            Framing::SseChunked => chunked(frames.bytes(form(Framing::Sse))),
            Framing::Sse => sse(frames, format).into(),
            Framing::LinesChunked => chunked(frames.bytes(form(Framing::Lines))),
            Framing::Lines => {
                let mut line = item(frames, format);
                line.push(b'\n');
                line.into()
            }
            Framing::Answer => match format {
                Format::Raw => raw_part(frames, cursor(frames).as_deref(), recovered(frames)).into(),
                Format::Json => json_part(std::iter::once(frames), cursor(frames).as_deref(), recovered(frames)).into(),
            },
        }
    }
}

impl Encode for Forms {
    fn forms(&self) -> usize {
        usize::from(FORMS)
    }

    fn encode(&self, form: Form, frames: &Frames) -> Bytes {
        if frames.is_gap() && !takes_gaps(form, frames) {
            return Bytes::new();
        }
        match form {
            Form::TEXT | Form::DEFLATED => self.pusher.encode(form, frames),
            LINES => line(&frames.publication().text(frames.key().name())),
            POSITIONED_LINES => line(&positioned_text(frames)),
            POSITIONED => self.positioned(frames, false),
            POSITIONED_DEFLATED => self.positioned(frames, true),
            Form(number) => {
                let (framing, format) = of_feed(number);
                self.feed(frames, framing, format)
            }
        }
    }

    fn join(&self, form: Form, frames: &[Arc<Frames>]) -> Bytes {
        if form == feed_form(Framing::Answer, Format::Json) {
            let newest = frames.iter().rev().find_map(|frames| cursor(frames));
            return json_part(frames.iter().map(|frames| &**frames), newest.as_deref(), None).into();
        }
        if form == feed_form(Framing::Answer, Format::Raw) {
            // One payload is one answer; the poller asks for the next.
            return frames[0].bytes(form).clone();
        }
        let mut out = Vec::with_capacity(frames.iter().map(|frames| frames.bytes(form).len()).sum());
        frames.iter().for_each(|frames| out.extend_from_slice(frames.bytes(form)));
        out.into()
    }
}

/// Whether a gap can be told in this form. Stock clients know no such message; and nobody asked in so many words for a
/// channel that begins with '#'.
fn takes_gaps(form: Form, frames: &Frames) -> bool {
    !matches!(form, Form::TEXT | Form::DEFLATED | LINES) && !frames.key().name().starts_with('#')
}

/// What an answer that a gap ends says of what was missed.
fn recovered(frames: &Frames) -> Option<bool> {
    frames.is_gap().then_some(false)
}

fn of_feed(number: u8) -> (Framing, Format) {
    let framing = match (number - FEED) / 2 {
        0 => Framing::Socket,
        1 => Framing::SocketDeflated,
        2 => Framing::SseChunked,
        3 => Framing::Sse,
        4 => Framing::LinesChunked,
        5 => Framing::Lines,
        _ => Framing::Answer,
    };
    (framing, if (number - FEED).is_multiple_of(2) { Format::Raw } else { Format::Json })
}

fn line(message: &[u8]) -> Bytes {
    xhr::message_frame(message).into()
}

fn chunked(bytes: &Bytes) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 12);
    feed::chunk(&mut out, bytes);
    out.into()
}

fn positioned_text(frames: &Frames) -> Vec<u8> {
    let publication = frames.publication();
    let mut out = publication.text(frames.key().name());
    server::positioned(&mut out, cursor(frames).as_deref(), publication.event_id.as_deref());
    out
}

/// Where to resume after a publication, as text.
pub fn cursor(frames: &Frames) -> Option<String> {
    frames.mark().map(|mark| mark.cursor(frames.key()).to_string())
}

/// The payload, or the object around it.
fn item(frames: &Frames, format: Format) -> Vec<u8> {
    match format {
        // An event of our own is an object in both.
        Format::Raw if !frames.is_gap() => payload(frames).into_owned().into_bytes(),
        _ => {
            let mut out = Vec::with_capacity(160 + frames.publication().data.len());
            object(&mut out, frames);
            out
        }
    }
}

fn object(out: &mut Vec<u8>, frames: &Frames) {
    let publication = frames.publication();
    let cursor = cursor(frames);
    let message = Message {
        channel: frames.key().name(),
        event: event_token(frames),
        data: &publication.data,
        cursor: cursor.as_deref(),
        event_id: publication.event_id.as_deref(),
        user_id: publication.user_id.as_deref(),
        time_ms: publication.time_ms,
    };
    feed::message(out, &message);
}

fn event_token(frames: &Frames) -> &str {
    let event = &frames.publication().event;
    feed::public_name(event).unwrap_or(event)
}

fn payload(frames: &Frames) -> Cow<'_, str> {
    unescaped(&frames.publication().data)
}

/// The text in a JSON string token.
pub fn unescaped(token: &str) -> Cow<'_, str> {
    match token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        // A lone surrogate has no text; what stands there then is the token itself.
        _ => serde_json::from_str(token).map_or(Cow::Borrowed(token), Cow::Owned),
    }
}

fn sse(frames: &Frames, format: Format) -> Vec<u8> {
    let mut out = Vec::with_capacity(160 + frames.publication().data.len());
    let (id, event) = (cursor(frames), unescaped(event_token(frames)));
    match format {
        Format::Raw if !frames.is_gap() => feed::sse(&mut out, id.as_deref(), &event, &payload(frames)),
        _ => {
            let object = item(frames, Format::Json);
            feed::sse(&mut out, id.as_deref(), &event, std::str::from_utf8(&object).expect("JSON is text"));
        }
    }
    out
}

/// What the answers to several pollers have in common: where they stand now, as far as the messages tell; head fields; and
/// the body, of which an object's beginning is each reader's own, as that says where it stands in all of its channels.
///
/// As bytes: a line that is the cursor or empty, the fields, an empty line, the body.
pub struct Part<'a> {
    /// The cursor of the newest message, if that has one.
    pub cursor: Option<&'a str>,
    /// Head fields, each with its line's end.
    pub fields: &'a [u8],
    /// The body, or the rest of it.
    pub body: &'a [u8],
}

impl<'a> Part<'a> {
    /// Reads what [`raw_part`] or [`json_part`] made.
    pub fn read(bytes: &'a [u8]) -> Part<'a> {
        let line = memchr::memmem::find(bytes, LINE_END).expect("a part begins with a line");
        let cursor = std::str::from_utf8(&bytes[..line]).expect("cursors are text");
        let rest = &bytes[line + LINE_END.len()..];
        let end = memchr::memmem::find(rest, b"\r\n\r\n").expect("an empty line ends a part's fields") + LINE_END.len();
        let (fields, body) = (&rest[..end], &rest[end + LINE_END.len()..]);
        Part { cursor: Some(cursor).filter(|cursor| !cursor.is_empty()), fields, body }
    }
}

const LINE_END: &[u8] = b"\r\n";

fn begin_part(cursor: Option<&str>, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity + 320);
    out.extend_from_slice(cursor.unwrap_or_default().as_bytes());
    out.extend_from_slice(LINE_END);
    out
}

/// One payload, with all that is known of it in fields.
pub fn raw_part(frames: &Frames, cursor: Option<&str>, recovered: Option<bool>) -> Vec<u8> {
    let publication = frames.publication();
    let body = payload(frames);
    let media_type = publication.content_type.as_deref().unwrap_or("text/plain; charset=utf-8");
    let mut out = begin_part(cursor, body.len());
    header(&mut out, "Content-Type", media_type);
    header(&mut out, "Fanfare-Event", &unescaped(event_token(frames)));
    if let Some(id) = publication.event_id.as_deref() {
        header(&mut out, "Fanfare-Event-Id", id);
    }
    recovered_header(&mut out, recovered);
    out.extend_from_slice(LINE_END);
    out.extend_from_slice(body.as_bytes());
    out
}

/// All of these as one object, but for its beginning: see [`json_beginning`]. `cursor` is where the reader stands then;
/// `recovered` is told to those who asked to resume.
pub fn json_part<'a>(
    frames: impl Iterator<Item = &'a Frames>,
    cursor: Option<&str>,
    recovered: Option<bool>,
) -> Vec<u8> {
    let mut out = begin_part(cursor, 0);
    header(&mut out, "Content-Type", "application/json");
    recovered_header(&mut out, recovered);
    out.extend_from_slice(LINE_END);
    out.extend_from_slice(br#""messages":["#);
    for (index, frames) in frames.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        object(&mut out, frames);
    }
    out.push(b']');
    if let Some(recovered) = recovered {
        out.extend_from_slice(format!(r#","recovered":{recovered}"#).as_bytes());
    }
    out.push(b'}');
    out
}

/// What precedes a [`json_part`]'s body.
pub fn json_beginning(cursor: Option<&str>) -> String {
    cursor.map_or_else(|| "{".to_owned(), |cursor| format!(r#"{{"cursor":"{cursor}","#))
}

/// `Fanfare-Recovered`, for those who asked to resume.
pub fn recovered_header(out: &mut Vec<u8>, recovered: Option<bool>) {
    if let Some(recovered) = recovered {
        header(out, "Fanfare-Recovered", if recovered { "true" } else { "false" });
    }
}

/// `ETag` and `Fanfare-Cursor`, both the cursor.
pub fn cursor_headers(out: &mut Vec<u8>, cursor: Option<&str>) {
    if let Some(cursor) = cursor {
        header(out, "ETag", &format!("\"{cursor}\""));
        header(out, "Fanfare-Cursor", cursor);
    }
}

/// A header field. Whatever could end it early is left out.
pub fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().filter(|byte| *byte >= b' ' && *byte != 0x7f));
    out.extend_from_slice(b"\r\n");
}

/// The end of a head, and a body.
pub fn finish(out: &mut Vec<u8>, body: &[u8]) {
    header(out, "Content-Length", &body.len().to_string());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use fanfare_hub::{ChannelKey, Mark, StreamPosition};

    use super::*;

    fn gap(name: &str, form: Form) -> String {
        let now = Mark { position: StreamPosition { epoch: 1, offset: 7 }, stamp: 9, settled: 8 };
        let encoder = Arc::new(Forms::new(usize::MAX));
        let frames = Frames::gap(ChannelKey::new("1", name), now, encoder);
        String::from_utf8_lossy(frames.bytes(form)).into_owned()
    }

    #[test]
    fn a_gap_is_told_wherever_it_can_be() {
        for format in [Format::Raw, Format::Json] {
            let object = gap("news", feed_form(Framing::Lines, format));
            assert!(
                object.starts_with(r#"{"channel":"news","event":"fanfare:gap","data":"{}","cursor":""#),
                "{object}"
            );
            assert!(gap("news", feed_form(Framing::Socket, format)).ends_with(object.trim_end()));
            let event = gap("news", feed_form(Framing::Sse, format));
            assert!(
                event.starts_with("id: ") && event.contains("\nevent: fanfare:gap\ndata: {\"channel\":"),
                "{event}"
            );
            let answer = gap("news", feed_form(Framing::Answer, format));
            let part = Part::read(answer.as_bytes());
            assert!(part.cursor.is_some() && part.fields.ends_with(b"\r\nFanfare-Recovered: false\r\n"), "{answer}");
        }
        let positioned = gap("news", POSITIONED);
        assert!(
            positioned.contains(r#"{"event":"fanfare:gap","channel":"news","data":"{}","cursor":""#),
            "{positioned}"
        );
    }

    #[test]
    fn stock_clients_and_channels_that_nobody_asked_for_have_no_word_for_it() {
        for form in [Form::TEXT, Form::DEFLATED, LINES] {
            assert_eq!(gap("news", form), "", "{form:?}");
        }
        for name in ["#server-to-user-ann", "#watch-ann"] {
            assert_eq!(gap(name, POSITIONED), "", "{name}");
        }
    }
}
