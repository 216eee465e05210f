//! The firehose: everything that an app publishes, in order, for whoever holds one of its tokens.
//!
//! What passes the broker is appended to the app's log before its publisher is answered (`broker`); a connection reads the log
//! from its cursor on, at its own pace (`reader`). A consumer that acknowledges has its place in the log, so that whatever it
//! has not acknowledged is sent again (`seats`).
//!
//! Always true:
//! - what a publisher was told is published is in the log, in the order of its channel;
//! - what a log no longer holds is told as a gap;
//! - a connection costs the same memory however slow it is, and no publisher waits for it;
//! - nodes that share a log are one firehose: what is published, read or acknowledged at one is so at all of them;
//! - an app without a firehose costs its publications one look-up.
//!
//! Not here: how a log is kept (`fanfare_jobs::log`).

mod ack;
mod answer;
mod asked;
mod bearer;
mod broker;
mod counts;
mod cursor;
mod filter;
mod hose;
mod lines;
mod owed;
mod pace;
mod reader;
mod refused;
mod seats;
#[cfg(test)]
mod tests;

pub use broker::Tee;
pub use counts::Counts;
pub use hose::{Hose, Lag};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use fanfare_hub::ChannelKey;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::apps::Apps;
use crate::config::{AppSettings, Config, FirehoseSettings};
use crate::queues::{BadStore, Queues};
use crate::readiness::{Readiness, Unready};

/// How often what is too old is forgotten where nothing is published.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// And how often it is looked whether they can be written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The firehoses of all apps; cheap to clone.
#[derive(Clone)]
pub struct Firehoses(Arc<Inner>);

struct Inner {
    queues: Queues,
    apps: Apps,
    path_prefix: String,
    heartbeat: Duration,
    now: ArcSwap<HashMap<Arc<str>, Arc<Hose>>>,
    is_open: AtomicBool,
    /// All that there ever were in this process: a log has one owner.
    known: Mutex<HashMap<Arc<str>, Arc<Hose>>>,
    signals: watch::Sender<Signal>,
}

/// What every connection is told.
#[derive(Clone, Copy, Debug, Default)]
struct Signal {
    /// Rises with each reload: a token may have been taken back.
    reloads: u64,
    stopping: bool,
}

/// A firehose and what it is to go by; nothing, if its app is switched off.
type Prepared<'c> = (Arc<Hose>, Option<&'c FirehoseSettings>);

impl Firehoses {
    /// Those of a configuration, and the task that looks after them. Must be called on the runtime.
    pub fn start(config: &Config, apps: Apps, queues: Queues, readiness: Readiness) -> Result<Firehoses, BadStore> {
        let firehoses = Firehoses(Arc::new(Inner {
            queues,
            apps,
            path_prefix: config.path_prefix.clone(),
            heartbeat: Duration::from_secs(config.heartbeat_s.into()),
            now: ArcSwap::default(),
            is_open: AtomicBool::new(false),
            known: Mutex::default(),
            signals: watch::Sender::default(),
        }));
        firehoses.go_by(config)?;
        tokio::spawn(firehoses.clone().tend(readiness));
        Ok(firehoses)
    }

    /// Goes by another configuration.
    pub fn reload(&self, config: &Config) {
        if let Err(error) = self.go_by(config) {
            tracing::error!(%error, "firehoses stay as they were");
        }
        self.0.signals.send_modify(|signal| signal.reloads += 1);
    }

    fn go_by(&self, config: &Config) -> Result<(), BadStore> {
        let next = self.prepare(config)?;
        let mut known = self.known();
        for (hose, settings) in &next {
            match settings {
                Some(settings) => hose.go_by(settings),
                None => hose.close(),
            }
            if known.insert(hose.app.clone(), hose.clone()).is_none() {
                tokio::spawn(hose.clone().attend());
            }
        }
        let next: HashMap<_, _> = next.into_iter().map(|(hose, _)| (hose.app.clone(), hose)).collect();
        let gone = known.iter().filter(|(app, _)| !next.contains_key(*app));
        gone.for_each(|(_, hose)| hose.close());
        self.0.now.store(Arc::new(next));
        Ok(())
    }

    /// All of it, or nothing.
    fn prepare<'c>(&self, config: &'c Config) -> Result<Vec<Prepared<'c>>, BadStore> {
        let configured = config.apps.iter().filter_map(|app| Some((app, app.firehose.as_ref()?)));
        let prepare = |(app, settings): (&AppSettings, &'c FirehoseSettings)| {
            let known = self.known().get(&app.id).cloned();
            let hose = match known {
                Some(hose) => hose,
                None => {
                    let log = self.0.queues.log(&app.id, settings.durability, settings.keep)?;
                    Arc::new(Hose::new(app.id.clone(), log, self.0.queues.clock()))
                }
            };
            Ok((hose, app.enabled.then_some(settings)))
        };
        configured.map(prepare).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Hose>>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of one app.
    fn of(&self, app: &str) -> Option<Arc<Hose>> {
        let now = self.0.now.load();
        if now.is_empty() { None } else { now.get(app).cloned() }
    }

    /// That of one app, if it is to have what is published now.
    fn recording(&self, app: &str) -> Option<Arc<Hose>> {
        self.of(app).filter(|_| self.0.is_open.load(Ordering::Relaxed))
    }

    /// From now on, what is published is recorded. What was published before is of an earlier process, which has recorded it.
    pub fn open(&self) {
        self.0.is_open.store(true, Ordering::Relaxed);
    }

    /// All that there are.
    pub fn all(&self) -> Vec<Arc<Hose>> {
        self.0.now.load().values().cloned().collect()
    }

    /// Whether an app's log may lack what was published under this idempotency key; once its broker has closed. Logs do not
    /// remember that, so the next server must take a repeat for a publication.
    pub fn lacks(&self, key: &ChannelKey, word: &str) -> bool {
        self.known().get(key.app()).is_some_and(|hose| hose.lacks(key, word))
    }

    /// Sends everybody away: the server stops.
    pub fn stop(&self) {
        self.0.signals.send_modify(|signal| signal.stopping = true);
    }

    /// Forgets what is too old, and says whether all of them can be written.
    async fn tend(self, readiness: Readiness) {
        let [mut trim, mut look] = [TRIM_EVERY, LOOK_EVERY].map(|period| {
            let mut every = interval(period);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        });
        loop {
            tokio::select! {
                _ = trim.tick() => {
                    for hose in self.all() {
                        hose.trim().await;
                    }
                }
                _ = look.tick() => {}
            }
            readiness.set(Unready::FirehoseUnwritable, self.all().iter().any(|hose| !hose.is_writable()));
        }
    }
}
