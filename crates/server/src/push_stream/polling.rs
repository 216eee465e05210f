//! The answers that end: what there is, or the next message when it comes.
//!
//! Always true: whoever sends back `Last-Modified` and `Etag` misses nothing and is told nothing twice.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;

use super::asked::{Mode, Start};
use super::clock::{Moment, now_s};
use super::forms::Wording;
use super::reader::{Heard, Wanted, stored};
use super::refusal::Refused;
use super::subscriber::{rung, timer};
use super::{Guest, PushStream, answer};
use crate::edge::Body;

/// What a poll is about.
pub struct Poll {
    /// Polling or long-polling.
    pub mode: Mode,
    /// The channels.
    pub wanted: Vec<Wanted>,
    /// Where it goes on.
    pub start: Start,
    /// The function that the answer calls, for pages of other origins.
    pub callback: Option<String>,
}

impl Poll {
    /// Answers it, at once or when there is something to say.
    pub async fn answer(self, face: &PushStream, mut guest: Guest) -> Result<Response<Body>, Refused> {
        let wording = face.forms.wording(self.mode);
        match self.mode {
            Mode::LongPolling => self.wait(face, wording, &mut guest).await,
            _ => {
                let mut messages = Vec::new();
                for wanted in &self.wanted {
                    messages.extend(stored(face, wanted, &self.start, wording.form).await?.0);
                }
                if messages.is_empty() {
                    return Ok(self.nothing_new(wording));
                }
                let moment = messages.iter().map(|message| message.moment).max();
                let bytes = messages.into_iter().map(|message| message.bytes);
                Ok(self.messages(wording, bytes, moment.max(self.given())))
            }
        }
    }

    async fn wait(&self, face: &PushStream, wording: &Wording, guest: &mut Guest) -> Result<Response<Body>, Refused> {
        let mut reader = face.subscribe(&self.wanted, wording.form, guest).await?;
        let missed = reader.missed(face, &self.wanted, &self.start, wording.form).await?;
        if !missed.is_empty() {
            let moment = missed.iter().map(|message| message.moment).max();
            let bytes = missed.into_iter().map(|message| message.bytes);
            return Ok(self.messages(wording, bytes, moment.max(self.given())));
        }
        let settings = &face.settings;
        let ttl_s = match settings.longpolling_connection_ttl_s {
            0 => settings.subscriber_connection_ttl_s,
            seconds => seconds,
        };
        let (mut end, mut stopped) = (timer(ttl_s), std::pin::pin!(face.stopped()));
        tokio::select! {
            heard = reader.next() => match heard {
                Heard::Message(message) => Ok(self.messages(wording, [message.bytes], Some(message.moment))),
                Heard::Deleted { deletion, .. } => {
                    let bytes = deletion.messages[face.forms.index(wording.form)].clone();
                    Ok(self.messages(wording, [bytes], Some(Moment { time_s: now_s(), tag: 0 })))
                }
                Heard::End => Err(fanfare_hub::BrokerError::Unavailable.into()),
            },
            () = rung(&mut end) => Ok(self.timed_out(face, wording)),
            () = &mut stopped => Ok(self.timed_out(face, wording)),
        }
    }

    fn timed_out(&self, face: &PushStream, wording: &Wording) -> Response<Body> {
        // A second back: what was published at the end of the last second may still be on its way.
        let moment = Some(Moment { time_s: now_s().saturating_sub(1), tag: 0 }).max(self.given());
        match face.settings.timeout_with_body {
            true => self.messages(wording, [wording.timed_out.clone()], moment),
            false => {
                let mut response = answer::not_modified(self.content_type(wording));
                answer::set_moment(response.headers_mut(), moment);
                response
            }
        }
    }

    /// What the request said of itself.
    fn given(&self) -> Option<Moment> {
        self.start.time_s.map(|time_s| Moment { time_s, tag: self.start.tag.unwrap_or(0) })
    }

    /// The request's own words again.
    fn nothing_new(&self, wording: &Wording) -> Response<Body> {
        let mut response = answer::not_modified(self.content_type(wording));
        answer::set_start(response.headers_mut(), &self.start);
        response
    }

    fn content_type<'w>(&self, wording: &'w Wording) -> &'w str {
        match self.callback {
            Some(_) => "application/javascript",
            None => &wording.content_type,
        }
    }

    fn messages(
        &self,
        wording: &Wording,
        messages: impl IntoIterator<Item = Bytes>,
        moment: Option<Moment>,
    ) -> Response<Body> {
        let mut body = wording.header.to_vec();
        if let Some(callback) = &self.callback {
            body.extend_from_slice(callback.as_bytes());
            body.extend_from_slice(b"([");
        }
        for (index, bytes) in messages.into_iter().enumerate() {
            if index > 0 && self.callback.is_some() {
                body.push(b',');
            }
            body.extend_from_slice(&bytes);
        }
        if self.callback.is_some() {
            body.extend_from_slice(b"]);");
        }
        body.extend_from_slice(&wording.footer);
        let mut response = answer::typed(self.content_type(wording), Full::from(body));
        answer::set_moment(response.headers_mut(), moment);
        response
    }
}

/// The name of a function in a page, which is all that may be called.
pub fn callback(name: Option<Cow<'_, str>>) -> Result<Option<String>, Refused> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_$.[]".contains(&byte);
    match name {
        Some(name) if !name.bytes().all(legal) => Err(Refused::Callback),
        name => Ok(name.map(Cow::into_owned)),
    }
}
