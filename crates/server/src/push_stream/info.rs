//! What the server says about channels and about itself, as JSON and as plain text.

use hyper::header::{ACCEPT, HeaderMap};

use super::clock::iso_date;

/// A way to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain`
    Plain,
    /// `application/json`, or `text/x-json` when that was asked for.
    Json {
        /// What the answer calls it.
        content_type: &'static str,
    },
}

impl Format {
    /// The first format of the `Accept` header that there is; else JSON.
    pub fn of(headers: &HeaderMap) -> Format {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let known = accept.split(',').find_map(|media| match media.split(';').next().unwrap_or_default().trim() {
            "text/plain" => Some(Format::Plain),
            "application/json" => Some(Format::Json { content_type: "application/json" }),
            "text/x-json" => Some(Format::Json { content_type: "text/x-json" }),
            _ => None,
        });
        known.unwrap_or(Format::Json { content_type: "application/json" })
    }

    /// The answer's type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Plain => "text/plain",
            Format::Json { content_type } => content_type,
        }
    }
}

/// About one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Its id, which needs no escaping.
    pub id: String,
    /// Messages ever published, as far as it is remembered.
    pub published: u64,
    /// Messages kept.
    pub stored: u64,
    /// Everybody who listens, through whichever door.
    pub subscribers: u64,
}

/// About the node.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The machine's name.
    pub hostname: String,
    /// In seconds since the Unix epoch.
    pub now_s: u64,
    /// How long it has run.
    pub uptime_s: u64,
    /// How many channels there are.
    pub channels: usize,
}

impl ChannelInfo {
    /// Whether it holds anything, or anybody.
    pub fn in_use(&self) -> bool {
        self.stored > 0 || self.subscribers > 0
    }

    /// The whole answer.
    pub fn text(&self, format: Format) -> String {
        format!("{}\r\n", self.item(format))
    }

    fn item(&self, format: Format) -> String {
        let ChannelInfo { id, published, stored, subscribers } = self;
        match format {
            Format::Plain => format!(
                "channel: {id}\r\npublished_messages: {published}\r\nstored_messages: {stored}\r\n\
                 active_subscribers: {subscribers}"
            ),
            Format::Json { .. } => format!(
                "{{\"channel\": \"{id}\", \"published_messages\": {published}, \"stored_messages\": {stored}, \
                 \"subscribers\": {subscribers}}}"
            ),
        }
    }
}

/// About several channels.
pub fn detailed(node: &NodeInfo, channels: &[ChannelInfo], format: Format) -> String {
    let NodeInfo { hostname, now_s, uptime_s, channels: n } = node;
    let time = iso_date(*now_s);
    let items: Vec<String> = channels.iter().map(|channel| channel.item(format)).collect();
    let items = items.join(",\r\n");
    match format {
        Format::Plain => format!(
            "hostname: {hostname}, time: {time}, channels: {n}, wildcard_channels: 0, uptime: {uptime_s}, infos: \r\n\
             {items}\r\n"
        ),
        Format::Json { .. } => {
            let end = if items.is_empty() { "" } else { "\r\n" };
            format!(
                "{{\"hostname\": \"{hostname}\", \"time\": \"{time}\", \"channels\": {n}, \"wildcard_channels\": 0, \
                 \"uptime\": {uptime_s}, \"infos\": [\r\n{items}{end}]}}\r\n"
            )
        }
    }
}

/// About everything together. There is one process, so it is the only worker.
pub fn summary(node: &NodeInfo, sum: &ChannelInfo, format: Format) -> String {
    let NodeInfo { hostname, now_s, uptime_s, channels } = node;
    let ChannelInfo { published, stored, subscribers, .. } = sum;
    let (time, pid) = (iso_date(*now_s), std::process::id());
    let counts = [
        ("channels", *channels as u64),
        ("wildcard_channels", 0),
        ("published_messages", *published),
        ("stored_messages", *stored),
        // Nothing waits to be freed here.
        ("messages_in_trash", 0),
        ("channels_in_delete", 0),
        ("channels_in_trash", 0),
        ("subscribers", *subscribers),
        ("uptime", *uptime_s),
    ];
    let counts = |write: fn(&(&str, u64)) -> String| counts.iter().map(write).collect::<String>();
    match format {
        Format::Plain => {
            let counts = counts(|(name, n)| format!("{name}: {n}\r\n"));
            format!(
                "hostname: {hostname}\r\ntime: {time}\r\n{counts}by_worker:\r\n  pid: {pid}\r\n  \
                 subscribers: {subscribers}\r\n  uptime: {uptime_s}\r\n"
            )
        }
        Format::Json { .. } => {
            let counts = counts(|(name, n)| format!("\"{name}\": {n}, "));
            format!(
                "{{\"hostname\": \"{hostname}\", \"time\": \"{time}\", {counts}\"by_worker\": [\r\n{{\"pid\": \
                 \"{pid}\", \"subscribers\": {subscribers}, \"uptime\": {uptime_s}}}\r\n]}}\r\n"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Format = Format::Json { content_type: "application/json" };

    fn room(id: &str) -> ChannelInfo {
        ChannelInfo { id: id.to_owned(), published: 3, stored: 2, subscribers: 1 }
    }

    fn node() -> NodeInfo {
        NodeInfo { hostname: "box".to_owned(), now_s: 784_111_777, uptime_s: 60, channels: 2 }
    }

    #[test]
    fn a_channel_is_written_as_the_module_does() {
        assert_eq!(
            room("a").text(JSON),
            "{\"channel\": \"a\", \"published_messages\": 3, \"stored_messages\": 2, \"subscribers\": 1}\r\n"
        );
        assert_eq!(
            room("a").text(Format::Plain),
            "channel: a\r\npublished_messages: 3\r\nstored_messages: 2\r\nactive_subscribers: 1\r\n"
        );
    }

    #[test]
    fn all_json_is_json() {
        let parse = |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        let summary = parse(summary(&node(), &room(""), JSON));
        assert_eq!(summary["time"], "1994-11-06T08:49:37");
        assert_eq!((&summary["published_messages"], &summary["channels"]), (&3.into(), &2.into()));
        assert_eq!((&summary["by_worker"][0]["uptime"], &summary["messages_in_trash"]), (&60.into(), &0.into()));
        let all = parse(detailed(&node(), &[room("a"), room("b")], JSON));
        assert_eq!((&all["hostname"], &all["infos"][1]["channel"]), (&"box".into(), &"b".into()));
        assert_eq!(parse(detailed(&node(), &[], JSON))["infos"], serde_json::json!([]));
    }

    #[test]
    fn plain_text_has_a_line_for_each_figure() {
        let text = summary(&node(), &room(""), Format::Plain);
        assert!(text.starts_with("hostname: box\r\ntime: 1994-11-06T08:49:37\r\nchannels: 2\r\n"), "{text}");
        assert!(text.contains("\r\nby_worker:\r\n  pid: "), "{text}");
        let text = detailed(&node(), &[room("a"), room("b")], Format::Plain);
        assert!(text.contains("infos: \r\nchannel: a\r\n") && text.ends_with("active_subscribers: 1\r\n"), "{text}");
    }

    #[test]
    fn the_first_known_format_is_taken() {
        let of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header"));
            Format::of(&headers).content_type()
        };
        assert_eq!(of("*/*"), "application/json");
        assert_eq!(of("text/plain"), "text/plain");
        assert_eq!(of("image/png, text/x-json;q=0.9, text/plain"), "text/x-json");
        assert_eq!(of("application/yaml"), "application/json");
    }
}
