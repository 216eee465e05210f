//! The promises that every [`Log`] keeps, as a test that an implementation runs on itself.

use std::sync::Arc;

use crate::log::{Ends, Fresh, Keep, Log, LogEntry, LogError, Tip};

/// What a log under test keeps.
pub const KEEP: Keep = Keep { age_ms: 3_600_000, bytes: 1 << 20 };

fn fresh(number: u64) -> Fresh {
    Fresh { time_ms: number * 10, name: None, data: format!("entry {number}").into() }
}

/// Appends entries that say their number, each at ten times as many milliseconds.
pub async fn append(log: &dyn Log, numbers: impl Iterator<Item = u64>) {
    for number in numbers {
        log.append(vec![fresh(number)], number * 10).await.expect("it is taken").await.expect("it is written");
    }
}

/// The numbers of what is read, of the epoch that it has now.
pub async fn numbers(log: &dyn Log, from: u64, bytes_max: usize) -> Vec<u64> {
    let Ends { epoch, .. } = log.ends().await.expect("it has ends");
    let entries = log.read(Tip { epoch, next: from }, bytes_max).await.expect("it is read");
    for LogEntry { number, time_ms, data } in &entries {
        assert_eq!((*time_ms, &**data), (number * 10, format!("entry {number}").as_bytes()));
    }
    entries.iter().map(|entry| entry.number).collect()
}

/// Every promise, of a log that nobody has used.
pub async fn keeps_its_contract(log: Arc<dyn Log>) {
    let mut wakes = log.wakes();
    let Ends { epoch, first, next, .. } = log.ends().await.expect("it has ends");
    assert_eq!((first, next), (1, 1));
    assert_eq!(numbers(&*log, 1, 1000).await, [0; 0]);
    append(&*log, 1..=10).await;
    assert_eq!(*wakes.borrow_and_update(), Tip { epoch, next: 11 });
    assert_eq!(numbers(&*log, 1, 1000).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(numbers(&*log, 8, 1000).await, [8, 9, 10]);
    assert_eq!(numbers(&*log, 8, 1).await, [8]);
    assert_eq!(numbers(&*log, 11, 1).await, [0; 0]);
    assert_eq!(log.read(Tip { epoch: epoch ^ 1, next: 1 }, 1000).await, Err(LogError::Anew));

    assert_eq!(log.mark("a").await, Ok(None));
    assert_eq!(log.set_mark("a", epoch ^ 1, 4).await, Err(LogError::Anew));
    assert_eq!(log.mark("a").await, Ok(None));
    assert_eq!(log.set_mark("a", epoch, 4).await, Ok(4));
    assert_eq!(log.set_mark("a", epoch, 2).await, Ok(4));
    assert_eq!(log.set_mark("a", epoch ^ 1, 9).await, Err(LogError::Anew));
    assert_eq!((log.mark("a").await, log.mark("b").await), (Ok(Some(4)), Ok(None)));

    log.set_keep(Keep { bytes: 4000, ..KEEP });
    append(&*log, 11..=300).await;
    let ends = log.ends().await.expect("it has ends");
    assert!(ends.bytes <= 4000 && ends.first > 150 && ends.next == 301, "{ends:?}");
    assert_eq!(ends.epoch, epoch);
    assert_eq!(numbers(&*log, 1, 1).await, [ends.first]);
    let together = (301..=303).map(fresh).collect();
    let written = log.append(together, 3030).await.expect("they are taken");
    assert_eq!((written.await, numbers(&*log, 301, 1000).await), (Ok(3), vec![301, 302, 303]));
    log.trim(10 * KEEP.age_ms).await.expect("it is trimmed");
    let ends = log.ends().await.expect("it has ends");
    assert!(ends.first > 290 && ends.next == 304, "{ends:?}");
}
