//! What a broker knows, from one life of the server to the next: as a value, and as the bytes of a file.
//!
//! The bytes are a header (what it is, which version), the numbers of the life, its streams, its idempotency keys, and a
//! checksum of all of it. Numbers are little-endian; texts and lists carry their length in front. Times are those of the
//! wall clock, so that what is kept does not live longer for having been saved; callers say what time it is.
//!
//! Always true: bytes that were damaged, cut short or written by another version are refused, and never read in part.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::keys::{First, Name};
use super::stream::{Entry, Newest, Stream, bytes};
use crate::broker::{Mark, StreamPosition};
use crate::key::ChannelKey;
use crate::publication::{Kind, Publication};

/// The header: what it is, and the version of what follows.
const HEADER: &[u8; 16] = b"fanfare history\x01";

const CHECKSUM_LEN: usize = 8;

/// What a broker knows.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) life: u64,
    /// The next epoch.
    pub(super) epoch: u64,
    /// The next stamp.
    pub(super) stamp: u64,
    pub(super) forgotten: u64,
    pub(super) streams: Vec<(ChannelKey, Stream)>,
    pub(super) keys: Vec<(Name, First)>,
}

/// Why bytes are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// Something else, or of another version of this program.
    #[error("not a history that this version has written")]
    Foreign,
    /// Not as it was written.
    #[error("damaged")]
    Damaged,
}

impl Snapshot {
    /// How many channels it knows.
    pub fn channels(&self) -> usize {
        self.streams.len()
    }

    /// How many publications their histories hold.
    pub fn publications(&self) -> usize {
        self.streams.iter().map(|(_, stream)| stream.entries.len()).sum()
    }

    /// Forgets the idempotency keys of which this is true: what is posted under them again is published again.
    pub fn forget_keys(&mut self, mut is_lost: impl FnMut(&ChannelKey, &str) -> bool) {
        self.keys.retain(|((key, word), _)| !is_lost(key, word));
    }

    /// Writes it; `now_ms` since the Unix epoch.
    pub fn write(&self, out: impl Write, now_ms: u64) -> io::Result<()> {
        let mut out = Writer { out, hash: FNV_BASIS, clock: Clock::at(now_ms) };
        out.raw(HEADER)?;
        for number in [self.life, self.epoch, self.stamp, self.forgotten] {
            out.number(number)?;
        }
        out.list(&self.streams, |out, (key, stream)| {
            out.text(key.as_str())?;
            out.stream(stream)
        })?;
        out.list(&self.keys, |out, ((key, word), first)| {
            out.text(key.as_str())?;
            out.text(word)?;
            out.time(first.expires_at)?;
            out.optional(first.mark, Writer::mark)
        })?;
        let hash = out.hash;
        out.number(hash)?;
        out.out.flush()
    }

    /// Reads what [`Snapshot::write`] wrote; `now_ms` since the Unix epoch.
    pub fn read(file: &[u8], now_ms: u64) -> Result<Snapshot, BadSnapshot> {
        if !file.starts_with(HEADER) {
            return Err(BadSnapshot::Foreign);
        }
        let (content, checksum) = file.split_last_chunk::<CHECKSUM_LEN>().ok_or(BadSnapshot::Damaged)?;
        if u64::from_le_bytes(*checksum) != fnv1a(FNV_BASIS, content) {
            return Err(BadSnapshot::Damaged);
        }
        let rest = content.strip_prefix(HEADER).ok_or(BadSnapshot::Damaged)?;
        let mut reader = Reader { rest, clock: Clock::at(now_ms) };
        reader.snapshot().filter(|_| reader.rest.is_empty()).ok_or(BadSnapshot::Damaged)
    }
}

/// Changes between the clock that publications expire by and the one that outlives the process.
#[derive(Clone, Copy)]
struct Clock {
    now: Instant,
    now_ms: u64,
}

impl Clock {
    fn at(now_ms: u64) -> Clock {
        Clock { now: Instant::now(), now_ms }
    }

    fn ms_of(self, at: Instant) -> u64 {
        self.now_ms.saturating_add(at.saturating_duration_since(self.now).as_millis() as u64)
    }

    fn instant_of(self, at_ms: u64) -> Option<Instant> {
        self.now.checked_add(Duration::from_millis(at_ms.saturating_sub(self.now_ms)))
    }
}

struct Writer<W> {
    out: W,
    hash: u64,
    clock: Clock,
}

impl<W: Write> Writer<W> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash = fnv1a(self.hash, bytes);
        self.out.write_all(bytes)
    }

    fn number(&mut self, number: u64) -> io::Result<()> {
        self.raw(&number.to_le_bytes())
    }

    fn time(&mut self, at: Instant) -> io::Result<()> {
        self.number(self.clock.ms_of(at))
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.number(text.len() as u64)?;
        self.raw(text.as_bytes())
    }

    fn optional<T>(&mut self, item: Option<T>, write: fn(&mut Self, T) -> io::Result<()>) -> io::Result<()> {
        self.raw(&[u8::from(item.is_some())])?;
        item.map_or(Ok(()), |item| write(self, item))
    }

    fn list<'t, T: 't, I>(&mut self, items: I, write: impl Fn(&mut Self, &'t T) -> io::Result<()>) -> io::Result<()>
    where
        I: IntoIterator<Item = &'t T, IntoIter: ExactSizeIterator>,
    {
        let mut items = items.into_iter();
        self.number(items.len() as u64)?;
        items.try_for_each(|item| write(self, item))
    }

    fn mark(&mut self, mark: Mark) -> io::Result<()> {
        let Mark { position: StreamPosition { epoch, offset }, stamp, settled } = mark;
        [epoch, offset, stamp, settled].into_iter().try_for_each(|number| self.number(number))
    }

    fn stream(&mut self, stream: &Stream) -> io::Result<()> {
        for number in [stream.epoch, stream.offset, stream.stamp, stream.lost] {
            self.number(number)?;
        }
        self.optional(stream.ended, |out, end| [end.epoch, end.offset].into_iter().try_for_each(|n| out.number(n)))?;
        self.list(&stream.entries, |out, entry| {
            out.number(entry.stamp)?;
            out.number(entry.settled)?;
            out.time(entry.expires_at)?;
            out.publication(&entry.publication)
        })?;
        self.optional(stream.newest.as_ref(), |out, newest| {
            out.mark(newest.mark)?;
            out.time(newest.expires_at)?;
            out.publication(&newest.publication)
        })
    }

    fn publication(&mut self, publication: &Publication) -> io::Result<()> {
        let (kind, version) = match publication.kind {
            Kind::Event => (0, 0),
            Kind::Presence { version } => (1, version),
            Kind::Unaddressed => (2, 0),
            Kind::Terminate => (3, 0),
            Kind::Gap => (4, 0),
        };
        self.number(kind)?;
        self.number(version)?;
        self.number(publication.time_ms)?;
        self.number(publication.tag.into())?;
        self.text(&publication.event)?;
        self.text(&publication.data)?;
        let (event_id, content_type) = (publication.event_id.as_deref(), publication.content_type.as_deref());
        [publication.user_id.as_deref(), event_id, content_type]
            .into_iter()
            .try_for_each(|text| self.optional(text, Writer::text))
    }
}

struct Reader<'f> {
    rest: &'f [u8],
    clock: Clock,
}

impl<'f> Reader<'f> {
    fn raw(&mut self, len: usize) -> Option<&'f [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*taken))
    }

    fn time(&mut self) -> Option<Instant> {
        let at_ms = self.number()?;
        self.clock.instant_of(at_ms)
    }

    fn text(&mut self) -> Option<&'f str> {
        let len = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.raw(len)?).ok()
    }

    fn key(&mut self) -> Option<ChannelKey> {
        let (app, name) = self.text()?.split_once('/')?;
        Some(ChannelKey::new(app, name))
    }

    fn optional<T>(&mut self, read: fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.raw(1)? {
            [0] => Some(None),
            [1] => read(self).map(Some),
            _ => None,
        }
    }

    fn list<T, C: FromIterator<T>>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<C> {
        let len = self.number()?;
        (0..len).map(|_| read(self)).collect()
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let (life, epoch, stamp, forgotten) = (self.number()?, self.number()?, self.number()?, self.number()?);
        let streams = self.list(|reader| Some((reader.key()?, reader.stream()?)))?;
        let keys = self.list(|reader| {
            let name = (reader.key()?, reader.text()?.into());
            Some((name, First { expires_at: reader.time()?, mark: reader.optional(Reader::mark)? }))
        })?;
        Some(Snapshot { life, epoch, stamp, forgotten, streams, keys })
    }

    fn position(&mut self) -> Option<StreamPosition> {
        Some(StreamPosition { epoch: self.number()?, offset: self.number()? })
    }

    fn mark(&mut self) -> Option<Mark> {
        Some(Mark { position: self.position()?, stamp: self.number()?, settled: self.number()? })
    }

    fn stream(&mut self) -> Option<Stream> {
        let (epoch, offset, stamp, lost) = (self.number()?, self.number()?, self.number()?, self.number()?);
        let mut stream = Stream { epoch, offset, stamp, ..Stream::begin(epoch, lost, self.clock.now) };
        stream.ended = self.optional(Reader::position)?;
        stream.entries = self.list(Reader::entry)?;
        // The entries are the last ones of the stream.
        let dropped = offset.checked_sub(stream.entries.len() as u64)?;
        for (entry, offset) in stream.entries.iter_mut().zip(dropped + 1..) {
            entry.offset = offset;
            stream.bytes += bytes(&entry.publication);
        }
        stream.newest = self.optional(Reader::newest)?;
        Some(stream)
    }

    fn entry(&mut self) -> Option<Entry> {
        let (stamp, settled, expires_at) = (self.number()?, self.number()?, self.time()?);
        Some(Entry { publication: self.publication()?, offset: 0, stamp, settled, expires_at })
    }

    fn newest(&mut self) -> Option<Newest> {
        let (mark, expires_at) = (self.mark()?, self.time()?);
        Some(Newest { publication: self.publication()?, mark, expires_at })
    }

    fn publication(&mut self) -> Option<Arc<Publication>> {
        let kind = match (self.number()?, self.number()?) {
            (0, _) => Kind::Event,
            (1, version) => Kind::Presence { version },
            (2, _) => Kind::Unaddressed,
            (3, _) => Kind::Terminate,
            (4, _) => Kind::Gap,
            _ => return None,
        };
        let (time_ms, tag) = (self.number()?, u32::try_from(self.number()?).ok()?);
        let mut publication = Publication::event(self.text()?, self.text()?);
        (publication.kind, publication.time_ms, publication.tag) = (kind, time_ms, tag);
        publication.user_id = self.optional(Reader::text)?.map(Into::into);
        publication.event_id = self.optional(Reader::text)?.map(Into::into);
        publication.content_type = self.optional(Reader::text)?.map(Into::into);
        Some(Arc::new(publication))
    }
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: against torn and rotten files, not against people.
fn fnv1a(basis: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(basis, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
