//! `publish`: the HTTP API by itself: signed publishes to a channel that nobody listens to.

use std::time::Duration;

use anyhow::Result;
use clap::value_parser;

use crate::fanout::{DEFAULT_SIZE, SIZE};
use crate::load::Repeated;
use crate::publisher::{Accept, Publisher};
use crate::report::{Output, Report};
use crate::target::Target;

/// Options of `publish`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
    /// Requests in flight, each on a keep-alive connection of its own
    #[arg(long, short, default_value_t = 50, value_name = "W", value_parser = value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Events in a request; more than one go through batch_events
    #[arg(long, default_value_t = 1, value_name = "B", value_parser = value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Bytes of data in each event
    #[arg(long, short, default_value_t = DEFAULT_SIZE, value_parser = value_parser!(u32).range(SIZE))]
    size: u32,
    /// How long to measure
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    seconds: f64,
    /// Requests per second, instead of as many as there can be
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Send the same to this path instead, whatever it answers: what the request costs without the publication
    #[arg(long)]
    path: Option<String>,
}

/// Before measuring: connections warm, threads awake.
const WARMUP: Duration = Duration::from_millis(500);

pub fn run(options: &Options) -> Result<()> {
    let Options { target, output, .. } = options;
    let accept = if options.path.is_some() { Accept::Anything } else { Accept::Success };
    let resource = if options.batch > 1 { "batch_events" } else { "events" };
    let path = options.path.clone().unwrap_or_else(|| target.path(resource));
    let load = |time| Repeated::new(target, path.clone(), body(options), time);

    let mut publisher = Publisher::open(target, options.in_flight, accept)?;
    publisher.run(&mut load(WARMUP), options.rate)?;
    let before = output.server_usage()?;
    let flow = publisher.run(&mut load(Duration::from_secs_f64(options.seconds)), options.rate)?;
    let after = output.server_usage()?;

    let took_s = (flow.ended_ns - flow.began_ns).max(1) as f64 / 1e9;
    let events = flow.answered * u64::from(options.batch);
    let mut report = Report::new("publish");
    report.figure("requests", flow.answered as f64);
    report.figure("requests_per_s", flow.answered as f64 / took_s);
    report.figure("events_per_s", events as f64 / took_s);
    report.server(before.zip(after), "request", flow.answered);
    report.latency("answer", &flow.latency);
    report.finish(output)
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
