//! What there is in the queues, and what has become of jobs.
//!
//! Stores are asked before a scrape is written, as they answer in their own time; a queue whose store does not say is left out.

use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};

use fanfare_jobs::Counts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::queues::{Queue, Queues};

/// The counts of all queues, as of the last look; cheap to clone.
#[derive(Clone)]
pub struct QueueCounts(Arc<Inner>);

struct Inner {
    queues: Queues,
    seen: Mutex<Vec<Seen>>,
}

struct Seen {
    queue: Arc<Queue>,
    counts: Counts,
    waiting_s: f64,
}

impl QueueCounts {
    /// Of these queues.
    pub fn new(queues: Queues) -> QueueCounts {
        QueueCounts(Arc::new(Inner { queues, seen: Mutex::default() }))
    }

    /// Looks again.
    pub async fn look(&self) {
        let mut seen = Vec::new();
        for queue in self.0.queues.all() {
            if let Ok(counts) = queue.store.counts().await {
                let now_ms = counts.clock_ms.unwrap_or_else(|| queue.now_ms());
                let waiting_ms = counts.waiting_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
                seen.push(Seen { queue, counts, waiting_s: waiting_ms as f64 / 1000.0 });
            }
        }
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

impl std::fmt::Debug for QueueCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QueueCounts")
    }
}

impl Collector for QueueCounts {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), Error> {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_empty() {
            return Ok(());
        }
        let mut family = to.encode_descriptor("queue_jobs", "Jobs in a queue by state", None, MetricType::Gauge)?;
        for Seen { queue, counts, .. } in &*seen {
            let Counts { waiting, delayed, claimed, stalled, kept, .. } = *counts;
            for (state, n) in [
                ("waiting", waiting),
                ("delayed", delayed),
                ("claimed", claimed),
                ("stalled", stalled),
                ("finished", kept),
            ] {
                let labels = [("app", &*queue.app), ("queue", &*queue.name), ("state", state)];
                gauge(n).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut gauges = |name, help, value: fn(&Seen) -> f64| -> Result<(), Error> {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for seen in &*seen {
                let labels = [("app", &*seen.queue.app), ("queue", &*seen.queue.name)];
                ConstGauge::new(value(seen)).encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        gauges("queue_bytes", "Bytes of data of jobs that are not finished", |seen| seen.counts.bytes as f64)?;
        let help = "Whether a queue takes jobs, as far as somebody has tried in the last seconds";
        gauges("queue_writable", help, |seen| f64::from(u8::from(seen.queue.is_writable())))?;
        let help = "How long the job that has waited longest has";
        gauges("queue_waiting_seconds", help, |seen| seen.waiting_s)?;
        let mut family = to.encode_descriptor("queue_verbs", "What has become of jobs", None, MetricType::Counter)?;
        for Seen { queue, counts, .. } in &*seen {
            let totals = counts.totals;
            for (verb, n) in [
                ("put", totals.put),
                ("known", totals.known),
                ("claimed", totals.claimed),
                ("finished", totals.finished),
                ("failed", totals.failed),
                ("stalled", totals.stalled),
                ("retried", totals.retried),
                ("retracted", totals.retracted),
                ("released", totals.released),
            ] {
                let labels = [("app", &*queue.app), ("queue", &*queue.name), ("verb", verb)];
                ConstCounter::new(n).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

pub fn gauge(n: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX))
}
