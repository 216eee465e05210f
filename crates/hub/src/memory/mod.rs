//! The broker and the presence store of a single node: everything in memory, nothing to run beside it.

mod broker;
mod presence;

pub use broker::MemoryBroker;
pub use presence::MemoryPresence;
