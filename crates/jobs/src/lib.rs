//! The life of a job in a queue: put, claimed with a lease, finished; or given back, or parked for a person to look at.
//!
//! Always true: a job is in exactly one state, and each verb is one atomic act; so a crash between two verbs loses no job,
//! and repeats at most those that were claimed.
//!
//! Not here: channels, subscribers, sockets, and the clock: times are handed in, in milliseconds of the caller's choice.

mod backoff;
pub mod disk;
mod index;
pub mod job;
pub mod log;
pub mod memory;
pub mod pipeline;
pub mod sinks;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod worker;

pub use disk::{Damage, Disk, DiskError};
pub use job::{Cancel, Entry, Failure, Job, JobId, Kind, Lease, Phase, Spec, State};
pub use log::{Log, LogEntry, LogError, MemoryLog};
pub use memory::MemoryStore;
pub use store::{Claim, Claimed, Counts, JobStore, Limits, Page, Put, Query, StoreError, Totals};
