//! `publish`: the HTTP API by itself: signed publishes to a channel that nobody listens to.

use anyhow::Result;
use clap::value_parser;

use crate::fanout::{DEFAULT_SIZE, SIZE};
use crate::publisher::Accept;
use crate::repeat::{Pace, Repeat};

/// Options of `publish`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pace: Pace,
    /// Requests in flight, each on a keep-alive connection of its own
    #[arg(long, short, default_value_t = 50, value_name = "W", value_parser = value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Events in a request; more than one go through batch_events
    #[arg(long, default_value_t = 1, value_name = "B", value_parser = value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Bytes of data in each event
    #[arg(long, short, default_value_t = DEFAULT_SIZE, value_parser = value_parser!(u32).range(SIZE))]
    size: u32,
    /// Send the same to this path instead, whatever it answers: what the request costs without the publication
    #[arg(long)]
    path: Option<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let Options { pace, in_flight, batch, path, .. } = options;
    let accept = if path.is_some() { Accept::Anything } else { Accept::Success };
    let resource = if *batch > 1 { "batch_events" } else { "events" };
    let path = path.clone().unwrap_or_else(|| pace.target.path(resource));
    let holds = (*batch, "events_per_s");
    pace.run("publish", &Repeat { path, body: body(options), in_flight: *in_flight, accept, holds })
}

fn body(options: &Options) -> Vec<u8> {
    let data = ".".repeat(options.size as usize);
    let event = |channel: &str| format!(r#"{{"name":"bench",{channel},"data":"{data}"}}"#);
    if options.batch == 1 {
        return event(r#""channels":["bench-nobody"]"#).into_bytes();
    }
    let events = vec![event(r#""channel":"bench-nobody""#); options.batch as usize];
    format!(r#"{{"batch":[{}]}}"#, events.join(",")).into_bytes()
}
