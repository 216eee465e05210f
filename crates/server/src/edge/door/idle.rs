//! When an HTTP/2 connection stands idle: hyper closes those of HTTP/1.1 by itself, and keeps these for as long as their peer
//! answers pings.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// The requests of one connection; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Beginnings and ends.
    changes: AtomicU64,
    under_way: AtomicUsize,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Counts>);

/// A body whose request is under way until it has gone out, or its reader has left.
#[derive(Debug)]
pub struct Tracked<B> {
    body: B,
    _request: UnderWay,
}

impl Traffic {
    /// One more request.
    pub fn begin(&self) -> UnderWay {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.0.clone())
    }

    /// Returns after a time in which there was none, and at most as much again.
    pub async fn idle(&self, timeout: Duration) {
        loop {
            let changes = self.0.changes.load(Ordering::Relaxed);
            tokio::time::sleep(timeout).await;
            let unchanged = self.0.changes.load(Ordering::Relaxed) == changes;
            if unchanged && self.0.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

impl UnderWay {
    /// Lasts as long as this body.
    pub fn with<B>(self, body: B) -> Tracked<B> {
        Tracked { body, _request: self }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Body<Data = Bytes, Error = Infallible> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle_after_the_time_out() {
        let began = tokio::time::Instant::now();
        Traffic::default().idle(TIMEOUT).await;
        assert_eq!(began.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_is_waited_for_and_one_that_passed_counts_too() {
        let traffic = Traffic::default();
        let stays = traffic.begin().with(());
        let began = tokio::time::Instant::now();
        let ends = async {
            tokio::time::sleep(3 * TIMEOUT + Duration::from_secs(1)).await;
            drop(stays);
            tokio::time::sleep(TIMEOUT).await;
            drop(traffic.begin());
        };
        tokio::join!(traffic.idle(TIMEOUT), ends);
        assert_eq!(began.elapsed(), 6 * TIMEOUT);
    }
}
