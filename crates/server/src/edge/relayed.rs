//! Requests to a session that is on another node: what is read there is written here.
//!
//! Always true: a client whose session cannot be reached, or may have lost a frame, is told to come back by a close frame; it never
//! goes on in a session in which something is missing.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanfare_proto::close::CloseCode;
use fanfare_proto::xhr;
use tokio::sync::mpsc;

use super::Body;
use super::neighbours::{Answer, Neighbours, Question, Unreachable};
use super::sessions::{HEARTBEAT_EVERY, STREAM_UNITS_MAX, Way};

/// A session on another node.
pub struct Relayed {
    pub neighbours: Arc<dyn Neighbours>,
    pub node: Box<str>,
    pub session: String,
}

impl Relayed {
    /// What the session says, for one request.
    pub fn read(self, way: Way) -> Body {
        let (chunks, body) = mpsc::channel(1);
        tokio::spawn(async move {
            let last = tokio::select! {
                last = self.pass_on(way, &chunks) => last,
                // Its client has gone, and will not come back to a session of which a request failed.
                () = chunks.closed() => return,
            };
            if let Err(Unreachable) = last {
                let mut words = Vec::new();
                xhr::close_frame(&mut words, CloseCode::RECONNECT, "the session is lost");
                // It fails when the client has just left.
                let _ = chunks.send(words.into()).await;
            }
        });
        Body::Chunks(body)
    }

    async fn pass_on(&self, mut way: Way, chunks: &mpsc::Sender<Bytes>) -> Result<(), Unreachable> {
        let mut spoken = Instant::now();
        loop {
            if matches!(way, Way::Stream { units } if units > STREAM_UNITS_MAX) {
                // The client is about to open the next request.
                chunks.closed().await;
                return Ok(());
            }
            match self.ask_for_more(&way, spoken).await? {
                Answer::Frames(frames) => {
                    spoken = Instant::now();
                    let units = xhr::utf16_len(&frames);
                    // It fails when the client has just left.
                    let _ = chunks.send(frames).await;
                    match &mut way {
                        Way::Poll => return Ok(()),
                        Way::Stream { units: sent } => *sent += units,
                    }
                }
                Answer::Nothing | Answer::Heard => {}
                Answer::End => return Ok(()),
                Answer::Unknown => return Err(Unreachable),
            }
        }
    }

    async fn ask_for_more(&self, way: &Way, spoken: Instant) -> Result<Answer, Unreachable> {
        let units = match way {
            Way::Stream { units } => Some(*units),
            Way::Poll => None,
        };
        let beat = HEARTBEAT_EVERY.saturating_sub(spoken.elapsed());
        let question = Question::Read { session: self.session.clone(), units, beat_ms: beat.as_millis() as u64 };
        self.neighbours.ask(&self.node, &question).await
    }

    /// Passes on what its client said; whether there is such a session.
    pub async fn hear(self, texts: Vec<String>) -> Result<bool, Unreachable> {
        let question = Question::Hear { session: self.session, texts };
        Ok(self.neighbours.ask(&self.node, &question).await? == Answer::Heard)
    }
}
