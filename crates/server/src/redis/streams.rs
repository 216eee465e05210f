//! The scripts that keep channels' streams, as calls: what they are asked, and what they answer.
//!
//! Each call is one act on the channel's server, and one command. Nothing is remembered here between two of them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::Value;
use fanfare_hub::{ChannelKey, Held, HistoryRule, Mark, Post, Publication, Since, StreamPosition};
use fanfare_proto::cursor::{Cursor, Place};

use super::record;
use super::stamps::SKEW_US;
use super::{CallError, Redis, Script, UnitIx};

/// Entries in one answer; more than any history in use holds.
const ENTRIES_MAX: usize = 1 << 20;

/// What a partition of many may hold of an app's histories, however small its share would be.
const APP_BYTES_MIN: usize = 1 << 20;

/// A script, after what all of them begin with. Those that write little and are to work when the memory is full say so.
macro_rules! script {
    ($flags:literal, $file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!("#!lua", $flags, "\n", include_str!("scripts/channel.lua"), include_str!($file)))
        })
    };
}

static PUBLISH: LazyLock<Script> = script!("", "scripts/publish.lua");
static HISTORY: LazyLock<Script> = script!(" flags=allow-oom", "scripts/history.lua");
static TIPS: LazyLock<Script> = script!(" flags=allow-oom", "scripts/tips.lua");
static CLEAR: LazyLock<Script> = script!(" flags=allow-oom", "scripts/clear.lua");
static CACHED: LazyLock<Script> = script!(" flags=no-writes", "scripts/cached.lua");

/// The streams of all channels. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    redis: Redis,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tip {
    /// The place of the publication stored last.
    pub position: StreamPosition,
    /// Its stamp.
    pub stamp: u64,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Where it is, if it was stored.
    pub tip: Option<Tip>,
    /// How many nodes heard it.
    pub receivers: u64,
    /// It had been published before.
    pub repeated: bool,
}

/// From where a history is read.
pub enum Query<'a> {
    /// As a reader asks.
    Since(&'a Since),
    /// After what this node has seen; if something is missing, what there is after that.
    Refill(StreamPosition),
}

/// What a history holds.
pub struct Read {
    /// Where the stream stands.
    pub tip: Tip,
    /// A stamp that all later ones are above, and no earlier one.
    pub present: u64,
    /// Whether nothing is missing.
    pub recovered: bool,
    /// What there is altogether.
    pub held: Held,
    /// What was asked for, the oldest first.
    pub entries: Vec<Entry>,
}

/// A stored publication.
pub struct Entry {
    /// Its place and stamp.
    pub tip: Tip,
    /// What was published, without `except`.
    pub publication: Arc<Publication>,
}

impl Tip {
    /// As a mark, everything up to `settled` having been shown before.
    pub fn mark(self, settled: u64) -> Mark {
        Mark { position: self.position, stamp: self.stamp, settled }
    }
}

impl Streams {
    /// The streams on these servers.
    pub fn new(redis: Redis) -> Streams {
        Streams { redis }
    }

    /// The unit of a channel.
    pub fn unit_of(&self, key: &ChannelKey) -> UnitIx {
        self.redis.unit_of(key.app(), key.name())
    }

    /// What a channel is called on its server, as a key and as a channel.
    pub fn name(&self, unit: UnitIx, key: &ChannelKey) -> Vec<u8> {
        self.redis.key(unit, &format!("c:{}", key.as_str()))
    }

    /// The keys that a script uses of a channel, its meta first, by their letters in `channel.lua`. The scripts make the others out of
    /// that one; they are named so that a server whose slot is on its way elsewhere refuses while it has only some of them.
    fn keys(&self, unit: UnitIx, key: &ChannelKey, letters: &str) -> Vec<Vec<u8>> {
        let name = |letter| match letter {
            'b' | 't' => self.redis.key(unit, &format!("{letter}:{}", key.app())),
            _ => self.redis.key(unit, &format!("{letter}:{}", key.as_str())),
        };
        letters.chars().map(name).collect()
    }

    /// Publishes, and stores if it is to be remembered in any way.
    pub async fn publish(
        &self,
        key: &ChannelKey,
        record: Vec<u8>,
        weight: usize,
        post: &Post,
    ) -> Result<Outcome, CallError> {
        let unit = self.unit_of(key);
        if *post == Post::TRANSIENT {
            let payload = [b";", &*record].concat();
            let receivers = self.redis.publish(unit, &self.name(unit, key), &payload).await?;
            return Ok(Outcome { tip: None, receivers, repeated: false });
        }
        let rule = post.keep.history.unwrap_or(HistoryRule::NOTHING);
        let (window, word) = post.idempotency.as_ref().map_or((Duration::ZERO, ""), |word| (word.window, &*word.key));
        let args = vec![
            record,
            flag(!post.keep.is_transient()),
            number(weight),
            number(rule.messages),
            number(rule.bytes),
            millis(rule.ttl),
            number(self.app_bytes_max(&rule)),
            post.keep.newest.map_or(number(0), millis),
            millis(window),
            word.into(),
        ];
        let answer = self.call(unit, &PUBLISH, self.keys(unit, key, "chlbt"), args).await?;
        let [epoch, offset, stamp, receivers, repeated] = numbers(&answer)?;
        let tip = (offset > 0).then_some(Tip { position: StreamPosition { epoch, offset }, stamp });
        Ok(Outcome { tip, receivers, repeated: repeated > 0 })
    }

    /// An app's budget is for all units together, and each takes its share of the channels.
    fn app_bytes_max(&self, rule: &HistoryRule) -> usize {
        let share = rule.app_bytes_max / self.redis.units().count().max(1);
        share.max(APP_BYTES_MIN).min(rule.app_bytes_max)
    }

    /// Reads a history. A channel that this node listens to `begins` if nothing is known of it: its place proves, after hours of
    /// silence, that nothing was missed.
    pub async fn history(
        &self,
        key: &ChannelKey,
        query: Query<'_>,
        limit: usize,
        begins: bool,
    ) -> Result<Read, CallError> {
        let unit = self.unit_of(key);
        let mut args = vec![flag(begins), number(limit.min(ENTRIES_MAX))];
        match query {
            Query::Since(Since::Now) => args.push("now".into()),
            Query::Since(Since::Last(n)) => args.extend(["last".into(), number(*n as usize)]),
            Query::Since(Since::Cursor(cursor)) => args.extend(self.since(unit, key, cursor)),
            Query::Refill(StreamPosition { epoch, offset }) => {
                args.extend(["refill".into(), epoch.to_string().into(), offset.to_string().into()]);
            }
        }
        let answer = self.call(unit, &HISTORY, self.keys(unit, key, "chbt"), args).await?;
        read_history(answer)
    }

    fn since(&self, unit: UnitIx, key: &ChannelKey, cursor: &Cursor) -> [Vec<u8>; 4] {
        let here = |place: &Place| self.redis.unit_of_hash(place.channel_hash) == unit;
        let settled = match cursor.places().iter().all(here) {
            true => cursor.settled(),
            false => cursor.settled().saturating_sub(SKEW_US),
        };
        // No stream has epoch 0: who names it knows nothing.
        let forged = cursor.places().iter().find(|place| place.epoch == 0).copied();
        let place = forged.or_else(|| cursor.place(key.hash()));
        let [epoch, offset] =
            place.map_or_else(Default::default, |place| [place.epoch, place.offset].map(|n| n.to_string()));
        ["since".into(), epoch.into(), offset.into(), settled.to_string().into()]
    }

    /// Where these channels of one unit stand, which begin if nothing is known of them. The present stamp is sent on `pulse`.
    pub async fn tips(&self, unit: UnitIx, names: Vec<Vec<u8>>, pulse: Option<&[u8]>) -> Result<Vec<Tip>, CallError> {
        let n = names.len();
        let answer = self.call(unit, &TIPS, names, vec![pulse.unwrap_or_default().into()]).await?;
        let numbers = all_numbers(&answer)?;
        let tips = numbers.get(1..).unwrap_or_default().chunks_exact(3);
        let tip = |of: &[u64]| Tip { position: StreamPosition { epoch: of[0], offset: of[1] }, stamp: of[2] };
        if tips.len() == n { Ok(tips.map(tip).collect()) } else { Err(odd(&answer)) }
    }

    /// Forgets what a channel has stored, and begins a new epoch.
    pub async fn clear(&self, key: &ChannelKey) -> Result<(Tip, u64), CallError> {
        let unit = self.unit_of(key);
        let answer = self.call(unit, &CLEAR, self.keys(unit, key, "chlbt"), Vec::new()).await?;
        let [epoch, stamp, present] = numbers(&answer)?;
        Ok((Tip { position: StreamPosition { epoch, offset: 0 }, stamp }, present))
    }

    /// A cache channel's newest event, and for how long it will be that.
    pub async fn cached(&self, key: &ChannelKey) -> Result<Option<(Entry, Duration)>, CallError> {
        let unit = self.unit_of(key);
        let answer = self.call(unit, &CACHED, self.keys(unit, key, "cl"), Vec::new()).await?;
        match &answer {
            Value::Array(values) if values.is_empty() => Ok(None),
            Value::Array(values) => match values.as_slice() {
                [Value::BulkString(bytes), Value::Int(ttl)] => {
                    let arrival = Letter::parse(bytes).and_then(Letter::stored).ok_or_else(|| odd(&answer))?;
                    Ok(Some((arrival, Duration::from_millis(u64::try_from(*ttl).unwrap_or_default()))))
                }
                _ => Err(odd(&answer)),
            },
            _ => Err(odd(&answer)),
        }
    }

    async fn call(
        &self,
        unit: UnitIx,
        script: &Script,
        keys: Vec<Vec<u8>>,
        args: Vec<Vec<u8>>,
    ) -> Result<Value, CallError> {
        let args = [vec![self.redis.key(unit, "")], args].concat();
        self.redis.call(unit, script, &keys, &args).await
    }
}

/// What stands before a record where it travels or lies: `epoch:offset:stamp;`, or `;` if it was not stored.
pub struct Letter<'a> {
    /// Where it was stored.
    pub tip: Option<Tip>,
    /// The record behind that.
    pub record: &'a [u8],
}

impl<'a> Letter<'a> {
    /// Takes apart what was sent or stored.
    pub fn parse(bytes: &'a [u8]) -> Option<Letter<'a>> {
        let (place, record) = split(bytes)?;
        if place.is_empty() {
            return Some(Letter { tip: None, record });
        }
        let mut numbers = place.split(':').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        let (epoch, offset, stamp) = (next()?, next()?, next()?);
        Some(Letter { tip: Some(Tip { position: StreamPosition { epoch, offset }, stamp }), record })
    }

    fn stored(self) -> Option<Entry> {
        Some(Entry { tip: self.tip?, publication: stored_publication(self.record)? })
    }
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b';')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

/// For everybody, also for whom it was not delivered to.
fn stored_publication(bytes: &[u8]) -> Option<Arc<Publication>> {
    let (publication, _) = record::decode(bytes).ok()?;
    Some(Arc::new(Publication { except: None, ..publication }))
}

fn read_history(answer: Value) -> Result<Read, CallError> {
    let Value::Array(values) = &answer else { return Err(odd(&answer)) };
    let Some((Value::Array(entries), head)) = values.split_last() else { return Err(odd(&answer)) };
    let head: Option<Vec<u64>> = head.iter().map(as_number).collect();
    let Some([epoch, offset, stamp, present, recovered, messages, bytes]) = head.as_deref() else {
        return Err(odd(&answer));
    };
    // Whatever is not ours to read is left out, as if it had not been meant for us.
    let entries = entries.iter().filter_map(|entry| read_entry(*epoch, entry)).collect();
    Ok(Read {
        tip: Tip { position: StreamPosition { epoch: *epoch, offset: *offset }, stamp: *stamp },
        present: *present,
        recovered: *recovered > 0,
        held: Held { messages: *messages as usize, bytes: *bytes as usize },
        entries,
    })
}

/// `offset:stamp:expires_ms:bytes;record`
fn read_entry(epoch: u64, entry: &Value) -> Option<Entry> {
    let Value::BulkString(bytes) = entry else { return None };
    let (head, record) = split(bytes)?;
    let mut numbers = head.split(':').map(|number| number.parse().ok());
    let (offset, stamp) = (numbers.next()??, numbers.next()??);
    let tip = Tip { position: StreamPosition { epoch, offset }, stamp };
    Some(Entry { tip, publication: stored_publication(record)? })
}

fn numbers<const N: usize>(answer: &Value) -> Result<[u64; N], CallError> {
    all_numbers(answer)?.try_into().map_err(|_| odd(answer))
}

fn all_numbers(answer: &Value) -> Result<Vec<u64>, CallError> {
    let Value::Array(values) = answer else { return Err(odd(answer)) };
    values.iter().map(as_number).collect::<Option<_>>().ok_or_else(|| odd(answer))
}

fn as_number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// Only a script that is not ours answers so.
fn odd(_: &Value) -> CallError {
    CallError::Refused("an answer of another kind than expected".to_owned())
}

fn flag(is: bool) -> Vec<u8> {
    number(usize::from(is))
}

/// As Lua can count: exactly up to 2^53.
fn number(n: usize) -> Vec<u8> {
    n.min(1 << 53).to_string().into()
}

fn millis(duration: Duration) -> Vec<u8> {
    // Nothing lives for no time at all on a server: that would be an error.
    number((duration.as_millis() as usize).max(1))
}
