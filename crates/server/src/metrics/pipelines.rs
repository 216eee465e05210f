//! What stages and sinks have done. The labels are names in the configuration, so there is a bound to them.

use std::fmt::Error;
use std::sync::Arc;

use fanfare_jobs::pipeline::{Reason, Slot};
use fanfare_jobs::sinks::{Circuit, Lost, Outlet};
use fanfare_jobs::worker::Lane;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::ingest::recall::Recalled;
use crate::ingest::{Ingest, Piped};

/// The figures of all pipelines.
#[derive(Debug)]
pub struct PipelineCounts(pub Ingest);

/// A number, and what it counts.
type Named = (String, u64);

impl Collector for PipelineCounts {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), Error> {
        if let Some(state) = self.0.recalled() {
            recalled(state, &mut to)?;
        }
        let all = self.0.piped();
        if all.is_empty() {
            return Ok(());
        }
        jobs(&all, &mut to)?;
        let stages =
            |lane: &Lane| lane.pipeline.stages().iter().map(|slot| (slot.name.to_string(), stage(slot))).collect();
        records(&all, &mut to, "pipeline_stage_records", "What has become of records in a stage", stages)?;
        let sinks = |lane: &Lane| lane.outlets.iter().map(|outlet| (outlet.name.to_string(), sink(outlet))).collect();
        records(&all, &mut to, "pipeline_sink_records", "What has become of records in a sink", sinks)?;
        states(&all, &mut to)
    }
}

/// What is written down for the server after a crash.
fn recalled(state: Recalled, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "1 while what pipelines publish cannot be written down";
    let family = to.encode_descriptor("recall_failing", help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::from(state.failing)).encode(family)?;
    let help = "Publications of pipelines that were not written down: after a crash, those who were away miss them";
    let family = to.encode_descriptor("recall_missed", help, None, MetricType::Counter)?;
    ConstCounter::new(state.missed).encode(family)
}

fn jobs(all: &[Arc<Piped>], to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let mut family =
        to.encode_descriptor("pipeline_jobs", "What has become of jobs in pipelines", None, MetricType::Counter)?;
    for piped in all {
        let counts = piped.worker.counts();
        for (what, n) in [
            ("claimed", counts.claimed),
            ("finished", counts.finished),
            ("retried", counts.retried),
            ("released", counts.released),
            ("stalled", counts.stalled),
            ("lost", counts.lost),
            ("panicked", counts.panicked),
        ] {
            let labels = [("app", &*piped.queue.app), ("queue", &*piped.queue.name), ("what", what)];
            ConstCounter::new(n).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// A family of counters of the parts of each pipeline, of which `in + made = out + dropped + failed + in flight`.
fn records(
    all: &[Arc<Piped>],
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    parts: impl Fn(&Lane) -> Vec<(String, Vec<Named>)>,
) -> Result<(), Error> {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for_each_lane(all, |app, lane| {
        for (part, figures) in parts(lane) {
            for (what, n) in figures {
                let labels = [("app", app), ("pipeline", &**lane.pipeline.name()), ("part", &part), ("what", &what)];
                ConstCounter::new(n).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    })
}

fn stage(slot: &Slot) -> Vec<Named> {
    let tally = slot.counts.read();
    let dropped = Reason::ALL.map(|reason| (format!("dropped_{reason}"), tally.dropped[reason as usize]));
    let mut figures = vec![
        ("in".to_owned(), tally.entered),
        ("made".to_owned(), tally.made),
        ("out".to_owned(), tally.out),
        ("failed".to_owned(), tally.failed),
        ("errors".to_owned(), tally.errors),
    ];
    figures.extend(dropped.into_iter().filter(|(_, n)| *n > 0));
    figures.extend(slot.figures());
    figures
}

fn sink(outlet: &Outlet) -> Vec<Named> {
    let tally = outlet.counts();
    let lost = Lost::ALL.map(|why| (format!("dropped_{}", why.as_str()), tally.lost[why as usize]));
    let mut figures = vec![
        ("in".to_owned(), tally.entered),
        ("out".to_owned(), tally.out),
        ("failed".to_owned(), tally.failed),
        ("errors".to_owned(), tally.errors),
        ("retried".to_owned(), tally.retried),
        ("opened".to_owned(), tally.opened),
    ];
    figures.extend(lost.into_iter().filter(|(_, n)| *n > 0));
    figures
}

/// What is so now: records under way, targets that are left alone, parts that get nowhere.
fn states(all: &[Arc<Piped>], to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let mut family =
        to.encode_descriptor("pipeline_in_flight", "Records in a stage or a sink", None, MetricType::Gauge)?;
    for_each_lane(all, |app, lane| {
        let stages = lane.pipeline.stages().iter().map(|slot| (&slot.name, slot.counts.read().in_flight));
        let sinks = lane.outlets.iter().map(|outlet| (&outlet.name, outlet.counts().in_flight));
        for (part, n) in stages.chain(sinks) {
            let labels = [("app", app), ("pipeline", &**lane.pipeline.name()), ("part", &**part)];
            ConstGauge::new(n as i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    })?;
    let help = "1 while the target of a sink is left alone, as it has failed";
    let mut family = to.encode_descriptor("pipeline_circuit_open", help, None, MetricType::Gauge)?;
    for_each_lane(all, |app, lane| {
        for outlet in &lane.outlets {
            let labels = [("app", app), ("pipeline", &**lane.pipeline.name()), ("part", &*outlet.name)];
            let open = i64::from(outlet.circuit() != Circuit::Closed);
            ConstGauge::new(open).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    })?;
    let help = "1 for a stage or a sink that has input and gets nowhere";
    let mut family = to.encode_descriptor("pipeline_stuck", help, None, MetricType::Gauge)?;
    for piped in all {
        for stuck in piped.worker.stuck() {
            let labels = [("app", &*piped.queue.app), ("pipeline", &*stuck.pipeline), ("part", &*stuck.part)];
            ConstGauge::new(1i64).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Jobs that a shadow pipeline did not have, as it was too far behind";
    let mut family = to.encode_descriptor("pipeline_shadow_overflow", help, None, MetricType::Counter)?;
    for_each_lane(all, |app, lane| {
        let labels = [("app", app), ("pipeline", &**lane.pipeline.name())];
        match lane.shadow {
            true => ConstCounter::new(lane.overflown()).encode(family.encode_family(&labels)?),
            false => Ok(()),
        }
    })
}

fn for_each_lane(all: &[Arc<Piped>], mut each: impl FnMut(&str, &Lane) -> Result<(), Error>) -> Result<(), Error> {
    for piped in all {
        for lane in piped.worker.plan().lanes() {
            each(&piped.queue.app, lane)?;
        }
    }
    Ok(())
}
