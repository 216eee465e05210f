//! What a request under `/firehose` asks for.

use std::ops::RangeInclusive;
use std::sync::Arc;

use fanfare_jobs::pipeline::Condition;
use fanfare_proto::channel::ChannelPattern;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, AUTHORIZATION};

use super::cursor::Cursor;
use super::filter::Filter;
use super::lines::Form;
use super::refused::Refused;
use crate::tokens;

/// Names in a list.
const NAMES_MAX: usize = 100;

/// Longer names are none.
const NAME_LEN_MAX: usize = 1000;

/// A consumer's name.
const CONSUMER_LEN_MAX: usize = 64;

/// Messages that may be on their way without an acknowledgement, at most.
const UNACKED_MAX: u64 = 100_000;

/// And unless the request says otherwise.
const UNACKED: usize = 1000;

/// Entries from before that a request may ask for.
const BACKFILL_MAX: u64 = 1_000_000;

/// A path below `/firehose/`.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'p> {
    /// What is published.
    Stream(&'p str),
    /// That something arrived.
    Ack(&'p str),
}

impl<'p> Route<'p> {
    /// `None`: this path is not below `/firehose/`.
    pub fn parse(path: &'p str, prefix: &str) -> Option<Option<Route<'p>>> {
        // Behind a proxy that takes the prefix off, it is not there.
        let rest = path.strip_prefix(prefix).filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let rest = rest.strip_prefix("/firehose/")?;
        Some(match rest.split_once('/') {
            None if !rest.is_empty() => Some(Route::Stream(rest)),
            Some((key, "ack")) => Some(Route::Ack(key)),
            _ => None,
        })
    }

    /// The app's key.
    pub fn key(&self) -> &'p str {
        match self {
            Route::Stream(key) | Route::Ack(key) => key,
        }
    }
}

/// From where on.
#[derive(Debug, PartialEq, Eq)]
pub enum Since {
    /// The next publication is the first.
    Now,
    /// So many from before.
    Last(u64),
    /// What is behind the cursor.
    Cursor(Cursor),
}

/// What a reader asks for.
#[derive(Debug)]
pub struct Asked {
    /// In which form.
    pub form: Form,
    /// From where on.
    pub since: Since,
    /// Only this,
    pub filter: Filter,
    /// and only if this is true of it.
    pub condition: Option<String>,
    /// No more than so many a second; 0: as its token says.
    pub rate: u32,
    /// It acknowledges, under this name.
    pub consumer: Option<Box<str>>,
    /// What may be on its way to it without an acknowledgement.
    pub unacked_max: usize,
}

/// The token of a request.
pub fn token(headers: &HeaderMap, query: &str) -> Option<String> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    authorization.and_then(tokens::bearer).map(str::to_owned).or_else(|| value(query, "token"))
}

impl Asked {
    /// Reads a request.
    pub fn parse(headers: &HeaderMap, query: &str) -> Result<Asked, Refused> {
        let number = |name, expected, range: RangeInclusive<u64>| match value(query, name).map(|text| text.parse()) {
            None => Ok(None),
            Some(Ok(number)) if range.contains(&number) => Ok(Some(number)),
            Some(_) => Err(Refused::Parameter { name, expected }),
        };
        let backfill = number("backfill", "a whole number up to 1000000", 0..=BACKFILL_MAX)?;
        let unacked_max = number("unacked_max", "a whole number from 1 to 100000", 1..=UNACKED_MAX)?;
        let rate = number("rate", "a whole number of messages per second", 0..=u32::MAX.into())?;
        Ok(Asked {
            form: form(headers, query)?,
            since: since(headers, query, backfill)?,
            filter: filter(query)?,
            condition: value(query, "filter"),
            rate: rate.map_or(0, |rate| rate as u32),
            consumer: value(query, "consumer").map(consumer).transpose()?,
            unacked_max: unacked_max.map_or(UNACKED, |max| max as usize),
        })
    }

    /// All that has to be true of what it is sent. A condition takes a while and a large stack: whoever asks has a place by then.
    pub async fn compiled(&mut self) -> Result<Filter, Refused> {
        let mut filter = std::mem::take(&mut self.filter);
        if let Some(source) = self.condition.take() {
            let parsed = tokio::task::spawn_blocking(move || Condition::parse(&source)).await;
            filter.condition = Some(parsed.map_err(|_| Refused::Stopping)?.map_err(Refused::Filter)?);
        }
        Ok(filter)
    }
}

/// A name that may be a consumer's.
pub fn consumer(name: String) -> Result<Box<str>, Refused> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    match (1..=CONSUMER_LEN_MAX).contains(&name.len()) && name.chars().all(plain) {
        true => Ok(name.into()),
        false => {
            Err(Refused::Parameter { name: "consumer", expected: "1 to 64 letters, digits, `-`, `_`, `.` and `~`" })
        }
    }
}

fn form(headers: &HeaderMap, query: &str) -> Result<Form, Refused> {
    let accepts =
        |kind| headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains(kind));
    match value(query, "transport").as_deref() {
        Some("sse") => Ok(Form::Sse),
        Some("stream") => Ok(Form::Lines),
        None if accepts("text/event-stream") => Ok(Form::Sse),
        None => Ok(Form::Lines),
        Some(_) => Err(Refused::Parameter { name: "transport", expected: "sse or stream" }),
    }
}

/// An EventSource that comes back says where it was in a header, and asks for what it asked for first.
fn since(headers: &HeaderMap, query: &str, backfill: Option<u64>) -> Result<Since, Refused> {
    let last_event_id = headers.get("last-event-id").and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    match last_event_id.map(str::to_owned).or_else(|| value(query, "since")) {
        Some(text) => match Cursor::parse(&text) {
            Some(cursor) => Ok(Since::Cursor(cursor)),
            None => Err(Refused::Parameter { name: "since", expected: "a cursor as it was received" }),
        },
        None => Ok(backfill.filter(|n| *n > 0).map_or(Since::Now, Since::Last)),
    }
}

fn filter(query: &str) -> Result<Filter, Refused> {
    let channel = |name: String| {
        let pattern = ChannelPattern::parse(&name, NAME_LEN_MAX);
        pattern.map_err(|error| Refused::Name { name: "channels", why: error.to_string() })
    };
    Ok(Filter {
        channels: names(query, "channels")?.into_iter().map(channel).collect::<Result<_, _>>()?,
        events: names(query, "events")?.into_iter().map(Arc::from).collect(),
        condition: None,
    })
}

fn names(query: &str, name: &'static str) -> Result<Vec<String>, Refused> {
    let text = value(query, name).unwrap_or_default();
    let names: Vec<String> = text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    match names.len() <= NAMES_MAX {
        true => Ok(names),
        false => Err(Refused::Parameter { name, expected: "at most 100 names" }),
    }
}

fn value(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_a_stream_or_an_acknowledgement() {
        assert_eq!(Route::parse("/firehose/k", ""), Some(Some(Route::Stream("k"))));
        assert_eq!(Route::parse("/x/firehose/k/ack", "/x"), Some(Some(Route::Ack("k"))));
        assert_eq!(Route::parse("/firehose/k", "/x"), Some(Some(Route::Stream("k"))));
        assert_eq!(Route::parse("/firehose/", ""), Some(None));
        assert_eq!(Route::parse("/firehose/k/nack", ""), Some(None));
        assert_eq!(Route::parse("/sub/k", ""), None);
    }

    #[test]
    fn what_means_nothing_is_refused_by_its_name() {
        let refused = |query| Asked::parse(&HeaderMap::new(), query).expect_err(query).to_string();
        assert_eq!(refused("since=7"), "since: expected a cursor as it was received");
        assert_eq!(refused("transport=ws"), "transport: expected sse or stream");
        assert_eq!(refused("unacked_max=x"), "unacked_max: expected a whole number from 1 to 100000");
        assert_eq!(refused("consumer=a/b"), "consumer: expected 1 to 64 letters, digits, `-`, `_`, `.` and `~`");
        assert_eq!(refused("unacked_max=0"), refused("unacked_max=x"));
        assert!(refused("channels=a%20b").starts_with("channels: "));
    }

    #[test]
    fn nothing_asked_for_is_everything_from_now_on() {
        let asked = Asked::parse(&HeaderMap::new(), "").expect("it is right");
        assert_eq!((asked.form, asked.since, asked.unacked_max), (Form::Lines, Since::Now, UNACKED));
        assert!(asked.consumer.is_none() && asked.rate == 0);
    }
}
