//! What a request asks for: channels, and where to begin in them.
//!
//! Pure functions of the request head. Ids come from the path behind the endpoint's name or from the argument `id` or `channels`, with
//! `/` between them.

use std::borrow::Cow;

use fanfare_proto::channel::{Access, ChannelName};
use hyper::header::{HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use percent_encoding::percent_decode_str;

use super::clock::parse_http_date;
use super::refusal::Refused;

/// The arguments that may name channels, where the path does not.
const ID_ARGUMENTS: [&str; 2] = ["id", "channels"];

/// What an endpoint is; its name begins the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/pub`
    Publish,
    /// `/channels-stats`
    Statistics,
    /// One of those that subscribe.
    Subscribe(Mode),
}

/// How a subscriber takes its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `/sub`: one answer without end.
    Streaming,
    /// What there is, at once.
    Polling,
    /// `/lp`: the next message, when it comes.
    LongPolling,
    /// `/ev`
    EventSource,
    /// `/ws`
    WebSocket,
}

impl Endpoint {
    /// The endpoint of a path, and what follows its name.
    pub fn of(path: &str) -> Option<(Endpoint, &str)> {
        let path = path.strip_prefix('/')?;
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        let endpoint = match name {
            "pub" => Endpoint::Publish,
            "channels-stats" => Endpoint::Statistics,
            "sub" => Endpoint::Subscribe(Mode::Streaming),
            "poll" => Endpoint::Subscribe(Mode::Polling),
            "lp" | "jsonp" => Endpoint::Subscribe(Mode::LongPolling),
            "ev" => Endpoint::Subscribe(Mode::EventSource),
            "ws" => Endpoint::Subscribe(Mode::WebSocket),
            _ => return None,
        };
        Some((endpoint, rest))
    }
}

impl Mode {
    /// The mode that the request's header asks for instead, which a WebSocket does not.
    pub fn overridden(self, headers: &HeaderMap) -> Mode {
        match headers.get("x-nginx-pushstream-mode").and_then(|value| value.to_str().ok()).map(str::trim) {
            _ if self == Mode::WebSocket => self,
            Some(mode) if mode.eq_ignore_ascii_case("polling") => Mode::Polling,
            Some(mode) if mode.eq_ignore_ascii_case("long-polling") => Mode::LongPolling,
            _ => self,
        }
    }
}

/// The arguments of a query.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a>(pub &'a str);

impl<'a> Arguments<'a> {
    /// An argument that is there and not empty.
    pub fn get(self, name: &str) -> Option<Cow<'a, str>> {
        let mut pairs = form_urlencoded::parse(self.0.as_bytes());
        pairs.find_map(|(found, value)| (found == name && !value.is_empty()).then_some(value))
    }
}

/// A channel as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedChannel {
    /// Its id, unchecked.
    pub id: String,
    /// How many of its newest messages come first.
    pub backtrack: usize,
}

/// The channels that a request names, each once; a later `.bN` of the same channel counts for nothing.
pub fn channels(rest: &str, arguments: Arguments<'_>) -> Vec<AskedChannel> {
    let named = || ID_ARGUMENTS.iter().find_map(|name| arguments.get(name));
    let text = match rest.trim_matches('/') {
        "" => named().unwrap_or_default(),
        path => percent_decode_str(path).decode_utf8_lossy(),
    };
    let mut channels: Vec<AskedChannel> = Vec::new();
    for part in text.split('/').filter(|part| !part.is_empty()) {
        let asked = asked(part);
        if !asked.id.is_empty() && channels.iter().all(|channel| channel.id != asked.id) {
            channels.push(asked);
        }
    }
    channels
}

/// `id.b3`; without digits it is all of the id.
fn asked(part: &str) -> AskedChannel {
    let suffix = part.rsplit_once(".b").filter(|(_, n)| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()));
    match suffix {
        // More digits than a number has ask for everything.
        Some((id, n)) => AskedChannel { id: id.to_owned(), backtrack: n.parse().unwrap_or(usize::MAX) },
        None => AskedChannel { id: part.to_owned(), backtrack: 0 },
    }
}

/// An id that names a channel here: of our grammar, and open to everybody.
pub fn check_id(id: &str, len_max: usize) -> Result<(), Refused> {
    if id == "ALL" || id.contains('*') {
        return Err(Refused::NotAuthorized);
    }
    match ChannelName::parse(id, len_max)?.kind().access {
        Access::Public => Ok(()),
        // Whoever subscribes here shows nothing.
        _ => Err(Refused::NotAuthorized),
    }
}

/// Where a subscriber goes on. What it says of itself; a `.bN` comes before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The time of the last message that it has, in seconds.
    pub time_s: Option<u64>,
    /// That message's number within its second.
    pub tag: Option<u32>,
    /// The publisher's id of the last message that it has.
    pub event_id: Option<String>,
}

impl Start {
    /// What headers and arguments say. Arguments count first: who sends them cannot set headers.
    pub fn of(headers: &HeaderMap, arguments: Arguments<'_>) -> Start {
        let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(Cow::Borrowed);
        let first = |argument: &str, name: HeaderName| arguments.get(argument).or_else(|| header(name));
        let event_id = first("eventid", HeaderName::from_static("last-event-id"));
        Start {
            time_s: first("time", IF_MODIFIED_SINCE).and_then(|text| parse_http_date(&text)),
            tag: first("tag", IF_NONE_MATCH).and_then(|text| parse_tag(&text)),
            event_id: event_id.filter(|id| !id.is_empty()).map(Cow::into_owned),
        }
    }
}

/// `3`, `W/3`, `"3"`, `W/"3"`
fn parse_tag(text: &str) -> Option<u32> {
    let text = text.trim();
    text.strip_prefix("W/").unwrap_or(text).trim_matches('"').parse().ok()
}

/// A stored message, as far as it decides where to begin.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    /// In seconds.
    pub time_s: u64,
    /// Its number within its second.
    pub tag: u32,
    /// The publisher's own id.
    pub event_id: Option<&'a str>,
}

/// How many of a channel's stored messages, oldest first, are passed over.
pub fn skipped<'a>(stored: impl ExactSizeIterator<Item = Mark<'a>>, backtrack: usize, start: &Start) -> usize {
    let n = stored.len();
    if backtrack > 0 {
        return n.saturating_sub(backtrack);
    }
    for (index, message) in stored.enumerate() {
        if start.event_id.as_deref().is_some_and(|id| message.event_id == Some(id)) {
            return index + 1;
        }
        let Some(time_s) = start.time_s else { continue };
        match (message.time_s.cmp(&time_s), start.tag) {
            (std::cmp::Ordering::Greater, _) => return index,
            (std::cmp::Ordering::Equal, Some(tag)) if message.tag == tag => return index + 1,
            (std::cmp::Ordering::Equal, Some(tag)) if message.tag > tag => return index,
            _ => {}
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rest: &str, query: &str, wanted: &[(&str, usize)]) {
        let found = channels(rest, Arguments(query));
        let found: Vec<_> = found.iter().map(|channel| (channel.id.as_str(), channel.backtrack)).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn ids_come_from_the_path_or_an_argument() {
        check("a/b", "id=c", &[("a", 0), ("b", 0)]);
        check("", "id=a/b", &[("a", 0), ("b", 0)]);
        check("", "id=%2Fa%2Fb.b2&_=1", &[("a", 0), ("b", 2)]);
        check("/", "_=1&channels=x.b3%2Fy", &[("x", 3), ("y", 0)]);
        check("a%2Fb%20c", "", &[("a", 0), ("b c", 0)]);
        check("", "id=", &[]);
        check("", "", &[]);
        check("a//a.b2/", "", &[("a", 0)]);
    }

    #[test]
    fn a_backtrack_needs_digits_and_ends_the_id() {
        check("a.b3", "", &[("a", 3)]);
        check("a.b", "", &[("a.b", 0)]);
        check("a.b3.b4", "", &[("a.b3", 4)]);
        check("a.bx/.b3", "", &[("a.bx", 0)]);
        check("a.b99999999999999999999", "", &[("a", usize::MAX)]);
        check("a.b0", "", &[("a", 0)]);
    }

    #[test]
    fn only_names_of_open_channels_are_ids() {
        let status = |id: &str| check_id(id, 20).map_err(|refused| refused.status().as_u16());
        assert_eq!(status("room-1.x"), Ok(()));
        assert_eq!(status("cache-room"), Ok(()));
        for id in ["ALL", "a*", "*", "private-a", "presence-a", "#server-to-user-1", "#x"] {
            assert_eq!(status(id), Err(403), "{id}");
        }
        for id in ["a b", "é", "123456789012345678901"] {
            assert_eq!(status(id), Err(400), "{id}");
        }
    }

    #[test]
    fn arguments_count_before_headers_and_nothing_counts_when_it_is_no_date() {
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: &'static str| {
            headers.insert(name, value.parse().expect("a header"));
        };
        set("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
        set("if-none-match", "W/3");
        set("last-event-id", "e1");
        let start = Start { time_s: Some(784_111_777), tag: Some(3), event_id: Some("e1".into()) };
        assert_eq!(Start::of(&headers, Arguments("tag=&time=&eventid=")), start);
        let start = Start { time_s: Some(0), tag: Some(0), event_id: Some("e2".into()) };
        let query = "tag=0&time=Thu%2C%2001%20Jan%201970%2000%3A00%3A00%20GMT&eventid=e2";
        assert_eq!(Start::of(&headers, Arguments(query)), start);
        headers.insert("if-modified-since", "null".parse().expect("a header"));
        headers.insert("if-none-match", "\"x\"".parse().expect("a header"));
        headers.insert("last-event-id", "".parse().expect("a header"));
        assert_eq!(Start::of(&headers, Arguments("")), Start::default());
    }

    #[test]
    fn a_tag_may_be_weak_strong_or_bare() {
        for text in ["7", "W/7", "\"7\"", "W/\"7\"", " 7 "] {
            assert_eq!(parse_tag(text), Some(7), "{text}");
        }
        assert_eq!((parse_tag("W/"), parse_tag("-1")), (None, None));
    }

    fn after(backtrack: usize, time_s: Option<u64>, tag: Option<u32>, event_id: Option<&str>) -> usize {
        let stored = [(10, 1, Some("a")), (10, 2, None), (11, 1, Some("b")), (11, 2, None), (13, 1, None)];
        let start = Start { time_s, tag, event_id: event_id.map(str::to_owned) };
        skipped(stored.map(|(time_s, tag, event_id)| Mark { time_s, tag, event_id }).into_iter(), backtrack, &start)
    }

    #[test]
    fn a_subscriber_goes_on_behind_the_last_message_that_it_has() {
        assert_eq!(after(0, None, None, None), 5, "from now on");
        assert_eq!(after(0, Some(0), None, None), 0);
        assert_eq!(after(0, Some(10), None, None), 2, "without a tag, behind the whole second");
        assert_eq!(after(0, Some(10), Some(1), None), 1);
        assert_eq!(after(0, Some(10), Some(0), None), 0);
        assert_eq!(after(0, Some(11), Some(2), None), 4);
        assert_eq!(after(0, Some(12), Some(9), None), 4);
        assert_eq!(after(0, Some(13), Some(1), None), 5);
        assert_eq!(after(0, None, Some(1), None), 5, "a tag alone says nothing");
        assert_eq!(after(0, None, None, Some("b")), 3);
        assert_eq!(after(0, None, None, Some("gone")), 5);
    }

    #[test]
    fn a_backtrack_counts_before_everything_else() {
        assert_eq!(after(2, Some(0), None, Some("a")), 3);
        assert_eq!(after(usize::MAX, None, None, None), 0);
    }
}
