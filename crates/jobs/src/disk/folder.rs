//! The folder that a disk store lives in: who has it, what is in it, and how much room there is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::DiskError;

/// What the file `format` says.
const FORMAT: &str = "fanfare queues, format 1\n";

/// A folder that this process alone has, until this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes it, if it is not there.
    pub(super) fn open(path: &Path) -> Result<Folder, DiskError> {
        std::fs::create_dir_all(path)?;
        let lock = lock(&path.join("lock"))?;
        let folder = Folder { path: path.into(), _lock: lock };
        folder.check_format()?;
        folder.finish_repair()?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The database.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join("db")
    }

    /// The database that a repair makes.
    pub(super) fn repaired(&self) -> PathBuf {
        self.path.join("new")
    }

    /// See `mark`.
    pub(super) fn mark(&self) -> PathBuf {
        self.path.join("mark")
    }

    fn check_format(&self) -> Result<(), DiskError> {
        let path = self.path.join("format");
        match std::fs::read_to_string(&path) {
            Ok(found) if found == FORMAT => Ok(()),
            Ok(found) => Err(DiskError::Format { path, found: found.trim().into(), expected: FORMAT.trim() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.database().exists() => {
                write_synced(&path, FORMAT.as_bytes())?;
                Ok(self.sync()?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(DiskError::Format { path, found: "nothing".into(), expected: FORMAT.trim() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A repair takes the old database away when the new one is whole; it may have come no further.
    fn finish_repair(&self) -> io::Result<()> {
        if self.database().exists() || !self.repaired().exists() {
            return Ok(());
        }
        std::fs::rename(self.repaired(), self.database())?;
        self.sync()
    }

    /// So that names in it outlive a crash of the machine.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn lock(path: &Path) -> Result<File, DiskError> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            file.read_to_string(&mut owner)?;
            return Err(DiskError::Locked { path: path.into(), owner: owner.trim().into() });
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "process {}", std::process::id())?;
    Ok(file)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Bytes that may still be written to the disk that a folder is on.
pub(super) fn free_bytes(folder: &File) -> io::Result<u64> {
    let found = rustix::fs::fstatvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
