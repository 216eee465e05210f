//! What queues keep their jobs in: what other nodes share; or else a folder that all of them share, opened when the first
//! one wants it, or memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fanfare_jobs::log::Keep;
use fanfare_jobs::{Disk, DiskError, JobStore, Log, MemoryLog, MemoryStore};

use crate::config::{Durability, QueueSettings};

/// Why a queue has nothing to keep its jobs in.
#[derive(Debug, thiserror::Error)]
pub enum BadStore {
    /// There is no folder.
    #[error(
        "{0} is to be kept on disk, and the data directory cannot be written to: \
         give the server another one (`data_dir`), or it durability = \"memory\""
    )]
    NoFolder(Box<str>),
    /// Jobs that were accepted are not there.
    #[error("{0}; `fanfare jobs repair` goes on without what is missing, and leaves the folder as it was beside it")]
    Damaged(DiskError),
    /// In use, of another version, or not to be read.
    #[error("the queues cannot be opened: {0}")]
    Disk(DiskError),
}

impl From<DiskError> for BadStore {
    fn from(error: DiskError) -> BadStore {
        match error {
            DiskError::Damaged(_) => BadStore::Damaged(error),
            DiskError::Locked { .. } | DiskError::Format { .. } | DiskError::Io(_) => BadStore::Disk(error),
        }
    }
}

/// Where queues have their jobs.
pub enum Kept {
    /// In this process: on disk in a folder, if there is one, or in memory.
    Here(Option<PathBuf>),
    /// Where other nodes have them too, whatever their durability.
    Shared(Box<dyn Shared>),
}

/// What nodes share.
pub trait Shared: Send + Sync {
    /// The store of an app's queue.
    fn queue(&self, app: &str, settings: &QueueSettings) -> Arc<dyn JobStore>;

    /// An app's log.
    fn log(&self, app: &str, durability: Durability, keep: Keep) -> Arc<dyn Log>;
}

/// The stores of a node.
pub struct Stores {
    kept: Kept,
    /// Whether memory will do where there is no folder: nobody has asked for more.
    lenient: bool,
    disk: Mutex<Option<Disk>>,
}

impl Stores {
    /// Stores that are kept there.
    pub fn new(kept: Kept, lenient: bool) -> Stores {
        Stores { kept, lenient, disk: Mutex::default() }
    }

    /// That of one queue. May take as long as reading all queues does.
    pub fn store(&self, app: &str, settings: &QueueSettings) -> Result<Arc<dyn JobStore>, BadStore> {
        let name = full_name(app, &settings.name);
        let folder = match &self.kept {
            Kept::Here(folder) => folder,
            Kept::Shared(shared) => return Ok(shared.queue(app, settings)),
        };
        match (settings.durability, folder) {
            (Durability::Memory, _) => Ok(Arc::new(MemoryStore::new(settings.limits))),
            (Durability::Disk, None) if self.lenient => {
                tracing::warn!(queue = &*name, "no data directory: jobs will end with this process");
                Ok(Arc::new(MemoryStore::new(settings.limits)))
            }
            (Durability::Disk, None) => Err(BadStore::NoFolder(format!("the queue {name}").into())),
            (Durability::Disk, Some(folder)) => self.on_folder(folder, |disk| Ok(disk.queue(&name, settings.limits))),
        }
    }

    /// An app's log.
    pub fn log(&self, app: &str, durability: Durability, keep: Keep) -> Result<Arc<dyn Log>, BadStore> {
        let folder = match &self.kept {
            Kept::Here(folder) => folder,
            Kept::Shared(shared) => return Ok(shared.log(app, durability, keep)),
        };
        match (durability, folder) {
            (Durability::Memory, _) => Ok(Arc::new(MemoryLog::new(keep))),
            (Durability::Disk, None) => Err(BadStore::NoFolder(format!("the firehose of app {app}").into())),
            (Durability::Disk, Some(folder)) => self.on_folder(folder, |disk| disk.log(app, keep)),
        }
    }

    fn on_folder<T>(&self, folder: &Path, get: impl FnOnce(&Disk) -> Result<T, DiskError>) -> Result<T, BadStore> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = match &mut *disk {
            Some(disk) => disk,
            none => none.insert(Disk::open(folder)?),
        };
        Ok(get(disk)?)
    }

    /// Whether other nodes have the same.
    pub fn are_shared(&self) -> bool {
        matches!(self.kept, Kept::Shared(_))
    }

    /// Queues on disk, by their full names, whether anybody uses them or not.
    pub fn on_disk(&self) -> Vec<Box<str>> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.as_ref().map(Disk::names).unwrap_or_default()
    }

    /// Ends them; what was accepted is on disk when this returns.
    pub fn close(&self) {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A queue's name among those of all apps.
pub fn full_name(app: &str, queue: &str) -> Box<str> {
    format!("{app}/{queue}").into()
}
