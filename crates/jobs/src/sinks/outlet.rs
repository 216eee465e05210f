//! A sink as a pipeline has it: how many records at once, how often each is tried, and when the target is left alone.
//!
//! A record that somebody waits for waits as long as its target is away, without having failed; whoever waits can stop
//! doing so at any time. One that nobody waits for is given up early.
//!
//! Always true: no more than `at_once` deliveries are under way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::breaker::{Breaker, Circuit, Pass};
use super::counts::{Counts, Due, Lost, Tally};
use super::{Delivery, Sink, SinkError};
use crate::backoff::Backoff;
use crate::pipeline::Record;

/// How often a record is tried that may itself be at fault, before its job's attempt has failed.
const TRIES_MAX: u32 = 3;

/// Between the tries of one record.
const BETWEEN: Backoff = Backoff { first: Duration::from_millis(200), cap: Duration::from_secs(10) };

/// Whoever has asked in vain lets others go first, so that a record that no target can stomach is not the only one that
/// ever asks.
const AFTER_YOU: Duration = Duration::from_millis(50);

/// How much is done to deliver a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Its job waits for it.
    Required,
    /// Nobody does.
    Best,
}

/// Why a record was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The job is to be tried again later.
    #[error("{0}")]
    Failed(String),
    /// A person is to look at it.
    #[error("{0}")]
    Refused(String),
}

/// A sink in its place.
pub struct Outlet {
    /// Its pipeline.
    pub pipeline: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
    /// What it is.
    pub kind: &'static str,
    /// Whether jobs wait for it.
    pub required: bool,
    sink: Arc<dyn Sink>,
    room: Semaphore,
    breaker: Mutex<Breaker>,
    /// The breaker has been told something.
    news: watch::Sender<()>,
    counts: Arc<Counts>,
}

impl Outlet {
    /// A sink under this name, to which at most so many records are handed over at once.
    pub fn new(
        [pipeline, name]: [&str; 2],
        kind: &'static str,
        required: bool,
        at_once: usize,
        sink: Arc<dyn Sink>,
    ) -> Outlet {
        Outlet {
            pipeline: pipeline.into(),
            name: name.into(),
            kind,
            required,
            sink,
            room: Semaphore::new(at_once),
            breaker: Mutex::default(),
            news: watch::Sender::new(()),
            counts: Arc::default(),
        }
    }

    /// Counts on where an earlier outlet did.
    pub(crate) fn count_on_from(&mut self, before: &Outlet) {
        self.counts = before.counts.clone();
    }

    /// What it has counted.
    pub fn counts(&self) -> Tally {
        self.counts.read()
    }

    /// How its target is.
    pub fn circuit(&self) -> Circuit {
        self.breaker().circuit()
    }

    /// Counts a record that was not even tried, as too many others are under way.
    pub fn overflow(&self) {
        self.expect(1).enter().lost(Lost::Overflow);
    }

    /// So many records are to be delivered one after the other; those that are not when this is dropped will not be.
    pub fn expect(&self, records: usize) -> Due<'_> {
        self.counts.expect(records as u64)
    }

    /// Counts records that an earlier attempt at their job has delivered.
    pub fn pass_over(&self, records: usize) {
        self.counts.pass_over(records as u64);
    }

    /// Hands over the next record that is due. Dropping this gives the record up.
    pub async fn deliver(
        &self,
        due: &mut Due<'_>,
        record: &Record,
        queue: &str,
        effort: Effort,
    ) -> Result<(), Undelivered> {
        let flight = due.enter();
        let event_id = record.event_id(queue);
        let outcome = self.until_done(Delivery { record, event_id: &event_id }, effort).await;
        match (&outcome, effort) {
            (Ok(()), _) => flight.out(record.routes.len()),
            (Err(_), Effort::Required) => drop(flight),
            (Err(Undelivered::Failed(_)), Effort::Best) => flight.lost(Lost::Unhealthy),
            (Err(Undelivered::Refused(_)), Effort::Best) => flight.lost(Lost::Refused),
        }
        outcome
    }

    async fn until_done(&self, delivery: Delivery<'_>, effort: Effort) -> Result<(), Undelivered> {
        let (mut tries, mut own_failures) = (0, 0);
        loop {
            let error = match self.attempt(delivery, effort, tries > 0).await? {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tries += 1;
            own_failures += match &error {
                SinkError::Refused(why) => return Err(Undelivered::Refused(why.clone())),
                SinkError::Failed(_) => 1,
                SinkError::Away { .. } => u32::from(effort == Effort::Best),
            };
            if own_failures >= TRIES_MAX {
                return Err(Undelivered::Failed(error.to_string()));
            }
            self.counts.retry();
            tokio::time::sleep(BETWEEN.after(tries)).await;
        }
    }

    /// One try, as soon as there is room and the target is not left alone.
    async fn attempt(
        &self,
        delivery: Delivery<'_>,
        effort: Effort,
        again: bool,
    ) -> Result<Result<(), SinkError>, Undelivered> {
        if effort == Effort::Best && self.circuit() != Circuit::Closed {
            return Err(left_alone());
        }
        let _room = self.room.acquire().await.expect("the semaphore is never closed");
        let probe = self.pass(effort, again).await?;
        let answer = self.sink.deliver(delivery).await;
        probe.answered(&answer);
        Ok(answer)
    }

    async fn pass(&self, effort: Effort, again: bool) -> Result<Probe<'_>, Undelivered> {
        let mut news = self.news.subscribe();
        loop {
            let pass = self.breaker().pass(Instant::now());
            match pass {
                Pass::Go | Pass::Ask => {
                    return Ok(Probe { outlet: self, asking: pass == Pass::Ask, answered: false });
                }
                _ if effort == Effort::Best => return Err(left_alone()),
                Pass::Until(until) => {
                    let until = if again { until + AFTER_YOU } else { until };
                    tokio::time::sleep_until(until.into()).await;
                }
                Pass::ForProbe => {
                    // The sender is `self`'s, so it is there.
                    let _ = news.changed().await;
                }
            }
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn left_alone() -> Undelivered {
    Undelivered::Failed("the target is left alone for a while".into())
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").field("name", &self.name).field("required", &self.required).finish_non_exhaustive()
    }
}

/// A try: whatever becomes of it, the breaker is told.
struct Probe<'a> {
    outlet: &'a Outlet,
    /// For all others too.
    asking: bool,
    answered: bool,
}

impl Probe<'_> {
    fn answered(mut self, answer: &Result<(), SinkError>) {
        self.answered = true;
        let after = match answer {
            Ok(()) => return self.well(),
            Err(SinkError::Refused(_)) => {
                self.outlet.counts.error(false);
                return self.well();
            }
            Err(SinkError::Failed(_)) => None,
            Err(SinkError::Away { after, .. }) => *after,
        };
        let Outlet { pipeline, name, .. } = self.outlet;
        let opened = self.outlet.breaker().failed(self.asking, Instant::now(), after);
        self.outlet.counts.error(opened);
        if let (true, false, Err(error)) = (opened, self.asking, answer) {
            tracing::warn!(pipeline = &**pipeline, sink = &**name, %error, "a sink's target is left alone for a while");
        }
    }

    fn well(self) {
        let Outlet { pipeline, name, .. } = self.outlet;
        self.outlet.breaker().well();
        if self.asking {
            tracing::info!(pipeline = &**pipeline, sink = &**name, "a sink's target is well again");
        }
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if self.asking && !self.answered {
            self.outlet.breaker().gave_up();
        }
        self.outlet.news.send_replace(());
    }
}
