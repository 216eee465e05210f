//! Close codes and error codes, and what a Pusher client does on hearing one.
//!
//! A [`CloseCode`] can only hold a code that may travel in a close frame. [`ErrorCode`] is apart, because pusher-js
//! gives up for good when it meets one of those as a close code.

/// A code that may stand in a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

/// What the clients do after a close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// They stay away: the same request would fail again.
    Never,
    /// They come back after a second or more.
    BackOff,
    /// They come back at once, all together.
    Now,
    /// They treat it as a lost connection, each library in its own way.
    Ordinary,
}

impl CloseCode {
    /// The peer is done.
    pub const NORMAL: Self = Self(1000);
    /// The server is stopping, or the page was left.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the WebSocket protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// A kind of data that is not taken here, such as binary messages.
    pub const UNSUPPORTED: Self = Self(1003);
    /// A text message that is not UTF-8, or data that does not inflate.
    pub const INVALID_UTF8: Self = Self(1007);
    /// A rule of ours was broken.
    pub const POLICY: Self = Self(1008);
    /// A message over the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// The app takes TLS connections only.
    pub const TLS_REQUIRED: Self = Self(4000);
    /// No app has this key.
    pub const APP_UNKNOWN: Self = Self(4001);
    /// The app is switched off.
    pub const APP_DISABLED: Self = Self(4003);
    /// The app has as many connections as it may.
    pub const OVER_QUOTA: Self = Self(4004);
    /// Nothing is at this path.
    pub const PATH_UNKNOWN: Self = Self(4005);
    /// The protocol version is not a number.
    pub const BAD_VERSION: Self = Self(4006);
    /// The protocol version is too old.
    pub const OLD_PROTOCOL: Self = Self(4007);
    /// No protocol version was named.
    pub const NO_PROTOCOL: Self = Self(4008);
    /// Not authorised, not in time, or no longer.
    pub const UNAUTHORIZED: Self = Self(4009);
    /// The node is full, or the peer reads too slowly.
    pub const OVER_CAPACITY: Self = Self(4100);
    /// Come back, to another node if there is one.
    pub const RECONNECT: Self = Self(4200);
    /// The peer was pinged and stayed silent.
    pub const PONG_MISSING: Self = Self(4201);
    /// Nothing was heard for too long.
    pub const IDLE: Self = Self(4202);

    /// A code that a peer sent, if RFC 6455 lets it travel: 1004, 1005, 1006 and 1015 are for use within programs.
    pub fn from_peer(code: u16) -> Option<Self> {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then_some(Self(code))
    }

    /// The number.
    pub fn code(self) -> u16 {
        self.0
    }

    /// The words that go with it; empty for a code that is not ours.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NORMAL => "Normal closure",
            Self::GOING_AWAY => "Going away",
            Self::PROTOCOL => "WebSocket protocol violated",
            Self::UNSUPPORTED => "Only text messages are supported",
            Self::INVALID_UTF8 => "Message is not valid UTF-8",
            Self::POLICY => "Policy violated",
            Self::TOO_BIG => "Message too big",
            Self::TLS_REQUIRED => "Application only accepts TLS connections, reconnect using wss://",
            Self::APP_UNKNOWN => "Application does not exist",
            Self::APP_DISABLED => "Application disabled",
            Self::OVER_QUOTA => "Application is over connection quota",
            Self::PATH_UNKNOWN => "Path not found",
            Self::BAD_VERSION => "Invalid version string format",
            Self::OLD_PROTOCOL => "Unsupported protocol version",
            Self::NO_PROTOCOL => "No protocol version supplied",
            Self::UNAUTHORIZED => "Connection is unauthorized",
            Self::OVER_CAPACITY => "Over capacity, reconnect later",
            Self::RECONNECT => "Reconnect now",
            Self::PONG_MISSING => "Pong reply not received in time",
            Self::IDLE => "Closed after inactivity",
            _ => "",
        }
    }

    /// What the official clients do on hearing it.
    pub fn reconnection(self) -> Reconnect {
        match self.0 {
            4000..=4099 => Reconnect::Never,
            4100..=4199 => Reconnect::BackOff,
            4200..=4299 => Reconnect::Now,
            _ => Reconnect::Ordinary,
        }
    }
}

/// A code for a `pusher:error` that leaves the connection open. Never a close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// Client events come faster than the app allows.
    ClientEventRate = 4301,
    /// The watchlist is longer than allowed; its beginning was taken.
    WatchlistLimit = 4302,
}

impl ErrorCode {
    /// The number.
    pub fn code(self) -> u16 {
        self as u16
    }
}
