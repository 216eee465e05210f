//! What this node has published and is about to hear itself: the publishers' shares of their apps' windows wait here.
//!
//! Always true: a share is given back, at the latest `LATE` after its publication was sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::record::Origin;

/// What has not come back by then will not: its connection has broken, and the history will fill the hole.
const LATE: Duration = Duration::from_secs(5);

/// Publications on their way back to this node.
#[derive(Debug)]
pub struct Echoes {
    node: u64,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    awaited: Mutex<Awaited>,
    none_left: Notify,
}

#[derive(Debug, Default)]
struct Awaited {
    sent: u64,
    permits: HashMap<u64, (Option<OwnedSemaphorePermit>, Instant)>,
}

/// One of them. It is not waited for any more when this is dropped.
#[derive(Debug)]
pub struct Echo {
    origin: Origin,
    shared: Arc<Shared>,
    will_come: bool,
}

impl Shared {
    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().expect("no code panics while it holds the echoes")
    }

    fn take(&self, number: u64) -> Option<OwnedSemaphorePermit> {
        let mut awaited = self.awaited();
        let taken = awaited.permits.remove(&number);
        if awaited.permits.is_empty() {
            self.none_left.notify_waiters();
        }
        taken?.0
    }
}

impl Echoes {
    /// Of this node, in this life.
    pub fn new(node: u64) -> Echoes {
        Echoes { node, shared: Arc::default() }
    }

    /// Something is about to be published that this node listens to.
    pub fn expect(&self, permit: Option<OwnedSemaphorePermit>) -> Echo {
        let mut awaited = self.shared.awaited();
        awaited.sent += 1;
        let number = awaited.sent;
        awaited.permits.insert(number, (permit, Instant::now()));
        Echo { origin: Origin { node: self.node, number }, shared: self.shared.clone(), will_come: false }
    }

    /// Something has come back: whoever shows it has its share of the window from here on.
    pub fn heard(&self, origin: Origin) -> Option<OwnedSemaphorePermit> {
        if origin.node == self.node { self.shared.take(origin.number) } else { None }
    }

    /// Waits no longer for what is late.
    pub fn give_up_late(&self) {
        let mut awaited = self.shared.awaited();
        awaited.permits.retain(|_, (_, sent_at)| sent_at.elapsed() < LATE);
        if awaited.permits.is_empty() {
            self.shared.none_left.notify_waiters();
        }
    }

    /// Returns once nothing is awaited.
    pub async fn all_heard(&self) {
        loop {
            let notified = self.shared.none_left.notified();
            if self.shared.awaited().permits.is_empty() {
                return;
            }
            notified.await;
        }
    }
}

impl Echo {
    /// How it will be known.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// It has been published, and this node is among those that hear it.
    pub fn will_come(mut self) {
        self.will_come = true;
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if !self.will_come {
            self.shared.take(self.origin.number);
        }
    }
}
