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

use support::tap::{TOKEN, Tap, ack, ask, stream, text};
use support::{KEY, Server, one_app};

/// The app with a firehose on which these keys are set, and whose token has these more.
fn config(firehose: &str, token: &str) -> String {
    config_in(Path::new("data"), firehose, token)
}

fn config_in(folder: &Path, firehose: &str, token: &str) -> String {
    let app = one_app("client_events = true");
    let token = format!("{{ name = \"all\", token = \"{TOKEN}\" {token} }}");
    format!("data_dir = {folder:?}\nheartbeat_s = 1\n{app}[apps.firehose]\n{firehose}\ntokens = [{token}]\n")
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
