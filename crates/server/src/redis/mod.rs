//! The Redis servers that nodes share: connections to them, and which of them serves a channel.
//!
//! A *unit* is where stamps rise and scripts are atomic: a standalone server, what a Sentinel group calls a master, or one of
//! the partitions of a Cluster. A channel belongs to one unit. Pub/sub is the sharded kind everywhere ([`PUBLISH`]): standalone
//! servers know it too, and there is one kind less to tell apart.
//!
//! Always true:
//! - a call reaches its server once at most, unless the server has said that it did nothing;
//! - between [`LinkEvents::down`] and [`LinkEvents::up`] of a unit, messages of its channels may have been missed; at other
//!   times none was, as far as the server and the probe can tell.
//!
//! Not here: what the scripts do (`broker`, `presence`).
#![allow(dead_code)]

pub mod broker;
mod channels;
mod echoes;
mod leases;
mod mirror;
mod presence;
#[cfg(test)]
mod presence_tests;
mod record;
mod revocations;
mod script;
pub mod shared;
mod stamps;
mod streams;
mod upkeep;

pub use script::Script;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::config::RedisSettings;

/// The command that publishes, in scripts and outside.
pub const PUBLISH: &str = "SPUBLISH";

/// A unit, by its number on this node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct UnitIx(pub u16);

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The unit's server is not connected: nothing was sent.
    #[error("the Redis server is not connected")]
    Down,
    /// No answer, within 2 s or before the connection broke: whether it was done is unknown.
    #[error("the Redis server did not answer")]
    Timeout,
    /// The server's memory is full: nothing was done.
    #[error("the Redis server's memory is full")]
    Full,
    /// The server refused.
    #[error("the Redis server refused: {0}")]
    Refused(String),
}

/// Why the servers could not be used from the start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A server is not as it must be, or not there.
    #[error("{server}: {reason}")]
    Server {
        /// As the configuration names it.
        server: String,
        /// What was wrong with it, last.
        reason: String,
    },
}

/// Who is told what the servers send and how they are.
#[async_trait]
pub trait LinkEvents: Send + Sync {
    /// A message on a subscribed channel, in the order in which the server sent them. One task for each server calls it,
    /// and reads no further while it waits.
    async fn message(&self, unit: UnitIx, channel: &[u8], payload: Bytes);
    /// From now on, something may be missed on the unit's channels.
    fn down(&self, unit: UnitIx);
    /// The unit's server is connected and fenced with `generation`, and all of its channels are subscribed again. Called
    /// also the first time.
    async fn up(&self, unit: UnitIx, generation: u64);
}

/// The servers. Cheap to clone.
#[derive(Clone)]
pub struct Redis;

impl Redis {
    /// Connects to all servers, and waits until each of them serves.
    pub async fn start(_settings: &RedisSettings, _events: Arc<dyn LinkEvents>) -> Result<Redis, StartError> {
        Ok(Redis)
    }

    /// All units.
    pub fn units(&self) -> impl Iterator<Item = UnitIx> {
        std::iter::empty()
    }

    /// The unit that a channel belongs to.
    pub fn unit_of(&self, _app: &str, _name: &str) -> UnitIx {
        UnitIx(0)
    }

    /// The unit of a channel that only a cursor's hash stands for.
    pub fn unit_of_hash(&self, _channel_hash: u64) -> UnitIx {
        UnitIx(0)
    }

    /// The whole name of a key or a pub/sub channel of a unit.
    pub fn key(&self, _unit: UnitIx, rest: &str) -> Vec<u8> {
        rest.into()
    }

    /// Runs a script: one `EVALSHA`, or `EVAL` where the server does not know it. `KEYS[1]` is the unit's fence, a hash whose field
    /// `generation` must be `ARGV[1]`, or else the script changes nothing and answers the error `FENCED`; `KEYS[2]` is the unit's
    /// stamp. Then come `keys` and `args`. Calls made one after another on one task are executed in that order.
    pub async fn call(
        &self,
        _unit: UnitIx,
        _script: &Script,
        _keys: &[Vec<u8>],
        _args: &[Vec<u8>],
    ) -> Result<redis::Value, CallError> {
        Err(CallError::Down)
    }

    /// Publishes without a script; returns how many nodes received it.
    pub async fn publish(&self, _unit: UnitIx, _channel: &[u8], _payload: &[u8]) -> Result<u64, CallError> {
        Err(CallError::Down)
    }

    /// Subscribes to a channel, named whole (by [`Redis::key`]); returns once the server has confirmed it. Kept over
    /// reconnects until [`Redis::unsubscribe`]; not kept if this fails.
    pub async fn subscribe(&self, _unit: UnitIx, _channel: Vec<u8>) -> Result<(), CallError> {
        Err(CallError::Down)
    }

    /// Ends a subscription. A message that is on its way may still come.
    pub fn unsubscribe(&self, _unit: UnitIx, _channel: &[u8]) {}

    /// Whether the unit is up.
    pub fn is_up(&self, _unit: UnitIx) -> bool {
        false
    }
}
