//! `fanout`: publish to many subscribers and account for every delivery.
//!
//! Three ways to pace it: `--in-flight W` requests back to back (a flood: answers come before deliveries), `--rate R` a
//! second, or `--lockstep`: the next publication only when the last subscriber has the one before, so that nothing can be
//! joined and each costs what a lone one costs. `--lockstep=W` is a burst that never gets ahead: W publications under way.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::value_parser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::crew::{Clients, Crew, Roster};
use crate::ledger::{Counts, PUBLICATIONS_MAX, Terms};
use crate::load::{Counted, Stamped};
use crate::machine::Usage;
use crate::plan::{Plan, Reach};
use crate::publisher::{Accept, Publisher};
use crate::receiver::Afterwards;
use crate::report::{Output, Report};
use crate::stamp::STAMP_LEN;
use crate::sys;
use crate::target::Target;

/// Bytes of data in a publication: at least its stamp; at most what a client's buffer holds with room to spare.
pub const SIZE: std::ops::RangeInclusive<i64> = STAMP_LEN as i64..=128 << 10;
pub const DEFAULT_SIZE: u32 = 100;

/// Options of `fanout`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    clients: Clients,
    #[command(flatten)]
    output: Output,
    /// Subscribers in all
    #[arg(long, short = 'n', default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    subscribers: u32,
    /// Channels; subscriber n listens to channel n modulo M, publication n goes to channel n modulo M
    #[arg(long, short = 'm', default_value_t = 1, value_name = "M", value_parser = value_parser!(u32).range(1..=100_000))]
    channels: u32,
    /// Bytes of data in each publication
    #[arg(long, short, default_value_t = DEFAULT_SIZE, value_parser = value_parser!(u32).range(SIZE))]
    size: u32,
    /// Publications to measure
    #[arg(long, short, default_value_t = 1_000, value_name = "K", value_parser = value_parser!(u32).range(1..8_000_000))]
    publications: u32,
    /// Publications before those: accounted for, but not measured
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(0..8_000_000))]
    warmup: u32,
    /// Requests in flight, each on a connection of its own
    #[arg(long, short, default_value_t = 1, value_name = "W", value_parser = value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Publications in a request; more than one go through batch_events. K and the warm-up are rounded up to it
    #[arg(long, default_value_t = 1, value_name = "B", value_parser = value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Requests per second, instead of as many as there can be
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Publish only while fewer than W publications have yet to reach everybody; alone, one at a time
    #[arg(long, value_name = "W", num_args = 0..=1, default_missing_value = "1", require_equals = true,
          conflicts_with_all = ["in_flight", "rate", "batch"], value_parser = value_parser!(u32).range(1..=10_000))]
    lockstep: Option<u32>,
    /// Without any delivery for so long, what is missing counts as lost
    #[arg(long, default_value_t = 5_000)]
    patience_ms: u64,
}

impl Options {
    fn plan(&self) -> Plan {
        Plan { lanes: self.in_flight, channels: self.channels, batch: self.batch, reach: Reach::One }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    fn warmup_requests(&self) -> u32 {
        self.warmup.div_ceil(self.batch)
    }

    fn requests(&self) -> u32 {
        self.warmup_requests() + self.publications.div_ceil(self.batch)
    }

    fn terms(&self) -> Terms {
        let measured_from = self.warmup_requests() * self.batch;
        Terms { plan: self.plan(), run: run_number(), size: self.size as usize, measured_from }
    }
}

/// Tells this run's publications from those of the runs before it.
pub fn run_number() -> u16 {
    (sys::monotonic_ns() >> 10) as u16
}

/// One run: its parts, and what the measured part of it used.
struct Run<'a> {
    options: &'a Options,
    crew: Crew,
    publisher: Publisher,
    stamped: Stamped<'a>,
    bar: ProgressBar,
}

struct Measured {
    began_ns: u64,
    usage: Option<(Usage, Usage)>,
    client_busy_pct: f64,
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rate.is_none_or(|rate| rate > 0.0), "--rate must be positive");
    let windowed = options.lockstep.is_some_and(|window| window > 1);
    ensure!(!windowed || options.plan().channels == 1, "--lockstep=W takes one channel: others overtake it");
    ensure!(options.requests() * options.batch < PUBLICATIONS_MAX, "too many publications for one run");
    let terms = options.terms();
    let afterwards = if options.lockstep.is_some() { Afterwards::ListenAndReport } else { Afterwards::Listen };
    let Options { target, clients, subscribers, .. } = options;
    let crew = Crew::muster(&Roster { afterwards, ..Roster::listeners(target, clients, *subscribers, &terms) })?;
    let mut run = Run {
        options,
        crew,
        publisher: Publisher::open(target, options.in_flight, Accept::Success)?,
        stamped: Stamped::new(target, &clients.channel_prefix, terms.plan, terms.run, terms.size),
        bar: progress_bar(options.requests()),
    };
    run.publish_until(options.warmup_requests())?;
    let measured = run.measure()?;
    run.report(&measured)
}

impl Run<'_> {
    fn measure(&mut self) -> Result<Measured> {
        let output = &self.options.output;
        let (before, clients_before) = (output.server_usage()?, self.client_cpu_ns()?);
        let began_ns = sys::monotonic_ns();
        self.publish_until(self.options.requests())?;
        let (after, clients_after) = (output.server_usage()?, self.client_cpu_ns()?);
        let took_ns = (sys::monotonic_ns() - began_ns) as f64;
        Ok(Measured {
            began_ns,
            usage: before.zip(after),
            client_busy_pct: 100.0 * (clients_after - clients_before) as f64 / took_ns,
        })
    }

    /// CPU time of the client processes and of this one, which publishes.
    fn client_cpu_ns(&self) -> Result<u64> {
        Ok(self.crew.cpu_ns()? + Usage::of(std::process::id())?.cpu_ns)
    }

    /// Publishes all requests below `end`, and waits until they have arrived.
    fn publish_until(&mut self, end: u32) -> Result<()> {
        if let Some(window) = self.options.lockstep {
            let Run { crew, publisher, stamped, bar, .. } = self;
            let step = Step { plan: self.options.plan(), window, patience: self.options.patience() };
            step.publish(crew, publisher, stamped, bar, |id| id < end)?;
        } else {
            let mut load = Counted { stamped: &mut self.stamped, end, bar: &self.bar };
            self.publisher.run(&mut load, self.options.rate)?;
        }
        self.crew.drain(&self.published(), self.options.patience())
    }

    fn published(&self) -> Vec<u32> {
        self.options.plan().published(&self.publisher.ends())
    }

    fn report(self, measured: &Measured) -> Result<()> {
        self.bar.finish_and_clear();
        let published = self.published();
        let expected = self.crew.expected(&published);
        let tally = self.crew.finish()?;

        let mut report = Report::new("fanout");
        report.figure("subscribers", f64::from(self.options.subscribers));
        report.figure("published", published.iter().map(|&n| f64::from(n)).sum());
        account(&mut report, &tally.counts, expected, tally.out_of_step());
        let took_s = tally.last_ns.saturating_sub(measured.began_ns).max(1) as f64 / 1e9;
        report.figure("deliveries_per_s", tally.timed as f64 / took_s);
        report.figure("received_bytes_per_delivery", tally.bytes as f64 / tally.counts.delivered.max(1) as f64);
        report.figure("client_cpu_busy_pct", measured.client_busy_pct);
        report.server(measured.usage, "delivery", tally.timed);
        for (of, histogram) in tally.latencies() {
            report.latency(of, &histogram);
        }
        report.finish(&self.options.output)
    }
}

/// Publishing with a bounded number of publications that have not reached everybody.
pub struct Step {
    pub plan: Plan,
    /// That number.
    pub window: u32,
    pub patience: Duration,
}

impl Step {
    /// Publishes while `more(id)`, then waits for the rest; ends early when one is lost, which the account will show.
    /// The publisher has one lane and one publication in a request: its next request is the next publication.
    pub fn publish(
        &self,
        crew: &mut Crew,
        publisher: &mut Publisher,
        stamped: &mut Stamped<'_>,
        bar: &ProgressBar,
        more: impl Fn(u32) -> bool,
    ) -> Result<()> {
        let begin = publisher.ends()[0];
        let mut arrived = begin;
        let mut next = begin;
        while arrived < next || more(next) {
            let room = next < arrived + self.window && more(next);
            if !room {
                if !crew.wait_complete(arrived, self.plan.channel(arrived), self.patience)? {
                    return Ok(());
                }
                arrived += 1;
                continue;
            }
            publisher.run(&mut Counted { stamped, end: next + 1, bar }, None)?;
            next += 1;
        }
        Ok(())
    }
}

/// Reports whether each subscriber got what was published: all of it, once, in order, unaltered.
pub fn account(report: &mut Report, counts: &Counts, expected: u64, out_of_step: u64) {
    let lost = expected.saturating_sub(counts.delivered);
    report.figure("expected", expected as f64);
    report.figure("delivered", counts.delivered as f64);
    report.must_be_none("lost", lost);
    report.must_be_none("duplicated", counts.duplicated);
    report.must_be_none("reordered", counts.reordered);
    report.must_be_none("corrupt", counts.corrupt);
    report.must_be_none("closed_by_server", counts.closed);
    // With gaps or late ones the orders differ anyway, and say nothing new.
    let exact = lost == 0 && counts.reordered == 0;
    report.must_be_none("subscribers_out_of_step", if exact { out_of_step } else { 0 });
}

/// Of so many requests; hides itself where nobody looks.
pub fn progress_bar(requests: u32) -> ProgressBar {
    let bar = ProgressBar::new(u64::from(requests));
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} requests, {per_sec}, {eta} left");
    bar.set_style(style.expect("the template is well formed"));
    bar
}
