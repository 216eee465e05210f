//! The calls that publish: events go to the hub within their app's rate and window, and in order.
//!
//! Always true:
//! - all events of a request are counted and given room together, or none is published;
//! - events on one channel are published in the order in which they were posted; channels do not wait for each other.

use std::time::{Duration, Instant};

use fanfare_hub::{BrokerError, ChannelKey, Hub, Keep, Publication};
use fanfare_proto::sign::SignedQuery;
use futures_util::future::try_join_all;
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::channels::Channels;
use super::error::Refused;
use super::events::{Event, Target};
use super::info::{Attributes, Info};
use super::{Answer, body};
use crate::apps::App;

/// How long a publisher waits for its app's earlier publications to be delivered. Beyond it, 503.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(5);

/// Where events leave the API.
pub struct Publisher {
    hub: Hub,
    started_at: Instant,
}

/// One publication, addressed.
struct Letter<'e> {
    key: &'e ChannelKey,
    publication: Publication,
    keep: Keep,
}

impl Publisher {
    /// Publishes to this hub.
    pub fn new(hub: Hub) -> Self {
        Publisher { hub, started_at: Instant::now() }
    }

    /// `POST /events`
    pub async fn event(&self, app: &App, body: &[u8]) -> Answer {
        let event = Event::parse(app, body::text(body)?)?;
        self.publish(app, std::slice::from_ref(&event)).await?;
        if event.info.is_empty() {
            return Ok(super::empty_object());
        }
        let mut told = Vec::with_capacity(event.targets.len());
        for target in &event.targets {
            told.push((target.key.name(), self.attributes(event.info, target).await?));
        }
        Ok(super::ok(&Channels::of(told.into_iter())))
    }

    /// `POST /batch_events`
    pub async fn batch(&self, app: &App, body: &[u8]) -> Answer {
        #[derive(Serialize)]
        struct Batch {
            batch: Vec<Attributes>,
        }
        let events = Event::parse_batch(app, body::text(body)?)?;
        self.publish(app, &events).await?;
        if events.iter().all(|event| event.info.is_empty()) {
            return Ok(super::empty_object());
        }
        let mut batch = Vec::with_capacity(events.len());
        for event in &events {
            let target = event.targets.first().expect("every event has a channel");
            batch.push(self.attributes(event.info, target).await?);
        }
        Ok(super::ok(&Batch { batch }))
    }

    /// `POST /channels/{name}/events`, deprecated: the body is the data, and the answer 202.
    pub async fn body(&self, app: &App, channel: &str, query: &SignedQuery<'_>, body: &[u8]) -> Answer {
        let (name, except) = (query.param("name"), query.param("socket_id"));
        let event = Event::of_body(app, name, channel, except, body::text(body)?)?;
        self.publish(app, &[event]).await?;
        let mut response = Response::default();
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }

    async fn attributes(&self, info: Info, target: &Target) -> Result<Attributes, Refused> {
        if info.is_empty() {
            return Ok(Attributes::default());
        }
        Ok(info.attributes(self.hub.counts(&target.key).await?, target.presence))
    }

    /// Publishes all of `events`, which are of one request.
    async fn publish(&self, app: &App, events: &[Event]) -> Result<(), Refused> {
        let n: usize = events.iter().map(|event| event.targets.len()).sum();
        let now_ms = self.started_at.elapsed().as_millis() as u64;
        // At most `batch_max` times `publish_channels_max`.
        app.publish(u32::try_from(n).unwrap_or(u32::MAX), now_ms).map_err(Refused::TooOften)?;
        let mut window = window(app, n, events).await?;
        // The window may be smaller than the request, so shares follow from what was given.
        let share = window.num_permits() / n.max(1);
        let mut letters = letters(app, events, || window.split(share));
        match letters.len() {
            1 => letters.remove(0).deliver(&self.hub).await?,
            _ => {
                try_join_all(by_channel(letters).into_iter().map(|queue| deliver(&self.hub, queue))).await.map(drop)?
            }
        }
        Ok(())
    }
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
    mut permit: impl FnMut() -> Option<OwnedSemaphorePermit>,
) -> Vec<Letter<'e>> {
    let mut letter = |event: &Event, target: &'e Target| Letter {
        key: &target.key,
        publication: Publication {
            except: event.except,
            permit: permit(),
            ..Publication::event(event.name.clone(), event.data.clone())
        },
        keep: app.keep(target.key.name(), target.cache),
    };
    let mut letters = Vec::new();
    for event in events {
        letters.extend(event.targets.iter().map(|target| letter(event, target)));
    }
    letters
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

async fn deliver(hub: &Hub, queue: Vec<Letter<'_>>) -> Result<(), BrokerError> {
    for letter in queue {
        letter.deliver(hub).await?;
    }
    Ok(())
}

impl Letter<'_> {
    async fn deliver(self, hub: &Hub) -> Result<(), BrokerError> {
        hub.publish(self.key, self.publication, self.keep).await.map(drop)
    }
}
