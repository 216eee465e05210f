//! Channel names, event names, and what a channel's prefix promises.
//!
//! A [`ChannelName`] can only hold a legal name, so nothing behind the edge checks one again. What the prefix means
//! is read once, into a [`ChannelKind`].
//!
//! Not here: who may subscribe (the signature is checked with [`crate::sign`]).

/// Bytes in a channel name. Pusher documents 164, but its Node, Python and Go libraries send up to 200.
pub const NAME_LEN_MAX: usize = 200;

/// Characters in an event name, as Pusher documents.
pub const EVENT_NAME_LEN_MAX: usize = 200;

/// What comes before the user id in the name of a user's own channel.
const SERVER_TO_USER: &str = "#server-to-user-";

/// A channel name that keeps to the grammar `[A-Za-z0-9_\-=@,.;]+`, or `#server-to-user-` and a user id of that
/// grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelName<'a>(&'a str);

/// Why a name cannot be a channel's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing was given.
    #[error("a channel name must not be empty")]
    Empty,
    /// Longer than the app allows.
    #[error("channel name of {len} bytes: at most {len_max} are allowed")]
    TooLong {
        /// Bytes in the name.
        len: usize,
        /// Bytes allowed.
        len_max: usize,
    },
    /// A character outside of the grammar.
    #[error("{found:?} in a channel name: only letters, digits and _ - = @ , . ; are allowed")]
    Character {
        /// The first offending character.
        found: char,
    },
    /// `#` begins only the channels of users.
    #[error("a channel name begins with # only as #server-to-user- and a user id")]
    Reserved,
}

impl<'a> ChannelName<'a> {
    /// Reads a name of at most `len_max` bytes.
    pub fn parse(name: &'a str, len_max: usize) -> Result<Self, BadName> {
        if name.len() > len_max {
            return Err(BadName::TooLong { len: name.len(), len_max });
        }
        let plain = match name.strip_prefix(SERVER_TO_USER) {
            Some("") => return Err(BadName::Reserved),
            Some(user) => user,
            None if name.starts_with('#') => return Err(BadName::Reserved),
            None if name.is_empty() => return Err(BadName::Empty),
            None => name,
        };
        match outside_grammar(plain) {
            Some(found) => Err(BadName::Character { found }),
            None => Ok(Self(name)),
        }
    }

    /// The name as it was given.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// What the prefix means.
    pub fn kind(self) -> ChannelKind<'a> {
        if let Some(user) = self.0.strip_prefix(SERVER_TO_USER) {
            return ChannelKind { access: Access::ServerToUser(user), cache: false };
        }
        let (access, rest) = split_access(self.0);
        ChannelKind { access, cache: rest.starts_with("cache-") }
    }
}

/// The access that a name's prefix asks for, and what follows the prefix.
fn split_access(name: &str) -> (Access<'_>, &str) {
    if let Some(rest) = name.strip_prefix("private-encrypted-") {
        (Access::PrivateEncrypted, rest)
    } else if let Some(rest) = name.strip_prefix("private-") {
        (Access::Private, rest)
    } else if let Some(rest) = name.strip_prefix("presence-") {
        (Access::Presence, rest)
    } else {
        (Access::Public, name)
    }
}

/// The first character of `name` that a channel name or user id may not hold.
pub(crate) fn outside_grammar(name: &str) -> Option<char> {
    let first_bad = name.bytes().position(|byte| !GRAMMAR[usize::from(byte)])?;
    name[first_bad..].chars().next()
}

/// Which bytes a name may hold. A table, because every publish and subscribe asks.
const GRAMMAR: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let character = byte as u8;
        allowed[byte] =
            character.is_ascii_alphanumeric() || matches!(character, b'_' | b'-' | b'=' | b'@' | b',' | b'.' | b';');
        byte += 1;
    }
    allowed
};

/// What a subscriber must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<'a> {
    /// Nothing.
    Public,
    /// A signature.
    Private,
    /// A signature; the payload is opaque to the server.
    PrivateEncrypted,
    /// A signature, and who it is.
    Presence,
    /// To be signed in as this user.
    ServerToUser(&'a str),
}

/// What a channel's prefix says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelKind<'a> {
    /// What a subscriber must show.
    pub access: Access<'a>,
    /// Whether the last event is kept for those who come later.
    pub cache: bool,
}

impl ChannelKind<'_> {
    /// Whether its subscribers are told of each other.
    pub fn is_presence(&self) -> bool {
        self.access == Access::Presence
    }

    /// Whether a subscription must be signed.
    pub fn needs_auth(&self) -> bool {
        matches!(self.access, Access::Private | Access::PrivateEncrypted | Access::Presence)
    }

    /// Whether subscribers may send events of their own. The protocol allows this wherever a signature was shown,
    /// encrypted channels included, though the official libraries refuse there.
    pub fn takes_client_events(&self) -> bool {
        self.needs_auth()
    }
}

/// A channel's name, or the beginning of names and a `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChannelPattern(Box<str>);

impl ChannelPattern {
    /// Reads a pattern whose name, or beginning, has at most `len_max` bytes.
    pub fn parse(text: &str, len_max: usize) -> Result<Self, BadName> {
        match text.strip_suffix('*') {
            // Every name begins so (`*`), or every user's own channel, of which this alone is no name.
            Some(beginning) if SERVER_TO_USER.starts_with(beginning) => {}
            Some(beginning) => _ = ChannelName::parse(beginning, len_max)?,
            None => _ = ChannelName::parse(text, len_max)?,
        }
        Ok(Self(text.into()))
    }

    /// Whether the channel of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == &*self.0,
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a name cannot be an event's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEventName {
    /// Nothing was given.
    #[error("an event name must not be empty")]
    Empty,
    /// Longer than Pusher allows.
    #[error("event name of {len} characters: at most {EVENT_NAME_LEN_MAX} are allowed")]
    TooLong {
        /// Characters in the name.
        len: usize,
    },
}

/// Whether an event may be called this.
pub fn event_name_ok(name: &str) -> Result<(), BadEventName> {
    if name.is_empty() {
        return Err(BadEventName::Empty);
    }
    if name.len() <= EVENT_NAME_LEN_MAX {
        return Ok(());
    }
    match name.chars().count() {
        len if len > EVENT_NAME_LEN_MAX => Err(BadEventName::TooLong { len }),
        _ => Ok(()),
    }
}
