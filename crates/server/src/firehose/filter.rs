//! Which publications a reader wants, or may have.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_jobs::LogEntry;
use fanfare_jobs::pipeline::{Condition, Fields};
use fanfare_proto::channel::ChannelPattern;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::task::JoinError;

use crate::edge::forms::unescaped;

/// What has to be true of a publication.
#[derive(Debug, Default)]
pub struct Filter {
    /// Its channel is one of these; none: any.
    pub channels: Vec<ChannelPattern>,
    /// Its event has one of these names, or begins so if a `*` follows; none: any.
    pub events: Vec<Arc<str>>,
    /// This is true of it. Where it cannot be said, it is not.
    pub condition: Option<Condition>,
}

/// What is looked at.
#[derive(Deserialize)]
struct Seen<'a> {
    channel: String,
    #[serde(borrow)]
    event: &'a RawValue,
    data: &'a RawValue,
    event_id: Option<String>,
    time_ms: Option<u64>,
}

impl Filter {
    fn is_open(&self) -> bool {
        self.channels.is_empty() && self.events.is_empty() && self.condition.is_none()
    }

    fn names(&self, seen: &Seen<'_>) -> bool {
        let name = unescaped(seen.event.get());
        let named = |event: &Arc<str>| match event.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => **event == *name,
        };
        (self.channels.is_empty() || self.channels.iter().any(|pattern| pattern.matches(&seen.channel)))
            && (self.events.is_empty() || self.events.iter().any(named))
    }
}

/// Filters of which all have to be true.
#[derive(Clone, Debug)]
pub struct Filters(pub [Arc<Filter>; 2]);

impl Filters {
    /// Which of the entries pass, in the place of the entry's data. Conditions may take a while, so they have a thread then.
    pub async fn sift(&self, entries: Vec<LogEntry>) -> Result<Vec<(u64, Option<Bytes>)>, JoinError> {
        let filters = self.clone();
        let sift = move || entries.into_iter().map(|entry| filters.sift_one(entry)).collect();
        if self.0.iter().all(|filter| filter.condition.is_none()) {
            return Ok(sift());
        }
        tokio::task::spawn_blocking(sift).await
    }

    fn sift_one(&self, entry: LogEntry) -> (u64, Option<Bytes>) {
        let passes = self.0.iter().all(|filter| filter.is_open()) || self.pass(&entry.data);
        (entry.number, passes.then_some(entry.data))
    }

    fn pass(&self, entry: &[u8]) -> bool {
        let seen: Seen<'_> = serde_json::from_slice(entry).expect("an entry is the object that it was written as");
        if !self.0.iter().all(|filter| filter.names(&seen)) {
            return false;
        }
        let mut conditions = self.0.iter().filter_map(|filter| filter.condition.as_ref()).peekable();
        if conditions.peek().is_none() {
            return true;
        }
        let fields = fields(seen);
        conditions.all(|condition| condition.holds_for(&fields).unwrap_or(false))
    }
}

fn fields(seen: Seen<'_>) -> Fields {
    let data = unescaped(seen.data.get());
    let data = serde_json::from_str(&data).unwrap_or_else(|_| Value::String(data.into_owned()));
    let fields = [
        ("channel", seen.channel.into()),
        ("event", unescaped(seen.event.get()).into()),
        ("data", data),
        ("event_id", seen.event_id.into()),
        ("time_ms", seen.time_ms.into()),
    ];
    fields.into_iter().map(|(name, value): (_, Value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(channels: &[&str], events: &[&str], condition: Option<&str>) -> bool {
        let filter = Filter {
            channels: channels.iter().map(|text| ChannelPattern::parse(text, 200).expect("a pattern")).collect(),
            events: events.iter().map(|event| Arc::from(*event)).collect(),
            condition: condition.map(|source| Condition::parse(source).expect("a condition")),
        };
        let entry = r#"{"channel":"chat-1","event":"said","data":"{\"n\":5}","event_id":"e","time_ms":9}"#;
        Filters([Arc::default(), Arc::new(filter)]).pass(entry.as_bytes())
    }

    #[test]
    fn everything_that_is_asked_has_to_be_true() {
        assert!(passes(&[], &[], None));
        assert!(passes(&["news", "chat-*"], &["sa*"], Some("data.n == 5 && event_id == 'e' && time_ms == 9")));
        assert!(!passes(&["news"], &[], None) && !passes(&[], &["sai"], None));
        assert!(!passes(&["chat-*"], &["said"], Some("data.n > 5")));
        // What cannot be said is not true.
        assert!(!passes(&[], &[], Some("data.m == 5")) && !passes(&[], &[], Some("data.n")));
    }
}
