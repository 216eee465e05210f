//! Load generator for Fanfare, judged from outside over real sockets.
//!
//! It knows the words on the wire (`fanfare-proto`) and nothing of the server, so the same harness drives Fanfare, the bare
//! `raw` reference in this crate, any other server of the Pusher protocol, or nchan.
//!
//! ```text
//!   verbs      fanout · connect · idle · publish · jobs · ingest · mixed · longpoll · resume · compare
//!              one file each: options, run, report (those that only repeat a request: repeat)
//!   sending    publisher (lanes of HTTP) ── load (what to send) ── plan (which lane, which channel)
//!   receiving  crew (starts processes) ══ control socket ══ receiver ── subscriber ── ledger (what arrived)
//!   words      transport (what opens a subscription) · wire (WebSockets) · http · sse
//!   both       stamp (number and time inside the data) · target
//!   ground     machine (/proc, /sys) · sys (libc) · nchan (to compare with) · report
//! ```
//!
//! Always true: every publication is accounted for at every subscriber. What is lost, doubled, out of order or altered makes
//! the verb fail, and a test proves it with a server that does each of these on purpose (`raw --lossy`, …).

pub mod cli;

mod compare;
mod connect;
mod crew;
mod fanout;
mod http;
mod idle;
mod ingest;
mod jobs;
mod ledger;
mod load;
mod longpoll;
mod machine;
mod mixed;
mod nchan;
mod plan;
mod publish;
mod publisher;
mod raw;
mod receiver;
mod repeat;
mod report;
mod resume;
mod sse;
mod stamp;
mod subscriber;
mod sys;
mod target;
mod transport;
mod wire;

/// Runs one verb to its end. An error means that it could not be measured, or that what was measured is wrong.
pub fn run(args: cli::Args) -> anyhow::Result<()> {
    use cli::Verb;
    match args.verb {
        Verb::Fanout(options) => fanout::run(&options),
        Verb::Connect(options) => connect::run(&options),
        Verb::Idle(options) => idle::run(&options),
        Verb::Publish(options) => publish::run(&options),
        Verb::Jobs(options) => jobs::run(&options),
        Verb::Ingest(options) => ingest::run(&options),
        Verb::Mixed(options) => mixed::run(&options),
        Verb::Longpoll(options) => longpoll::run(&options),
        Verb::Resume(options) => resume::run(&options),
        Verb::Compare(options) => compare::run(&options),
        Verb::Raw(options) => raw::run(&options),
        Verb::Receive => receiver::run(),
    }
}
