//! The place where every publication passes: a broker around the broker.
//!
//! Every door publishes through the hub, and the hub through its broker; so whatever is published passes here, once.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_hub::{Broker, BrokerError, Cached, ChannelKey, History, Kind, Mark, Post, Publication, Published, Since};

use super::{Firehoses, Hose};

/// A broker whose publications also go into their apps' firehoses.
pub struct Tee {
    inner: Arc<dyn Broker>,
    firehoses: Firehoses,
}

/// Whether a publication is one of the app's own: no change of members, nothing that clients tell each other, nothing between
/// us and a user. Whatever an app publishes has a rule for its history, be it to keep nothing.
pub fn is_for_everybody(key: &ChannelKey, publication: &Publication, post: &Post) -> bool {
    publication.kind == Kind::Event && !post.keep.is_transient() && !key.name().starts_with('#')
}

impl Tee {
    /// Publishes to this broker.
    pub fn new(inner: Arc<dyn Broker>, firehoses: Firehoses) -> Tee {
        Tee { inner, firehoses }
    }

    async fn publish_into(
        &self,
        hose: Arc<Hose>,
        key: &ChannelKey,
        posts: Vec<(Publication, Post)>,
    ) -> Result<Vec<Published>, BrokerError> {
        let (inner, key) = (self.inner.clone(), key.clone());
        // A publisher that hangs up must not take what is published out of the log.
        let task = tokio::spawn(async move { hose.publish(&*inner, &key, posts).await });
        task.await.unwrap_or(Err(BrokerError::Unavailable))
    }
}

#[async_trait]
impl Broker for Tee {
    async fn publish(&self, key: &ChannelKey, publication: Publication, post: Post) -> Result<Published, BrokerError> {
        match self.firehoses.recording(key.app()).filter(|_| is_for_everybody(key, &publication, &post)) {
            None => self.inner.publish(key, publication, post).await,
            Some(hose) => {
                let published = self.publish_into(hose, key, vec![(publication, post)]).await?;
                Ok(published.into_iter().next().expect("one was published"))
            }
        }
    }

    async fn publish_all(
        &self,
        key: &ChannelKey,
        posts: Vec<(Publication, Post)>,
    ) -> Result<Vec<Published>, BrokerError> {
        match self.firehoses.recording(key.app()) {
            None => self.inner.publish_all(key, posts).await,
            Some(hose) => self.publish_into(hose, key, posts).await,
        }
    }

    async fn subscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.inner.subscribe(key).await
    }

    async fn unsubscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.inner.unsubscribe(key).await
    }

    async fn history(&self, key: &ChannelKey, since: &Since, limit: usize) -> Result<History, BrokerError> {
        self.inner.history(key, since, limit).await
    }

    async fn clear(&self, key: &ChannelKey) -> Result<Mark, BrokerError> {
        self.inner.clear(key).await
    }

    async fn cached(&self, key: &ChannelKey) -> Result<Option<Cached>, BrokerError> {
        self.inner.cached(key).await
    }

    fn units(&self) -> usize {
        self.inner.units()
    }

    fn unit(&self, key: &ChannelKey) -> usize {
        self.inner.unit(key)
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
