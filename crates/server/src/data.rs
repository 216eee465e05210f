//! The data directory: what a server leaves behind for the one that starts in its place.
//!
//! Histories are written when the server has stopped in good order, and taken away when the next one starts. So after a
//! crash there are none, the epochs are new, and clients are told that something may be missing. Revocations of tokens are
//! written as they come, as a crash must let nobody in; so is what pipelines publish (`ingest::recall`). The queues' own folder
//! is in it too.
//!
//! Always true:
//! - a history is whole or not there, and is read at most once;
//! - no two servers use a directory at the same time;
//! - a file that cannot be used, or a directory that cannot be made, costs the histories and nothing else.

mod journal;
mod recent;

pub use journal::Journal;
pub use recent::Recent;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fanfare_hub::memory::{BadSnapshot, Snapshot};

const LOCK: &str = "lock";
const HISTORY: &str = "history";
/// Where a history is written before it gets its name.
const UNFINISHED: &str = "history.unfinished";
/// Tokens that were taken back.
const REVOKED: &str = "revoked";
/// What pipelines have published lately.
const PUBLISHED: &str = "published";
/// Jobs (`queues`).
const QUEUES: &str = "queues";
/// What was published and delivered so far (`ledger`).
const LIFE: &str = "life";
/// Where a history that could not be read waits for somebody to look at it.
const REFUSED: &str = "history.refused";

/// A data directory that is ours until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Unlocked by its end, however that comes.
    _lock: File,
}

/// Why a server must not start with a data directory.
#[derive(Debug, thiserror::Error)]
pub enum BadDataDir {
    /// Another server would be robbed of its histories.
    #[error("the data directory {} is in use by another server: give this one its own (`data_dir`)", .0.display())]
    Taken(PathBuf),
}

/// Why a history is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Content(#[from] BadSnapshot),
}

impl DataDir {
    /// Makes the directory where it is missing, and locks it. `None` if it cannot be written to: then there is nothing
    /// to read in it either, and the server runs without.
    pub fn open(path: &Path) -> Result<Option<DataDir>, BadDataDir> {
        let lock = match make(path).and_then(|()| create(&path.join(LOCK))) {
            Ok(lock) => lock,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no data directory: histories will end with this process");
                return Ok(None);
            }
        };
        match lock.try_lock() {
            Ok(()) => Ok(Some(DataDir { path: path.into(), _lock: lock })),
            Err(TryLockError::WouldBlock) => Err(BadDataDir::Taken(path.into())),
            Err(TryLockError::Error(error)) => {
                // A file system without locks: better unguarded than without histories.
                tracing::warn!(path = %path.display(), %error, "the data directory cannot be locked");
                Ok(Some(DataDir { path: path.into(), _lock: lock }))
            }
        }
    }

    /// Takes away the histories that the last server left, if it stopped in good order.
    pub fn take_history(&self) -> Option<Snapshot> {
        match self.read_history() {
            Ok(snapshot) => {
                let (channels, publications) = (snapshot.channels(), snapshot.publications());
                tracing::info!(channels, publications, "histories read");
                Some(snapshot)
            }
            Err(Unusable::File(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "histories not read; all begin anew");
                None
            }
        }
    }

    fn read_history(&self) -> Result<Snapshot, Unusable> {
        let file = self.path.join(HISTORY);
        let bytes = std::fs::read(&file)?;
        // Before it is used: should this process crash, the next one must not find it.
        std::fs::rename(&file, self.path.join(REFUSED))?;
        self.sync()?;
        let snapshot = Snapshot::read(&bytes, now_ms())?;
        std::fs::remove_file(self.path.join(REFUSED))?;
        Ok(snapshot)
    }

    /// The folder of the queues, which have a lock of their own: they are repaired while no server runs.
    pub fn queues(&self) -> PathBuf {
        queues_in(&self.path)
    }

    /// Where pipelines write down what they publish, and what stands there. `None` if it cannot be.
    pub fn published(&self) -> Option<(Recent, String)> {
        let opened = Recent::open(self.path.join(PUBLISHED));
        let failed =
            |error| tracing::error!(path = %self.path.display(), %error, "publications cannot be written down");
        opened.map_err(failed).ok()
    }

    /// The file of what was published and delivered so far.
    pub fn life(&self) -> PathBuf {
        self.path.join(LIFE)
    }

    /// Where revocations are written down, and what stands there. `None` if it cannot be: they end with this process.
    pub fn revocations(&self) -> Option<(Journal, String)> {
        let opened = Journal::open(self.path.join(REVOKED));
        let failed = |error| tracing::error!(path = %self.path.display(), %error, "revocations cannot be kept");
        opened.map_err(failed).ok()
    }

    /// Leaves the histories for the next server.
    pub fn put_history(&self, snapshot: &Snapshot) {
        match self.write_history(snapshot) {
            Ok(()) => {
                let (channels, publications) = (snapshot.channels(), snapshot.publications());
                tracing::info!(channels, publications, "histories written");
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "histories not written; all will begin anew");
            }
        }
    }

    fn write_history(&self, snapshot: &Snapshot) -> io::Result<()> {
        let unfinished = self.path.join(UNFINISHED);
        let mut out = BufWriter::new(create(&unfinished)?);
        snapshot.write(&mut out, now_ms())?;
        out.flush()?;
        out.get_ref().sync_all()?;
        std::fs::rename(&unfinished, self.path.join(HISTORY))?;
        self.sync()
    }

    /// Makes what was renamed last.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// The folder of the queues in a data directory.
pub fn queues_in(data_dir: &Path) -> PathBuf {
    data_dir.join(QUEUES)
}

/// Readable to nobody else: histories hold what users wrote.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The time of day, in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as u64
}
