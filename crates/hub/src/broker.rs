//! The contract of a broker: it carries publications between nodes and remembers the recent ones.
//!
//! Always true of every implementation (`testing::broker` checks it):
//! - one publish is one act per channel: position, stamp, store and send, so that positions follow delivery order;
//! - offsets of a channel grow by one within an epoch; a new epoch begins whenever what was kept could have been lost;
//! - a node hears a channel from the moment `subscribe` returned until it calls `unsubscribe`;
//! - a history that calls itself recovered holds everything that was stored after the cursor; when that cannot be proven it
//!   does not;
//! - once a cursor's settled stamp has reached a publication, every subscriber of this node has been shown it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_proto::cursor::{Cursor, Place, channel_hash};
use tokio::sync::OwnedSemaphorePermit;

use crate::hold::Hold;
use crate::key::ChannelKey;
use crate::publication::Publication;

/// A stored publication's place in its channel's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// New whenever what was kept could have been lost.
    pub epoch: u64,
    /// One more than that of the publication stored before it.
    pub offset: u64,
}

/// A stored publication's place in its channel and among all channels of its ordering unit: a node, or what nodes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its place in its channel.
    pub position: StreamPosition,
    /// Rises with each publication stored in the ordering unit.
    pub stamp: u64,
    /// Everything up to this stamp had been shown to every subscriber when this was stored.
    pub settled: u64,
}

impl Mark {
    /// Its place, as cursors name it.
    pub fn place(&self, key: &ChannelKey) -> Place {
        let StreamPosition { epoch, offset } = self.position;
        Place { channel_hash: key.hash(), epoch, offset }
    }

    /// The cursor of whoever has been shown everything up to here.
    pub fn cursor(&self, key: &ChannelKey) -> Cursor {
        Cursor::single(self.place(key), self.settled)
    }
}

impl ChannelKey {
    /// What stands for it in cursors.
    pub fn hash(&self) -> u64 {
        channel_hash(self.app(), self.name())
    }
}

/// How much of a channel is kept for those who come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRule {
    /// At most so many publications.
    pub messages: usize,
    /// At most so many bytes of events' names and data.
    pub bytes: usize,
    /// Each for so long.
    pub ttl: Duration,
    /// What all histories of the app may take of this node's memory; the oldest go first.
    pub app_bytes_max: usize,
}

impl HistoryRule {
    /// Keeps nothing, and yet counts what was published: whoever comes back is told that something is missing.
    pub const NOTHING: HistoryRule =
        HistoryRule { messages: 0, bytes: 0, ttl: Duration::ZERO, app_bytes_max: usize::MAX };
}

impl Default for HistoryRule {
    fn default() -> Self {
        HistoryRule { messages: 100, bytes: 256 << 10, ttl: Duration::from_secs(60), app_bytes_max: 64 << 20 }
    }
}

/// What a broker remembers of a publication. Nothing: it is ordered and delivered, and has no position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// It goes into the channel's history.
    pub history: Option<HistoryRule>,
    /// It is the channel's newest event for so long, for those who subscribe later (cache channels).
    pub newest: Option<Duration>,
}

impl Keep {
    /// Remembered in no way: client events, changes of members, counts, commands.
    pub const TRANSIENT: Keep = Keep { history: None, newest: None };

    /// Kept in the history only.
    pub const fn history(rule: HistoryRule) -> Keep {
        Keep { history: Some(rule), newest: None }
    }

    /// Kept as the newest event only.
    pub const fn newest(ttl: Duration) -> Keep {
        Keep { history: None, newest: Some(ttl) }
    }

    /// Whether nothing of it is remembered.
    pub fn is_transient(&self) -> bool {
        *self == Keep::TRANSIENT
    }
}

/// The publisher's word for one publication, so that it may be posted again without being published again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The publisher's key, within one channel.
    pub key: Arc<str>,
    /// How long a repeat is known.
    pub window: Duration,
}

/// How a publication is to be treated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Post {
    /// What is remembered of it.
    pub keep: Keep,
    /// How a repeat is known.
    pub idempotency: Option<Idempotency>,
}

impl Post {
    /// Delivered, and that is all.
    pub const TRANSIENT: Post = Post { keep: Keep::TRANSIENT, idempotency: None };
}

impl From<Keep> for Post {
    fn from(keep: Keep) -> Post {
        Post { keep, idempotency: None }
    }
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Its mark, if it was stored; of a repeat, that of the first.
    pub mark: Option<Mark>,
    /// Whether anybody was subscribed to the channel, on any node.
    pub heard: bool,
    /// It had been published before, and was not again.
    pub repeated: bool,
}

/// From where to read a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Only what is to come.
    Now,
    /// The last so many, and what is to come.
    Last(u32),
    /// What was stored after the cursor.
    Cursor(Cursor),
}

/// A publication from a history.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What was published. It has no `except`: that was for its delivery.
    pub publication: Arc<Publication>,
    /// Its place.
    pub mark: Mark,
}

/// An answer to the question what was missed.
#[derive(Clone, Debug)]
pub struct History {
    /// The oldest first. Empty when it is not recovered.
    pub publications: Vec<Stored>,
    /// The end of the channel's stream: where to go on from for whoever has seen everything, or wants only what is to
    /// come. A channel in which nothing is known to have been stored is at offset 0.
    pub now: Mark,
    /// Whether nothing is missing after the cursor; true when none was given.
    pub recovered: bool,
    /// What the channel's history holds altogether.
    pub held: Held,
}

/// How much a history holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Publications.
    pub messages: usize,
    /// Bytes of their names and data.
    pub bytes: usize,
}

/// A cache channel's newest event.
#[derive(Clone, Debug)]
pub struct Cached {
    /// What was published. It has no `except`: that was for its delivery.
    pub publication: Arc<Publication>,
    /// Its place.
    pub mark: Mark,
    /// How long it will still be served.
    pub ttl: Duration,
}

/// Why a broker did not do what it was asked to, as far as it knows; the caller may try again later. Where that could publish
/// something twice, an idempotency key prevents it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// It has been closed, or cannot be reached.
    #[error("broker unavailable")]
    Unavailable,
    /// It was published, and what is to be kept of it elsewhere is not.
    #[error("published, but not recorded")]
    Unrecorded,
}

/// Carries publications between nodes and remembers the recent ones.
#[async_trait]
pub trait Broker: Send + Sync {
    /// From now on, this node hears what is published to the channel.
    async fn subscribe(&self, key: &ChannelKey) -> Result<(), BrokerError>;

    /// This node no longer wants the channel.
    async fn unsubscribe(&self, key: &ChannelKey) -> Result<(), BrokerError>;

    /// Assigns the place, stores and sends as one act; a repeat does nothing of that.
    async fn publish(&self, key: &ChannelKey, publication: Publication, post: Post) -> Result<Published, BrokerError>;

    /// Publishes one after another, up to the first that is refused. A broker that asks others need not wait for each answer.
    async fn publish_all(
        &self,
        key: &ChannelKey,
        posts: Vec<(Publication, Post)>,
    ) -> Result<Vec<Published>, BrokerError> {
        let mut published = Vec::with_capacity(posts.len());
        for (publication, post) in posts {
            published.push(self.publish(key, publication, post).await?);
        }
        Ok(published)
    }

    /// What the channel's history holds since then; the oldest `limit` of it, if there is more. Whoever is subscribed before
    /// asking misses nothing: what is not in the answer is still to be delivered, and some of it may be both.
    async fn history(&self, key: &ChannelKey, since: &Since, limit: usize) -> Result<History, BrokerError>;

    /// Forgets the channel's history and its newest event, and begins a new epoch. Returns the place after that.
    async fn clear(&self, key: &ChannelKey) -> Result<Mark, BrokerError>;

    /// The newest event of a cache channel, if it has not expired.
    async fn cached(&self, key: &ChannelKey) -> Result<Option<Cached>, BrokerError>;

    /// How many ordering units there are, which may be well or away each on its own.
    fn units(&self) -> usize {
        1
    }

    /// The number of a channel's unit. A cursor of one channel resumes others of its unit exactly; from one unit to another it
    /// may repeat what was shown, and prove less.
    fn unit(&self, _key: &ChannelKey) -> usize {
        0
    }

    /// Delivers what was accepted, then refuses everything.
    async fn close(&self);
}

/// A publication on its way to the subscribers of this node.
#[derive(Debug)]
pub struct Delivery {
    /// What was published.
    pub publication: Arc<Publication>,
    /// Its place, if it was stored.
    pub mark: Option<Mark>,
    /// To be dropped once every subscriber of this node has been shown it.
    pub in_flight: InFlight,
}

/// What a publication holds until everybody has been shown it.
#[derive(Debug, Default)]
pub struct InFlight {
    /// The publisher's share of its app's window.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Keeps later publications from being settled beyond it.
    pub flight: Option<Flight>,
    /// Kept beyond that, until every socket has taken it.
    pub hold: Option<Hold>,
}

/// A publication that has not been shown to everybody yet; its drop says that it has.
pub struct Flight {
    number: u64,
    tower: Arc<dyn Tower>,
}

/// Whoever waits for publications to have been shown.
pub trait Tower: Send + Sync {
    /// The flight of this number has been shown to everybody.
    fn landed(&self, number: u64);
}

impl Flight {
    /// Tells `tower` when it is dropped.
    pub fn new(number: u64, tower: Arc<dyn Tower>) -> Flight {
        Flight { number, tower }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.tower.landed(self.number);
    }
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What a broker tells the node that it serves.
#[async_trait]
pub trait BrokerEvents: Send + Sync {
    /// A publication to a channel that this node subscribed to. May wait for a loop's mailbox to drain.
    async fn publication(&self, key: &ChannelKey, delivery: Delivery);

    /// Between what was delivered of the channel before and what will be from now on, something may be missing for good; the
    /// stream goes on behind `now`. Waits like a publication, and keeps its place among them.
    async fn gap(&self, key: &ChannelKey, now: Mark);
}
