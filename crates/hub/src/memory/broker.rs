//! A broker for one node.
//!
//! Always true:
//! - publications to one channel pass one bounded queue and one task, which gives positions and delivers in that order;
//!   nothing waits under a lock;
//! - what nobody subscribed to and nobody is to remember ends here: it costs a look into a table, and no task;
//! - a channel whose newest event expired is forgotten; it begins again with a new epoch.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hashbrown::HashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::broker::{Broker, BrokerError, BrokerEvents, Cached, Keep, StreamPosition};
use crate::key::ChannelKey;
use crate::publication::Publication;

/// Tasks that order publications. A few per core, so that one waiting for a loop does not hold up the others.
const STRIPES: usize = 8;

/// Publications that wait for a task before publishers wait.
const QUEUE_MAX: usize = 1024;

/// How often expired events are looked for.
const SWEEP: Duration = Duration::from_secs(10);

enum Job {
    Publish { key: ChannelKey, publication: Publication, keep: Keep, done: oneshot::Sender<Option<StreamPosition>> },
    Cached { key: ChannelKey, done: oneshot::Sender<Option<Cached>> },
    Close { done: oneshot::Sender<()> },
}

/// A broker for one node; cheap to clone.
#[derive(Clone)]
pub struct MemoryBroker {
    stripes: Arc<[mpsc::Sender<Job>]>,
    wanted: Arc<papaya::HashSet<ChannelKey>>,
    hasher: RandomState,
}

impl MemoryBroker {
    /// Starts its tasks on the current tokio runtime. `epoch` should differ from that of an earlier start.
    pub fn start(events: Arc<dyn BrokerEvents>, epoch: u64) -> Self {
        let epochs = Arc::new(AtomicU64::new(epoch));
        let stripes = (0..STRIPES).map(|_| {
            let (sender, inbox) = mpsc::channel(QUEUE_MAX);
            let stripe = Stripe { events: events.clone(), epochs: epochs.clone(), newest: HashMap::new() };
            tokio::spawn(stripe.run(inbox));
            sender
        });
        MemoryBroker { stripes: stripes.collect(), wanted: Arc::default(), hasher: RandomState::new() }
    }

    fn stripe(&self, key: &ChannelKey) -> &mpsc::Sender<Job> {
        &self.stripes[self.hasher.hash_one(key) as usize % self.stripes.len()]
    }

    fn check_open(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        if self.stripe(key).is_closed() { Err(BrokerError::Unavailable) } else { Ok(()) }
    }

    async fn ask<T>(&self, key: &ChannelKey, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T, BrokerError> {
        let (done, wait) = oneshot::channel();
        self.stripe(key).send(job(done)).await.map_err(|_| BrokerError::Unavailable)?;
        wait.await.map_err(|_| BrokerError::Unavailable)
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn subscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.check_open(key)?;
        self.wanted.pin().insert(key.clone());
        Ok(())
    }

    async fn unsubscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.wanted.pin().remove(key);
        Ok(())
    }

    async fn publish(
        &self,
        key: &ChannelKey,
        publication: Publication,
        keep: Keep,
    ) -> Result<Option<StreamPosition>, BrokerError> {
        if keep == Keep::Transient && !self.wanted.pin().contains(key) {
            return self.check_open(key).map(|()| None);
        }
        self.ask(key, |done| Job::Publish { key: key.clone(), publication, keep, done }).await
    }

    async fn cached(&self, key: &ChannelKey) -> Result<Option<Cached>, BrokerError> {
        self.ask(key, |done| Job::Cached { key: key.clone(), done }).await
    }

    async fn close(&self) {
        for stripe in self.stripes.iter() {
            let (done, wait) = oneshot::channel();
            if stripe.send(Job::Close { done }).await.is_ok() {
                // An error means that it was closed already.
                let _ = wait.await;
            }
        }
    }
}

struct Newest {
    publication: Arc<Publication>,
    position: StreamPosition,
    expires_at: Instant,
}

struct Stripe {
    events: Arc<dyn BrokerEvents>,
    epochs: Arc<AtomicU64>,
    newest: HashMap<ChannelKey, Newest>,
}

impl Stripe {
    async fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let job = tokio::select! {
                job = inbox.recv() => job,
                _ = sweep.tick() => { self.sweep(); continue; }
            };
            match job {
                Some(Job::Publish { key, publication, keep, done }) => {
                    let position = self.publish(&key, publication, keep).await;
                    // Nobody waits for the answer of a publish that was given up.
                    let _ = done.send(position);
                }
                Some(Job::Cached { key, done }) => {
                    let _ = done.send(self.cached(&key));
                }
                Some(Job::Close { done }) => {
                    inbox.close();
                    let _ = done.send(());
                }
                None => return,
            }
        }
    }

    async fn publish(&mut self, key: &ChannelKey, publication: Publication, keep: Keep) -> Option<StreamPosition> {
        let position = match keep {
            Keep::Transient => None,
            Keep::Newest { ttl } => Some(self.store(key, &publication, ttl)),
        };
        self.events.publication(key, Arc::new(publication), position).await;
        position
    }

    fn store(&mut self, key: &ChannelKey, publication: &Publication, ttl: Duration) -> StreamPosition {
        let position = match self.unexpired(key) {
            Some((newest, _)) => StreamPosition { offset: newest.position.offset + 1, ..newest.position },
            None => StreamPosition { epoch: self.epochs.fetch_add(1, Ordering::Relaxed), offset: 1 },
        };
        let publication = Arc::new(publication.kept());
        self.newest.insert(key.clone(), Newest { publication, position, expires_at: Instant::now() + ttl });
        position
    }

    fn cached(&self, key: &ChannelKey) -> Option<Cached> {
        let (newest, ttl) = self.unexpired(key)?;
        Some(Cached { publication: newest.publication.clone(), position: newest.position, ttl })
    }

    /// The newest event and the time that it has left. An expired one is as good as swept.
    fn unexpired(&self, key: &ChannelKey) -> Option<(&Newest, Duration)> {
        let newest = self.newest.get(key)?;
        let ttl = newest.expires_at.saturating_duration_since(Instant::now());
        (!ttl.is_zero()).then_some((newest, ttl))
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        self.newest.retain(|_, newest| newest.expires_at > now);
    }
}
