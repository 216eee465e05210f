//! The node's half of fan-out: which loops hold subscribers of a channel, and everything that must ask the broker or the
//! presence store.
//!
//! Always true:
//! - a publication costs one letter per loop that holds a subscriber or did a moment ago, however many they are;
//! - requests about one channel are served in order, by one stripe; nothing waits under a lock.
//!
//! Not here: the loops' own tables (`shard`), the work of a stripe (`stripe`).

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::audit::Audit;
use crate::broker::{
    Broker, BrokerError, BrokerEvents, Cached, Delivery, History, Mark, Post, Published, Since, Stored,
};
use crate::herald::{Crier, Herald};
use crate::key::ChannelKey;
use crate::mail::{Mail, Mailbox, Request};
use crate::presence::{Counts, Member, PresenceEvents, PresenceStore, StoreError};
use crate::publication::{Encode, Frames, Kind, Publication};
use crate::rosters::Rosters;
use crate::seconds::Seconds;
use crate::stripe::{Ask, Stripe};
use crate::tally::{Outcomes, Tally};

/// Loops that a node may have: their set is one word.
pub const LOOPS_MAX: usize = 64;

/// Stripes of channels. Each serves its requests one at a time, so this is how many may wait for a store at once. Channels of
/// different units of the broker share none: a server that does not answer holds up only what it serves.
const STRIPES: usize = 64;

/// Requests that a stripe's queue holds before loops stop reading.
const REQUESTS_MAX: usize = 1024;

/// Which loops hold subscribers of a channel; what the broker delivers to.
pub struct Routes {
    loops: Vec<Route>,
    /// A bit for each loop with at least one subscriber, now or a moment ago.
    holders: papaya::HashMap<ChannelKey, u64>,
    encoder: Arc<dyn Encode>,
    pub(crate) rosters: Rosters,
    /// Publications that others asked for, and the hub's own: client events, changes of members, counts.
    posted: Tally,
    own: Tally,
    /// Publications that the broker delivered here.
    arrived: AtomicU64,
}

/// The way to a loop.
struct Route {
    mailbox: Mailbox<Mail>,
    /// Publications and gaps that went into the box.
    letters: AtomicU64,
}

/// What has gone to a loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Letters {
    /// Publications and gaps that went into its box.
    pub sent: u64,
    /// Letters of any kind that are in the box.
    pub waiting: u64,
}

/// What a hub has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Publications that others asked for.
    pub posted: Outcomes,
    /// The hub's own: client events, changes of members, counts.
    pub own: Outcomes,
    /// Publications that the broker delivered to this node's loops.
    pub arrived: u64,
    /// For each loop.
    pub letters: Vec<Letters>,
}

impl Routes {
    /// Routes to these loops, whose subscribers take their messages as `encoder` writes them.
    pub fn new(loops: Vec<Mailbox<Mail>>, encoder: Arc<dyn Encode>) -> Self {
        assert!(loops.len() <= LOOPS_MAX, "at most {LOOPS_MAX} loops");
        let route = |mailbox| Route { mailbox, letters: AtomicU64::new(0) };
        Routes {
            loops: loops.into_iter().map(route).collect(),
            holders: papaya::HashMap::new(),
            encoder,
            rosters: Rosters::default(),
            posted: Tally::default(),
            own: Tally::default(),
            arrived: AtomicU64::new(0),
        }
    }

    pub(crate) fn set(&self, key: &ChannelKey, holders: u64) {
        let map = self.holders.pin();
        if holders == 0 {
            map.remove(key);
        } else {
            map.insert(key.clone(), holders);
        }
        if key.name().starts_with("presence-") {
            self.rosters.held(key, holders > 0);
        }
    }

    pub(crate) async fn mail(&self, to: usize, letter: Mail) {
        self.loops[to].mailbox.send(letter).await;
    }

    /// A stored publication as it goes out again to whoever missed it.
    pub(crate) fn frames(&self, key: &ChannelKey, stored: Stored) -> Arc<Frames> {
        Arc::new(Frames::new(key.clone(), stored.publication, Some(stored.mark), self.encoder.clone()))
    }

    fn holders(&self, key: &ChannelKey) -> u64 {
        self.holders.pin().get(key).copied().unwrap_or(0)
    }

    async fn deliver(&self, holders: u64, frames: Frames) {
        let frames = Arc::new(frames);
        for (index, route) in self.loops.iter().enumerate() {
            if holders & (1 << index) != 0 {
                route.mailbox.send(Mail::Publication(frames.clone())).await;
                route.letters.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Publishes what the hub itself has to say.
    pub(crate) async fn publish_own(
        &self,
        broker: &dyn Broker,
        key: &ChannelKey,
        publication: Publication,
    ) -> Result<Published, BrokerError> {
        let asked = self.own.ask(1);
        let outcome = broker.publish(key, publication, Post::TRANSIENT).await;
        asked.told(outcome.as_ref().map(std::slice::from_ref));
        outcome
    }

    fn counted(&self) -> Counted {
        let letters = |route: &Route| Letters {
            sent: route.letters.load(Ordering::Relaxed),
            waiting: route.mailbox.waiting() as u64,
        };
        Counted {
            posted: self.posted.read(),
            own: self.own.read(),
            arrived: self.arrived.load(Ordering::Relaxed),
            letters: self.loops.iter().map(letters).collect(),
        }
    }
}

#[async_trait]
impl BrokerEvents for Routes {
    async fn publication(&self, key: &ChannelKey, delivery: Delivery) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        let holders = self.holders(key);
        if holders == 0 {
            return;
        }
        let Delivery { publication, mark, in_flight } = delivery;
        if let Kind::Presence { version } = publication.kind {
            self.rosters.changed(key, version);
        }
        let frames = Frames::new(key.clone(), publication, mark, self.encoder.clone());
        self.deliver(holders, frames.carrying(in_flight)).await;
    }

    async fn gap(&self, key: &ChannelKey, now: Mark) {
        let holders = self.holders(key);
        if holders > 0 {
            self.deliver(holders, Frames::gap(key.clone(), now, self.encoder.clone())).await;
        }
    }
}

/// The control plane's view of channels; cheap to clone.
#[derive(Clone)]
pub struct Hub {
    routes: Arc<Routes>,
    broker: Arc<dyn Broker>,
    presence: Arc<dyn PresenceStore>,
    requests: Requests,
    seconds: Arc<Seconds>,
}

/// Where loops put their requests; cheap to clone.
#[derive(Clone)]
pub struct Requests {
    stripes: Arc<[mpsc::Sender<Ask>]>,
    broker: Arc<dyn Broker>,
    hasher: RandomState,
    parting: Arc<AtomicBool>,
}

impl Requests {
    fn stripe(&self, key: &ChannelKey) -> &mpsc::Sender<Ask> {
        let each = (self.stripes.len() / self.broker.units()).max(1);
        let index = self.broker.unit(key) * each + self.hasher.hash_one(key) as usize % each;
        &self.stripes[index % self.stripes.len()]
    }

    /// Gives the request back when its queue is full. After the hub has closed, requests are dropped.
    #[expect(clippy::result_large_err, reason = "it comes back seldom, and is a letter as it was before")]
    pub fn try_send(&self, request: Request) -> Result<(), Request> {
        let stripe = self.stripe(request.key());
        match stripe.try_send(Ask::Serve(request)) {
            Err(mpsc::error::TrySendError::Full(Ask::Serve(request))) => Err(request),
            _ => Ok(()),
        }
    }

    /// Whether this node is about to end.
    pub(crate) fn are_parting(&self) -> bool {
        self.parting.load(Ordering::Relaxed)
    }

    /// Returns once everything that was asked before about the channel has been served.
    async fn settled(&self, key: &ChannelKey) {
        settle(self.stripe(key)).await;
    }

    /// Returns once everything that was asked before has been served.
    pub(crate) async fn all_settled(&self) {
        for stripe in self.stripes.iter() {
            settle(stripe).await;
        }
    }
}

async fn settle(stripe: &mpsc::Sender<Ask>) {
    let (done, wait) = oneshot::channel();
    if stripe.send(Ask::Settle(done)).await.is_ok() {
        // An error means that the hub closed meanwhile: nothing more will be served.
        let _ = wait.await;
    }
}

impl Hub {
    /// Starts the stripes on the current tokio runtime. `broker` must deliver to `routes`.
    pub fn start(routes: Arc<Routes>, broker: Arc<dyn Broker>, presence: Arc<dyn PresenceStore>) -> Hub {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..STRIPES).map(|_| mpsc::channel(REQUESTS_MAX)).unzip();
        let requests = Requests {
            stripes: senders.into(),
            broker: broker.clone(),
            hasher: RandomState::new(),
            parting: Arc::default(),
        };
        for inbox in receivers {
            let settle = requests.clone();
            let stripe = Stripe::new(routes.clone(), broker.clone(), presence.clone(), settle);
            tokio::spawn(stripe.run(inbox));
        }
        Hub { routes, broker, presence, requests, seconds: Arc::default() }
    }

    /// Where this node's loops put their requests.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Publishes to every subscriber of the channel on every node; without a time, it is of now.
    pub async fn publish(
        &self,
        key: &ChannelKey,
        mut publication: Publication,
        post: impl Into<Post>,
    ) -> Result<Published, BrokerError> {
        (publication.time_ms, publication.tag) = self.seconds.next(publication.time_ms);
        let asked = self.routes.posted.ask(1);
        let outcome = self.broker.publish(key, publication, post.into()).await;
        asked.told(outcome.as_ref().map(std::slice::from_ref));
        outcome
    }

    /// Publishes all of it in this order.
    pub async fn publish_all(
        &self,
        key: &ChannelKey,
        mut posts: Vec<(Publication, Post)>,
    ) -> Result<Vec<Published>, BrokerError> {
        for (publication, _) in &mut posts {
            (publication.time_ms, publication.tag) = self.seconds.next(publication.time_ms);
        }
        let asked = self.routes.posted.ask(posts.len());
        let outcome = self.broker.publish_all(key, posts).await;
        asked.told(outcome.as_deref());
        outcome
    }

    /// What has become of publications so far.
    pub fn counted(&self) -> Counted {
        self.routes.counted()
    }

    /// What the channel's history holds since then, at most the oldest `limit` of it.
    pub async fn history(&self, key: &ChannelKey, since: &Since, limit: usize) -> Result<History, BrokerError> {
        self.broker.history(key, since, limit).await
    }

    /// Forgets the channel's history and its newest event. Returns the place after that.
    pub async fn clear(&self, key: &ChannelKey) -> Result<Mark, BrokerError> {
        self.broker.clear(key).await
    }

    /// Closes every socket that signed in as `user`, on every node.
    pub async fn terminate(&self, app: &str, user: &str) -> Result<(), BrokerError> {
        let key = user_channel(app, user);
        let command = Publication { kind: Kind::Terminate, ..Publication::event("\"\"", "\"\"") };
        self.routes.publish_own(&*self.broker, &key, command).await.map(drop)
    }

    /// How many are on the channel, everything counted that a client has been told of.
    pub async fn counts(&self, key: &ChannelKey) -> Result<Counts, StoreError> {
        self.requests.settled(key).await;
        self.presence.counts(key).await
    }

    /// The app's occupied channels whose names begin with `prefix`, by name; users' own channels are not among them.
    pub async fn channels(&self, app: &str, prefix: &str) -> Result<Vec<(String, Counts)>, StoreError> {
        self.requests.all_settled().await;
        let mut channels = self.presence.channels(app, prefix).await?;
        channels.retain(|(name, _)| !name.starts_with('#'));
        Ok(channels)
    }

    /// Who is in the presence channel, in order of joining.
    pub async fn members(&self, key: &ChannelKey) -> Result<Vec<Member>, StoreError> {
        self.requests.settled(key).await;
        self.presence.members(key).await
    }

    /// The newest event of a cache channel.
    pub async fn cached(&self, key: &ChannelKey) -> Result<Option<Cached>, BrokerError> {
        self.broker.cached(key).await
    }

    /// What a presence store tells of by itself is to be told here. `announces`: whether a channel's subscribers are told
    /// how many they are.
    pub fn presence_events(
        &self,
        announces: impl Fn(&ChannelKey) -> bool + Send + Sync + 'static,
    ) -> Arc<dyn PresenceEvents> {
        Arc::new(Crier { herald: Herald::new(self.routes.clone(), self.broker.clone()), announces })
    }

    /// Starts to look for changes of members that this node was not told of: where other nodes make some. A doubt that is
    /// notified makes it look at once.
    pub fn audit(&self, doubt: Arc<Notify>) {
        self.routes.rosters.follow();
        let (routes, broker, presence) = (self.routes.clone(), self.broker.clone(), self.presence.clone());
        tokio::spawn(Audit { routes, broker, presence, doubt }.run());
    }

    /// This node is about to end: from now on, members whose connections end stay for a while, as their clients are on
    /// their way to other nodes.
    pub fn part(&self) {
        self.requests.parting.store(true, Ordering::Relaxed);
    }

    /// Delivers what was accepted, then refuses everything.
    pub async fn close(&self) {
        self.requests.all_settled().await;
        self.presence.retire().await;
        self.broker.close().await;
    }
}

/// The channel that every socket signed in as `user` is subscribed to.
pub fn user_channel(app: &str, user: &str) -> ChannelKey {
    ChannelKey::new(app, &format!("#server-to-user-{user}"))
}

/// The channel that carries a user's coming and going to those who watch it. No client can name it.
pub fn watch_channel(app: &str, user: &str) -> ChannelKey {
    ChannelKey::new(app, &format!("#watch-{user}"))
}
