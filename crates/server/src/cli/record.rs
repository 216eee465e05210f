//! `fanfare record`: what is published to channels, written down with its times.
//!
//! Lines go to the file or to standard output; how it goes is told on standard error.
//!
//! Not here: where the messages come from (`feed`, `hose`), and what a line looks like (`tape`).

use super::access::AccessArgs;
use super::feed::{Feed, Heard, Message, Wanted};
use super::hose::{Hose, Part};
use super::replay::spinner;
use super::tape::{Entry, Recorder};
use crate::data::now_ms;
use anyhow::Context;
use clap::Args;
use indicatif::{HumanCount, ProgressBar};
use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

pub const EXAMPLES: &str = "\
Examples:
  fanfare record --channel news --channel weather --out monday.ndjson
  fanfare record --prefix thread. --out threads.ndjson
  fanfare record --prefix '' | gzip > all.ndjson.gz
  fanfare record --firehose TOKEN --filter 'data.score > 0' --out everything.ndjson";

#[derive(Debug, Args)]
pub struct RecordArgs {
    /// A channel to record; may be given several times
    #[arg(long, value_name = "CHANNEL", conflicts_with = "prefix")]
    channel: Vec<String>,
    /// Record all channels that begin so and have a subscriber, those that appear later included
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Record the firehose with this token of it: whatever the app publishes, whether it is heard or not
    #[arg(long, value_name = "TOKEN")]
    firehose: Option<String>,
    /// Of the firehose, only what this condition (CEL) is true of
    #[arg(long, value_name = "CONDITION", requires = "firehose")]
    filter: Option<String>,
    /// Of the firehose, what comes behind this cursor [default: what is published from now on]
    #[arg(long, value_name = "CURSOR", requires = "firehose")]
    since: Option<String>,
    /// Where to write; the file must not exist yet [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Who to be on presence channels
    #[arg(long, value_name = "ID", default_value = "fanfare-cli")]
    user: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// Records until it is interrupted, or nobody reads any more.
pub async fn run(args: RecordArgs) -> anyhow::Result<()> {
    // Before anything is asked: whoever sees the file may interrupt at once.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let out = args.out.clone();
    let mut source = Source::of(args)?;
    let mut session = Session::begin(out)?;
    let ended = tokio::select! {
        ended = session.record(&mut source) => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    let ended = session.end(ended);
    if let Source::Firehose(hose) = &source
        && let Some(cursor) = hose.cursor()
    {
        eprintln!("to go on from here: --since {cursor}");
    }
    ended
}

/// Where the messages come from.
enum Source {
    Channels(Feed),
    Firehose(Hose),
}

impl Source {
    fn of(args: RecordArgs) -> anyhow::Result<Source> {
        let RecordArgs { channel, prefix, firehose, filter, since, user, access, .. } = args;
        let Some(token) = firehose else {
            let wanted = Wanted::of(channel, prefix)?;
            return Ok(Source::Channels(Feed::new(access.resolve()?, wanted, user)));
        };
        let channels = channel.into_iter().chain(prefix.map(|prefix| format!("{prefix}*"))).collect();
        Ok(Source::Firehose(Hose::new(access.resolve()?, Part { token, channels, filter }, since)))
    }

    async fn next(&mut self) -> anyhow::Result<Heard> {
        match self {
            Source::Channels(feed) => feed.next().await,
            Source::Firehose(hose) => hose.next().await,
        }
    }
}

/// A recording under way.
struct Session {
    tape: Recorder<Box<dyn Write>>,
    /// When the first message was published.
    first_ms: Option<u64>,
    channels: HashSet<String>,
    began: Instant,
    bar: ProgressBar,
}

impl Session {
    fn begin(out: Option<PathBuf>) -> anyhow::Result<Session> {
        let to: Box<dyn Write> = match &out {
            Some(file) => {
                let created = File::create_new(file);
                Box::new(created.with_context(|| format!("cannot write {}", file.display()))?)
            }
            None => Box::new(std::io::stdout()),
        };
        Ok(Session {
            tape: Recorder::begin(to, now_ms())?,
            first_ms: None,
            channels: HashSet::new(),
            began: Instant::now(),
            bar: spinner(),
        })
    }

    async fn record(&mut self, source: &mut Source) -> anyhow::Result<()> {
        loop {
            match source.next().await? {
                Heard::Message(message) => match self.add(message) {
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                    added => added?,
                },
                Heard::Gap(channel) => {
                    self.tape.gap();
                    self.say(&format!("{channel}: messages may be missing here"));
                }
                Heard::Note(note) => self.say(&note),
            }
        }
    }

    fn add(&mut self, message: Message) -> std::io::Result<()> {
        let first_ms = *self.first_ms.get_or_insert(message.time_ms);
        if !self.channels.contains(&message.channel) {
            self.channels.insert(message.channel.clone());
        }
        self.bar.inc(1);
        let Message { channel, event, data, event_id, time_ms } = message;
        self.tape.add(&Entry { at_ms: time_ms.saturating_sub(first_ms), channel, event, data, event_id })
    }

    /// Beside the progress, where that is drawn.
    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// What was recorded is ended properly also where something went wrong.
    fn end(self, ended: anyhow::Result<()>) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        let (messages, gaps) = self.tape.counts();
        let told = format!(
            "recorded {} messages of {} channels in {:.1} s; gaps: {gaps}",
            HumanCount(messages),
            HumanCount(self.channels.len() as u64),
            self.began.elapsed().as_secs_f64()
        );
        match self.tape.end() {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
            _ => eprintln!("{told}"),
        }
        ended
    }
}
