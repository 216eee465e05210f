//! What a verb found, as a table for people and as JSON for programs: the same names in both.

use std::io::{self, Write};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::machine::Usage;

/// How a verb reports.
#[derive(Debug, Clone, clap::Args)]
pub struct Output {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The server's process: its CPU time and memory are reported too
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
}

impl Output {
    /// What the server has used up to now, if we may look.
    pub fn server_usage(&self) -> Result<Option<Usage>> {
        self.server_pid.map(Usage::of).transpose()
    }
}

/// Named figures in the order in which they were found.
pub struct Report {
    verb: &'static str,
    figures: Vec<(String, f64)>,
    latencies: Vec<(&'static str, Percentiles)>,
    wrong: Vec<String>,
}

/// Latencies in microseconds, the mean beside them.
#[derive(Debug, Clone, Copy, Serialize)]
struct Percentiles {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Percentiles {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles {
            mean: histogram.mean() / 1e3,
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: histogram.max() as f64 / 1e3,
        }
    }

    fn columns(&self) -> [f64; 6] {
        [self.mean, self.p50, self.p90, self.p99, self.p999, self.max]
    }
}

impl Report {
    pub fn new(verb: &'static str) -> Report {
        Report { verb, figures: Vec::new(), latencies: Vec::new(), wrong: Vec::new() }
    }

    /// Adds a figure. The unit stands last in its name.
    pub fn figure(&mut self, name: &str, value: f64) {
        self.figures.push((name.to_owned(), value));
    }

    /// Adds a count that must be zero.
    pub fn must_be_none(&mut self, name: &str, count: u64) {
        self.figure(name, count as f64);
        if count > 0 {
            self.wrong.push(format!("{count} {name}"));
        }
    }

    pub fn latency(&mut self, of: &'static str, histogram: &Histogram<u64>) {
        self.latencies.push((of, Percentiles::of(histogram)));
    }

    /// Adds what the server used between two looks, per `unit` of which there were `n`.
    pub fn server(&mut self, between: Option<(Usage, Usage)>, unit: &str, n: u64) {
        let Some((before, after)) = between else { return };
        self.figure(&format!("server_cpu_us_per_{unit}"), after.cpu_ns_since(&before) / 1e3 / n.max(1) as f64);
        self.figure("server_cpu_busy_pct", after.busy_pct_since(&before));
        self.figure("server_cpu_system_pct", after.system_pct_since(&before));
        self.figure("server_rss_mib", after.rss_bytes as f64 / f64::from(1 << 20));
    }

    /// Prints, and fails when something was wrong.
    pub fn finish(self, output: &Output) -> Result<()> {
        let mut out = io::stdout().lock();
        if output.json {
            writeln!(out, "{}", self.to_json())?;
        } else {
            self.write_table(&mut out)?;
        }
        if self.wrong.is_empty() {
            return Ok(());
        }
        bail!("{}: the server failed: {}", self.verb, self.wrong.join(", "))
    }

    fn to_json(&self) -> Value {
        let figures: Map<_, _> = self.figures.iter().map(|(name, value)| (name.clone(), number(*value))).collect();
        let latencies: Map<_, _> = self.latencies.iter().map(|(of, p)| ((*of).to_owned(), json!(p))).collect();
        json!({ "verb": self.verb, "ok": self.wrong.is_empty(), "figures": figures, "latency_us": latencies })
    }

    fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        for (name, value) in &self.figures {
            writeln!(out, "{name:<34} {:>14}", shown(*value))?;
        }
        if !self.latencies.is_empty() {
            writeln!(
                out,
                "{:<34} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
                "latency, us", "mean", "p50", "p90", "p99", "p99.9", "max"
            )?;
        }
        for (of, percentiles) in &self.latencies {
            write!(out, "  {of:<32}")?;
            percentiles.columns().iter().try_for_each(|us| write!(out, " {us:>10.0}"))?;
            writeln!(out)?;
        }
        Ok(())
    }
}

/// A whole number stays one in JSON.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// A number for reading: whole ones grouped by thousands, others to the digits that mean something.
pub fn shown(value: f64) -> String {
    if value.fract() != 0.0 && value.abs() < 1_000.0 {
        return format!("{value:.3}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::from(if value < 0.0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_for_reading() {
        assert_eq!([0.0, 12.0, 1234.5, 1_412_000.0, 1.25].map(shown), ["0", "12", "1,234", "1,412,000", "1.250"]);
        assert_eq!(shown(-1234.0), "-1,234");
    }

    #[test]
    fn what_must_be_none_makes_the_report_fail() {
        let mut report = Report::new("fanout");
        report.must_be_none("lost", 0);
        report.must_be_none("duplicated", 3);
        assert_eq!(report.to_json()["ok"], false);
        assert_eq!(report.wrong, ["3 duplicated"]);
    }
}
