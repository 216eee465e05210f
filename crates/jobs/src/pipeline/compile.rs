//! Compiles what the configuration says into a pipeline.
//!
//! Always true: what compiles needs nothing more that could be missing later; names, keys, templates, conditions and maps
//! are all read here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::counts::Counts;
use super::params::{Bad, Params};
use super::registry::{self, COMMON, Key, Need, Reads, StageKind};
use super::stage::OnError;
use super::stages::compare::Comparisons;
use super::{Pipeline, Slot};

/// A stage as it is written.
pub type Table = Map<String, Value>;

/// Says whether a channel may have this name, and if not, why.
pub type ChannelRule = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Stages of one pipeline.
const STAGES_MAX: usize = 256;

/// Lists within lists.
const DEPTH_MAX: usize = 16;

/// A pipeline as it is written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Its name.
    pub name: String,
    /// The queue whose jobs it takes.
    pub queue: String,
    /// Its stages; `{ use = "…" }` stands for a shared list.
    pub stages: Vec<Table>,
}

/// What pipelines share.
#[derive(Clone)]
pub struct Shared {
    /// Lists of stages, by name.
    pub lists: BTreeMap<String, Vec<Table>>,
    /// Keys to encrypt and hash with, by name.
    pub keys: BTreeMap<String, Secret>,
    /// The pipelines whose sinks may be given copies.
    pub copies_to: BTreeSet<String>,
    /// Where files are that are named without a whole path.
    pub folder: PathBuf,
    /// Where pipelines leave what others are compared with.
    pub comparisons: Arc<Comparisons>,
    /// What a channel's name may be.
    pub channel_rule: ChannelRule,
    /// Whether stages may do harm on purpose.
    pub faults: bool,
}

impl Default for Shared {
    /// Nothing is shared, no file is looked for elsewhere, and every name is a channel's.
    fn default() -> Shared {
        Shared {
            lists: BTreeMap::new(),
            keys: BTreeMap::new(),
            copies_to: BTreeSet::new(),
            folder: PathBuf::new(),
            comparisons: Arc::default(),
            channel_rule: Arc::new(|_| Ok(())),
            faults: false,
        }
    }
}

/// A key's bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a written stage or sink is: in its pipeline's own list, or in a shared one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The shared list's name.
    pub list: Option<String>,
    /// Its index there, from 0.
    pub index: usize,
    /// Its kind, or the list that it names, as written.
    pub what: String,
}

/// What is wrong with a pipeline, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Wrong {
    /// The pipeline.
    pub pipeline: String,
    /// The stage, if it is one.
    pub stage: Option<Box<Place>>,
    /// The sink, if it is one.
    pub sink: Option<Box<Place>>,
    /// The key in the table of either, if it is one.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pipeline {}", self.pipeline)?;
        if let Some(place) = &self.stage {
            let Place { list, index, what } = &**place;
            write!(f, ", stage {} ({what})", index + 1)?;
            if let Some(list) = list {
                write!(f, " of the list {list}")?;
            }
        }
        if let Some(Place { index, what, .. }) = self.sink.as_deref() {
            write!(f, ", sink {} ({what})", index + 1)?;
        }
        if let Some(key) = &self.key {
            write!(f, ", key {key}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Compiles a pipeline.
pub fn compile(written: &Written, shared: &Shared) -> Result<Pipeline, Wrong> {
    let mut compiler = Compiler { written, shared, slots: Vec::new(), decoded: Decoded::No };
    compiler.list(None, &written.stages, 0)?;
    let traced = compiler.slots.iter().any(|slot| slot.kind == "trace");
    let (name, queue) = (written.name.as_str().into(), written.queue.as_str().into());
    Ok(Pipeline { name, queue, stages: compiler.slots, traced })
}

struct Compiler<'a> {
    written: &'a Written,
    shared: &'a Shared,
    slots: Vec<Slot>,
    decoded: Decoded,
}

/// What the stages so far make of a job's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decoded {
    No,
    /// Lines, which can be decoded further.
    Lines,
    Yes,
}

impl Compiler<'_> {
    fn list(&mut self, list: Option<&str>, tables: &[Table], depth: usize) -> Result<(), Wrong> {
        for (index, table) in tables.iter().enumerate() {
            let word = |key: &str| table.get(key).and_then(Value::as_str).map(str::to_owned);
            let what = word("stage").or_else(|| word("use")).unwrap_or_else(|| "?".into());
            let place = Place { list: list.map(str::to_owned), index, what };
            self.one(table, &place, depth).map_err(|error| match error {
                Error::Bad(Bad { key, message }) => {
                    let (pipeline, stage) = (self.written.name.clone(), Some(Box::new(place)));
                    Wrong { pipeline, stage, sink: None, key, message }
                }
                Error::Wrong(wrong) => wrong,
            })?;
        }
        Ok(())
    }

    fn one(&mut self, table: &Table, place: &Place, depth: usize) -> Result<(), Error> {
        match (table.get("use"), table.get("stage")) {
            (Some(name), None) => self.shared_list(name, table, depth),
            (None, Some(name)) => Ok(self.stage(name, table, place)?),
            (Some(_), Some(_)) => Err(Bad::at("use", "stands alone, without `stage`").into()),
            (None, None) => Err(Bad { key: None, message: "has neither `stage` nor `use`".into() }.into()),
        }
    }

    fn shared_list(&mut self, name: &Value, table: &Table, depth: usize) -> Result<(), Error> {
        if let Some(key) = table.keys().find(|key| *key != "use") {
            return Err(Bad::at(key, "`use` stands alone").into());
        }
        let name = name.as_str().ok_or_else(|| Bad::at("use", "takes a string"))?;
        let lists = &self.shared.lists;
        let list = lists.get(name).ok_or_else(|| {
            let message = format!("there is no shared list `{name}`");
            Bad::at("use", suggest(message, name, lists.keys().map(String::as_str)))
        })?;
        if depth == DEPTH_MAX {
            return Err(Bad::at("use", format!("lists within lists end at {DEPTH_MAX}; one may name itself")).into());
        }
        self.list(Some(name), list, depth + 1).map_err(Error::Wrong)
    }

    fn stage(&mut self, kind: &Value, table: &Table, place: &Place) -> Result<(), Bad> {
        let kind = kind.as_str().ok_or_else(|| Bad::at("stage", "takes a string"))?;
        let kind = registry::find(kind).ok_or_else(|| {
            let message = format!("there is no stage `{kind}`");
            Bad::at("stage", suggest(message, kind, registry::kinds().map(|kind| kind.name)))
        })?;
        check_keys(kind.name, COMMON, kind.keys, table)?;
        self.check_order(kind)?;
        if self.slots.len() == STAGES_MAX {
            return Err(Bad { key: None, message: format!("a pipeline has {STAGES_MAX} stages at most") });
        }
        let Written { name, queue, .. } = self.written;
        let params = Params { keys: kind.keys, table, shared: self.shared, pipeline: name, queue };
        let stage = (kind.build)(&params)?;
        let name = self.name(table, place)?;
        let on_error = on_error(kind, table)?;
        let (counts, stage) = (Arc::new(Counts::default()), Arc::from(stage));
        self.slots.push(Slot { name, kind: kind.name, on_error, counts, written: table.clone(), stage });
        Ok(())
    }

    /// Bytes are decoded once, before anything that needs fields; lines of them may be decoded each. A record that was joined
    /// of several has none of their names: whoever drops it for another would drop jobs that the other does not have.
    fn check_order(&mut self, kind: &StageKind) -> Result<(), Bad> {
        if matches!(kind.name, "dedupe" | "coalesce") && self.slots.iter().any(|slot| slot.kind == "batch") {
            return Err(Bad::at("stage", "goes by single records: put it before `batch`"));
        }
        self.decoded = match (kind.reads, self.decoded) {
            (Reads::Bytes | Reads::Text, Decoded::No) if kind.name == "lines" => Decoded::Lines,
            (Reads::Bytes | Reads::Text, Decoded::No) | (Reads::Text, Decoded::Lines) => Decoded::Yes,
            (Reads::Bytes | Reads::Text, _) => return Err(Bad::at("stage", "the record is decoded already")),
            (Reads::Fields, Decoded::No) => {
                let message = "needs a decoded record: put `json`, `form`, `lines` or `raw` before it";
                return Err(Bad::at("stage", message));
            }
            (Reads::Fields | Reads::Any, decoded) => decoded,
        };
        Ok(())
    }

    /// Counters need a name of their own.
    fn name(&self, table: &Table, place: &Place) -> Result<Arc<str>, Bad> {
        let name: Arc<str> = match table.get("name") {
            Some(name) => name.as_str().ok_or_else(|| Bad::at("name", "takes a string"))?.into(),
            None => format!("{}.{}", self.slots.len() + 1, place.what).into(),
        };
        match self.slots.iter().any(|slot| slot.name == name) {
            true => Err(Bad::at("name", format!("another stage of the pipeline is called `{name}`"))),
            false => Ok(name),
        }
    }
}

/// Unknown keys, and missing ones.
pub(crate) fn check_keys(kind: &str, common: &[Key], keys: &[Key], table: &Table) -> Result<(), Bad> {
    let known = || common.iter().chain(keys);
    if let Some(key) = table.keys().find(|key| !known().any(|known| known.name == *key)) {
        let message = format!("`{kind}` has no such key");
        return Err(Bad::at(key, suggest(message, key, known().map(|known| known.name))));
    }
    let missing = known().find(|key| matches!(key.need, Need::Required) && !table.contains_key(key.name));
    missing.map_or(Ok(()), |key| Err(Bad::at(key.name, format!("is required; it takes a {}", key.form))))
}

fn on_error(kind: &StageKind, table: &Table) -> Result<OnError, Bad> {
    let Some(written) = table.get("on_error") else { return Ok(kind.on_error) };
    let found = OnError::ALL.into_iter().find(|policy| Some(policy.as_str()) == written.as_str());
    found.ok_or_else(|| Bad::at("on_error", "takes retry, dead_letter, drop or pass"))
}

/// A message, and the known name that may have been meant.
pub(crate) fn suggest<'a>(message: String, wrong: &str, known: impl Iterator<Item = &'a str>) -> String {
    match registry::nearest(wrong, known) {
        Some(near) => format!("{message}; did you mean `{near}`?"),
        None => message,
    }
}

/// What ends a list: something wrong at this stage, or what a list within has found.
enum Error {
    Bad(Bad),
    Wrong(Wrong),
}

impl From<Bad> for Error {
    fn from(bad: Bad) -> Error {
        Error::Bad(bad)
    }
}
