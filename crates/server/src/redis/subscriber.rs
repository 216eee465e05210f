//! A connection for pub/sub. Its reader hands each message on before it reads the next, so that a node that does not keep up
//! fills the socket, and then the server's buffer, and never its own memory.

use super::dial::{Running, Stream};
use super::recovery::Recovery;
use super::subscriptions::Request;
use super::unit::Unit;
use super::{LinkEvents, UnitIx};
use bytes::Bytes;
use redis::{RedisError, Value};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Channels of one command: few enough that nobody waits long behind it, and so many that 10,000 take few.
const CHANNELS_PER_COMMAND: usize = 1000;

/// A connection for pub/sub.
pub(super) struct Subscriber {
    /// Whose, for people.
    pub server: String,
    units: Mutex<Vec<Arc<Unit>>>,
    /// Told when there may be something to ask of the server.
    due: Notify,
    /// What was asked and not wholly answered, in order.
    asked: Mutex<VecDeque<Asked>>,
    began: Instant,
    /// Milliseconds from `began` to when the reader last began to wait for the server.
    waits_since: AtomicU64,
    /// Whether the reader waits for somebody to take a message.
    handing: AtomicBool,
    /// The last probe that came back.
    probed: AtomicU64,
    /// Microseconds from `began` to when the last one was sent, and how long one took.
    probe_sent_us: AtomicU64,
    lag_us: AtomicU64,
    recovery: Arc<Recovery>,
}

struct Asked {
    unit: UnitIx,
    last: Box<[u8]>,
}

/// A channel that each node subscribes to on each unit, to hear itself.
pub(super) fn probe_channel(unit: &Unit, node: &str) -> Vec<u8> {
    unit.key(&format!("probe:{node}"))
}

impl Subscriber {
    /// A connection that nothing is read from yet: see [`Subscriber::run`].
    pub fn new(server: String, recovery: Arc<Recovery>) -> Subscriber {
        Subscriber {
            server,
            units: Mutex::default(),
            due: Notify::new(),
            asked: Mutex::default(),
            began: Instant::now(),
            waits_since: AtomicU64::new(0),
            handing: AtomicBool::new(false),
            probed: AtomicU64::new(0),
            probe_sent_us: AtomicU64::new(0),
            lag_us: AtomicU64::new(0),
            recovery,
        }
    }

    /// Takes in a unit, all of whose channels are then subscribed to here. Nothing happens if it is here already.
    pub fn attach(&self, unit: &Arc<Unit>) {
        let mut units = self.units();
        if units.iter().any(|there| there.ix == unit.ix) {
            return;
        }
        unit.subscriptions().start_over();
        units.push(unit.clone());
        drop(units);
        unit.has_subscribed();
        self.due.notify_one();
    }

    /// Lets a unit go. Its subscriptions here are the server's to end, which has given its slot away.
    pub fn detach(&self, unit: UnitIx) {
        self.units().retain(|there| there.ix != unit);
    }

    /// Something may have changed in a unit's subscriptions.
    pub fn notify(&self) {
        self.due.notify_one();
    }

    /// A unit on which to probe.
    pub fn any_unit(&self) -> Option<Arc<Unit>> {
        self.units().first().cloned()
    }

    /// The last probe that came back.
    pub fn probed(&self) -> u64 {
        self.probed.load(Ordering::Acquire)
    }

    /// A probe is being sent.
    pub fn probes(&self) {
        self.probe_sent_us.store(self.began.elapsed().as_micros() as u64, Ordering::Release);
    }

    /// How long the last probe took.
    pub fn lag_us(&self) -> u64 {
        self.lag_us.load(Ordering::Relaxed)
    }

    /// For how long the reader has waited for the server; `None`: it is busy with what the server sent.
    pub fn idle_ms(&self) -> Option<u64> {
        let now = self.began.elapsed().as_millis() as u64;
        let since = self.waits_since.load(Ordering::Acquire);
        (!self.handing.load(Ordering::Acquire)).then(|| now.saturating_sub(since))
    }

    /// Reads and writes until the connection breaks; returns why.
    pub async fn run(self: &Arc<Self>, stream: Box<dyn Stream>, events: Arc<dyn LinkEvents>) -> String {
        let (read, write) = tokio::io::split(stream);
        let (told, mut why) = tokio::sync::mpsc::channel(2);
        let reading = {
            let (this, told) = (self.clone(), told.clone());
            async move {
                let error = this.read(read, &*events).await;
                let _ = told.send(error).await;
            }
        };
        let writing = {
            let this = self.clone();
            async move {
                let error = this.write(write).await;
                let _ = told.send(error).await;
            }
        };
        let _tasks = (Running::start(reading), Running::start(writing));
        why.recv().await.unwrap_or_default()
    }

    async fn write(&self, mut write: impl AsyncWrite + Unpin) -> String {
        loop {
            self.due.notified().await;
            let units = self.units().clone();
            for unit in units {
                while let Some(command) = self.next_command(&unit) {
                    if let Err(error) = write.write_all(&command).await {
                        return error.to_string();
                    }
                }
            }
            if let Err(error) = write.flush().await {
                return error.to_string();
            }
        }
    }

    fn next_command(&self, unit: &Unit) -> Option<Vec<u8>> {
        let request = unit.subscriptions().next(CHANNELS_PER_COMMAND)?;
        let (name, channels) = match &request {
            Request::Subscribe(channels) => ("SSUBSCRIBE", channels),
            Request::Unsubscribe(channels) => ("SUNSUBSCRIBE", channels),
        };
        let mut command = redis::cmd(name);
        for channel in channels {
            command.arg(&**channel);
        }
        let last = channels.last().expect("a request is of some channels").clone();
        self.asked().push_back(Asked { unit: unit.ix, last });
        Some(command.get_packed_command())
    }

    async fn read(&self, mut read: impl AsyncRead + Unpin, events: &dyn LinkEvents) -> String {
        let mut decoder = Default::default();
        loop {
            self.waits_since.store(self.began.elapsed().as_millis() as u64, Ordering::Release);
            match redis::parse_redis_value_async(&mut decoder, &mut read).await {
                Ok(Value::Array(words)) => self.take(words, events).await,
                Ok(Value::ServerError(error)) => self.refused(error.into()),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    async fn take(&self, words: Vec<Value>, events: &dyn LinkEvents) {
        let mut words = words.into_iter();
        let (Some(Value::BulkString(kind)), Some(Value::BulkString(channel))) = (words.next(), words.next()) else {
            return;
        };
        let Some(unit) = self.unit_of(&channel) else { return };
        match (&*kind, words.next()) {
            (b"smessage", Some(Value::BulkString(payload))) => self.message(&unit, &channel, payload, events).await,
            (b"ssubscribe", _) => {
                let again = unit.subscriptions().subscribed(&channel);
                self.recovery.resubscriptions.add(usize::from(again));
                unit.has_subscribed();
                self.answered(&channel);
            }
            (b"sunsubscribe", _) => {
                let unasked = unit.subscriptions().unsubscribed(&channel);
                self.answered(&channel);
                if unasked {
                    unit.has_moved();
                }
            }
            _ => {}
        }
    }

    async fn message(&self, unit: &Unit, channel: &[u8], payload: Vec<u8>, events: &dyn LinkEvents) {
        if channel[unit.prefix().len()..].starts_with(b"probe:") {
            let number = std::str::from_utf8(&payload).ok().and_then(|text| text.parse().ok());
            self.probed.store(number.unwrap_or(0), Ordering::Release);
            let now = self.began.elapsed().as_micros() as u64;
            self.lag_us.store(now.saturating_sub(self.probe_sent_us.load(Ordering::Acquire)), Ordering::Relaxed);
            return;
        }
        self.handing.store(true, Ordering::Release);
        events.message(unit.ix, channel, Bytes::from(payload)).await;
        self.handing.store(false, Ordering::Release);
    }

    /// A request was answered as a whole when its last channel was. What waited for the answer may be due now.
    fn answered(&self, channel: &[u8]) {
        self.due.notify_one();
        let mut asked = self.asked();
        if asked.front().is_some_and(|request| *request.last == *channel) {
            asked.pop_front();
        }
    }

    /// A request was refused as a whole, most likely because its slot is elsewhere.
    fn refused(&self, error: RedisError) {
        let refused = self.asked().pop_front();
        tracing::debug!(server = %self.server, %error, "subscription refused");
        let unit = refused.and_then(|refused| self.units().iter().find(|unit| unit.ix == refused.unit).cloned());
        if let Some(unit) = unit {
            if let Some(link) = unit.home() {
                link.blame(error);
            }
            unit.has_moved();
        }
    }

    fn unit_of(&self, channel: &[u8]) -> Option<Arc<Unit>> {
        self.units().iter().find(|unit| channel.starts_with(unit.prefix().as_bytes())).cloned()
    }

    fn units(&self) -> MutexGuard<'_, Vec<Arc<Unit>>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, VecDeque<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
