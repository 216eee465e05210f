//! A small file that says how far the journal went when somebody was last told so.
//!
//! It is written after each synced commit and only synced where there was none: after a crash of the process it is exact, after
//! one of the machine it may be old, and it is never ahead of the journal. So a journal that ends before it has lost something,
//! and a mark that cannot be read has been damaged.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Two of them, written in turn: a torn one leaves the other.
const SLOT_BYTES: usize = 64 * 1024;

/// What a queue takes besides its name.
const QUEUE_BYTES: usize = 16;

/// What was known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The number of the last synced commit.
    pub(super) commit: u64,
    /// As many as there is room for: jobs of the others are not named after a loss.
    pub(super) queues: Vec<MarkedQueue>,
}

/// What was known of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MarkedQueue {
    pub(super) number: u32,
    /// The number of its last job.
    pub(super) jobs: u64,
    pub(super) name: Box<str>,
}

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct MarkFile(File);

impl MarkFile {
    pub(super) fn open(path: &Path) -> io::Result<MarkFile> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(MarkFile(file))
    }

    /// So that it outlives a crash of the machine.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    pub(super) fn write<'a>(&self, commit: u64, queues: impl Iterator<Item = (u32, u64, &'a str)>) -> io::Result<()> {
        let mut slot = vec![0; 8];
        slot.extend(commit.to_le_bytes());
        for (number, jobs, name) in queues {
            if slot.len() + QUEUE_BYTES + name.len() > SLOT_BYTES {
                break;
            }
            slot.extend(number.to_le_bytes());
            slot.extend(jobs.to_le_bytes());
            slot.extend((name.len() as u32).to_le_bytes());
            slot.extend(name.as_bytes());
        }
        let length = slot.len() as u32;
        slot[4..8].copy_from_slice(&length.to_le_bytes());
        let sum = crc32fast::hash(&slot[4..]);
        slot[..4].copy_from_slice(&sum.to_le_bytes());
        self.0.write_all_at(&slot, commit % 2 * SLOT_BYTES as u64)
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
    let (commit, mut rest) = body.get(4..)?.split_first_chunk::<8>()?;
    let mut queues = Vec::new();
    while let Some((head, names)) = rest.split_first_chunk::<QUEUE_BYTES>() {
        let (number, jobs) =
            (u32::from_le_bytes(*head.first_chunk()?), u64::from_le_bytes(head[4..12].try_into().ok()?));
        let (name, others) = names.split_at_checked(u32::from_le_bytes(*head.last_chunk()?) as usize)?;
        queues.push(MarkedQueue { number, jobs, name: std::str::from_utf8(name).ok()?.into() });
        rest = others;
    }
    Some(Mark { commit: u64::from_le_bytes(*commit), queues })
}
