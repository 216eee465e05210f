//! A log in Redis: one script for each verb, on one unit.
//!
//! Always true:
//! - entries grow old by the server's clock, whatever those of the nodes say;
//! - where the server may have lost the last entries, as one that takes over may, numbers are left out before the next, so that
//!   whoever had read what was lost finds that out.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use async_trait::async_trait;
use fanfare_jobs::log::{Ends, Fresh, Keep, NUMBERS_SKIPPED, READERS_MAX, SharedLog, Standing, Tip, Written};
use fanfare_jobs::{Log, LogEntry, LogError};
use redis::Value;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::appender::Append;
use crate::redis::assurance::Assurance;
use crate::redis::presence::Answer;
use crate::redis::{Redis, Script, UnitIx};

/// What all numbers are below, as scripts reckon with doubles.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// What a log is trimmed by.
const CHUNKS: u64 = 16;
const CHUNK_BYTES_MAX: u64 = 64 << 10;

static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua\n",
        include_str!("../scripts/logs.lua"),
        include_str!("../scripts/logs_write.lua"),
        include_str!("../scripts/logs_append.lua")
    ))
});

static CHANGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua flags=allow-oom\n",
        include_str!("../scripts/logs.lua"),
        include_str!("../scripts/logs_write.lua"),
        include_str!("../scripts/logs_change.lua")
    ))
});

static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua flags=no-writes,allow-oom\n",
        include_str!("../scripts/logs.lua"),
        include_str!("../scripts/logs_look.lua")
    ))
});

/// The log of one app.
pub(super) struct RedisLog {
    redis: Redis,
    name: Box<str>,
    unit: UnitIx,
    /// As the scripts list them; the channel of the news is the last.
    keys: Vec<Vec<u8>>,
    keep: Mutex<Keep>,
    /// Without one, the server's word is enough.
    assurance: Option<Arc<Assurance>>,
    /// Only the contract wants the other clock.
    servers_clock: bool,
    appends: mpsc::Sender<Append>,
    tip: watch::Sender<Tip>,
    moves: watch::Sender<()>,
    doubt: Notify,
}

impl RedisLog {
    /// The log of this app. What is handed in comes out of `appends`.
    pub(super) fn new(
        redis: Redis,
        unit: UnitIx,
        app: &str,
        keep: Keep,
        assurance: Option<Arc<Assurance>>,
        appends: mpsc::Sender<Append>,
    ) -> RedisLog {
        const PARTS: [&str; 7] = ["meta", "chunks", "entries", "marks", "seats", "names", "news"];
        RedisLog {
            keys: PARTS.iter().map(|part| redis.key(unit, &format!("l:{app}:{part}"))).collect(),
            redis,
            name: app.into(),
            unit,
            keep: Mutex::new(keep),
            assurance,
            servers_clock: true,
            appends,
            tip: watch::Sender::default(),
            moves: watch::Sender::default(),
            doubt: Notify::new(),
        }
    }

    /// The same by the clock that its callers name.
    #[cfg(test)]
    pub(super) fn by_callers_clock(self) -> RedisLog {
        RedisLog { servers_clock: false, ..self }
    }

    /// Whose it is.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The channel of its news.
    pub(super) fn news(&self) -> &[u8] {
        self.keys.last().expect("it has keys")
    }

    /// Where it is.
    pub(super) fn unit(&self) -> UnitIx {
        self.unit
    }

    /// Whether the server keeps what it answers for, as far as this log needs that.
    pub(super) async fn is_assured(&self) -> Result<(), LogError> {
        match &self.assurance {
            Some(assurance) => assurance.check().await.map_err(LogError::Unavailable),
            None => Ok(()),
        }
    }

    /// What was told on the channel of the news.
    pub(super) fn hear(&self, news: &[u8]) {
        let told = std::str::from_utf8(news).ok().and_then(|news| news.strip_prefix("tip ")?.split_once(' '));
        match told.map(|(epoch, next)| (epoch.parse(), next.parse())) {
            Some((Ok(epoch), Ok(next))) => self.came_to(Tip { epoch, next }),
            _ => self.moved(),
        }
    }

    /// Something may have been told that was not heard.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Ends when there is a doubt.
    pub(super) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Finds out what was not heard, for whoever waits for it.
    pub(super) async fn look(&self) {
        if self.tip.receiver_count() > 0
            && let Err(error) = self.ends().await
        {
            tracing::debug!(app = self.name(), %error, "a firehose was not looked at");
        }
        self.moved();
    }

    fn moved(&self) {
        self.moves.send_replace(());
    }

    /// Answers of each entry whether it was new.
    pub(super) async fn append_now(&self, entries: Vec<Fresh>, now_ms: u64) -> Result<Vec<bool>, LogError> {
        self.is_assured().await?;
        let entries: Vec<Vec<u8>> = entries.into_iter().flat_map(written).collect();
        let answer = loop {
            // Before where it is: a server that is another one by then is not called by this.
            let generation = self.redis.generation(self.unit);
            let args = [self.here(generation), entries.clone()].concat();
            match self.call(&APPEND, now_ms, args).await? {
                // It became another one meanwhile.
                Value::Nil if generation != self.redis.generation(self.unit) => {}
                answer => break answer,
            }
        };
        self.is_assured().await?;
        let mut answer = read(Answer::of(answer))?;
        self.came_to(tip(&mut answer)?);
        let mut news = Vec::new();
        while !answer.is_empty() {
            news.push(read(answer.number())? > 0);
        }
        Ok(news)
    }

    /// What the script is to know beside the entries.
    fn here(&self, generation: u64) -> Vec<Vec<u8>> {
        let (keep, known) = (self.keep(), *self.tip.borrow());
        let home = if self.assurance.is_some() { self.redis.address(self.unit) } else { String::new() };
        vec![
            number(keep.age_ms),
            number(keep.bytes),
            number((keep.age_ms / CHUNKS).max(1)),
            number((keep.bytes / CHUNKS).min(CHUNK_BYTES_MAX)),
            new_epoch(),
            home.into(),
            known.epoch.to_string().into(),
            number(known.next),
            number(NUMBERS_SKIPPED),
            generation.to_string().into(),
        ]
    }

    fn came_to(&self, tip: Tip) {
        self.tip.send_if_modified(|known| {
            let is_news = known.epoch != tip.epoch || known.next < tip.next;
            if is_news {
                *known = tip;
            }
            is_news
        });
    }

    fn keep(&self) -> Keep {
        *self.keep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, script: &Script, now_ms: u64, args: Vec<Vec<u8>>) -> Result<Value, LogError> {
        let mut all = vec![if self.servers_clock { Vec::new() } else { number(now_ms) }];
        all.extend(args);
        let called = self.redis.call(self.unit, script, &self.keys, &all).await;
        called.map_err(|error| LogError::Unavailable(error.to_string().into()))
    }

    async fn look_at(&self, what: &str, args: Vec<Vec<u8>>) -> Result<Value, LogError> {
        self.call(&LOOK, 0, [vec![what.into()], args].concat()).await
    }

    async fn change(&self, what: &str, args: Vec<Vec<u8>>, now_ms: u64) -> Result<Value, LogError> {
        self.call(&CHANGE, now_ms, [vec![what.into()], args].concat()).await
    }
}

#[async_trait]
impl Log for RedisLog {
    async fn append(&self, entries: Vec<Fresh>, now_ms: u64) -> Result<Written, LogError> {
        let (answer, appended) = oneshot::channel();
        self.appends.send(Append { entries, now_ms, answer }).await.map_err(|_| stopped())?;
        Ok(Box::pin(async move { appended.await.map_err(|_| stopped())? }))
    }

    async fn read(&self, from: Tip, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        let found = self.look_at("entries", vec![number(from.next), number(bytes_max as u64)]).await?;
        if found == Value::Nil {
            return Err(LogError::Anew);
        }
        let mut answer = read(Answer::of(found))?;
        let tip = tip(&mut answer)?;
        self.came_to(tip);
        if tip.epoch != from.epoch || tip.next < from.next {
            return Err(LogError::Anew);
        }
        let mut entries = Vec::new();
        while !answer.is_empty() {
            let number = read(answer.number())?;
            let time_ms = read(answer.text())?.parse().map_err(|_| misread())?;
            entries.push(LogEntry { number, time_ms, data: read(answer.bytes())?.into() });
        }
        Ok(entries)
    }

    async fn ends(&self) -> Result<Ends, LogError> {
        let mut found = self.look_at("ends", Vec::new()).await?;
        if found == Value::Nil {
            self.change("begin", vec![new_epoch()], 0).await?;
            found = self.look_at("ends", Vec::new()).await?;
        }
        let mut answer = read(Answer::of(found))?;
        let epoch = read(answer.text())?.parse().map_err(|_| misread())?;
        let [first, next, bytes] = [read(answer.number())?, read(answer.number())?, read(answer.number())?];
        self.came_to(Tip { epoch, next });
        Ok(Ends { epoch, first, next, bytes })
    }

    async fn mark(&self, reader: &str) -> Result<Option<u64>, LogError> {
        let standing = self.standings(&[reader.into()]).await?.pop().flatten();
        Ok(standing.map(|standing| standing.mark))
    }

    async fn set_mark(&self, reader: &str, epoch: u64, mark: u64) -> Result<u64, LogError> {
        self.is_assured().await?;
        let args = vec![reader.into(), epoch.to_string().into(), number(mark), number(READERS_MAX as u64)];
        let marked = self.change("mark", args, 0).await?;
        self.is_assured().await?;
        match marked {
            Value::Nil => Err(LogError::Anew),
            Value::Int(mark) => u64::try_from(mark).map_err(|_| LogError::TooManyReaders),
            _ => Err(misread()),
        }
    }

    async fn trim(&self, now_ms: u64) -> Result<(), LogError> {
        let Keep { age_ms, bytes } = self.keep();
        self.change("trim", vec![number(age_ms), number(bytes)], now_ms).await?;
        Ok(())
    }

    fn set_keep(&self, keep: Keep) {
        *self.keep.lock().unwrap_or_else(PoisonError::into_inner) = keep;
    }

    fn wakes(&self) -> watch::Receiver<Tip> {
        self.tip.subscribe()
    }

    fn shared(&self) -> Option<&dyn SharedLog> {
        Some(self)
    }
}

#[async_trait]
impl SharedLog for RedisLog {
    async fn take_seat(&self, reader: &str) -> Result<u64, LogError> {
        match self.change("seat", vec![reader.into(), Vec::new()], 0).await? {
            Value::Int(seat) => u64::try_from(seat).map_err(|_| misread()),
            _ => Err(misread()),
        }
    }

    async fn keep_seat(&self, reader: &str, seat: u64) -> Result<(), LogError> {
        self.change("seat", vec![reader.into(), number(seat)], 0).await?;
        Ok(())
    }

    async fn standings(&self, readers: &[Box<str>]) -> Result<Vec<Option<Standing>>, LogError> {
        let args = readers.iter().map(|reader| reader.as_bytes().to_vec()).collect();
        let mut answer = read(Answer::of(self.look_at("standings", args).await?))?;
        let mut standings = Vec::with_capacity(readers.len());
        while !answer.is_empty() {
            let mark = u64::try_from(read(answer.signed())?).ok();
            let seat = read(answer.text())?.parse().map_err(|_| misread())?;
            standings.push(mark.map(|mark| Standing { mark, seat }));
        }
        Ok(standings)
    }

    fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }
}

/// An entry to be appended, as the script takes it in.
fn written(Fresh { time_ms, name, data }: Fresh) -> [Vec<u8>; 4] {
    let (text, known_ms) = name.map_or_else(Default::default, |name| (name.text.as_bytes().to_vec(), name.known_ms));
    [number(time_ms), text, number(known_ms.max(1)), data.into()]
}

/// Scripts take it for a text.
fn new_epoch() -> Vec<u8> {
    RandomState::new().hash_one("epoch").max(1).to_string().into()
}

fn tip(answer: &mut Answer) -> Result<Tip, LogError> {
    let epoch = read(answer.text())?.parse().map_err(|_| misread())?;
    Ok(Tip { epoch, next: read(answer.number())? })
}

fn number(n: u64) -> Vec<u8> {
    n.min(NUMBER_MAX).to_string().into()
}

fn read<T>(read: Result<T, fanfare_hub::StoreError>) -> Result<T, LogError> {
    read.map_err(|_| misread())
}

fn misread() -> LogError {
    LogError::Unavailable("the Redis server answered what this version does not understand".into())
}

fn stopped() -> LogError {
    LogError::Unavailable("the server is stopping".into())
}
