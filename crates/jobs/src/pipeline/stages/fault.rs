//! Harm on purpose: for tests, and where the configuration allows it.

use crate::pipeline::hash::percentile;
use crate::pipeline::params::{Bad, Params};
use crate::pipeline::record::Record;
use crate::pipeline::registry::{Reads, StageKind, default};
use crate::pipeline::stage::{At, Failed, Hold, OnError, Outcome, Reason, Stage};

pub(crate) const KINDS: &[StageKind] = &[StageKind {
    name: "fault",
    summary: "Does harm to some of the records: refused unless `[ingest] faults = true`. The same job meets the same fault at the \
              same attempt, and maybe another at the next.",
    keys: &[
        default("delay_percent", "number", "0", "How many of a hundred are held for `delay_ms`."),
        default("delay_ms", "number", "1000", "For how long, in milliseconds."),
        default("drop_percent", "number", "0", "How many are dropped (`fault`)."),
        default("error_percent", "number", "0", "How many fail."),
        default("duplicate_percent", "number", "0", "How many go on twice, with one id."),
    ],
    reads: Reads::Any,
    on_error: OnError::Retry,
    build,
}];

struct Fault {
    drop: f64,
    error: f64,
    duplicate: f64,
    delay: f64,
    delay_ms: u64,
}

fn build(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    if !params.shared.faults {
        return Err(Bad::at("stage", "faults are not allowed here: `[ingest] faults = true` allows them"));
    }
    let (drop, error) = (params.percent("drop_percent")?, params.percent("error_percent")?);
    let (duplicate, delay) = (params.percent("duplicate_percent")?, params.percent("delay_percent")?);
    if drop + error + duplicate + delay > 100.0 {
        return Err(Bad { key: None, message: "the percentages are more than 100 together".into() });
    }
    Ok(Box::new(Fault { drop, error, duplicate, delay, delay_ms: params.number("delay_ms", 1..=3_600_000)? }))
}

impl Stage for Fault {
    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        let lot = percentile(&format!("{}\n{}\n{}\n{}", at.stage, record.trace, record.id.part, record.attempt));
        let dropped = self.drop;
        let failed = dropped + self.error;
        let doubled = failed + self.duplicate;
        let delayed = doubled + self.delay;
        match lot {
            lot if lot < dropped => Ok(Outcome::Dropped(Reason::Fault)),
            lot if lot < failed => Err("a fault was asked for".into()),
            lot if lot < doubled => Ok(Outcome::Many(vec![record.clone(), record])),
            lot if lot < delayed => Ok(Outcome::Held(record, Hold::Delay { ms: self.delay_ms })),
            _ => Ok(Outcome::One(record)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use crate::pipeline::testing::{compiled, record, wrong};
    use crate::pipeline::{Record, RecordId, Shared, Step};

    #[test]
    fn faults_are_made_only_where_they_are_allowed() {
        let fault = json!([{ "stage": "fault", "drop_percent": 20, "error_percent": 20, "duplicate_percent": 20, "delay_percent": 20 }]);
        let message = wrong(fault.clone(), &Shared::default());
        assert!(message.ends_with("faults are not allowed here: `[ingest] faults = true` allows them"), "{message}");
        let shared = Shared { faults: true, ..Shared::default() };
        let pipeline = compiled(fault, &shared);
        let meets = |job, attempt| {
            let trace = format!("q/{job}").into();
            let record = Record { id: RecordId { job, part: 0 }, trace, attempt, ..record("") };
            match pipeline.run(0, record, 1000)[..] {
                [Step::Through(_)] => "nothing",
                [Step::Through(_), Step::Through(_)] => "duplicate",
                [Step::Held { .. }] => "delay",
                [Step::Dropped { .. }] => "drop",
                [Step::Failed { retry: true, .. }] => "error",
                ref steps => panic!("{steps:?}"),
            }
        };
        let mut met = BTreeMap::new();
        for job in 0..500 {
            assert_eq!(meets(job, 1), meets(job, 1));
            *met.entry(meets(job, 1)).or_insert(0) += 1;
        }
        assert!(met.len() == 5 && met.values().all(|count| (50..150).contains(count)), "{met:?}");
        assert!((0..500).any(|job| meets(job, 1) != meets(job, 2)));
        let tally = pipeline.stages()[0].counts.read();
        assert!(tally.balances() && tally.made > 0 && tally.in_flight > 0, "{tally:?}");
        let message = wrong(json!([{ "stage": "fault", "drop_percent": 60, "error_percent": 60 }]), &shared);
        assert!(message.ends_with("the percentages are more than 100 together"), "{message}");
    }
}
