//! `fanfare replay`: a recording is published again, at its own speed or many times that, to its own channels or all to one.
//!
//! Always true: nothing is published of a recording that is damaged; the accounts at the end add up.
//!
//! Not here: the connections (`lanes`), and what a recording looks like (`tape`).

use super::access::AccessArgs;
use super::lanes::{Lanes, Publication, Tally};
use super::tape::{Entry, Survey, Tape};
use anyhow::{Context, bail, ensure};
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

pub const EXAMPLES: &str = "\
Examples:
  fanfare replay monday.ndjson --speed 10
  fanfare replay threads.ndjson --speed 100 --into-one-channel hot
  fanfare replay monday.ndjson --loop --url http://push.example --app-id 1001 --key KEY --secret SECRET";

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What `fanfare record` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How many times as fast as it was recorded
    #[arg(long, value_name = "N", default_value = "1", value_parser = speed)]
    speed: f64,
    /// Publish everything to this channel
    #[arg(long, value_name = "CHANNEL")]
    into_one_channel: Option<String>,
    /// Begin again when it has ended, until interrupted
    #[arg(long = "loop")]
    again: bool,
    /// Connections; each has one request under way, and each channel one connection
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    #[command(flatten)]
    access: AccessArgs,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|speed: &f64| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| "expected a number above 0".to_owned())
}

/// Replays, and tells what became of it. Anything that was not published is a failure.
pub async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let damaged = || format!("{}", args.file.display());
    let survey = Tape::open(&args.file).and_then(Tape::survey).with_context(damaged)?;
    ensure!(survey.messages > 0, "{}: there are no messages in it", args.file.display());
    tell(&survey);
    let access = Rc::new(args.access.resolve()?);
    let bar = if args.again { spinner() } else { progress_bar(survey.messages) };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let set = LocalSet::new();
    let began = Instant::now();
    let (replayed, sent, tally) = set
        .run_until(async {
            let lanes = Lanes::open(&set, access, args.connections.into(), &bar).await?;
            let mut replay = Replay { file: &args.file, speed: args.speed, into: args.into_one_channel, lanes };
            let replayed = tokio::select! {
                replayed = replay.play(&survey, args.again) => replayed,
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
            };
            // A second signal does not wait for answers, either.
            let given_up = async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            anyhow::Ok((replayed, replay.lanes.sent(), replay.lanes.end(given_up).await))
        })
        .await?;
    bar.finish_and_clear();
    account(sent, &tally, began.elapsed());
    replayed.with_context(damaged)?;
    match tally.first_refusal {
        Some(why) => bail!("{} of {sent} messages were not published; the first: {why}", sent - tally.published),
        None => Ok(()),
    }
}

/// What is worth knowing before it begins.
fn tell(survey: &Survey) {
    if !survey.ended {
        eprintln!("the recording has no end: it was broken off");
    }
    if survey.gaps > 0 {
        eprintln!("messages may be missing in the recording, at {} places", survey.gaps);
    }
}

fn progress_bar(messages: u64) -> ProgressBar {
    let bar = ProgressBar::new(messages);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} messages, {per_sec}, {eta} left");
    bar.set_style(style.expect("the template is well formed"));
    bar
}

/// How it goes, where nobody knows how much there is.
pub(super) fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {pos} messages, {per_sec}, {elapsed}");
    bar.set_style(style.expect("the template is well formed"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn account(sent: u64, tally: &Tally, took: Duration) {
    let Tally { published, refused, unknown, late_us, .. } = tally;
    assert_eq!(sent, published + refused + unknown, "every message has one fate");
    let late_ms = |quantile| late_us.value_at_quantile(quantile) as f64 / 1_000.0;
    let seconds = took.as_secs_f64();
    println!(
        "published {published}, refused {refused}, unknown {unknown}, in {seconds:.1} s ({} per second); late by {:.1} ms (p50), {:.1} ms (p99)",
        HumanCount((*published as f64 / seconds) as u64),
        late_ms(0.5),
        late_ms(0.99)
    );
}

struct Replay<'f> {
    file: &'f PathBuf,
    speed: f64,
    into: Option<String>,
    lanes: Lanes,
}

impl Replay<'_> {
    async fn play(&mut self, survey: &Survey, again: bool) -> anyhow::Result<()> {
        let mut begins = Instant::now();
        loop {
            self.pass(begins).await?;
            if !again {
                return Ok(());
            }
            // As if the next message came a millisecond after the last: a recording of one moment has to end, too.
            begins += self.scaled(survey.length_ms + 1);
        }
    }

    async fn pass(&mut self, begins: Instant) -> anyhow::Result<()> {
        let mut tape = Tape::open(self.file)?;
        while let Some(entry) = tape.next()? {
            let due = begins + self.scaled(entry.at_ms);
            if due > Instant::now() {
                sleep_until(due).await;
            }
            let publication = self.publication(entry, due);
            self.lanes.publish(publication).await;
        }
        Ok(())
    }

    fn publication(&self, entry: Entry, due: Instant) -> Publication {
        let Entry { event, channel, data, .. } = entry;
        Publication { name: event, channel: self.into.clone().unwrap_or(channel), data, due }
    }

    fn scaled(&self, ms: u64) -> Duration {
        Duration::from_secs_f64(ms as f64 / 1_000.0 / self.speed)
    }
}
