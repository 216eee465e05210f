//! `longpoll`: what a round of long-polling costs the server: one publication is the answer to everybody who waits, and
//! everybody asks again.
//!
//! The next round begins when all have their answer and the server has dealt with all of the next requests (seen by its CPU
//! clock), so that everybody waits when it comes, and each round is a whole one.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::value_parser;
use indicatif::ProgressBar;

use crate::crew::{Clients, Crew, Roster};
use crate::fanout::{DEFAULT_SIZE, SIZE, Step, account, run_number};
use crate::ledger::Terms;
use crate::load::Stamped;
use crate::machine::wait_until_idle;
use crate::plan::{Plan, Reach};
use crate::publisher::{Accept, Publisher};
use crate::receiver::Afterwards;
use crate::report::{Output, Report};
use crate::target::Target;
use crate::transport::Transport;

/// Options of `longpoll`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    clients: Clients,
    #[command(flatten)]
    output: Output,
    /// Pollers, all of one channel
    #[arg(long, short = 'n', default_value_t = 5_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pollers: u32,
    /// Rounds to measure
    #[arg(long, short = 'k', default_value_t = 100, value_name = "K", value_parser = value_parser!(u32).range(1..1_000_000))]
    rounds: u32,
    /// Rounds before those: accounted for, but not measured
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(0..1_000_000))]
    warmup: u32,
    /// Bytes of data in each publication
    #[arg(long, short, default_value_t = DEFAULT_SIZE, value_parser = value_parser!(u32).range(SIZE))]
    size: u32,
    /// Without any delivery for so long, what is missing counts as lost
    #[arg(long, default_value_t = 5_000)]
    patience_ms: u64,
}

const PLAN: Plan = Plan { lanes: 1, channels: 1, batch: 1, reach: Reach::One };

pub fn run(options: &Options) -> Result<()> {
    let Options { target, clients, output, pollers, rounds, warmup, size, patience_ms } = options;
    let only = clients.transport.is_none_or(|transport| transport == Transport::Longpoll);
    ensure!(only, "`longpoll` measures long-polling only");
    let clients = Clients { transport: Some(Transport::Longpoll), ..clients.clone() };
    let terms = Terms { plan: PLAN, run: run_number(), size: *size as usize, measured_from: *warmup };
    let listeners = Roster::listeners(target, &clients, *pollers, &terms);
    let mut rounds_of = Rounds {
        crew: Crew::muster(&Roster { afterwards: Afterwards::ListenAndReport, ..listeners })?,
        publisher: Publisher::open(target, 1, Accept::Success)?,
        stamped: Stamped::new(target, &clients.channel_prefix, PLAN, terms.run, terms.size),
        server_pid: output.server_pid,
        patience: Duration::from_millis(*patience_ms),
    };
    rounds_of.until(*warmup)?;
    let before = output.server_usage()?;
    rounds_of.until(warmup + rounds)?;
    let after = output.server_usage()?;

    let Rounds { mut crew, publisher, patience, .. } = rounds_of;
    let published = PLAN.published(&publisher.ends());
    crew.drain(&published, patience)?;
    let expected = crew.expected(&published);
    let tally = crew.finish()?;
    let mut report = Report::new("longpoll");
    report.figure("pollers", f64::from(*pollers));
    report.figure("rounds", f64::from(*rounds));
    account(&mut report, &tally.counts, expected, tally.out_of_step());
    report.figure("received_bytes_per_answer", tally.bytes as f64 / tally.counts.delivered.max(1) as f64);
    if let Some((before, after)) = before.zip(after) {
        report.figure("server_cpu_ms_per_round", after.cpu_ns_since(&before) / 1e6 / f64::from(*rounds));
    }
    report.server(before.zip(after), "answer", u64::from(*rounds) * u64::from(*pollers));
    for (of, histogram) in tally.latencies() {
        report.latency(of, &histogram);
    }
    report.finish(output)
}

struct Rounds<'a> {
    crew: Crew,
    publisher: Publisher,
    stamped: Stamped<'a>,
    server_pid: Option<u32>,
    patience: Duration,
}

impl Rounds<'_> {
    /// Goes through all rounds before `end`; ends early when an answer is lost, which the account will show.
    fn until(&mut self, end: u32) -> Result<()> {
        let step = Step { plan: PLAN, window: 1, patience: self.patience };
        let Rounds { crew, publisher, stamped, server_pid, .. } = self;
        wait_until_idle(*server_pid)?;
        for round in publisher.ends()[0]..end {
            step.publish(crew, publisher, stamped, &ProgressBar::hidden(), |id| id == round)?;
            wait_until_idle(*server_pid)?;
        }
        Ok(())
    }
}
