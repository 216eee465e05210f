//! `resume`: everybody comes back at once. All connections of a channel are cut, some messages are published meanwhile, and
//! all connect again and go on from their cursors; each must get all that it missed, once and in order.
//!
//! Does that hurt others? Some subscribers of another channel are published to all the time, and their latency is taken
//! before and during. Their clients run before those who resume, as in `mixed`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::value_parser;
use indicatif::ProgressBar;

use crate::crew::{Clients, Crew, Roster};
use crate::fanout::{DEFAULT_SIZE, SIZE, account, run_number};
use crate::ledger::{Counts, Tally, Terms};
use crate::load::{Counted, Stamped, Until};
use crate::machine::wait_until_idle;
use crate::plan::{Plan, Reach};
use crate::publisher::{Accept, Publisher};
use crate::report::{Output, Report};
use crate::sys;
use crate::target::Target;
use crate::transport::Transport;

/// Options of `resume`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    clients: Clients,
    #[command(flatten)]
    output: Output,
    /// Subscribers that are cut and resume
    #[arg(long, short = 'n', default_value_t = 5_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    subscribers: u32,
    /// Messages that they miss
    #[arg(long, short, default_value_t = 100, value_parser = value_parser!(u32).range(1..=100_000))]
    missed: u32,
    /// Bytes of data in each publication
    #[arg(long, short, default_value_t = DEFAULT_SIZE, value_parser = value_parser!(u32).range(SIZE))]
    size: u32,
    /// Subscribers of the other channel
    #[arg(long, default_value_t = 100, value_name = "M", value_parser = value_parser!(u32).range(1..=10_000))]
    others: u32,
    /// Publications per second to the other channel
    #[arg(long, default_value_t = 100.0, value_name = "R")]
    rate: f64,
    /// How long the others' latency is taken before
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    before_s: f64,
    /// Without any delivery for so long, what is missing counts as lost
    #[arg(long, default_value_t = 10_000)]
    patience_ms: u64,
}

const PLAN: Plan = Plan { lanes: 1, channels: 1, batch: 1, reach: Reach::One };
/// Heard by everybody before the cut, so that there is something to go on from.
const HEARD_BEFORE: u32 = 5;

impl Options {
    fn clients(&self, role: &str) -> Clients {
        Clients {
            channel_prefix: format!("{}-{role}", self.clients.channel_prefix),
            transport: Some(self.clients.transport.unwrap_or(Transport::Sse)),
            ..self.clients.clone()
        }
    }

    fn terms(&self) -> Terms {
        Terms { plan: PLAN, run: run_number(), size: self.size as usize, measured_from: 0 }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rate > 0.0, "--rate must be positive");
    let (cut_clients, other_clients) = (options.clients("cut"), options.clients("other"));
    let other_clients = Clients { processes: Some(1), ..other_clients };
    let mut cut = Group::ready(options, &cut_clients, options.subscribers, Role::Resumes)?;
    cut.publish(HEARD_BEFORE, None)?;
    cut.drain()?;

    let mut calm = Group::ready(options, &other_clients, options.others, Role::Watches)?;
    calm.publish((options.before_s * options.rate).ceil() as u32, Some(options.rate))?;
    let (calm, calm_expected) = calm.finish()?;

    cut.crew.cut()?;
    cut.publish(options.missed, None)?;
    let mut disturbed = Group::ready(options, &other_clients, options.others, Role::Watches)?;
    wait_until_idle(options.output.server_pid)?;

    let before = options.output.server_usage()?;
    let began_ns = sys::monotonic_ns();
    // The others are published to until this has ended, however it ends.
    let (resumed, went_first) = std::thread::scope(|scope| {
        let resuming = scope.spawn(|| cut.resume());
        let went_first = sys::go_first().is_ok();
        let published = disturbed.publish_until(options.rate, || resuming.is_finished());
        let resumed = resuming.join().ok().context("resuming panicked")?;
        published?;
        anyhow::Ok((resumed, went_first))
    })?;
    resumed?;
    let after = options.output.server_usage()?;
    let (began, subscribed_ns) = cut.crew.handshakes_ns;

    let (disturbed, disturbed_expected) = disturbed.finish()?;
    let (tally, expected) = cut.finish()?;
    let owed = u64::from(options.subscribers) * u64::from(options.missed);
    let mut report = Report::new("resume");
    report.figure("subscribers", f64::from(options.subscribers));
    report.figure("missed_by_each", f64::from(options.missed));
    let mut counts = Counts::default();
    [tally.counts, calm.counts, disturbed.counts].into_iter().for_each(|each| counts += each);
    report.must_be_none("not_recovered", counts.gaps);
    account(&mut report, &counts, expected + calm_expected + disturbed_expected, tally.out_of_step());
    report.figure("subscribed_again_s", (subscribed_ns - began) as f64 / 1e9);
    report.figure("recovered_s", tally.last_ns.saturating_sub(began_ns) as f64 / 1e9);
    report.server(before.zip(after), "recovered_message", owed);
    report.figure("others_go_first", f64::from(u8::from(went_first)));
    let ([_, (_, calm), _], [_, (_, disturbed), _]) = (calm.latencies(), disturbed.latencies());
    let p99 = |latencies: &hdrhistogram::Histogram<u64>| latencies.value_at_quantile(0.99) as f64;
    report.figure("others_deliveries_during", disturbed.len() as f64);
    report.figure("others_p99_ratio", p99(&disturbed) / p99(&calm).max(1.0));
    report.latency("others before", &calm);
    report.latency("others during", &disturbed);
    report.finish(&options.output)
}

/// What a group of subscribers is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// To be cut and to go on from its cursors.
    Resumes,
    /// To tell how it is for others meanwhile.
    Watches,
}

/// The subscribers of one channel, and who publishes to it.
struct Group<'a> {
    crew: Crew,
    publisher: Publisher,
    stamped: Stamped<'a>,
    patience: Duration,
}

impl<'a> Group<'a> {
    fn ready(options: &'a Options, clients: &'a Clients, subscribers: u32, role: Role) -> Result<Group<'a>> {
        let (target, terms) = (&options.target, options.terms());
        Ok(Group {
            crew: Crew::muster(&Roster {
                keeps_cursors: role == Role::Resumes,
                goes_first: role == Role::Watches,
                ..Roster::listeners(target, clients, subscribers, &terms)
            })?,
            publisher: Publisher::open(target, PLAN.lanes, Accept::Success)?,
            stamped: Stamped::new(target, &clients.channel_prefix, PLAN, terms.run, terms.size),
            patience: options.patience(),
        })
    }

    fn published(&self) -> Vec<u32> {
        PLAN.published(&self.publisher.ends())
    }

    fn publish(&mut self, more: u32, rate: Option<f64>) -> Result<()> {
        let end = self.publisher.ends()[0] + more;
        let load = &mut Counted { stamped: &mut self.stamped, end, bar: &ProgressBar::hidden() };
        self.publisher.run(load, rate).map(|_| ())
    }

    fn publish_until(&mut self, rate: f64, done: impl Fn() -> bool) -> Result<()> {
        let load = &mut Until { stamped: &mut self.stamped, done };
        self.publisher.run(load, Some(rate)).map(|_| ())
    }

    /// Waits until everybody has everything, or nothing arrives any more.
    fn drain(&mut self) -> Result<()> {
        self.crew.drain(&self.published(), self.patience)
    }

    fn resume(&mut self) -> Result<()> {
        self.crew.resume()?;
        self.drain()
    }

    /// What was received, and what should have been.
    fn finish(mut self) -> Result<(Tally, u64)> {
        self.drain()?;
        let expected = self.crew.expected(&self.published());
        Ok((self.crew.finish()?, expected))
    }
}
