//! The verbs that send one request again and again: how they are paced, and what they report.

use std::time::Duration;

use anyhow::Result;

use crate::load::Repeated;
use crate::publisher::{Accept, Publisher};
use crate::report::{Output, Report};
use crate::target::Target;

/// Options that such verbs have in common.
#[derive(Debug, clap::Args)]
pub struct Pace {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    output: Output,
    /// How long to measure
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    seconds: f64,
    /// Requests per second, instead of as many as there can be
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
}

/// One request, and how it is sent.
pub struct Repeat {
    pub path: String,
    pub body: Vec<u8>,
    pub in_flight: u32,
    pub accept: Accept,
    /// How many of what is counted are in a request, and the name of the figure that says how many of them there were a second.
    pub holds: (u32, &'static str),
}

/// Before measuring: connections warm, threads awake.
const WARMUP: Duration = Duration::from_millis(500);

impl Pace {
    /// Sends it for as long as was asked, and reports.
    pub fn run(&self, verb: &'static str, repeat: &Repeat) -> Result<()> {
        let Pace { target, output, seconds, rate } = self;
        let load = |time| Repeated::new(target, repeat.path.clone(), repeat.body.clone(), time);
        let mut publisher = Publisher::open(target, repeat.in_flight, repeat.accept)?;
        publisher.run(&mut load(WARMUP), *rate)?;
        let before = output.server_usage()?;
        let flow = publisher.run(&mut load(Duration::from_secs_f64(*seconds)), *rate)?;
        let after = output.server_usage()?;

        let took_s = (flow.ended_ns - flow.began_ns).max(1) as f64 / 1e9;
        let (each, per_s) = repeat.holds;
        let mut report = Report::new(verb);
        report.figure("requests", flow.answered as f64);
        report.figure("requests_per_s", flow.answered as f64 / took_s);
        report.figure(per_s, (flow.answered * u64::from(each)) as f64 / took_s);
        report.server(before.zip(after), "request", flow.answered);
        report.latency("answer", &flow.latency);
        report.finish(output)
    }
}
