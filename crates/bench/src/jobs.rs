//! `jobs`: puts into a queue through the HTTP API, in batches; every one of them acknowledged.

use anyhow::Result;
use clap::value_parser;

use crate::publisher::Accept;
use crate::repeat::{Pace, Repeat};

/// Options of `jobs`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pace: Pace,
    /// The queue, which should have room: what is put stays there
    #[arg(long, default_value = "bench", value_name = "NAME")]
    queue: String,
    /// Requests in flight, each on a keep-alive connection of its own
    #[arg(long, short, default_value_t = 8, value_name = "W", value_parser = value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Jobs in a request
    #[arg(long, default_value_t = 100, value_name = "B", value_parser = value_parser!(u32).range(1..=1_000))]
    batch: u32,
    /// Bytes of data in each job
    #[arg(long, short, default_value_t = 300, value_parser = value_parser!(u32).range(1..=100_000))]
    size: u32,
}

pub fn run(options: &Options) -> Result<()> {
    let Options { pace, queue, in_flight, batch, .. } = options;
    let path = pace.target.path(&format!("queues/{queue}/jobs"));
    let (accept, holds) = (Accept::Success, (*batch, "jobs_per_s"));
    pace.run("jobs", &Repeat { path, body: body(options), in_flight: *in_flight, accept, holds })
}

fn body(options: &Options) -> Vec<u8> {
    let mut digits = Digits(1);
    let mut job = || {
        let data: String = digits.by_ref().take(options.size as usize).collect();
        format!(r#"{{"kind":"create","data":"{data}"}}"#)
    };
    let jobs: Vec<_> = (0..options.batch).map(|_| job()).collect();
    format!(r#"{{"jobs":[{}]}}"#, jobs.join(",")).into_bytes()
}

/// Digits that look like chance: a store that compresses is to gain no more than it would of real data.
struct Digits(u64);

impl Iterator for Digits {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        // Marsaglia's xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        char::from_digit((self.0 >> 32) as u32 % 36, 36)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_batch_is_as_many_jobs_of_that_size() {
        let alone = Alone::parse_from(["jobs", "--batch", "3", "--size", "40"]);
        let body: serde_json::Value = serde_json::from_slice(&body(&alone.options)).expect("JSON");
        let jobs = body["jobs"].as_array().expect("a list");
        let data: Vec<_> = jobs.iter().map(|job| job["data"].as_str().expect("text")).collect();
        assert_eq!(data.iter().map(|data| data.len()).collect::<Vec<_>>(), [40; 3]);
        assert_ne!(data[0], data[1]);
    }
}
