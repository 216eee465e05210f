//! What holds of every log holds in memory and on disk; and of those on disk, what outlives a process.

use std::sync::Arc;

use fanfare_jobs::log::{Keep, Tip};
use fanfare_jobs::testing::log::{KEEP, append, keeps_its_contract, numbers};
use fanfare_jobs::{Disk, MemoryLog};

#[tokio::test]
async fn a_log_in_memory_keeps_the_contract() {
    keeps_its_contract(Arc::new(MemoryLog::new(KEEP))).await;
}

#[tokio::test]
async fn a_log_on_disk_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Disk::open(folder.path()).expect("it opens");
    keeps_its_contract(disk.log("1", KEEP).expect("there is a log")).await;
    keeps_its_contract(disk.log("2", KEEP).expect("there is another")).await;
}

#[tokio::test]
async fn a_log_on_disk_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let keep = Keep { bytes: 4000, ..KEEP };
    let mut epochs = Vec::new();
    let mut last = 0;
    for _ in 0..4 {
        let disk = Disk::open(folder.path()).expect("it opens");
        let (log, other) = (disk.log("1", keep).expect("a log"), disk.log("2", keep).expect("another"));
        let before = log.ends().await.expect("it has ends");
        assert_eq!((before.next, log.mark("reader").await), (last + 1, Ok((last > 0).then_some(last))));
        append(&*log, last + 1..=last + 130).await;
        append(&*other, 1..=1).await;
        last += 130;
        log.set_mark("reader", before.epoch, last).await.expect("it is marked");
        let ends = log.ends().await.expect("it has ends");
        assert!(ends.bytes <= 4000 && ends.next == last + 1, "{ends:?}");
        let read = numbers(&*log, 1, usize::MAX).await;
        assert_eq!(read, (ends.first..ends.next).collect::<Vec<_>>());
        epochs.push(ends.epoch);
        drop(disk);
        // Who still holds it is told that it is closed.
        assert!(log.read(Tip::from(ends), 1).await.is_err() && log.set_mark("reader", ends.epoch, 1).await.is_err());
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1);
}
