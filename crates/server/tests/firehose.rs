//! The firehose, as those who buy it see it, against the real server.

mod support;

#[path = "firehose/bounds.rs"]
mod bounds;
#[path = "firehose/consumers.rs"]
mod consumers;
#[path = "firehose/doors.rs"]
mod doors;
#[path = "firehose/resume.rs"]
mod resume;
#[path = "firehose/tokens.rs"]
mod tokens;

use std::path::Path;

use serde_json::{Value, json};
use support::{Body, KEY, Response, Server, Wire, one_app};

const TOKEN: &str = "token-of-all-that-is";

/// The app with a firehose on which these keys are set, and whose token has these more.
fn config(firehose: &str, token: &str) -> String {
    config_in(Path::new("data"), firehose, token)
}

fn config_in(folder: &Path, firehose: &str, token: &str) -> String {
    let app = one_app("client_events = true");
    let token = format!("{{ name = \"all\", token = \"{TOKEN}\" {token} }}");
    format!("data_dir = {folder:?}\nheartbeat_s = 1\n{app}[apps.firehose]\n{firehose}\ntokens = [{token}]\n")
}

/// A connection to a firehose.
struct Tap {
    body: Body,
    text: Vec<u8>,
    /// What the server said of where it begins.
    begins: Value,
}

impl Tap {
    /// Opens one with everybody's token.
    fn open(server: &Server, query: &str) -> Tap {
        Tap::with(server, TOKEN, query)
    }

    fn with(server: &Server, token: &str, query: &str) -> Tap {
        let mut tap = Tap { body: stream(server, token, query, &[]), text: Vec::new(), begins: Value::Null };
        tap.begins = tap.next();
        assert_eq!(tap.begins["event"], "fanfare:subscribed");
        tap
    }

    /// The next line that says something; `None` at the end.
    #[track_caller]
    fn heard(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                match &line[..end] {
                    [] => continue,
                    line => return Some(serde_json::from_slice(line).expect("a line is JSON")),
                }
            }
            self.text.extend(self.body.part()?);
        }
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        self.heard().expect("the server goes on")
    }

    /// The next publication.
    #[track_caller]
    fn message(&mut self) -> Value {
        loop {
            let line = self.next();
            match line["event"].as_str() {
                Some("fanfare:cursor") => {}
                _ if line["channel"].is_string() => return line,
                _ => panic!("expected a publication, got {line}"),
            }
        }
    }

    /// The data of the next so many.
    #[track_caller]
    fn data(&mut self, n: usize) -> Vec<String> {
        (0..n).map(|_| text(&self.message()["data"])).collect()
    }

    /// Where it stood before anything was sent.
    fn cursor(&self) -> String {
        text(&self.begins["cursor"])
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("expected text, got {value}")).to_owned()
}

fn stream(server: &Server, token: &str, query: &str, headers: &[(&str, &str)]) -> Body {
    let mut wire = Wire::to(server.addr);
    let authorization = format!("Bearer {token}");
    let headers = [&[("Authorization", authorization.as_str())], headers].concat();
    wire.get(&format!("/firehose/{KEY}?{query}"), &headers);
    let head = wire.head();
    assert_eq!(head.status, 200, "{head:?}");
    wire.body(&head)
}

fn ask(server: &Server, method: &str, query: &str, token: &str) -> Response {
    let authorization = format!("Bearer {token}");
    server.request(method, &format!("/firehose/{KEY}?{query}"), &[("Authorization", &authorization)], "")
}

fn ack(server: &Server, consumer: &str, cursor: &str) -> Response {
    let body = json!({"consumer": consumer, "cursor": cursor}).to_string();
    let authorization = format!("Bearer {TOKEN}");
    server.request("POST", &format!("/firehose/{KEY}/ack"), &[("Authorization", &authorization)], &body)
}

/// Publishes these numbers on a channel, as data.
fn publish(server: &Server, channel: &str, numbers: std::ops::Range<u32>) {
    numbers.for_each(|n| server.publish(channel, "said", &n.to_string()));
}

fn texts(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
