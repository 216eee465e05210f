//! Looks through the journals before the database does, which would cut them off where they are damaged.
//!
//! It reads what fjall 3 writes: `start (count, seqno) · items · end (xxh3 of the items, "FJL" 3)`. A journal ends with zeros,
//! or with a batch that a crash left unfinished; that is no damage. One with good batches behind a bad one has been damaged.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::rows;

/// The last bytes of each batch.
const TRAILER: &[u8] = b"FJL\x03";

/// What was found in one journal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The good batches, and the commits that they are.
    pub(super) good: Vec<(Range<usize>, Option<u64>)>,
    /// Where something else begins that is not only zeros.
    pub(super) bad: Vec<usize>,
}

/// The journals of a database, oldest first. The last is the one that is written.
pub(super) fn journals(database: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    let number = |path: &Path| path.file_stem().and_then(OsStr::to_str)?.parse::<u64>().ok();
    let journals = paths.into_iter().filter(|path| path.extension() == Some(OsStr::new("jnl")));
    let mut numbered: Vec<_> = journals.filter_map(|path| Some((number(&path)?, path))).collect();
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// Reads a journal from end to end.
pub(super) fn look_through(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut at = 0;
    while at < bytes.len() {
        if let Some((length, commit)) = batch(&bytes[at..]) {
            found.good.push((at..at + length, commit));
            at += length;
            continue;
        }
        if bytes[at..].iter().all(|byte| *byte == 0) {
            break;
        }
        found.bad.push(at);
        at = next_start(bytes, at).unwrap_or(bytes.len());
    }
    found
}

/// Behind the next trailer that a whole batch follows.
fn next_start(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += bytes[at..].windows(TRAILER.len()).position(|window| window == TRAILER)? + TRAILER.len();
        if batch(&bytes[at..]).is_some() {
            return Some(at);
        }
    }
}

/// The length and the commit of the batch that the bytes begin with.
fn batch(bytes: &[u8]) -> Option<(usize, Option<u64>)> {
    let mut rest = bytes;
    if take(&mut rest, 1)? != [1] {
        return None;
    }
    let items = u32_of(take(&mut rest, 4)?);
    take(&mut rest, 8)?;
    let first = rest;
    let mut commit = None;
    for _ in 0..items {
        match take(&mut rest, 1)? {
            [2] => {
                // Type, compression, keyspace.
                take(&mut rest, 1 + 1 + 8)?;
                let key_bytes = u16::from_le_bytes(take(&mut rest, 2)?.try_into().ok()?);
                let (_, value_bytes) = (take(&mut rest, 4)?, u32_of(take(&mut rest, 4)?));
                let (key, value) = (take(&mut rest, key_bytes.into())?, take(&mut rest, value_bytes as usize)?);
                commit = commit.or_else(|| (key == rows::COMMIT).then(|| rows::commit_of(value)).flatten());
            }
            [4] => _ = take(&mut rest, 8)?,
            _ => return None,
        }
    }
    let sum = xxhash_rust::xxh3::xxh3_64(&first[..first.len() - rest.len()]);
    let whole =
        take(&mut rest, 1)? == [3] && take(&mut rest, 8)? == sum.to_le_bytes() && take(&mut rest, 4)? == TRAILER;
    whole.then_some((bytes.len() - rest.len(), commit))
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
