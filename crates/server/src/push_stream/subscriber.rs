//! The answers that go on: a stream of messages, or of events.
//!
//! A task of its own writes each of them: header, what was missed, then what comes, with pings in its pauses, and the footer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use super::asked::{Mode, Start};
use super::reader::{Heard, Reader, Wanted};
use super::refusal::Refused;
use super::{Guest, PushStream, answer};
use crate::edge::Body;

/// Chunks that wait for the socket; behind them is the subscriber's queue, whose bound counts.
const CHUNKS_MAX: usize = 16;

/// Answers with a stream, which has begun when this returns.
pub async fn stream(
    face: Arc<PushStream>,
    mode: Mode,
    wanted: Vec<Wanted>,
    start: Start,
    mut guest: Guest,
) -> Result<Response<Body>, Refused> {
    let wording = face.forms.wording(mode);
    let mut reader = face.subscribe(&wanted, wording.form, &mut guest).await?;
    let mut first = vec![wording.header.clone()];
    let missed = reader.missed(&face, &wanted, &start, wording.form).await?;
    first.extend(missed.into_iter().map(|message| message.bytes));
    let (out, body) = mpsc::channel(CHUNKS_MAX);
    let response = answer::typed(&wording.content_type, Body::Chunks(body));
    tokio::spawn(async move {
        let feed = Feed { face: &face, mode, reader, out };
        feed.run(first).await;
        drop(guest);
    });
    Ok(response)
}

struct Feed<'f> {
    face: &'f PushStream,
    mode: Mode,
    reader: Reader,
    out: mpsc::Sender<Bytes>,
}

impl Feed<'_> {
    /// Returns once the subscriber has gone, or has been told everything.
    async fn run(mut self, first: Vec<Bytes>) {
        for bytes in first {
            if !self.write(bytes).await {
                return;
            }
        }
        if self.follow().await {
            self.write(self.face.forms.wording(self.mode).footer.clone()).await;
        }
    }

    /// Whether the end was ours.
    async fn follow(&mut self) -> bool {
        let wording = self.face.forms.wording(self.mode);
        let mut end = timer(self.face.settings.subscriber_connection_ttl_s);
        let mut stopped = std::pin::pin!(self.face.stopped());
        loop {
            // It begins anew with each message.
            let mut ping = timer(self.face.settings.ping_message_interval_s);
            let (bytes, last) = tokio::select! {
                heard = self.reader.next() => match heard {
                    Heard::Message(message) => (message.bytes, false),
                    Heard::Deleted { deletion, last } => {
                        (deletion.messages[self.face.forms.index(wording.form)].clone(), last)
                    }
                    Heard::End => return true,
                },
                () = rung(&mut ping) => (wording.ping.clone(), false),
                () = rung(&mut end) => return true,
                () = &mut stopped => return true,
                () = self.out.closed() => return false,
            };
            if !self.write(bytes).await {
                return false;
            }
            if last {
                return true;
            }
        }
    }

    /// Whether the subscriber is still there, and reads.
    async fn write(&self, bytes: Bytes) -> bool {
        // An empty chunk would end a chunked answer.
        if bytes.is_empty() {
            return true;
        }
        tokio::select! {
            sent = self.out.send(bytes) => sent.is_ok(),
            () = self.reader.too_slow() => {
                tracing::debug!("slow push-stream subscriber closed");
                false
            }
        }
    }
}

/// A timer that rings after so many seconds; 0 = never.
pub type Timer = Option<Pin<Box<Sleep>>>;

/// Starts a timer.
pub fn timer(seconds: u32) -> Timer {
    (seconds > 0).then(|| Box::pin(sleep(Duration::from_secs(seconds.into()))))
}

/// Returns once the timer rings.
pub async fn rung(timer: &mut Timer) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}
