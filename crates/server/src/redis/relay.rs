//! Sessions of all nodes: which node has which, and questions from one node to another.
//!
//! Each node listens to a channel of its own in every unit; a session, and whatever is asked about it, is a matter of one unit.
//! A question is asked once. It, or its answer, may be lost like any message: then nobody answers in time, and whoever asked
//! has its client begin anew.
//!
//! A message is a version, what it is (`?` or `!`), the number of the question, and, for a question, who asks: a length and that many bytes.
//! What comes behind that is the question or the answer. Higher versions only add to the end.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use redis::Value;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::{CallError, Redis, Script, UnitIx};
use crate::edge::neighbours::{Answer, Answers, Neighbours, Place, Question, Unreachable, WAIT};

static SESSIONS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/sessions.lua")));

const VERSION: u8 = 1;

/// How long a session is a node's that says nothing more. It says so every few seconds.
const LEASE: Duration = Duration::from_secs(20);

/// How long an answer may be on its way, beside what its node waits.
const WAY_MAX: Duration = Duration::from_secs(2);

/// How often a message that was not heard is sent again, and after what time.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(300);

/// Questions of other nodes that are worked on at once. Further ones are dropped, and whoever asked hears nothing.
const QUESTIONS_MAX: usize = 16_384;

/// Sessions that one call tells of.
const BATCH: usize = 500;

/// This node among those that share sessions; cheap to clone.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    redis: Redis,
    /// This start of this node.
    node: Box<str>,
    /// By unit: the channel of this node.
    channels: HashMap<UnitIx, Vec<u8>>,
    answers: OnceLock<Weak<dyn Answers>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Bytes>>>,
    number: AtomicU64,
    room: Arc<Semaphore>,
}

impl Relay {
    /// A node that has nothing to do with others yet.
    pub fn new(redis: Redis) -> Relay {
        let node = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let channels = redis.units().map(|unit| (unit, channel(&redis, unit, &node))).collect();
        Relay(Arc::new(Inner {
            redis,
            node: node.into(),
            channels,
            answers: OnceLock::new(),
            asked: Mutex::default(),
            number: AtomicU64::new(0),
            room: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }))
    }

    /// Listens for what other nodes ask.
    pub async fn start(&self) -> Result<(), CallError> {
        for (unit, channel) in &self.0.channels {
            self.0.redis.subscribe(*unit, channel.clone()).await?;
        }
        Ok(())
    }

    /// A message on a channel of a unit; whether it was for the relay.
    pub fn message(&self, unit: UnitIx, channel: &[u8], payload: &Bytes) -> bool {
        let ours = self.0.channels.get(&unit).is_some_and(|own| own == channel);
        if ours {
            // What cannot be read is of a node that this one does not understand, and will not be answered.
            let _ = self.hear(unit, payload.clone());
        }
        ours
    }

    fn hear(&self, unit: UnitIx, mut message: Bytes) -> Option<()> {
        let (_version, kind) = (message.try_get_u8().ok()?, message.try_get_u8().ok()?);
        let number = message.try_get_u64().ok()?;
        match kind {
            b'!' => {
                let asked = locked(&self.0.asked).remove(&number)?;
                // It fails when whoever asked has stopped waiting.
                asked.send(message).ok()
            }
            b'?' => {
                let len = usize::from(message.try_get_u8().ok()?);
                let from = std::str::from_utf8(message.get(..len)?).ok()?.to_owned();
                let question = Question::from_bytes(&message[len..])?;
                let (answers, room) = (self.0.answers.get()?.upgrade()?, self.0.room.clone().try_acquire_owned().ok()?);
                let relay = self.clone();
                tokio::spawn(async move {
                    let answer = answers.answer(question).await;
                    let message = written(b'!', number, "", &answer.to_bytes());
                    let to = channel(&relay.0.redis, unit, &from);
                    if let Err(error) = relay.0.redis.publish(unit, &to, &message).await {
                        tracing::debug!(%error, "an answer to another node was not sent");
                    }
                    drop(room);
                });
                Some(())
            }
            _ => None,
        }
    }

    /// Whether somebody was there to hear a message.
    async fn is_heard(&self, unit: UnitIx, channel: &[u8], message: &[u8]) -> Result<bool, Unreachable> {
        match self.0.redis.publish(unit, channel, message).await {
            Ok(receivers) => Ok(receivers > 0),
            // Perhaps it was sent.
            Err(CallError::Timeout) => Err(Unreachable),
            Err(_) => Ok(false),
        }
    }

    /// The unit of a session. No app is called so.
    fn unit(&self, session: &str) -> UnitIx {
        self.0.redis.unit_of("", session)
    }

    async fn sessions(&self, unit: UnitIx, asked: &str, sessions: &[&str]) -> Result<Vec<Box<str>>, CallError> {
        let keys: Vec<Vec<u8>> =
            sessions.iter().map(|session| self.0.redis.key(unit, &format!("s:{session}"))).collect();
        let lease_ms = LEASE.as_millis().to_string();
        let args = [&*self.0.node, &lease_ms, asked].map(|word| word.as_bytes().to_vec());
        let Value::Array(owners) = self.0.redis.call(unit, &SESSIONS, &keys, &args).await? else {
            return Ok(Vec::new());
        };
        let text = |value| match value {
            Value::BulkString(bytes) => String::from_utf8(bytes).ok().map(String::into_boxed_str),
            _ => None,
        };
        Ok(owners.into_iter().filter_map(text).collect())
    }

    async fn tell(&self, asked: &str, sessions: &[Box<str>]) {
        let mut by_unit: HashMap<UnitIx, Vec<&str>> = HashMap::new();
        sessions.iter().for_each(|session| by_unit.entry(self.unit(session)).or_default().push(session));
        for (unit, sessions) in by_unit {
            for batch in sessions.chunks(BATCH) {
                // What is not kept now is kept by the next round; what is not dropped ends with its lease.
                if let Err(error) = self.sessions(unit, asked, batch).await {
                    tracing::debug!(%error, asked, "nodes were not told of sessions");
                }
            }
        }
    }
}

#[async_trait]
impl Neighbours for Relay {
    fn serve(&self, answers: Weak<dyn Answers>) {
        self.0.answers.set(answers).unwrap_or_else(|_| panic!("a node answers in one way"));
    }

    async fn place(&self, session: &str, claim: bool) -> Result<Place, Unreachable> {
        let asked = if claim { "claim" } else { "find" };
        let owners = self.sessions(self.unit(session), asked, &[session]).await.map_err(|_| Unreachable)?;
        match owners.into_iter().next() {
            Some(owner) if owner == self.0.node => Ok(Place::Here),
            Some(owner) if !owner.is_empty() => Ok(Place::At(owner)),
            _ => Ok(Place::Nowhere),
        }
    }

    async fn keep(&self, sessions: &[Box<str>]) {
        self.tell("keep", sessions).await;
    }

    async fn forget(&self, sessions: &[Box<str>]) {
        self.tell("drop", sessions).await;
    }

    async fn ask(&self, node: &str, question: &Question) -> Result<Answer, Unreachable> {
        let (Question::Read { session, .. } | Question::Hear { session, .. }) = question;
        let unit = self.unit(session);
        let (send, answer) = oneshot::channel();
        let asked = Asked::new(&self.0, send);
        let message = written(b'?', asked.number, &self.0.node, &question.to_bytes());
        let to = channel(&self.0.redis, unit, node);
        // What a client said is lost for good if it is lost here, as no client library looks at the answer. What certainly
        // was not heard may be said again.
        let mut attempts = if matches!(question, Question::Hear { .. }) { ATTEMPTS } else { 1 };
        while !self.is_heard(unit, &to, &message).await? {
            attempts -= 1;
            if attempts == 0 {
                return Err(Unreachable);
            }
            sleep(PAUSE).await;
        }
        let answer = timeout(WAIT + WAY_MAX, answer).await.ok().and_then(Result::ok);
        answer.and_then(Answer::from_bytes).ok_or(Unreachable)
    }
}

/// A question that waits for its answer.
struct Asked<'a> {
    inner: &'a Inner,
    number: u64,
}

impl<'a> Asked<'a> {
    fn new(inner: &'a Inner, send: oneshot::Sender<Bytes>) -> Self {
        let number = inner.number.fetch_add(1, Ordering::Relaxed);
        locked(&inner.asked).insert(number, send);
        Asked { inner, number }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        locked(&self.inner.asked).remove(&self.number);
    }
}

fn channel(redis: &Redis, unit: UnitIx, node: &str) -> Vec<u8> {
    redis.key(unit, &format!("relay:{node}"))
}

fn written(kind: u8, number: u64, from: &str, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![VERSION, kind];
    message.extend_from_slice(&number.to_be_bytes());
    if kind == b'?' {
        message.push(u8::try_from(from.len()).expect("a node's name is short"));
        message.extend_from_slice(from.as_bytes());
    }
    message.extend_from_slice(rest);
    message
}

/// Nothing that holds one of these locks can panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
