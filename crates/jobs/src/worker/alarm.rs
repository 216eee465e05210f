//! Says when a stage or a sink has input and gets nowhere.
//!
//! Always true: an alarm is logged once when it is raised, and once when it is over. Stages that hold records on purpose
//! raise none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Inner, Plan, Stop};

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stuck {
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// The stage, or the sink.
    pub part: Arc<str>,
}

/// What is being watched.
#[derive(Default)]
pub(super) struct Alarm(Mutex<BTreeMap<Stuck, Watched>>);

struct Watched {
    /// What has left so far.
    left: u64,
    /// Since when nothing more has.
    since: Instant,
    raised: bool,
}

impl Alarm {
    pub(super) fn raised(&self) -> Vec<Stuck> {
        self.parts().iter().filter(|(_, watched)| watched.raised).map(|(part, _)| part.clone()).collect()
    }

    fn look(&self, plan: &Plan, after: Duration, now: Instant) {
        let mut parts = self.parts();
        let mut busy = BTreeMap::new();
        for (part, left) in busy_parts(plan) {
            let before = parts.remove(&part).filter(|before| before.left == left);
            let mut watched = before.unwrap_or(Watched { left, since: now, raised: false });
            let idle = now.duration_since(watched.since);
            if idle >= after && !watched.raised {
                watched.raised = true;
                let (pipeline, part) = (&*part.pipeline, &*part.part);
                tracing::warn!(pipeline, part, idle_s = idle.as_secs(), "no progress while records wait");
            }
            busy.insert(part, watched);
        }
        for part in parts.iter().filter(|(_, watched)| watched.raised).map(|(part, _)| part) {
            tracing::info!(pipeline = &*part.pipeline, part = &*part.part, "progress again");
        }
        *parts = busy;
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Stuck, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts that have something to do, and how much has left each so far.
fn busy_parts(plan: &Plan) -> Vec<(Stuck, u64)> {
    let mut parts = Vec::new();
    for lane in plan.lanes() {
        let mut add = |part: &Arc<str>, in_flight: u64, left: u64| {
            if in_flight > 0 {
                parts.push((Stuck { pipeline: lane.pipeline.name().clone(), part: part.clone() }, left));
            }
        };
        let holds = |kind| matches!(kind, "delay" | "coalesce" | "batch" | "fault");
        for slot in lane.pipeline.stages().iter().filter(|slot| !holds(slot.kind)) {
            let tally = slot.counts.read();
            add(&slot.name, tally.in_flight, tally.out + tally.dropped_total() + tally.failed);
        }
        for outlet in &lane.outlets {
            let tally = outlet.counts();
            add(&outlet.name, tally.in_flight, tally.entered - tally.in_flight);
        }
    }
    parts
}

/// Looks again and again, until the worker stops.
pub(super) async fn run(inner: Arc<Inner>) {
    while !inner.stops(Stop::Working) {
        let orders = inner.orders();
        let after = orders.settings.stuck_after;
        inner.alarm.look(&orders.plan, after, Instant::now());
        tokio::select! {
            () = sleep((after / 4).clamp(Duration::from_millis(50), Duration::from_secs(5))) => {}
            () = inner.stopped(Stop::Working) => {}
        }
    }
}
