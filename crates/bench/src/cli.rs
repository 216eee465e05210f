//! The verbs of `fanfare-bench` (and of `fanfare bench`). Each verb's options stand in the verb's own file.

use crate::{compare, connect, fanout, idle, ingest, jobs, longpoll, mixed, publish, raw, resume};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The measurement to run.
    #[command(subcommand)]
    pub verb: Verb,
}

/// One measurement, with its options.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Publish to many subscribers; account for every delivery; report latency, rate and the server's CPU per delivery
    Fanout(fanout::Options),
    /// Connect, shake hands and subscribe, as often as the server can
    Connect(connect::Options),
    /// Hold idle subscribed connections and report the server's memory for each
    Idle(idle::Options),
    /// Send signed publishes to a channel that nobody listens to
    Publish(publish::Options),
    /// Put jobs into a queue, in batches, each answered when the queue has it
    Jobs(jobs::Options),
    /// End to end: from a record's POST into a queue, through a pipeline, to every reader of its four channels
    Ingest(ingest::Options),
    /// Latency of a quiet app while another app is published to without pause
    Mixed(mixed::Options),
    /// Rounds of long-polling: one publication answers everybody, and everybody asks again
    Longpoll(longpoll::Options),
    /// Cut all connections at once, publish meanwhile, and have everybody go on from their cursors
    Resume(resume::Options),
    /// Run a verb against `raw` and a server in turns, pinned to CPUs, and print the ratios
    Compare(compare::Options),
    /// The reference: a bare epoll loop that sends each publication to every subscriber, and nothing else
    Raw(raw::Options),
    /// A client process of another verb; takes its orders on standard input
    #[command(hide = true)]
    Receive,
}
