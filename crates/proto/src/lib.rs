//! The words on the wire: Pusher messages, channel names, WebSocket frames, request signing, close codes, cursors.
//!
//! Everything here is a function of the bytes it is given. Nothing reads a clock, a random source or a socket, and
//! nothing waits: who needs a socket id, a mask or the time passes it in. So every byte that a peer may send can be
//! fuzzed here, and every byte we answer can be written out literally in a test.
//!
//! Always true:
//! - no input from a peer makes a function here panic, or allocate more than the limit it was given;
//! - every refusal is a type of its own that says what was expected.
//!
//! | module | the words of |
//! |---|---|
//! | [`channel`] | channel and event names, and what a channel's prefix means |
//! | [`socket_id`] | `1234.5678`, a connection's name |
//! | [`client`] | what a Pusher client says |
//! | [`server`] | what a Pusher server answers |
//! | [`feed`] | messages and events of the plain HTTP doors |
//! | [`presence`] | `channel_data` and `user_data`: who somebody is |
//! | [`close`] | close codes, error codes, and what clients do on hearing them |
//! | [`version`] | the `protocol` a client asks for |
//! | [`sign`] | signatures of channels, users and API requests |
//! | [`ws`] | RFC 6455 frames |
//! | [`xhr`] | frames for clients without WebSockets |
//! | [`deflate`] | RFC 7692 compression of single messages |
//! | [`cursor`] | the place in a channel from which a client resumes |
//! | [`json`] | how JSON text is read and spliced |

pub mod channel;
pub mod client;
pub mod close;
pub mod cursor;
pub mod deflate;
pub mod feed;
pub mod json;
pub mod presence;
pub mod server;
pub mod sign;
pub mod socket_id;
pub mod version;
pub mod ws;
pub mod xhr;
