//! The letters between the control plane and the loops, and the boxes that carry them.
//!
//! Both directions are bounded. Towards a loop the sender waits: a loop never waits for a socket, so its box always drains.
//! Towards the control plane a loop must not wait: it keeps what did not fit and reads no socket until that has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fanfare_proto::socket_id::SocketId;
use tokio::sync::mpsc;

use crate::broker::{Cached, Mark, Since};
use crate::key::ChannelKey;
use crate::presence::{Member, StoreError};
use crate::publication::{Frames, Publication};
use crate::shard::ConnKey;

/// Letters that a loop's box holds before senders wait. A publication's letter is 40 bytes; what it points at is bounded
/// by each app's publish window.
pub const MAILBOX_LETTERS_MAX: usize = 4096;

/// From the control plane to a loop.
#[derive(Debug)]
pub enum Mail {
    /// Deliver this to the channel's subscribers.
    Publication(Arc<Frames>),
    /// The channel's gate is open: those who waited are subscribed.
    Opened(ChannelKey),
    /// The channel's gate could not be opened for some time: those who waited are refused, and may come back.
    Refused(ChannelKey),
    /// The answer to [`Request::Enter`].
    Entered {
        /// The channel that was entered.
        key: ChannelKey,
        /// The subscriber.
        conn: ConnKey,
        /// The token of its request.
        token: u32,
        /// What it is told first.
        outcome: Result<Entrance, StoreError>,
    },
    /// Messages for one connection: that it is signed in, who of its watchlist is online, what could not be done.
    Say {
        /// The connection.
        conn: ConnKey,
        /// Ready-made server-to-client JSON texts.
        texts: Vec<Vec<u8>>,
    },
}

/// What a subscriber that was let in is told first.
#[derive(Debug, Default)]
pub struct Entrance {
    /// The roster as JSON text, on presence channels, and its version.
    pub roster: Option<(String, u64)>,
    /// On cache channels: the newest event, if there is one.
    pub cached: Option<Option<Cached>>,
    /// Where it asked since when: what it missed.
    pub replay: Option<Replay>,
}

/// Where a subscriber begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// After what it names.
    pub since: Since,
    /// If what came after the cursor is not all known, with the last so many that are.
    pub or_last: u32,
}

impl From<Since> for Begin {
    fn from(since: Since) -> Begin {
        Begin { since, or_last: 0 }
    }
}

/// What a subscriber missed, in the order of publication, ready to be shown.
#[derive(Debug)]
pub struct Replay {
    /// Shared with whoever else asks for them at about the same time. When it is not recovered, the last that it asked for
    /// instead.
    pub frames: Vec<Arc<Frames>>,
    /// The end of the channel's stream: whoever has been shown the frames has everything up to here.
    pub now: Mark,
    /// Whether nothing is missing after the cursor; true when none was given.
    pub recovered: bool,
}

/// From a loop to the control plane. Requests about one channel are served in order.
#[derive(Debug)]
pub enum Request {
    /// The loop now has `n` subscribers on the channel.
    Members {
        /// The channel.
        key: ChannelKey,
        /// The loop that says so.
        from: usize,
        /// Its subscribers.
        n: u32,
        /// Whether the subscribers are told how many they are.
        announce: bool,
    },
    /// A subscriber waits to be let in: join the presence channel, read the newest event, the history, or all of these.
    Enter {
        /// The channel.
        key: ChannelKey,
        /// The loop that asks.
        from: usize,
        /// The subscriber.
        conn: ConnKey,
        /// Names this request in its answer.
        token: u32,
        /// Its socket id.
        socket: SocketId,
        /// On presence channels: who it is, and how many members there may be.
        member: Option<(Member, u32)>,
        /// Whether to read the newest event.
        cached: bool,
        /// From where on it wants what was published.
        begin: Option<Begin>,
    },
    /// A subscriber left a presence channel that it had asked to enter.
    Leave {
        /// The channel.
        key: ChannelKey,
        /// The subscriber's socket id.
        socket: SocketId,
        /// Its connection ended, and its client may be back with another: the others are told only if it is not.
        may_return: bool,
    },
    /// A client event.
    Publish {
        /// The channel.
        key: ChannelKey,
        /// The loop that asks.
        from: usize,
        /// Who published it, to be told if it could not be done.
        conn: ConnKey,
        /// What was published.
        publication: Box<Publication>,
    },
    /// A socket signed in; `key` is its user's own channel, `#server-to-user-…`.
    SignedIn {
        /// The user's channel.
        key: ChannelKey,
        /// The loop that asks.
        from: usize,
        /// The socket that signed in.
        conn: ConnKey,
        /// Its socket id.
        socket: SocketId,
        /// The user.
        user: String,
        /// The users that it watches.
        watchlist: Vec<String>,
        /// JSON texts to send it once its user's channel is open and the user counts as online: whoever hears that it is
        /// signed in can be reached.
        welcome: Vec<Vec<u8>>,
    },
    /// A signed-in socket went away.
    SignedOut {
        /// The user's channel.
        key: ChannelKey,
        /// The socket that went.
        socket: SocketId,
        /// The user.
        user: String,
    },
}

impl Request {
    /// The channel that orders it.
    pub fn key(&self) -> &ChannelKey {
        match self {
            Request::Members { key, .. }
            | Request::Enter { key, .. }
            | Request::Leave { key, .. }
            | Request::Publish { key, .. }
            | Request::SignedIn { key, .. }
            | Request::SignedOut { key, .. } => key,
        }
    }
}

/// Wakes a loop that sleeps in its poll.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The sending side of a box that a loop drains; cheap to clone.
#[derive(Debug)]
pub struct Mailbox<T> {
    letters: mpsc::Sender<T>,
    bell: Bell,
}

/// The receiving side, owned by one loop.
#[derive(Debug)]
pub struct Inbox<T> {
    letters: mpsc::Receiver<T>,
    bell: Bell,
}

/// Rings once for any number of letters, until the loop has looked; cheap to clone, and shared by all boxes of a loop.
#[derive(Clone)]
pub struct Bell {
    rung: Arc<AtomicBool>,
    wake: Wake,
}

impl Bell {
    /// A bell that calls `wake` when it was not rung already.
    pub fn new(wake: Wake) -> Self {
        Bell { rung: Arc::new(AtomicBool::new(false)), wake }
    }

    /// Wakes the loop, unless somebody has since it last looked.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }

    /// The loop is about to look: the next letter must ring again. To be called before draining, never after.
    pub fn hush(&self) {
        // A swap, not a store: it acquires what the last ringer put before it rang.
        self.rung.swap(false, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").field("rung", &self.rung).finish_non_exhaustive()
    }
}

/// A bounded box of `letters_max`, whose arrival rings `bell`.
pub fn mailbox<T>(letters_max: usize, bell: Bell) -> (Mailbox<T>, Inbox<T>) {
    let (sender, receiver) = mpsc::channel(letters_max);
    (Mailbox { letters: sender, bell: bell.clone() }, Inbox { letters: receiver, bell })
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Mailbox { letters: self.letters.clone(), bell: self.bell.clone() }
    }
}

impl<T> Mailbox<T> {
    /// Waits while the box is full. A loop that has ended takes no letters; they are dropped.
    pub async fn send(&self, letter: T) {
        if self.letters.send(letter).await.is_ok() {
            self.bell.ring();
        }
    }

    /// Letters that are in the box.
    pub fn waiting(&self) -> usize {
        self.letters.max_capacity() - self.letters.capacity()
    }

    /// Gives the letter back when the box is full or its loop has ended.
    pub fn try_send(&self, letter: T) -> Result<(), T> {
        self.letters.try_send(letter).map_err(|error| error.into_inner())?;
        self.bell.ring();
        Ok(())
    }
}

impl<T> Inbox<T> {
    /// The next letter, if there is one. Call [`Bell::hush`] once before draining.
    pub fn take(&mut self) -> Option<T> {
        self.letters.try_recv().ok()
    }

    /// The bell that letters ring.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}
