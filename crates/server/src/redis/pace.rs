//! How fast holes are filled: no faster than this node's sockets take it, within reason.
//!
//! What was missed is read from a history as fast as memory is, and would have readers closed as slow who are not. So only so much
//! of it is on its way at once, over all channels. But a reader who takes nothing must not hold up a channel for long: it is waited
//! for a moment each time, until its outbox is full and it is closed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fanfare_hub::hold::{Hold, Release};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// How long the filling of a channel waits for readers at a time. What is on its way is a quarter of an outbox, so whoever takes
/// nothing is waited for some five times.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// How long it waits altogether: those who take a little all the time must not hold up a channel either.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all channels have together.
pub struct Pacer {
    room: Arc<Semaphore>,
    bytes_max: u32,
}

/// The filling of one channel.
pub struct Pace {
    room: Arc<Semaphore>,
    bytes_max: u32,
    left: Duration,
    portion: Option<Portion>,
}

/// What is on its way.
struct Portion {
    hold: Hold,
    release: Release,
    room: OwnedSemaphorePermit,
}

impl Pacer {
    /// Leaves most of an outbox to what is published meanwhile, and to what is written around it.
    pub fn new(outbox_bytes_max: usize) -> Pacer {
        let bytes_max = u32::try_from(outbox_bytes_max / 4).unwrap_or(u32::MAX).max(1);
        Pacer { room: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max }
    }

    /// A channel is to be filled.
    pub fn begin(&self) -> Pace {
        Pace { room: self.room.clone(), bytes_max: self.bytes_max, left: PATIENCE, portion: None }
    }
}

impl Pace {
    /// Waits until there is room for so many bytes more; returns what they are to keep. `None`: it has waited enough.
    pub async fn step(&mut self, bytes: usize) -> Option<Hold> {
        let n = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        if let Some(portion) = &mut self.portion
            && let Ok(more) = self.room.clone().try_acquire_many_owned(n)
        {
            portion.room.merge(more);
            return Some(portion.hold.clone());
        }
        // Nobody waits for room while it has some, or all would wait for each other.
        self.drain().await;
        let room = self.room.clone().acquire_many_owned(n);
        let room = self.patiently(PATIENCE, room).await?.expect("nobody closes it");
        let (hold, release) = Hold::new();
        self.portion = Some(Portion { hold: hold.clone(), release, room });
        Some(hold)
    }

    /// Nothing more comes. The room is given back when all has been written.
    pub fn end(mut self) {
        if self.portion.is_some() {
            tokio::spawn(async move { self.drain().await });
        }
    }

    async fn drain(&mut self) {
        if let Some(Portion { hold, mut release, room }) = self.portion.take() {
            drop(hold);
            self.patiently(WAIT_MAX, release.wait()).await;
            drop(room);
        }
    }

    async fn patiently<T>(&mut self, longest: Duration, what: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let done = timeout(self.left.min(longest), what).await.ok();
        self.left = self.left.saturating_sub(began.elapsed());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_is_bounded_over_all_channels() {
        let pacer = Pacer::new(400);
        let (mut one, mut other) = (pacer.begin(), pacer.begin());
        let held = one.step(60).await.expect("there is room");
        let small = other.step(40).await.expect("there is room");
        let waiting = tokio::spawn(async move { other.step(40).await.is_some() });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!waiting.is_finished());
        drop(small);
        assert!(waiting.await.expect("no panic"), "its own room is back");
        one.end();
        let mut third = pacer.begin();
        drop(held);
        assert!(third.step(100).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_not_waited_for_forever() {
        let pacer = Pacer::new(400);
        let mut pace = pacer.begin();
        let began = Instant::now();
        assert!(pace.step(1000).await.is_some(), "one goes, whatever its size");
        let mut kept = Vec::new();
        for _ in 0..100 {
            kept.push(pace.step(1000).await);
        }
        let waited = began.elapsed();
        assert!(waited >= PATIENCE && waited < PATIENCE + WAIT_MAX, "{waited:?}");
    }
}
