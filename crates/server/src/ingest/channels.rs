//! The sink `channels`: publishes a record to the channels that it is routed to.
//!
//! Always true: a record is confirmed when everybody on this node who is subscribed has been shown its publications, or the
//! shared broker has them. A crash before that repeats it under the same id, by which subscribers and the broker know a
//! repeat.

#[cfg(test)]
mod cost;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_jobs::pipeline::Unsayable;
use fanfare_jobs::sinks::{Build, Delivery, Sink, SinkError, SinkKind, one};
use fanfare_proto::sign::hmac_hex;

use super::recall::Recall;
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
    /// Where it is written down before.
    recall: Recall,
}

/// The kind of sink that publishes to this app's channels.
pub fn kind(publisher: Arc<Publisher>, apps: Apps, app: Arc<str>, recall: Recall) -> SinkKind {
    described(Box::new(move |_| {
        let (publisher, apps, app, recall) = (publisher.clone(), apps.clone(), app.clone(), recall.clone());
        Ok(one(Channels { publisher, apps, app, recall }))
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
        let all = alike(delivery)?;
        let events = all.iter().map(|alike| event(&app, alike)).collect::<Result<Vec<_>, _>>()?;
        self.recall.note(&self.app, &all);
        self.publisher.show(&app, &events).await.map_err(|error| SinkError::away(error.to_string()))
    }
}

/// Routes that can be published to together: they have the event and the text in common, and the id.
pub(super) struct Alike {
    pub(super) event: Arc<str>,
    pub(super) text: String,
    /// What a repeat is known by: on each channel, the record's publications have ids of their own.
    pub(super) id: Arc<str>,
    pub(super) channels: Vec<Arc<str>>,
}

/// The record's routes, those together that are alike.
pub(super) fn alike(delivery: Delivery<'_>) -> Result<Vec<Alike>, SinkError> {
    let record = delivery.record;
    let refused = |error: Unsayable| SinkError::Refused(error.to_string());
    let text = record.text().map_err(refused)?;
    let mut all: Vec<Alike> = Vec::new();
    for (at, route) in record.routes.iter().enumerate() {
        let said = record.text_for(route, &text).map_err(refused)?;
        let nth = record.routes[..at].iter().filter(|before| before.channel == route.channel).count();
        let id = id(delivery.event_id, nth);
        match all.iter_mut().find(|one| one.event == route.event && *one.text == *said && one.id == id) {
            Some(alike) => alike.channels.push(route.channel.clone()),
            None => all.push(Alike {
                event: route.event.clone(),
                text: said.into_owned(),
                id,
                channels: vec![route.channel.clone()],
            }),
        }
    }
    Ok(all)
}

/// What the `nth` publication of a record on one channel is known by: where that cannot be said, its hash.
fn id(event_id: &str, nth: usize) -> Arc<str> {
    let id = match nth {
        0 => Cow::Borrowed(event_id),
        nth => Cow::Owned(format!("{event_id}/{nth}")),
    };
    word("event_id", &id).unwrap_or_else(|_| hmac_hex(b"", id.as_bytes()).into())
}

fn event(app: &App, alike: &Alike) -> Result<Event, SinkError> {
    let event = Event::of_text(app, &alike.event, &alike.channels, &alike.text);
    let event = event.map_err(|bad| SinkError::Refused(bad.to_string()))?;
    Ok(Event { event_id: Some(alike.id.clone()), idempotency_key: Some(alike.id.clone()), ..event })
}
