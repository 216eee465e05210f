//! Revocations of tokens, known on all nodes: each is kept in one unit until it ends, and told to all nodes as it is made.
//!
//! A node compares with the unit at its start and whenever the unit serves again, and each gives the other what it lacks. So
//! nothing is lost with a server's data, as long as one node has it.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use redis::Value;
use serde::Deserialize;
use tokio::time::sleep;

use super::{CallError, PUBLISH, Redis, Script, UnitIx};
use crate::tokens::{BadRevocation, Peers, Tokens};

/// Revocations in the unit: as many as a node remembers.
const REVOCATIONS_MAX: usize = 100_000;

/// Lines that are read, or written, at once.
const PAGE: usize = 500;

/// Before another attempt to compare.
const PAUSE: Duration = Duration::from_secs(1);

static REVOKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/revoke.lua")));
static REVOKED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/revoked.lua")));

/// The revocations that nodes share; cheap to clone.
#[derive(Clone)]
pub struct Revocations {
    redis: Redis,
    unit: UnitIx,
    key: Arc<[u8]>,
    channel: Arc<[u8]>,
    tokens: Tokens,
}

impl Revocations {
    /// To be told what the links hear.
    pub fn new(redis: Redis, tokens: Tokens) -> Revocations {
        // No app is called so.
        let unit = redis.unit_of("", "#revocations");
        let (key, channel) = (redis.key(unit, "revocations").into(), redis.key(unit, "revoked").into());
        Revocations { redis, unit, key, channel, tokens }
    }

    /// Learns what others have revoked, and listens for more.
    pub async fn start(&self) -> Result<(), CallError> {
        self.redis.subscribe(self.unit, self.channel.to_vec()).await?;
        self.compare().await
    }

    /// A message on a channel of the unit; whether it was about revocations.
    pub fn message(&self, channel: &[u8], payload: &[u8]) -> bool {
        let ours = *channel == *self.channel;
        if ours {
            self.tokens.learn(std::str::from_utf8(payload));
        }
        ours
    }

    /// The unit serves again: something may have been missed, or lost.
    pub fn up(&self, unit: UnitIx) {
        if unit != self.unit {
            return;
        }
        let revocations = self.clone();
        tokio::spawn(async move {
            while let Err(error) = revocations.compare().await {
                // Down: it will say so when it is up.
                if error == CallError::Down {
                    return;
                }
                sleep(PAUSE).await;
            }
        });
    }

    /// Takes in what this node lacks, and gives what the unit lacks.
    async fn compare(&self) -> Result<(), CallError> {
        let mut there = HashSet::new();
        for page in 0.. {
            // What is added meanwhile moves the rest back, so that no line is passed over; lines that end fall off at the end.
            let (first, last) = (page * PAGE, (page + 1) * PAGE - 1);
            let args = [first, last].map(|rank| rank.to_string().into_bytes());
            let lines = lines(self.redis.call(self.unit, &REVOKED, &[self.key.to_vec()], &args).await?);
            self.tokens.learn(lines.iter().map(String::as_str));
            let n = lines.len();
            there.extend(lines);
            if n < PAGE {
                break;
            }
        }
        let missing: Vec<String> = self.tokens.lines().into_iter().filter(|line| !there.contains(line)).collect();
        for lines in missing.chunks(PAGE) {
            self.put(lines).await?;
        }
        Ok(())
    }

    /// Whether there was room for all of them.
    async fn put(&self, lines: &[impl AsRef<str>]) -> Result<bool, CallError> {
        let mut args = vec![REVOCATIONS_MAX.to_string().into_bytes(), PUBLISH.as_bytes().to_vec()];
        for line in lines {
            args.push(end(line.as_ref()).to_string().into_bytes());
            args.push(line.as_ref().as_bytes().to_vec());
        }
        let keys = [self.key.to_vec(), self.channel.to_vec()];
        Ok(self.redis.call(self.unit, &REVOKE, &keys, &args).await? == Value::Int(1))
    }
}

#[async_trait]
impl Peers for Revocations {
    async fn tell(&self, line: &str) -> Result<(), BadRevocation> {
        match self.put(&[line]).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(BadRevocation::TooMany),
            Err(error) => {
                tracing::warn!(%error, "a revocation is known on this node only");
                Err(BadRevocation::Unshared)
            }
        }
    }
}

/// When a line ends, in seconds since 1970.
fn end(line: &str) -> u64 {
    #[derive(Deserialize)]
    struct End {
        until_s: u64,
    }
    serde_json::from_str(line).map_or(0, |End { until_s }| until_s)
}

fn lines(value: Value) -> Vec<String> {
    let Value::Array(values) = value else { return Vec::new() };
    let text = |value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    };
    values.into_iter().filter_map(text).collect()
}
