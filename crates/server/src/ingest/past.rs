//! Workers and pipelines that a reload took away: what they have begun they still end, and what they have counted stays in
//! the sums of their queue.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_jobs::worker::Lane;

use super::{Name, Piped};

/// What is over, and what ends.
#[derive(Default)]
pub(super) struct Past {
    workers: Vec<Arc<Piped>>,
    lanes: Vec<(Name, Arc<Lane>)>,
    over: BTreeMap<Name, Over>,
}

/// What workers and pipelines of a queue had counted when they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// Jobs that were claimed.
    pub claimed: u64,
    /// Jobs that pipelines were to have, counted for each.
    pub passes: u64,
    /// Jobs that pipelines took, counted for each.
    pub taken: u64,
    /// Publications that channels were to have.
    pub routes: u64,
}

impl Past {
    pub(super) fn add_worker(&mut self, piped: Arc<Piped>) {
        self.workers.push(piped);
    }

    /// Takes the pipeline of this queue, unless it is here already.
    pub(super) fn add_lane(&mut self, queue: Name, lane: &Arc<Lane>) {
        if !self.lanes.iter().any(|(_, known)| known.counts_with(lane)) {
            self.lanes.push((queue, lane.clone()));
        }
    }

    /// Adds up what nobody works with any more.
    pub(super) fn fold(&mut self) {
        let over = &mut self.over;
        self.workers.retain(|piped| {
            let counts = piped.worker.counts();
            let ends = Arc::strong_count(piped) > 1 || counts.in_flight > 0;
            if !ends {
                let sums = over.entry((piped.queue.app.clone(), piped.queue.name.clone())).or_default();
                sums.claimed += counts.claimed;
                sums.passes += counts.passes;
            }
            ends
        });
        self.lanes.retain(|(queue, lane)| {
            let ends = Arc::strong_count(lane) > 1;
            if !ends && !lane.shadow {
                let sums = over.entry(queue.clone()).or_default();
                sums.taken += lane.passed().taken;
                sums.routes += routes(lane);
            }
            ends
        });
    }

    pub(super) fn workers(&self, queue: &Name) -> impl Iterator<Item = Arc<Piped>> {
        let of_queue = |piped: &&Arc<Piped>| (&piped.queue.app, &piped.queue.name) == (&queue.0, &queue.1);
        self.workers.iter().filter(of_queue).cloned()
    }

    pub(super) fn lanes(&self, queue: &Name) -> impl Iterator<Item = Arc<Lane>> {
        self.lanes.iter().filter(move |(of, _)| of == queue).map(|(_, lane)| lane.clone())
    }

    pub(super) fn over(&self, queue: &Name) -> Over {
        self.over.get(queue).copied().unwrap_or_default()
    }

    /// All queues that there is something to say of.
    pub(super) fn queues(&self) -> impl Iterator<Item = Name> {
        let workers = self.workers.iter().map(|piped| (piped.queue.app.clone(), piped.queue.name.clone()));
        workers.chain(self.lanes.iter().map(|(queue, _)| queue.clone())).chain(self.over.keys().cloned())
    }
}

/// What of a pipeline's records channels of this node confirmed, each route counted by itself.
pub fn routes(lane: &Lane) -> u64 {
    lane.outlets.iter().filter(|outlet| outlet.kind == "channels").map(|outlet| outlet.counts().routes).sum()
}
