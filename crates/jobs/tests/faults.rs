//! Processes that are killed, disks that fail or fill up, and a million jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_jobs::{Claim, Disk, DiskError, JobStore, Limits, Query, Spec, State, StoreError};

const FOLDER: &str = "FANFARE_TEST_FOLDER";

fn queue(disk: &Disk) -> Arc<dyn JobStore> {
    disk.queue("app/comments", Limits { kept_max: usize::MAX, attempts_max: 0, ..Limits::default() })
}

fn claim(jobs_max: usize, lease_ms: u64) -> Claim {
    Claim { jobs_max, lease_ms, owner: "worker".into() }
}

fn sized(bytes: usize) -> Spec {
    Spec { data: vec![b'.'; bytes].into(), ..Spec::default() }
}

async fn ids(queue: &Arc<dyn JobStore>, state: State) -> BTreeSet<u64> {
    let page = queue.list(Query::all(state)).await.expect("a store lists");
    assert_eq!(page.next, None, "one page is enough");
    page.entries.iter().map(|entry| entry.job.id.0).collect()
}

/// Not a test of its own: the process that is killed. Says what was acknowledged, line by line.
#[tokio::test]
#[ignore = "it is started by the test below"]
async fn killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let disk = Disk::open_with(Path::new(&folder), 1 << 20).expect("a folder opens");
    let queue = queue(&disk);
    let worker = queue.clone();
    tokio::spawn(async move {
        for now_ms in 1_000.. {
            let claimed = worker.claim(claim(3, 50), now_ms).await.expect("a store claims");
            for (job, lease) in claimed.jobs {
                if job.id.0 % 3 > 0 && worker.finish(lease, Bytes::new(), now_ms).await.is_ok() {
                    println!("finished {}", job.id.0);
                }
            }
            tokio::task::yield_now().await;
        }
    });
    loop {
        let puts = queue.put(vec![sized(100); 5], 1_000).await.expect("a store puts");
        puts.iter().for_each(|put| println!("put {}", put.id().0));
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut acknowledged: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for round in 0..6 {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "killed", "--ignored", "--nocapture"]).env(FOLDER, folder.path());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (mut begin, mut said) = (None, 0);
        // Reads on behind the kill: what was said before it counts.
        for line in lines.map_while(Result::ok) {
            let Some((what, id)) = line.split_once(' ') else { continue };
            let (Ok(id), "put" | "finished") = (id.parse(), what) else { continue };
            acknowledged.entry(what.into()).or_default().push(id);
            said += 1;
            let begin = begin.get_or_insert_with(Instant::now);
            if begin.elapsed() > Duration::from_millis(30 + 37 * round) && said > 20 {
                _ = child.kill();
            }
        }
        child.wait().expect("it has ended");
        assert!(said > 20, "round {round}: it ended by itself, after {said} lines");
        let disk = Disk::open_with(folder.path(), 1 << 20).expect("a folder opens");
        let queue = queue(&disk);
        let mut there = BTreeSet::new();
        for state in State::ALL {
            there.extend(all_ids(&queue, state).await);
        }
        let finished = all_ids(&queue, State::Finished).await;
        let of = |what: &str| acknowledged.get(what).cloned().unwrap_or_default();
        assert!(of("put").iter().all(|id| there.contains(id)), "round {round}: a job was lost");
        assert!(of("finished").iter().all(|id| finished.contains(id)), "round {round}: a finished job is back");
        let once: BTreeSet<_> = of("finished").into_iter().collect();
        assert_eq!(once.len(), of("finished").len(), "round {round}: a job was finished twice");
    }
    assert!(acknowledged.contains_key("finished"), "no job was finished before a kill");
}

async fn all_ids(queue: &Arc<dyn JobStore>, state: State) -> BTreeSet<u64> {
    let mut query = Query::all(state);
    let mut found = BTreeSet::new();
    loop {
        let page = queue.list(query.clone()).await.expect("a store lists");
        found.extend(page.entries.iter().map(|entry| entry.job.id.0));
        let Some(next) = page.next else { return found };
        query.after = Some(next);
    }
}

/// Lets this process' journal in a folder be another file.
#[allow(unsafe_code)]
fn replace_journal(folder: &Path, by: &str) {
    use std::os::fd::{FromRawFd, OwnedFd};
    let mut descriptors =
        std::fs::read_dir("/proc/self/fd").expect("Linux").map(|entry| entry.expect("an entry").path());
    let is_journal = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.starts_with(folder) && to.extension().is_some_and(|e| e == "jnl"))
    };
    let journal = descriptors.find(is_journal).expect("a journal is open");
    let number = journal.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("a number");
    let other = std::fs::OpenOptions::new().write(true).open(by).expect("a device");
    // SAFETY: the descriptor is open, and is given back below to whom it belongs.
    let mut descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::dup2(&other, &mut descriptor).expect("it is open");
    std::mem::forget(descriptor);
}

/// What cannot be written or synced is not acknowledged, nor is anything after it; what was acknowledged is there.
async fn a_disk_that_fails(by: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open_with(folder.path(), 1 << 20).expect("a folder opens");
    let store = queue(&disk);
    store.put(vec![sized(100); 3], 1).await.expect("a store puts");
    let (_, lease) = store.claim(claim(1, 1_000), 1).await.expect("a store claims").jobs.remove(0);
    replace_journal(&folder.path().canonicalize().expect("it is there"), by);
    let Err(StoreError::Unavailable(why)) = store.put(vec![sized(100)], 2).await else { panic!("acknowledged") };
    assert!(!why.is_empty());
    assert_eq!(store.finish(lease, Bytes::new(), 3).await, Err(StoreError::Unavailable(why.clone())));
    assert_eq!(store.claim(claim(1, 1_000), 3).await, Err(StoreError::Unavailable(why)));
    drop((store, disk));
    let disk = Disk::open_with(folder.path(), 1 << 20).expect("a folder opens");
    let store = queue(&disk);
    assert_eq!(ids(&store, State::Claimed).await, BTreeSet::from([1]));
    assert_eq!(ids(&store, State::Waiting).await, BTreeSet::from([2, 3]));
    assert_eq!(store.finish(lease, Bytes::new(), 4).await, Ok(()));
}

#[tokio::test]
async fn what_cannot_be_synced_is_not_acknowledged() {
    // Takes what is written, and cannot be synced.
    a_disk_that_fails("/dev/null").await;
}

#[tokio::test]
async fn what_cannot_be_written_is_not_acknowledged() {
    // Has no room for anything.
    a_disk_that_fails("/dev/full").await;
}

#[tokio::test]
async fn a_nearly_full_disk_takes_no_jobs_and_the_others_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open_with(folder.path(), 1 << 20).expect("a folder opens");
    queue(&disk).put(vec![sized(100); 2], 1).await.expect("a store puts");
    drop(disk);
    let disk = Disk::open_with(folder.path(), u64::MAX).expect("a folder opens");
    let store = queue(&disk);
    let Err(StoreError::Unavailable(why)) = store.put(vec![sized(100)], 2).await else { panic!("acknowledged") };
    assert!(why.contains("nearly full"), "{why}");
    for (_, lease) in store.claim(claim(9, 1_000), 3).await.expect("a store claims").jobs {
        assert_eq!(store.finish(lease, Bytes::new(), 4).await, Ok(()));
    }
    assert_eq!(ids(&store, State::Finished).await, BTreeSet::from([1, 2]));
}

/// A small disk of our own, if this process may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mebibytes: usize) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        mounted.then_some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_heals_when_there_is_room() {
    let Some(small) = SmallDisk::new(96) else {
        return eprintln!("not allowed to mount a small disk: nothing was tested");
    };
    let path = small.0.path().join("queues");
    let filler = small.0.path().join("filler");
    std::fs::write(&filler, vec![0; 50 << 20]).expect("there is room");
    let disk = Disk::open_with(&path, 24 << 20).expect("a folder opens");
    let store = queue(&disk);
    let mut put = BTreeSet::new();
    let why = loop {
        match store.put(vec![sized(250_000); 4], 1).await {
            Ok(puts) => put.extend(puts.iter().map(|put| put.id().0)),
            Err(error) => break error,
        }
        assert!(put.len() < 400, "100 MB went onto a disk of 96");
    };
    assert!(matches!(&why, StoreError::Unavailable(why) if why.contains("nearly full")), "{why}");
    assert!(put.len() > 20, "there was room for more than {}", put.len());
    let (_, lease) = store.claim(claim(1, 1_000), 2).await.expect("a store claims").jobs.remove(0);
    assert_eq!(store.finish(lease, Bytes::new(), 3).await, Ok(()));
    // What the database does by itself (it writes its tables in the background) meets a disk that is as full as it gets.
    tokio::time::sleep(Duration::from_secs(1)).await;
    std::fs::remove_file(filler).expect("it is there");
    let begin = Instant::now();
    while let Err(error) = store.put(vec![sized(100)], 4).await {
        assert!(begin.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop((store, disk));
    let disk = Disk::open_with(&path, 24 << 20).expect("a folder opens");
    let store = queue(&disk);
    let there: BTreeSet<u64> = &ids(&store, State::Waiting).await | &ids(&store, State::Finished).await;
    assert!(put.is_subset(&there), "acknowledged jobs are missing");
}

#[tokio::test]
async fn what_is_forgotten_gives_its_room_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open_with(folder.path(), 1 << 20).expect("a folder opens");
    let store = queue(&disk);
    for now_ms in 0..60 {
        store.put(vec![sized(500_000); 8], now_ms).await.expect("a store puts");
        for (_, lease) in store.claim(claim(8, 1_000), now_ms).await.expect("a store claims").jobs {
            store.finish(lease, Bytes::new(), now_ms).await.expect("the lease holds");
        }
        store.sweep(now_ms + 3_600_000).await.expect("a store sweeps");
    }
    let bytes = used_bytes(folder.path());
    assert!(bytes < 200 << 20, "of 240 MB that were forgotten, {bytes} are still there");
    drop((store, disk));
    assert!(Disk::open_with(folder.path(), 1 << 20).is_ok());
}

fn used_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => used_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// How long a claim takes among so many that wait, at the median.
async fn claim_time(jobs: usize) -> Duration {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open_with(folder.path(), 1 << 20).expect("a folder opens");
    let limits = Limits { jobs_max: usize::MAX, bytes_max: usize::MAX, ..Limits::default() };
    let store = disk.queue("app/comments", limits);
    for first in (0..jobs).step_by(10_000) {
        let spec = |number: usize| Spec { key: Some((first + number).to_string().into()), ..sized(20) };
        store.put((0..jobs.min(10_000)).map(spec).collect(), 1).await.expect("a store puts");
    }
    let mut times = Vec::new();
    for now_ms in 0..200 {
        let begin = Instant::now();
        assert_eq!(store.claim(claim(1, 100_000), now_ms).await.expect("a store claims").jobs.len(), 1);
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_claim_costs_the_same_among_many() {
    let (few, many) = (claim_time(1_000).await, claim_time(JOBS).await);
    assert!(many < few * 10 + Duration::from_millis(5), "{few:?} among a thousand, {many:?} among {JOBS}");
}

/// A million where the compiler has optimised; otherwise what a test may take.
const JOBS: usize = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };

#[tokio::test]
async fn a_folder_that_another_process_has_is_not_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "killed", "--ignored", "--nocapture"]).env(FOLDER, folder.path());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    lines.find(|line| line.starts_with("put")).expect("it puts");
    let opened = Disk::open(folder.path());
    let Err(DiskError::Locked { owner, .. }) = opened else { panic!("opened twice") };
    assert_eq!(*owner, *format!("process {}", child.id()));
    _ = child.kill();
    child.wait().expect("it has ended");
    assert!(Disk::open(folder.path()).is_ok(), "nobody has it any more");
}
