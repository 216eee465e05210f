//! One channel's stored publications: the newest ones, and where the stream stands.
//!
//! Nothing here reads a clock or draws a number: callers hand in both.
//!
//! Always true:
//! - the entries are the last ones of the stream, without a hole: their offsets end at `offset` and rise by one;
//! - whatever this channel ever stored and does not hold has a stamp of at most `lost`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::cursor::{Cursor, Place};
use tokio::time::Instant;

use crate::broker::{Held, HistoryRule, Mark, Stored, StreamPosition};
use crate::publication::Publication;

/// A kept publication.
#[derive(Clone, Debug)]
pub struct Entry {
    pub publication: Arc<Publication>,
    pub offset: u64,
    pub stamp: u64,
    pub settled: u64,
    pub expires_at: Instant,
}

/// A cache channel's newest event.
#[derive(Clone, Debug)]
pub struct Newest {
    pub publication: Arc<Publication>,
    pub mark: Mark,
    pub expires_at: Instant,
}

/// One channel's stream.
#[derive(Clone, Debug)]
pub struct Stream {
    pub epoch: u64,
    /// That of the publication stored last; 0 at the beginning.
    pub offset: u64,
    /// The stamp of the publication stored last.
    pub stamp: u64,
    pub lost: u64,
    /// Where the epoch before this one ended: whoever had come that far has missed nothing.
    pub ended: Option<StreamPosition>,
    pub entries: VecDeque<Entry>,
    /// Bytes of the entries' names and data.
    pub bytes: usize,
    pub newest: Option<Newest>,
    /// When it was last written, or had a subscriber.
    pub used_at: Instant,
}

/// What has gone from a history: how many publications, and what they weighed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    pub messages: usize,
    pub weight: usize,
}

/// What a kept publication costs beside its name and data: the entry, the publication's other fields, allocators' rounding.
const OVERHEAD: usize = 256;

/// The bytes of a publication that its channel's rule counts.
pub fn bytes(publication: &Publication) -> usize {
    publication.event.len() + publication.data.len()
}

/// The bytes of a publication that its app's budget counts.
pub fn weight(publication: &Publication) -> usize {
    bytes(publication) + OVERHEAD
}

impl Stream {
    /// Nothing stored yet. `lost`: the highest stamp that an earlier stream of this channel may have had.
    pub fn begin(epoch: u64, lost: u64, now: Instant) -> Stream {
        let (entries, ended, newest) = (VecDeque::new(), None, None);
        Stream { epoch, offset: 0, stamp: lost, lost, ended, entries, bytes: 0, newest, used_at: now }
    }

    /// The place of the publication that is stored now.
    pub fn advance(&mut self, stamp: u64, settled: u64, now: Instant) -> Mark {
        self.offset += 1;
        self.stamp = stamp;
        self.used_at = now;
        Mark { position: StreamPosition { epoch: self.epoch, offset: self.offset }, stamp, settled }
    }

    /// Keeps the publication that was given `mark` a moment ago, as far as the rule lets it.
    pub fn push(&mut self, publication: Arc<Publication>, mark: Mark, rule: &HistoryRule, now: Instant) -> Gone {
        self.bytes += bytes(&publication);
        let (offset, stamp, settled) = (mark.position.offset, mark.stamp, mark.settled);
        self.entries.push_back(Entry { publication, offset, stamp, settled, expires_at: now + rule.ttl });
        let mut gone = self.expire(now);
        while self.entries.len() > rule.messages || self.bytes > rule.bytes {
            gone.add(self.drop_oldest());
        }
        gone
    }

    /// What was stored a moment ago is not kept; what came before it is of no use without it.
    pub fn skip(&mut self) -> Gone {
        let gone = self.drop_all();
        self.lost = self.stamp;
        gone
    }

    /// Drops what has lived for its time.
    pub fn expire(&mut self, now: Instant) -> Gone {
        let mut gone = Gone::default();
        while self.entries.front().is_some_and(|entry| entry.expires_at <= now) {
            gone.add(self.drop_oldest());
        }
        if gone.messages > 0 && self.entries.is_empty() {
            // A channel that has gone quiet is remembered for long, without the room that it needed.
            self.entries = VecDeque::new();
        }
        if self.newest.as_ref().is_some_and(|newest| newest.expires_at <= now) {
            self.newest = None;
        }
        gone
    }

    /// Drops the oldest entry, of which there must be one.
    pub fn drop_oldest(&mut self) -> Gone {
        let entry = self.entries.pop_front().expect("the caller has seen an entry");
        self.bytes -= bytes(&entry.publication);
        self.lost = entry.stamp;
        Gone { messages: 1, weight: weight(&entry.publication) }
    }

    /// Forgets everything, and goes on in another epoch.
    pub fn clear(&mut self, epoch: u64, now: Instant) -> Gone {
        let gone = self.drop_all();
        self.ended = Some(self.position());
        (self.epoch, self.offset, self.newest, self.used_at) = (epoch, 0, None, now);
        self.lost = self.stamp;
        gone
    }

    fn drop_all(&mut self) -> Gone {
        let mut gone = Gone::default();
        while !self.entries.is_empty() {
            gone.add(self.drop_oldest());
        }
        gone
    }

    /// The place of the publication stored last.
    pub fn position(&self) -> StreamPosition {
        StreamPosition { epoch: self.epoch, offset: self.offset }
    }

    /// Whether it holds nothing.
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty() && self.newest.is_none()
    }

    /// How much it holds.
    pub fn held(&self) -> Held {
        Held { messages: self.entries.len(), bytes: self.bytes }
    }

    /// The index of the first entry that is newer than the cursor, if nothing between the two is missing. `place` is the
    /// cursor's place in this channel; a cursor of an earlier life must not come here.
    pub fn after(&self, cursor: &Cursor, place: Option<Place>) -> Option<usize> {
        match place {
            Some(place) if place.epoch == self.epoch => self.after_offset(place.offset),
            Some(place) if self.ended.is_some_and(|end| (end.epoch, end.offset) == (place.epoch, place.offset)) => {
                self.after_offset(0)
            }
            _ => self.after_stamp(cursor.settled()),
        }
    }

    fn after_offset(&self, offset: u64) -> Option<usize> {
        let dropped = self.offset - self.entries.len() as u64;
        let index = offset.checked_sub(dropped)? as usize;
        (index <= self.entries.len()).then_some(index)
    }

    fn after_stamp(&self, stamp: u64) -> Option<usize> {
        (stamp >= self.lost).then(|| self.entries.partition_point(|entry| entry.stamp <= stamp))
    }

    /// The entries from `index` on, at most `limit` of them.
    pub fn stored(&self, index: usize, limit: usize) -> Vec<Stored> {
        self.entries.iter().skip(index).take(limit).map(|entry| self.stored_one(entry)).collect()
    }

    fn stored_one(&self, entry: &Entry) -> Stored {
        let position = StreamPosition { epoch: self.epoch, offset: entry.offset };
        let mark = Mark { position, stamp: entry.stamp, settled: entry.settled };
        Stored { publication: entry.publication.clone(), mark }
    }

    /// The newest event and the time that it has left. An expired one is as good as gone.
    pub fn cached(&self, now: Instant) -> Option<(&Newest, Duration)> {
        let newest = self.newest.as_ref()?;
        let ttl = newest.expires_at.saturating_duration_since(now);
        (!ttl.is_zero()).then_some((newest, ttl))
    }
}

impl Gone {
    pub fn add(&mut self, other: Gone) {
        self.messages += other.messages;
        self.weight += other.weight;
    }
}
