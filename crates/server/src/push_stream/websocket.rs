//! WebSocket subscribers: the handshake, and a task that writes messages and reads what little a subscriber says.
//!
//! A refusal comes after the handshake, as a close frame: a page is not shown the status of a handshake that failed.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_proto::close::CloseCode;
use fanfare_proto::ws::{self, Assembler, Incoming, Limits};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::asked::{Mode, Start};
use super::reader::{Heard, Reader, Wanted};
use super::refusal::Refused;
use super::subscriber::{rung, timer};
use super::switchboard::Message;
use super::{Guest, PushStream, answer};
use crate::edge::Body;

/// What a subscriber may say at once: nothing that it says is of use.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Bytes of a close frame's reason (RFC 6455 §5.5).
const REASON_BYTES_MAX: usize = 123;

/// Answers a handshake; `Err` when it is none.
pub fn handshake(headers: &HeaderMap) -> Result<Response<Body>, Refused> {
    let text =
        |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::trim).map(str::to_owned);
    let key = text(headers.get(SEC_WEBSOCKET_KEY)).ok_or(Refused::NoUpgrade)?;
    let version = text(headers.get(SEC_WEBSOCKET_VERSION)).ok_or(Refused::NoUpgrade)?;
    if !headers.contains_key(UPGRADE) || !headers.contains_key(CONNECTION) {
        return Err(Refused::NoUpgrade);
    }
    if version != "13" && version != "8" {
        return Err(Refused::Version);
    }
    let mut response = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
    let accept = HeaderValue::from_str(&ws::accept_key(&key)).expect("base64 is legal in a header");
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("WebSocket"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    Ok(response)
}

/// A subscriber that was let in.
pub struct Admitted {
    reader: Reader,
    missed: Vec<Message>,
    guest: Guest,
}

/// Lets a subscriber in. To be waited for before the handshake is answered: whoever sees its socket open is subscribed.
pub async fn admit(face: &PushStream, wanted: &[Wanted], start: &Start, mut guest: Guest) -> Result<Admitted, Refused> {
    let form = face.forms.wording(Mode::WebSocket).form;
    let mut reader = face.subscribe(wanted, form, &mut guest).await?;
    let missed = reader.missed(face, wanted, start, form).await?;
    Ok(Admitted { reader, missed, guest })
}

/// Serves the connection once the handshake has been answered.
pub async fn serve(face: Arc<PushStream>, upgrade: OnUpgrade, verdict: Result<Admitted, Refused>) {
    // The peer may leave between its request and our answer.
    let Ok(upgraded) = upgrade.await else { return };
    let (input, output) = tokio::io::split(TokioIo::new(upgraded));
    let mut talk = Talk { face: &face, output };
    let closing = match verdict {
        Ok(admitted) => talk.run(input, admitted).await,
        Err(refused) => close_frame(&refused),
    };
    // Whoever is gone need not be told.
    let _ = talk.output.write_all(&closing).await;
    let _ = talk.output.shutdown().await;
}

fn close_frame(refused: &Refused) -> Vec<u8> {
    let (status, explain) = (refused.status().as_u16(), refused.to_string().replace(['"', '\\'], "'"));
    let mut reason = format!("{{\"http_status\": {status}, \"explain\":\"{explain}\"}}");
    if reason.len() > REASON_BYTES_MAX {
        reason = format!("{{\"http_status\": {status}, \"explain\":\"\"}}");
    }
    let mut frame = Vec::new();
    ws::close_frame(&mut frame, CloseCode::POLICY, &reason);
    frame
}

struct Talk<'f> {
    face: &'f PushStream,
    output: WriteHalf<TokioIo<Upgraded>>,
}

/// What a subscriber said, as far as it matters.
enum Said {
    Nothing,
    Text(String),
    Pong(Vec<u8>),
    Close(Vec<u8>),
}

impl Talk<'_> {
    /// Returns the close frame to end with.
    async fn run(&mut self, input: ReadHalf<TokioIo<Upgraded>>, admitted: Admitted) -> Vec<u8> {
        let wording = self.face.forms.wording(Mode::WebSocket);
        let Admitted { reader, missed, guest } = admitted;
        for bytes in [wording.header.clone()].into_iter().chain(missed.into_iter().map(|message| message.bytes)) {
            if !self.write(&reader, &bytes).await {
                return Vec::new();
            }
        }
        let closing = self.follow(reader, Ears::new(input), &guest).await;
        [wording.footer.to_vec(), closing].concat()
    }

    async fn follow(&mut self, mut reader: Reader, mut ears: Ears, guest: &Guest) -> Vec<u8> {
        let (face, settings) = (self.face, &self.face.settings);
        let wording = face.forms.wording(Mode::WebSocket);
        let goodbye = vec![0x88, 0];
        let mut end = timer(settings.subscriber_connection_ttl_s);
        let mut stopped = std::pin::pin!(face.stopped());
        loop {
            let mut ping = timer(settings.ping_message_interval_s);
            let (bytes, last) = tokio::select! {
                heard = reader.next() => match heard {
                    Heard::Message(message) => (message.bytes, false),
                    Heard::Deleted { deletion, last } => {
                        (deletion.messages[face.forms.index(wording.form)].clone(), last)
                    }
                    Heard::End => return goodbye,
                },
                said = ears.listen() => match said {
                    Said::Nothing => continue,
                    Said::Text(text) => match hear(face, &text, guest).await {
                        Ok(()) => continue,
                        Err(refused) => return close_frame(&refused),
                    },
                    Said::Pong(frame) => (frame.into(), false),
                    Said::Close(frame) => return frame,
                },
                () = rung(&mut ping) => (wording.ping.clone(), false),
                () = rung(&mut end) => return goodbye,
                () = &mut stopped => return goodbye,
            };
            if !self.write(&reader, &bytes).await {
                return Vec::new();
            }
            if last {
                return goodbye;
            }
        }
    }

    /// Whether the subscriber is still there, and reads.
    async fn write(&mut self, reader: &Reader, bytes: &Bytes) -> bool {
        tokio::select! {
            written = self.output.write_all(bytes) => written.is_ok(),
            () = reader.too_slow() => {
                tracing::debug!("slow push-stream subscriber closed");
                false
            }
        }
    }
}

/// Publishes what a subscriber said, where that is allowed.
async fn hear(face: &PushStream, text: &str, guest: &Guest) -> Result<(), Refused> {
    if !face.settings.websocket_allow_publish {
        return Ok(());
    }
    let ids: Vec<String> = guest.channels.iter().map(|key| key.name().to_owned()).collect();
    face.publish_said(&guest.app, &ids, text).await
}

/// A subscriber's words, one after the other.
struct Ears {
    input: ReadHalf<TokioIo<Upgraded>>,
    assembler: Assembler,
    unread: Vec<u8>,
}

impl Ears {
    fn new(input: ReadHalf<TokioIo<Upgraded>>) -> Self {
        Ears { input, assembler: Assembler::default(), unread: Vec::new() }
    }

    /// The next thing that was said. Safe to give up and call again: nothing is taken out before it is whole.
    async fn listen(&mut self) -> Said {
        loop {
            match self.assembler.next(&mut self.unread, &Limits { message_bytes_max: MESSAGE_BYTES_MAX }, false) {
                Ok((used, None)) => {
                    self.unread.drain(..used);
                }
                Ok((used, Some(incoming))) => {
                    let said = answer_to(&incoming);
                    self.unread.drain(..used);
                    return said;
                }
                Err(violation) => {
                    let mut frame = Vec::new();
                    ws::close_frame(&mut frame, violation.close_code(), &violation.to_string());
                    return Said::Close(frame);
                }
            }
            match self.input.read_buf(&mut self.unread).await {
                Ok(n) if n > 0 => {}
                _ => return Said::Close(Vec::new()),
            }
        }
    }
}

fn answer_to(incoming: &Incoming<'_>) -> Said {
    let mut frame = Vec::new();
    match incoming {
        Incoming::Pong => Said::Nothing,
        Incoming::Text(text) => Said::Text(text.to_string()),
        Incoming::Ping(payload) => {
            ws::pong_frame(&mut frame, payload);
            Said::Pong(frame)
        }
        Incoming::Binary(_) => {
            ws::close_frame(&mut frame, CloseCode::UNSUPPORTED, "expected text");
            Said::Close(frame)
        }
        Incoming::Close { code, .. } => {
            ws::close_echo(&mut frame, *code);
            Said::Close(frame)
        }
    }
}
