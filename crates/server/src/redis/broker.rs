//! A broker over the Redis servers that nodes share.
//!
//! Publishing is one command, on the server of the channel's unit. What comes back over pub/sub is compared with what was seen
//! of the channel before it is delivered (`channels`); missing publications are read from the history, and what is not
//! there any more is told as a gap.
//!
//! Always true:
//! - a channel that this node listens to has a [`Watch`] before its server is asked for it;
//! - a unit that may have missed something holds a doubt in `stamps` until each of its channels has been compared.
//!
//! Not here: what is done from time to time (`upkeep`), connections (`link`).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_hub::broker::{Flight, InFlight};
use fanfare_hub::{
    Broker, BrokerError, BrokerEvents, Cached, ChannelKey, History, Mark, Post, Publication, Published, Since, Stored,
    StreamPosition,
};
use futures_util::future::try_join_all;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::task::{JoinSet, unconstrained};

use super::channels::{Arrival, Watch, Work};
use super::echoes::Echoes;
use super::pace::{Pace, Pacer};
use super::record;
use super::stamps::{SKEW_US, Stamps};
use super::streams::{Entry, Letter, Query, Streams, Tip};
use super::upkeep::Rounds;
use super::{CallError, LinkEvents, Redis, UnitIx};

/// Publications that wait for their servers' answers. Beyond it publishers wait.
const PUBLISHES_MAX: u32 = 16_384;

/// Publications that are read at once to fill a hole.
const REFILL_MAX: usize = 256;

/// Channels in one command.
pub(super) const BATCH_MAX: usize = 500;

/// How long what was published here may take to come back before closing.
const LAST_ECHOES: Duration = Duration::from_secs(2);

/// A broker over Redis; cheap to clone.
#[derive(Clone)]
pub struct RedisBroker(Arc<Inner>);

/// Hears for the broker what the servers send. Made first, as the links need somebody to tell.
#[derive(Default)]
pub struct Ears(OnceLock<Arc<Inner>>);

pub(super) struct Inner {
    pub redis: Redis,
    pub streams: Streams,
    events: Arc<dyn BrokerEvents>,
    pub stamps: Stamps,
    pub watches: Mutex<HashMap<ChannelKey, Arc<Watch>>>,
    /// By unit: subscriptions that wait to hear where their streams stand. An entry is there while a task serves it.
    asking: Mutex<HashMap<UnitIx, Vec<Asking>>>,
    doubts: Mutex<HashMap<UnitIx, Doubt>>,
    pacer: Pacer,
    pub echoes: Echoes,
    publishes: Semaphore,
    pub rounds: Rounds,
    /// By unit: the names of its channels begin so, and the node's own is this.
    names: HashMap<UnitIx, (Vec<u8>, Vec<u8>)>,
}

struct Asking {
    name: Vec<u8>,
    answer: oneshot::Sender<Result<Tip, CallError>>,
}

/// A unit may have missed something.
#[derive(Default)]
struct Doubt {
    _flight: Option<Flight>,
    /// How often that was said: whoever removes the doubt has looked after the last time.
    said: u64,
}

impl RedisBroker {
    /// Starts on the current tokio runtime. From here on `ears` hear, and `events` are told. `outbox_bytes_max` is what a reader may
    /// owe.
    pub async fn start(
        redis: Redis,
        ears: &Ears,
        events: Arc<dyn BrokerEvents>,
        outbox_bytes_max: usize,
    ) -> Result<RedisBroker, CallError> {
        let node = RandomState::new().hash_one(std::process::id());
        let names =
            redis.units().map(|unit| (unit, (redis.key(unit, "c:"), redis.key(unit, &format!("pulse:{node:x}")))));
        let inner = Arc::new(Inner {
            names: names.collect(),
            streams: Streams::new(redis.clone()),
            redis,
            events,
            stamps: Stamps::default(),
            watches: Mutex::default(),
            asking: Mutex::default(),
            doubts: Mutex::default(),
            pacer: Pacer::new(outbox_bytes_max),
            echoes: Echoes::new(node),
            publishes: Semaphore::new(PUBLISHES_MAX as usize),
            rounds: Rounds::default(),
        });
        ears.0.set(inner.clone()).unwrap_or_else(|_| panic!("ears are one broker's"));
        for (unit, (_, pulse)) in &inner.names {
            inner.redis.subscribe(*unit, pulse.clone()).await?;
        }
        super::upkeep::start(&inner);
        Ok(RedisBroker(inner))
    }
}

#[async_trait]
impl LinkEvents for Ears {
    async fn message(&self, unit: UnitIx, channel: &[u8], payload: Bytes) {
        if let Some(inner) = self.0.get() {
            inner.message(unit, channel, &payload).await;
        }
    }

    fn down(&self, unit: UnitIx) {
        if let Some(inner) = self.0.get() {
            inner.doubt(unit);
        }
    }

    async fn up(&self, unit: UnitIx, _generation: u64) {
        if let Some(inner) = self.0.get() {
            let said = inner.doubt(unit);
            tokio::spawn(inner.clone().compare_all(unit, said));
        }
    }
}

impl Inner {
    pub fn watches(&self) -> MutexGuard<'_, HashMap<ChannelKey, Arc<Watch>>> {
        self.watches.lock().expect("no code panics while it holds the channels")
    }

    fn watch(&self, key: &ChannelKey) -> Option<Arc<Watch>> {
        self.watches().get(key).cloned()
    }

    /// The channel on which a unit tells this node how far it has come.
    pub fn pulse(&self, unit: UnitIx) -> &[u8] {
        &self.names[&unit].1
    }

    pub fn units(&self) -> impl Iterator<Item = UnitIx> + '_ {
        self.names.keys().copied()
    }

    // Publications on their way in.

    async fn message(self: &Arc<Self>, unit: UnitIx, channel: &[u8], payload: &[u8]) {
        let Some((prefix, pulse)) = self.names.get(&unit) else { return };
        if channel == pulse {
            let stamp = payload.strip_prefix(b"=").and_then(|stamp| std::str::from_utf8(stamp).ok()?.parse().ok());
            return self.stamps.arrived(unit, stamp.unwrap_or(0));
        }
        let Some(key) = channel.strip_prefix(&**prefix).and_then(key_of) else { return };
        let Some(arrival) = self.arrival(unit, &key, payload) else { return };
        match self.watch(&key) {
            Some(watch) => {
                if let Some(work) = watch.arrive(arrival) {
                    self.deliver_live(&watch, work).await;
                }
            }
            // The hub knows whether anybody is left.
            None => self.deliver(unit, &key, arrival).await,
        }
    }

    fn arrival(&self, unit: UnitIx, key: &ChannelKey, payload: &[u8]) -> Option<Arrival> {
        let letter = Letter::parse(payload);
        let read = letter.and_then(|letter| Some((letter.tip, record::decode(letter.record).ok()?)));
        let Some((tip, (publication, origin))) = read else {
            tracing::debug!(channel = key.as_str(), "a message that this version cannot read");
            return None;
        };
        let permit = origin.and_then(|origin| self.echoes.heard(origin));
        let flight = tip.map(|tip| self.stamps.board(unit, tip.stamp));
        Some(Arrival { publication: Arc::new(publication), tip, in_flight: InFlight { permit, flight, hold: None } })
    }

    /// Delivers on the task that reads from the server, which thereby waits for slow loops. Reading a history must not hold up
    /// the server's other channels.
    async fn deliver_live(self: &Arc<Self>, watch: &Arc<Watch>, mut work: Work) {
        loop {
            match work {
                Work::Deliver(arrival) => self.deliver(watch.unit, &watch.key, arrival).await,
                Work::Refill => return drop(tokio::spawn(self.clone().work(watch.clone(), work))),
            }
            match watch.next() {
                Some(next) => work = next,
                None => return,
            }
        }
    }

    /// Does what is to be done for a channel until there is no more, as fast as it can be written.
    async fn work(self: Arc<Self>, watch: Arc<Watch>, work: Work) {
        let mut pace = self.pacer.begin();
        let mut next = Some(work);
        while let Some(work) = next {
            match work {
                Work::Deliver(arrival) => self.deliver_paced(&watch, arrival, &mut pace).await,
                Work::Refill => {
                    if let Err(error) = self.refill(&watch, &mut pace).await {
                        tracing::debug!(channel = watch.key.as_str(), %error, "not filled yet");
                        watch.give_up();
                        break;
                    }
                }
            }
            next = watch.next();
        }
        pace.end();
    }

    async fn deliver_paced(&self, watch: &Watch, mut arrival: Arrival, pace: &mut Pace) {
        arrival.in_flight.hold = pace.step(arrival.bytes()).await;
        self.deliver(watch.unit, &watch.key, arrival).await;
    }

    async fn deliver(&self, unit: UnitIx, key: &ChannelKey, arrival: Arrival) {
        let Arrival { publication, tip, in_flight } = arrival;
        let mark = tip.map(|tip| tip.mark(self.stamps.settled(unit, tip.stamp - 1)));
        self.events.publication(key, fanfare_hub::broker::Delivery { publication, mark, in_flight }).await;
    }

    /// Delivers what is missing after what was seen, or tells that it is missing for good. The caller has the turn.
    async fn refill(&self, watch: &Watch, pace: &mut Pace) -> Result<(), CallError> {
        while let Some(seen) = watch.seen() {
            let _doubt = self.stamps.doubt(watch.unit, seen.stamp);
            let query = Query::Refill(seen.position);
            let read = self.streams.history(&watch.key, query, REFILL_MAX, true).await?;
            let n = read.entries.len();
            self.redis.recovery().refills.add(1);
            self.redis.recovery().refilled.add(n);
            if !read.recovered && !watch.is_gone() {
                let before = read.entries.first().map_or(read.tip, |oldest| before(oldest.tip));
                let mark = before.mark(self.stamps.settled(watch.unit, before.stamp));
                tracing::debug!(channel = watch.key.as_str(), "gap");
                self.redis.recovery().gaps.add(1);
                self.events.gap(&watch.key, mark).await;
                watch.saw(before);
            }
            for Entry { tip, publication } in read.entries {
                if watch.is_gone() {
                    return Ok(());
                }
                let in_flight =
                    InFlight { flight: Some(self.stamps.board(watch.unit, tip.stamp)), ..InFlight::default() };
                self.deliver_paced(watch, Arrival { publication, tip: Some(tip), in_flight }, pace).await;
                watch.saw(tip);
            }
            if n < REFILL_MAX {
                watch.saw(read.tip);
                break;
            }
        }
        Ok(())
    }

    // Doubts.

    /// Nothing of the unit is settled that has not arrived yet, until all of its channels have been compared.
    fn doubt(&self, unit: UnitIx) -> u64 {
        let mut doubts = self.doubts.lock().expect("no code panics while it holds the doubts");
        let doubt = doubts.entry(unit).or_insert_with(|| Doubt { _flight: self.stamps.doubt_from_here(unit), said: 0 });
        doubt.said += 1;
        doubt.said
    }

    fn trust(&self, unit: UnitIx, said: u64) {
        let mut doubts = self.doubts.lock().expect("no code panics while it holds the doubts");
        if doubts.get(&unit).is_some_and(|doubt| doubt.said == said) {
            doubts.remove(&unit);
        }
    }

    /// Compares all channels of a unit with their streams, and fills what is missing.
    async fn compare_all(self: Arc<Self>, unit: UnitIx, said: u64) {
        /// Between two tries with a server that does not answer.
        const PAUSE: Duration = Duration::from_millis(200);
        let watches: Vec<_> = self.watches().values().filter(|watch| watch.unit == unit).cloned().collect();
        for batch in watches.chunks(BATCH_MAX) {
            loop {
                match self.compare(unit, batch, None).await {
                    Ok(filling) => break drop(filling.join_all().await),
                    // Whoever brings it up again comes here again.
                    Err(_) if !self.redis.is_up(unit) => return,
                    Err(error) => tracing::debug!(?unit, %error, "channels not compared yet"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.trust(unit, said);
    }

    /// Compares some channels of a unit. What is missing is filled by the tasks that this returns.
    pub async fn compare(
        self: &Arc<Self>,
        unit: UnitIx,
        watches: &[Arc<Watch>],
        pulse: Option<&[u8]>,
    ) -> Result<JoinSet<()>, CallError> {
        let names = watches.iter().map(|watch| watch.name.clone()).collect();
        let tips = self.streams.tips(unit, names, pulse).await?;
        let mut filling = JoinSet::new();
        for (watch, tip) in watches.iter().zip(tips) {
            if let Some(work) = watch.compare(tip) {
                filling.spawn(self.clone().work(watch.clone(), work));
            }
        }
        Ok(filling)
    }

    /// Where a channel stands that was just subscribed to. Those who ask at once are answered at once.
    async fn tip(self: &Arc<Self>, watch: &Watch) -> Result<Tip, CallError> {
        let (answer, wait) = oneshot::channel();
        if self.queue(watch.unit, Asking { name: watch.name.clone(), answer }) {
            tokio::spawn(self.clone().ask(watch.unit));
        }
        wait.await.unwrap_or(Err(CallError::Down))
    }

    /// Returns whether nobody serves the queue yet.
    fn queue(&self, unit: UnitIx, asking: Asking) -> bool {
        let mut queues = self.asking.lock().expect("no code panics while it holds the questions");
        let is_new = !queues.contains_key(&unit);
        queues.entry(unit).or_default().push(asking);
        is_new
    }

    async fn ask(self: Arc<Self>, unit: UnitIx) {
        while let Some(batch) = self.next_batch(unit) {
            let names = batch.iter().map(|asking| asking.name.clone()).collect();
            let tips = self.streams.tips(unit, names, None).await;
            for (at, asking) in batch.into_iter().enumerate() {
                // Nobody waits for the answer to a subscription that was given up.
                let _ = asking.answer.send(tips.as_ref().map(|tips| tips[at]).map_err(Clone::clone));
            }
        }
    }

    fn next_batch(&self, unit: UnitIx) -> Option<Vec<Asking>> {
        let mut queues = self.asking.lock().expect("no code panics while it holds the questions");
        let queue = queues.get_mut(&unit)?;
        if queue.is_empty() {
            queues.remove(&unit);
            return None;
        }
        Some(queue.drain(..queue.len().min(BATCH_MAX)).collect())
    }

    async fn subscribe(self: &Arc<Self>, watch: &Arc<Watch>) -> Result<(), CallError> {
        self.redis.subscribe(watch.unit, watch.name.clone()).await?;
        let tip = self.tip(watch).await?;
        self.stamps.listen(watch.unit, tip.stamp);
        self.rounds.add(watch);
        if let Some(work) = watch.begin(tip) {
            tokio::spawn(self.clone().work(watch.clone(), work));
        }
        Ok(())
    }

    fn forget(&self, key: &ChannelKey) {
        let mut watches = self.watches();
        let Some(watch) = watches.remove(key) else { return };
        watch.end();
        // In this order with subscribing again, which puts another one there first.
        self.redis.unsubscribe(watch.unit, &watch.name);
    }

    async fn enter(&self) -> Result<SemaphorePermit<'_>, BrokerError> {
        self.publishes.acquire().await.map_err(|_| BrokerError::Unavailable)
    }

    fn check_open(&self) -> Result<(), BrokerError> {
        if self.publishes.is_closed() { Err(BrokerError::Unavailable) } else { Ok(()) }
    }

    /// The mark of a publication from a history. What its reader has been shown of other channels is not known here.
    fn replayed(&self, tip: Tip) -> Mark {
        tip.mark(tip.stamp.saturating_sub(SKEW_US))
    }

    fn mark(&self, key: &ChannelKey, tip: Tip, present: u64) -> Mark {
        tip.mark(self.stamps.settled(self.streams.unit_of(key), present))
    }
}

/// The place before a publication.
fn before(tip: Tip) -> Tip {
    let StreamPosition { epoch, offset } = tip.position;
    Tip { position: StreamPosition { epoch, offset: offset - 1 }, stamp: tip.stamp - 1 }
}

fn key_of(name: &[u8]) -> Option<ChannelKey> {
    let (app, name) = std::str::from_utf8(name).ok()?.split_once('/')?;
    Some(ChannelKey::new(app, name))
}

fn unavailable(error: CallError) -> BrokerError {
    match error {
        CallError::Down | CallError::Timeout => {}
        CallError::Full | CallError::Refused(_) => tracing::warn!(%error, "a server does not do its part"),
    }
    BrokerError::Unavailable
}

#[async_trait]
impl Broker for RedisBroker {
    async fn subscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.0.check_open()?;
        let unit = self.0.streams.unit_of(key);
        let new = || Arc::new(Watch::new(key.clone(), unit, self.0.streams.name(unit, key)));
        let watch = self.0.watches().entry(key.clone()).or_insert_with(new).clone();
        if watch.has_begun() {
            return Ok(());
        }
        self.0.subscribe(&watch).await.map_err(|error| {
            self.0.forget(key);
            unavailable(error)
        })
    }

    async fn unsubscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.0.forget(key);
        Ok(())
    }

    async fn publish(
        &self,
        key: &ChannelKey,
        mut publication: Publication,
        post: Post,
    ) -> Result<Published, BrokerError> {
        let _entered = self.0.enter().await?;
        let permit = publication.permit.take();
        let echo = self.0.watch(key).map(|_| self.0.echoes.expect(permit));
        let record = record::encode(&publication, echo.as_ref().map(|echo| echo.origin()));
        let weight = publication.event.len() + publication.data.len();
        let outcome = self.0.streams.publish(key, record, weight, &post).await.map_err(unavailable)?;
        if let Some(echo) = echo
            && outcome.receivers > 0
            && !outcome.repeated
        {
            echo.will_come();
        }
        let mark = outcome.tip.map(|tip| self.0.mark(key, tip, tip.stamp - 1));
        Ok(Published { mark, heard: outcome.receivers > 0, repeated: outcome.repeated })
    }

    async fn publish_all(
        &self,
        key: &ChannelKey,
        posts: Vec<(Publication, Post)>,
    ) -> Result<Vec<Published>, BrokerError> {
        // They are sent in this order, and a server keeps it. A task that is made to yield between two would go on with the last.
        unconstrained(try_join_all(posts.into_iter().map(|(publication, post)| self.publish(key, publication, post))))
            .await
    }

    async fn history(&self, key: &ChannelKey, since: &Since, limit: usize) -> Result<History, BrokerError> {
        self.0.check_open()?;
        let listens = self.0.watch(key).is_some();
        let read = self.0.streams.history(key, Query::Since(since), limit, listens).await.map_err(unavailable)?;
        let now = self.0.mark(key, read.tip, read.present);
        let entries = if read.recovered { read.entries } else { Vec::new() };
        let stored = |Entry { tip, publication }| Stored { publication, mark: self.0.replayed(tip) };
        Ok(History {
            publications: entries.into_iter().map(stored).collect(),
            now,
            recovered: read.recovered,
            held: read.held,
        })
    }

    async fn clear(&self, key: &ChannelKey) -> Result<Mark, BrokerError> {
        self.0.check_open()?;
        let (tip, present) = self.0.streams.clear(key).await.map_err(unavailable)?;
        Ok(self.0.mark(key, tip, present))
    }

    async fn cached(&self, key: &ChannelKey) -> Result<Option<Cached>, BrokerError> {
        self.0.check_open()?;
        let newest = self.0.streams.cached(key).await.map_err(unavailable)?;
        Ok(newest.map(|(Entry { tip, publication }, ttl)| Cached { publication, mark: self.0.replayed(tip), ttl }))
    }

    fn units(&self) -> usize {
        self.0.names.len()
    }

    fn unit(&self, key: &ChannelKey) -> usize {
        usize::from(self.0.streams.unit_of(key).0)
    }

    async fn close(&self) {
        // Whoever has entered is through when all places are free.
        if let Ok(_all) = self.0.publishes.acquire_many(PUBLISHES_MAX).await {
            self.0.publishes.close();
        }
        // What the servers have taken may still be on its way back.
        let _ = tokio::time::timeout(LAST_ECHOES, self.0.echoes.all_heard()).await;
    }
}
