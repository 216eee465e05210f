//! The contract of a broker: it carries publications between nodes and remembers the recent ones.
//!
//! Always true of every implementation (`testing::broker` checks it):
//! - one publish is one act per channel: position, store and send, so that positions follow delivery order;
//! - offsets of a channel grow by one within an epoch; a new epoch begins whenever what was kept could have been lost;
//! - a node hears a channel from the moment `subscribe` returned until it calls `unsubscribe`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

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

/// Whether a broker remembers a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Ordered and delivered, but not stored: it has no position.
    Transient,
    /// Stored as the channel's newest event for `ttl`, for those who subscribe later (cache channels).
    Newest {
        /// How long it is served.
        ttl: Duration,
    },
}

/// A cache channel's newest event.
#[derive(Clone, Debug)]
pub struct Cached {
    /// What was published.
    pub publication: Arc<Publication>,
    /// Its place in the channel's stream.
    pub position: StreamPosition,
    /// How long it will still be served.
    pub ttl: Duration,
}

/// Why a broker did not do what it was asked to. Nothing was changed; the caller may try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// It has been closed, or cannot be reached.
    #[error("broker unavailable")]
    Unavailable,
}

/// Carries publications between nodes and remembers the recent ones.
#[async_trait]
pub trait Broker: Send + Sync {
    /// From now on, this node hears what is published to the channel.
    async fn subscribe(&self, key: &ChannelKey) -> Result<(), BrokerError>;

    /// This node no longer wants the channel.
    async fn unsubscribe(&self, key: &ChannelKey) -> Result<(), BrokerError>;

    /// Assigns the position, stores and sends as one act. Returns the position of a stored publication.
    async fn publish(
        &self,
        key: &ChannelKey,
        publication: Publication,
        keep: Keep,
    ) -> Result<Option<StreamPosition>, BrokerError>;

    /// The newest event of a cache channel, if it has not expired.
    async fn cached(&self, key: &ChannelKey) -> Result<Option<Cached>, BrokerError>;

    /// Delivers what was accepted, then refuses everything.
    async fn close(&self);
}

/// What a broker tells the node that it serves.
#[async_trait]
pub trait BrokerEvents: Send + Sync {
    /// A publication to a channel that this node subscribed to. May wait for a loop's mailbox to drain.
    async fn publication(&self, key: &ChannelKey, publication: Arc<Publication>, position: Option<StreamPosition>);
}
