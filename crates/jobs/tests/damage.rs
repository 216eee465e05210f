//! Wherever a folder is damaged: all that was acknowledged is there, or the store refuses and says what is missing, and can
//! be repaired to hold the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fanfare_jobs::{Claim, Damage, Disk, DiskError, Entry, JobStore, Limits, Query, Spec, State};

/// What is kept in memory before it goes into tables.
const MEMTABLE_BYTES: usize = 32_000_000;

const QUEUE: &str = "app/comments";

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else if from.ends_with("tables") {
            // They are large, and nobody writes into them: a link will do.
            fs::hard_link(entry.path(), to).expect("a file");
        } else {
            _ = fs::copy(entry.path(), to).expect("a file");
        }
    }
}

async fn entries(queue: &Arc<dyn JobStore>) -> BTreeMap<u64, Entry> {
    let mut found = BTreeMap::new();
    for state in State::ALL {
        let page = queue.list(Query::all(state)).await.expect("a store lists");
        found.extend(page.entries.into_iter().map(|entry| (entry.job.id.0, entry)));
    }
    found
}

fn open(path: &Path) -> Result<Disk, DiskError> {
    Disk::open_with(path, 1 << 20)
}

fn queue(disk: &Disk) -> Arc<dyn JobStore> {
    disk.queue(QUEUE, Limits::default())
}

/// Puts and works on jobs, commit by commit.
async fn work(queue: &Arc<dyn JobStore>, rounds: usize, jobs: usize, bytes: usize) {
    for round in 0..rounds {
        let spec = |number: usize| {
            let data = format!("{round} {number} {}", ".".repeat(bytes)).into();
            Spec { key: Some(number.to_string().into()), data, ..Spec::default() }
        };
        queue.put((0..jobs).map(spec).collect(), 1).await.expect("a store puts");
        let claim = Claim { jobs_max: 2, lease_ms: 1_000_000, owner: "worker".into() };
        let mut claimed = queue.claim(claim, 1).await.expect("a store claims").jobs;
        let (_, lease) = claimed.remove(0);
        queue.finish(lease, Bytes::from(format!("done in {round}")), 2).await.expect("the lease holds");
    }
}

/// A folder as it was before the damage, and what was acknowledged.
struct Before {
    folder: tempfile::TempDir,
    entries: BTreeMap<u64, Entry>,
}

impl Before {
    async fn new(rounds: usize, jobs: usize, bytes: usize) -> Before {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = open(&folder.path().join("whole")).expect("a folder opens");
        let queue = queue(&disk);
        work(&queue, rounds, jobs, bytes).await;
        let whole = folder.path().join("whole");
        while rounds * jobs * bytes > MEMTABLE_BYTES && tables(&whole).iter().all(|(_, bytes)| *bytes < MEMTABLE_BYTES)
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let entries = entries(&queue).await;
        drop((queue, disk));
        // Without the room that was set aside for more, copies are small.
        for (path, length) in journals(&whole) {
            fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(length as u64)).expect("a file");
        }
        Before { entries, folder }
    }

    fn whole(&self) -> PathBuf {
        self.folder.path().join("whole")
    }

    /// Damages a copy; it is whole nevertheless, or refused and repaired. Answers what was said to be missing.
    async fn check(&self, what: &str, damage: impl FnOnce(&Path)) -> Option<Damage> {
        let path = self.folder.path().join("damaged");
        copy(&self.whole(), &path);
        damage(&path);
        let found = match open(&path) {
            Ok(disk) => {
                assert_eq!(entries(&queue(&disk)).await, self.entries, "{what}: served, but not as it was");
                None
            }
            Err(DiskError::Damaged(damage)) => {
                assert!(open(&path).is_err(), "{what}: refused once only: {damage}");
                Some(self.repair(&path, what).await)
            }
            Err(error) => panic!("{what}: {error}"),
        };
        fs::remove_dir_all(path).expect("a folder");
        found
    }

    async fn repair(&self, path: &Path, what: &str) -> Damage {
        let damage = Disk::repair(path).unwrap_or_else(|error| panic!("{what}: {error}"));
        let disk = open(path).unwrap_or_else(|error| panic!("{what}: repaired, but {error}"));
        let queue = queue(&disk);
        let mut there = entries(&queue).await;
        let missing: BTreeSet<u64> = damage.missing.iter().flat_map(|(_, jobs)| jobs.clone()).collect();
        for (id, entry) in &self.entries {
            let found = there.remove(id);
            assert!(found.is_some() || missing.contains(id), "{what}: job {id} is missing, but not named: {damage}");
            assert!(found.is_none_or(|found| found.job.spec == entry.job.spec), "{what}: job {id} is another");
        }
        assert!(there.is_empty(), "{what}: there are jobs that there were not");
        let ids = queue.put(vec![Spec::default()], 3).await.expect("a repaired store puts");
        assert!(!self.entries.contains_key(&ids[0].id().0), "{what}: a number is used again");
        damage
    }
}

/// The journals and their used bytes.
fn journals(folder: &Path) -> Vec<(PathBuf, usize)> {
    let files = fs::read_dir(folder.join("db")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let journals = files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    journals.map(|path| (path.clone(), used(&path))).collect()
}

fn used(path: &Path) -> usize {
    fs::read(path).expect("a file").iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn tables(folder: &Path) -> Vec<(PathBuf, usize)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.join("db/keyspaces")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { found.push((path.clone(), used(&path))) }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: usize, bit: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 1 << (bit % 8);
    fs::remove_file(path).expect("a file");
    fs::write(path, bytes).expect("a file");
}

/// So many places, spread over a length.
fn places(length: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by((length / count).max(1) | 1)
}

#[tokio::test]
async fn a_flipped_bit_in_the_journal_is_found() {
    let before = Before::new(12, 4, 40).await;
    let (path, length) = journals(&before.whole()).remove(0);
    let path = path.strip_prefix(before.whole()).expect("it is in the folder");
    let mut refused = 0;
    for at in places(length, 40) {
        let found = before.check(&format!("byte {at} of {length}"), |folder| flip(&folder.join(path), at, at)).await;
        refused += usize::from(found.is_some());
    }
    assert!(refused > 30, "a journal has no bits that do not matter, but only {refused} were missed");
}

#[tokio::test]
async fn a_journal_that_ends_early_is_found_and_the_jobs_are_named() {
    let before = Before::new(12, 4, 40).await;
    let (path, length) = journals(&before.whole()).remove(0);
    let path = path.strip_prefix(before.whole()).expect("it is in the folder");
    for at in places(length, 15) {
        let cut = |folder: &Path| {
            let file = fs::OpenOptions::new().write(true).open(folder.join(path)).expect("a file");
            file.set_len(at as u64).expect("a file");
        };
        assert!(before.check(&format!("cut at {at} of {length}"), cut).await.is_some(), "cut at {at} of {length}");
    }
}

#[tokio::test]
async fn a_journal_with_a_hole_is_found_and_the_jobs_are_named() {
    let before = Before::new(12, 4, 40).await;
    let (path, length) = journals(&before.whole()).remove(0);
    let path = path.strip_prefix(before.whole()).expect("it is in the folder");
    for at in places(length - 512, 8) {
        let zeros = |folder: &Path| {
            let mut bytes = fs::read(folder.join(path)).expect("a file");
            bytes[at..at + 512].fill(0);
            fs::write(folder.join(path), bytes).expect("a file");
        };
        assert!(before.check(&format!("hole at {at} of {length}"), zeros).await.is_some(), "hole at {at}");
    }
}

#[tokio::test]
async fn a_tail_that_nobody_was_told_of_is_no_damage() {
    let before = Before::new(3, 4, 40).await;
    let torn = |folder: &Path| {
        let (path, length) = journals(folder).remove(0);
        let mut bytes = fs::read(&path).expect("a file");
        let half = bytes[length - 300..length - 100].to_vec();
        bytes.truncate(length);
        bytes.extend(half);
        bytes.extend([0; 500]);
        fs::write(path, bytes).expect("a file");
    };
    assert_eq!(before.check("torn tail", torn).await, None);
}

#[tokio::test]
async fn a_lost_journal_is_found() {
    let before = Before::new(3, 4, 40).await;
    let lost = |folder: &Path| journals(folder).iter().for_each(|(path, _)| fs::remove_file(path).expect("a file"));
    assert!(before.check("no journal", lost).await.is_some());
}

#[tokio::test]
async fn a_lost_mark_is_found_and_costs_nothing() {
    let before = Before::new(3, 4, 40).await;
    let found = before.check("no mark", |folder| fs::remove_file(folder.join("mark")).expect("a file")).await;
    assert_eq!(found.expect("it is refused").missing, []);
}

#[tokio::test]
async fn a_mark_that_is_as_old_as_the_folder_is_no_damage() {
    let before = Before::new(3, 4, 40).await;
    let young = before.folder.path().join("young");
    drop(open(&young).expect("a folder opens"));
    let is_old = |folder: &Path| _ = fs::copy(young.join("mark"), folder.join("mark")).expect("a file");
    assert_eq!(before.check("the first mark", is_old).await, None);
}

#[tokio::test]
async fn a_repair_that_was_killed_between_the_databases_is_finished() {
    let before = Before::new(3, 4, 40).await;
    let between = |folder: &Path| fs::rename(folder.join("db"), folder.join("new")).expect("a folder");
    assert_eq!(before.check("no database", between).await, None);
}

#[tokio::test]
async fn a_flipped_bit_in_the_tables_is_never_served() {
    let before = Before::new(9, 4, 1_000_000).await;
    for (path, length) in tables(&before.whole()) {
        let path = path.strip_prefix(before.whole()).expect("it is in the folder");
        // Beside the tables there are lists of them, of which only the last is read.
        let is_table = path.parent().is_some_and(|folder| folder.ends_with("tables"));
        if path.ends_with("v0") || path.ends_with("v1") {
            continue;
        }
        let (what, at) = (format!("a third of {length} bytes of {}", path.display()), length / 3);
        let found = before.check(&what, |folder| flip(&folder.join(path), at, 3)).await;
        assert!(found.is_some() || !is_table, "{what}: not found");
    }
}
