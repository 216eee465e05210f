//! Fanfare: a self-hosted realtime push server. Publish once, and everyone who listens has it.
//!
//! `app` is where the parts meet: configuration, apps, limits, edge, API, metrics. They do not know each other sideways.

mod api;
mod app;
mod apps;
mod body;
mod cli;
mod config;
mod data;
mod demo;
mod doors;
mod edge;
mod firehose;
mod ingest;
mod leases;
mod ledger;
mod limits;
mod metrics;
mod push_stream;
mod queues;
mod readiness;
mod redis;
mod rollout;
mod tokens;

fn main() -> std::process::ExitCode {
    cli::main()
}
