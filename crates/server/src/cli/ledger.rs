//! `fanfare ledger`: what went where, on one node or on several, and whether anything is missing.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::header;
use tokio::time::sleep;

use super::request::{ANSWER_WITHIN, ask};
use crate::ledger::report::{Parted, Report};
use crate::ledger::text;

/// What to type.
pub const EXAMPLES: &str = "\
Examples:
  fanfare ledger                      the chain of all counts, and whether they agree
  fanfare ledger --minutes 5          what happened in each of the last minutes, too
  fanfare ledger --watch              again each second
  fanfare ledger --nodes a:9601,b:9601   the sums of several nodes

The exit status is 1 where the sums part.";

/// How often `--watch` looks again.
const EVERY: Duration = Duration::from_secs(1);

/// Goes to the top of an empty screen.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What `fanfare ledger` is told.
#[derive(Debug, Args)]
pub struct LedgerArgs {
    /// The server's admin listener [default: where the configuration has it]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The admin listeners of several nodes, whose counts are added up
    #[arg(long, value_name = "URL,…", value_delimiter = ',', conflicts_with_all = ["admin", "minutes"])]
    nodes: Vec<String>,
    /// What happened in each of the last N minutes, too
    #[arg(long, value_name = "N", default_value_t = 0)]
    minutes: usize,
    /// Look again each second, until interrupted
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: super::FileArgs,
}

/// Prints what the ledger says; that sums part is an error.
pub async fn run(args: LedgerArgs) -> anyhow::Result<()> {
    let LedgerArgs { admin, nodes, minutes, watch, json, file } = args;
    let nodes = match (nodes.is_empty(), admin) {
        (false, _) => nodes,
        (true, Some(admin)) => vec![admin],
        (true, None) => vec![file.source().load()?.admin_listen.to_string()],
    };
    loop {
        let report = match all(&nodes, minutes).await {
            // A server that is started again is looked at again.
            Err(error) if watch => {
                eprintln!("{error:#}");
                sleep(EVERY).await;
                continue;
            }
            report => report?,
        };
        let text = match json {
            true => serde_json::to_string_pretty(&report)? + "\n",
            false => text::written(&report),
        };
        match watch {
            true if json => print!("{text}"),
            true => print!("{CLEAR}{text}"),
            false => {
                print!("{text}");
                return match report.parted {
                    Some(parted) => bail!("the sums part at {parted}"),
                    None => Ok(()),
                };
            }
        }
        sleep(EVERY).await;
    }
}

/// The ledger of one node, or the sums of several.
async fn all(nodes: &[String], minutes: usize) -> anyhow::Result<Report> {
    let mut sum: Option<Report> = None;
    for node in nodes {
        let mut report = one(node, minutes).await?;
        if nodes.len() > 1 {
            let named = |Parted { at, difference }| Parted { at: format!("{node}: {at}"), difference };
            report.parted = report.parted.map(named);
        }
        sum = Some(match sum {
            Some(sum) => sum.plus(report),
            None => report,
        });
    }
    sum.context("no node was named")
}

async fn one(node: &str, minutes: usize) -> anyhow::Result<Report> {
    let server = node.trim_start_matches("http://").trim_end_matches('/');
    let request = hyper::Request::get(format!("/ledger?minutes={minutes}"))
        .header(header::HOST, server)
        .body(Full::<Bytes>::default())
        .with_context(|| format!("{node}: expected the address of an admin listener"))?;
    let (status, answer) = ask(server, request, ANSWER_WITHIN).await?;
    if !status.is_success() {
        bail!("{node} answered {status}: {}", answer.trim());
    }
    serde_json::from_str(&answer).with_context(|| format!("{node} has another kind of ledger"))
}
