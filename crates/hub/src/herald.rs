//! What subscribers are told of who is there: members, users who are watched, counts.
//!
//! Not here: whether a change is one (`presence`), and when a stripe tells a count (`stripe`).

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_proto::json::json_string_token;
use fanfare_proto::server;
use fanfare_proto::socket_id::SocketId;

use crate::broker::Broker;
use crate::hub::{Routes, watch_channel};
use crate::key::ChannelKey;
use crate::presence::{Member, PresenceEvents};
use crate::publication::{Kind, Publication};

/// Publishes what is to be told; cheap to clone.
#[derive(Clone)]
pub(crate) struct Herald {
    routes: Arc<Routes>,
    broker: Arc<dyn Broker>,
}

impl Herald {
    pub(crate) fn new(routes: Arc<Routes>, broker: Arc<dyn Broker>) -> Herald {
        Herald { routes, broker }
    }

    /// `except`: the socket that joined; it learns of itself by the roster.
    pub(crate) async fn added(&self, key: &ChannelKey, member: &Member, version: u64, except: Option<SocketId>) {
        let data = server::member_added_data(&member.user_id, member.user_info.as_deref());
        self.change(key, "pusher_internal:member_added", &data, version, except).await;
    }

    pub(crate) async fn removed(&self, key: &ChannelKey, user: &str, version: u64, except: Option<SocketId>) {
        let data = server::member_removed_data(user);
        self.change(key, "pusher_internal:member_removed", &data, version, except).await;
    }

    async fn change(&self, key: &ChannelKey, event: &str, data: &str, version: u64, except: Option<SocketId>) {
        let mut publication = Publication::event(json_string_token(event), json_string_token(data));
        publication.kind = Kind::Presence { version };
        publication.except = except;
        self.publish(key, publication).await;
    }

    pub(crate) async fn turned(&self, app: &str, user: &str, online: bool) {
        let (state, user_ids) = (if online { "online" } else { "offline" }, json_string_token(user));
        let data = format!(r#"{{"events":[{{"name":"{state}","user_ids":[{user_ids}]}}]}}"#);
        let mut publication = Publication::event("\"pusher_internal:watchlist_events\"", json_string_token(&data));
        publication.kind = Kind::Unaddressed;
        self.publish(&watch_channel(app, user), publication).await;
    }

    pub(crate) async fn counted(&self, key: &ChannelKey, total: u64) {
        let data = json_string_token(&server::subscription_count_data(total));
        self.publish(key, Publication::event("\"pusher_internal:subscription_count\"", data)).await;
    }

    pub(crate) async fn publish(&self, key: &ChannelKey, publication: Publication) {
        if let Err(error) = self.routes.publish_own(&*self.broker, key, publication).await {
            tracing::warn!(channel = key.as_str(), %error, "event not published");
        }
    }
}

/// Tells the subscribers what a store found out by itself.
pub(crate) struct Crier<F> {
    pub(crate) herald: Herald,
    /// Whether a channel's subscribers are told how many they are.
    pub(crate) announces: F,
}

#[async_trait]
impl<F: Fn(&ChannelKey) -> bool + Send + Sync> PresenceEvents for Crier<F> {
    async fn joined(&self, key: &ChannelKey, member: Member, version: u64) {
        self.herald.added(key, &member, version, None).await;
    }

    async fn left(&self, key: &ChannelKey, user: &str, version: u64) {
        self.herald.removed(key, user, version, None).await;
    }

    async fn turned(&self, app: &str, user: &str, online: bool) {
        self.herald.turned(app, user, online).await;
    }

    async fn counted(&self, key: &ChannelKey, total: u64) {
        if (self.announces)(key) {
            self.herald.counted(key, total).await;
        }
    }
}
