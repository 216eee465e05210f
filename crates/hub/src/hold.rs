//! How whoever delivers much at once learns that sockets have taken it: a hold, which bytes in outboxes keep.
//!
//! A publisher never waits for a subscriber. But what a node has missed and reads from a history comes as fast as memory is
//! read, and would fill the outboxes of readers who keep up with any publisher.

use std::convert::Infallible;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::mpsc;

/// Kept for as long as something of a delivery is to be written. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hold(mpsc::Sender<Infallible>);

/// Waits for a hold.
#[derive(Debug)]
pub struct Release(mpsc::Receiver<Infallible>);

impl Hold {
    /// A hold, and what waits until nobody keeps it.
    pub fn new() -> (Hold, Release) {
        let (hold, release) = mpsc::channel(1);
        (Hold(hold), Release(release))
    }
}

impl Release {
    /// Returns once nobody keeps the hold: all has been written, or dropped with its connection.
    pub async fn wait(&mut self) {
        let _ = self.0.recv().await;
    }
}

/// Bytes that keep `holds` for as long as any part of them is kept.
pub(crate) fn held<'a>(bytes: Bytes, holds: impl Iterator<Item = &'a Hold>) -> Bytes {
    let mut kept: SmallVec<[Hold; 1]> = SmallVec::new();
    for hold in holds {
        if !kept.last().is_some_and(|last| last.0.same_channel(&hold.0)) {
            kept.push(hold.clone());
        }
    }
    if kept.is_empty() || bytes.is_empty() {
        return bytes;
    }
    Bytes::from_owner(HeldBytes { bytes, _holds: kept })
}

struct HeldBytes {
    bytes: Bytes,
    _holds: SmallVec<[Hold; 1]>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
