//! A log: entries one behind the other, each with a number, kept for a while; and how far each of its readers has come.
//!
//! Always true:
//! - numbers grow by one within an epoch: where one is missing, it was trimmed;
//! - an entry that can be read has been made as safe as its log makes entries;
//! - a mark does not go back.
//!
//! A log may be one that other processes have too ([`SharedLog`]). Then it may also lose its last entries, or all, while it is
//! used, as its server may: whoever read them finds numbers left out ([`NUMBERS_SKIPPED`]) or another epoch.
//!
//! Not here: what an entry says, and who reads.

mod memory;
pub(crate) mod window;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

pub use memory::MemoryLog;

/// Readers of a log that have a mark. Beyond, those are forgotten whose mark has been trimmed away; then no more are taken.
pub const READERS_MAX: usize = 1000;

/// Numbers that are left out where nobody knows which were given: more than any log holds.
pub const NUMBERS_SKIPPED: u64 = 1 << 32;

/// How much of a log is kept: as much as both bounds allow, or a sixteenth more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Each entry for so long.
    pub age_ms: u64,
    /// At most so many bytes.
    pub bytes: u64,
}

/// An entry that is to be.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// When it came about.
    pub time_ms: u64,
    /// What it is known by, if it may come again.
    pub name: Option<Name>,
    /// What it says.
    pub data: Bytes,
}

/// What an entry is known by to a shared log, which takes no other of the same name meanwhile. No other log heeds it.
#[derive(Clone, Debug)]
pub struct Name {
    /// Of which there are no two.
    pub text: Arc<str>,
    /// For how long.
    pub known_ms: u64,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// From 1.
    pub number: u64,
    /// When it came about.
    pub time_ms: u64,
    /// What it says.
    pub data: Bytes,
}

/// What a log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Another one whenever numbers begin anew.
    pub epoch: u64,
    /// The number of the oldest entry that is still there, or of the next one.
    pub first: u64,
    /// The number that the next entry will have.
    pub next: u64,
    /// Of all entries.
    pub bytes: u64,
}

impl Ends {
    /// How many entries there were from this number on: numbers that were left out are none.
    pub fn entries_from(&self, number: u64) -> u64 {
        self.next.saturating_sub(number) % NUMBERS_SKIPPED
    }
}

/// How far a log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    /// The log's.
    pub epoch: u64,
    /// The number that the next entry will have.
    pub next: u64,
}

impl From<Ends> for Tip {
    fn from(Ends { epoch, next, .. }: Ends) -> Tip {
        Tip { epoch, next }
    }
}

/// Why a log did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The disk is full or failed, the server is away: try again later.
    #[error("the log cannot be used: {0}")]
    Unavailable(Box<str>),
    /// No reader more.
    #[error("the log has {READERS_MAX} readers with a mark already")]
    TooManyReaders,
    /// Numbers have begun anew, or some were lost.
    #[error("the log has begun anew")]
    Anew,
}

/// Ends when what was appended is as safe as its log makes entries: how many were new to it.
pub type Written = Pin<Box<dyn Future<Output = Result<u64, LogError>> + Send>>;

/// Keeps one log. Times are milliseconds on one clock, the caller's.
#[async_trait]
pub trait Log: Send + Sync {
    /// Takes entries in: when this returns, their place is behind all that was taken in before.
    async fn append(&self, entries: Vec<Fresh>, now_ms: u64) -> Result<Written, LogError>;

    /// The entries from this number of this epoch on, or from the oldest that is there: at least one if there is any, and no more
    /// after so many bytes.
    async fn read(&self, from: Tip, bytes_max: usize) -> Result<Vec<LogEntry>, LogError>;

    /// What it holds.
    async fn ends(&self) -> Result<Ends, LogError>;

    /// The last entry that a reader has done with; `None` if it has never said.
    async fn mark(&self, reader: &str) -> Result<Option<u64>, LogError>;

    /// The reader has done with everything up to this number of this epoch. Answers its mark, when that is as safe as entries are.
    async fn set_mark(&self, reader: &str, epoch: u64, number: u64) -> Result<u64, LogError>;

    /// Forgets what is too old.
    async fn trim(&self, now_ms: u64) -> Result<(), LogError>;

    /// From now on, so much is kept.
    fn set_keep(&self, keep: Keep);

    /// How far it has come, as that changes.
    fn wakes(&self) -> watch::Receiver<Tip>;

    /// What there is more, if other processes have it too.
    fn shared(&self) -> Option<&dyn SharedLog> {
        None
    }
}

/// Where a reader stands, wherever it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The last entry that it has done with.
    pub mark: u64,
    /// The number of who reads now; 0: nobody has said.
    pub seat: u64,
}

/// A log that other processes have too, and read and append to.
#[async_trait]
pub trait SharedLog: Send + Sync {
    /// From now on, somebody else reads for a reader that has a mark. Answers their number, which is above all before.
    async fn take_seat(&self, reader: &str) -> Result<u64, LogError>;

    /// Who has this number reads, unless somebody has come since; where that they came was lost.
    async fn keep_seat(&self, reader: &str, seat: u64) -> Result<(), LogError>;

    /// Where these readers stand; `None` of those that are not known.
    async fn standings(&self, readers: &[Box<str>]) -> Result<Vec<Option<Standing>>, LogError>;

    /// Changes when somebody may have moved a mark or taken a seat, and now and then.
    fn moves(&self) -> watch::Receiver<()>;
}
