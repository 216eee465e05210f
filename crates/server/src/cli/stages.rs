//! `fanfare stages`: what pipelines can be made of, as the page that `docs/ingest-stages.md` is.

use crate::config::IngestSettings;
use crate::ingest::channels;
use crate::ingest::compile::{Means, kinds};
use fanfare_jobs::{pipeline, sinks};

/// Prints the page, or what it says of one stage or sink.
pub fn run(name: Option<&str>) -> anyhow::Result<()> {
    let page = page();
    match name {
        None => print!("{page}"),
        Some(name) => print!("{}", section(&page, name).ok_or_else(|| unknown(name))?),
    }
    Ok(())
}

fn page() -> String {
    let kinds = kinds(&Means::default(), &IngestSettings::default(), channels::kind_to_check());
    format!(
        "# Stages and sinks\n\n\
         What pipelines are made of (see [ingest](ingest.md)). This page is what `fanfare stages` prints.\n\n{}\n{}",
        pipeline::reference(),
        sinks::reference(&kinds)
    )
}

/// What is under the headline of this name, up to the next one.
fn section<'p>(page: &'p str, name: &str) -> Option<&'p str> {
    let begin = page.find(&format!("\n### `{name}`\n"))? + 1;
    let rest = &page[begin..];
    let end = rest.find("\n## ").into_iter().chain(rest[1..].find("\n### ").map(|at| at + 1)).min();
    Some(&rest[..end.map_or(rest.len(), |end| end + 1)])
}

fn unknown(name: &str) -> anyhow::Error {
    anyhow::anyhow!("there is no stage and no sink `{name}`; `fanfare stages` lists them all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_is_what_is_printed() {
        let written = include_str!("../../../../docs/ingest-stages.md");
        assert!(written == page(), "write it anew: fanfare stages > docs/ingest-stages.md");
    }

    #[test]
    fn one_stage_or_sink_can_be_asked_for() {
        let page = page();
        let said = section(&page, "null").expect("it is there");
        assert!(
            said.starts_with("### `null`\n") && said.contains("keeps nothing") && !said[1..].contains("\n#"),
            "{said}"
        );
        assert!(section(&page, "truncate").is_some_and(|said| said.contains("| `chars` |")));
        assert!(section(&page, "nul").is_none());
    }
}
