//! `ingest`: end to end, from a record's `POST` into a queue until every reader has what a pipeline made of it.
//!
//! The server has a queue and a pipeline as `--configuration` prints them: five stages, and a sink that publishes each record on
//! four channels. Readers spread over the four, and all of them are owed every record. A latency is from the clock's reading
//! before a request is signed and sent until a reader has read the publication: the queue's sync to disk is within it.
//!
//! Records are sent at their times, whatever became of those before: each connection has a share of them and an ordering key
//! of its own, and `late_ms_max` tells by how much a record missed its time because its connection still waited for an answer.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::value_parser;
use indicatif::ProgressBar;

use crate::crew::{Clients, Crew, Roster};
use crate::fanout::{account, progress_bar, run_number};
use crate::ledger::{PUBLICATIONS_MAX, Terms};
use crate::load::{Counted, RECORD_ROUTES, Stamped};
use crate::plan::{Plan, Reach};
use crate::publisher::{Accept, Flow, Publisher};
use crate::report::{Output, Report};
use crate::stamp::STAMP_LEN;
use crate::target::Target;

/// Options of `ingest`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    clients: Clients,
    #[command(flatten)]
    output: Output,
    /// Print the configuration that the server has to have, and nothing else
    #[arg(long)]
    configuration: bool,
    /// The queue
    #[arg(long, default_value = "ingest", value_name = "NAME")]
    queue: String,
    /// Readers in all; reader n listens to channel n modulo 4
    #[arg(long, short = 'n', default_value_t = 1_000, value_parser = value_parser!(u32).range(4..=1_000_000))]
    readers: u32,
    /// Records per second
    #[arg(long, default_value_t = 100.0, value_name = "R")]
    rate: f64,
    /// How long to measure
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// How long to send before that: accounted for, but not measured
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    warmup: f64,
    /// Connections that take turns to send, and as many ordering keys
    #[arg(long, short, default_value_t = 32, value_name = "W", value_parser = value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Bytes of text in each record, beside 190 of other members
    #[arg(long, short, default_value_t = 110, value_parser = value_parser!(u32).range(STAMP_LEN as i64..=8_000))]
    size: u32,
    /// Without any delivery for so long, what is missing counts as lost
    #[arg(long, default_value_t = 5_000)]
    patience_ms: u64,
}

const CONFIGURATION: &str = include_str!("ingest.toml");

impl Options {
    fn records(&self, seconds: f64) -> u32 {
        (self.rate * seconds).ceil() as u32
    }

    fn terms(&self) -> Terms {
        let plan = Plan { lanes: self.in_flight, channels: RECORD_ROUTES.len() as u32, batch: 1, reach: Reach::All };
        Terms { plan, run: run_number(), size: self.size as usize, measured_from: self.records(self.warmup) }
    }
}

pub fn run(options: &Options) -> Result<()> {
    if options.configuration {
        print!("{CONFIGURATION}");
        return Ok(());
    }
    let Options { target, clients, output, readers, rate, seconds, warmup, .. } = options;
    ensure!(*rate > 0.0 && *seconds > 0.0 && *warmup >= 0.0, "--rate and --seconds must be positive");
    let (warm, end) = (options.records(*warmup), options.records(*warmup) + options.records(*seconds));
    ensure!(end < PUBLICATIONS_MAX, "too many records for one run");
    let terms = options.terms();
    let mut crew = Crew::muster(&Roster::listeners(target, clients, *readers, &terms))?;
    let mut sender = Sender {
        publisher: Publisher::open(target, options.in_flight, Accept::Success)?,
        stamped: Stamped::records(target, &clients.channel_prefix, &terms, &options.queue),
        rate: *rate,
        bar: progress_bar(end),
    };
    sender.send_until(warm)?;
    let before = output.server_usage()?;
    let flow = sender.send_until(end)?;
    let published = terms.plan.published(&sender.publisher.ends());
    crew.drain(&published, Duration::from_millis(options.patience_ms))?;
    let after = output.server_usage()?;
    sender.bar.finish_and_clear();

    let expected = crew.expected(&published);
    let tally = crew.finish()?;
    let mut report = Report::new("ingest");
    report.figure("readers", f64::from(*readers));
    report.figure("records", f64::from(end));
    let took_s = (flow.ended_ns - flow.began_ns).max(1) as f64 / 1e9;
    report.figure("records_per_s", flow.answered as f64 / took_s);
    report.figure("late_ms_max", flow.late_ns_max as f64 / 1e6);
    account(&mut report, &tally.counts, expected, tally.out_of_step());
    report.server(before.zip(after), "record", flow.answered);
    report.latency("put", &flow.latency);
    for (of, histogram) in tally.latencies() {
        report.latency(of, &histogram);
    }
    report.finish(output)
}

struct Sender<'a> {
    publisher: Publisher,
    stamped: Stamped<'a>,
    rate: f64,
    bar: ProgressBar,
}

impl Sender<'_> {
    /// Sends all records below `end`, each at its time.
    fn send_until(&mut self, end: u32) -> Result<Flow> {
        let mut load = Counted { stamped: &mut self.stamped, end, bar: &self.bar };
        self.publisher.run(&mut load, Some(self.rate))
    }
}
