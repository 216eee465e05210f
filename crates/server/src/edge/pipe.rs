//! One direction, from a loop to a task: what a subscriber is sent, on its way into the body of an answer that hyper writes.
//!
//! The loop's end is written to like a socket: it takes what there is room for, and says later that there is room again. The
//! task's end is a body. Each chunk that the task takes wakes it at most once, and wakes the loop only when the pipe had
//! been full: this is the one place where a delivery may wake a task.
//!
//! Always true:
//! - the pipe holds at most [`PIPE_BYTES_MAX`];
//! - what was written before the loop's end went is still read; what is written after the reader went is refused.

use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use fanfare_hub::mail::Bell;
use fanfare_hub::shard::{ConnKey, Sent};
use hyper::body::{Body, Frame};

/// Bytes between a loop and a task. A full one is like a full socket: the outbox behind it has the bound that counts.
const PIPE_BYTES_MAX: usize = 64 << 10;

/// The pipes of one loop that have news for it; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pipes {
    /// Each pipe stands here once at most, so there are never more entries than pipes.
    news: Arc<Mutex<Vec<ConnKey>>>,
    bell: Bell,
}

impl Pipes {
    /// The pipes of the loop that wakes to this bell.
    pub fn new(bell: Bell) -> Self {
        Pipes { news: Arc::default(), bell }
    }

    /// A pipe to this loop.
    pub fn make(&self) -> (Pipe, PipeReader) {
        let shared = Arc::new(Shared { inner: Mutex::default(), pipes: self.clone() });
        (Pipe(shared.clone()), PipeReader(shared))
    }

    /// The connections whose pipe has room again, or no reader any more. To be called after [`Bell::hush`].
    pub fn take_news(&self) -> Vec<ConnKey> {
        std::mem::take(&mut *locked(&self.news))
    }

    fn tell(&self, key: ConnKey) {
        locked(&self.news).push(key);
        self.bell.ring();
    }
}

/// The end that a loop writes to.
#[derive(Debug)]
pub struct Pipe(Arc<Shared>);

/// The end that a task reads from.
#[derive(Debug)]
pub struct PipeReader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    pipes: Pipes,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    /// Whose it is, once a loop has adopted it.
    key: Option<ConnKey>,
    reader: Option<Waker>,
    /// The loop was refused some bytes and waits for room.
    full: bool,
    /// It stands in the loop's list of news.
    told: bool,
    /// The loop writes no more.
    ended: bool,
    /// The reader reads no more.
    gone: bool,
}

impl Pipe {
    /// Names the connection that news are about.
    pub fn adopt(&self, key: ConnKey) {
        let mut inner = self.0.lock();
        inner.key = Some(key);
        // The reader may have left on the way.
        if inner.gone {
            self.0.tell(inner);
        }
    }

    /// Offers bytes; takes what there is room for.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> Sent {
        let mut inner = self.0.lock();
        if inner.gone {
            return Sent::Broken;
        }
        let before = inner.bytes.len();
        for part in parts {
            let room = PIPE_BYTES_MAX - inner.bytes.len();
            inner.bytes.extend_from_slice(&part[..part.len().min(room)]);
            if part.len() > room {
                inner.full = true;
                break;
            }
        }
        let taken = inner.bytes.len() - before;
        let reader = inner.reader.take_if(|_| taken > 0);
        drop(inner);
        reader.into_iter().for_each(Waker::wake);
        Sent::Took(taken)
    }

    /// Whether the reader has gone; ends the news that were told.
    pub fn hear_news(&self) -> News {
        let mut inner = self.0.lock();
        inner.told = false;
        if inner.gone { News::Gone } else { News::Room }
    }
}

/// What a pipe has to tell its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// There is room again.
    Room,
    /// Nobody reads any more.
    Gone,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.ended = true;
        let reader = inner.reader.take();
        drop(inner);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl PipeReader {
    /// The connection that it reads from, once a loop has adopted it.
    pub fn key(&self) -> Option<ConnKey> {
        self.0.lock().key
    }

    /// What has been written since the last call; `None` once the loop has ended it.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut inner = self.0.lock();
        if !inner.bytes.is_empty() {
            // Nothing stays behind: an idle pipe has no buffer.
            let bytes = Bytes::from(std::mem::take(&mut inner.bytes));
            if std::mem::take(&mut inner.full) {
                self.0.tell(inner);
            }
            return Poll::Ready(Some(bytes));
        }
        if inner.ended {
            return Poll::Ready(None);
        }
        inner.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.gone = true;
        inner.bytes = Vec::new();
        self.0.tell(inner);
    }
}

impl Body for PipeReader {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().poll_read(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        locked(&self.inner)
    }

    /// Tells the loop that there are news, unless it knows; a loop that has not adopted the pipe yet will look by itself.
    fn tell(&self, mut inner: MutexGuard<'_, Inner>) {
        let key = inner.key.filter(|_| !inner.ended && !inner.told);
        inner.told |= key.is_some();
        drop(inner);
        if let Some(key) = key {
            self.pipes.tell(key);
        }
    }
}

/// Nothing that holds one of these locks can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicUsize, Ordering};

    const KEY: ConnKey = ConnKey { slot: 7, generation: 1 };

    fn pipes() -> (Pipes, Arc<AtomicUsize>) {
        let rings = Arc::<AtomicUsize>::default();
        let counted = rings.clone();
        let bell = Bell::new(Arc::new(move || _ = counted.fetch_add(1, Ordering::Relaxed)));
        (Pipes::new(bell), rings)
    }

    fn write(pipe: &Pipe, bytes: &[u8]) -> Sent {
        pipe.write(&[IoSlice::new(bytes)])
    }

    fn read(reader: &mut PipeReader) -> Poll<Option<Bytes>> {
        reader.poll_read(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_is_written_is_read_and_then_the_end() {
        let (pipe, mut reader) = pipes().0.make();
        assert_eq!(read(&mut reader), Poll::Pending);
        let parts = [IoSlice::new(b"one "), IoSlice::new(b"two")];
        assert_eq!(pipe.write(&parts), Sent::Took(7));
        assert_eq!(read(&mut reader), Poll::Ready(Some("one two".into())));
        assert_eq!(write(&pipe, b"last"), Sent::Took(4));
        drop(pipe);
        assert_eq!(read(&mut reader), Poll::Ready(Some("last".into())));
        assert_eq!(read(&mut reader), Poll::Ready(None));
    }

    #[test]
    fn a_full_pipe_takes_no_more_and_says_when_it_does() {
        let (pipes, rings) = pipes();
        let (pipe, mut reader) = pipes.make();
        pipe.adopt(KEY);
        assert_eq!(write(&pipe, &[b'x'; PIPE_BYTES_MAX + 1]), Sent::Took(PIPE_BYTES_MAX));
        assert_eq!(write(&pipe, b"x"), Sent::Took(0));
        assert!(pipes.take_news().is_empty());
        assert!(read(&mut reader).is_ready());
        assert_eq!((pipes.take_news(), rings.load(Ordering::Relaxed)), (vec![KEY], 1));
        assert_eq!(pipe.hear_news(), News::Room);
        // It was never full again, so there is nothing to tell.
        assert_eq!(write(&pipe, b"x"), Sent::Took(1));
        assert!(read(&mut reader).is_ready());
        assert!(pipes.take_news().is_empty());
    }

    #[test]
    fn a_reader_that_leaves_is_told_of_once() {
        let (pipes, _) = pipes();
        let (pipe, mut reader) = pipes.make();
        pipe.adopt(KEY);
        write(&pipe, &[b'x'; PIPE_BYTES_MAX + 1]);
        assert!(read(&mut reader).is_ready());
        drop(reader);
        assert_eq!(pipes.take_news(), [KEY]);
        assert_eq!(pipe.hear_news(), News::Gone);
        assert_eq!(write(&pipe, b"x"), Sent::Broken);
    }

    #[test]
    fn a_reader_that_left_before_its_pipe_was_adopted_is_told_of_then() {
        let (pipes, _) = pipes();
        let (pipe, reader) = pipes.make();
        drop(reader);
        assert!(pipes.take_news().is_empty());
        pipe.adopt(KEY);
        assert_eq!(pipes.take_news(), [KEY]);
    }
}
