//! How what is written of a pipeline's sinks is compiled: with the means that stages use too.
//!
//! Always true: compiling opens nothing and calls nobody.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::Value;

use super::{Outlet, Sink};
use crate::pipeline::{
    Bad, Key, Params, Place, Shared, Table, Written, Wrong, check_keys, default, optional, required, suggest, table,
};

/// Targets of all sinks of one pipeline.
const OUTLETS_MAX: usize = 64;

/// One that a sink's table names.
pub struct Target {
    /// Whether jobs wait for it; if it is not said, the sink's `required` is.
    pub optional: bool,
    /// Takes records.
    pub sink: Arc<dyn Sink>,
}

/// Makes the targets of a table: one or more.
pub type Build = Box<dyn Fn(&Params) -> Result<Vec<Target>, Bad> + Send + std::marker::Sync>;

/// A kind of sink.
pub struct SinkKind {
    /// As it is written.
    pub name: &'static str,
    /// One sentence or more, in Markdown.
    pub summary: &'static str,
    /// What it takes, beside what all do.
    pub keys: &'static [Key],
    /// Records that a target is handed at once, unless the configuration says otherwise.
    pub at_once: usize,
    /// Makes its targets.
    pub build: Build,
}

/// The keys that every sink takes.
const COMMON: &[Key] = &[
    required("sink", "string", "Which kind of sink it is."),
    optional("name", "string", "What it is called in counters and errors; else its place and kind: `1.http`."),
    default("required", "boolean", "true", "Whether a job waits until the sink has confirmed."),
    optional("at_once", "number", "How many records a target is handed at once."),
];

/// Compiles the sinks of a pipeline.
pub fn compile(pipeline: &Written, sinks: &[Table], kinds: &[SinkKind], shared: &Shared) -> Result<Vec<Outlet>, Wrong> {
    let mut outlets = Vec::new();
    let mut names = BTreeSet::new();
    for (index, table) in sinks.iter().enumerate() {
        let what = table.get("sink").and_then(Value::as_str).unwrap_or("?").to_owned();
        let compiled = outlets_of(pipeline, index, table, kinds, shared).and_then(|more| {
            let twice = more.iter().find(|outlet| !names.insert(outlet.name.clone()));
            if let Some(outlet) = twice {
                return Err(Bad::at("name", format!("another sink of the pipeline is called `{}`", outlet.name)));
            }
            outlets.extend(more);
            match outlets.len() > OUTLETS_MAX {
                true => Err(Bad { key: None, message: format!("a pipeline has {OUTLETS_MAX} targets at most") }),
                false => Ok(()),
            }
        });
        compiled.map_err(|Bad { key, message }| Wrong {
            pipeline: pipeline.name.clone(),
            stage: None,
            sink: Some(Box::new(Place { list: None, index, what })),
            key,
            message,
        })?;
    }
    Ok(outlets)
}

fn outlets_of(
    pipeline: &Written,
    index: usize,
    table: &Table,
    kinds: &[SinkKind],
    shared: &Shared,
) -> Result<Vec<Outlet>, Bad> {
    let Some(written) = table.get("sink").and_then(Value::as_str) else {
        return Err(Bad::at("sink", "is required; it takes a string"));
    };
    let kind = kinds.iter().find(|kind| kind.name == written).ok_or_else(|| {
        let message = format!("there is no sink `{written}`");
        Bad::at("sink", suggest(message, written, kinds.iter().map(|kind| kind.name)))
    })?;
    check_keys(kind.name, COMMON, kind.keys, table)?;
    let params = |keys| Params { keys, table, shared, pipeline: &pipeline.name, queue: &pipeline.queue };
    let common = params(COMMON);
    let name = common.opt_text("name")?.unwrap_or_else(|| format!("{}.{}", index + 1, kind.name));
    if name == "*" {
        return Err(Bad::at("name", "`*` stands for all sinks of a pipeline"));
    }
    let required = common.flag("required")?;
    let at_once = common.opt_number("at_once", 1..=100_000)?.map_or(kind.at_once, |at_once| at_once as usize);
    let targets = (kind.build)(&params(kind.keys))?;
    let several = targets.len() > 1;
    let outlet = |(n, target): (usize, Target)| {
        let name = if several { format!("{name}.{}", n + 1) } else { name.clone() };
        Outlet::new([&pipeline.name, &name], kind.name, required && !target.optional, at_once, target.sink)
    };
    Ok(targets.into_iter().enumerate().map(outlet).collect())
}

/// What can be written of sinks, as Markdown.
pub fn reference(kinds: &[SinkKind]) -> String {
    let mut page = String::from("## Keys of every sink\n\n");
    table(&mut page, COMMON);
    page.push_str("\n## Sinks\n");
    for kind in kinds {
        let _ = write!(page, "\n### `{}`\n\n{}\n", kind.name, kind.summary);
        if !kind.keys.is_empty() {
            page.push('\n');
            table(&mut page, kind.keys);
        }
        let _ = writeln!(page, "\n`at_once` is {} unless said otherwise.", kind.at_once);
    }
    page
}
