//! What is written of pipelines, made into what runs.
//!
//! Always true: what [`check`] has accepted, [`lane`] compiles too, but for files that have changed since.

use std::collections::BTreeSet;
use std::sync::Arc;

use fanfare_jobs::pipeline::{self, Comparisons, Pipeline, Shared, Written, Wrong};
use fanfare_jobs::sinks::{self, Outlet, SinkKind, World, Writers};
use fanfare_jobs::worker::Lane;
use fanfare_proto::channel::ChannelName;

use super::{channels, edges};
use crate::config::{AppSettings, IngestSettings, PipelineSettings};

/// What compiled pipelines need of this process, whatever the configuration says.
#[derive(Clone, Default)]
pub struct Means {
    client: sinks::Client,
    writers: Writers,
    comparisons: Arc<Comparisons>,
}

/// Compiles a pipeline, to see whether it can be.
pub fn check(app: &AppSettings, pipeline: &PipelineSettings, ingest: &IngestSettings) -> Result<(), Wrong> {
    let kinds = kinds(&Means::default(), ingest, channels::kind_to_check());
    compile(app, pipeline, ingest, &Means::default(), &kinds).map(drop)
}

/// Compiles a pipeline with its sinks, of which `channels` is one.
pub fn lane(
    app: &AppSettings,
    pipeline: &PipelineSettings,
    ingest: &IngestSettings,
    means: &Means,
    channels: SinkKind,
) -> Result<Lane, Wrong> {
    let kinds = kinds(means, ingest, channels);
    let (compiled, outlets) = compile(app, pipeline, ingest, means, &kinds)?;
    Ok(Lane::new(compiled, outlets, pipeline.shadow))
}

/// All kinds of sinks that this server has.
pub fn kinds(means: &Means, ingest: &IngestSettings, channels: SinkKind) -> Vec<SinkKind> {
    let world = World { client: means.client.clone(), writers: means.writers.clone(), folder: ingest.file_dir.clone() };
    [channels, edges::kind(world.clone())].into_iter().chain(sinks::kinds(&world)).collect()
}

fn compile(
    app: &AppSettings,
    pipeline: &PipelineSettings,
    ingest: &IngestSettings,
    means: &Means,
    kinds: &[SinkKind],
) -> Result<(Pipeline, Vec<Outlet>), Wrong> {
    let channel_name_len_max = app.limits.channel_name_len_max;
    let rule = move |name: &str| match ChannelName::parse(name, channel_name_len_max) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let shared = Shared {
        lists: ingest.lists.clone(),
        keys: ingest.keys.clone(),
        copies_to: siblings(app, pipeline),
        folder: ingest.folder.clone(),
        comparisons: means.comparisons.clone(),
        channel_rule: Arc::new(rule),
        faults: ingest.faults,
    };
    let written =
        Written { name: pipeline.name.to_string(), queue: pipeline.queue.to_string(), stages: pipeline.stages.clone() };
    let outlets = sinks::compile(&written, &pipeline.sinks, kinds, &shared);
    let (compiled, outlets) = (pipeline::compile(&written, &shared)?, outlets?);
    // Both are parts of the pipeline in counters and alarms.
    let names = |outlet: &&Outlet| compiled.stages().iter().any(|slot| slot.name == outlet.name);
    match outlets.iter().find(names) {
        Some(twice) => {
            let message = format!("a stage and a sink are both called `{}`", twice.name);
            Err(Wrong { pipeline: written.name, stage: None, sink: None, key: None, message })
        }
        None => Ok((compiled, outlets)),
    }
}

/// The other pipelines of the same queue.
pub fn siblings(app: &AppSettings, pipeline: &PipelineSettings) -> BTreeSet<String> {
    let others = app.pipelines.iter().filter(|other| other.queue == pipeline.queue && other.name != pipeline.name);
    others.map(|other| other.name.to_string()).collect()
}
