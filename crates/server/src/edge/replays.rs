//! What was lately replayed to those who came back, by what it holds: a crowd that was cut off together missed the same.
//!
//! Always true: the bytes are a function of channel, form and positions, so nothing here is ever out of date.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::{ChannelKey, Form, Frames, StreamPosition};

/// What was lately replayed, by what it holds: the same for everybody who missed the same.
#[derive(Debug, Default)]
pub struct Replays(Vec<Joined>);

#[derive(Debug)]
struct Joined {
    channel: ChannelKey,
    form: Form,
    first: Option<StreamPosition>,
    last: Option<StreamPosition>,
    bytes: Bytes,
}

/// Replays that are remembered. A crowd comes back for a few channels at a time.
const REPLAYS_MAX: usize = 8;

impl Replays {
    /// The bytes of all of these, which are some of one channel; made if nobody has lately missed the same.
    pub fn bytes(&mut self, form: Form, missed: &[Arc<Frames>]) -> Bytes {
        let (oldest, newest) = (&missed[0], &missed[missed.len() - 1]);
        let (channel, first, last) = (oldest.key(), oldest.position(), newest.position());
        let same = |joined: &&Joined| {
            (joined.form, joined.first, joined.last) == (form, first, last) && joined.channel == *channel
        };
        if let Some(joined) = self.0.iter().find(same) {
            return joined.bytes.clone();
        }
        if self.0.len() == REPLAYS_MAX {
            self.0.remove(0);
        }
        let bytes = oldest.encoder().join(form, missed);
        self.0.push(Joined { channel: channel.clone(), form, first, last, bytes: bytes.clone() });
        bytes
    }

    /// Forgets all of them; about once a second, so that they hold memory while a crowd comes back and not after.
    pub fn forget(&mut self) {
        self.0 = Vec::new();
    }
}
