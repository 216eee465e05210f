//! `/pub`: publishing, deleting, and being told about channels.
//!
//! Always true: a message goes to all channels of its request or to none, within the app's rate and window like one of the
//! signed API.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_hub::{HistoryRule, Keep, Post};
use fanfare_proto::channel::ChannelName;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, StatusCode};

use super::asked::{AskedChannel, check_id};
use super::forms::publication;
use super::info::{Format, detailed};
use super::refusal::Refused;
use super::switchboard::Deletion;
use super::{PushStream, answer};
use crate::apps::App;
use crate::body::{self, BadBody};
use crate::doors::Door;
use crate::edge::Body;

/// How long a publisher waits for its app's earlier publications to be delivered. Beyond it, 503.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an event's id.
const EVENT_ID_LEN_MAX: usize = 200;

/// What a request says of its message.
struct Labels {
    event_id: Option<Arc<str>>,
    event_type: Option<String>,
}

impl PushStream {
    /// Answers a request to `/pub`.
    pub(super) async fn publisher(
        &self,
        app: &App,
        request: Request<Incoming>,
        asked: Vec<AskedChannel>,
    ) -> Result<Response<Body>, Refused> {
        let (head, body) = request.into_parts();
        if ![Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(&head.method) {
            return Err(Refused::Method { allow: answer::PUBLISHER_METHODS });
        }
        let ids = self.ids(app, asked)?;
        if head.method != Method::GET && ids.iter().any(|id| self.is_events_channel(id)) {
            return Err(Refused::EventsInternal);
        }
        let format = Format::of(&head.headers);
        match head.method {
            Method::GET => self.tell(app, &ids, format).await,
            Method::DELETE => {
                let text = self.text(app, body).await?;
                self.delete(app, &ids, text.as_deref()).await
            }
            _ => {
                let labels = Labels::of(&head.headers, app)?;
                let text = self.text(app, body).await?.ok_or(Refused::Empty)?;
                self.publish(app, &ids, &text, labels).await?;
                match self.settings.channel_info_on_publish {
                    true => self.tell(app, &ids, format).await,
                    false => Ok(answer::empty(StatusCode::OK)),
                }
            }
        }
    }

    fn ids(&self, app: &App, asked: Vec<AskedChannel>) -> Result<Vec<String>, Refused> {
        if asked.is_empty() {
            return Err(Refused::NoChannel);
        }
        if asked.len() > app.limits.publish_channels_max {
            return Err(Refused::TooManyChannels);
        }
        let ids: Vec<String> = asked.into_iter().map(|asked| asked.id).collect();
        ids.iter().try_for_each(|id| check_id(id, self.id_len_max(app)))?;
        Ok(ids)
    }

    /// The body, if there is one.
    async fn text(&self, app: &App, body: Incoming) -> Result<Option<String>, Refused> {
        let bytes_max = app.limits.payload_bytes_max;
        let bytes = match body::read(body, bytes_max).await {
            Err(BadBody::TooLarge { .. }) => return Err(Refused::TooLarge { bytes_max }),
            read => read?,
        };
        let text = String::from_utf8(bytes.into()).map_err(|_| Refused::NotText)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Publishes what a WebSocket subscriber said on its channels.
    pub(super) async fn publish_said(&self, app: &App, ids: &[String], text: &str) -> Result<(), Refused> {
        let bytes_max = app.limits.payload_bytes_max;
        if text.len() > bytes_max {
            return Err(Refused::TooLarge { bytes_max });
        }
        let mut ids = ids.to_vec();
        ids.retain(|id| !self.is_events_channel(id));
        if ids.is_empty() || text.is_empty() {
            return Ok(());
        }
        self.publish(app, &ids, text, Labels { event_id: None, event_type: None }).await
    }

    async fn publish(&self, app: &App, ids: &[String], text: &str, labels: Labels) -> Result<(), Refused> {
        let n = ids.len();
        let now_ms = self.started_at.elapsed().as_millis() as u64;
        app.publish(u32::try_from(n).unwrap_or(u32::MAX), now_ms).await.map_err(Refused::TooOften)?;
        let window = app.usage.window.take(n, n * text.len());
        let mut window = tokio::time::timeout(WINDOW_TIMEOUT, window).await.map_err(|_elapsed| Refused::Behind)?;
        let share = window.num_permits() / n;
        for id in ids {
            self.used(app, id).await;
            let mut publication = publication(text, labels.event_type.as_deref(), labels.event_id.clone());
            publication.permit = window.split(share);
            let post = Post::from(self.keep(app, id));
            app.usage.doors.ask(Door::PushStream, 1);
            let published = self.hub.publish(&self.key(app, id), publication, post).await?;
            if published.mark.is_none() {
                self.registry.unstored(id);
            }
        }
        Ok(())
    }

    /// What is remembered of a message to this channel.
    fn keep(&self, app: &App, id: &str) -> Keep {
        let keep = app.keep(id, ChannelName::parse(id, usize::MAX).is_ok_and(|name| name.kind().cache));
        let stored = |rule: &HistoryRule| self.settings.store_messages && *rule != HistoryRule::NOTHING;
        let Some(mut rule) = keep.history.filter(stored) else {
            return Keep { history: Some(HistoryRule::NOTHING), ..keep };
        };
        if self.settings.message_ttl_s > 0 {
            rule.ttl = Duration::from_secs(self.settings.message_ttl_s.into());
        }
        if self.settings.max_messages_stored_per_channel > 0 {
            rule.messages = self.settings.max_messages_stored_per_channel as usize;
        }
        Keep { history: Some(rule), ..keep }
    }

    async fn delete(&self, app: &App, ids: &[String], text: Option<&str>) -> Result<Response<Body>, Refused> {
        let text = text.unwrap_or(&self.settings.channel_deleted_message_text);
        let mut deleted = false;
        for id in ids {
            if !self.exists(app, id).await? {
                continue;
            }
            let key = self.key(app, id);
            self.recall.forget(&key);
            self.hub.clear(&key).await?;
            self.board.delete(Deletion { key, messages: self.forms.deleted(id, text) });
            self.registry.forget(id);
            self.announce(app, "channel_destroyed", id).await;
            deleted = true;
        }
        match deleted {
            true => Ok(answer::explained(StatusCode::OK, "Channel deleted.")),
            false => Err(Refused::Unknown),
        }
    }

    /// Tells about the channels that there are.
    async fn tell(&self, app: &App, ids: &[String], format: Format) -> Result<Response<Body>, Refused> {
        let mut infos = Vec::with_capacity(ids.len());
        for id in ids {
            infos.extend(self.info(app, id).await?);
        }
        let text = match &infos[..] {
            [] => return Err(Refused::Unknown),
            [only] => only.text(format),
            several => detailed(&self.node(app).await?, several, format),
        };
        Ok(answer::typed(format.content_type(), http_body_util::Full::from(text)))
    }

    /// Notes that a channel is used, and says so where it is new.
    pub(super) async fn used(&self, app: &App, id: &str) {
        if self.registry.touch(id, Instant::now()) {
            self.announce(app, "channel_created", id).await;
        }
    }

    /// Publishes an event of the events channel, if there is one.
    pub(super) async fn announce(&self, app: &App, event: &str, id: &str) {
        let Some(channel) = self.settings.events_channel_id.as_deref().filter(|channel| *channel != id) else { return };
        let text = format!("{{\"type\": \"{event}\", \"channel\": \"{id}\"}}");
        self.registry.touch(channel, Instant::now());
        let post = Post::from(self.keep(app, channel));
        app.usage.doors.ask(Door::PushStream, 1);
        if let Err(error) = self.hub.publish(&self.key(app, channel), publication(&text, Some(event), None), post).await
        {
            tracing::warn!(channel, %error, "event not confirmed");
        }
    }

    fn is_events_channel(&self, id: &str) -> bool {
        self.settings.events_channel_id.as_deref() == Some(id)
    }
}

impl Labels {
    fn of(headers: &HeaderMap, app: &App) -> Result<Labels, Refused> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
        let event_type = text("event-type").map(str::to_owned);
        let reserved = ["pusher:", "pusher_internal:", "fanfare:"];
        match &event_type {
            Some(name) if name.len() > app.limits.event_name_len_max => {
                return Err(Refused::EventType("it is too long"));
            }
            Some(name) if reserved.iter().any(|prefix| name.starts_with(prefix)) => {
                return Err(Refused::EventType("its beginning is reserved"));
            }
            _ => {}
        }
        let event_id = text("event-id");
        if event_id.is_some_and(|id| id.len() > EVENT_ID_LEN_MAX) {
            return Err(Refused::EventId);
        }
        Ok(Labels { event_id: event_id.map(Into::into), event_type })
    }
}
