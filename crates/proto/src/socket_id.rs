//! `1234.5678`: the name by which a connection is known to its app.
//!
//! The official server libraries insist on `^\d+\.\d+$`. Not here: choosing one, which needs randomness.

use std::fmt;
use std::str::FromStr;

/// Two numbers, unguessable together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// Before the dot.
    pub a: u64,
    /// After the dot.
    pub b: u64,
}

/// The text is no socket id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a socket id is two numbers below 2^64 with a dot between them, like 1234.5678")]
pub struct BadSocketId;

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.a, self.b)
    }
}

impl FromStr for SocketId {
    type Err = BadSocketId;

    fn from_str(text: &str) -> Result<Self, BadSocketId> {
        let (a, b) = text.split_once('.').ok_or(BadSocketId)?;
        Ok(Self { a: number(a)?, b: number(b)? })
    }
}

/// Digits only: `u64::from_str` alone would let a `+` through.
fn number(text: &str) -> Result<u64, BadSocketId> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadSocketId);
    }
    text.parse().map_err(|_| BadSocketId)
}
