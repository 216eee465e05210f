//! `mixed`: does one app's flood reach another? One subscriber on a channel of a second app is published to now and then,
//! and its latency is taken, while a channel of the first app with many subscribers is published to without pause.
//!
//! The clients of both share a CPU here, so the quiet one's run before the flood's: otherwise their own waiting would be
//! measured. That needs a privilege; `quiet_clients_go_first` says whether it was had.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::value_parser;
use indicatif::ProgressBar;

use crate::crew::{Clients, Crew, Roster};
use crate::fanout::{DEFAULT_SIZE, SIZE, Step, account, run_number};
use crate::ledger::{PUBLICATIONS_MAX, Tally, Terms};
use crate::load::{Counted, Stamped};
use crate::plan::{Plan, Reach};
use crate::publisher::{Accept, Flow, Publisher};
use crate::receiver::Afterwards;
use crate::report::{Output, Report};
use crate::sys;
use crate::target::{App, Secret, Target};

/// Options of `mixed`. The flood goes to the app given by --key, --secret and --app-id.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    clients: Clients,
    #[command(flatten)]
    output: Output,
    /// Key of the quiet app
    #[arg(long)]
    victim_key: String,
    /// Secret of the quiet app
    #[arg(long)]
    victim_secret: Secret,
    /// Id of the quiet app
    #[arg(long)]
    victim_app_id: String,
    /// Subscribers of the flooded channel
    #[arg(long, short = 'n', default_value_t = 5_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    subscribers: u32,
    /// Bytes of data in each publication
    #[arg(long, short, default_value_t = DEFAULT_SIZE, value_parser = value_parser!(u32).range(SIZE))]
    size: u32,
    /// Publications of the flood that have yet to reach everybody: two keep the server at work without pause, more would
    /// measure how long the clients' own queue is
    #[arg(long, default_value_t = 2, value_name = "W", value_parser = value_parser!(u32).range(1..=10_000))]
    window: u32,
    /// Publications to the quiet channel
    #[arg(long, short, default_value_t = 500, value_name = "K", value_parser = value_parser!(u32).range(1..8_000_000))]
    publications: u32,
    /// Publications per second to the quiet channel
    #[arg(long, default_value_t = 50.0, value_name = "R")]
    rate: f64,
}

/// How long the flood rises before the quiet app's latencies count; its publications until then are the warm-up.
const FLOOD_RISES_S: f64 = 1.0;
const PATIENCE: Duration = Duration::from_secs(10);

impl Options {
    fn victim(&self) -> Target {
        let app = App {
            key: self.victim_key.clone(),
            secret: self.victim_secret.clone(),
            app_id: self.victim_app_id.clone(),
        };
        Target { url: self.target.url.clone(), app, dialect: self.target.dialect }
    }

    fn terms(&self, measured_from: u32) -> Terms {
        let plan = Plan { lanes: 1, channels: 1, batch: 1, reach: Reach::One };
        Terms { plan, run: run_number(), size: self.size as usize, measured_from }
    }
}

pub fn run(options: &Options) -> Result<()> {
    ensure!(options.rate > 0.0, "--rate must be positive");
    let (victim, output) = (options.victim(), &options.output);
    // A name of its own, so that servers which know no apps (`raw`) can be measured too.
    let channel_prefix = format!("{}-quiet", options.clients.channel_prefix);
    let victim_clients = Clients { processes: Some(1), channel_prefix, ..options.clients.clone() };
    let warmup = (FLOOD_RISES_S * options.rate).ceil() as u32;
    let (flood_terms, victim_terms) = (options.terms(0), options.terms(warmup));

    let mut flood =
        Side::ready(&options.target, &options.clients, options.subscribers, &flood_terms, Afterwards::ListenAndReport)?;
    let mut quiet = Side::ready(&victim, &victim_clients, 1, &victim_terms, Afterwards::Listen)?;
    let before = output.server_usage()?;
    let (went_first, (published, flood_s)) = std::thread::scope(|scope| {
        let quiet = &mut quiet;
        let measuring = scope.spawn(move || {
            let went_first = sys::go_first().is_ok();
            quiet.publish_counted(warmup + options.publications, options.rate)?;
            anyhow::Ok(went_first)
        });
        // Ends with the thread however that ends, also by an error.
        let flow = flood.publish_until(options.window, || measuring.is_finished());
        let went_first = measuring.join().ok().context("the quiet app's publisher panicked")?;
        anyhow::Ok((went_first?, flow?))
    })?;
    let after = output.server_usage()?;

    let mut report = Report::new("mixed");
    report.figure("flood_subscribers", f64::from(options.subscribers));
    report.figure("flood_publications_per_s", f64::from(published) / flood_s);
    report.figure("flood_deliveries_per_s", f64::from(published) * f64::from(options.subscribers) / flood_s);
    report.figure("quiet_clients_go_first", f64::from(u8::from(went_first)));
    let (flood_tally, flood_expected) = flood.finish()?;
    let (quiet_tally, quiet_expected) = quiet.finish()?;
    report.server(before.zip(after), "flood_delivery", flood_tally.timed);
    let [_, (_, every), _] = quiet_tally.latencies();
    report.latency("quiet", &every);
    let mut counts = flood_tally.counts;
    counts += quiet_tally.counts;
    account(&mut report, &counts, flood_expected + quiet_expected, flood_tally.out_of_step());
    report.finish(output)
}

/// One of the two apps: its subscribers and its publisher.
struct Side<'a> {
    crew: Crew,
    publisher: Publisher,
    stamped: Stamped<'a>,
    plan: Plan,
}

impl<'a> Side<'a> {
    fn ready(
        target: &'a Target,
        clients: &'a Clients,
        subscribers: u32,
        terms: &Terms,
        afterwards: Afterwards,
    ) -> Result<Side<'a>> {
        let Terms { plan, run, size, .. } = *terms;
        Ok(Side {
            // Whoever reports is the flood.
            crew: Crew::muster(&Roster {
                afterwards,
                goes_first: afterwards == Afterwards::Listen,
                ..Roster::listeners(target, clients, subscribers, terms)
            })?,
            publisher: Publisher::open(target, plan.lanes, Accept::Success)?,
            stamped: Stamped::new(target, &clients.channel_prefix, plan, run, size),
            plan,
        })
    }

    fn publish_counted(&mut self, end: u32, rate: f64) -> Result<Flow> {
        let load = &mut Counted { stamped: &mut self.stamped, end, bar: &ProgressBar::hidden() };
        self.publisher.run(load, Some(rate))
    }

    /// Publishes without pause; returns how many and for how many seconds.
    fn publish_until(&mut self, window: u32, done: impl Fn() -> bool) -> Result<(u32, f64)> {
        let began_ns = sys::monotonic_ns();
        let step = Step { plan: self.plan, window, patience: PATIENCE };
        let Side { crew, publisher, stamped, .. } = self;
        step.publish(crew, publisher, stamped, &ProgressBar::hidden(), |id| id < PUBLICATIONS_MAX && !done())?;
        let took_s = (sys::monotonic_ns() - began_ns).max(1) as f64 / 1e9;
        Ok((self.publisher.ends()[0], took_s))
    }

    /// What was received, and what should have been.
    fn finish(mut self) -> Result<(Tally, u64)> {
        let published = self.plan.published(&self.publisher.ends());
        self.crew.drain(&published, PATIENCE)?;
        let expected = self.crew.expected(&published);
        Ok((self.crew.finish()?, expected))
    }
}
