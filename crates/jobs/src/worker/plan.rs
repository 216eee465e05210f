//! What is done with a queue's jobs: its pipelines, side by side, each with its sinks.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::batch::Batches;
use super::counts::{Counting, Passed};
use super::hold::Windows;
use crate::pipeline::{Pipeline, Record};
use crate::sinks::{Effort, Outlet};

/// What nobody waits for and is under way for one sink, or as jobs of one shadow. Beyond it: not done, and counted.
const ASIDE_MAX: usize = 256;

/// Room for what nobody waits for.
struct Aside(Arc<Semaphore>);

impl Default for Aside {
    fn default() -> Aside {
        Aside(Arc::new(Semaphore::new(ASIDE_MAX)))
    }
}

impl Aside {
    /// Does something; answers whether there was room.
    fn begin(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(permit) = self.0.clone().try_acquire_owned() else { return false };
        tokio::spawn(async move {
            task.await;
            drop(permit);
        });
        true
    }
}

/// A pipeline and its sinks.
pub struct Lane {
    /// The stages.
    pub pipeline: Pipeline,
    /// The sinks.
    pub outlets: Vec<Outlet>,
    /// Whether it is only tried out: no job waits for it.
    pub shadow: bool,
    /// Of each stage.
    pub(super) windows: Vec<Arc<Windows>>,
    pub(super) batches: Batches,
    tried_out: Aside,
    /// One for each sink, so that none takes what the others need.
    offered: Vec<Aside>,
    overflown: Arc<AtomicU64>,
    pub(super) passed: Arc<Counting<Passed>>,
}

impl Lane {
    /// A pipeline that ends in these sinks.
    pub fn new(pipeline: Pipeline, outlets: Vec<Outlet>, shadow: bool) -> Lane {
        let windows = pipeline.stages().iter().map(|_| Arc::default()).collect();
        let offered = outlets.iter().map(|_| Aside::default()).collect();
        Lane {
            pipeline,
            outlets,
            shadow,
            windows,
            batches: Batches::default(),
            tried_out: Aside::default(),
            offered,
            overflown: Arc::default(),
            passed: Arc::default(),
        }
    }

    /// The same, with what those stages remember that the one which it takes the place of has too, and counting on where that
    /// one did, if both have the same stages and sinks. If not, each counts for itself: what goes out of a stage is then not
    /// what goes into the next.
    pub fn in_place_of(mut self, before: &Lane) -> Lane {
        for (here, there) in self.pipeline.remember_from(&before.pipeline) {
            self.windows[here] = before.windows[there].clone();
        }
        if !self.is_built_like(before) {
            return self;
        }
        self.pipeline.count_on_from(&before.pipeline);
        self.outlets.iter_mut().zip(&before.outlets).for_each(|(outlet, before)| outlet.count_on_from(before));
        Lane { overflown: before.overflown.clone(), passed: before.passed.clone(), ..self }
    }

    fn is_built_like(&self, other: &Lane) -> bool {
        let stages = |lane: &Lane| lane.pipeline.stages().iter().map(|slot| (slot.name.clone(), slot.kind)).collect();
        let sinks = |lane: &Lane| lane.outlets.iter().map(|outlet| (outlet.name.clone(), outlet.kind)).collect();
        let parts = |lane: &Lane| -> [Vec<(Arc<str>, &'static str)>; 2] { [stages(lane), sinks(lane)] };
        let (queue, shadow) = (self.pipeline.queue(), self.shadow);
        (queue, shadow) == (other.pipeline.queue(), other.shadow) && parts(self) == parts(other)
    }

    /// Whether both count as one.
    pub fn counts_with(&self, other: &Lane) -> bool {
        Arc::ptr_eq(&self.passed, &other.passed)
    }

    /// What has become of jobs and records between the stages and the sinks.
    pub fn passed(&self) -> Passed {
        self.passed.read()
    }

    /// Jobs that a shadow pipeline did not have, as too many were under way.
    pub fn overflown(&self) -> u64 {
        self.overflown.load(Ordering::Relaxed)
    }

    /// Has the pipeline try a job out, if it is not too far behind.
    pub(super) fn try_out(&self, task: impl Future<Output = ()> + Send + 'static) {
        if !self.tried_out.begin(task) {
            self.overflown.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands a record to one of the sinks, without waiting.
    pub(super) fn offer(self: &Arc<Self>, outlet: usize, record: &Arc<Record>) {
        let (lane, record) = (self.clone(), record.clone());
        let begun = self.offered[outlet].begin(async move {
            // It has been counted there, and that is all that becomes of it.
            let outlet = &lane.outlets[outlet];
            let _ = outlet.deliver(&mut outlet.expect(1), &record, lane.pipeline.queue(), Effort::Best).await;
        });
        if !begun {
            self.outlets[outlet].overflow();
        }
    }
}

/// The pipelines of a queue.
#[derive(Clone, Default)]
pub struct Plan {
    lanes: Vec<Arc<Lane>>,
}

impl Plan {
    /// These pipelines. One that was in an earlier plan keeps what it remembers and has counted.
    pub fn new(lanes: Vec<Arc<Lane>>) -> Plan {
        Plan { lanes }
    }

    /// The pipelines.
    pub fn lanes(&self) -> &[Arc<Lane>] {
        &self.lanes
    }

    /// What tells the records of a pipeline from those of the queue's others: nothing, for the first that jobs wait for.
    pub(super) fn branch(&self, of: &Lane) -> Option<Arc<str>> {
        let first = self.lanes.iter().find(|lane| !lane.shadow);
        let name = of.pipeline.name();
        (first.is_none_or(|first| first.pipeline.name() != name)).then(|| name.clone())
    }

    /// Hands a copy to all sinks of the named pipeline; `nth` tells it from those that other stages of the same pipeline give.
    /// A reload may have taken that pipeline away.
    pub(super) fn copy(&self, from: &str, to: &str, nth: usize, record: Record) {
        let Some(lane) = self.lanes.iter().find(|lane| **lane.pipeline.name() == *to) else { return };
        let branch = match nth {
            0 => format!("{from}>{to}"),
            nth => format!("{from}>{to}.{nth}"),
        };
        let record = Arc::new(Record { branch: Some(branch.into()), ..record });
        lane.passed.count(|passed| passed.copied += 1);
        (0..lane.outlets.len()).for_each(|outlet| lane.offer(outlet, &record));
    }
}
