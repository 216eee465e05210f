//! What has been done of a job, for whoever has it next: which pipelines have begun with it, and which of their sinks have
//! all of its records.
//!
//! Written as JSON: `{"comments":["1.channels","2.file"]}`; `"*"` stands for a pipeline that is done with the job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Every sink.
const ALL: &str = "*";

type Done = BTreeMap<String, BTreeSet<String>>;

/// Of one job.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Done>);

impl Progress {
    /// What was written; what nobody here has written says nothing.
    pub(super) fn read(bytes: &[u8]) -> Progress {
        Progress(Mutex::new(serde_json::from_slice(bytes).unwrap_or_default()))
    }

    pub(super) fn write(&self) -> Bytes {
        let done = self.done();
        match done.is_empty() {
            true => Bytes::new(),
            false => serde_json::to_vec(&*done).expect("strings are JSON").into(),
        }
    }

    pub(super) fn has(&self, pipeline: &str, sink: &str) -> bool {
        self.done().get(pipeline).is_some_and(|sinks| sinks.contains(ALL) || sinks.contains(sink))
    }

    pub(super) fn has_all(&self, pipeline: &str) -> bool {
        self.has(pipeline, ALL)
    }

    /// A pipeline has the job; answers whether it is its first time.
    pub(super) fn begin(&self, pipeline: &str) -> bool {
        let mut done = self.done();
        let first = !done.contains_key(pipeline);
        if first {
            done.insert(pipeline.to_owned(), BTreeSet::new());
        }
        first
    }

    pub(super) fn add(&self, pipeline: &str, sink: &str) {
        self.done().entry(pipeline.to_owned()).or_default().insert(sink.to_owned());
    }

    pub(super) fn add_all(&self, pipeline: &str) {
        self.add(pipeline, ALL);
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_as_it_was_written() {
        let progress = Progress::read(b"");
        assert_eq!(progress.write(), "");
        assert!(progress.begin("a"));
        assert_eq!(progress.write(), r#"{"a":[]}"#);
        assert!(!Progress::read(&progress.write()).begin("a"));
        progress.add("a", "1.http");
        progress.add_all("b");
        let again = Progress::read(&progress.write());
        assert!(again.has("a", "1.http") && !again.has("a", "2.file") && !again.has_all("a"));
        assert!(again.has_all("b") && again.has("b", "1.http"));
        assert_eq!(progress.write(), r#"{"a":["1.http"],"b":["*"]}"#);
    }

    #[test]
    fn what_somebody_else_has_written_says_nothing() {
        for bytes in ["half done", "17", r#"{"a":1}"#] {
            assert_eq!(Progress::read(bytes.as_bytes()).write(), "");
        }
    }
}
