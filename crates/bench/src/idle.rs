//! `idle`: what a subscribed connection costs the server while nothing happens: resident memory, after less before.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::value_parser;

use crate::connect::listening_only;
use crate::crew::{Clients, Crew, Roster};
use crate::machine::{Usage, wait_until_idle};
use crate::report::{Output, Report};
use crate::target::Target;

/// Options of `idle`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    clients: Clients,
    #[command(flatten)]
    output: Output,
    /// Connections, each with one subscription
    #[arg(long, short = 'n', default_value_t = 10_000, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Channels; connection n subscribes to channel n modulo M
    #[arg(long, short = 'm', default_value_t = 1, value_name = "M", value_parser = value_parser!(u32).range(1..=1_000_000))]
    channels: u32,
    /// Look again after holding them for so long
    #[arg(long, default_value_t = 0, value_name = "S")]
    hold_s: u64,
}

pub fn run(options: &Options) -> Result<()> {
    let Options { target, clients, output, connections, channels, hold_s } = options;
    let pid = output.server_pid.context("`idle` measures the server's memory: give --server-pid")?;
    let before = Usage::of(pid)?;
    let terms = listening_only(*channels);
    let crew = Crew::muster(&Roster::listeners(target, clients, *connections, &terms))?;
    // The last of the pollers' next requests may be on their way.
    wait_until_idle(Some(pid))?;
    let subscribed = Usage::of(pid)?;
    let per_connection = |now: &Usage| (now.rss_bytes as f64 - before.rss_bytes as f64) / f64::from(*connections);

    let mut report = Report::new("idle");
    report.figure("connections", f64::from(*connections));
    report.figure("server_rss_before_mib", before.rss_bytes as f64 / f64::from(1 << 20));
    report.figure("server_bytes_per_connection", per_connection(&subscribed));
    if *hold_s > 0 {
        std::thread::sleep(Duration::from_secs(*hold_s));
        let held = Usage::of(pid)?;
        report.figure("server_bytes_per_connection_held", per_connection(&held));
        report.figure("server_cpu_busy_pct_held", held.busy_pct_since(&subscribed));
    }
    report.must_be_none("closed_by_server", crew.finish()?.counts.closed);
    report.finish(output)
}
