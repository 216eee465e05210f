//! Finds changes of members that this node's subscribers were not told of, and tells them that something is missing.
//!
//! A change is stored first and told after that, so whoever told it may have died between the two, or the telling been lost
//! on its way. What is still untold at the next look is told as a gap.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::sync::Notify;

use crate::broker::{Broker, BrokerEvents, Since};
use crate::hub::Routes;
use crate::key::ChannelKey;
use crate::presence::PresenceStore;

/// Between looks, where nothing is suspected.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a change may be on its way: longer than a broker tries to publish it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Channels whose versions are asked for at once.
const BATCH: usize = 500;

/// Compares what has been told with what is stored.
pub(crate) struct Audit {
    pub(crate) routes: Arc<Routes>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) presence: Arc<dyn PresenceStore>,
    /// Something may have been missed just now.
    pub(crate) doubt: Arc<Notify>,
}

impl Audit {
    pub(crate) async fn run(self) {
        let mut suspects = HashMap::new();
        loop {
            if suspects.is_empty() {
                // Whether there was a doubt or the time was up, the look is the same.
                let _ = tokio::time::timeout(PAUSE, self.doubt.notified()).await;
            } else {
                tokio::time::sleep(PATIENCE).await;
            }
            suspects = self.look(&suspects).await;
        }
    }

    /// Returns the channels of which something is stored that has not been told yet, and the version up to which.
    async fn look(&self, suspects: &HashMap<ChannelKey, u64>) -> HashMap<ChannelKey, u64> {
        let told = self.routes.rosters.told();
        let mut untold = HashMap::new();
        for batch in told.chunks(BATCH) {
            let keys: Vec<ChannelKey> = batch.iter().map(|(key, _)| key.clone()).collect();
            let Ok(versions) = self.presence.versions(&keys).await else { continue };
            for ((key, told), stored) in batch.iter().zip(versions) {
                if suspects.get(key).is_some_and(|suspected| told < suspected) {
                    self.tell(key, stored.max(*told)).await;
                } else if *told < stored {
                    untold.insert(key.clone(), stored);
                }
            }
        }
        untold
    }

    async fn tell(&self, key: &ChannelKey, version: u64) {
        // Without a place to go on from, the next look finds the same again.
        let Ok(history) = self.broker.history(key, &Since::Now, 0).await else { return };
        tracing::warn!(channel = key.as_str(), "changes of members missed; subscribers are told so");
        self.routes.rosters.resume(key, version);
        self.routes.gap(key, history.now).await;
    }
}
