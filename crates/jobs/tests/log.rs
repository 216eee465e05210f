//! What holds of every log, in memory and on disk; and of those on disk, what outlives a process.

use std::sync::Arc;

use fanfare_jobs::log::{Ends, Fresh, Keep};
use fanfare_jobs::{Disk, Log, LogEntry, MemoryLog};

const KEEP: Keep = Keep { age_ms: 3_600_000, bytes: 1 << 20 };

fn fresh(number: u64) -> Fresh {
    Fresh { time_ms: number * 10, data: format!("entry {number}").into() }
}

async fn append(log: &dyn Log, numbers: impl Iterator<Item = u64>) {
    for number in numbers {
        log.append(vec![fresh(number)], number * 10).await.expect("it is taken").await.expect("it is written");
    }
}

async fn numbers(log: &dyn Log, from: u64, bytes_max: usize) -> Vec<u64> {
    let entries = log.read(from, bytes_max).await.expect("it is read");
    for LogEntry { number, time_ms, data } in &entries {
        assert_eq!((*time_ms, &**data), (number * 10, format!("entry {number}").as_bytes()));
    }
    entries.iter().map(|entry| entry.number).collect()
}

async fn keeps_its_contract(log: Arc<dyn Log>) {
    let mut wakes = log.wakes();
    let Ends { epoch, first, next, .. } = log.ends().await.expect("it has ends");
    assert_eq!((first, next), (1, 1));
    assert_eq!(numbers(&*log, 1, 1000).await, [0; 0]);
    append(&*log, 1..=10).await;
    assert_eq!(*wakes.borrow_and_update(), 11);
    assert_eq!(numbers(&*log, 1, 1000).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(numbers(&*log, 8, 1000).await, [8, 9, 10]);
    assert_eq!(numbers(&*log, 8, 1).await, [8]);
    assert_eq!(numbers(&*log, 11, 1).await, [0; 0]);

    assert_eq!(log.mark("a").await, Ok(None));
    assert_eq!(log.set_mark("a", 4).await, Ok(4));
    assert_eq!(log.set_mark("a", 2).await, Ok(4));
    assert_eq!((log.mark("a").await, log.mark("b").await), (Ok(Some(4)), Ok(None)));

    log.set_keep(Keep { bytes: 4000, ..KEEP });
    append(&*log, 11..=300).await;
    let ends = log.ends().await.expect("it has ends");
    assert!(ends.bytes <= 4000 && ends.first > 150 && ends.next == 301, "{ends:?}");
    assert_eq!(ends.epoch, epoch);
    assert_eq!(numbers(&*log, 1, 1).await, [ends.first]);
    log.trim(10 * KEEP.age_ms).await.expect("it is trimmed");
    let ends = log.ends().await.expect("it has ends");
    assert!(ends.first > 290 && ends.next == 301, "{ends:?}");
}

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
        log.set_mark("reader", last).await.expect("it is marked");
        let ends = log.ends().await.expect("it has ends");
        assert!(ends.bytes <= 4000 && ends.next == last + 1, "{ends:?}");
        let read = numbers(&*log, 1, usize::MAX).await;
        assert_eq!(read, (ends.first..ends.next).collect::<Vec<_>>());
        epochs.push(ends.epoch);
        drop(disk);
        // Who still holds it is told that it is closed.
        assert!(log.read(1, 1).await.is_err() && log.set_mark("reader", 1).await.is_err());
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1);
}
