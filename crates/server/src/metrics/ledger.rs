//! What the ledger says, for whoever wakes somebody up.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{counter, gauge};
use crate::ledger::Ledger;
use crate::ledger::report::{Link, Part, Place, Step};

/// The figures of the ledger.
#[derive(Debug)]
pub struct LedgerCounts(pub Ledger);

impl Collector for LedgerCounts {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), Error> {
        let report = self.0.report(0);
        let help = "Publications in the life of the installation, restarts included";
        counter(&mut to, "life_publications", help, report.life.published)?;
        let help = "Deliveries in the life of the installation, restarts included";
        counter(&mut to, "life_deliveries", help, report.life.delivered)?;
        let help = "Sums that the ledger compares each second";
        gauge(&mut to, "ledger_comparisons", help, report.compared as u64)?;
        gauge(&mut to, "ledger_parted", "1 while sums part", u64::from(report.parted.is_some()))?;
        let help = "What is missing where sums part, in the order of the chain; negative: what is too much";
        let mut family = to.encode_descriptor("ledger_difference", help, None, MetricType::Gauge)?;
        for step in report.chain.iter().filter(|step| step.difference() != 0) {
            let (place, at) = match step {
                Step::Part(Part { place, part, .. }) => (place, part.clone()),
                Step::Link(Link { place, from, to, .. }) => (place, format!("{from} → {to}")),
            };
            let Place { app, queue, pipeline } = place;
            let labels = [("app", &**app), ("queue", &**queue), ("pipeline", &**pipeline), ("at", &*at)];
            ConstGauge::new(step.difference()).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
