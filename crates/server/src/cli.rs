//! The command line: what a person can ask of `fanfare`, and what comes back.
//!
//! Results go to standard output, everything else to standard error; a failure is one line and exit status 1.
//!
//! Not here: what a verb does beyond reading its arguments (`cli/…`, `app`).

mod access;
mod cluster;
mod feed;
mod hose;
mod jobs;
mod lanes;
mod ledger;
mod listing;
mod publish;
mod record;
mod replay;
mod request;
mod socket;
mod stages;
mod subscribe;
mod tape;
mod token;

use crate::config::{Flags, Source};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Reads the arguments and does what they say.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.verb.unwrap_or(Verb::Serve(cli.serve)) {
        Verb::Serve(args) => serve(args),
        Verb::Check(args) => listing::check(&args.source()),
        Verb::Apps(args) => listing::apps(&args.source()),
        Verb::Cluster(args) => wait_for(cluster::run(args)),
        Verb::Jobs(args) => wait_for(jobs::run(args)),
        Verb::Ledger(args) => wait_for(ledger::run(args)),
        Verb::Publish(args) => wait_for(publish::run(args)),
        Verb::Subscribe(args) => wait_for(subscribe::run(args)),
        Verb::Record(args) => wait_for(record::run(args)),
        Verb::Replay(args) => wait_for(replay::run(args)),
        Verb::Stages { name } => stages::run(name.as_deref()),
        Verb::Token(args) => token::run(args),
        Verb::Bench(args) => fanfare_bench::run(args),
    }
}

fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let ServeArgs { listen, admin_listen, loops, data_dir, role, .. } = args;
    let flags = Flags { listen, admin_listen, loops, data_dir, role };
    let source = Source::new(args.file.config, flags);
    let config = source.load()?;
    crate::app::serve(config, source, args.echo)
}

/// Runs a verb that talks to one server: a single thread is plenty.
fn wait_for(verb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(verb)
}

/// A realtime push server that speaks the Pusher Channels protocol.
///
/// Without a verb it serves. Without a configuration it serves a development app, to this machine only.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    serve: ServeArgs,
}

const EXAMPLES: &str = "\
Examples:
  fanfare                                            serve the development app on 127.0.0.1:6001
  fanfare --config fanfare.toml --listen 0.0.0.0:80  serve your apps to everybody
  fanfare subscribe news                             print what is published to \"news\"
  fanfare publish news headline '{\"text\":\"hello\"}'   publish to it
  fanfare check                                      is fanfare.toml right?";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve (what happens without a verb, too)
    Serve(ServeArgs),
    /// Check the configuration; on a mistake, say where it is and what would be right
    Check(FileArgs),
    /// List the configured apps, without their secrets
    Apps(FileArgs),
    /// List the nodes that share the configured Redis servers, and those servers
    Cluster(cluster::ClusterArgs),
    /// Publish one event to a channel
    #[command(after_help = publish::EXAMPLES)]
    Publish(publish::PublishArgs),
    /// Say where every message is, and whether one is missing
    #[command(after_help = ledger::EXAMPLES)]
    Ledger(ledger::LedgerArgs),
    /// Put jobs into queues, work on them, look after them
    #[command(after_help = jobs::EXAMPLES)]
    Jobs(jobs::JobsArgs),
    /// Print the events of channels as they come, one line each
    #[command(after_help = subscribe::EXAMPLES)]
    Subscribe(subscribe::SubscribeArgs),
    /// Write down what is published to channels, with its times
    #[command(after_help = record::EXAMPLES)]
    Record(record::RecordArgs),
    /// Publish a recording again, at many times its speed
    #[command(after_help = replay::EXAMPLES)]
    Replay(replay::ReplayArgs),
    /// Print what pipelines can be made of: all stages and sinks, or one
    Stages {
        /// A stage or a sink
        name: Option<String>,
    },
    /// Print a token with which a client may read channels, or publish to them
    #[command(after_help = token::EXAMPLES)]
    Token(token::TokenArgs),
    /// Measure a server under load
    Bench(fanfare_bench::cli::Args),
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Where WebSockets and the HTTP API are served [default: 127.0.0.1:6001]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where metrics and health are served [default: 127.0.0.1:9601]
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_listen: Option<String>,
    /// Event loops; 0 = one for each CPU [default: 0]
    #[arg(long, value_name = "N")]
    loops: Option<u32>,
    /// Where histories wait while the server restarts [default: fanfare-data/PORT; "": nowhere]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
    /// What this node is there for, beside others on the same Redis servers: edge (subscribers), api (publishers and
    /// jobs), worker (pipelines), all [default: all]
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Echo WebSocket messages at /echo, for conformance tests
    #[arg(long, hide = true)]
    echo: bool,
}

#[derive(Debug, Args)]
struct FileArgs {
    /// The configuration [default: ./fanfare.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileArgs {
    fn source(&self) -> Source {
        Source::new(self.config.clone(), Flags::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_is_what_happens_without_a_verb() {
        let cli = parse("fanfare --listen 127.0.0.1:0 --loops 2").expect("sound");
        assert!(cli.verb.is_none());
        assert_eq!((cli.serve.listen.as_deref(), cli.serve.loops), (Some("127.0.0.1:0"), Some(2)));
        assert!(parse("fanfare").expect("sound").verb.is_none());
    }

    #[test]
    fn serve_takes_its_flags_after_the_verb() {
        let cli = parse("fanfare serve --config a.toml --admin-listen 127.0.0.1:0 --echo").expect("sound");
        let Some(Verb::Serve(args)) = cli.verb else { panic!("another verb: {cli:?}") };
        assert_eq!(args.file.config, Some("a.toml".into()));
        assert!(args.echo);
    }

    #[test]
    fn flags_of_serve_before_another_verb_are_a_mistake() {
        assert!(parse("fanfare --listen 127.0.0.1:0 check").is_err());
    }
}
