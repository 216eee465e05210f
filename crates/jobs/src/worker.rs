//! The worker of a queue: claims its jobs, and takes each through all pipelines of the queue and into their sinks.
//!
//! ```text
//! claim ─► one task per job ─► every pipeline ─► its sinks      ─► finish    all that had to confirm has
//!            holds its lease                                    ─► cancel    tried again later, what is missing alone
//!                                                               ─► stall     for a person to look at
//! ```
//!
//! Always true:
//! - a job is finished when each record of each pipeline was dropped on purpose or confirmed by all required sinks; shadow
//!   pipelines, optional sinks and copies hold nothing and fail nothing;
//! - jobs of one key go one after the other, as the store gives them; so do the records of one job into one sink;
//! - while a target is away, its jobs wait with their leases extended, and no attempt of theirs is used up. They take up
//!   places: when all of `concurrency` wait, the queue does;
//! - a job that was claimed is finished, given back or stalled, unless its lease was lost: then it is somebody else's. To be
//!   stopped costs no attempt; to end in any other way does;
//! - a job's task that panics has failed that attempt, and nothing else.
//!
//! Not here: the clock, which is handed in; where jobs are kept (`store`); stages and sinks themselves.

mod alarm;
mod batch;
mod counts;
mod hold;
mod lease;
mod plan;
mod progress;
mod run;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

pub use alarm::Stuck;
pub use counts::{Counts, Passed};
pub use plan::{Lane, Plan};

use self::alarm::Alarm;
use self::counts::Counting;
use self::lease::Held;
use crate::backoff::Backoff;
use crate::job::{Job, Lease, Phase, State};
use crate::store::{Claim, Claimed, JobStore, Query, StoreError};

/// The clock of the store's verbs, in milliseconds.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Who claims, for the person who looks.
const OWNER: &str = "pipelines";

/// Jobs that are claimed at once.
const SLICE: usize = 64;

/// What failed is begun again.
const RESTART: Backoff = Backoff { first: Duration::from_millis(200), cap: Duration::from_secs(30) };

/// How long a worker that was told to stop gives back what it had.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// How jobs are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Jobs at once.
    pub concurrency: usize,
    /// Claims are made for so long, and extended while they are worked on.
    pub lease: Duration,
    /// A stage or a sink that has had input for so long and got nowhere raises an alarm.
    pub stuck_after: Duration,
}

/// Who else works on the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Nobody: claims of a worker that are there already are those of a process that has ended, and are ended at once.
    Nobody,
    /// Workers of other processes: what one of those has claimed comes back when its lease ends.
    Processes,
}

/// Works on one queue until it is stopped.
pub struct Worker(Arc<Inner>);

struct Inner {
    queue: Arc<str>,
    store: Arc<dyn JobStore>,
    now: Now,
    orders: Mutex<Orders>,
    /// Whether there may be claims of a process that has ended.
    inherits: AtomicBool,
    /// A job has ended, or there are new orders.
    changed: Notify,
    stop: watch::Sender<Stop>,
    counting: Counting<Counts>,
    alarm: Alarm,
}

/// What a worker goes by: changes with a reload.
#[derive(Clone)]
struct Orders {
    plan: Arc<Plan>,
    settings: Settings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    /// Not at all.
    Not,
    /// Nothing more is claimed.
    Claiming,
    /// What is under way is given back.
    Working,
}

impl Worker {
    /// Begins. Must be called on the runtime.
    pub fn start(
        queue: &str,
        store: Arc<dyn JobStore>,
        now: Now,
        plan: Plan,
        settings: Settings,
        others: Others,
    ) -> Worker {
        let inner = Arc::new(Inner {
            queue: queue.into(),
            store,
            now,
            orders: Mutex::new(Orders { plan: Arc::new(plan), settings }),
            inherits: AtomicBool::new(others == Others::Nobody),
            changed: Notify::new(),
            stop: watch::Sender::new(Stop::Not),
            counting: Counting::default(),
            alarm: Alarm::default(),
        });
        tokio::spawn(supervise(inner.clone(), "claims", |inner| inner.claims()));
        tokio::spawn(supervise(inner.clone(), "alarm", alarm::run));
        Worker(inner)
    }

    /// Goes by another plan from the next claim on; what is under way ends by the one that it began with.
    pub fn replace(&self, plan: Plan, settings: Settings) {
        *self.0.orders_mut() = Orders { plan: Arc::new(plan), settings };
        self.0.changed.notify_one();
    }

    /// The plan that it goes by.
    pub fn plan(&self) -> Arc<Plan> {
        self.0.orders().plan
    }

    /// What it has done.
    pub fn counts(&self) -> Counts {
        self.0.counting.read()
    }

    /// What gets nowhere.
    pub fn stuck(&self) -> Vec<Stuck> {
        self.0.alarm.raised()
    }

    /// Claims nothing more, leaves what is under way some time to end, and gives back the rest.
    pub async fn stop(&self, grace: Duration) {
        for (stop, patience) in [(Stop::Claiming, grace), (Stop::Working, GIVING_BACK)] {
            self.0.stop.send_replace(stop);
            if timeout(patience, self.0.idle()).await.is_ok() {
                break;
            }
        }
        self.0.stop.send_replace(Stop::Working);
    }
}

/// A worker that nobody has any more stops, and gives back what it had.
impl Drop for Worker {
    fn drop(&mut self) {
        self.0.stop.send_replace(Stop::Working);
    }
}

impl Inner {
    /// Claims and spawns, until it is told to stop.
    async fn claims(self: Arc<Self>) {
        let mut wakes = self.store.wakes();
        let mut failures = 0;
        while !self.stops(Stop::Claiming) {
            let Orders { plan, settings } = self.orders();
            let room = settings.concurrency.saturating_sub(self.in_flight());
            if room == 0 {
                self.wait(self.changed.notified()).await;
                continue;
            }
            wakes.mark_unchanged();
            let claimed = match self.inherit().await {
                Ok(()) => self.claim(room.min(SLICE), settings).await,
                Err(error) => Err(error),
            };
            match claimed {
                Ok(Claimed { jobs, next_ms }) if jobs.is_empty() => {
                    failures = 0;
                    let next = next_ms.map(|next_ms| Duration::from_millis(next_ms.saturating_sub((self.now)())));
                    self.wait(async {
                        tokio::select! {
                            Ok(()) = wakes.changed() => {}
                            () = self.changed.notified() => {}
                            () = sleep(next.unwrap_or(Duration::MAX)) => {}
                        }
                    })
                    .await;
                }
                Ok(Claimed { jobs, .. }) => {
                    failures = 0;
                    jobs.into_iter().for_each(|(job, lease)| self.begin(&plan, settings, job, lease));
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(queue = &*self.queue, %error, "no jobs can be claimed");
                    }
                    self.wait(sleep(RESTART.at_least_half_after(failures))).await;
                }
            }
        }
    }

    async fn claim(&self, jobs_max: usize, settings: Settings) -> Result<Claimed, StoreError> {
        self.counting.count(|counts| counts.asked_for = jobs_max as u64);
        let lease_ms = settings.lease.as_millis() as u64;
        let claimed = self.store.claim(Claim { jobs_max, lease_ms, owner: OWNER.into() }, (self.now)()).await;
        let got = claimed.as_ref().map_or(0, |claimed| claimed.jobs.len() as u64);
        self.counting.count(|counts| counts.asked_for = got);
        if got == 0 && self.stops(Stop::Claiming) {
            self.changed.notify_one();
        }
        claimed
    }

    /// Ends what a process that has ended has claimed. Each was an attempt: it may have ended for one of them.
    async fn inherit(&self) -> Result<(), StoreError> {
        if !self.inherits.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut query = Query { limit: SLICE, ..Query::all(State::Claimed) };
        loop {
            let page = self.store.list(query.clone()).await?;
            for entry in page.entries {
                let Phase::Claimed { lease, owner } = entry.phase else { continue };
                if *owner == *OWNER {
                    let now_ms = (self.now)();
                    match self.store.extend(lease, now_ms, now_ms).await {
                        // It has ended by itself meanwhile.
                        Ok(_) | Err(StoreError::LeaseLost(_) | StoreError::Unknown(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        self.inherits.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn begin(self: &Arc<Self>, plan: &Arc<Plan>, settings: Settings, job: Job, lease: Lease) {
        let held = Held::new(Place::take(self), lease, settings.lease);
        tokio::spawn(run::work(held, plan.clone(), job));
    }

    /// Waits, but not longer than until claiming ends.
    async fn wait(&self, until: impl Future<Output = ()>) {
        tokio::select! {
            () = until => {}
            () = self.stopped(Stop::Claiming) => {}
        }
    }

    fn stops(&self, what: Stop) -> bool {
        *self.stop.borrow() >= what
    }

    async fn stopped(&self, what: Stop) {
        // The sender is our own.
        let _ = self.stop.subscribe().wait_for(|stop| *stop >= what).await;
    }

    /// Also waits for a claim that is under way: what it brings has to be given back.
    async fn idle(&self) {
        let under_way = || {
            let Counts { in_flight, asked_for, .. } = self.counting.read();
            in_flight + asked_for > 0
        };
        while under_way() {
            self.changed.notified().await;
        }
    }

    fn in_flight(&self) -> usize {
        self.counting.read().in_flight as usize
    }

    fn orders(&self) -> Orders {
        self.orders_mut().clone()
    }

    fn orders_mut(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job's place among those that are worked on at once.
struct Place {
    inner: Arc<Inner>,
    ended: bool,
}

impl Place {
    fn take(inner: &Arc<Inner>) -> Place {
        inner.counting.count(|counts| {
            counts.asked_for = counts.asked_for.saturating_sub(1);
            counts.claimed += 1;
            counts.in_flight += 1;
        });
        Place { inner: inner.clone(), ended: false }
    }

    /// Says what has become of the job; if nobody does, it was lost.
    fn end(&mut self, to: fn(&mut Counts) -> &mut u64) {
        self.ended = true;
        self.inner.counting.count(|counts| {
            counts.in_flight -= 1;
            *to(counts) += 1;
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.ended {
            self.end(|counts| &mut counts.lost);
        }
        self.inner.changed.notify_one();
    }
}

/// Runs a task again whenever it panics, until the worker stops.
async fn supervise<F>(inner: Arc<Inner>, what: &'static str, task: fn(Arc<Inner>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for failures in 1.. {
        match tokio::spawn(task(inner.clone())).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(queue = &*inner.queue, what, %error, "a task of a worker has ended; it is begun again")
            }
        }
        inner.wait(sleep(RESTART.at_least_half_after(failures))).await;
        if inner.stops(Stop::Claiming) {
            return;
        }
    }
}
