//! Sinks: where records go at the end of a pipeline.
//!
//! A [`Sink`] hands over one record and says whether it was taken. What is around each of them is the same for all
//! ([`Outlet`]): how many are handed over at once, how long to wait before the next try, when to leave a target alone
//! for a while, and the counting.
//!
//! Always true:
//! - a record counts as delivered when its sink has confirmed it, and not before;
//! - of a record that is not confirmed it is said whether trying again can help.
//!
//! Not here: which records go where, and what becomes of a job (`worker`); channels, which are the server's.

mod breaker;
mod client;
mod compile;
mod counts;
mod file;
mod forms;
mod http;
mod kinds;
mod outlet;
mod plain;
mod text;
mod writer;

use std::time::Duration;

use async_trait::async_trait;

pub use breaker::Circuit;
pub use client::Client;
pub use compile::{Build, SinkKind, Target, compile, reference};
pub use counts::{Due, Lost, Tally};
pub use http::{Ask, Asked, Posts};
pub use kinds::{HEADERS, TIMEOUT, World, kinds, one, posts};
pub use outlet::{Effort, Outlet, Undelivered};
pub use writer::Writers;

use crate::pipeline::Record;

/// A record on its way into a sink.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The record.
    pub record: &'a Record,
    /// What it is known by, so that a repeat can be told: see [`Record::event_id`].
    pub event_id: &'a str,
}

/// Why a record was not taken. Each says what comes next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The target cannot take anything now: the record waits until it can, and has not failed.
    #[error("{why}")]
    Away {
        /// Not to be tried before, as the target says.
        after: Option<Duration>,
        /// For the person who looks.
        why: String,
    },
    /// It may be the target's fault or the record's: the record is tried again, but not for ever.
    #[error("{0}")]
    Failed(String),
    /// The record is at fault: trying again does not help.
    #[error("{0}")]
    Refused(String),
}

impl SinkError {
    /// The target cannot be reached, and does not say for how long.
    pub fn away(why: impl Into<String>) -> SinkError {
        SinkError::Away { after: None, why: why.into() }
    }
}

/// Takes records.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Hands over one record; answers when it is as safe as this sink makes it.
    async fn deliver(&self, delivery: Delivery<'_>) -> Result<(), SinkError>;
}
