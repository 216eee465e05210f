//! `connect`: how fast a server takes connections: TCP, upgrade, subscribe and its confirmation.

use anyhow::Result;
use clap::value_parser;

use crate::crew::{Clients, Crew, Roster};
use crate::fanout::run_number;
use crate::ledger::Terms;
use crate::plan::{Plan, Reach};
use crate::receiver::Afterwards;
use crate::report::{Output, Report};
use crate::stamp::STAMP_LEN;
use crate::target::Target;

/// Options of `connect`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    clients: Clients,
    #[command(flatten)]
    output: Output,
    /// Connections in all
    #[arg(long, short = 'n', default_value_t = 10_000, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Channels; connection n subscribes to channel n modulo M
    #[arg(long, short = 'm', default_value_t = 1, value_name = "M", value_parser = value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Close each connection as soon as it is subscribed
    #[arg(long)]
    churn: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let Options { target, clients, output, connections, channels, churn } = options;
    let afterwards = if *churn { Afterwards::Close } else { Afterwards::Listen };
    let before = output.server_usage()?;
    let terms = listening_only(*channels);
    let crew = Crew::muster(&Roster { afterwards, ..Roster::listeners(target, clients, *connections, &terms) })?;
    let after = output.server_usage()?;

    let (began_ns, ended_ns) = crew.handshakes_ns;
    let mut report = Report::new("connect");
    report.figure("connections", f64::from(*connections));
    report.figure("connections_per_s", f64::from(*connections) * 1e9 / (ended_ns - began_ns).max(1) as f64);
    report.server(before.zip(after), "connection", u64::from(*connections));
    report.must_be_none("closed_by_server", crew.finish()?.counts.closed);
    report.finish(output)
}

/// Terms of subscribers that nothing will be published to.
pub fn listening_only(channels: u32) -> Terms {
    let plan = Plan { lanes: 1, channels, batch: 1, reach: Reach::One };
    Terms { plan, run: run_number(), size: STAMP_LEN, measured_from: 0 }
}
