//! What a stage is: a function of a record.
//!
//! A stage waits for nothing and reads no clock. Where records have to wait, it says so ([`Outcome::Held`]), and whoever
//! runs the pipeline does the waiting. What a stage remembers between records is bounded, and said in its own words.
//!
//! Always true: what a stage decides about a record, it decides again at the job's next attempt, unless what it decides by
//! is the time (`throttle`) or the attempt (`fault`).

use std::fmt;
use std::sync::Arc;

use super::record::Record;
use super::stages::batch::Batch;

/// Where and when a record is.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Now, on the caller's clock.
    pub now_ms: u64,
    /// The queue that the job is from.
    pub queue: &'a str,
    /// The pipeline.
    pub pipeline: &'a str,
    /// The stage.
    pub stage: &'a str,
}

/// Why a stage failed a record, for the person who looks. Names fields, never what is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

impl From<String> for Failed {
    fn from(why: String) -> Failed {
        Failed(why)
    }
}

impl From<&str> for Failed {
    fn from(why: &str) -> Failed {
        Failed(why.into())
    }
}

/// What became of a record that did not fail.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It goes on.
    One(Record),
    /// It goes on as several; as none, it was empty.
    Many(Vec<Record>),
    /// It goes on after a wait.
    Held(Record, Hold),
    /// It goes on, and what it is now goes to the sinks of the named pipeline too.
    Copied(Record, Arc<str>),
    /// It does not go on, as was wished.
    Dropped(Reason),
}

/// What a record waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// So many milliseconds.
    Delay {
        /// From now.
        ms: u64,
    },
    /// A window that the first record of a key opens; at its end the newest goes on, all others are dropped as
    /// [`Reason::Coalesced`].
    Coalesce {
        /// Whose window.
        key: Arc<str>,
        /// How long it is.
        within_ms: u64,
    },
    /// Others to become one with. All but one of them are dropped as [`Reason::Joined`] then.
    Batch {
        /// With those for which this is the same, and that go where it goes.
        by: Arc<str>,
        /// How they become one.
        batch: Arc<Batch>,
    },
}

/// Why a record was dropped on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A condition was false.
    Condition,
    /// Its like went through before.
    Duplicate,
    /// There were too many of its kind.
    Throttled,
    /// It was not in the sample.
    Sampled,
    /// A newer one of its key took its place.
    Coalesced,
    /// It is in a record that was made of several.
    Joined,
    /// There was nothing in it.
    Empty,
    /// The stage failed it, and drops what fails.
    Error,
    /// A fault was asked for.
    Fault,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 9] = [
        Reason::Condition,
        Reason::Duplicate,
        Reason::Throttled,
        Reason::Sampled,
        Reason::Coalesced,
        Reason::Joined,
        Reason::Empty,
        Reason::Error,
        Reason::Fault,
    ];

    /// As it is written in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Condition => "condition",
            Reason::Duplicate => "duplicate",
            Reason::Throttled => "throttled",
            Reason::Sampled => "sampled",
            Reason::Coalesced => "coalesced",
            Reason::Joined => "joined",
            Reason::Empty => "empty",
            Reason::Error => "error",
            Reason::Fault => "fault",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is done with a record that a stage failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The job is tried again later.
    Retry,
    /// The job is stalled for a person to look at.
    DeadLetter,
    /// The record is dropped as [`Reason::Error`].
    Drop,
    /// The record goes on as it was before the stage.
    Pass,
}

impl OnError {
    /// All of them.
    pub const ALL: [OnError; 4] = [OnError::Retry, OnError::DeadLetter, OnError::Drop, OnError::Pass];

    /// As it is written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            OnError::Retry => "retry",
            OnError::DeadLetter => "dead_letter",
            OnError::Drop => "drop",
            OnError::Pass => "pass",
        }
    }
}

/// One step of a pipeline.
pub trait Stage: Send + Sync {
    /// What becomes of a record.
    fn apply(&self, record: Record, at: &At) -> Result<Outcome, Failed>;

    /// Whether it remembers what went through it, and is otherwise what its own table says and nothing else: one that is written
    /// the same after a reload then goes on with this one's memory.
    fn remembers(&self) -> bool {
        false
    }

    /// Whose sinks it gives copies to, if it does.
    fn copies_to(&self) -> Option<&str> {
        None
    }

    /// What the stage counts beside what all stages do: names and numbers, of which there is a bound.
    fn figures(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// Whether what it was made of beside its table is still as it was.
    fn is_current(&self) -> bool {
        true
    }
}
