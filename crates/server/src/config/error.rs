//! What is wrong with a configuration, said to the person who wrote it: where, what, and the likely cure.

use super::written::{
    Place, WHOLE_NUMBER, Written, WrittenApp, WrittenFirehose, WrittenFirehoseToken, WrittenHistory, WrittenIngest,
    WrittenKey, WrittenLimits, WrittenPipeline, WrittenPushStream, WrittenQueue, WrittenRedis, WrittenRollout,
    WrittenTemplates, WrittenTls, Wrong,
};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read: look at the path and its permissions.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The file as it was named.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something written is wrong: correct it where it stands.
    #[error("{origin}: {message}")]
    Wrong {
        /// Where it stands.
        origin: Origin,
        /// What is wrong with it.
        message: String,
    },
}

/// Where something was written, as its reader would look it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, counted from 1.
    Line {
        /// The file as it was named.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Origin::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Origin::Variable(name) => f.write_str(name),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

impl ConfigError {
    /// Turns a complaint into an error, with the byte it points at made a line of `text`.
    pub(super) fn from_wrong(wrong: Wrong, file: &Path, text: &str) -> ConfigError {
        let origin = match wrong.place {
            Place::Byte(byte) => line_of(file, text, byte),
            Place::Variable(name) => Origin::Variable(name),
            Place::Flag(flag) => Origin::Flag(flag),
        };
        ConfigError::Wrong { origin, message: wrong.message }
    }

    /// Says in words for people what the parser found.
    pub(super) fn from_toml(error: &toml::de::Error, file: &Path, text: &str) -> ConfigError {
        let byte = error.span().map_or(0, |span| span.start);
        ConfigError::Wrong { origin: line_of(file, text, byte), message: in_words(error.message()) }
    }
}

fn line_of(file: &Path, text: &str, byte: usize) -> Origin {
    let before = &text.as_bytes()[..byte.min(text.len())];
    Origin::Line { file: file.to_owned(), line: 1 + before.iter().filter(|&&b| b == b'\n').count() }
}

/// Serde speaks of Rust's types and fields; people wrote keys and numbers.
fn in_words(message: &str) -> String {
    if let Some(unknown) = message.strip_prefix("unknown field ") {
        return unknown_key(unknown);
    }
    message
        .replace("expected u32", &format!("expected {WHOLE_NUMBER}"))
        .replace("expected f64", "expected a number")
        .replace("a boolean", "true or false")
        .replace("a sequence", "a list")
        .replace("sequence,", "list,")
        .replace("map,", "table,")
}

/// `` `lisen`, expected one of `listen`, `loops` `` → a sentence that names the cure.
fn unknown_key(serde_words: &str) -> String {
    let mut names = serde_words.split('`').skip(1).step_by(2);
    let unknown = names.next().unwrap_or_default();
    let known: Vec<&str> = names.collect();
    let near = nearest(unknown, &known);
    // One letter amiss is a slip of the finger, even where another table has a key of that name.
    let slip = near.is_some_and(|near| edits(unknown, near) == 1);
    if let Some(table) = home_of(unknown).filter(|_| !slip) {
        return format!("`{unknown}` belongs in {table}, not here");
    }
    match near {
        Some(near) => format!("unknown key `{unknown}`; the nearest known key is `{near}`"),
        None => format!("unknown key `{unknown}`"),
    }
}

/// The table in which `key` would have been right.
fn home_of(key: &str) -> Option<&'static str> {
    // The limits first: a misplaced `connections_max` is always an app's, as the top of the file knows its own.
    let tables = [
        ("[apps.limits]", WrittenLimits::KEYS),
        ("[[apps]]", WrittenApp::KEYS),
        ("the top of the file, before any [table]", Written::KEYS),
        ("an app's keys", WrittenKey::KEYS),
        ("[[apps.history]]", WrittenHistory::KEYS),
        ("[apps.rollout]", WrittenRollout::KEYS),
        ("[[apps.queues]]", WrittenQueue::KEYS),
        ("[apps.firehose]", WrittenFirehose::KEYS),
        ("a firehose's tokens", WrittenFirehoseToken::KEYS),
        ("[[apps.pipelines]]", WrittenPipeline::KEYS),
        ("[ingest]", WrittenIngest::KEYS),
        ("[tls]", WrittenTls::KEYS),
        ("[push_stream]", WrittenPushStream::KEYS),
        ("[redis]", WrittenRedis::KEYS),
        ("[push_stream.streaming] or another mode's table", WrittenTemplates::KEYS),
    ];
    let home = tables.iter().find(|(_, keys)| keys.contains(&key))?;
    Some(home.0)
}

/// The name that takes the fewest edits to reach.
pub(super) fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().copied().min_by_key(|name| edits(wrong, name))
}

/// Levenshtein's distance: letters to insert, delete or replace.
pub(super) fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_counts_what_a_typist_would_change() {
        assert_eq!(edits("listen", "listen"), 0);
        assert_eq!(edits("lisen", "listen"), 1);
        assert_eq!(edits("", "log"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn the_nearest_name_wins() {
        assert_eq!(nearest("lops", &["log", "loops", "listen"]), Some("loops"));
        assert_eq!(nearest("anything", &[]), None);
    }
}
