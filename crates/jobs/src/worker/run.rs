//! One job on its way: through every pipeline of its queue, and from each into its sinks.
//!
//! Always true:
//! - of one job, records go into one sink in their order, and none overtakes one that failed;
//! - a sink counts as done with the job only if it has confirmed all that the pipeline made of it: where a stage failed a
//!   part, the next attempt repeats the others too, and the sinks know them by their event ids.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::batch::{self, Gathering, Group, Member};
use super::counts::Through;
use super::hold::Waiting;
use super::lease::{End, Held};
use super::plan::{Lane, Plan};
use super::progress::Progress;
use super::{Inner, Stop};
use crate::job::{Failure, Job, State};
use crate::pipeline::{Batch, Hold, Reason, Record, Step};
use crate::sinks::{Effort, Outlet, Undelivered};
use crate::store::Query;

/// Bytes of a reason: jobs are kept with it. As much as workers over HTTP may give.
const REASON_BYTES_MAX: usize = 4096;

fn cut(reason: &str) -> Box<str> {
    reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].into()
}

/// Works on a claimed job until it has ended, its lease is lost, or the worker stops.
pub(super) async fn work(mut held: Held, plan: Arc<Plan>, job: Job) {
    let (attempt, inner) = (job.attempt, held.inner.clone());
    let progress = Arc::new(Progress::read(&job.progress));
    let run =
        Run { progress: progress.clone(), key: job.spec.key.as_deref().map(Arc::from), ..Run::new(&inner, &plan) };
    let failure = |reason: &str| Failure { reason: cut(reason), progress: progress.write() };
    let end = tokio::select! {
        end = AssertUnwindSafe(run.job(job)).catch_unwind() => end.unwrap_or_else(|_| {
            inner.counting.count(|counts| counts.panicked += 1);
            End::Retry(failure("the job's task panicked"))
        }),
        () = held.keep() => return held.lost(),
        () = inner.stopped(Stop::Working) => End::Release(progress.write()),
    };
    held.end(attempt, end).await;
}

/// What stands in the way of a job, the worse the later: what can still be had is tried for before a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    None,
    /// A person is to look at it.
    Park(String),
    /// It is to be tried again.
    Again(String),
}

/// What has become of a job in one pipeline, or of what several jobs were made into.
#[derive(Clone)]
struct Outcome {
    /// Records that reached the sinks.
    out: usize,
    /// Records that were dropped on purpose.
    dropped: usize,
    trouble: Trouble,
}

/// What has become of a batch, for each of its members.
#[derive(Clone)]
pub(super) struct Joined {
    outcome: Outcome,
    /// The sinks that have confirmed it.
    progress: Arc<Progress>,
}

/// What the stages have made of a job, once nothing waits any more.
struct Settled<'a> {
    through: Through<'a>,
    dropped: usize,
    trouble: Trouble,
    /// What has been to the end already, together with others.
    joined: Vec<Joined>,
}

impl<'a> Settled<'a> {
    fn nothing(lane: &'a Lane) -> Settled<'a> {
        Settled { through: Through::none(&lane.passed), dropped: 0, trouble: Trouble::None, joined: Vec::new() }
    }
}

/// A job's attempt, or a batch's.
#[derive(Clone)]
struct Run {
    inner: Arc<Inner>,
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    /// The ordering key of its job.
    key: Option<Arc<str>>,
    /// Whether one of its batches has failed, in this pipeline.
    failed: Arc<AtomicBool>,
}

impl Run {
    fn new(inner: &Arc<Inner>, plan: &Arc<Plan>) -> Run {
        let (inner, plan) = (inner.clone(), plan.clone());
        Run { inner, plan, progress: Arc::default(), key: None, failed: Arc::default() }
    }

    async fn job(&self, job: Job) -> End {
        let record = Record::new(&self.inner.queue, &job, (self.inner.now)());
        // One that was released is in the same attempt again.
        let repeat = |lane: &Lane| !self.progress.begin(lane.pipeline.name()) || record.repeat;
        let shadows = self.plan.lanes().iter().filter(|lane| lane.shadow && !repeat(lane));
        shadows.for_each(|lane| self.try_out(lane, &record));
        let missing = |lane: &&Arc<Lane>| !lane.shadow && !self.progress.has_all(lane.pipeline.name());
        let lanes: Vec<&Arc<Lane>> = self.plan.lanes().iter().filter(missing).collect();
        self.inner.counting.count(|counts| counts.passes += lanes.len() as u64);
        let pass = |lane: &&Arc<Lane>| Record { repeat: repeat(lane), ..record.clone() };
        let outcomes = join_all(lanes.iter().map(|lane| self.clone().lane(lane, pass(lane)))).await;
        let mut worst = Trouble::None;
        let mut summary = Map::new();
        for (lane, Outcome { out, dropped, trouble }) in lanes.iter().zip(outcomes) {
            if trouble == Trouble::None {
                self.progress.add_all(lane.pipeline.name());
            }
            summary.insert(lane.pipeline.name().to_string(), json!({ "out": out, "dropped": dropped }));
            worst = worst.max(trouble);
        }
        let failure = |reason: String| Failure { reason: cut(&reason), progress: self.progress.write() };
        match worst {
            Trouble::None => End::Finish(Value::Object(summary).to_string().into()),
            Trouble::Park(reason) => End::Stall(failure(reason)),
            Trouble::Again(reason) => End::Retry(failure(reason)),
        }
    }

    /// A shadow pipeline has the job too, if it is not too far behind.
    fn try_out(&self, lane: &Arc<Lane>, record: &Record) {
        let run = Run { key: self.key.clone(), ..Run::new(&self.inner, &self.plan) };
        let (shadow, record) = (lane.clone(), record.clone());
        lane.try_out(async move {
            run.lane(&shadow, record).await;
        });
    }

    async fn lane(self, lane: &Arc<Lane>, record: Record) -> Outcome {
        let run = Run { failed: Arc::default(), ..self };
        let record = Record { branch: run.plan.branch(lane), made: Arc::default(), ..record };
        lane.passed.count(|passed| passed.taken += 1);
        let steps = lane.pipeline.run(0, record, (run.inner.now)());
        run.to_the_end(lane, steps).await
    }

    /// What becomes of records that have come so far, in stages and sinks.
    async fn to_the_end(&self, lane: &Arc<Lane>, steps: Vec<Step>) -> Outcome {
        let Settled { through, dropped, trouble, joined } = self.settle(lane, steps).await;
        let through = through.hand_over();
        let has_joined = |sink: &str| joined.iter().all(|joined| joined.progress.has(lane.pipeline.name(), sink));
        let into = |(index, outlet): (usize, &Outlet)| {
            self.deliver(lane, index, &through, trouble == Trouble::None && has_joined(&outlet.name))
        };
        let troubles = join_all(lane.outlets.iter().enumerate().map(into)).await;
        let trouble = troubles.into_iter().fold(trouble, Trouble::max);
        let own = Outcome { out: through.len(), dropped, trouble };
        joined.into_iter().fold(own, |all, Joined { outcome, .. }| Outcome {
            out: all.out + outcome.out,
            dropped: all.dropped + outcome.dropped,
            trouble: all.trouble.max(outcome.trouble),
        })
    }

    /// Waits for what is held, and says what is left for the sinks, in order.
    fn settle<'a>(
        &'a self,
        lane: &'a Arc<Lane>,
        steps: Vec<Step>,
    ) -> Pin<Box<dyn Future<Output = Settled<'a>> + Send + 'a>> {
        Box::pin(async move {
            let mut settled = Settled::nothing(lane);
            // Most jobs are one record that nothing holds.
            for part in join_all(steps.into_iter().map(|step| self.step(lane, step))).await {
                settled.through.append(part.through);
                settled.dropped += part.dropped;
                settled.trouble = settled.trouble.max(part.trouble);
                settled.joined.extend(part.joined);
            }
            settled
        })
    }

    async fn step<'a>(&'a self, lane: &'a Arc<Lane>, step: Step) -> Settled<'a> {
        let mut settled = Settled::nothing(lane);
        match step {
            Step::Through(record) => settled.through.add(record),
            Step::Copied { to, nth, record } => self.plan.copy(lane.pipeline.name(), &to, nth, record),
            Step::Dropped { .. } => settled.dropped += 1,
            Step::Failed { stage, retry, why, .. } => {
                let why = format!("{}/{}: {why}", lane.pipeline.name(), lane.pipeline.stages()[stage].name);
                settled.trouble = if retry { Trouble::Again(why) } else { Trouble::Park(why) };
            }
            Step::Held { stage, record, hold } => return self.hold(lane, stage, record, hold).await,
        }
        settled
    }

    async fn hold<'a>(&'a self, lane: &'a Arc<Lane>, stage: usize, record: Record, hold: Hold) -> Settled<'a> {
        let waiting = Waiting::new(&lane.pipeline, stage);
        let goes_on = match hold {
            Hold::Batch { by, batch } => {
                // From here on its seat in the batch counts it.
                waiting.goes_on();
                return self.batch(lane, stage, record, by, batch).await;
            }
            Hold::Delay { ms } => {
                sleep(Duration::from_millis(ms)).await;
                true
            }
            Hold::Coalesce { key, within_ms } => {
                // Of one ordering key one job is claimed at a time: the newer ones are still in the queue.
                let behind = self.is_behind(self.key.clone().filter(|own| *own == key));
                lane.windows[stage].coalesce(key, record.id, Duration::from_millis(within_ms), behind).await
            }
        };
        if !goes_on {
            waiting.dropped(Reason::Coalesced);
            return Settled { dropped: 1, ..Settled::nothing(lane) };
        }
        waiting.goes_on();
        self.settle(lane, lane.pipeline.resume(stage, record, (self.inner.now)())).await
    }

    /// Waits until the record has gone on with others, to the end, and says what has become of them.
    async fn batch<'a>(
        &'a self,
        lane: &'a Arc<Lane>,
        stage: usize,
        record: Record,
        by: Arc<str>,
        batch: Arc<Batch>,
    ) -> Settled<'a> {
        let names = lane.outlets.iter().map(|outlet| &outlet.name);
        let done = names.filter(|sink| self.progress.has(lane.pipeline.name(), sink)).cloned().collect();
        let group = Group { stage, by, routes: record.routes.clone(), done };
        let left_out = Arc::<AtomicBool>::default();
        let member = Member { record, failed: self.failed.clone(), left_out: left_out.clone() };
        let (seat, going) = batch::enter(lane, group.clone(), &batch, member, |gathering| {
            let run = Run::new(&self.inner, &self.plan);
            group.done.iter().for_each(|sink| run.progress.add(lane.pipeline.name(), sink));
            Box::pin(run.together(lane.clone(), stage, batch.clone(), gathering))
        });
        let mut joined = going.await;
        drop(seat);
        if left_out.load(Ordering::Relaxed) {
            joined.progress = Arc::default();
        }
        Settled { joined: vec![joined], ..Settled::nothing(lane) }
    }

    /// A batch, from its first member to the end.
    async fn together(self, lane: Arc<Lane>, stage: usize, batch: Arc<Batch>, mut gathering: Gathering) -> Joined {
        let members = gathering.members().await;
        let (records, failed): (Vec<Record>, Vec<_>) =
            members.into_iter().map(|member| (member.record, member.failed)).unzip();
        let on = async {
            let steps = lane.pipeline.resume_joined(stage, &batch, records, (self.inner.now)());
            self.to_the_end(&lane, steps).await
        };
        let outcome = AssertUnwindSafe(on).catch_unwind().await.unwrap_or_else(|_| {
            self.inner.counting.count(|counts| counts.panicked += 1);
            Outcome { out: 0, dropped: 0, trouble: Trouble::Again("the batch's task panicked".into()) }
        });
        if let Trouble::Again(_) = outcome.trouble {
            failed.iter().for_each(|failed| failed.store(true, Ordering::Relaxed));
        }
        Joined { outcome, progress: self.progress }
    }

    /// Whether another job of this ordering key waits. Where the store does not say, none does: one event too many is
    /// better than none.
    async fn is_behind(&self, key: Option<Arc<str>>) -> bool {
        let Some(key) = key else { return false };
        let query = Query { key: Some((*key).into()), limit: 1, ..Query::all(State::Waiting) };
        self.inner.store.list(query).await.is_ok_and(|page| !page.entries.is_empty())
    }

    /// Hands all records to one sink. `complete` says whether they are all that the pipeline makes of the job.
    async fn deliver(&self, lane: &Arc<Lane>, index: usize, records: &[Arc<Record>], complete: bool) -> Trouble {
        let (pipeline, outlet) = (&lane.pipeline, &lane.outlets[index]);
        if self.progress.has(pipeline.name(), &outlet.name) {
            outlet.pass_over(records.len());
            return Trouble::None;
        }
        let mut trouble = Trouble::None;
        let mut due = outlet.expect(if outlet.required { records.len() } else { 0 });
        for record in records {
            if !outlet.required {
                lane.offer(index, record);
                continue;
            }
            let effort = if lane.shadow { Effort::Best } else { Effort::Required };
            let Err(error) = outlet.deliver(&mut due, record, pipeline.queue(), effort).await else { continue };
            let why = format!("{}/{}: {error}", pipeline.name(), outlet.name);
            match error {
                Undelivered::Refused(_) => trouble = trouble.max(Trouble::Park(why)),
                Undelivered::Failed(_) => return Trouble::Again(why),
            }
        }
        if complete && trouble == Trouble::None {
            self.progress.add(pipeline.name(), &outlet.name);
        }
        trouble
    }
}
