//! The contract of a presence store: who is here, cluster-wide, and how many.
//!
//! Always true of every implementation (`testing::presence` checks it):
//! - a user is a member of a channel while at least one of its sockets is; only the first join and the last leave are
//!   changes, and each change raises the channel's version by one; a channel that begins again after it was empty may
//!   begin with any higher version;
//! - `join` is atomic: the roster it returns is the one at the version it returns, the joiner included;
//! - what a node has entered is there until it says otherwise or is known to have died.

use async_trait::async_trait;
use fanfare_proto::socket_id::SocketId;

use crate::key::ChannelKey;

/// A user in a presence channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The user's id, always a string on the wire.
    pub user_id: String,
    /// What the app says about the user, as JSON text.
    pub user_info: Option<Box<str>>,
}

/// The outcome of a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Whether this is the user's first socket in the channel.
    pub first: bool,
    /// Everybody in the channel, the joiner included, in order of joining.
    pub roster: Vec<Member>,
    /// The channel's version that the roster shows.
    pub version: u64,
}

/// The outcome of a leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The user who left, if this was its last socket, and the channel's version after it.
    pub last: Option<(String, u64)>,
}

/// How many are on a channel, cluster-wide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets subscribed to it.
    pub subscribers: u64,
    /// Distinct users, for presence channels.
    pub users: u64,
}

/// Why a store did not do what it was asked to. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The channel has as many members as its app allows, and the user is not one of them.
    #[error("the channel is full: it may have {members_max} members")]
    Full {
        /// The limit that was met.
        members_max: u32,
    },
    /// It cannot be reached; the caller may try again later.
    #[error("presence store unavailable")]
    Unavailable,
}

/// Who is here, cluster-wide.
#[async_trait]
pub trait PresenceStore: Send + Sync {
    /// Adds a socket's user to a channel that may have `members_max` users. The limit is taken as given: zero lets nobody
    /// in, and is no word for "unlimited".
    async fn join(
        &self,
        key: &ChannelKey,
        socket: SocketId,
        member: Member,
        members_max: u32,
    ) -> Result<Joined, StoreError>;

    /// Removes a socket from a channel; nothing happens if it was not in it.
    async fn leave(&self, key: &ChannelKey, socket: SocketId) -> Result<Left, StoreError>;

    /// The channels' versions, in the order asked; 0 where nothing is known of one.
    async fn versions(&self, keys: &[ChannelKey]) -> Result<Vec<u64>, StoreError>;

    /// Everybody in the channel, in order of joining.
    async fn members(&self, key: &ChannelKey) -> Result<Vec<Member>, StoreError>;

    /// This node now has `n` sockets subscribed to the channel. Returns the cluster's count.
    async fn subscribers(&self, key: &ChannelKey, n: u64) -> Result<u64, StoreError>;

    /// The counts of one channel.
    async fn counts(&self, key: &ChannelKey) -> Result<Counts, StoreError>;

    /// The occupied channels of an app whose names begin with `prefix`, and their counts, by name.
    async fn channels(&self, app: &str, prefix: &str) -> Result<Vec<(String, Counts)>, StoreError>;

    /// A socket signed in as a user. Returns whether the user was offline before.
    async fn user_online(&self, app: &str, user: &str, socket: SocketId) -> Result<bool, StoreError>;

    /// A signed-in socket went away. Returns whether the user is offline now.
    async fn user_offline(&self, app: &str, user: &str, socket: SocketId) -> Result<bool, StoreError>;

    /// Which of the users are online, in the order given.
    async fn users_online(&self, app: &str, users: &[String]) -> Result<Vec<bool>, StoreError>;

    /// This node is about to end. What it has entered is left for a moment to clients that come back to another node, and
    /// then taken out by others; nothing may be entered any more.
    async fn retire(&self);
}

/// What a store tells of changes that no caller on this node has made: those of a node that died, and what was entered
/// again after others had taken it out.
#[async_trait]
pub trait PresenceEvents: Send + Sync {
    /// A user is in the channel.
    async fn joined(&self, key: &ChannelKey, member: Member, version: u64);

    /// A user is no longer in the channel.
    async fn left(&self, key: &ChannelKey, user: &str, version: u64);

    /// A user went online or offline.
    async fn turned(&self, app: &str, user: &str, online: bool);

    /// So many sockets are subscribed to the channel.
    async fn counted(&self, key: &ChannelKey, total: u64);
}
