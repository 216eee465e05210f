//! One stripe's channels: their streams, and what each app takes.
//!
//! Behind a lock that is never held over an await. Nothing here delivers anything, or reads a clock.
//!
//! Always true:
//! - what an app's streams hold is counted in its room, which all stripes share;
//! - whatever a channel without a stream ever stored has a stamp of at most `forgotten`, so that it can always be told
//!   whether something was missed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_proto::cursor::Cursor;
use hashbrown::HashMap;
use tokio::time::Instant;

use super::keys::{First, Keys, Name};
use super::snapshot::Snapshot;
use super::stamps::Stamps;
use super::stream::{Gone, Newest, Stream, weight};
use crate::broker::{Cached, Held, History, HistoryRule, Keep, Mark, Post, Since, StreamPosition};
use crate::key::ChannelKey;
use crate::publication::Publication;

/// How long a stream that holds nothing is remembered after its last use, so that who comes back can be told that nothing
/// was missed.
const IDLE: Duration = Duration::from_secs(600);

/// Streams of one stripe. Beyond it those that hold nothing and have no subscriber go at once.
const STREAMS_MAX: usize = 100_000;

/// What all stripes of a node share.
#[derive(Debug)]
pub struct Common {
    /// The first epoch of this life, which no stream has: the place of channels that have not begun.
    pub life: u64,
    /// The next epoch.
    pub epochs: AtomicU64,
    pub stamps: Arc<Stamps>,
    /// By app id: bytes that its histories take.
    pub rooms: papaya::HashMap<Box<str>, Arc<AtomicUsize>>,
    /// The channels that this node is subscribed to.
    pub wanted: papaya::HashSet<ChannelKey>,
}

impl Common {
    /// `epoch` and `stamp` are the next ones.
    pub fn new(life: u64, epoch: u64, stamp: u64) -> Arc<Common> {
        let (rooms, wanted) = Default::default();
        Arc::new(Common { life, epochs: epoch.into(), stamps: Stamps::from(stamp), rooms, wanted })
    }

    /// Whether this node is subscribed to the channel.
    pub fn wants(&self, key: &ChannelKey) -> bool {
        self.wanted.pin().contains(key)
    }

    fn room(&self, app: &str) -> Arc<AtomicUsize> {
        self.rooms.pin().get_or_insert_with(app.into(), Arc::default).clone()
    }

    /// Whether anything can be said about what came since.
    fn knows_since(&self, since: &Since) -> bool {
        match since {
            Since::Cursor(cursor) => self.knows(cursor),
            Since::Now | Since::Last(_) => true,
        }
    }

    /// Whether a cursor was made in this life.
    fn knows(&self, cursor: &Cursor) -> bool {
        let epochs = self.life..self.epochs.load(Ordering::Relaxed);
        cursor.settled() < self.stamps.next() && cursor.places().iter().all(|place| epochs.contains(&place.epoch))
    }
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new; its mark if it was stored.
    New(Option<Mark>),
    /// It was published before.
    Repeat(Option<Mark>),
}

/// One stripe's channels.
#[derive(Debug)]
pub struct Table {
    common: Arc<Common>,
    streams: HashMap<ChannelKey, Stream>,
    tenants: HashMap<Box<str>, Tenant>,
    forgotten: u64,
    pub closed: bool,
}

/// An app's part of a stripe.
#[derive(Debug)]
struct Tenant {
    /// Bytes that the app's histories take in all stripes.
    room: Arc<AtomicUsize>,
    /// The entries that its streams hold here.
    held: usize,
    /// By rising stamp; those that went for other reasons are still among them.
    order: VecDeque<(ChannelKey, u64)>,
    keys: Keys,
}

impl Table {
    pub fn new(common: Arc<Common>, forgotten: u64) -> Table {
        Table { common, streams: HashMap::new(), tenants: HashMap::new(), forgotten, closed: false }
    }

    /// Stores a publication, unless it is a repeat.
    pub fn publish(&mut self, key: &ChannelKey, publication: &Arc<Publication>, post: &Post, now: Instant) -> Outcome {
        if let Some(first) = self.first(key, post, now) {
            return Outcome::Repeat(first.mark);
        }
        let mark = (!post.keep.is_transient()).then(|| self.store(key, publication, &post.keep, now));
        if let Some(word) = &post.idempotency {
            self.tenant(key.app()).keys.remember(key, word, mark, now);
        }
        Outcome::New(mark)
    }

    fn first(&self, key: &ChannelKey, post: &Post, now: Instant) -> Option<First> {
        let word = post.idempotency.as_ref()?;
        self.tenants.get(key.app())?.keys.first(key, &word.key, now)
    }

    fn store(&mut self, key: &ChannelKey, publication: &Arc<Publication>, keep: &Keep, now: Instant) -> Mark {
        let settled = self.common.stamps.settled();
        let stream = stream(&mut self.streams, &self.common, self.forgotten, key, now);
        let mark = stream.advance(self.common.stamps.draw(), settled, now);
        let kept = kept(publication);
        if let Some(ttl) = keep.newest {
            stream.newest = Some(Newest { publication: kept.clone(), mark, expires_at: now + ttl });
        }
        match &keep.history {
            None => {
                let gone = stream.skip();
                self.account(key.app(), gone);
            }
            Some(rule) => {
                let weight = weight(&kept);
                let gone = stream.push(kept, mark, rule, now);
                self.charge(key, mark.stamp, weight, gone, rule);
            }
        }
        mark
    }

    /// Counts a new entry and those that made way for it, and keeps the app within its budget.
    fn charge(&mut self, key: &ChannelKey, stamp: u64, weight: usize, gone: Gone, rule: &HistoryRule) {
        let Table { common, streams, tenants, .. } = self;
        let tenant = tenant(tenants, common, key.app());
        tenant.held += 1;
        tenant.room.fetch_add(weight, Ordering::Relaxed);
        tenant.order.push_back((key.clone(), stamp));
        tenant.account(gone);
        tenant.trim(streams, rule.app_bytes_max);
        tenant.compact(streams);
    }

    fn account(&mut self, app: &str, gone: Gone) {
        if gone.messages > 0 {
            self.tenant(app).account(gone);
        }
    }

    fn tenant(&mut self, app: &str) -> &mut Tenant {
        tenant(&mut self.tenants, &self.common, app)
    }

    /// What the channel holds since then. `settled` was asked for before the table's lock was taken.
    pub fn history(&mut self, key: &ChannelKey, since: &Since, limit: usize, settled: u64, now: Instant) -> History {
        let known = self.common.knows_since(since);
        if !self.streams.contains_key(key) {
            if !self.common.wants(key) {
                return self.nothing(since, known, settled);
            }
            // A subscriber may come back after hours of silence: its place in a stream proves that nothing was missed.
            stream(&mut self.streams, &self.common, self.forgotten, key, now);
        }
        let stream = self.streams.get_mut(key).expect("looked up or made above");
        let gone = stream.expire(now);
        let begin = match since {
            Since::Now => Some(stream.entries.len()),
            Since::Last(n) => Some(stream.entries.len().saturating_sub(*n as usize)),
            Since::Cursor(cursor) if known => stream.after(cursor, cursor.place(key.hash())),
            Since::Cursor(_) => None,
        };
        let history = History {
            publications: begin.map(|index| stream.stored(index, limit)).unwrap_or_default(),
            now: Mark { position: stream.position(), stamp: stream.stamp, settled },
            recovered: begin.is_some(),
            held: stream.held(),
        };
        self.account(key.app(), gone);
        history
    }

    /// What can be said of a channel that nothing is known of.
    fn nothing(&self, since: &Since, known: bool, settled: u64) -> History {
        let position = StreamPosition { epoch: self.common.life, offset: 0 };
        let missed = matches!(since, Since::Cursor(cursor) if cursor.settled() < self.forgotten);
        History {
            publications: Vec::new(),
            now: Mark { position, stamp: 0, settled },
            recovered: known && !missed,
            held: Held::default(),
        }
    }

    /// Forgets what the channel holds, in a new epoch.
    pub fn clear(&mut self, key: &ChannelKey, settled: u64, now: Instant) -> Mark {
        let epoch = self.common.epochs.fetch_add(1, Ordering::Relaxed);
        let Some(stream) = self.streams.get_mut(key) else {
            let stream = Stream::begin(epoch, self.forgotten, now);
            let mark = Mark { position: stream.position(), stamp: stream.stamp, settled };
            self.streams.insert(key.clone(), stream);
            return mark;
        };
        let gone = stream.clear(epoch, now);
        let mark = Mark { position: stream.position(), stamp: stream.stamp, settled };
        self.account(key.app(), gone);
        mark
    }

    pub fn cached(&self, key: &ChannelKey, now: Instant) -> Option<Cached> {
        let (newest, ttl) = self.streams.get(key)?.cached(now)?;
        Some(Cached { publication: newest.publication.clone(), mark: newest.mark, ttl })
    }

    /// Drops what has expired, and forgets streams and apps that nothing is known of any more.
    pub fn sweep(&mut self, now: Instant) {
        let Table { common, streams, tenants, forgotten, .. } = self;
        let idle = if streams.len() > STREAMS_MAX { Duration::ZERO } else { IDLE };
        streams.retain(|key, stream| {
            let gone = stream.expire(now);
            if gone.messages > 0 {
                tenant(tenants, common, key.app()).account(gone);
            }
            if common.wants(key) {
                stream.used_at = now;
                return true;
            }
            let stays = !stream.is_idle() || now < stream.used_at + idle;
            if !stays {
                *forgotten = stream.stamp.max(*forgotten);
            }
            stays
        });
        tenants.retain(|_, tenant| {
            tenant.keys.expire(now);
            tenant.held > 0 || !tenant.keys.is_empty()
        });
    }

    /// Hands over everything that another life would need; nothing is left here.
    pub fn empty_into(&mut self, snapshot: &mut Snapshot) {
        snapshot.streams.extend(self.streams.drain());
        let tenants = std::mem::take(&mut self.tenants).into_values();
        snapshot.keys.extend(tenants.flat_map(|tenant| tenant.keys.into_known()));
        snapshot.forgotten = self.forgotten.max(snapshot.forgotten);
    }

    /// Goes on with a channel of another life.
    pub fn adopt(&mut self, key: ChannelKey, stream: Stream) {
        let tenant = tenant(&mut self.tenants, &self.common, key.app());
        for entry in &stream.entries {
            tenant.held += 1;
            tenant.room.fetch_add(weight(&entry.publication), Ordering::Relaxed);
            tenant.order.push_back((key.clone(), entry.stamp));
        }
        self.streams.insert(key, stream);
    }

    /// Goes on with an idempotency key of another life.
    pub fn adopt_key(&mut self, name: Name, first: First) {
        tenant(&mut self.tenants, &self.common, name.0.app()).keys.put(name, first);
    }

    /// Puts what was adopted into the order that the oldest go in.
    pub fn adopted(&mut self) {
        for tenant in self.tenants.values_mut() {
            tenant.order.make_contiguous().sort_unstable_by_key(|(_, stamp)| *stamp);
        }
    }
}

/// The channel's stream; a new one in a new epoch if it has none.
fn stream<'t>(
    streams: &'t mut HashMap<ChannelKey, Stream>,
    common: &Common,
    forgotten: u64,
    key: &ChannelKey,
    now: Instant,
) -> &'t mut Stream {
    let begin = || Stream::begin(common.epochs.fetch_add(1, Ordering::Relaxed), forgotten, now);
    streams.entry(key.clone()).or_insert_with(begin)
}

fn tenant<'t>(tenants: &'t mut HashMap<Box<str>, Tenant>, common: &Common, app: &str) -> &'t mut Tenant {
    tenants.entry_ref(app).or_insert_with(|| Tenant {
        room: common.room(app),
        held: 0,
        order: VecDeque::new(),
        keys: Keys::default(),
    })
}

/// For everybody, also for whom it was not delivered to.
fn kept(publication: &Arc<Publication>) -> Arc<Publication> {
    match publication.except {
        None => publication.clone(),
        Some(_) => Arc::new(publication.kept()),
    }
}

impl Tenant {
    fn account(&mut self, gone: Gone) {
        self.held -= gone.messages;
        self.room.fetch_sub(gone.weight, Ordering::Relaxed);
    }

    /// Drops this stripe's oldest entries until the app is within its budget, or the newest alone is left.
    fn trim(&mut self, streams: &mut HashMap<ChannelKey, Stream>, bytes_max: usize) {
        while self.room.load(Ordering::Relaxed) > bytes_max && self.held > 1 {
            let Some((key, stamp)) = self.order.pop_front() else { return };
            if holds(streams, &key, stamp) {
                let stream = streams.get_mut(&key).expect("it holds the entry");
                self.account(stream.drop_oldest());
            }
        }
    }

    /// Forgets the order of entries that are gone, once these are more than those that are not.
    fn compact(&mut self, streams: &HashMap<ChannelKey, Stream>) {
        if self.order.len() > 2 * self.held + 64 {
            self.order.retain(|(key, stamp)| holds(streams, key, *stamp));
        }
    }
}

fn holds(streams: &HashMap<ChannelKey, Stream>, key: &ChannelKey, stamp: u64) -> bool {
    let oldest = streams.get(key).and_then(|stream| stream.entries.front());
    oldest.is_some_and(|oldest| oldest.stamp <= stamp)
}
