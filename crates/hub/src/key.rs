//! The name of one channel of one app, as brokers, stores and loops index it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// `app-id/channel-name` in one shared string. Neither half may hold a `/`: the channel grammar has none, and the
/// configuration refuses an app id with one. Cloning is one atomic.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(Arc<str>);

impl ChannelKey {
    /// The key of channel `name` of the app with id `app`.
    pub fn new(app: &str, name: &str) -> Self {
        debug_assert!(!app.contains('/'), "app ids hold no slash");
        ChannelKey(format!("{app}/{name}").into())
    }

    /// The id of the app.
    pub fn app(&self) -> &str {
        self.halves().0
    }

    /// The channel's name within its app.
    pub fn name(&self) -> &str {
        self.halves().1
    }

    /// Both halves as they are written: `app-id/channel-name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn halves(&self) -> (&str, &str) {
        self.0.split_once('/').expect("a key is made of two halves")
    }
}

impl Borrow<str> for ChannelKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
