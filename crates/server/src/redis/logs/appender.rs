//! Appends to a log in Redis for all of a node's publishers: one call at a time, with everything that came during the last one.
//!
//! Always true: entries are in the order in which they were handed in; after a call without an answer nobody knows whether they
//! are there, and their publishers are told that they are not. A name makes it safe to append them again.

use std::sync::Arc;

use fanfare_jobs::LogError;
use fanfare_jobs::log::Fresh;
use tokio::sync::{mpsc, oneshot};

use super::store::RedisLog;

/// Appends that wait for the one before; beyond, publishers wait for a place.
pub(super) const APPENDS_MAX: usize = 1024;

/// What one call carries, or one append, if that is more.
const ENTRIES_MAX: usize = 512;
const BYTES_MAX: usize = 1 << 20;

/// Entries of one publisher.
pub(super) struct Append {
    pub(super) entries: Vec<Fresh>,
    pub(super) now_ms: u64,
    /// How many were new.
    pub(super) answer: oneshot::Sender<Result<u64, LogError>>,
}

/// For as long as there is somebody who may append.
pub(super) async fn run(log: Arc<RedisLog>, mut appends: mpsc::Receiver<Append>) {
    while let Some(first) = appends.recv().await {
        let mut now_ms = first.now_ms;
        let (mut entries, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(append) = next {
            now_ms = now_ms.max(append.now_ms);
            bytes += append.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
            answers.push((append.entries.len(), append.answer));
            entries.extend(append.entries);
            next = if entries.len() < ENTRIES_MAX && bytes < BYTES_MAX { appends.try_recv().ok() } else { None };
        }
        let appended = log.append_now(entries, now_ms).await;
        let mut from = 0;
        for (n, answer) in answers {
            let new = |news: &Vec<bool>| news[from..from + n].iter().filter(|is_new| **is_new).count() as u64;
            // Whoever waited may have gone away.
            _ = answer.send(appended.as_ref().map(new).map_err(LogError::clone));
            from += n;
        }
    }
}
