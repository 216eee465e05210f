//! The clock that leases and delays go by: milliseconds since 1970, as they were when the process began, and monotone since.
//!
//! Always true:
//! - somebody who sets the machine's clock ends no lease and no delay;
//! - what others say, and are told, is by the machine's clock as it is at that moment.

use std::time::Instant;

use crate::data::now_ms;

/// Less is no more than two readings of two clocks.
const STEP_MS_MIN: u64 = 1000;

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

    /// A time by the machine's clock, on this one.
    pub fn of_machine(&self, ms: u64) -> u64 {
        moved(ms, now_ms(), self.now_ms())
    }

    /// A time of this one, by the machine's clock.
    pub fn to_machine(self, ms: u64) -> u64 {
        moved(ms, self.now_ms(), now_ms())
    }

    /// When it will be that late; at once, if it is already.
    pub fn at(&self, ms: u64) -> Instant {
        let now = Instant::now();
        now + std::time::Duration::from_millis(ms.saturating_sub(self.now_ms()))
    }
}

/// A time on a clock where it is `to` when it is `from` on its own.
fn moved(ms: u64, from: u64, to: u64) -> u64 {
    if from.abs_diff(to) < STEP_MS_MIN { ms } else { ms.saturating_add(to).saturating_sub(from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_as_far_from_now_on_either_clock() {
        let (before, after) = (10_000_000, 13_600_000);
        assert_eq!(moved(before + 2_000, before, after), after + 2_000);
        assert_eq!(moved(after + 2_000, after, before), before + 2_000);
        assert_eq!(moved(0, after, before), 0);
    }

    #[test]
    fn clocks_that_agree_leave_times_as_they_are() {
        assert_eq!(moved(5_000, 10_000_000, 10_000_003), 5_000);
    }
}
