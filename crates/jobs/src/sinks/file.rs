//! Records as lines of JSON in a file.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::text::{data, envelope, line};
use super::writer::Writer;
use super::{Delivery, Sink, SinkError};

/// What is written of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// All that is known of it.
    Record,
    /// Its data.
    Data,
}

/// A file that takes records.
pub(super) struct File {
    pub(super) writer: Arc<Writer>,
    pub(super) form: Form,
}

#[async_trait]
impl Sink for File {
    async fn deliver(&self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let value = match self.form {
            Form::Record => envelope(delivery),
            Form::Data => data(delivery),
        };
        self.writer.write(line(&value?)).await.map_err(SinkError::away)
    }
}

/// A path below the folder that sinks may write to; `None` if it leads out of it.
pub(super) fn confined(folder: &Path, written: &str) -> Option<PathBuf> {
    let path = Path::new(written);
    let stays = path.components().all(|component| matches!(component, Component::Normal(_)));
    (stays && path.file_name().is_some()).then(|| folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_its_folder() {
        let folder = Path::new("/var/out");
        assert_eq!(confined(folder, "a/b.ndjson").as_deref(), Some(Path::new("/var/out/a/b.ndjson")));
        for out in ["", "/etc/passwd", "../a", "a/../../b", ".", ".."] {
            assert_eq!(confined(folder, out), None, "{out:?}");
        }
    }
}
