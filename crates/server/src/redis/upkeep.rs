//! What the broker does once a second: it hears from each unit how far it has come, and compares idle channels with their
//! streams, in turn.
//!
//! A subscription that has died without a word is found so, within some seconds; and channels with listeners are not
//! forgotten by the servers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::UnitIx;
use super::broker::{BATCH_MAX, Inner};
use super::channels::Watch;

/// How often.
const BEAT: Duration = Duration::from_secs(1);

/// A channel of which nothing was heard for so long is compared.
const QUIET: Duration = Duration::from_secs(5);

/// Commands that compare channels of one unit, in one beat. With more channels than fit, each is compared less often.
const BATCHES_MAX: usize = 4;

/// Channels of one unit that are looked at in one beat, to see which are due.
const LOOKS_MAX: usize = 20_000;

/// The channels of each unit, in the order in which they are looked at.
#[derive(Debug, Default)]
pub struct Rounds(Mutex<HashMap<UnitIx, VecDeque<Weak<Watch>>>>);

impl Rounds {
    /// A channel that this node listens to from now on.
    pub fn add(&self, watch: &Arc<Watch>) {
        let mut rounds = self.0.lock().expect("no code panics while it holds the rounds");
        rounds.entry(watch.unit).or_default().push_back(Arc::downgrade(watch));
    }

    /// The next channels of a unit that are due; `None`: nobody ever listened to any.
    fn next(&self, unit: UnitIx) -> Option<Vec<Arc<Watch>>> {
        let mut rounds = self.0.lock().expect("no code panics while it holds the rounds");
        let round = rounds.get_mut(&unit)?;
        let mut due = Vec::new();
        for _ in 0..round.len().min(LOOKS_MAX) {
            let Some(watch) = round.pop_front() else { break };
            let Some(watch) = watch.upgrade().filter(|watch| !watch.is_gone()) else { continue };
            round.push_back(Arc::downgrade(&watch));
            if watch.is_due(QUIET) {
                due.push(watch);
                if due.len() == BATCHES_MAX * BATCH_MAX {
                    break;
                }
            }
        }
        Some(due)
    }
}

/// Starts a beat for each unit, so that a slow one holds up no other. They end with the broker.
pub fn start(broker: &Arc<Inner>) {
    for unit in broker.units() {
        tokio::spawn(beat(Arc::downgrade(broker), unit));
    }
}

async fn beat(broker: Weak<Inner>, unit: UnitIx) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let Some(broker) = broker.upgrade() else { return };
        broker.echoes.give_up_late();
        if let Some(due) = broker.rounds.next(unit)
            && broker.redis.is_up(unit)
        {
            visit(&broker, unit, &due).await;
        }
        broker.stamps.level();
    }
}

async fn visit(broker: &Arc<Inner>, unit: UnitIx, due: &[Arc<Watch>]) {
    let pulse = Some(broker.pulse(unit));
    let (first, rest) = due.split_at(due.len().min(BATCH_MAX));
    let batches = std::iter::once((first, pulse)).chain(rest.chunks(BATCH_MAX).map(|batch| (batch, None)));
    for (batch, pulse) in batches {
        match broker.compare(unit, batch, pulse).await {
            // A channel that is slow to be filled delays no look at others.
            Ok(mut filling) => filling.detach_all(),
            Err(error) => {
                // The link finds out what is the matter; until then nothing more is settled.
                tracing::debug!(?unit, %error, "not compared");
                return;
            }
        }
    }
}
