//! Stages that remember what went through before, also across a reload that leaves them as they were. Keys are remembered by
//! a hash of theirs, whatever their length.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::pipeline::hash::digest;
use crate::pipeline::params::{Bad, Params};
use crate::pipeline::record::{Record, RecordId};
use crate::pipeline::registry::{Key, Reads, StageKind, default, required};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Reason, Stage};
use crate::pipeline::template::Template;

/// Counters of one `count` stage. Whatever else there is, is counted together.
const COUNTERS_MAX: usize = 1000;

/// Characters of a counter's name.
const COUNTER_CHARS_MAX: usize = 100;

/// Where counters beyond [`COUNTERS_MAX`] go.
const OTHERS: &str = "(others)";

/// Buckets of keys that there is no room for share this one.
const OVERFLOW: u128 = 0;

/// How often a full table of buckets is looked through for those that are at rest.
const SWEEP_MS: u64 = 1000;

const KEYS_MAX: Key = default("keys_max", "number", "100000", "How many keys are remembered.");

pub(crate) const KINDS: &[StageKind] = &[
    StageKind {
        name: "dedupe",
        summary: "Drops (`duplicate`) records whose like went through a short while ago. Beyond `keys_max` the oldest is \
                  forgotten, and a restart forgets all of them; a reload does not, where it leaves the stage as it was.",
        keys: &[
            required("key", "template", "What makes two records alike: `{{ forum }}/{{ id }}`."),
            required("within_s", "number", "For how long, in seconds; a day at most."),
            KEYS_MAX,
        ],
        reads: Reads::Any,
        on_error: OnError::DeadLetter,
        build: dedupe,
    },
    StageKind {
        name: "throttle",
        summary: "Lets so many records of a key through, and drops the others (`throttled`). Keys beyond `keys_max` share one \
                  allowance. A job that is tried again is not held up twice.",
        keys: &[
            default("key", "template", "\"\"", "Each has its own allowance: `{{ user.id }}`."),
            required("per_s", "number", "How many in a second; may be less than 1."),
            default("burst", "number", "1", "How many at once after a rest."),
            KEYS_MAX,
        ],
        reads: Reads::Any,
        on_error: OnError::DeadLetter,
        build: throttle,
    },
    StageKind {
        name: "count",
        summary: "Counts what goes through, by a key, and shows it among the stage's figures (`key.…`). 1000 keys at most: the others \
                  are counted together. A job that is tried again is counted again.",
        keys: &[required(
            "key",
            "template",
            "What to count by: `{{ forum }}`; no user should be able to choose it freely.",
        )],
        reads: Reads::Any,
        on_error: OnError::Pass,
        build: count,
    },
];

struct Dedupe {
    key: Template,
    within_ms: u64,
    keys_max: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The record that each key stands for, and since when.
    firsts: HashMap<u128, (RecordId, u64)>,
    /// Those keys, oldest first.
    order: VecDeque<u128>,
}

fn dedupe(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let within_ms = params.number("within_s", 1..=86_400)? * 1000;
    let keys_max = keys_max(params)?;
    Ok(Box::new(Dedupe { key: params.template("key")?, within_ms, keys_max, seen: Mutex::default() }))
}

impl Stage for Dedupe {
    fn remembers(&self) -> bool {
        true
    }

    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        let key = digest(&self.key.fill(&record, at)?);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget(at.now_ms.saturating_sub(self.within_ms), self.keys_max);
        match seen.firsts.get(&key) {
            Some((first, _)) if *first != record.id => return Ok(Outcome::Dropped(Reason::Duplicate)),
            Some(_) => {}
            None => seen.add(key, record.id, at.now_ms, self.keys_max),
        }
        drop(seen);
        Ok(Outcome::One(record))
    }
}

impl Seen {
    /// Makes room only for what is new: a key that is known is not to be forgotten as it comes again.
    fn add(&mut self, key: u128, id: RecordId, now_ms: u64, keys_max: usize) {
        self.forget(0, keys_max - 1);
        self.firsts.insert(key, (id, now_ms));
        self.order.push_back(key);
    }

    fn forget(&mut self, until_ms: u64, keys_max: usize) {
        while let Some(key) = self.order.front() {
            let over = self.firsts.get(key).is_none_or(|(_, since_ms)| *since_ms <= until_ms);
            if !over && self.order.len() <= keys_max {
                break;
            }
            self.firsts.remove(key);
            self.order.pop_front();
        }
    }
}

struct Throttle {
    key: Template,
    per_ms: f64,
    burst: f64,
    keys_max: usize,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    by_key: HashMap<u128, Bucket>,
    swept_ms: u64,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at_ms: u64,
}

fn throttle(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let per_s = params.value("per_s").and_then(|value| value.as_f64()).filter(|rate| (0.001..=1e6).contains(rate));
    let per_s = per_s.ok_or_else(|| Bad::at("per_s", "takes a number from 0.001 to 1000000"))?;
    let burst = params.number("burst", 1..=1_000_000)? as f64;
    let (key, keys_max) = (params.template("key")?, keys_max(params)?);
    Ok(Box::new(Throttle { key, per_ms: per_s / 1000.0, burst, keys_max, buckets: Mutex::default() }))
}

impl Stage for Throttle {
    fn remembers(&self) -> bool {
        true
    }

    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        if record.repeat {
            return Ok(Outcome::One(record));
        }
        let key = digest(&self.key.fill(&record, at)?);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.room_for(key, &mut buckets, at.now_ms);
        let full = Bucket { tokens: self.burst, at_ms: at.now_ms };
        let bucket = buckets.by_key.entry(key).or_insert(full);
        *bucket = Bucket { tokens: self.tokens(bucket, at.now_ms), at_ms: at.now_ms };
        if bucket.tokens < 1.0 {
            return Ok(Outcome::Dropped(Reason::Throttled));
        }
        bucket.tokens -= 1.0;
        drop(buckets);
        Ok(Outcome::One(record))
    }
}

impl Throttle {
    fn tokens(&self, bucket: &Bucket, now_ms: u64) -> f64 {
        let rested_ms = now_ms.saturating_sub(bucket.at_ms) as f64;
        (bucket.tokens + rested_ms * self.per_ms).min(self.burst)
    }

    /// A full bucket is as good as none.
    fn room_for(&self, key: u128, buckets: &mut Buckets, now_ms: u64) -> u128 {
        let full = |buckets: &Buckets| buckets.by_key.len() >= self.keys_max && !buckets.by_key.contains_key(&key);
        if full(buckets) && now_ms.saturating_sub(buckets.swept_ms) >= SWEEP_MS {
            buckets.swept_ms = now_ms;
            buckets.by_key.retain(|_, bucket| self.tokens(bucket, now_ms) < self.burst);
        }
        if full(buckets) { OVERFLOW } else { key }
    }
}

struct Count {
    key: Template,
    counters: Mutex<BTreeMap<String, u64>>,
}

fn count(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(Count { key: params.template("key")?, counters: Mutex::default() }))
}

impl Stage for Count {
    fn remembers(&self) -> bool {
        true
    }

    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed> {
        let key: String = self.key.fill(&record, at)?.chars().take(COUNTER_CHARS_MAX).collect();
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let full = counters.len() >= COUNTERS_MAX && !counters.contains_key(&key);
        *counters.entry(if full { OTHERS.into() } else { key }).or_default() += 1;
        drop(counters);
        Ok(Outcome::One(record))
    }

    fn figures(&self) -> Vec<(String, u64)> {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|(key, count)| (format!("key.{key}"), *count)).collect()
    }
}

fn keys_max(params: &Params) -> Result<usize, Bad> {
    Ok(params.number("keys_max", 1..=10_000_000)? as usize)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::pipeline::testing::{compiled, record, wrong};
    use crate::pipeline::{Pipeline, Record, RecordId, Shared, Step};

    /// Job `job` with this name at this time: whether it went through.
    fn goes(pipeline: &Pipeline, job: u64, attempt: u32, name: &str, now_ms: u64) -> bool {
        let record = record(&json!({ "name": name }).to_string());
        let record = Record { id: RecordId { job, part: 0 }, attempt, repeat: attempt > 1, ..record };
        let steps = pipeline.run(0, record, now_ms);
        assert!(pipeline.stages().iter().all(|slot| slot.counts.read().balances()));
        matches!(steps[..], [Step::Through(_)])
    }

    fn after_json(stage: Value) -> Pipeline {
        compiled(json!([{ "stage": "json" }, stage]), &Shared::default())
    }

    #[test]
    fn the_like_of_what_went_through_is_dropped_for_a_while() {
        let pipeline = after_json(json!({ "stage": "dedupe", "key": "{{ name }}", "within_s": 10 }));
        assert!(goes(&pipeline, 1, 1, "a", 1000));
        assert!(!goes(&pipeline, 2, 1, "a", 2000));
        assert!(goes(&pipeline, 3, 1, "b", 2000));
        assert!(goes(&pipeline, 1, 2, "a", 3000), "the same job again");
        assert!(!goes(&pipeline, 4, 1, "a", 10_999));
        assert!(goes(&pipeline, 5, 1, "a", 11_000));
        assert!(!goes(&pipeline, 6, 1, "a", 11_001));
    }

    #[test]
    fn the_oldest_key_is_forgotten_when_there_is_no_room() {
        let pipeline = after_json(json!({ "stage": "dedupe", "key": "{{ name }}", "within_s": 10, "keys_max": 2 }));
        let one = after_json(json!({ "stage": "dedupe", "key": "{{ name }}", "within_s": 10, "keys_max": 1 }));
        assert!(goes(&one, 1, 1, "a", 1000) && !goes(&one, 2, 1, "a", 1000), "room is made for what is new");
        for (job, name) in [(1, "a"), (2, "b"), (3, "c")] {
            assert!(goes(&pipeline, job, 1, name, 1000));
        }
        assert!(!goes(&pipeline, 4, 1, "c", 1000));
        assert!(goes(&pipeline, 5, 1, "a", 1000));
    }

    #[test]
    fn so_many_of_a_key_go_through_in_a_second() {
        let stage = json!({ "stage": "throttle", "key": "{{ name }}", "per_s": 2, "burst": 3 });
        let pipeline = after_json(stage);
        let went = |from, now_ms, name| (from..from + 5).filter(|job| goes(&pipeline, *job, 1, name, now_ms)).count();
        assert_eq!((went(0, 1000, "a"), went(10, 1000, "b")), (3, 3));
        assert_eq!(went(20, 1999, "a"), 1);
        assert_eq!(went(30, 2000, "a"), 1);
        assert_eq!(went(40, 60_000, "a"), 3);
        assert!(goes(&pipeline, 50, 2, "a", 60_000), "it is tried again");
        assert_eq!(went(60, 1000, "a"), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn keys_for_which_there_is_no_room_share_an_allowance() {
        let stage = json!({ "stage": "throttle", "key": "{{ name }}", "per_s": 0.001, "burst": 1, "keys_max": 2 });
        let pipeline = after_json(stage);
        assert!(goes(&pipeline, 1, 1, "a", 1000) && goes(&pipeline, 2, 1, "b", 1000));
        assert!(goes(&pipeline, 3, 1, "c", 1000));
        assert!(!goes(&pipeline, 4, 1, "d", 1000) && !goes(&pipeline, 5, 1, "a", 1000));
        assert!(goes(&pipeline, 6, 1, "d", 2_000_000), "the others have rested");
    }

    #[test]
    fn records_are_counted_by_key() {
        let pipeline = after_json(json!({ "stage": "count", "key": "{{ name }}" }));
        for name in ["a", "b", "a"] {
            assert!(goes(&pipeline, 1, 1, name, 1000));
        }
        let figures = || pipeline.stages()[1].figures();
        assert_eq!(figures(), [("key.a".into(), 2), ("key.b".into(), 1)]);
        for n in 0..2000 {
            goes(&pipeline, 1, 1, &format!("{n}{}", "x".repeat(200)), 1000);
        }
        let others = figures().into_iter().find(|(name, _)| name == "key.(others)").map(|(_, count)| count);
        assert_eq!((figures().len(), others), (1001, Some(1002)));
        assert!(figures().iter().all(|(name, _)| name.len() <= 104));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cases = [
            (
                json!({ "stage": "dedupe", "key": "a", "within_s": 0 }),
                "key within_s: takes a whole number from 1 to 86400",
            ),
            (json!({ "stage": "dedupe", "within_s": 1 }), "key key: is required; it takes a template"),
            (json!({ "stage": "throttle", "per_s": 0 }), "key per_s: takes a number from 0.001 to 1000000"),
            (json!({ "stage": "count", "key": "{{" }), "key key: "),
        ];
        for (stage, expected) in cases {
            let message = wrong(json!([stage]), &Shared::default());
            assert!(message.contains(expected), "{message}");
        }
    }
}
