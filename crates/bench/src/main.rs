//! `fanfare-bench`: the load generator by itself, for measuring servers on machines that have no Fanfare.

use clap::Parser;

/// Measures a realtime push server from outside, over real sockets.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(flatten)]
    args: fanfare_bench::cli::Args,
}

fn main() -> anyhow::Result<()> {
    fanfare_bench::run(Command::parse().args)
}
