//! Who is subscribed to what, and who gets which bytes.
//!
//! Two halves that meet by mail:
//! - [`Hub`] lives on the control plane. It asks the [`Broker`] for the channels that this node wants, keeps the
//!   [`PresenceStore`] told, and sends each publication once to every loop that holds a subscriber.
//! - [`Shard`] lives in one event loop. It owns that loop's slice of every channel and the outboxes, and is synchronous: it
//!   reads no clock, no randomness and no socket, so it can be fuzzed, compared with a naive model, and simulated.
//!
//! Not here: sockets, TLS, HTTP, Redis, and the words on the wire (`fanfare-proto`).

mod audit;
pub mod broker;
mod herald;
pub mod hold;
pub mod hub;
pub mod key;
pub mod mail;
pub mod memory;
mod patience;
pub mod presence;
pub mod publication;
mod rosters;
mod seconds;
pub mod shard;
pub mod slots;
mod stripe;
mod tally;
#[cfg(feature = "testing")]
pub mod testing;

pub use broker::{
    Broker, BrokerError, BrokerEvents, Cached, Delivery, Held, History, HistoryRule, Idempotency, Keep, Mark, Post,
    Published, Since, Stored, StreamPosition,
};
pub use hub::Hub;
pub use key::ChannelKey;
pub use mail::{Begin, Mail, Mailbox, Request};
pub use presence::{Counts, Joined, Left, Member, PresenceEvents, PresenceStore, StoreError};
pub use publication::{Encode, Form, Frames, Kind, Publication};
pub use shard::Shard;
pub use tally::Outcomes;
