//! Looks through the journals before the database does, which would cut them off where they are damaged.
//!
//! It reads what fjall 3 writes: `start (count, seqno) · items · end (xxh3 of the items, "FJL" 3)`. A journal ends with zeros,
//! or with a batch that a crash left unfinished; that is no damage. One with good batches behind a bad one has been damaged.
//!
//! Jobs are numbered without gaps, so those that a bad batch put are the ones between those of its neighbours.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use super::load::Damage;
use super::mark::Mark;
use super::rows;
use crate::job::JobId;

/// The last bytes of each batch.
const TRAILER: &[u8] = b"FJL\x03";

/// What was found in one journal.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The good batches, and the commits that they are.
    pub(super) good: Vec<(Range<usize>, Option<u64>)>,
    /// Where something else begins.
    pub(super) bad: Vec<usize>,
    /// The jobs that were put, by queue, and where.
    pub(super) puts: Vec<(usize, u32, u64)>,
}

/// What was found in all of them.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) damage: Damage,
    /// Jobs that were put between others that are there, or behind them. They may be in the tables already.
    pub(super) gaps: Vec<(u32, RangeInclusive<u64>)>,
}

impl Checked {
    pub(super) fn with_missing(self) -> Damage {
        let missing = self.gaps.into_iter().map(|(queue, jobs)| (format!("queue {queue}").into(), jobs));
        Damage { missing: missing.collect(), ..self.damage }
    }

    /// A job was put behind others. Where nothing is known of those, they may all be missing if something is.
    fn put(&mut self, last: &mut HashMap<u32, u64>, queue: u32, job: u64, is_damaged: bool) {
        let before = last.insert(queue, job).unwrap_or(if is_damaged { 0 } else { job - 1 });
        if before + 1 < job {
            self.gaps.push((queue, before + 1..=job - 1));
        }
    }
}

/// Whether the journals are whole as far as they were acknowledged. A tail that was not is cut off.
pub(super) fn check(database: &Path, mark: Option<&Mark>) -> io::Result<Checked> {
    let acknowledged = mark.map_or(u64::MAX, |mark| mark.commit);
    let mut checked = Checked::default();
    let (mut last_commit, mut last_jobs, mut is_damaged) = (None, HashMap::new(), false);
    let journals = journals(database)?;
    for (number, path) in journals.iter().enumerate() {
        let found = look_through(&read(path)?);
        for (at, queue, job) in &found.puts {
            is_damaged |= found.bad.first().is_some_and(|bad| bad < at);
            checked.put(&mut last_jobs, *queue, *job, is_damaged);
        }
        let Some(bad) = found.bad.first().copied() else {
            last_commit = found.good.iter().rev().find_map(|(_, commit)| *commit).or(last_commit);
            continue;
        };
        let commits = |is_before: bool| found.good.iter().filter(move |(range, _)| (range.start < bad) == is_before);
        last_commit = commits(true).rev().find_map(|(_, commit)| *commit).or(last_commit);
        let is_tail = number + 1 == journals.len() && !commits(false).any(|(_, commit)| *commit <= Some(acknowledged));
        if is_tail && last_commit.is_some_and(|last| last >= acknowledged) {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(bad as u64)?;
            file.sync_all()?;
        } else if !is_tail || last_commit.is_some() {
            let (path, last) = (path.display(), last_commit.unwrap_or(0));
            checked.damage.add(format!("{path} is damaged at byte {bad}, behind commit {last}"));
        }
    }
    if let Some(mark) = mark {
        for marked in &mark.queues {
            checked.put(&mut last_jobs, marked.number, marked.jobs + 1, is_damaged);
        }
    }
    Ok(checked)
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

/// A journal without the zeros at its end: room that was set aside.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    const PAGE: [u8; 4096] = [0; 4096];
    let mut bytes = std::fs::read(path)?;
    while bytes.last_chunk() == Some(&PAGE) {
        bytes.truncate(bytes.len() - PAGE.len());
    }
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    Ok(bytes)
}

/// Looks at a journal from end to end.
pub(super) fn look_through(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(Batch { length, commit, puts }) = batch(&bytes[at..]) {
            found.good.push((at..at + length, commit));
            found.puts.extend(puts.into_iter().map(|(queue, job)| (at, queue, job)));
            at += length;
            continue;
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

struct Batch {
    length: usize,
    commit: Option<u64>,
    puts: Vec<(u32, u64)>,
}

/// The batch that the bytes begin with.
fn batch(bytes: &[u8]) -> Option<Batch> {
    let mut rest = bytes;
    if take(&mut rest, 1)? != [1] {
        return None;
    }
    let items = u32_of(take(&mut rest, 4)?);
    take(&mut rest, 8)?;
    let first = rest;
    let (mut commit, mut puts) = (None, Vec::new());
    for _ in 0..items {
        match take(&mut rest, 1)? {
            [2] => {
                // Type (0 is a value), compression, keyspace.
                let is_value = take(&mut rest, 1 + 1 + 8)?[0] == 0;
                let key_bytes = u16::from_le_bytes(take(&mut rest, 2)?.try_into().ok()?);
                let (_, value_bytes) = (take(&mut rest, 4)?, u32_of(take(&mut rest, 4)?));
                let (key, value) = (take(&mut rest, key_bytes.into())?, take(&mut rest, value_bytes as usize)?);
                commit = commit.or_else(|| (key == rows::COMMIT).then(|| rows::commit_of(value)).flatten());
                let put = rows::parse_key(key).filter(|(_, table, _)| is_value && *table == rows::Table::Put);
                puts.extend(put.map(|(queue, _, JobId(id))| (queue, id)));
            }
            [4] => _ = take(&mut rest, 8)?,
            _ => return None,
        }
    }
    let sum = xxhash_rust::xxh3::xxh3_64(&first[..first.len() - rest.len()]);
    let whole =
        take(&mut rest, 1)? == [3] && take(&mut rest, 8)? == sum.to_le_bytes() && take(&mut rest, 4)? == TRAILER;
    whole.then_some(Batch { length: bytes.len() - rest.len(), commit, puts })
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
