//! What a log remembers of its entries without their data: which there are, how large and how old, and its readers' marks.
//!
//! Entries are counted in chunks, a sixteenth of what is kept at most, so that a log of any length takes little memory. They
//! are forgotten by the chunk, but for the last: its numbers tell how far the log has come.

use std::collections::{HashMap, VecDeque};

use super::{Keep, LogError, READERS_MAX};

/// The largest chunk.
const CHUNK_BYTES_MAX: u64 = 64 << 10;

/// Chunks that what is kept is made of, at least.
const CHUNKS: u64 = 16;

/// What an entry counts for beside its data.
const ENTRY_BYTES: u64 = 32;

/// Entries in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) oldest_ms: u64,
    pub(crate) newest_ms: u64,
    /// 0: its numbers were left out.
    pub(crate) bytes: u64,
}

/// Which entries there are.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) keep: Keep,
    chunks: VecDeque<Chunk>,
    /// Whether the last chunk takes more entries.
    is_open: bool,
    bytes: u64,
}

impl Window {
    pub(crate) fn new(keep: Keep) -> Window {
        Window { keep, chunks: VecDeque::new(), is_open: false, bytes: 0 }
    }

    pub(crate) fn first(&self) -> u64 {
        self.chunks.iter().find(|chunk| chunk.bytes > 0).map_or(self.next(), |chunk| chunk.first)
    }

    pub(crate) fn next(&self) -> u64 {
        self.chunks.back().map_or(1, |chunk| chunk.last + 1)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A chunk as it was when it ended; they are given in order.
    pub(crate) fn restore(&mut self, chunk: Chunk) {
        self.bytes += chunk.bytes;
        self.chunks.push_back(chunk);
    }

    /// The chunk that the next entry may go into.
    pub(crate) fn last(&self) -> Option<Chunk> {
        self.chunks.back().copied()
    }

    /// An entry that was counted before, behind those that are there.
    pub(crate) fn restore_entry(&mut self, number: u64, time_ms: u64, data_bytes: usize) {
        let bytes = data_bytes as u64 + ENTRY_BYTES;
        self.bytes += bytes;
        match self.chunks.back_mut().filter(|_| self.is_open) {
            Some(chunk) => {
                chunk.last = number;
                chunk.newest_ms = chunk.newest_ms.max(time_ms);
                chunk.bytes += bytes;
            }
            None => {
                self.chunks.push_back(Chunk {
                    first: number,
                    last: number,
                    oldest_ms: time_ms,
                    newest_ms: time_ms,
                    bytes,
                });
                self.is_open = true;
            }
        }
    }

    /// Counts an entry. Answers its number, and the chunk that it ended.
    pub(crate) fn push(&mut self, time_ms: u64, data_bytes: usize) -> (u64, Option<Chunk>) {
        let chunk_bytes = (self.keep.bytes / CHUNKS).min(CHUNK_BYTES_MAX);
        let chunk_ms = (self.keep.age_ms / CHUNKS).max(1);
        let is_full = |chunk: &Chunk| chunk.bytes >= chunk_bytes || time_ms >= chunk.oldest_ms.saturating_add(chunk_ms);
        let ended = self.last().filter(|last| self.is_open && is_full(last));
        self.is_open &= ended.is_none();
        let number = self.next();
        self.restore_entry(number, time_ms, data_bytes);
        (number, ended)
    }

    /// Takes out the oldest chunk if it is not to be kept.
    pub(crate) fn pop_old(&mut self, now_ms: u64) -> Option<Chunk> {
        let oldest = self.chunks.front().filter(|_| self.chunks.len() > 1)?;
        let is_old = oldest.newest_ms.saturating_add(self.keep.age_ms) < now_ms;
        if !is_old && self.bytes <= self.keep.bytes {
            return None;
        }
        self.bytes -= oldest.bytes;
        self.chunks.pop_front()
    }
}

/// The last entry that each reader has done with.
#[derive(Debug, Default)]
pub(crate) struct Marks(HashMap<Box<str>, u64>);

impl Marks {
    pub(crate) fn get(&self, reader: &str) -> Option<u64> {
        self.0.get(reader).copied()
    }

    pub(crate) fn restore(&mut self, reader: Box<str>, number: u64) {
        self.0.insert(reader, number);
    }

    /// Answers the mark, and who was forgotten for it.
    pub(crate) fn set(&mut self, reader: &str, number: u64, first: u64) -> Result<(u64, Option<Box<str>>), LogError> {
        if let Some(mark) = self.0.get_mut(reader) {
            *mark = number.max(*mark);
            return Ok((*mark, None));
        }
        let mut forgotten = None;
        if self.0.len() >= READERS_MAX {
            let (last, mark) = self.0.iter().min_by_key(|(_, mark)| **mark).expect("there are readers");
            if mark + 1 >= first {
                return Err(LogError::TooManyReaders);
            }
            forgotten = Some(last.clone());
            self.0.remove(&**forgotten.as_ref().expect("it was just found"));
        }
        self.0.insert(reader.into(), number);
        Ok((number, forgotten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(age_ms: u64, bytes: u64) -> Window {
        Window::new(Keep { age_ms, bytes })
    }

    #[test]
    fn as_much_is_kept_as_both_bounds_allow() {
        let mut small = window(u64::MAX, 16_000);
        for n in 1..=1000 {
            assert_eq!(small.push(n, 68).0, n);
            while small.pop_old(n).is_some() {}
            assert!(small.bytes() <= 16_000 && small.next() == n + 1, "{n}");
        }
        assert!((840..=851).contains(&small.first()), "{}", small.first());
        let mut short = window(1600, u64::MAX);
        (1..=1000).for_each(|n| _ = short.push(n * 100, 1));
        while short.pop_old(100_000).is_some() {}
        assert_eq!(short.first(), 984);
    }

    #[test]
    fn the_last_numbers_are_not_forgotten() {
        let mut window = window(1, 16);
        (0..5).for_each(|n| _ = window.push(n, 1000));
        while window.pop_old(1_000_000).is_some() {}
        assert_eq!((window.first(), window.next()), (5, 6));
    }

    #[test]
    fn a_mark_does_not_go_back_and_readers_are_bounded() {
        let mut marks = Marks::default();
        assert_eq!(marks.set("a", 5, 1), Ok((5, None)));
        assert_eq!(marks.set("a", 3, 1), Ok((5, None)));
        (1..READERS_MAX).for_each(|n| _ = marks.set(&n.to_string(), 10, 1).expect("there is room"));
        assert_eq!(marks.set("new", 10, 6), Err(LogError::TooManyReaders));
        assert_eq!(marks.set("new", 10, 7), Ok((10, Some("a".into()))));
        assert_eq!((marks.get("a"), marks.get("new")), (None, Some(10)));
    }
}
