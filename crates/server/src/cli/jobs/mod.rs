//! `fanfare jobs`: every verb of the queues' HTTP API, for people and for scripts.
//!
//! Not here: what is printed for people (`told`).

mod told;

use super::FileArgs;
use super::access::AccessArgs;
use super::request::Request;
use crate::config::{Flags, Source};
use crate::data::queues_in;
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use fanfare_jobs::Disk;
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Stdin};
use std::time::Duration;

pub const EXAMPLES: &str = "\
Examples:
  fanfare jobs put comments '{\"text\":\"hello\"}' --job-key thread:7
  tail -f events.ndjson | fanfare jobs put comments -    one job for each line, as they come
  fanfare jobs claim comments --jobs 10 --wait-s 30 --json
  fanfare jobs finish comments 17.23                     17.23 is the lease, as the claim told it
  fanfare jobs list comments --state stalled
  fanfare jobs retry comments --all --job-key thread:7
  fanfare jobs counts";

/// Lines of one put, as long as they are there already,
const LINES: usize = 500;

/// and their bytes: less than a server takes by default, whatever JSON makes of them.
const LINES_BYTES: usize = 128 << 10;

#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Put a job, or with `-` as its data one job for each line of standard input
    Put {
        #[command(flatten)]
        of: QueueArgs,
        /// The data: any text, most often JSON
        data: String,
        #[command(flatten)]
        spec: SpecArgs,
    },
    /// Take the next jobs; each comes with a lease
    Claim {
        #[command(flatten)]
        of: QueueArgs,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 1)]
        jobs: u64,
        /// For how long [default: as the queue is configured]
        #[arg(long, value_name = "SECONDS")]
        lease_s: Option<u64>,
        /// How long to wait for one if there is none, up to 60
        #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=60))]
        wait_s: u64,
        /// Your name, for whoever looks at the list
        #[arg(long, value_name = "NAME")]
        worker: Option<String>,
    },
    /// Hold on to a claimed job
    Extend {
        #[command(flatten)]
        held: LeaseArgs,
        /// For how long from now [default: as the queue is configured]
        #[arg(long, value_name = "SECONDS")]
        lease_s: Option<u64>,
    },
    /// Say that a claimed job is done
    Finish {
        #[command(flatten)]
        held: LeaseArgs,
        /// What came of it
        result: Option<String>,
    },
    /// Give a claimed job back, for another attempt
    Cancel {
        #[command(flatten)]
        held: LeaseArgs,
        /// How long until the next attempt
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        delay_s: u64,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// What was done of it: whoever claims it next is told
        #[arg(long, value_name = "TEXT")]
        progress: Option<String>,
    },
    /// Give a claimed job back that was not worked on, or not to its end: no attempt of it is used up
    Release {
        #[command(flatten)]
        held: LeaseArgs,
        /// What was done of it: whoever claims it next is told
        #[arg(long, value_name = "TEXT")]
        progress: Option<String>,
    },
    /// Park a claimed job that cannot be done, for a person to look at
    Stall {
        #[command(flatten)]
        held: LeaseArgs,
        /// Why
        reason: String,
    },
    /// Put stalled jobs back: those that are named, or with --all those that fit
    Retry {
        #[command(flatten)]
        of: QueueArgs,
        /// Their ids
        #[arg(value_name = "JOB", required_unless_present = "all", conflicts_with_all = ["all", "FilterArgs"])]
        ids: Vec<u64>,
        /// All that fit
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Take jobs out, whatever their state
    Retract {
        #[command(flatten)]
        of: QueueArgs,
        /// Their ids
        #[arg(value_name = "JOB", required = true)]
        ids: Vec<u64>,
    },
    /// List the jobs in a state, those of longest standing first
    List {
        #[command(flatten)]
        of: QueueArgs,
        /// waiting, delayed, claimed, finished or stalled
        #[arg(long, default_value = "waiting")]
        state: String,
        #[command(flatten)]
        filter: FilterArgs,
        /// How many at most, up to 1000
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
        /// Go on where a list ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show one job
    Show {
        #[command(flatten)]
        of: QueueArgs,
        /// Its id
        #[arg(value_name = "JOB")]
        id: u64,
    },
    /// Go on with queues on disk of which something is missing; no server may be running on them
    Repair {
        /// The server's data directory [default: as configured]
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<String>,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Count the jobs of a queue, or of all queues
    Counts {
        /// The queue [default: all]
        queue: Option<String>,
        #[command(flatten)]
        to: ToArgs,
    },
}

/// Which server, and how its answer is printed.
#[derive(Debug, Args)]
struct ToArgs {
    /// Print the server's answer as it is
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Debug, Args)]
struct QueueArgs {
    /// The queue
    queue: String,
    #[command(flatten)]
    to: ToArgs,
}

#[derive(Debug, Args)]
struct LeaseArgs {
    #[command(flatten)]
    of: QueueArgs,
    /// The lease, as the claim told it
    lease: String,
}

#[derive(Debug, Args)]
struct SpecArgs {
    /// create, edit or delete [default: create]
    #[arg(long)]
    kind: Option<String>,
    /// Jobs of one key are done one at a time, in order
    #[arg(long, value_name = "KEY")]
    job_key: Option<String>,
    /// A job that is known by this is not put again
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// From 0 to 255; the higher goes first
    #[arg(long, value_name = "N")]
    priority: Option<u64>,
    /// Not to be claimed before this time, in milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    not_before_ms: Option<u64>,
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Jobs of this key
    #[arg(long, value_name = "KEY")]
    job_key: Option<String>,
    /// Jobs in this attempt or a later one
    #[arg(long, value_name = "N")]
    attempt_min: Option<u64>,
    /// Jobs that came into their state at this time or later, in milliseconds since 1970
    #[arg(long, value_name = "TIME")]
    since_ms: Option<u64>,
    /// Jobs that came into their state before this time
    #[arg(long, value_name = "TIME")]
    until_ms: Option<u64>,
}

/// Does what the arguments say.
pub async fn run(args: JobsArgs) -> anyhow::Result<()> {
    match args.verb {
        Verb::Put { of, data, spec } if data == "-" => put_lines(of, &spec).await,
        Verb::Put { of, data, spec } => {
            let body = json!({ "jobs": [spec.job(&data)] });
            of.post("/jobs", body, told::ids).await
        }
        Verb::Claim { of, jobs, lease_s, wait_s, worker } => {
            let body = object([
                ("jobs", Some(jobs.into())),
                ("lease_ms", milliseconds(lease_s)),
                ("wait_ms", milliseconds(Some(wait_s))),
                ("worker", worker.map(Value::from)),
            ]);
            let request = Request::post(format!("/queues/{}/claim", of.queue), body.to_string());
            let request = request.patient(Duration::from_secs(wait_s));
            of.to.send(request, told::claimed).await
        }
        Verb::Extend { held, lease_s } => {
            held.post("extend", [("lease_ms", milliseconds(lease_s))], told::extended).await
        }
        Verb::Finish { held, result } => held.post("finish", [("result", result.map(Value::from))], told::done).await,
        Verb::Cancel { held, delay_s, reason, progress } => {
            let more = [
                ("delay_ms", milliseconds(Some(delay_s))),
                ("reason", reason.map(Value::from)),
                ("progress", progress.map(Value::from)),
            ];
            held.post("cancel", more, told::state).await
        }
        Verb::Release { held, progress } => {
            held.post("release", [("progress", progress.map(Value::from))], told::done).await
        }
        Verb::Stall { held, reason } => held.post("stall", [("reason", Some(reason.into()))], told::done).await,
        Verb::Retry { of, all: true, filter, .. } => of.post("/retry", filter.body(), told::retried).await,
        Verb::Retry { of, ids, .. } => {
            of.each(ids, |path| Request::post(format!("{path}/retry"), "{}".to_owned())).await
        }
        Verb::Retract { of, ids } => of.each(ids, Request::delete).await,
        Verb::List { of, state, filter, limit, cursor } => {
            let mut params = filter.params();
            params.extend([("state", Some(state)), ("limit", Some(limit.to_string())), ("cursor", cursor)]);
            of.to.send(Request::get(format!("/queues/{}/jobs", of.queue), params), told::listed).await
        }
        Verb::Show { of, id } => {
            of.to.send(Request::get(format!("/queues/{}/jobs/{id}", of.queue), Vec::new()), told::job).await
        }
        Verb::Repair { data_dir, file } => repair(data_dir, file),
        Verb::Counts { queue: None, to } => to.send(Request::get("/queues", Vec::new()), told::queues).await,
        Verb::Counts { queue: Some(queue), to } => {
            to.send(Request::get(format!("/queues/{queue}"), Vec::new()), told::queue).await
        }
    }
}

fn repair(data_dir: Option<String>, file: FileArgs) -> anyhow::Result<()> {
    let config = Source::new(file.config, Flags { data_dir, ..Flags::default() }).load()?;
    let data_dir = config.data_dir.context("no data directory is configured: say --data-dir")?;
    let folder = queues_in(&data_dir);
    ensure!(folder.is_dir(), "there are no queues in {}", data_dir.display());
    let damage = Disk::repair(&folder)?;
    match damage.is_none() {
        true => println!("{}: nothing is damaged", folder.display()),
        false => println!("{}: repaired, without what was missing: {damage}", folder.display()),
    }
    Ok(())
}

/// Puts lines as they come: those that are there at once go together.
async fn put_lines(of: QueueArgs, spec: &SpecArgs) -> anyhow::Result<()> {
    ensure!(spec.idempotency_key.is_none(), "with --idempotency-key all lines would be the same job: leave it out");
    let access = of.to.access.resolve()?;
    let mut lines = Lines { input: BufReader::new(std::io::stdin()), next: String::new() };
    let mut put = 0;
    loop {
        let batch = lines.batch().context("standard input")?;
        if batch.is_empty() {
            return Ok(());
        }
        let jobs: Vec<Value> = batch.iter().map(|line| spec.job(line.trim_end_matches(['\n', '\r']))).collect();
        let body = json!({ "jobs": jobs }).to_string();
        let answer = Request::post(format!("/queues/{}/jobs", of.queue), body).send(&access).await;
        let lost = || format!("the lines from {} on may not have been put", put + 1);
        print(&answer.with_context(lost)?, of.to.json, told::ids)?;
        put += batch.len();
    }
}

/// Standard input, of which it is known what was read already: std's own buffer does not tell without waiting for more.
struct Lines {
    input: BufReader<Stdin>,
    /// Was read, and had no room in the last batch.
    next: String,
}

impl Lines {
    /// Waits for one line, and adds those that are there with it. None are the end.
    fn batch(&mut self) -> std::io::Result<Vec<String>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        if self.next.is_empty() {
            self.input.read_line(&mut self.next)?;
        }
        while !self.next.is_empty()
            && batch.len() < LINES
            && (batch.is_empty() || bytes + self.next.len() <= LINES_BYTES)
        {
            bytes += self.next.len();
            batch.push(std::mem::take(&mut self.next));
            if self.input.buffer().contains(&b'\n') {
                self.input.read_line(&mut self.next)?;
            }
        }
        Ok(batch)
    }
}

impl ToArgs {
    async fn send(self, request: Request, told: fn(&Value) -> String) -> anyhow::Result<()> {
        let access = self.access.resolve()?;
        print(&request.send(&access).await?, self.json, told)
    }
}

impl QueueArgs {
    async fn post(self, path: &str, body: Value, told: fn(&Value) -> String) -> anyhow::Result<()> {
        let request = Request::post(format!("/queues/{}{path}", self.queue), body.to_string());
        self.to.send(request, told).await
    }

    /// The same request about each job, up to the first that is refused.
    async fn each(self, ids: Vec<u64>, request: impl Fn(String) -> Request) -> anyhow::Result<()> {
        let access = self.to.access.resolve()?;
        for id in ids {
            request(format!("/queues/{}/jobs/{id}", self.queue)).send(&access).await?;
            println!("{id}");
        }
        Ok(())
    }
}

impl LeaseArgs {
    async fn post<const N: usize>(
        self,
        verb: &str,
        more: [(&str, Option<Value>); N],
        told: fn(&Value) -> String,
    ) -> anyhow::Result<()> {
        let Some((job, _)) = self.lease.split_once('.').filter(|(job, _)| job.parse::<u64>().is_ok()) else {
            bail!("{:?} is no lease: expected one such as 17.23, as `fanfare jobs claim` told it", self.lease);
        };
        let path = format!("/jobs/{job}/{verb}");
        let mut body = object(more);
        body["lease"] = self.lease.into();
        self.of.post(&path, body, told).await
    }
}

impl SpecArgs {
    fn job(&self, data: &str) -> Value {
        object([
            ("kind", self.kind.clone().map(Value::from)),
            ("key", self.job_key.clone().map(Value::from)),
            ("idempotency_key", self.idempotency_key.clone().map(Value::from)),
            ("priority", self.priority.map(Value::from)),
            ("not_before_ms", self.not_before_ms.map(Value::from)),
            ("data", Some(data.into())),
        ])
    }
}

impl FilterArgs {
    fn params(self) -> Vec<(&'static str, Option<String>)> {
        let text = |number: Option<u64>| number.map(|number| number.to_string());
        vec![
            ("key", self.job_key),
            ("attempt_min", text(self.attempt_min)),
            ("since_ms", text(self.since_ms)),
            ("until_ms", text(self.until_ms)),
        ]
    }

    fn body(self) -> Value {
        object([
            ("key", self.job_key.map(Value::from)),
            ("attempt_min", self.attempt_min.map(Value::from)),
            ("since_ms", self.since_ms.map(Value::from)),
            ("until_ms", self.until_ms.map(Value::from)),
        ])
    }
}

/// Of what was said alone: the rest has the server's defaults.
fn object<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Value {
    let said = pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(said.collect::<Map<_, _>>())
}

fn milliseconds(seconds: Option<u64>) -> Option<Value> {
    seconds.map(|seconds| seconds.saturating_mul(1000).into())
}

fn print(answer: &str, json: bool, told: fn(&Value) -> String) -> anyhow::Result<()> {
    match json {
        true => println!("{answer}"),
        false => {
            let answer = serde_json::from_str(answer).with_context(|| format!("the server answered {answer}"))?;
            print!("{}", told(&answer));
        }
    }
    Ok(())
}
