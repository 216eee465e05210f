//! Queues on disk: all that was answered is there after a crash, or the store says what is not.
//!
//! The folder holds `db` (fjall's), `mark` (how far the journal went), `format` and `lock`. One thread writes for all queues
//! (`committer`); data and results stay on disk. What is needed to find jobs is in memory ([`crate::index`]), and so is what attempts
//! left behind (progress, reason), for as long as the job is there: as many bytes as workers like, beside all limits of the queue.
//!
//! Not here: what a verb does to a job or a queue.

mod committer;
mod folder;
mod journal;
mod load;
mod log;
mod mark;
mod queue;
mod repair;
mod rows;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use tokio::sync::mpsc;

use crate::index::Index;
use crate::log::{Keep, Log};
use crate::store::{JobStore, Limits};
use committer::{Committer, Message, Room};
use folder::Folder;
pub use load::Damage;
use load::Loaded;
use log::Logs;
use mark::MarkFile;
use queue::{DiskQueue, Queue, Reader};

/// Verbs that wait for the thread, at most; whoever comes then waits too.
const MESSAGES_MAX: usize = 4_096;

/// Bytes that are left on the disk when jobs are not accepted any more.
pub const RESERVE_BYTES: u64 = 256 << 20;

/// Numbers that are left out when a store is opened: leases that were only handed to the system may have had them.
const NUMBERS_SKIPPED: u64 = 1 << 32;

/// Bytes of new rows that are kept in memory until they go into a table.
const MEMTABLE_BYTES: u64 = 32 << 20;

/// Why a folder is not opened. All that was acknowledged is in it as it was found.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process has it.
    #[error("{} is held by {owner}", path.display())]
    Locked {
        /// The file that is locked.
        path: PathBuf,
        /// Who has it, as they wrote.
        owner: Box<str>,
    },
    /// It is no folder of ours, or of another version.
    #[error("{} says {found:?}, but this version reads {expected:?}", path.display())]
    Format {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: Box<str>,
        /// What it should.
        expected: &'static str,
    },
    /// Something that was acknowledged is missing. [`Disk::repair`] goes on without it.
    #[error("the queues are damaged: {0}")]
    Damaged(Damage),
    /// The disk or its rights.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A folder of queues. Its queues are closed when it is dropped.
pub struct Disk {
    queues: Mutex<HashMap<Box<str>, Arc<Queue>>>,
    messages: mpsc::Sender<Message>,
    reader: Reader,
    logs: Mutex<Logs>,
    committer: Option<JoinHandle<()>>,
    folder: Folder,
}

impl Disk {
    /// Opens a folder, or makes it.
    pub fn open(path: &Path) -> Result<Disk, DiskError> {
        Disk::open_with(path, RESERVE_BYTES)
    }

    /// Opens a folder on whose disk so many bytes are kept free.
    pub fn open_with(path: &Path, reserve_bytes: u64) -> Result<Disk, DiskError> {
        let folder = Folder::open(path)?;
        let mark = mark::read(&folder.mark());
        let journals = journal::check(&folder.database(), mark.as_ref())?;
        if !journals.damage.is_none() {
            return Err(DiskError::Damaged(journals.with_missing()));
        }
        let (database, tables) = open_database(&folder.database())?;
        let loaded = load::load(&tables, mark.as_ref());
        if !loaded.damage.is_none() {
            return Err(DiskError::Damaged(loaded.damage));
        }
        let room = Room::new(path, reserve_bytes)?;
        let mark_file = MarkFile::open(&folder.mark())?;
        if mark.is_none() {
            // The first commits are synced, and the mark will be by and by: without this, a crash of the machine in between
            // would leave them beside no mark, which looks like damage.
            mark_file.write(loaded.commit, std::iter::empty())?;
            mark_file.sync()?;
            folder.sync()?;
        }
        let jobs = |queue: &load::Stored| (queue.number, (queue.index.numbers().jobs, queue.name.clone()));
        let jobs = loaded.queues.iter().map(jobs).collect();
        let reader = Reader(Arc::new(Mutex::new(Some(tables.clone()))));
        let commit = loaded.commit;
        let logs = Mutex::new(Logs::new(database.clone()));
        let committer = Committer { database, tables, mark_file, commit, jobs, room, failed: None };
        let (messages, receiver) = mpsc::channel(MESSAGES_MAX);
        let thread = std::thread::Builder::new().name("queues".into()).spawn(move || committer.run(receiver))?;
        let queues = Mutex::new(queues(loaded));
        Ok(Disk { queues, messages, reader, logs, committer: Some(thread), folder })
    }

    /// Goes on without what is missing, and says what that is. The folder as it was stays beside, as `damaged-…`.
    pub fn repair(path: &Path) -> Result<Damage, DiskError> {
        repair::repair(&Folder::open(path)?)
    }

    /// A queue: one that is there, or a new one.
    pub fn queue(&self, name: &str, limits: Limits) -> Arc<dyn JobStore> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let last = queues.values().map(|queue| queue.number).max().unwrap_or(0);
        let queue = queues.entry(name.into()).or_insert_with(|| {
            let mut index = Index::new(limits);
            index.remember_changes();
            Arc::new(Queue::new(last + 1, name.into(), index, 0, false))
        });
        queue.held().index.set_limits(limits);
        Arc::new(DiskQueue { queue: queue.clone(), acts: self.messages.clone(), reader: self.reader.clone() })
    }

    /// A log: one that is there, or a new one.
    pub fn log(&self, name: &str, keep: Keep) -> Result<Arc<dyn Log>, DiskError> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.log(name, keep, &self.messages).map_err(|error| log::bad_log(&self.folder.database(), &error))
    }

    /// The names of all queues that are there, whether anybody still uses them or not.
    pub fn names(&self) -> Vec<Box<str>> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<_> = queues.keys().cloned().collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The thread is asked first in turn: what was handed to it before is written.
        let mut message = Message::Close;
        while let Err(mpsc::error::TrySendError::Full(unsent)) = self.messages.try_send(message) {
            message = unsent;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if let Some(thread) = self.committer.take() {
            _ = thread.join();
        }
        self.reader.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).close();
    }
}

fn queues(loaded: Loaded) -> HashMap<Box<str>, Arc<Queue>> {
    let queue = |mut stored: load::Stored| {
        let mut numbers = stored.index.numbers();
        numbers.others += NUMBERS_SKIPPED;
        stored.index.set_numbers(numbers);
        let name = stored.name.clone();
        (name, Arc::new(Queue::new(stored.number, stored.name, stored.index, stored.sum, true)))
    };
    loaded.queues.into_iter().map(queue).collect()
}

/// fjall's own checks may fail by panicking.
fn open_database(path: &Path) -> Result<(Database, Keyspace), DiskError> {
    let open = || {
        let database = Database::builder(path).worker_threads(2).cache_size(32 << 20).open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let tables = database.keyspace("queues", options)?;
        Ok((database, tables))
    };
    let opened: Result<_, fjall::Error> = std::panic::catch_unwind(open).unwrap_or(Err(fjall::Error::Unrecoverable));
    opened.map_err(|error| match error {
        fjall::Error::Io(error) if error.raw_os_error().is_some() && error.kind() != io::ErrorKind::NotFound => {
            DiskError::Io(error)
        }
        error => {
            let mut damage = Damage::default();
            damage.add(format!("{} cannot be opened: {error}", path.display()));
            DiskError::Damaged(damage)
        }
    })
}
