//! The sockets: a front door on the control plane, and one event loop per core that owns every subscriber.
//!
//! Only this module names sockets. A connection enters through `door`, which reads one request head and decides who
//! serves it: `upgrade` admits WebSockets, which move into a `shard_loop` for good; everything else is served by hyper.
//!
//! | file | what it is |
//! |---|---|
//! | `door` | accepting, the first request head, plain HTTP |
//! | `certificates` | who we are over TLS |
//! | `upgrade` | what a WebSocket upgrade asks for, and whether it may |
//! | `shard_loop` | the event loop: polling, reading, mail, timers |
//! | `desk` | what a loop knows: its shard, its apps, its requests to the control plane |
//! | `pusher` | the Pusher conversation with one connection |
//! | `envelope` | what its messages travel in |
//! | `pollers` | sessions of those who poll presence channels |
//! | `sessions` | the same conversation with clients that have no WebSocket |
//! | `neighbours`, `relayed` | sessions on other nodes |
//! | `listen` | what a request under `/sub` asks for, and whether it may have it |
//! | `subscribe` | requests under `/sub` that hyper serves |
//! | `feed` | the conversation with one subscriber of `/sub`, by whatever transport |
//! | `polls`, `plain` | the same, as far as it is about long-polling, or a plain WebSocket |
//! | `replays` | what was lately sent to those who came back |
//! | `forms` | the forms in which publications are written |
//! | `conn` | what is kept for each connection |
//! | `stream`, `tls`, `pipe` | what a connection is written on: a socket, bare or under TLS, or a pipe into an answer that hyper sends |
//! | `body` | the body of such an answer |
//! | `departures` | connections that are to come back, let go one after the other |
//! | `farewell` | sockets that have been closed and still hold our last words |

mod body;
pub mod certificates;
mod conn;
mod departures;
mod desk;
pub mod door;
mod envelope;
mod farewell;
mod feed;
pub mod forms;
pub mod listen;
pub mod neighbours;
mod pipe;
mod plain;
mod pollers;
mod polls;
mod pusher;
mod relayed;
mod replays;
mod sessions;
pub mod shard_loop;
mod stats;
mod stream;
pub mod subscribe;
mod tls;
pub mod upgrade;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use fanfare_hub::Mailbox;
use fanfare_hub::shard::ConnKey;
use fanfare_proto::close::CloseCode;

use crate::apps::App;
use crate::config::{Config, Role};

pub use body::Body;
use listen::Listen;
use pipe::Pipes;
pub use stats::{LoopStats, Snapshot};
pub use stream::Stream;

/// What all connections of a node are measured by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the node is there for.
    pub role: Role,
    /// Accepted before `/app`.
    pub path_prefix: String,
    /// Silence after which a client is to ping, and after which we do.
    pub activity_timeout_s: u32,
    /// How long a ping may stay unanswered.
    pub pong_timeout_s: u32,
    /// Bytes that a slow reader may owe us.
    pub outbox_bytes_max: usize,
    /// Connections at once, of all apps; 0 = unlimited.
    pub connections_max: u32,
    /// How long a request head may take to arrive.
    pub head_timeout_s: u32,
    /// Whether permessage-deflate is offered.
    pub deflate: bool,
    /// After which silence a subscriber of `/sub` is sent a heartbeat.
    pub heartbeat_s: u32,
    /// How long a long-poll waits that does not say.
    pub longpoll_s: u32,
    /// Whether `/echo` answers every message with itself (conformance tests).
    pub echo: bool,
}

impl Settings {
    /// What the configuration says about connections.
    pub fn new(config: &Config, echo: bool) -> Self {
        Settings {
            role: config.role,
            path_prefix: config.path_prefix.clone(),
            activity_timeout_s: config.activity_timeout_s,
            pong_timeout_s: config.pong_timeout_s,
            outbox_bytes_max: config.outbox_bytes_max,
            connections_max: config.connections_max,
            head_timeout_s: config.head_timeout_s,
            deflate: config.deflate,
            heartbeat_s: config.heartbeat_s,
            longpoll_s: config.longpoll_s,
            echo,
        }
    }
}

/// From the door or the main task to a loop.
#[derive(Debug)]
pub enum Order {
    /// A socket that asked for an upgrade.
    Adopt(Box<Arrival>),
    /// What the client of a session said, in requests of its own.
    Hear {
        /// The session's connection.
        conn: ConnKey,
        /// Its messages.
        texts: Vec<String>,
    },
    /// Apps have changed, or tokens were revoked: connections of apps that are gone or disabled are closed, and those
    /// whose token is.
    Recheck {
        /// To be dropped when that is done.
        done: tokio::sync::mpsc::Sender<()>,
    },
    /// Close everything, spread over this time, and end.
    Drain {
        /// 0 closes everything at once.
        over_ms: u64,
    },
}

/// A connection on its way into a loop.
#[derive(Debug)]
pub struct Arrival {
    /// The socket or pipe, not registered anywhere.
    pub stream: Stream,
    /// The response head still to be written; empty if it has been.
    pub head: Vec<u8>,
    /// What the peer sent behind its request head.
    pub unread: Vec<u8>,
    /// Whether it may stay.
    pub verdict: Result<Admission, Refusal>,
}

/// A connection that may stay, and what it is for. Its place is counted in its app's usage and in the node's count.
#[derive(Debug)]
pub enum Admission {
    /// The echo route.
    Echo {
        /// Whether messages may be compressed both ways.
        deflate: bool,
    },
    /// The Pusher protocol.
    Pusher {
        /// Whose it is.
        app: Arc<App>,
        /// Whether messages may be compressed both ways.
        deflate: bool,
        /// Whether it is told positions, and may resume.
        positions: bool,
    },
    /// A subscriber of `/sub`.
    Feed {
        /// What it asks for.
        listen: Box<Listen>,
        /// Whether messages may be compressed both ways, on a WebSocket.
        deflate: bool,
    },
}

impl Admission {
    /// Whose it is; nobody's on the echo route.
    pub fn app(&self) -> Option<&Arc<App>> {
        match self {
            Admission::Echo { .. } => None,
            Admission::Pusher { app, .. } => Some(app),
            Admission::Feed { listen, .. } => Some(&listen.app),
        }
    }

    fn deflate(&self) -> bool {
        match self {
            Admission::Echo { deflate } | Admission::Pusher { deflate, .. } | Admission::Feed { deflate, .. } => {
                *deflate
            }
        }
    }
}

/// A connection that a loop gives back to the door, because its next request is none of a loop's: with what it has sent.
pub type Returned = (Stream, Vec<u8>);

/// Why a connection is closed as soon as it is open: what its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Decides what the client does next.
    pub code: CloseCode,
    /// For the person who reads the log.
    pub message: String,
}

/// How the control plane reaches one loop; cheap to clone.
#[derive(Clone, Debug)]
pub struct LoopHandle {
    /// Where orders go.
    pub orders: Mailbox<Order>,
    /// Its pipes, and their news.
    pipes: Pipes,
    /// What the loop counts.
    pub stats: Arc<LoopStats>,
}

/// Connections of the node, all apps together; shared by the door, which counts up, and the loops, which count down.
pub type Occupancy = Arc<AtomicU32>;

/// The loops of a node, for whoever hands a connection to one of them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Loops {
    handles: Arc<[LoopHandle]>,
    turn: Arc<AtomicUsize>,
}

impl Loops {
    /// These loops.
    pub fn new(handles: &[LoopHandle]) -> Self {
        Loops { handles: handles.into(), turn: Arc::default() }
    }

    /// The loop whose turn it is.
    pub fn next(&self) -> &LoopHandle {
        &self.handles[self.turn.fetch_add(1, Ordering::Relaxed) % self.handles.len()]
    }
}

/// A client's largest message: the payload escaped twice over, and its envelope.
fn message_bytes_max(app: &App) -> usize {
    app.limits.payload_bytes_max * 6 + (8 << 10)
}
