//! Makes of a damaged folder one that is whole, without what is missing.
//!
//! All that can be read is written into a new database, which then takes the old one's place. The old one is kept.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fjall::{Keyspace, PersistMode};

use super::committer::{insert, write_job};
use super::folder::Folder;
use super::load::{Damage, Loaded, Stored, load, salvage};
use super::mark::{Mark, MarkFile};
use super::rows::{self, Table};
use super::{DiskError, check_journals, journal, mark, open_database};
use crate::index::Row;

/// Jobs that are written in one batch.
const BATCH_JOBS: usize = 4_096;

pub(super) fn repair(folder: &Folder) -> Result<Damage, DiskError> {
    let mark = mark::read(&folder.mark());
    let mut damage = check_journals(folder, mark.as_ref())?;
    let [copy, new] = ["copy", "new"].map(|name| folder.path().join(name));
    for left_over in [&copy, &new].into_iter().filter(|path| path.exists()) {
        std::fs::remove_dir_all(left_over)?;
    }
    copy_readable(&folder.database(), &copy)?;
    let (old, tables) = open_database(&copy)?;
    let Loaded { commit, queues, damage: missing, .. } = load_all(&tables, mark.as_ref());
    damage.found.extend(missing.found);
    damage.missing.extend(missing.missing);
    damage.set_back.extend(missing.set_back);
    if damage.is_none() {
        drop((old, tables));
        std::fs::remove_dir_all(copy)?;
        return Ok(damage);
    }
    let commit = commit.max(mark.as_ref().map_or(0, |mark| mark.commit)) + 1;
    let jobs = write_all(&tables, queues, mark.as_ref(), commit, &new)?;
    drop((old, tables));
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    std::fs::rename(folder.database(), free_name(&folder.path().join(format!("damaged-{seconds}"))))?;
    std::fs::rename(new, folder.database())?;
    folder.sync()?;
    MarkFile::open(&folder.mark())?.write(&Mark { commit, jobs })?;
    std::fs::remove_dir_all(copy)?;
    Ok(damage)
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
    let last = |stored: &Stored| (stored.number, stored.index.numbers().jobs);
    let known = Mark { commit: loaded.commit, jobs: loaded.queues.iter().map(last).collect() };
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
        let bytes = std::fs::read(&path)?;
        let good = journal::look_through(&bytes).good.into_iter();
        std::fs::write(&path, good.map(|(range, _)| &bytes[range]).collect::<Vec<_>>().concat())?;
    }
    Ok(())
}

/// Writes a new database, and answers the last job of each queue.
fn write_all(
    from: &Keyspace,
    queues: Vec<Stored>,
    mark: Option<&Mark>,
    commit: u64,
    path: &Path,
) -> Result<Vec<(u32, u64)>, DiskError> {
    let failed = |error: fjall::Error| DiskError::Io(io::Error::other(error));
    let (database, tables) = open_database(path)?;
    let mut jobs = Vec::new();
    for Stored { number, name, index, .. } in queues {
        let mut numbers = index.numbers();
        let marked = mark.into_iter().flat_map(|mark| &mark.jobs).filter(|(queue, _)| *queue == number);
        let highest = index.rows().map(|row| row.entry.job.id.0).chain(marked.map(|(_, job)| *job)).max();
        numbers.jobs = numbers.jobs.max(highest.unwrap_or(0));
        numbers.others = index.rows().map(|row| row.place).fold(numbers.others, u64::max);
        let mut sum = 0_u64;
        let mut rows: Vec<_> = index.rows().collect();
        rows.sort_unstable_by_key(|row| row.entry.job.id);
        for rows in rows.chunks(BATCH_JOBS) {
            let mut batch = database.batch();
            for row in rows {
                let Some(mut row) = read_whole(from, number, row).map_err(failed)? else { continue };
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
        jobs.push((number, numbers.jobs));
    }
    let mut batch = database.batch();
    insert(&mut batch, &tables, rows::commit(commit));
    batch.commit().map_err(failed)?;
    database.persist(PersistMode::SyncAll).map_err(failed)?;
    Ok(jobs)
}

/// A job with all that it carries, if that can be read.
fn read_whole(tables: &Keyspace, queue: u32, row: &Row) -> Result<Option<Row>, fjall::Error> {
    let id = row.entry.job.id;
    let [put, state] = [Table::Put, Table::State].map(|table| rows::key(queue, table, id));
    let Some(value) = tables.get(put)? else { return Ok(None) };
    let mut whole = rows::open(&put, &value).and_then(|opened| rows::read_put(id, opened));
    if let (Some(whole), Some(value)) = (&mut whole, tables.get(state)?) {
        _ = rows::open(&state, &value).and_then(|opened| rows::read_state(whole, opened));
    }
    Ok(whole)
}
