//! One queue of an app, as its workers see it: jobs are claimed, and where there are none, waited for.
//!
//! Always true:
//! - those who wait have their turn in the order in which they came, and one job wakes one of them;
//! - jobs that were claimed for somebody who is not there any more are released, and not held until their lease ends.
//!
//! Not here: what a verb does to a job (`fanfare_jobs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use fanfare_jobs::{Cancel, Claim, Claimed, Counts, Job, JobStore, Lease, Put, Spec, StoreError};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::clock::Clock;
use super::tally::{AtTheDoor, Tally};
use crate::config::QueueSettings;

/// Jobs that are read in one go, and bytes of theirs after which nothing is read any more: together with the bound of a
/// request's body they bound what one answer may hold.
pub const SLICE: usize = 64;
/// See [`SLICE`].
pub const SLICES_BYTES: usize = 4 << 20;

/// How long a queue is taken for one that cannot be written after somebody has met that, unless somebody puts a job
/// meanwhile. Long enough to be seen, and short enough for producers to come back once there is room.
const UNWRITABLE_MS: u64 = 10_000;

/// One queue.
pub struct Queue {
    /// Whose it is.
    pub app: Arc<str>,
    /// What the app calls it.
    pub name: Arc<str>,
    /// Its jobs.
    pub store: Arc<dyn JobStore>,
    settings: ArcSwap<QueueSettings>,
    clock: Clock,
    /// Whoever waits for jobs; one at a time listens for news, so that a job wakes one worker and not a thousand.
    turn: Semaphore,
    tally: Tally,
    /// What the store had counted before anybody here used it.
    began: OnceLock<Counts>,
    /// When the store last said that it cannot be written; 0: never, or it has been written since.
    unwritable_ms: AtomicU64,
    stopping: watch::Receiver<bool>,
}

impl Queue {
    pub(super) fn new(
        app: Arc<str>,
        settings: &QueueSettings,
        store: Arc<dyn JobStore>,
        clock: Clock,
        stopping: watch::Receiver<bool>,
    ) -> Queue {
        let (name, settings) = (settings.name.clone(), ArcSwap::from_pointee(settings.clone()));
        let (turn, unwritable_ms) = (Semaphore::new(1), AtomicU64::new(0));
        let (tally, began) = (Tally::default(), OnceLock::new());
        Queue { app, name, store, settings, clock, turn, tally, began, unwritable_ms, stopping }
    }

    /// Notes what the store has counted so far. To be called before anybody uses it.
    pub(super) async fn begin(&self) {
        if let (None, Ok(counts)) = (self.began.get(), self.store.counts().await) {
            // Whoever was faster has noted the same.
            let _ = self.began.set(counts);
        }
    }

    /// What the store had counted before anybody here used it; `None` if it did not say.
    pub fn began(&self) -> Option<&Counts> {
        self.began.get()
    }

    /// What has come in and gone out here.
    pub fn at_the_door(&self) -> AtTheDoor {
        self.tally.read()
    }

    /// As it is configured now.
    pub fn settings(&self) -> Arc<QueueSettings> {
        self.settings.load_full()
    }

    /// Takes other settings from now on; where its jobs are kept stays for the life of the process.
    pub(super) fn go_by(&self, settings: &QueueSettings) {
        if self.settings().durability != settings.durability {
            tracing::warn!(app = &*self.app, queue = &*self.name, "another durability takes a restart");
        }
        self.settings.store(Arc::new(settings.clone()));
        self.store.set_limits(settings.limits);
    }

    /// The time that its verbs go by.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The clock that they go by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Adds jobs, all of them or none.
    pub async fn put(&self, specs: Vec<Spec>) -> Result<Vec<Put>, StoreError> {
        let putting = self.tally.put(specs.len());
        let put = self.store.put(specs, self.now_ms()).await;
        putting.answered(put.is_ok());
        match &put {
            Ok(_) => self.unwritable_ms.store(0, Ordering::Relaxed),
            Err(error) => self.heed(error),
        }
        put
    }

    /// Does what is due and forgets what is old.
    pub(super) async fn sweep(&self) {
        if let Err(error) = self.store.sweep(self.now_ms()).await {
            self.heed(&error);
        }
    }

    /// Whether jobs could be put lately, as far as anybody has tried.
    pub fn is_writable(&self) -> bool {
        let unwritable_ms = self.unwritable_ms.load(Ordering::Relaxed);
        unwritable_ms == 0 || self.now_ms() > unwritable_ms + UNWRITABLE_MS
    }

    fn heed(&self, error: &StoreError) {
        if let StoreError::Unavailable(_) = error {
            if self.is_writable() {
                tracing::error!(app = &*self.app, queue = &*self.name, %error, "a queue takes no jobs");
            }
            self.unwritable_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// Takes the next jobs; where there are none, waits for one as long as that, or until the server stops.
    pub async fn claim(self: &Arc<Self>, claim: Claim, wait: Duration) -> Result<Held, StoreError> {
        let until = Instant::now() + wait;
        let (held, _) = self.take(&claim).await?;
        if wait.is_zero() || !held.is_empty() {
            return Ok(held);
        }
        let turn = tokio::select! {
            turn = timeout_at(until, self.turn.acquire()) => turn,
            () = self.stopped() => return Ok(held),
        };
        match turn {
            Ok(_turn) => self.await_jobs(&claim, until).await,
            Err(_elapsed) => Ok(held),
        }
    }

    /// It is the waiting that ends early, never the taking: no job is claimed for somebody who is being sent away.
    async fn await_jobs(self: &Arc<Self>, claim: &Claim, until: Instant) -> Result<Held, StoreError> {
        let mut wakes = self.store.wakes();
        loop {
            wakes.mark_unchanged();
            let (held, next_ms) = self.take(claim).await?;
            if !held.is_empty() || Instant::now() >= until {
                return Ok(held);
            }
            let next = next_ms.map_or(until, |ms| until.min(self.clock.at(ms).into()));
            tokio::select! {
                () = self.stopped() => return Ok(held),
                () = sleep_until(next) => {}
                Ok(()) = wakes.changed() => {}
            }
        }
    }

    async fn stopped(&self) {
        // An error would be that the sender is gone, which ends the wait too.
        let _ = self.stopping.clone().wait_for(|stopping| *stopping).await;
    }

    /// In a task of its own: a store may have claimed while the one who asked goes away.
    async fn take(self: &Arc<Self>, claim: &Claim) -> Result<(Held, Option<u64>), StoreError> {
        let (queue, claim) = (self.clone(), claim.clone());
        let taken = tokio::spawn(async move { queue.take_slices(claim).await });
        taken.await.expect("a claim neither panics nor is aborted")
    }

    async fn take_slices(self: Arc<Self>, claim: Claim) -> Result<(Held, Option<u64>), StoreError> {
        let mut held = Held { queue: self.clone(), jobs: Vec::new() };
        let mut bytes = 0;
        loop {
            let left = claim.jobs_max - held.jobs.len();
            let slice = Claim { jobs_max: left.min(SLICE), ..claim.clone() };
            let asked = slice.jobs_max;
            self.tally.claim(asked);
            let claimed = self.store.claim(slice, self.now_ms()).await;
            self.tally.claimed(asked, claimed.as_ref().map_or(0, |claimed| claimed.jobs.len()));
            let Claimed { jobs, next_ms } = match claimed {
                Ok(claimed) => claimed,
                Err(error) if held.is_empty() => return Err(error),
                Err(_) => return Ok((held, None)),
            };
            let ended = jobs.len() < asked || jobs.len() == left;
            bytes += jobs.iter().map(|(job, _)| job.bytes()).sum::<usize>();
            held.jobs.extend(jobs);
            if ended || bytes >= SLICES_BYTES {
                return Ok((held, next_ms));
            }
        }
    }

    async fn release(self: Arc<Self>, jobs: Vec<(Job, Lease)>) {
        for (_, lease) in jobs {
            if let Err(error) = self.store.cancel(lease, Cancel::Released { progress: None }, self.now_ms()).await {
                tracing::debug!(app = &*self.app, queue = &*self.name, %error, "a job waits for the end of its lease");
            }
        }
    }
}

/// Claimed jobs on their way to whoever asked: released when dropped before that.
pub struct Held {
    queue: Arc<Queue>,
    jobs: Vec<(Job, Lease)>,
}

impl Held {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// They are the claimant's now.
    pub fn hand_over(mut self) -> Vec<(Job, Lease)> {
        std::mem::take(&mut self.jobs)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        // Without a runtime the process is about to end, and so is every lease.
        if let (false, Ok(runtime)) = (jobs.is_empty(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(self.queue.clone().release(jobs));
        }
    }
}
