//! What there is in firehoses, and how far behind their readers are.
//!
//! Logs are asked before a scrape is written; one that does not say is left out.

use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};

use fanfare_jobs::log::Ends;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::queues::gauge;
use crate::firehose::{Counts, Firehoses, Hose, Lag};

/// The counts of all firehoses, as of the last look; cheap to clone.
#[derive(Clone)]
pub struct FirehoseCounts(Arc<Inner>);

struct Inner {
    firehoses: Firehoses,
    seen: Mutex<Vec<Seen>>,
}

struct Seen {
    hose: Arc<Hose>,
    ends: Ends,
    lags: Vec<Lag>,
}

impl FirehoseCounts {
    /// Of these.
    pub fn new(firehoses: Firehoses) -> FirehoseCounts {
        FirehoseCounts(Arc::new(Inner { firehoses, seen: Mutex::default() }))
    }

    /// Looks again.
    pub async fn look(&self) {
        let mut seen = Vec::new();
        for hose in self.0.firehoses.all() {
            if let Ok((ends, lags)) = hose.look().await {
                seen.push(Seen { hose, ends, lags });
            }
        }
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

impl std::fmt::Debug for FirehoseCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirehoseCounts")
    }
}

impl Collector for FirehoseCounts {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), Error> {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_empty() {
            return Ok(());
        }
        let mut gauges = |name, help, value: fn(&Seen) -> u64| -> Result<(), Error> {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for seen in &*seen {
                gauge(value(seen)).encode(family.encode_family(&[("app", &*seen.hose.app)])?)?;
            }
            Ok(())
        };
        gauges("firehose_connections", "Readers of a firehose", |seen| seen.hose.connections().into())?;
        gauges("firehose_log_entries", "Publications that a firehose holds", |seen| {
            seen.ends.entries_from(seen.ends.first)
        })?;
        gauges("firehose_log_bytes", "Bytes of those", |seen| seen.ends.bytes)?;
        let help = "Publications that a consumer has not acknowledged, of those that are connected";
        let mut family = to.encode_descriptor("firehose_lag", help, None, MetricType::Gauge)?;
        for Seen { hose, lags, .. } in &*seen {
            for Lag { consumer, entries } in lags {
                let labels = [("app", &*hose.app), ("consumer", &**consumer)];
                gauge(*entries).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut counters = |name, help, count: fn(&Counts) -> u64| -> Result<(), Error> {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for Seen { hose, .. } in &*seen {
                let value = ConstCounter::new(count(&hose.tally.read()));
                value.encode(family.encode_family(&[("app", &*hose.app)])?)?;
            }
            Ok(())
        };
        counters("firehose_appended", "Publications that went into a firehose", |counts| counts.appended)?;
        counters("firehose_sent", "Publications sent to readers of a firehose", |counts| counts.sent)?;
        counters("firehose_sent_bytes", "Bytes sent to readers of a firehose", |counts| counts.sent_bytes)?;
        counters("firehose_acked", "Publications that consumers acknowledged", |counts| counts.acked)?;
        counters("firehose_gaps", "Times that a reader was told that something is missing", |counts| counts.gaps)
    }
}
