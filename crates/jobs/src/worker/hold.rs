//! Where records wait that a stage holds, each by itself.
//!
//! Always true:
//! - a record that is not waited for any more leaves nothing behind here, and is counted as failed by its stage;
//! - what waits is bounded by the jobs that are worked on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::pipeline::{Pipeline, Reason, RecordId};

/// A window whose newest record made way for one that had not been claimed yet stays for so long, for that one.
const CARRIED: Duration = Duration::from_secs(10);

/// Such windows, beyond which those that have not been used are looked for.
const WINDOWS_MAX: usize = 10_000;

/// The windows of one stage, by key.
#[derive(Default)]
pub(super) struct Windows {
    by_key: Mutex<HashMap<Arc<str>, Window>>,
    /// Places in them that there have been.
    places: AtomicU64,
}

/// Time in which only the newest record of a key counts.
struct Window {
    closes: Instant,
    newest: Option<Newest>,
}

/// The newest record that is waiting in a window.
struct Newest {
    id: RecordId,
    /// Its place: a repeat of it, after its lease was lost, has the same id and another place.
    place: u64,
    /// Tells it that it is the newest no more.
    displace: oneshot::Sender<()>,
}

/// A record that a stage holds; if it neither goes on nor is dropped, it has failed.
pub(super) struct Waiting<'a> {
    pipeline: &'a Pipeline,
    stage: usize,
    ended: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, stage: usize) -> Waiting<'a> {
        Waiting { pipeline, stage, ended: false }
    }

    /// It goes on: the pipeline counts it when it is told so.
    pub(super) fn goes_on(mut self) {
        self.ended = true;
    }

    pub(super) fn dropped(mut self, reason: Reason) {
        self.ended = true;
        self.pipeline.drop_held(self.stage, reason);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.pipeline.fail_held(self.stage);
        }
    }
}

impl Windows {
    /// Waits until the window of this key closes; answers whether the record is still the newest. `behind` says whether a
    /// newer one has yet to be claimed: it is asked at the end.
    pub(super) async fn coalesce(
        &self,
        key: Arc<str>,
        id: RecordId,
        within: Duration,
        behind: impl Future<Output = bool>,
    ) -> bool {
        let Some((mut place, closes, displaced)) = self.enter(key, id, within) else { return false };
        tokio::select! {
            biased;
            Ok(()) = displaced => return false,
            () = sleep_until(closes) => {}
        }
        place.carry = behind.await;
        !place.carry
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Window>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the window of this key; `None` if a newer record has it.
    fn enter(
        &self,
        key: Arc<str>,
        id: RecordId,
        within: Duration,
    ) -> Option<(InWindow<'_>, Instant, oneshot::Receiver<()>)> {
        let now = Instant::now();
        let mut windows = self.lock();
        if windows.len() >= WINDOWS_MAX {
            windows.retain(|_, window| window.is_of_use(now));
        }
        let window = windows.entry(key.clone()).or_insert_with(|| Window { closes: now + within, newest: None });
        if !window.is_of_use(now) {
            window.closes = now + within;
        }
        if window.newest.as_ref().is_some_and(|newest| newest.id > id) {
            return None;
        }
        let (displace, displaced) = oneshot::channel();
        let place = self.places.fetch_add(1, Ordering::Relaxed);
        if let Some(older) = window.newest.replace(Newest { id, place, displace }) {
            // It may have gone.
            let _ = older.displace.send(());
        }
        Some((InWindow { windows: self, key, place, carry: false }, window.closes, displaced))
    }
}

impl Window {
    /// Whether somebody waits in it, or may yet come to take over.
    fn is_of_use(&self, now: Instant) -> bool {
        self.newest.is_some() || now < self.closes + CARRIED
    }
}

/// A record's place in a window.
struct InWindow<'a> {
    windows: &'a Windows,
    key: Arc<str>,
    place: u64,
    /// Whether the window stays for the next one.
    carry: bool,
}

impl Drop for InWindow<'_> {
    fn drop(&mut self) {
        let mut windows = self.windows.lock();
        let Some(window) = windows.get_mut(&self.key) else { return };
        if window.newest.as_ref().is_none_or(|newest| newest.place != self.place) {
            return;
        }
        window.newest = None;
        if !self.carry {
            windows.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job whose lease was lost may come again while its first attempt still waits.
    #[tokio::test]
    async fn of_a_record_and_its_repeat_one_goes_on() {
        let (windows, id) = (Windows::default(), RecordId { job: 1, part: 0 });
        let wait = || windows.coalesce("k".into(), id, Duration::from_millis(50), async { false });
        assert_eq!(tokio::join!(wait(), wait(), wait()), (false, false, true));
        assert!(windows.lock().is_empty());
    }
}
