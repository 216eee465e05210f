//! A small file that says how far the journal went when somebody was last told so.
//!
//! It is written after each synced commit and never synced itself: after a crash of the process it is exact, after one of the
//! machine it may be old, and it is never ahead of the journal. So a journal that ends before it has lost something.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Two of them, written in turn: a torn one leaves the other.
const SLOT_BYTES: usize = 64 * 1024;

/// Queues of which a slot has room for the last job; those beyond are not named after a loss.
const QUEUES_MAX: usize = 5_000;

/// What was known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The number of the last synced commit.
    pub(super) commit: u64,
    /// The last job of each queue.
    pub(super) jobs: Vec<(u32, u64)>,
}

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct MarkFile(File);

impl MarkFile {
    pub(super) fn open(path: &Path) -> io::Result<MarkFile> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(MarkFile(file))
    }

    pub(super) fn write(&self, mark: &Mark) -> io::Result<()> {
        let mut slot = vec![0; 8];
        slot.extend(mark.commit.to_le_bytes());
        for (queue, job) in mark.jobs.iter().take(QUEUES_MAX) {
            slot.extend(queue.to_le_bytes());
            slot.extend(job.to_le_bytes());
        }
        let length = slot.len() as u32;
        slot[4..8].copy_from_slice(&length.to_le_bytes());
        let sum = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&sum.to_le_bytes());
        self.0.write_all_at(&slot, mark.commit % 2 * SLOT_BYTES as u64)
    }
}

/// The newer of the two; `None` if neither can be read.
pub(super) fn read(path: &Path) -> Option<Mark> {
    let bytes = std::fs::read(path).ok()?;
    let slots = bytes.chunks(SLOT_BYTES).take(2).filter_map(read_slot);
    slots.max_by_key(|mark| mark.commit)
}

fn read_slot(slot: &[u8]) -> Option<Mark> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(slot.get(at..at + 4)?.try_into().ok()?));
    let (sum, length) = (u32_at(0)?, u32_at(4)? as usize);
    let body = slot.get(4..length)?;
    if crc32fast::hash(body) != sum {
        return None;
    }
    let (commit, jobs) = body[4..].split_first_chunk::<8>()?;
    let jobs = jobs.as_chunks::<12>().0.iter().map(|chunk| {
        let (queue, job) = chunk.split_at(4);
        (u32::from_le_bytes(queue.try_into().expect("4 of 12")), u64::from_le_bytes(job.try_into().expect("8 of 12")))
    });
    Some(Mark { commit: u64::from_le_bytes(*commit), jobs: jobs.collect() })
}
