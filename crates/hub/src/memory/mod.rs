//! The broker and the presence store of a single node: everything in memory, nothing to run beside it.

mod broker;
mod keys;
mod presence;
mod snapshot;
mod stamps;
mod stream;
mod table;

pub use broker::MemoryBroker;
pub use presence::MemoryPresence;
pub use snapshot::{BadSnapshot, Snapshot};
