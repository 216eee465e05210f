//! Makes of a damaged folder one that is whole, without what is missing.
//!
//! All that can be read is written into a new database, which then takes the old one's place. The old one is kept.

use std::collections::HashSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fjall::{Database, Keyspace, PersistMode};

use super::committer::{insert, write_job};
use super::folder::Folder;
use super::journal::Checked;
use super::load::{self, Damage, Loaded, Stored, load, salvage};
use super::mark::{Mark, MarkFile, MarkedQueue};
use super::rows::{self, Table};
use super::{DiskError, journal, log, mark, open_database};
use crate::index::Row;

/// Jobs that are written in one batch.
const BATCH_JOBS: usize = 4_096;

pub(super) fn repair(folder: &Folder) -> Result<Damage, DiskError> {
    let mark = mark::read(&folder.mark());
    let Checked { mut damage, gaps } = journal::check(&folder.database(), mark.as_ref())?;
    let (copy, new) = (folder.path().join("copy"), folder.repaired());
    for left_over in [&copy, &new].into_iter().filter(|path| path.exists()) {
        std::fs::remove_dir_all(left_over)?;
    }
    copy_readable(&folder.database(), &copy)?;
    let old = open_database(&copy);
    let Loaded { commit, queues, damage: missing, .. } = match &old {
        Ok((_, tables)) => load_all(tables, mark.as_ref()),
        Err(DiskError::Damaged(unreadable)) => {
            damage.found.extend(unreadable.found.iter().cloned());
            load::nothing(mark.as_ref())
        }
        Err(_) => return Err(old.err().expect("it is an error")),
    };
    damage.found.extend(missing.found);
    (damage.missing, damage.set_back) = (missing.missing, missing.set_back);
    for (number, jobs) in gaps {
        add_missing(&queues, number, jobs, &mut damage);
    }
    if damage.is_none() {
        drop(old);
        std::fs::remove_dir_all(copy)?;
        return Ok(damage);
    }
    let commit = commit.max(mark.as_ref().map_or(0, |mark| mark.commit)) + 1;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let queues = write_all(old.as_ref().ok(), queues, mark.as_ref(), commit, &new, now.as_millis() as u64)?;
    drop(old);
    let seconds = now.as_secs();
    std::fs::rename(folder.database(), free_name(&folder.path().join(format!("damaged-{seconds}"))))?;
    // Whoever opens the folder after a crash in between does this.
    std::fs::rename(new, folder.database())?;
    let mark_file = MarkFile::open(&folder.mark())?;
    mark_file.write(commit, queues.iter().map(|(number, jobs, name)| (*number, *jobs, &**name)))?;
    mark_file.sync()?;
    folder.sync()?;
    std::fs::remove_dir_all(copy)?;
    Ok(damage)
}

/// Adds those of a gap in the journals that are nowhere else, unless they are named already.
fn add_missing(queues: &[Stored], number: u32, jobs: RangeInclusive<u64>, damage: &mut Damage) {
    let queue = queues.iter().find(|queue| queue.number == number);
    let name: Box<str> = queue.map_or_else(|| format!("queue {number}").into(), |queue| queue.name.clone());
    let rows = queue.into_iter().flat_map(|queue| queue.index.rows());
    let there: HashSet<u64> = rows.map(|row| row.entry.job.id.0).collect();
    for job in jobs.filter(|job| !there.contains(job)) {
        if damage.missing.iter().any(|(queue, jobs)| *queue == name && jobs.contains(&job)) {
            continue;
        }
        match damage.missing.last_mut() {
            Some((queue, jobs)) if *queue == name && *jobs.end() + 1 == job => *jobs = *jobs.start()..=job,
            _ => damage.missing.push((name.clone(), job..=job)),
        }
    }
}

fn free_name(path: &Path) -> PathBuf {
    let numbered = (1..).map(|number| path.with_extension(number.to_string()));
    let mut names = std::iter::once(path.into()).chain(numbered);
    names.find(|path: &PathBuf| !path.exists()).expect("there are more numbers than folders")
}

/// In one go; or row by row, where a table is damaged.
fn load_all(tables: &Keyspace, mark: Option<&Mark>) -> Loaded {
    let loaded = load(tables, mark);
    if !loaded.is_cut_short {
        return loaded;
    }
    let known = |Stored { number, name, index, .. }: &Stored| {
        let jobs = index.numbers().jobs;
        MarkedQueue { number: *number, jobs, name: name.clone() }
    };
    let known = Mark { commit: loaded.commit, queues: loaded.queues.iter().map(known).collect() };
    let mut salvaged = salvage(tables, mark.unwrap_or(&known));
    salvaged.damage.found.extend(loaded.damage.found);
    salvaged
}

/// The database without the batches that its journals cannot be read at.
fn copy_readable(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_readable(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    for path in journal::journals(to)? {
        let bytes = journal::read(&path)?;
        let good = journal::look_through(&bytes).good.into_iter();
        std::fs::write(&path, good.map(|(range, _)| &bytes[range]).collect::<Vec<_>>().concat())?;
    }
    Ok(())
}

/// Writes a new database, and answers the last job and the name of each queue.
fn write_all(
    old: Option<&(Database, Keyspace)>,
    queues: Vec<Stored>,
    mark: Option<&Mark>,
    commit: u64,
    path: &Path,
    now_ms: u64,
) -> Result<Vec<(u32, u64, Box<str>)>, DiskError> {
    let failed = |error: fjall::Error| DiskError::Io(io::Error::other(error));
    let (database, tables) = open_database(path)?;
    if let Some((old, _)) = old {
        log::copy_readable(old, &database, now_ms).map_err(failed)?;
    }
    let from = old.map(|(_, tables)| tables);
    let mut written = Vec::new();
    for Stored { number, name, index, .. } in queues {
        let mut numbers = index.numbers();
        let marked = mark.into_iter().flat_map(|mark| &mark.queues).filter(|queue| queue.number == number);
        let highest = index.rows().map(|row| row.entry.job.id.0).chain(marked.map(|queue| queue.jobs)).max();
        numbers.jobs = numbers.jobs.max(highest.unwrap_or(0));
        numbers.others = index.rows().map(|row| row.place).fold(numbers.others, u64::max);
        let mut sum = 0_u64;
        let mut rows: Vec<_> = index.rows().collect();
        rows.sort_unstable_by_key(|row| row.entry.job.id);
        for rows in rows.chunks(BATCH_JOBS) {
            let mut batch = database.batch();
            for row in rows {
                let Some(mut row) = from.and_then(|from| read_whole(from, number, row)) else { continue };
                write_job(&tables, number, &mut row, commit, &mut batch);
                sum = sum.wrapping_add(row.print);
            }
            batch.commit().map_err(failed)?;
        }
        // What is missing counts as taken out, so that the totals add up.
        let (there, counted) = (index.unfinished() as u64, numbers.totals.unfinished());
        numbers.totals.retracted += counted.saturating_sub(there);
        numbers.totals.put += there.saturating_sub(counted);
        let mut batch = database.batch();
        insert(&mut batch, &tables, rows::name(number, &name, commit));
        insert(&mut batch, &tables, rows::numbers(number, &numbers, sum, commit));
        batch.commit().map_err(failed)?;
        written.push((number, numbers.jobs, name));
    }
    let mut batch = database.batch();
    insert(&mut batch, &tables, rows::commit(commit));
    batch.commit().map_err(failed)?;
    database.persist(PersistMode::SyncAll).map_err(failed)?;
    Ok(written)
}

/// A job with all that it carries, if that can be read.
fn read_whole(tables: &Keyspace, queue: u32, row: &Row) -> Option<Row> {
    let id = row.entry.job.id;
    let [put, state] = [Table::Put, Table::State].map(|table| rows::key(queue, table, id));
    let mut whole = rows::read_put(id, rows::open(&put, &tables.get(put).ok()??)?)?;
    if let Ok(Some(value)) = tables.get(state) {
        _ = rows::open(&state, &value).and_then(|opened| rows::read_state(&mut whole, opened));
    }
    Some(whole)
}
