//! The clock that leases and delays go by: milliseconds since 1970, as they were when the process began, and monotone since.
//!
//! Always true: somebody who sets the machine's clock ends no lease and no delay.

use std::time::Instant;

use crate::data::now_ms;

/// A clock; copies of it agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    began_ms: u64,
}

impl Clock {
    /// One that agrees with the machine's, now.
    pub fn start() -> Clock {
        Clock { began: Instant::now(), began_ms: now_ms() }
    }

    /// The time.
    pub fn now_ms(&self) -> u64 {
        self.began_ms.saturating_add(self.began.elapsed().as_millis() as u64)
    }

    /// When it will be that late; at once, if it is already.
    pub fn at(&self, ms: u64) -> Instant {
        let now = Instant::now();
        now + std::time::Duration::from_millis(ms.saturating_sub(self.now_ms()))
    }
}
