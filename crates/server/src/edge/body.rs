//! The body of an answer: whole, or coming from a loop or a task for as long as that has something to say.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::pipe::PipeReader;
use super::sessions::Reading;

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// All of it is known.
    Full(Full<Bytes>),
    /// A loop writes it.
    Pipe(PipeReader),
    /// A part of what a loop writes to a session.
    Session(Reading),
    /// A task writes it; dropping the body tells the task.
    Chunks(mpsc::Receiver<Bytes>),
}

impl From<Full<Bytes>> for Body {
    fn from(full: Full<Bytes>) -> Self {
        Body::Full(full)
    }
}

impl From<PipeReader> for Body {
    fn from(reader: PipeReader) -> Self {
        Body::Pipe(reader)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Full(full) => Pin::new(full).poll_frame(cx),
            Body::Pipe(reader) => Pin::new(reader).poll_frame(cx),
            Body::Session(reading) => reading.poll_read(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            Body::Chunks(chunks) => chunks.poll_recv(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(full) => full.is_end_stream(),
            Body::Pipe(_) | Body::Session(_) | Body::Chunks(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(full) => full.size_hint(),
            Body::Pipe(_) | Body::Session(_) | Body::Chunks(_) => SizeHint::default(),
        }
    }
}
