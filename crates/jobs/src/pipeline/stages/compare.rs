//! Two pipelines of one queue, held against each other: what does the new one do differently?
//!
//! Whoever comes to a point first leaves what its record is there, as a hash of each field; whoever comes second compares.
//! What nobody came to compare is forgotten when there is no more room, and counted (`alone`).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::pipeline::hash::digest;
use crate::pipeline::params::{Bad, Params};
use crate::pipeline::record::{Body, Record, RecordId};
use crate::pipeline::registry::{Reads, StageKind, default, required};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};

/// Records that wait to be compared, of all points.
const WAITING_MAX: usize = 10_000;

/// Fields of a record that are compared one by one.
const FIELDS_MAX: usize = 64;

/// Fields that have a counter of their own at one point. Others are counted together.
const COUNTERS_MAX: usize = 200;

/// Characters of a field's name that are remembered.
const NAME_CHARS_MAX: usize = 64;

/// Fields beyond those, and records that are not fields.
const OTHERS: &str = "(others)";

pub(crate) const KINDS: &[StageKind] = &[StageKind {
    name: "compare",
    summary: "Counts how often the record differs from what another pipeline of the same queue made of the same job, at its stage \
              with the same `point`: `same`, `different`, `different.<field>` for each field at the top, and `alone` for those \
              that nothing came to be compared with. Where a record goes (`route`) is compared as `(channels)`.",
    keys: &[
        required("point", "string", "What the two stages have in common."),
        default("ignore", "list of strings", "[]", "Fields at the top that may differ."),
    ],
    reads: Reads::Any,
    on_error: OnError::Pass,
    build,
}];

/// What the `compare` stages of a server share.
#[derive(Default)]
pub struct Comparisons(Mutex<Board>);

impl fmt::Debug for Comparisons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Comparisons(…)")
    }
}

/// Queue and point, hashed; and the record.
type Spot = (u128, RecordId);

#[derive(Default)]
struct Board {
    waiting: HashMap<Spot, Seen>,
    /// Those who wait, oldest first; some may be gone.
    order: VecDeque<(Spot, u64)>,
    comings: u64,
    points: HashMap<u128, Figures>,
}

/// A record as a pipeline made it.
struct Seen {
    pipeline: Arc<str>,
    fields: BTreeMap<String, u128>,
    coming: u64,
}

#[derive(Default)]
struct Figures {
    same: u64,
    different: u64,
    alone: u64,
    fields: BTreeMap<String, u64>,
}

struct Compare {
    point: u128,
    pipeline: Arc<str>,
    ignore: Vec<String>,
    board: Arc<Comparisons>,
}

fn build(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let point = digest(&format!("{}\n{}", params.queue, params.text("point")?));
    let board = params.shared.comparisons.clone();
    Ok(Box::new(Compare { point, pipeline: params.pipeline.into(), ignore: params.texts("ignore")?, board }))
}

impl Stage for Compare {
    fn apply(&self, record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = self.fields(&record);
        let mut board = self.board.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.come((self.point, record.id), &self.pipeline, fields);
        drop(board);
        Ok(Outcome::One(record))
    }

    /// Of the point: both stages show the same.
    fn figures(&self) -> Vec<(String, u64)> {
        let board = self.board.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(figures) = board.points.get(&self.point) else { return Vec::new() };
        let Figures { same, different, alone, fields } = figures;
        let totals = [("same".to_owned(), *same), ("different".to_owned(), *different), ("alone".to_owned(), *alone)];
        let by_field = fields.iter().map(|(name, count)| (format!("different.{name}"), *count));
        totals.into_iter().chain(by_field).collect()
    }
}

impl Compare {
    fn fields(&self, record: &Record) -> BTreeMap<String, u128> {
        let mut hashes = BTreeMap::new();
        match &record.body {
            Body::Json(Value::Object(fields)) => {
                let compared = fields.iter().filter(|(name, _)| !self.ignore.contains(name));
                for (index, (name, value)) in compared.enumerate() {
                    let short = name.chars().take(NAME_CHARS_MAX).collect();
                    let name = if index < FIELDS_MAX { short } else { OTHERS.to_owned() };
                    *hashes.entry(name).or_default() ^= digest(&value.to_string());
                }
            }
            Body::Json(value) => drop(hashes.insert(OTHERS.into(), digest(&value.to_string()))),
            Body::Raw(bytes) => drop(hashes.insert(OTHERS.into(), digest(&String::from_utf8_lossy(bytes)))),
        }
        let routes: BTreeSet<_> = record.routes.iter().map(|route| (&route.channel, &route.event)).collect();
        hashes.insert("(channels)".into(), digest(&format!("{routes:?}")));
        hashes
    }
}

impl Board {
    fn come(&mut self, spot: Spot, pipeline: &Arc<str>, fields: BTreeMap<String, u128>) {
        match self.waiting.remove(&spot) {
            Some(other) if other.pipeline != *pipeline => self.compare(spot.0, &other.fields, &fields),
            _ => self.wait(spot, pipeline, fields),
        }
    }

    fn compare(&mut self, point: u128, one: &BTreeMap<String, u128>, other: &BTreeMap<String, u128>) {
        let figures = self.points.entry(point).or_default();
        let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
        let mut same = true;
        for name in names.into_iter().filter(|name| one.get(*name) != other.get(*name)) {
            same = false;
            let full = figures.fields.len() >= COUNTERS_MAX && !figures.fields.contains_key(name);
            *figures.fields.entry(if full { OTHERS.into() } else { name.clone() }).or_default() += 1;
        }
        figures.same += u64::from(same);
        figures.different += u64::from(!same);
    }

    fn wait(&mut self, spot: Spot, pipeline: &Arc<str>, fields: BTreeMap<String, u128>) {
        self.comings += 1;
        let coming = self.comings;
        self.waiting.insert(spot, Seen { pipeline: pipeline.clone(), fields, coming });
        self.order.push_back((spot, coming));
        while self.order.len() > WAITING_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((spot, coming)) = self.order.pop_front() else { return };
        if self.waiting.get(&spot).is_some_and(|seen| seen.coming == coming) {
            self.waiting.remove(&spot);
            self.points.entry(spot.0).or_default().alone += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::testing::{record, written};
    use crate::pipeline::{Pipeline, Shared, Written, compile};

    fn pipeline(name: &str, stages: Value, shared: &Shared) -> Pipeline {
        let written = Written { name: name.into(), ..written(stages) };
        compile(&written, shared).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    fn figures(pipeline: &Pipeline) -> BTreeMap<String, u64> {
        pipeline.stages().iter().flat_map(|slot| slot.figures()).collect()
    }

    #[test]
    fn differences_between_two_pipelines_are_counted_by_field() {
        let shared = Shared::default();
        let compare = json!({ "stage": "compare", "point": "end", "ignore": ["ts"] });
        let old = pipeline("old", json!([{ "stage": "json" }, compare]), &shared);
        let set = json!({ "stage": "set", "fields": { "b": 2, "ts": 1 } });
        let route = json!({ "stage": "route", "channels": ["{% if a == 3 %}c{% endif %}"] });
        let new = pipeline("new", json!([{ "stage": "json" }, set, route, compare]), &shared);
        for (job, data) in
            [r#"{"a":1,"b":2}"#, r#"{"a":1,"b":3}"#, r#"{"a":1}"#, r#"{"a":3,"b":2,"ts":9}"#].iter().enumerate()
        {
            let record = Record { id: RecordId { job: job as u64, part: 0 }, ..record(data) };
            old.run(0, record.clone(), 1000);
            old.run(0, record.clone(), 1000);
            new.run(0, record, 1000);
        }
        let expected = [("same", 1), ("different", 3), ("alone", 0), ("different.b", 2), ("different.(channels)", 1)];
        let expected: BTreeMap<_, _> = expected.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        assert_eq!(figures(&new), expected);
        assert_eq!(figures(&old), expected);
    }

    #[test]
    fn what_nothing_is_compared_with_is_forgotten_and_counted() {
        let shared = Shared::default();
        let lonely = pipeline("lonely", json!([{ "stage": "raw" }, { "stage": "compare", "point": "end" }]), &shared);
        for job in 0..WAITING_MAX as u64 + 5 {
            lonely.run(0, Record { id: RecordId { job, part: 0 }, ..record("x") }, 1000);
        }
        assert_eq!(figures(&lonely)["alone"], 5);
        assert_eq!(shared.comparisons.0.lock().expect("nobody panics").waiting.len(), WAITING_MAX);
    }

    #[test]
    fn a_record_of_many_fields_does_not_cost_more_memory_than_others() {
        let shared = Shared::default();
        let compare = json!([{ "stage": "json" }, { "stage": "compare", "point": "end" }]);
        let (one, other) = (pipeline("one", compare.clone(), &shared), pipeline("other", compare, &shared));
        let many = |of: u64| -> Value { (0..1000).map(|n| (format!("{n}{}", "x".repeat(500)), json!(of))).collect() };
        for job in 0..4 {
            let with = |of| Record { id: RecordId { job, part: 0 }, ..record(&many(of).to_string()) };
            one.run(0, with(job), 1000);
            other.run(0, with(job + 1), 1000);
        }
        let figures = figures(&one);
        assert!(
            figures.len() <= 3 + FIELDS_MAX + 1 && figures.keys().all(|name| name.len() < 100),
            "{}",
            figures.len()
        );
        assert_eq!(figures["different"], 4);
    }
}
