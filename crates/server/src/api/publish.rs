//! The calls that publish: events go to the hub within their app's rate and window, and in order.
//!
//! Always true:
//! - all events of a request are counted and given room together, or none is published;
//! - events on one channel are published in the order in which they were posted; channels do not wait for each other.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fanfare_hub::{BrokerError, ChannelKey, Hub, Post, Publication, Published};
use fanfare_proto::sign::SignedQuery;
use futures_util::future::try_join_all;
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Answer;
use super::channels::Channels;
use super::error::Refused;
use super::events::{Event, Target};
use super::info::{Attributes, Info};
use super::receipt::{Receipt, Told};
use crate::apps::App;
use crate::body;
use crate::doors::Door;
use crate::limits::RetryAfter;

/// How long a publisher waits for its app's earlier publications to be delivered. Beyond it, 503.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(5);

/// Where events leave the API.
pub struct Publisher {
    hub: Hub,
    started_at: Instant,
}

/// One publication, addressed; the number tells which of the request's it is.
struct Letter<'e> {
    at: usize,
    key: &'e ChannelKey,
    publication: Publication,
    post: Post,
}

impl Publisher {
    /// Publishes to this hub.
    pub fn new(hub: Hub) -> Self {
        Publisher { hub, started_at: Instant::now() }
    }

    /// `POST /events`
    pub async fn event(&self, app: &App, body: &[u8]) -> Answer {
        let event = Event::parse(app, body::text(body)?)?;
        let published = self.publish(app, Door::Api, std::slice::from_ref(&event)).await?;
        if tells_nothing(&event) {
            return Ok(super::empty_object());
        }
        let mut told = Vec::with_capacity(event.targets.len());
        for (target, published) in event.targets.iter().zip(&published) {
            told.push((target.key.name(), self.told(&event, target, published).await?));
        }
        Ok(super::ok(&Channels::of(told)))
    }

    /// `POST /batch_events`
    pub async fn batch(&self, app: &App, body: &[u8]) -> Answer {
        #[derive(Serialize)]
        struct Batch {
            batch: Vec<Told>,
        }
        let events = Event::parse_batch(app, body::text(body)?)?;
        let published = self.publish(app, Door::Api, &events).await?;
        if events.iter().all(tells_nothing) {
            return Ok(super::empty_object());
        }
        let mut batch = Vec::with_capacity(events.len());
        for (event, published) in events.iter().zip(&published) {
            let target = event.targets.first().expect("every event has a channel");
            batch.push(self.told(event, target, published).await?);
        }
        Ok(super::ok(&Batch { batch }))
    }

    /// `POST /channels/{name}/events`, deprecated: the body is the data, and the answer 202.
    pub async fn body(&self, app: &App, channel: &str, query: &SignedQuery<'_>, body: &[u8]) -> Answer {
        let (name, except) = (query.param("name"), query.param("socket_id"));
        let event = Event::of_body(app, name, channel, except, body::text(body)?)?;
        self.publish(app, Door::Api, &[event]).await?;
        let mut response = Response::default();
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }

    /// Where the event went is told to publishers that may post it again.
    async fn told(&self, event: &Event, target: &Target, published: &Published) -> Result<Told, Refused> {
        let receipt = event.idempotency_key.is_some().then(|| Receipt::of(&target.key, published));
        Ok(Told { attributes: self.attributes(event.info, target).await?, receipt })
    }

    /// What `info` asks of the channel.
    pub async fn attributes(&self, info: Info, target: &Target) -> Result<Attributes, Refused> {
        if info.is_empty() {
            return Ok(Attributes::default());
        }
        Ok(info.attributes(self.hub.counts(&target.key).await?, target.presence))
    }

    /// Publishes all of `events`, however long the app's rate and its window make them wait; returns when whoever on this
    /// node was to be shown them has been.
    pub async fn show(&self, app: &App, events: &[Event]) -> Result<(), BrokerError> {
        let n: usize = events.iter().map(|event| event.targets.len()).sum();
        if n == 0 {
            return Ok(());
        }
        let n32 = u32::try_from(n).unwrap_or(u32::MAX);
        while let Err(RetryAfter { ms }) = app.publish(n32, self.now_ms()).await {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let bytes = events.iter().map(Event::bytes).sum();
        let _window = match app.usage.window.try_take(n, bytes) {
            Some(permit) => permit,
            None => app.usage.window.take(n, bytes).await,
        };
        // A publication's permit comes back with the last loop that has shown it.
        let shown = Arc::new(Semaphore::new(n));
        let mut all = shown.clone().try_acquire_many_owned(n32).expect("nobody else has any");
        let queues = by_channel(letters(app, events, unix_ms(), || all.split(1))).into_iter();
        try_join_all(queues.map(|queue| self.deliver(app, Door::Pipelines, queue))).await?;
        let _shown = shown.acquire_many(n32).await.expect("it is never closed");
        app.usage.doors.confirm(n);
        Ok(())
    }

    /// Publishes what was published at this time by a server before this one. Nobody is there yet, and no rate counts it again.
    pub async fn remember(&self, app: &App, event: &Event, time_ms: u64) -> Result<(), BrokerError> {
        let queues = by_channel(letters(app, std::slice::from_ref(event), time_ms, || None)).into_iter();
        try_join_all(queues.map(|queue| self.deliver(app, Door::Recall, queue))).await?;
        Ok(())
    }

    /// Forgets what it remembered of a channel.
    pub async fn forget(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.hub.clear(key).await.map(drop)
    }

    fn now_ms(&self) -> u64 {
        self.started_at.elapsed().as_millis() as u64
    }

    /// Publishes all of `events`, which are of one request, and says of each target of each event what became of it.
    pub async fn publish(&self, app: &App, door: Door, events: &[Event]) -> Result<Vec<Published>, Refused> {
        let n: usize = events.iter().map(|event| event.targets.len()).sum();
        // At most `batch_max` times `publish_channels_max`.
        app.publish(u32::try_from(n).unwrap_or(u32::MAX), self.now_ms()).await.map_err(Refused::TooOften)?;
        let mut window = window(app, n, events).await?;
        // The window may be smaller than the request, so shares follow from what was given.
        let share = window.num_permits() / n.max(1);
        let mut letters = letters(app, events, unix_ms(), || window.split(share));
        if letters.len() == 1 {
            let Letter { key, publication, post, .. } = letters.remove(0);
            app.usage.doors.ask(door, 1);
            return Ok(vec![self.hub.publish(key, publication, post).await?]);
        }
        let queues = by_channel(letters).into_iter().map(|queue| self.deliver(app, door, queue));
        let mut published = vec![Published::default(); n];
        for (at, outcome) in try_join_all(queues).await?.into_iter().flatten() {
            published[at] = outcome;
        }
        Ok(published)
    }

    async fn deliver(
        &self,
        app: &App,
        door: Door,
        queue: Vec<Letter<'_>>,
    ) -> Result<Vec<(usize, Published)>, BrokerError> {
        let Some(key) = queue.first().map(|letter| letter.key) else { return Ok(Vec::new()) };
        let (numbers, posts): (Vec<_>, Vec<_>) =
            queue.into_iter().map(|letter| (letter.at, (letter.publication, letter.post))).unzip();
        app.usage.doors.ask(door, posts.len());
        Ok(numbers.into_iter().zip(self.hub.publish_all(key, posts).await?).collect())
    }
}

/// Whether the answer is that of Pusher to the byte.
fn tells_nothing(event: &Event) -> bool {
    event.info.is_empty() && event.idempotency_key.is_none()
}

/// Room for all of the events at once: taken one by one, two requests could wait for each other.
async fn window(app: &App, n: usize, events: &[Event]) -> Result<OwnedSemaphorePermit, Refused> {
    let bytes = events.iter().map(Event::bytes).sum();
    match app.usage.window.try_take(n, bytes) {
        Some(permit) => Ok(permit),
        None => {
            let waiting = app.usage.window.take(n, bytes);
            tokio::time::timeout(WINDOW_TIMEOUT, waiting).await.map_err(|_elapsed| Refused::Behind)
        }
    }
}

fn letters<'e>(
    app: &App,
    events: &'e [Event],
    time_ms: u64,
    mut permit: impl FnMut() -> Option<OwnedSemaphorePermit>,
) -> Vec<Letter<'e>> {
    let targets = events.iter().flat_map(|event| event.targets.iter().map(move |target| (event, target)));
    let letter = |(at, (event, target)): (usize, (&Event, &'e Target))| Letter {
        at,
        key: &target.key,
        publication: Publication {
            except: event.except,
            event_id: event.event_id.clone(),
            content_type: event.content_type.clone(),
            time_ms,
            permit: permit(),
            ..Publication::event(event.name.clone(), event.data.clone())
        },
        post: Post {
            keep: app.keep(target.key.name(), target.cache),
            idempotency: event.idempotency_key.as_ref().and_then(|key| app.idempotency(key)),
        },
    };
    targets.enumerate().map(letter).collect()
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A queue for each channel, as the same one may be in a batch several times.
fn by_channel(letters: Vec<Letter<'_>>) -> Vec<Vec<Letter<'_>>> {
    let mut queues: Vec<Vec<Letter<'_>>> = Vec::with_capacity(letters.len());
    for letter in letters {
        match queues.iter_mut().find(|queue| queue[0].key == letter.key) {
            Some(queue) => queue.push(letter),
            None => queues.push(vec![letter]),
        }
    }
    queues
}
