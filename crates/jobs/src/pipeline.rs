//! Pipelines: what is done to a job's data between its queue and the sinks.
//!
//! A pipeline is a list of stages, each a function of a record; [`compile`] makes it of what the configuration says, and
//! [`Pipeline::run`] sends a record through it:
//!
//! ```text
//! Record::new(queue, job, now) ─► run(0, …) ─► [Step]   Through   hand to the sinks: record.routes, record.text()
//!                                               Held      wait as `hold` says, then `resume`, or `drop_held`, or with others
//!                                                         `resume_joined`
//!                                               Copied    hand to the sinks of another pipeline; nobody waits for it
//!                                               Dropped   on purpose: counts as done
//!                                               Failed    the job is tried again (`retry`), or stalled
//! ```
//!
//! A job is done when each of its records has been dropped or confirmed by the sinks. A publication carries
//! [`Record::event_id`], and to a route goes [`Record::text_for`].
//!
//! Always true:
//! - each stage counts what it had, and the sums are right at any moment ([`Counts`]);
//! - at a job's next attempt its records have the same ids, and stages decide the same about them, but for those that go
//!   by the time or the attempt;
//! - a stage that panics has failed that record, and nothing else.
//!
//! Not here: waiting, sinks, the clock, sockets; and what a channel's name may be: a rule is handed in.

mod compile;
mod condition;
mod counts;
mod hash;
mod params;
mod path;
pub mod record;
mod registry;
mod scope;
mod sealing;
mod stage;
mod stages;
mod template;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

pub use compile::{ChannelRule, Place, Secret, Shared, Table, Written, Wrong, compile};
pub(crate) use compile::{check_keys, suggest};
pub use condition::Condition;
pub use counts::{Counts, Tally};
pub(crate) use hash::hex;
pub use params::{Bad, Params};
pub use record::{Body, Fields, Lap, RECORDS_MAX, Record, RecordId, Route, Unsayable};
pub(crate) use registry::table;
pub use registry::{Key, Need, default, optional, reference, required};
pub use sealing::Sealer;
pub use stage::{At, Failed, Hold, OnError, Outcome, Reason, Stage};
pub use stages::batch::Batch;
pub(crate) use stages::batch::bytes;
pub use stages::compare::Comparisons;

/// A compiled pipeline. Stages that remember something remember it for as long as it lives, and one in its place may go on
/// with that ([`Pipeline::remember_from`]).
pub struct Pipeline {
    name: Arc<str>,
    queue: Arc<str>,
    stages: Vec<Slot>,
    /// Whether laps are wanted.
    traced: bool,
}

/// A stage in its place.
pub struct Slot {
    /// Its name in the pipeline.
    pub name: Arc<str>,
    /// What it is.
    pub kind: &'static str,
    /// What is done with what it fails.
    pub on_error: OnError,
    /// What it has counted.
    pub counts: Arc<Counts>,
    /// As it is written: one that is written the same does the same.
    written: Table,
    stage: Arc<dyn Stage>,
}

impl Slot {
    /// What the stage counts beside what all stages do.
    pub fn figures(&self) -> Vec<(String, u64)> {
        self.stage.figures()
    }
}

/// Where a record has come to.
#[derive(Debug)]
pub enum Step {
    /// To the end: the sinks are next.
    Through(Record),
    /// To a stage that holds it.
    Held {
        /// The stage, by its index.
        stage: usize,
        /// The record.
        record: Record,
        /// What it waits for.
        hold: Hold,
    },
    /// A copy, for the sinks of the named pipeline.
    Copied {
        /// The pipeline.
        to: Arc<str>,
        /// How many stages before this one give it copies too.
        nth: usize,
        /// What the record was at the time.
        record: Record,
    },
    /// Nowhere: it was dropped on purpose.
    Dropped {
        /// The stage, by its index.
        stage: usize,
        /// Which record.
        id: RecordId,
        /// Why.
        reason: Reason,
    },
    /// Nowhere: a stage failed it.
    Failed {
        /// The stage, by its index.
        stage: usize,
        /// Which record.
        id: RecordId,
        /// Whether the job is to be tried again; else it is to be stalled.
        retry: bool,
        /// Why.
        why: String,
    },
}

impl Pipeline {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The queue whose jobs it takes.
    pub fn queue(&self) -> &Arc<str> {
        &self.queue
    }

    /// Its stages, in order.
    pub fn stages(&self) -> &[Slot] {
        &self.stages
    }

    /// Whether compiling it again would make the same: files that its stages have read are still as they were.
    pub fn is_current(&self) -> bool {
        self.stages.iter().all(|slot| slot.stage.is_current())
    }

    /// Counts on where an earlier pipeline of the same stages did: what that one has begun it still ends, and the sums are
    /// those of both.
    pub fn count_on_from(&mut self, before: &Pipeline) {
        for (slot, before) in self.stages.iter_mut().zip(&before.stages) {
            slot.counts = before.counts.clone();
        }
    }

    /// Stages that are written as they were in an earlier pipeline of the queue go on with what those remember. Answers which:
    /// the index here, and the one there.
    pub fn remember_from(&mut self, before: &Pipeline) -> Vec<(usize, usize)> {
        let mut same: Vec<(usize, usize)> = Vec::new();
        if self.queue != before.queue {
            return same;
        }
        for (here, slot) in self.stages.iter_mut().enumerate() {
            let fits = |(there, other): &(usize, &Slot)| {
                other.written == slot.written && same.iter().all(|(_, taken)| taken != there)
            };
            let Some((there, other)) = before.stages.iter().enumerate().find(fits) else { continue };
            if slot.stage.remembers() {
                slot.stage = other.stage.clone();
            }
            same.push((here, there));
        }
        same
    }

    /// Sends a record from the stage of this index on as far as it goes. What is made of it keeps its order.
    pub fn run(&self, from: usize, record: Record, now_ms: u64) -> Vec<Step> {
        let mut steps = Vec::with_capacity(1);
        let mut waiting = vec![(from, record)];
        while let Some((index, record)) = waiting.pop() {
            let Some(slot) = self.stages.get(index) else {
                steps.push(Step::Through(record));
                continue;
            };
            let id = record.id;
            match self.pass(slot, record, now_ms) {
                Ok(Outcome::One(record)) => waiting.push((index + 1, record)),
                Ok(Outcome::Many(many)) => waiting.extend(many.into_iter().rev().map(|record| (index + 1, record))),
                Ok(Outcome::Held(record, hold)) => steps.push(Step::Held { stage: index, record, hold }),
                Ok(Outcome::Copied(record, to)) => {
                    let nth =
                        self.stages[..index].iter().filter(|before| before.stage.copies_to() == Some(&to)).count();
                    steps.push(Step::Copied { to, nth, record: record.clone() });
                    waiting.push((index + 1, record));
                }
                Ok(Outcome::Dropped(reason)) => steps.push(Step::Dropped { stage: index, id, reason }),
                Err(Failed(why)) => {
                    let retry = slot.on_error == OnError::Retry;
                    steps.push(Step::Failed { stage: index, id, retry, why });
                }
            }
        }
        steps
    }

    /// Goes on with a record that a stage held.
    pub fn resume(&self, stage: usize, record: Record, now_ms: u64) -> Vec<Step> {
        self.stages[stage].counts.leave(1);
        self.run(stage + 1, record, now_ms)
    }

    /// Goes on with what records that a stage held are together.
    pub fn resume_joined(&self, stage: usize, batch: &Batch, records: Vec<Record>, now_ms: u64) -> Vec<Step> {
        (1..records.len()).for_each(|_| self.drop_held(stage, Reason::Joined));
        batch.join(records).map_or_else(Vec::new, |joined| self.resume(stage, joined, now_ms))
    }

    /// A record that a stage held does not go on.
    pub fn drop_held(&self, stage: usize, reason: Reason) {
        self.stages[stage].counts.dropped(reason);
    }

    /// A record that a stage held is given up, for its job is: its lease was lost, or the server stops.
    pub fn fail_held(&self, stage: usize) {
        self.stages[stage].counts.fail();
    }

    /// One record, one stage; counted, timed where that is wanted, and with the stage's policy applied.
    fn pass(&self, slot: &Slot, record: Record, now_ms: u64) -> Result<Outcome, Failed> {
        slot.counts.enter();
        let before = (slot.on_error == OnError::Pass).then(|| record.clone());
        let started = self.traced.then(Instant::now);
        let at = At { now_ms, queue: &self.queue, pipeline: &self.name, stage: &slot.name };
        let applied = catch_unwind(AssertUnwindSafe(|| slot.stage.apply(record, &at)));
        let outcome = applied.unwrap_or_else(|_| Err("the stage panicked".into()));
        let mut outcome = settle(slot, before, bounded(outcome));
        if let (Some(started), Ok(outcome)) = (started, &mut outcome) {
            let lap = Lap { stage: slot.name.clone(), us: started.elapsed().as_micros() as u64 };
            records_of(outcome).for_each(|record| record.laps.push(lap.clone()));
        }
        outcome
    }
}

/// Refuses what would make more than [`RECORDS_MAX`] records of a job.
fn bounded(outcome: Result<Outcome, Failed>) -> Result<Outcome, Failed> {
    if let Ok(Outcome::Many(many)) = &outcome
        && let Some(first) = many.first()
    {
        first.made.records(many.len())?;
    }
    outcome
}

/// Counts an outcome, and makes of an error what the stage's policy says.
fn settle(slot: &Slot, before: Option<Record>, outcome: Result<Outcome, Failed>) -> Result<Outcome, Failed> {
    let counts = &slot.counts;
    match outcome {
        Ok(Outcome::Held(..)) => {}
        Ok(Outcome::One(_) | Outcome::Copied(..)) => counts.leave(1),
        Ok(Outcome::Many(ref many)) if many.is_empty() => {
            counts.dropped(Reason::Empty);
            return Ok(Outcome::Dropped(Reason::Empty));
        }
        Ok(Outcome::Many(ref many)) => counts.leave(many.len() as u64),
        Ok(Outcome::Dropped(reason)) => counts.dropped(reason),
        Err(_) => {
            counts.error();
            return settle_error(slot, before, outcome);
        }
    }
    outcome
}

fn settle_error(slot: &Slot, before: Option<Record>, error: Result<Outcome, Failed>) -> Result<Outcome, Failed> {
    match (slot.on_error, before) {
        (OnError::Pass, Some(record)) => {
            slot.counts.leave(1);
            Ok(Outcome::One(record))
        }
        (OnError::Drop, _) => {
            slot.counts.dropped(Reason::Error);
            Ok(Outcome::Dropped(Reason::Error))
        }
        _ => {
            slot.counts.fail();
            error
        }
    }
}

fn records_of(outcome: &mut Outcome) -> impl Iterator<Item = &mut Record> {
    let (one, many) = match outcome {
        Outcome::One(record) | Outcome::Held(record, _) | Outcome::Copied(record, _) => (Some(record), None),
        Outcome::Many(records) => (None, Some(records.iter_mut())),
        Outcome::Dropped(_) => (None, None),
    };
    one.into_iter().chain(many.into_iter().flatten())
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stages: Vec<&str> = self.stages.iter().map(|slot| &*slot.name).collect();
        f.debug_struct("Pipeline").field("name", &self.name).field("stages", &stages).finish()
    }
}
