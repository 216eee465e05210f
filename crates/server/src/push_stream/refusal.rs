//! Why a request was refused: a status, and a line in a header. Refusals have no body.

use fanfare_hub::{BrokerError, StoreError};
use fanfare_proto::channel::BadName;
use hyper::StatusCode;

use crate::body::BadBody;
use crate::config::Role;
use crate::limits::RetryAfter;

/// Every reason for which a request is refused. Its text is what `X-Nginx-PushStream-Explain` says.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The path leads nowhere.
    #[error("There is nothing here: expected /pub, /sub, /ev, /lp, /ws or /channels-stats.")]
    Nowhere,
    /// The path answers to other methods.
    #[error("Method not allowed.")]
    Method {
        /// Those that it answers to.
        allow: &'static str,
    },
    /// Only some machines may publish and see statistics.
    #[error("Publishing is not allowed from this address.")]
    NotFromHere,
    /// The app is switched off, or was removed.
    #[error("The app is disabled.")]
    Disabled,
    /// No channel was named.
    #[error("No channel id provided.")]
    NoChannel,
    /// The name of everything, or a pattern.
    #[error("Channel id not authorized for this method.")]
    NotAuthorized,
    /// A longer id than is allowed.
    #[error("Channel id is too large.")]
    TooLong,
    /// No name of a channel.
    #[error("Channel id is not valid: {0}.")]
    Name(BadName),
    /// More channels at once than is allowed.
    #[error("Number of channels were exceeded.")]
    TooManyChannels,
    /// As many subscribers as the channel may have.
    #[error("Subscribers limit per channel has been exceeded.")]
    TooManySubscribers,
    /// Nobody has published there yet.
    #[error("Subscriber could not create channels.")]
    MayNotCreate,
    /// The events channel hears from the server only.
    #[error("Only internal routines can change events channel.")]
    EventsInternal,
    /// The events channel is closed to subscribers.
    #[error("Subscription to events channel is not allowed.")]
    EventsForbidden,
    /// A page of this origin may not subscribe.
    #[error("Origin not allowed.")]
    Origin,
    /// Nothing was posted.
    #[error("Empty post requests are not allowed.")]
    Empty,
    /// Messages are text.
    #[error("The message is not UTF-8 text.")]
    NotText,
    /// The body could not be read.
    #[error("{0}.")]
    Body(BadBody),
    /// More bytes than a message may have.
    #[error("A message may have {bytes_max} bytes.")]
    TooLarge {
        /// As the app's limits say.
        bytes_max: usize,
    },
    /// The name of an event that only the server may use, or too long a one.
    #[error("Event type is not valid: {0}.")]
    EventType(&'static str),
    /// Too long an id of an event.
    #[error("Event id is too long.")]
    EventId,
    /// No such channel.
    #[error("Channel does not exist.")]
    Unknown,
    /// The name of a function that is none.
    #[error("Callback is not valid.")]
    Callback,
    /// A WebSocket that is none.
    #[error(
        "Don't have at least one of the mandatory headers: Connection, Upgrade, Sec-WebSocket-Key and \
         Sec-WebSocket-Version"
    )]
    NoUpgrade,
    /// A WebSocket of another version.
    #[error("Version not supported. Supported versions: 8, 13")]
    Version,
    /// The app publishes more often than it may.
    #[error("Too many messages are published.")]
    TooOften(RetryAfter),
    /// The app's subscribers cannot follow.
    #[error("Messages are published faster than they can be delivered.")]
    Behind,
    /// The node is not there for that.
    #[error("This node has the role \"{role}\".")]
    Elsewhere {
        /// What it is there for.
        role: Role,
    },
    /// As many connections as may be.
    #[error("Too many connections.")]
    Full,
    /// The broker is away.
    #[error("{0}.")]
    Broker(#[from] BrokerError),
    /// The store of who is there is away.
    #[error("{0}.")]
    Store(#[from] StoreError),
}

impl Refused {
    /// What the sender is answered with.
    pub fn status(&self) -> StatusCode {
        use Refused::*;
        match self {
            Nowhere | Unknown => StatusCode::NOT_FOUND,
            Elsewhere { .. } => StatusCode::MISDIRECTED_REQUEST,
            Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            NoChannel | TooLong | Name(_) | Empty | EventType(_) | EventId | Callback | NoUpgrade | Version => {
                StatusCode::BAD_REQUEST
            }
            NotFromHere | Disabled | NotAuthorized | TooManyChannels | TooManySubscribers | MayNotCreate
            | EventsInternal | EventsForbidden | Origin => StatusCode::FORBIDDEN,
            NotText => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Body(bad) => bad.status(),
            TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
            Behind | Full | Broker(_) | Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Seconds after which it is worth coming again, where that is.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Refused::TooOften(retry) => Some(retry.seconds()),
            Refused::Behind | Refused::Full | Refused::Broker(_) | Refused::Store(_) => Some(1),
            _ => None,
        }
    }
}

impl From<BadBody> for Refused {
    fn from(bad: BadBody) -> Self {
        match bad {
            BadBody::NotUtf8 => Refused::NotText,
            bad => Refused::Body(bad),
        }
    }
}

impl From<BadName> for Refused {
    fn from(bad: BadName) -> Self {
        match bad {
            BadName::Empty => Refused::NoChannel,
            BadName::TooLong { .. } => Refused::TooLong,
            BadName::Reserved => Refused::NotAuthorized,
            bad @ BadName::Character { .. } => Refused::Name(bad),
        }
    }
}
