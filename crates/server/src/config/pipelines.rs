//! Pipelines, the lists of stages that they share, and what they may do beyond this process.
//!
//! Always true of what was checked: each pipeline compiles, and takes jobs of a queue of its app.

use super::check::{any, number};
use super::written::{At, Place, WrittenIngest, WrittenPart, WrittenPipeline, Wrong};
use super::{AppSettings, COMMENTS, QueueSettings, queues};
use crate::ingest::compile;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fanfare_jobs::pipeline::{self, Table};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const HOUR_S: u32 = 60 * 60;

/// Before a key that is written in Base64.
const BASE64: &str = "base64:";

/// One `[[apps.pipelines]]`.
#[derive(Clone, PartialEq, Eq)]
pub struct PipelineSettings {
    /// In errors and counters.
    pub name: Arc<str>,
    /// Whose jobs it takes.
    pub queue: Arc<str>,
    /// Whether it is only tried out: no job waits for it.
    pub shadow: bool,
    /// What is done with a job.
    pub stages: Vec<Table>,
    /// Where it goes.
    pub sinks: Vec<Table>,
}

/// Without its stages and sinks, whose headers may hold what is nobody else's business.
impl fmt::Debug for PipelineSettings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let PipelineSettings { name, queue, shadow, .. } = self;
        let mut pipeline = f.debug_struct("PipelineSettings");
        pipeline.field("name", name).field("queue", queue).field("shadow", shadow).finish_non_exhaustive()
    }
}

impl PipelineSettings {
    /// The development app's: comments as a site would save them, to everybody whom they concern.
    pub(super) fn of_comments() -> PipelineSettings {
        let table = |value| match value {
            serde_json::Value::Object(table) => table,
            _ => unreachable!("all of them are objects"),
        };
        let stages = [
            json!({ "stage": "json" }),
            // Before it becomes HTML, which it would cut in the middle of something.
            json!({ "stage": "truncate", "field": "text", "chars": 2000 }),
            json!({ "stage": "sanitise", "fields": ["text"] }),
            json!({
                "stage": "route",
                "channels": ["forum.{{ forum }}", "thread.{{ thread }}", "user.{{ user }}", "post.{{ id }}"],
            }),
        ];
        PipelineSettings {
            name: COMMENTS.into(),
            queue: COMMENTS.into(),
            shadow: false,
            stages: stages.map(table).into(),
            sinks: vec![table(json!({ "sink": "channels" }))],
        }
    }
}

/// What the pipelines of all apps share: `[stages]` and `[ingest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestSettings {
    /// Lists of stages, by name.
    pub lists: BTreeMap<String, Vec<Table>>,
    /// Keys to encrypt, to hash and to sign with, by name.
    pub keys: BTreeMap<String, pipeline::Secret>,
    /// Whether stages may do harm on purpose.
    pub faults: bool,
    /// Where the configuration is, and files that stages name.
    pub folder: PathBuf,
    /// Where file sinks may write.
    pub file_dir: Option<PathBuf>,
    /// A stage or a sink that has input for so long and gets nowhere raises an alarm.
    pub stuck_after: Duration,
}

impl Default for IngestSettings {
    fn default() -> IngestSettings {
        IngestSettings {
            lists: BTreeMap::new(),
            keys: BTreeMap::new(),
            faults: false,
            folder: PathBuf::new(),
            file_dir: None,
            stuck_after: Duration::from_secs(60),
        }
    }
}

/// Shared lists, as they are written.
pub(super) type Lists = BTreeMap<String, At<Vec<At<WrittenPart>>>>;

/// Checks what all pipelines share. The lists themselves are checked where they are used.
pub(super) fn shared(written: WrittenIngest, lists: &Lists, folder: &Path) -> Result<IngestSettings, Wrong> {
    let default = IngestSettings::default();
    let keys = any(written.keys, BTreeMap::new()).into_iter();
    let stuck_after_s = number(written.stuck_after_s, 1..=HOUR_S, default.stuck_after.as_secs())?;
    Ok(IngestSettings {
        lists: lists.iter().map(|(name, list)| (name.clone(), tables(&list.value))).collect(),
        keys: keys.map(|(name, key)| Ok((name, secret(key)?))).collect::<Result<_, Wrong>>()?,
        faults: any(written.faults, default.faults),
        folder: folder.into(),
        file_dir: written.file_dir.map(|folder| folder.value.into()),
        stuck_after: Duration::from_secs(stuck_after_s),
    })
}

/// A key is its text, or what its text stands for in Base64.
fn secret(At { value, place }: At<String>) -> Result<pipeline::Secret, Wrong> {
    let bytes = match value.strip_prefix(BASE64) {
        Some(encoded) => {
            let decoded = BASE64_STANDARD.decode(encoded.trim());
            decoded.map_err(|_| Wrong::at(place.clone(), format!("what follows `{BASE64}` is not Base64")))?
        }
        None => value.into_bytes(),
    };
    if bytes.is_empty() {
        return Err(Wrong::at(place, "a key must not be empty"));
    }
    Ok(pipeline::Secret(bytes))
}

/// Checks the pipelines of an app whose other settings are known.
pub(super) fn checked(
    written: Vec<At<WrittenPipeline>>,
    app: &AppSettings,
    ingest: &IngestSettings,
    lists: &Lists,
) -> Result<Vec<PipelineSettings>, Wrong> {
    let mut pipelines: Vec<PipelineSettings> = Vec::with_capacity(written.len());
    for at in &written {
        let pipeline = settings(at, &app.queues)?;
        if pipelines.iter().any(|other| other.name == pipeline.name) {
            let message = format!("this app has a pipeline \"{}\" already", pipeline.name);
            return Err(Wrong::at(at.value.name.as_ref().map_or(&at.place, |name| &name.place).clone(), message));
        }
        pipelines.push(pipeline);
    }
    // Once all names are known, as one may give copies to another.
    let app = AppSettings { pipelines, ..app.clone() };
    for (pipeline, written) in app.pipelines.iter().zip(&written) {
        compile::check(&app, pipeline, ingest)
            .map_err(|wrong| Wrong::at(place_of(&wrong, written, lists), wrong.to_string()))?;
    }
    Ok(app.pipelines)
}

fn settings(
    At { value: written, place }: &At<WrittenPipeline>,
    queues: &[QueueSettings],
) -> Result<PipelineSettings, Wrong> {
    let Some(name) = &written.name else {
        return Err(Wrong::at(place.clone(), "a pipeline needs a `name`"));
    };
    let name = queues::name(name, "a pipeline's")?;
    let Some(At { value: queue, place: queue_place }) = &written.queue else {
        return Err(Wrong::at(place.clone(), format!("pipeline {name} needs the `queue` whose jobs it takes")));
    };
    let Some(known) = queues.iter().find(|known| *known.name == **queue) else {
        let names: Vec<&str> = queues.iter().map(|queue| &*queue.name).collect();
        let known = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
        let message = format!("pipeline {name}: this app has no queue \"{queue}\"; {known}");
        return Err(Wrong::at(queue_place.clone(), message));
    };
    let parts = |parts: &Option<At<Vec<At<WrittenPart>>>>| parts.as_ref().map_or(Vec::new(), |at| tables(&at.value));
    let sinks = parts(&written.sinks);
    if sinks.is_empty() {
        let message = format!("pipeline {name} needs `sinks`, such as sinks = [{{ sink = \"channels\" }}]");
        return Err(Wrong::at(written.sinks.as_ref().map_or(place, |sinks| &sinks.place).clone(), message));
    }
    Ok(PipelineSettings {
        name: name.into(),
        queue: known.name.clone(),
        shadow: written.shadow.as_ref().is_some_and(|shadow| shadow.value),
        stages: parts(&written.stages),
        sinks,
    })
}

fn tables(parts: &[At<WrittenPart>]) -> Vec<Table> {
    let table = |part: &At<WrittenPart>| {
        part.value.iter().map(|(key, value)| (key.clone(), value.value.clone())).collect::<Table>()
    };
    parts.iter().map(table).collect()
}

/// Where something that does not compile was written: the key, or else its stage or sink, or else the pipeline.
fn place_of(wrong: &pipeline::Wrong, At { value: written, place }: &At<WrittenPipeline>, lists: &Lists) -> Place {
    let of_list = |list: &String| lists.get(list).map(|list| &list.value);
    let own = |parts: &'_ Option<At<Vec<At<WrittenPart>>>>| parts.as_ref().map(|parts| parts.value.clone());
    let part = match (wrong.stage.as_deref(), wrong.sink.as_deref()) {
        (Some(pipeline::Place { list: Some(list), index, .. }), _) => {
            of_list(list).and_then(|list| list.get(*index)).cloned()
        }
        (Some(place), _) => own(&written.stages).and_then(|stages| stages.get(place.index).cloned()),
        (None, Some(place)) => own(&written.sinks).and_then(|sinks| sinks.get(place.index).cloned()),
        (None, None) => None,
    };
    let Some(part) = part else { return place.clone() };
    let key = wrong.key.as_ref().and_then(|key| part.value.get(key));
    key.map_or(part.place, |value| value.place.clone())
}
