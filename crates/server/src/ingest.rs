//! The pipelines of this node: one worker for each queue that has some.
//!
//! Always true:
//! - a reload that leaves a pipeline as it was leaves what it has counted, too; and what a stage remembers it still does if
//!   that stage is left as it was;
//! - what a replaced pipeline has begun it ends, and the one in its place counts on where it did.
//!
//! Not here: what becomes of a job (`fanfare_jobs::worker`); how pipelines are written (`config`).

pub mod channels;
pub mod compile;
mod edges;
mod past;
pub mod recall;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare_jobs::worker::{Lane, Others, Plan, Settings, Worker};
use futures_util::future::join_all;

use self::compile::Means;
use self::past::Past;
pub use self::past::{Over, routes};
use self::recall::{Recall, Recalled};
use crate::api::publish::Publisher;
use crate::apps::Apps;
use crate::config::{AppSettings, Config, Durability, IngestSettings, PipelineSettings};
use crate::queues::{Queue, Queues};

/// How long the worker of a queue that has no pipelines any more may go on with what it has begun.
const GRACE: Duration = Duration::from_secs(10);

/// All workers; cheap to clone.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    queues: Queues,
    publisher: Arc<Publisher>,
    apps: Apps,
    means: Means,
    recall: Recall,
    others: Others,
    running: Mutex<Running>,
}

/// An app and a name within it.
type Name = (Arc<str>, Arc<str>);

#[derive(Default)]
struct Running {
    /// By app and queue.
    workers: BTreeMap<Name, Arc<Piped>>,
    /// By app and pipeline.
    lanes: BTreeMap<Name, (MadeOf, Arc<Lane>)>,
    past: Past,
    stopped: bool,
}

/// Who works on a queue, or has.
pub struct OfQueue {
    /// Whose it is.
    pub app: Arc<str>,
    /// The queue.
    pub queue: Arc<str>,
    /// Its worker, and those before it that still end something.
    pub workers: Vec<Arc<Piped>>,
    /// Its pipelines.
    pub lanes: Vec<Arc<Lane>>,
    /// Pipelines before those, which still end something.
    pub former: Vec<Arc<Lane>>,
    /// What all others have counted.
    pub over: Over,
}

/// A queue and its worker.
pub struct Piped {
    /// The queue.
    pub queue: Arc<Queue>,
    /// Its worker.
    pub worker: Worker,
}

/// All that a compiled pipeline follows from, but for files that its stages have read.
#[derive(Clone, PartialEq)]
struct MadeOf {
    pipeline: PipelineSettings,
    ingest: IngestSettings,
    siblings: BTreeSet<String>,
    channel_name_len_max: usize,
}

impl Ingest {
    /// Begins with what a configuration says. Must be called on the runtime.
    pub fn start(config: &Config, queues: Queues, publisher: Arc<Publisher>, apps: Apps, recall: Recall) -> Ingest {
        // Without Redis, a queue is this process' alone: its directory is locked.
        let others = if config.redis.is_some() { Others::Processes } else { Others::Nobody };
        let (means, running) = (Means::default(), Mutex::default());
        let ingest = Ingest(Arc::new(Inner { queues, publisher, apps, means, recall, others, running }));
        ingest.reload(config);
        ingest
    }

    /// Goes by another configuration, whose queues and apps are in place already.
    pub fn reload(&self, config: &Config) {
        let mut running = self.running();
        if running.stopped {
            return;
        }
        let mut before = std::mem::take(&mut *running);
        running.past = std::mem::take(&mut before.past);
        let piped = config.apps.iter().filter(|_| config.role.is_worker());
        for app in piped {
            for queue in self.0.queues.of_app(&app.id) {
                let lanes = self.lanes(app, &queue, &config.ingest, &before, &mut running);
                if !lanes.is_empty() {
                    self.put_in_place(queue, Plan::new(lanes), &config.ingest, &before, &mut running);
                }
            }
        }
        for ((app, _), (made_of, lane)) in &before.lanes {
            if !running.lanes.values().any(|(_, now)| now.counts_with(lane)) {
                running.past.add_lane((app.clone(), made_of.pipeline.queue.clone()), lane);
            }
        }
        for (name, piped) in before.workers {
            let stays = running.workers.get(&name).is_some_and(|now| Arc::ptr_eq(now, &piped));
            if !stays {
                running.past.add_worker(piped.clone());
                tokio::spawn(async move { piped.worker.stop(GRACE).await });
            }
        }
    }

    /// The pipelines of a queue: those that there are, where nothing has changed.
    fn lanes(
        &self,
        app: &AppSettings,
        queue: &Queue,
        ingest: &IngestSettings,
        before: &Running,
        running: &mut Running,
    ) -> Vec<Arc<Lane>> {
        let mut lanes = Vec::new();
        for pipeline in app.pipelines.iter().filter(|pipeline| pipeline.queue == queue.name) {
            let name = (app.id.clone(), pipeline.name.clone());
            let made_of = MadeOf {
                pipeline: pipeline.clone(),
                ingest: ingest.clone(),
                siblings: compile::siblings(app, pipeline),
                channel_name_len_max: app.limits.channel_name_len_max,
            };
            let known = before.lanes.get(&name);
            let same = |(before, lane): &&(MadeOf, Arc<Lane>)| *before == made_of && lane.pipeline.is_current();
            let (made_of, lane) = match known.filter(same) {
                Some((_, lane)) => (made_of, lane.clone()),
                None => {
                    // What jobs of a queue in memory publish is as lasting as they are.
                    let on_disk = queue.settings().durability == Durability::Disk;
                    let recall = if on_disk { self.0.recall.clone() } else { Recall::default() };
                    let (publisher, apps) = (self.0.publisher.clone(), self.0.apps.clone());
                    let channels = channels::kind(publisher, apps, app.id.clone(), recall);
                    match compile::lane(app, pipeline, ingest, &self.0.means, channels) {
                        Ok(lane) => {
                            let lane = match known {
                                Some((_, before)) => lane.in_place_of(before),
                                None => lane,
                            };
                            (made_of, Arc::new(lane))
                        }
                        Err(wrong) => {
                            tracing::error!(app = &*app.id, %wrong, "a pipeline does not compile any more; what there was stays");
                            let Some(known) = known else { continue };
                            known.clone()
                        }
                    }
                }
            };
            running.lanes.insert(name, (made_of, lane.clone()));
            lanes.push(lane);
        }
        lanes
    }

    fn put_in_place(
        &self,
        queue: Arc<Queue>,
        plan: Plan,
        ingest: &IngestSettings,
        before: &Running,
        running: &mut Running,
    ) {
        let settings = queue.settings();
        let (concurrency, lease) = (settings.concurrency, settings.lease);
        let settings = Settings { concurrency, lease, stuck_after: ingest.stuck_after };
        let name = (queue.app.clone(), queue.name.clone());
        let piped = match before.workers.get(&name).filter(|piped| Arc::ptr_eq(&piped.queue, &queue)) {
            Some(piped) => {
                piped.worker.replace(plan, settings);
                piped.clone()
            }
            None => {
                let clock = queue.clone();
                let now = Arc::new(move || clock.now_ms());
                // One before it may still have claims of its own.
                let follows = before.workers.contains_key(&name) || running.past.workers(&name).next().is_some();
                let others = if follows { Others::Processes } else { self.0.others };
                let worker = Worker::start(&queue.name, queue.store.clone(), now, plan, settings, others);
                Arc::new(Piped { queue, worker })
            }
        };
        running.workers.insert(name, piped);
    }

    /// Who works on queues, and what those have counted who did before.
    pub fn of_queues(&self) -> Vec<OfQueue> {
        let mut running = self.running();
        running.past.fold();
        let names: BTreeSet<Name> = running.workers.keys().cloned().chain(running.past.queues()).collect();
        names.into_iter().map(|name| running.of_queue(name)).collect()
    }

    /// How writing down what is published goes, where it is.
    pub fn recalled(&self) -> Option<Recalled> {
        self.0.recall.state()
    }

    /// All queues that have pipelines.
    pub fn piped(&self) -> Vec<Arc<Piped>> {
        self.running().workers.values().cloned().collect()
    }

    /// Claims nothing more, leaves what is under way some time, and gives back the rest.
    pub async fn stop(&self, grace: Duration) {
        let workers: Vec<_> = {
            let mut running = self.running();
            running.stopped = true;
            running.workers.values().cloned().collect()
        };
        join_all(workers.iter().map(|piped| piped.worker.stop(grace))).await;
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn of_queue(&self, name: Name) -> OfQueue {
        let current = self.workers.get(&name);
        OfQueue {
            workers: current.cloned().into_iter().chain(self.past.workers(&name)).collect(),
            lanes: current.map(|piped| piped.worker.plan().lanes().to_vec()).unwrap_or_default(),
            former: self.past.lanes(&name).collect(),
            over: self.past.over(&name),
            app: name.0,
            queue: name.1,
        }
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").finish_non_exhaustive()
    }
}
