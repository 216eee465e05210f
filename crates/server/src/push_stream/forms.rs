//! The forms of this listener's subscribers, behind those that the node has without it.
//!
//! Always true: modes whose messages are written alike share a form, so that a publication is rendered once for each distinct
//! template.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::{Encode, Form, Frames, Kind, Publication};

use super::asked::Mode;
use super::clock::Moment;
use super::template::{Message, Shape, Template, frame};
use crate::config::{PushStreamSettings, Templates};

/// The event of a publication that was given no type.
pub const UNTYPED: &str = "message";

/// The templates of all modes.
#[derive(Debug)]
pub struct Forms {
    /// By form, less the first of them.
    templates: Vec<Template>,
    first: u8,
    streaming: Wording,
    polling: Wording,
    long_polling: Wording,
    eventsource: Wording,
    websocket: Wording,
}

/// What one mode writes.
#[derive(Debug)]
pub struct Wording {
    /// How its messages are written.
    pub form: Form,
    /// Before everything.
    pub header: Bytes,
    /// After everything.
    pub footer: Bytes,
    /// When there was nothing to say for a while.
    pub ping: Bytes,
    /// When a long-poll ends with nothing.
    pub timed_out: Bytes,
    /// What an answer says it is.
    pub content_type: Arc<str>,
}

impl Forms {
    /// Reads the templates. `first` is the number of the first form that the node does not have without them.
    pub fn new(settings: &PushStreamSettings, first: usize) -> Self {
        let mut templates = Vec::new();
        let first = u8::try_from(first).expect("a node has a handful of forms");
        let mut wording = |texts: &Templates, shape| Wording::new(texts, shape, settings, first, &mut templates);
        Forms {
            streaming: wording(&settings.streaming, Shape::Plain),
            polling: wording(&settings.polling, Shape::Plain),
            long_polling: wording(&settings.long_polling, Shape::Plain),
            eventsource: wording(&settings.eventsource, Shape::EventSource),
            websocket: wording(&settings.websocket, Shape::WebSocket),
            templates,
            first,
        }
    }

    /// What a mode writes.
    pub fn wording(&self, mode: Mode) -> &Wording {
        match mode {
            Mode::Streaming => &self.streaming,
            Mode::Polling => &self.polling,
            Mode::LongPolling => &self.long_polling,
            Mode::EventSource => &self.eventsource,
            Mode::WebSocket => &self.websocket,
        }
    }

    /// The last message of a channel, for each template.
    pub fn deleted(&self, channel: &str, text: &str) -> Box<[Bytes]> {
        let message = Message::reserved(Message::DELETED, channel, text);
        self.templates.iter().map(|template| template.render(&message)).collect()
    }

    /// Where in [`Forms::deleted`] a form stands.
    pub fn index(&self, form: Form) -> usize {
        usize::from(form.0 - self.first)
    }
}

impl Wording {
    fn new(
        texts: &Templates,
        shape: Shape,
        settings: &PushStreamSettings,
        first: u8,
        templates: &mut Vec<Template>,
    ) -> Self {
        let template = Template::parse(&texts.message, shape);
        let index = templates.iter().position(|other| *other == template).unwrap_or_else(|| {
            templates.push(template.clone());
            templates.len() - 1
        });
        let header = match (shape, texts.header.is_empty()) {
            (Shape::EventSource, true) => Bytes::from_static(b": \n"),
            _ => frame(&texts.header, shape),
        };
        let ping = match shape {
            Shape::Plain => template.render(&Message::reserved(Message::PING, "", &settings.ping_message_text)),
            Shape::EventSource => Bytes::from_static(b": -1\n"),
            Shape::WebSocket => Bytes::from_static(&[0x89, 0]),
        };
        Wording {
            form: Form(first + index as u8),
            header,
            footer: frame(&texts.footer, shape),
            ping,
            timed_out: template.render(&Message::reserved(Message::TIMED_OUT, "", "Timed out")),
            content_type: match shape {
                Shape::EventSource => "text/event-stream; charset=utf-8".into(),
                _ => texts.content_type.clone(),
            },
        }
    }
}

/// All forms of a node: those of `inner`, and one for each template.
pub struct Encoder {
    /// What the node has without this listener.
    pub inner: Arc<dyn Encode>,
    /// The templates.
    pub forms: Arc<Forms>,
}

impl Encode for Encoder {
    fn forms(&self) -> usize {
        self.inner.forms() + self.forms.templates.len()
    }

    fn encode(&self, form: Form, frames: &Frames) -> Bytes {
        match form.0.checked_sub(self.forms.first).and_then(|index| self.forms.templates.get(usize::from(index))) {
            Some(template) => render(template, frames),
            None => self.inner.encode(form, frames),
        }
    }

    fn join(&self, form: Form, frames: &[Arc<Frames>]) -> Bytes {
        self.inner.join(form, frames)
    }
}

/// Only what publishers publish is shown: no counts, no changes of members.
fn render(template: &Template, frames: &Frames) -> Bytes {
    let publication = frames.publication();
    let (event, text) = (unquoted(&publication.event), unquoted(&publication.data));
    if publication.kind != Kind::Event || event.starts_with("pusher_internal:") {
        return Bytes::new();
    }
    let Moment { time_s, tag } = Moment::of(publication);
    template.render(&Message {
        id: frames.mark().map_or(i64::from(tag), |mark| mark.position.offset as i64),
        text: &text,
        channel: frames.key().name(),
        time_s,
        tag,
        event_id: publication.event_id.as_deref(),
        event_type: (event != UNTYPED).then_some(&*event),
    })
}

/// The text of a JSON string token.
fn unquoted(token: &str) -> String {
    // Tokens are checked when they enter the server.
    serde_json::from_str(token).unwrap_or_default()
}

/// A publication with these words.
pub fn publication(text: &str, event_type: Option<&str>, event_id: Option<Arc<str>>) -> Publication {
    let quoted = |text: &str| serde_json::to_string(text).expect("a string is JSON");
    let event = quoted(event_type.unwrap_or(UNTYPED));
    Publication { event_id, ..Publication::event(event, quoted(text)) }
}
