//! What pipelines have published lately, written down for the server that starts after a crash.
//!
//! A job is finished when its publications have been shown to those who were there. Whoever was away has them from the
//! channels' histories, and those end with the process; so what would be in them is published again before anybody is let
//! in, under the same ids. Nobody hears it twice but those who ask for what they know already, and they know it by its id.
//!
//! Always true: what was shown to anybody was written before.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare_hub::ChannelKey;
use serde::{Deserialize, Serialize};

use super::channels::Alike;
use crate::api::events::Event;
use crate::api::publish::Publisher;
use crate::apps::Apps;
use crate::data::{Recent, now_ms};

/// Writes publications down, or, by default, does not; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Recall(Option<Arc<Mutex<Journal>>>);

#[derive(Debug)]
struct Journal {
    recent: Recent,
    state: Recalled,
}

/// How writing goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recalled {
    /// The last that was to be written was not: a disk is full, or fails.
    pub failing: bool,
    /// Publications that were not written down.
    pub missed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line<'a> {
    Published(Published<'a>),
    /// A channel's history was forgotten.
    Forgotten {
        app: Cow<'a, str>,
        forgotten: Cow<'a, str>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Published<'a> {
    app: Cow<'a, str>,
    channels: Vec<Cow<'a, str>>,
    event: Cow<'a, str>,
    text: Cow<'a, str>,
    id: Cow<'a, str>,
    at_ms: u64,
}

impl Recall {
    /// Into these files.
    pub fn new(recent: Recent) -> Recall {
        Recall(Some(Arc::new(Mutex::new(Journal { recent, state: Recalled::default() }))))
    }

    /// Writes down what is about to be published.
    pub(super) fn note(&self, app: &str, all: &[Alike]) {
        self.write(all.iter().map(|Alike { event, text, id, channels }| {
            Line::Published(Published {
                app: app.into(),
                channels: channels.iter().map(|channel| Cow::Borrowed(&**channel)).collect(),
                event: (&**event).into(),
                text: text.into(),
                id: (&**id).into(),
                at_ms: now_ms(),
            })
        }));
    }

    /// Writes down that nothing is to come back of what this channel had until now.
    pub fn forget(&self, key: &ChannelKey) {
        self.write([Line::Forgotten { app: key.app().into(), forgotten: key.name().into() }]);
    }

    /// How writing goes; `None` where nothing is written.
    pub fn state(&self) -> Option<Recalled> {
        self.0.as_ref().map(|journal| lock(journal).state)
    }

    fn write<'a>(&self, lines: impl IntoIterator<Item = Line<'a>>) {
        let Some(journal) = &self.0 else { return };
        let line = |line| serde_json::to_string(&line).expect("strings are JSON") + "\n";
        let lines: Vec<String> = lines.into_iter().map(line).collect();
        let mut journal = lock(journal);
        let written = journal.recent.append(&lines.concat());
        journal.state.heard(lines.len(), written);
    }
}

impl Recalled {
    fn heard(&mut self, lines: usize, written: io::Result<()>) {
        match &written {
            Err(error) if !self.failing => {
                tracing::warn!(%error, "what pipelines publish cannot be written down; after a crash, those who were away miss it");
            }
            Ok(()) if self.failing => {
                tracing::info!(missed = self.missed, "what pipelines publish is written down again");
            }
            _ => {}
        }
        self.failing = written.is_err();
        self.missed += if self.failing { lines as u64 } else { 0 };
    }
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes again what channels would still have of these lines.
pub async fn restore(lines: &str, publisher: &Publisher, apps: &Apps) {
    let (now_ms, mut known, mut restored) = (now_ms(), HashSet::new(), 0);
    for line in lines.lines() {
        // One that was cut short is no loss: it was shown to nobody.
        let mut line = match serde_json::from_str(line) {
            Ok(Line::Published(line)) => line,
            Ok(Line::Forgotten { app, forgotten }) => {
                // Of what has just been published nobody has a cursor yet.
                let _ = publisher.forget(&ChannelKey::new(&app, &forgotten)).await;
                continue;
            }
            Err(_) => continue,
        };
        let Some(app) = apps.by_id(&line.app) else { continue };
        line.channels.retain(|channel| {
            let ttl = app.keep(channel, false).history.map_or(Duration::ZERO, |rule| rule.ttl);
            let kept = line.at_ms.saturating_add(ttl.as_millis() as u64) > now_ms;
            kept && known.insert((line.app.to_string(), channel.to_string(), line.id.to_string()))
        });
        if line.channels.is_empty() {
            continue;
        }
        let Ok(event) = Event::of_text(&app, &line.event, &line.channels, &line.text) else { continue };
        // Without an idempotency key: a job that was not finished is published again, for those who are back by then.
        let event = Event { event_id: Some((*line.id).into()), ..event };
        if let Err(error) = publisher.remember(&app, &event, line.at_ms).await {
            tracing::warn!(%error, "not all that pipelines have published before the crash is in the histories");
            return;
        }
        restored += 1;
    }
    if restored > 0 {
        tracing::info!(restored, "what pipelines have published before the crash is in the histories again");
    }
}
