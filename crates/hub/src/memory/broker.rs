//! A broker for one node.
//!
//! A stripe of channels has a table behind a lock, and a bounded queue with a task. Publications to subscribers pass the
//! queue, and its task gives positions and delivers in that order. Whatever nobody would hear is stored at
//! once, and histories are read from the table: neither wakes a task.
//!
//! Always true:
//! - a publication is stored before it is delivered, and whether anybody wants it is asked under the table's lock: whoever
//!   subscribes and then reads the history has all of it, or gets it delivered;
//! - nothing waits under a lock, and no two locks are held together;
//! - what nobody subscribed to and nobody is to remember ends here: it costs a look into a table, and no task.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use super::snapshot::Snapshot;
use super::table::{Common, Outcome, Table};
use crate::broker::{
    Broker, BrokerError, BrokerEvents, Cached, Delivery, History, InFlight, Mark, Post, Published, Since,
};
use crate::key::ChannelKey;
use crate::publication::Publication;

/// Tasks that order publications. A few per core, so that one waiting for a loop does not hold up the others.
const STRIPES: usize = 8;

/// Publications that wait for a task before publishers wait.
const QUEUE_MAX: usize = 1024;

/// How often expired publications are looked for.
const SWEEP: Duration = Duration::from_secs(10);

enum Job {
    Publish { letter: Letter, done: oneshot::Sender<Published> },
    Close { done: oneshot::Sender<()> },
}

/// A publication on its way in.
struct Letter {
    key: ChannelKey,
    publication: Arc<Publication>,
    permit: Option<OwnedSemaphorePermit>,
    post: Post,
}

/// A broker for one node; cheap to clone.
#[derive(Clone)]
pub struct MemoryBroker {
    stripes: Arc<[Stripe]>,
    common: Arc<Common>,
    hasher: RandomState,
}

struct Stripe {
    queue: mpsc::Sender<Job>,
    table: Arc<Mutex<Table>>,
}

impl MemoryBroker {
    /// Starts its tasks on the current tokio runtime. `epoch` must be later than any of an earlier start.
    pub fn start(events: Arc<dyn BrokerEvents>, epoch: u64) -> Self {
        Self::run(events, Common::new(epoch, epoch + 1, 1), 0)
    }

    /// As [`MemoryBroker::start`], going on where another life stopped.
    pub fn resume(events: Arc<dyn BrokerEvents>, epoch: u64, snapshot: Snapshot) -> Self {
        let Snapshot { life, epoch: next, stamp, forgotten, streams, mut keys } = snapshot;
        let broker = Self::run(events, Common::new(life, next.max(epoch + 1), stamp), forgotten);
        for (key, stream) in streams {
            lock(&broker.stripe(&key).table).adopt(key, stream);
        }
        keys.sort_unstable_by_key(|(_, first)| first.expires_at);
        for (name, first) in keys {
            lock(&broker.stripe(&name.0).table).adopt_key(name, first);
        }
        for stripe in broker.stripes.iter() {
            lock(&stripe.table).adopted();
        }
        broker
    }

    fn run(events: Arc<dyn BrokerEvents>, common: Arc<Common>, forgotten: u64) -> Self {
        let stripes = (0..STRIPES).map(|_| {
            let (queue, inbox) = mpsc::channel(QUEUE_MAX);
            let table = Arc::new(Mutex::new(Table::new(common.clone(), forgotten)));
            let clerk = Clerk { events: events.clone(), common: common.clone(), table: table.clone() };
            tokio::spawn(clerk.run(inbox));
            Stripe { queue, table }
        });
        MemoryBroker { stripes: stripes.collect(), common, hasher: RandomState::new() }
    }

    /// Closes, and takes out everything that another life needs to go on.
    pub async fn save(&self) -> Snapshot {
        self.close().await;
        let (epoch, stamp) = (self.common.epochs.load(Ordering::Relaxed), self.common.stamps.next());
        let (streams, keys) = Default::default();
        let mut snapshot = Snapshot { life: self.common.life, epoch, stamp, forgotten: 0, streams, keys };
        self.stripes.iter().for_each(|stripe| lock(&stripe.table).empty_into(&mut snapshot));
        snapshot
    }

    fn stripe(&self, key: &ChannelKey) -> &Stripe {
        &self.stripes[self.hasher.hash_one(key) as usize % self.stripes.len()]
    }

    fn check_open(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        if self.stripe(key).queue.is_closed() { Err(BrokerError::Unavailable) } else { Ok(()) }
    }

    /// The table of a channel's stripe, unless the broker is closed.
    fn table(&self, key: &ChannelKey) -> Result<MutexGuard<'_, Table>, BrokerError> {
        let table = lock(&self.stripe(key).table);
        if table.closed { Err(BrokerError::Unavailable) } else { Ok(table) }
    }

    /// Stores what nobody here would hear; `None` if somebody would.
    fn store_unheard(&self, letter: &Letter) -> Result<Option<Published>, BrokerError> {
        let now = Instant::now();
        let mut table = self.table(&letter.key)?;
        // Whoever subscribes from here on will find it in the history.
        if self.common.wants(&letter.key) {
            return Ok(None);
        }
        Ok(Some(published(table.publish(&letter.key, &letter.publication, &letter.post, now), false)))
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().expect("no code panics while it holds a table")
}

fn published(outcome: Outcome, heard: bool) -> Published {
    match outcome {
        Outcome::New(mark) => Published { mark, heard, repeated: false },
        Outcome::Repeat(mark) => Published { mark, heard, repeated: true },
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn subscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.check_open(key)?;
        self.common.wanted.pin().insert(key.clone());
        Ok(())
    }

    async fn unsubscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.common.wanted.pin().remove(key);
        Ok(())
    }

    async fn publish(
        &self,
        key: &ChannelKey,
        mut publication: Publication,
        post: Post,
    ) -> Result<Published, BrokerError> {
        let unheard = !self.common.wants(key);
        if unheard && post == Post::TRANSIENT {
            return self.check_open(key).map(|()| Published::default());
        }
        let permit = publication.permit.take();
        let letter = Letter { key: key.clone(), publication: Arc::new(publication), permit, post };
        if unheard && let Some(published) = self.store_unheard(&letter)? {
            return Ok(published);
        }
        let (done, wait) = oneshot::channel();
        let queue = &self.stripe(key).queue;
        queue.send(Job::Publish { letter, done }).await.map_err(|_| BrokerError::Unavailable)?;
        wait.await.map_err(|_| BrokerError::Unavailable)
    }

    async fn history(&self, key: &ChannelKey, since: &Since, limit: usize) -> Result<History, BrokerError> {
        // Before the lock: everything that is settled by now can then be seen in the table.
        let (settled, now) = (self.common.stamps.settled(), Instant::now());
        Ok(self.table(key)?.history(key, since, limit, settled, now))
    }

    async fn clear(&self, key: &ChannelKey) -> Result<Mark, BrokerError> {
        let (settled, now) = (self.common.stamps.settled(), Instant::now());
        Ok(self.table(key)?.clear(key, settled, now))
    }

    async fn cached(&self, key: &ChannelKey) -> Result<Option<Cached>, BrokerError> {
        let now = Instant::now();
        Ok(self.table(key)?.cached(key, now))
    }

    async fn close(&self) {
        for stripe in self.stripes.iter() {
            let (done, wait) = oneshot::channel();
            if stripe.queue.send(Job::Close { done }).await.is_ok() {
                // An error means that it was closed already.
                let _ = wait.await;
            }
        }
    }
}

/// The task of a stripe.
struct Clerk {
    events: Arc<dyn BrokerEvents>,
    common: Arc<Common>,
    table: Arc<Mutex<Table>>,
}

impl Clerk {
    async fn run(self, mut inbox: mpsc::Receiver<Job>) {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut closed = Vec::new();
        loop {
            let job = tokio::select! {
                job = inbox.recv() => job,
                _ = sweep.tick() => { lock(&self.table).sweep(Instant::now()); continue; }
            };
            match job {
                Some(Job::Publish { letter, done }) => {
                    let published = self.publish(letter).await;
                    // Nobody waits for the answer of a publish that was given up.
                    let _ = done.send(published);
                }
                Some(Job::Close { done }) => {
                    inbox.close();
                    lock(&self.table).closed = true;
                    closed.push(done);
                }
                // Whoever closed waits until here: all that was accepted has been delivered.
                None => return,
            }
        }
    }

    async fn publish(&self, letter: Letter) -> Published {
        let Letter { key, publication, permit, post } = letter;
        // Before the stamp is drawn, so that nobody takes it for settled meanwhile.
        let flight = (!post.keep.is_transient()).then(|| self.common.stamps.board());
        let outcome = match post == Post::TRANSIENT {
            true => Outcome::New(None),
            false => self.store(&key, &publication, &post),
        };
        // Only now: whoever subscribed before it was stored may have read the history before that too.
        let heard = self.common.wants(&key);
        if let Outcome::New(mark) = outcome
            && heard
        {
            let in_flight = InFlight { permit, flight, hold: None };
            self.events.publication(&key, Delivery { publication, mark, in_flight }).await;
        }
        published(outcome, heard)
    }

    fn store(&self, key: &ChannelKey, publication: &Arc<Publication>, post: &Post) -> Outcome {
        let now = Instant::now();
        lock(&self.table).publish(key, publication, post, now)
    }
}
