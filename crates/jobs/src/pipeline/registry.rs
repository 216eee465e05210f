//! Which kinds of stages there are: the one place that compiling, suggestions and the reference go by.

use std::fmt::Write as _;

use super::condition::FUNCTIONS;
use super::params::{Bad, Params};
use super::scope::META;
use super::stage::{OnError, Stage};
use super::stages;
use super::template::{self, FILTERS, TESTS};

/// A kind of stage.
pub(super) struct StageKind {
    /// As it is written.
    pub(super) name: &'static str,
    /// One sentence or more, in Markdown.
    pub(super) summary: &'static str,
    /// What it takes.
    pub(super) keys: &'static [Key],
    /// What it needs of a record.
    pub(super) reads: Reads,
    /// What is done with what it fails, unless the configuration says otherwise.
    pub(super) on_error: OnError,
    /// Makes one.
    pub(super) build: fn(&Params) -> Result<Box<dyn Stage>, Bad>,
}

/// What a stage needs of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    /// Bytes: it decodes them.
    Bytes,
    /// Bytes too, or what `lines` made of them.
    Text,
    /// What a decode stage left.
    Fields,
    /// Either.
    Any,
}

/// A key of the table of a stage or a sink.
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it takes, in words.
    pub form: &'static str,
    /// Whether it has to be there.
    pub need: Need,
    /// What it means, in Markdown.
    pub doc: &'static str,
}

/// Whether a key has to be there.
pub enum Need {
    /// Yes.
    Required,
    /// No.
    Optional,
    /// If it is not, it is this: JSON.
    Default(&'static str),
}

/// A key that has to be there.
pub const fn required(name: &'static str, form: &'static str, doc: &'static str) -> Key {
    Key { name, form, need: Need::Required, doc }
}

/// A key that may be left out.
pub const fn optional(name: &'static str, form: &'static str, doc: &'static str) -> Key {
    Key { name, form, need: Need::Optional, doc }
}

/// A key that has a default, written as JSON.
pub const fn default(name: &'static str, form: &'static str, json: &'static str, doc: &'static str) -> Key {
    Key { name, form, need: Need::Default(json), doc }
}

/// The keys that every stage takes.
pub(super) const COMMON: &[Key] = &[
    required("stage", "string", "Which kind of stage it is."),
    optional("name", "string", "What it is called in counters and errors; else its place and kind: `2.sanitise`."),
    optional(
        "on_error",
        "string",
        "What is done with a record that it fails: `retry`, `dead_letter`, `drop` or `pass`.",
    ),
];

/// Kinds of stages under a title.
type Group = (&'static str, &'static [&'static [StageKind]]);

const GROUPS: &[Group] = &[
    ("Decode", &[stages::decode::KINDS, stages::schema::KINDS]),
    (
        "Compute",
        &[
            stages::fields::KINDS,
            stages::text::KINDS,
            stages::lookup::KINDS,
            stages::flow::KINDS,
            stages::batch::KINDS,
            stages::memory::KINDS,
        ],
    ),
    ("Protect", &[stages::protect::KINDS]),
    ("Route", &[stages::route::KINDS]),
    ("Observe", &[stages::observe::KINDS, stages::compare::KINDS, stages::fault::KINDS]),
];

/// All kinds of stages.
pub(super) fn kinds() -> impl Iterator<Item = &'static StageKind> {
    GROUPS.iter().flat_map(|(_, lists)| lists.iter().copied().flatten())
}

/// The kind of this name.
pub(super) fn find(name: &str) -> Option<&'static StageKind> {
    kinds().find(|kind| kind.name == name)
}

/// The name that takes the fewest edits to reach.
pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.min_by_key(|name| strsim::damerau_levenshtein(wrong, name))
}

/// What can be written, as Markdown: every kind of stage, its keys, and what becomes of what it fails.
pub fn reference() -> String {
    let mut page = String::from("## Keys of every stage\n\n");
    table(&mut page, COMMON);
    for (title, lists) in GROUPS {
        let _ = write!(page, "\n## {title}\n");
        for kind in lists.iter().copied().flatten() {
            describe(&mut page, kind);
        }
    }
    languages(&mut page);
    page
}

/// What templates and conditions are made of.
fn languages(page: &mut String) {
    let list = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let _ = write!(
        page,
        "\n## Templates and conditions\n\n\
         Both see the record's fields by their names, and the job as `job`, with {meta}; those are there without `job.` too, where \
         no field has that name.\n\n\
         **Templates** are [MiniJinja]: `{{{{ author.name }}}}`, `{{% if tags %}}…{{% endif %}}`, `{{% for tag in tags %}}…{{% endfor \
         %}}`. To print what is not there, or null, is an error; `{{% if it %}}` asks, and `{{{{ it|default('') }}}}` helps. Filters: \
         {filters}. Tests, after `is`: {tests}. A template makes {bytes} bytes at most.\n\n\
         **Conditions** are [CEL]: `kind != 'delete' && size(text) > 0`. Functions: {functions}, and `has`, `all`, `exists`, \
         `exists_one`, `map` and `filter`, not one in another.\n\n\
         [MiniJinja]: https://docs.rs/minijinja/latest/minijinja/syntax/\n[CEL]: https://cel.dev\n",
        meta = list(&META),
        filters = list(&FILTERS),
        tests = list(&TESTS),
        functions = list(&FUNCTIONS),
        bytes = template::BYTES_MAX,
    );
}

fn describe(page: &mut String, kind: &StageKind) {
    let _ = write!(page, "\n### `{}`\n\n{}\n\n", kind.name, kind.summary);
    if !kind.keys.is_empty() {
        table(page, kind.keys);
        page.push('\n');
    }
    let needs = match kind.reads {
        Reads::Bytes => "Takes a job's bytes: it comes first.",
        Reads::Text => "Takes a job's bytes: it comes first; or, after `lines`, the text of each line.",
        Reads::Fields => "Takes decoded records.",
        Reads::Any => "Takes decoded records and others.",
    };
    let _ = writeln!(page, "{needs} `on_error` is `{}` unless said otherwise.", kind.on_error.as_str());
}

/// A table of keys.
pub(crate) fn table(page: &mut String, keys: &[Key]) {
    page.push_str("| key | takes | default | |\n|---|---|---|---|\n");
    for key in keys {
        let default = match key.need {
            Need::Required => "required".to_owned(),
            Need::Optional => String::new(),
            Need::Default(json) => format!("`{json}`"),
        };
        let _ = writeln!(page, "| `{}` | {} | {default} | {} |", key.name, key.form, key.doc);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_is_told_apart_and_its_defaults_can_be_read() {
        let names: BTreeSet<_> = kinds().map(|kind| kind.name).collect();
        assert_eq!(names.len(), kinds().count());
        for kind in kinds() {
            let keys: BTreeSet<_> = COMMON.iter().chain(kind.keys).map(|key| key.name).collect();
            assert_eq!(keys.len(), COMMON.len() + kind.keys.len(), "{}", kind.name);
            for key in kind.keys {
                if let Need::Default(json) = key.need {
                    assert!(serde_json::from_str::<serde_json::Value>(json).is_ok(), "{} {}", kind.name, key.name);
                }
            }
        }
    }

    #[test]
    fn the_reference_names_every_kind_and_key() {
        let page = reference();
        for kind in kinds() {
            let at = page.find(&format!("\n### `{}`\n", kind.name)).expect(kind.name);
            let section = page[at + 1..].split("\n### ").next().expect("a split has a first part");
            for key in kind.keys {
                assert!(section.contains(&format!("| `{}` |", key.name)), "{} {}", kind.name, key.name);
            }
        }
        assert!(!page.contains("  \n") && !page.contains("\n\n\n"));
    }
}
