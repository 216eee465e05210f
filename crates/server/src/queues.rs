//! The node's queues: which there are, what each keeps its jobs in, and what happens to them by itself.
//!
//! Always true:
//! - a queue is one store for the life of the process, whatever reloads say of it;
//! - a queue that a reload takes away keeps its jobs: they are there again when it comes back;
//! - leases and delays end by a clock that nobody sets.
//!
//! Not here: what a verb does to a job, and how it is kept (`fanfare_jobs`); who may ask (`api`).

mod clock;
mod queue;
mod stores;
mod tally;

pub use clock::Clock;
pub use queue::{Queue, SLICE, SLICES_BYTES};
pub use stores::{BadStore, Kept, Shared};
pub use tally::AtTheDoor;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fanfare_jobs::log::Keep;
use fanfare_jobs::{Counts, Log};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use self::stores::{Stores, full_name};
use crate::config::{AppSettings, Config, Durability, QueueSettings};
use crate::readiness::{Readiness, Unready};

/// How often what is due is done where nobody asks, and what finished long ago forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The queues of one app, by name.
type OfApp = BTreeMap<Arc<str>, Arc<Queue>>;

/// All queues; cheap to clone.
#[derive(Clone)]
pub struct Queues(Arc<Inner>);

struct Inner {
    clock: Clock,
    stores: Stores,
    now: ArcSwap<Snapshot>,
    stopping: watch::Sender<bool>,
}

#[derive(Default)]
struct Snapshot {
    by_app: HashMap<Arc<str>, OfApp>,
    /// Those that are configured no more, and had jobs.
    left: Vec<Arc<Queue>>,
}

impl Snapshot {
    fn all(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.by_app.values().flat_map(OfApp::values)
    }
}

impl Queues {
    /// Those of a configuration, and the task that sweeps them. Must be called on the runtime.
    pub fn start(config: &Config, kept: Kept, readiness: Readiness) -> Result<Queues, BadStore> {
        let queues = Queues(Arc::new(Inner {
            clock: Clock::start(),
            stores: Stores::new(kept, config.dev),
            now: ArcSwap::default(),
            stopping: watch::Sender::new(false),
        }));
        queues.put_in_place(queues.prepare(config, Vec::new())?, config);
        queues.name_strangers(config);
        tokio::spawn(queues.clone().sweep(readiness));
        Ok(queues)
    }

    /// Jobs that nobody will ask for, unless somebody is told.
    fn name_strangers(&self, config: &Config) {
        let on_disk = |settings: &&QueueSettings| settings.durability == Durability::Disk;
        let of_app = |app: &AppSettings| {
            let full = |settings: &QueueSettings| full_name(&app.id, &settings.name);
            app.queues.iter().filter(on_disk).map(full).collect::<Vec<_>>()
        };
        let configured: HashSet<_> = config.apps.iter().flat_map(of_app).collect();
        for queue in self.0.stores.on_disk().iter().filter(|name| !configured.contains(*name)) {
            tracing::warn!(
                queue = &**queue,
                "a queue that is on disk is not configured: its jobs are kept, and nobody can claim them"
            );
        }
    }

    /// One of an app's.
    pub fn find(&self, app: &str, name: &str) -> Option<Arc<Queue>> {
        self.0.now.load().by_app.get(app)?.get(name).cloned()
    }

    /// All of an app's, by name.
    pub fn of_app(&self, app: &str) -> Vec<Arc<Queue>> {
        let now = self.0.now.load();
        now.by_app.get(app).into_iter().flat_map(OfApp::values).cloned().collect()
    }

    /// All that are configured.
    pub fn all(&self) -> Vec<Arc<Queue>> {
        self.0.now.load().all().cloned().collect()
    }

    /// An app's log, beside the queues.
    pub fn log(&self, app: &str, durability: Durability, keep: Keep) -> Result<Arc<dyn Log>, BadStore> {
        self.0.stores.log(app, durability, keep)
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Goes by another configuration. Only one reload runs at a time.
    pub async fn reload(&self, config: &Config) {
        let mut left = Vec::new();
        for queue in self.gone(config) {
            match queue.store.counts().await {
                Ok(counts) if unfinished(&counts) == 0 => {}
                counts => {
                    let jobs = counts.map(|counts| unfinished(&counts)).ok();
                    let (app, queue_name) = (&*queue.app, &*queue.name);
                    tracing::warn!(
                        app,
                        queue = queue_name,
                        jobs,
                        "a queue with jobs in it is configured no more: they are kept, and nobody can claim them until it is back"
                    );
                    left.push(queue);
                }
            }
        }
        match self.prepare(config, left) {
            Ok(next) => {
                begin(next.all()).await;
                self.put_in_place(next, config);
            }
            Err(error) => tracing::error!(%error, "queues stay as they were"),
        }
    }

    fn gone(&self, config: &Config) -> Vec<Arc<Queue>> {
        let configured = |queue: &Queue| {
            let app = config.apps.iter().find(|app| app.id == queue.app);
            app.is_some_and(|app| app.queues.iter().any(|settings| settings.name == queue.name))
        };
        let known = self.0.now.load();
        let known = known.by_app.values().flat_map(OfApp::values).chain(&known.left);
        known.filter(|queue| !configured(queue)).cloned().collect()
    }

    /// All of it, or nothing; queues that there are go by what they did.
    fn prepare(&self, config: &Config, left: Vec<Arc<Queue>>) -> Result<Snapshot, BadStore> {
        let mut next = Snapshot { left, ..Snapshot::default() };
        for app in &config.apps {
            let mut of_app = OfApp::new();
            for settings in &app.queues {
                of_app.insert(settings.name.clone(), self.queue(&app.id, settings)?);
            }
            next.by_app.insert(app.id.clone(), of_app);
        }
        Ok(next)
    }

    fn put_in_place(&self, next: Snapshot, config: &Config) {
        for app in &config.apps {
            for settings in &app.queues {
                next.by_app[&app.id][&settings.name].go_by(settings);
            }
        }
        self.0.now.store(Arc::new(next));
    }

    /// Notes what the stores have counted so far: to be called before anybody uses them.
    pub async fn begin(&self) {
        begin(self.all().iter()).await;
    }

    /// The queue that there is, under these settings; or a new one.
    fn queue(&self, app: &Arc<str>, settings: &QueueSettings) -> Result<Arc<Queue>, BadStore> {
        let now = self.0.now.load();
        let left = || now.left.iter().find(|queue| queue.app == *app && queue.name == settings.name).cloned();
        match self.find(app, &settings.name).or_else(left) {
            Some(queue) => Ok(queue),
            None => {
                let store = self.0.stores.store(app, settings)?;
                let (clock, stopping) = (self.0.clock, self.0.stopping.subscribe());
                Ok(Arc::new(Queue::new(app.clone(), settings, store, clock, stopping)))
            }
        }
    }

    /// Sends away everybody who waits for jobs: the server stops.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    /// When nobody is there any more to use them: what was accepted is where it is kept, for the next process.
    pub async fn close(self) {
        let closed = tokio::task::spawn_blocking(move || self.0.stores.close()).await;
        closed.expect("closing does not panic");
    }

    async fn sweep(self, readiness: Readiness) {
        let mut every = interval(SWEEP_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let all = self.all();
            for queue in &all {
                queue.sweep().await;
            }
            // What nodes share is no better at another one.
            let unwritable = !self.0.stores.are_shared() && all.iter().any(|queue| !queue.is_writable());
            readiness.set(Unready::QueueUnwritable, unwritable);
        }
    }
}

async fn begin(queues: impl Iterator<Item = &Arc<Queue>>) {
    for queue in queues {
        queue.begin().await;
    }
}

/// Jobs that somebody still has to do something about.
pub fn unfinished(counts: &Counts) -> u64 {
    counts.waiting + counts.delayed + counts.claimed + counts.stalled
}
