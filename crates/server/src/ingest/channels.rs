//! The sink `channels`: publishes a record to the channels that it is routed to.
//!
//! Always true: a record is confirmed when everybody on this node who is subscribed has been shown its publications, or the
//! shared broker has them. A crash before that repeats it under the same id, by which subscribers and the broker know a
//! repeat.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_jobs::pipeline::Unsayable;
use fanfare_jobs::sinks::{Build, Delivery, Sink, SinkError, SinkKind, one};
use fanfare_proto::sign::hmac_hex;

use crate::api::events::{Event, word};
use crate::api::publish::Publisher;
use crate::apps::{App, Apps};

/// Records that are being published at once. A publication may wait for its app's window or rate.
const AT_ONCE: usize = 256;

/// How long a switched-off app is left alone before it is looked at again.
const DISABLED: Duration = Duration::from_secs(5);

/// Publishes to one app's channels.
struct Channels {
    publisher: Arc<Publisher>,
    apps: Apps,
    app: Arc<str>,
}

/// The kind of sink that publishes to this app's channels.
pub fn kind(publisher: Arc<Publisher>, apps: Apps, app: Arc<str>) -> SinkKind {
    described(Box::new(move |_| {
        Ok(one(Channels { publisher: publisher.clone(), apps: apps.clone(), app: app.clone() }))
    }))
}

/// The same for checking a configuration, where nothing is published.
pub fn kind_to_check() -> SinkKind {
    described(Box::new(|_| Ok(one(Nowhere))))
}

fn described(build: Build) -> SinkKind {
    SinkKind {
        name: "channels",
        summary: "Publishes the record to each of its channels (see the stage `route`). Confirmed when all who are subscribed \
                  on this node have been shown it, or the shared Redis servers have it. The job's idempotency key, or else its \
                  queue and number, is the publication's `event_id` and idempotency key. Waits for the app's rate and for its \
                  earlier publications, and does not fail for either.",
        keys: &[],
        at_once: AT_ONCE,
        build,
    }
}

struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    async fn deliver(&self, _: Delivery<'_>) -> Result<(), SinkError> {
        Ok(())
    }
}

#[async_trait]
impl Sink for Channels {
    async fn deliver(&self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let Some(app) = self.apps.by_id(&self.app).filter(|app| app.enabled) else {
            return Err(SinkError::Away { after: Some(DISABLED), why: "the app is switched off".into() });
        };
        let events = events(&app, delivery)?;
        self.publisher.show(&app, &events).await.map_err(|error| SinkError::away(error.to_string()))
    }
}

/// Routes that have the event, the text and their place among those of the same channel in common.
struct Alike {
    event: Arc<str>,
    text: String,
    /// How many of the record's publications on these channels go before it: it is known by another id than they.
    nth: usize,
    channels: Vec<Arc<str>>,
}

/// The record as events: one for all routes that are alike.
fn events(app: &App, delivery: Delivery<'_>) -> Result<Vec<Event>, SinkError> {
    let record = delivery.record;
    let refused = |error: Unsayable| SinkError::Refused(error.to_string());
    let text = record.text().map_err(refused)?;
    let mut all: Vec<Alike> = Vec::new();
    for (at, route) in record.routes.iter().enumerate() {
        let said = record.text_for(route, &text).map_err(refused)?;
        let nth = record.routes[..at].iter().filter(|before| before.channel == route.channel).count();
        let is_alike = |other: &&mut Alike| other.event == route.event && *other.text == *said && other.nth == nth;
        match all.iter_mut().find(is_alike) {
            Some(alike) => alike.channels.push(route.channel.clone()),
            None => all.push(Alike {
                event: route.event.clone(),
                text: said.into_owned(),
                nth,
                channels: vec![route.channel.clone()],
            }),
        }
    }
    all.into_iter().map(|alike| event(app, &alike, delivery.event_id)).collect()
}

fn event(app: &App, alike: &Alike, event_id: &str) -> Result<Event, SinkError> {
    let event = Event::of_text(app, &alike.event, &alike.channels, &alike.text);
    let event = event.map_err(|bad| SinkError::Refused(bad.to_string()))?;
    let id = match alike.nth {
        0 => Cow::Borrowed(event_id),
        nth => Cow::Owned(format!("{event_id}/{nth}")),
    };
    // What no publication can be known by, is known by its hash.
    let id = word("event_id", &id).unwrap_or_else(|_| hmac_hex(b"", id.as_bytes()).into());
    Ok(Event { event_id: Some(id.clone()), idempotency_key: Some(id), ..event })
}
