//! A log in memory: it ends with the process.

use std::collections::VecDeque;
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use super::window::{Marks, Window};
use super::{Ends, Fresh, Keep, Log, LogEntry, LogError, Tip, Written};

/// A log in memory.
#[derive(Debug)]
pub struct MemoryLog {
    epoch: u64,
    held: Mutex<Held>,
    wakes: watch::Sender<Tip>,
}

#[derive(Debug)]
struct Held {
    window: Window,
    entries: VecDeque<LogEntry>,
    marks: Marks,
}

impl MemoryLog {
    /// An empty one.
    pub fn new(keep: Keep) -> MemoryLog {
        let held = Held { window: Window::new(keep), entries: VecDeque::new(), marks: Marks::default() };
        let epoch = fastrand::u64(1..);
        MemoryLog { epoch, held: Mutex::new(held), wakes: watch::Sender::new(Tip { epoch, next: 1 }) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn trim(&mut self, now_ms: u64) {
        while let Some(chunk) = self.window.pop_old(now_ms) {
            let old = self.entries.partition_point(|entry| entry.number <= chunk.last);
            self.entries.drain(..old);
        }
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn append(&self, entries: Vec<Fresh>, now_ms: u64) -> Result<Written, LogError> {
        let (mut held, n) = (self.held(), entries.len() as u64);
        for Fresh { time_ms, data, .. } in entries {
            let (number, _) = held.window.push(time_ms, data.len());
            held.entries.push_back(LogEntry { number, time_ms, data });
        }
        held.trim(now_ms);
        // Under the lock, so that the number does not go back.
        self.wakes.send_replace(Tip { epoch: self.epoch, next: held.window.next() });
        Ok(Box::pin(ready(Ok(n))))
    }

    async fn read(&self, from: Tip, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        if from.epoch != self.epoch {
            return Err(LogError::Anew);
        }
        let held = self.held();
        let start = held.entries.partition_point(|entry| entry.number < from.next);
        let mut bytes = 0;
        let fits = |entry: &&LogEntry| {
            let fits = bytes < bytes_max;
            bytes += entry.data.len();
            fits
        };
        Ok(held.entries.range(start..).take_while(fits).cloned().collect())
    }

    async fn ends(&self) -> Result<Ends, LogError> {
        let window = &self.held().window;
        Ok(Ends { epoch: self.epoch, first: window.first(), next: window.next(), bytes: window.bytes() })
    }

    async fn mark(&self, reader: &str) -> Result<Option<u64>, LogError> {
        Ok(self.held().marks.get(reader))
    }

    async fn set_mark(&self, reader: &str, epoch: u64, number: u64) -> Result<u64, LogError> {
        if epoch != self.epoch {
            return Err(LogError::Anew);
        }
        let mut held = self.held();
        let first = held.window.first();
        Ok(held.marks.set(reader, number, first)?.0)
    }

    async fn trim(&self, now_ms: u64) -> Result<(), LogError> {
        self.held().trim(now_ms);
        Ok(())
    }

    fn set_keep(&self, keep: Keep) {
        self.held().window.keep = keep;
    }

    fn wakes(&self) -> watch::Receiver<Tip> {
        self.wakes.subscribe()
    }
}
