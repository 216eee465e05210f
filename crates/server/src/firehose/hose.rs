//! One app's firehose: its log, its tokens, and the way of a publication into the log.
//!
//! Always true: the entries of a channel are in the order in which the broker took them; one that could not be written, or of
//! which nobody knows whether it was published, is written when its publisher posts it again with the same idempotency key; and
//! no repeat is answered well before the first is written.
//!
//! A log that other nodes have too knows by itself what it has taken in, as a repeat may come to another node. So does it know
//! who reads for a consumer, and what was acknowledged elsewhere.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use fanfare_hub::{Broker, BrokerError, ChannelKey, Idempotency, Mark, Post, Publication, Published};
use fanfare_jobs::log::{Ends, Fresh, Name, SharedLog};
use fanfare_jobs::{Log, LogError};
use tokio::sync::MutexGuard;

use super::bearer::Bearer;
use super::broker::is_for_everybody;
use super::counts::Tally;
use super::lines;
use super::owed::{Had, Owed};
use super::seats::Seats;
use crate::config::{FirehoseSettings, FirehoseToken};
use crate::queues::Clock;

/// Channels of one turn publish one after the other.
const TURNS: usize = 64;

/// How long a log is taken for one that cannot be written after that was met, unless something is written meanwhile: long enough
/// to be met again where it is only trimmed, and short enough for publishers to come back once there is room.
const UNWRITABLE_MS: u64 = 15_000;

/// Consumers whose lag is told at once.
const LAGS_MAX: usize = 32;

/// One app's firehose.
pub struct Hose {
    /// Whose it is.
    pub app: Arc<str>,
    /// Everything that was published.
    pub log: Arc<dyn Log>,
    /// Consumers that acknowledge.
    pub seats: Arc<Seats>,
    /// What has become of it.
    pub tally: Tally,
    clock: Clock,
    tokens: ArcSwap<Tokens>,
    /// When it last could not be written, unless it was since; 0: never.
    unwritable_ms: AtomicU64,
    turns: Box<[tokio::sync::Mutex<()>]>,
    hasher: RandomState,
    owed: Owed,
}

#[derive(Default)]
struct Tokens {
    bearers: Vec<Arc<Bearer>>,
    ack_timeout: Duration,
}

/// A consumer that is there.
pub struct Lag {
    /// Its token's name and its own.
    pub consumer: Box<str>,
    /// Entries that it has not done with.
    pub entries: u64,
}

impl Hose {
    /// Nobody may read it yet.
    pub fn new(app: Arc<str>, log: Arc<dyn Log>, clock: Clock) -> Hose {
        Hose {
            app,
            log,
            seats: Arc::default(),
            tally: Tally::default(),
            clock,
            tokens: ArcSwap::default(),
            unwritable_ms: AtomicU64::new(0),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
            hasher: RandomState::new(),
            owed: Owed::default(),
        }
    }

    /// Goes by these settings. A token of which they say the same keeps its connections.
    pub fn go_by(&self, settings: &FirehoseSettings) {
        self.log.set_keep(settings.keep);
        let before = self.tokens.load();
        let bearer = |token: &FirehoseToken| match before.bearers.iter().find(|bearer| bearer.token == *token) {
            Some(bearer) => bearer.clone(),
            None => Arc::new(Bearer::new(token)),
        };
        let bearers = settings.tokens.iter().map(bearer).collect();
        self.tokens.store(Arc::new(Tokens { bearers, ack_timeout: settings.ack_timeout }));
    }

    /// Nobody may read it any more.
    pub fn close(&self) {
        self.tokens.store(Arc::default());
    }

    /// Who has this token.
    pub fn bearer(&self, token: &str) -> Option<Arc<Bearer>> {
        let tokens = self.tokens.load();
        // All are compared, so that the time tells nothing.
        let known = tokens.bearers.iter().filter(|bearer| bearer.token.token.is(token.as_bytes()));
        known.fold(None, |_, bearer| Some(bearer.clone()))
    }

    /// Whether a token is still one.
    pub fn knows(&self, bearer: &Arc<Bearer>) -> bool {
        self.tokens.load().bearers.iter().any(|known| Arc::ptr_eq(known, bearer))
    }

    /// How long a consumer may be silent.
    pub fn ack_timeout(&self) -> Duration {
        self.tokens.load().ack_timeout
    }

    /// Connections of all tokens.
    pub fn connections(&self) -> u32 {
        self.tokens.load().bearers.iter().map(|bearer| bearer.connections()).sum()
    }

    /// What the log holds, and how far behind consumers are that are there.
    pub async fn look(&self) -> Result<(Ends, Vec<Lag>), LogError> {
        let ends = self.log.ends().await?;
        let marks = self.seats.marks(LAGS_MAX).into_iter();
        let lags = marks.map(|(consumer, mark)| Lag { consumer, entries: ends.entries_from(mark + 1) });
        Ok((ends, lags.collect()))
    }

    /// Forgets what is too old.
    pub async fn trim(&self) {
        if let Err(error) = self.log.trim(self.clock.now_ms()).await {
            tracing::debug!(app = &*self.app, %error, "firehose not trimmed");
            // A disk that failed takes nothing any more; a server that is away, others speak of.
            if self.log.shared().is_none() {
                self.heed(Some(&error));
            }
        }
    }

    /// Whether it could be written lately, as far as anybody has tried; true where another node could do no better.
    pub fn is_writable(&self) -> bool {
        let unwritable_ms = self.unwritable_ms.load(Ordering::Relaxed);
        unwritable_ms == 0 || self.log.shared().is_some() || self.clock.now_ms() > unwritable_ms + UNWRITABLE_MS
    }

    /// Tells who sits here what other nodes were told of them, for as long as the process runs.
    pub async fn attend(self: Arc<Hose>) {
        let Some(shared) = self.log.shared() else { return };
        let mut moves = shared.moves();
        while moves.changed().await.is_ok() {
            if let Err(error) = self.look_after(shared).await {
                tracing::debug!(app = &*self.app, %error, "consumers are not looked after");
            }
        }
    }

    async fn look_after(&self, shared: &dyn SharedLog) -> Result<(), LogError> {
        let sitters = self.seats.sitters();
        if sitters.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = sitters.iter().map(|(name, _)| name.clone()).collect();
        let standings = shared.standings(&names).await?;
        // A server that took over may not know who came last.
        for (name, seat) in self.seats.heard(&sitters, &standings) {
            shared.keep_seat(&name, seat).await?;
        }
        Ok(())
    }

    /// Publishes one after the other, and appends what was published. Must run to its end: who asked may go away.
    pub async fn publish(
        &self,
        broker: &dyn Broker,
        key: &ChannelKey,
        posts: Vec<(Publication, Post)>,
    ) -> Result<Vec<Published>, BrokerError> {
        let turn = self.turn(key).lock().await;
        let (mut published, mut fresh, mut repeats) = (Vec::with_capacity(posts.len()), Vec::new(), Vec::new());
        // A shared log knows by itself what it has.
        let is_shared = self.log.shared().is_some();
        let mut write = self.owed.write();
        let mut outcome = Ok(());
        for (publication, post) in posts {
            let idempotency = post.idempotency.clone();
            let word = idempotency.as_ref().filter(|_| !is_shared);
            let word = word.map(|idempotency| Arc::<str>::from(full_word(key, &idempotency.key)));
            // Its age is by the clock that trims, which nobody sets; the line says when it was published.
            let entry = is_for_everybody(key, &publication, &post).then(|| Fresh {
                time_ms: self.clock.now_ms(),
                name: None,
                data: lines::entry(key.name(), &publication),
            });
            match broker.publish(key, publication, post).await {
                Ok(one) => {
                    match word.as_ref().filter(|_| one.repeated).map_or(Had::Missing, |word| self.owed.had(word)) {
                        Had::Written => {}
                        Had::Writing(writing) => repeats.push(writing),
                        Had::Missing => {
                            let name = idempotency.map(|idempotency| name(key, &idempotency, one.mark));
                            fresh.extend(entry.map(|entry| Fresh { name, ..entry }));
                            word.into_iter().for_each(|word| write.add(word));
                        }
                    }
                    published.push(one);
                }
                Err(error) => {
                    word.into_iter().for_each(|word| self.owed.add(word));
                    outcome = Err(error);
                    break;
                }
            }
        }
        let offered = fresh.len() as u64;
        self.tally
            .note(|counts| (counts.offered, counts.appending) = (counts.offered + offered, counts.appending + offered));
        let written = self.append(fresh, turn).await;
        self.tally.note(|counts| {
            counts.appending -= offered;
            match &written {
                Ok(new) => (counts.appended, counts.known) = (counts.appended + new, counts.known + offered - new),
                Err(_) => counts.failed += offered,
            }
        });
        written.map_err(|_| BrokerError::Unrecorded)?;
        write.done();
        for writing in repeats {
            if !writing.ends_well().await {
                return Err(BrokerError::Unrecorded);
            }
        }
        outcome.map(|()| published)
    }

    /// Whether the log may lack what was published under this key; once the broker has closed.
    pub fn lacks(&self, key: &ChannelKey, word: &str) -> bool {
        // Whoever has the turn may be on the way from the broker to the log.
        self.turn(key).try_lock().is_err() || !matches!(self.owed.had(&full_word(key, word)), Had::Written)
    }

    fn turn(&self, key: &ChannelKey) -> &tokio::sync::Mutex<()> {
        &self.turns[self.hasher.hash_one(key) as usize % TURNS]
    }

    /// The turn ends when the entries have their place, which is before they are written.
    async fn append(&self, fresh: Vec<Fresh>, turn: MutexGuard<'_, ()>) -> Result<u64, LogError> {
        if fresh.is_empty() {
            return Ok(0);
        }
        let written = match self.log.append(fresh, self.clock.now_ms()).await {
            Ok(written) => {
                drop(turn);
                written.await
            }
            Err(error) => Err(error),
        };
        self.heed(written.as_ref().err());
        written
    }

    /// Says so when the log begins to fail, and when it is well again.
    fn heed(&self, failed: Option<&LogError>) {
        let unwritable_ms = failed.map_or(0, |_| self.clock.now_ms());
        match (failed, self.unwritable_ms.swap(unwritable_ms, Ordering::Relaxed)) {
            (Some(error), 0) => {
                tracing::error!(app = &*self.app, %error, "the firehose cannot be written: its app's publishers are refused");
            }
            (None, 1..) => tracing::info!(app = &*self.app, "the firehose can be written again"),
            _ => {}
        }
    }
}

/// What a publication is known by, among those of all channels: its place, which its repeats have, too. The publisher's word alone
/// may be another publication's by now, as the broker forgets it before the log does.
fn name(key: &ChannelKey, idempotency: &Idempotency, mark: Option<Mark>) -> Name {
    let known_ms = u64::try_from(idempotency.window.as_millis()).unwrap_or(u64::MAX);
    let place = mark.map(|mark| format!("{}:{}", mark.position.epoch, mark.position.offset)).unwrap_or_default();
    Name { text: format!("{place}/{}", full_word(key, &idempotency.key)).into(), known_ms }
}

/// A publisher's word among those of all channels.
fn full_word(key: &ChannelKey, word: &str) -> String {
    format!("{}/{word}", key.name())
}
