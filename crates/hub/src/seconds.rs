//! Numbers publications within their seconds: a time with a resolution of a second and a tag name one publication.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The low bits hold the last tag of the second, the others the second. More publications in a second than there are tags
/// run over into the next.
const TAG_BITS: u32 = 24;

/// The last second and tag given out.
#[derive(Debug, Default)]
pub struct Seconds(AtomicU64);

impl Seconds {
    /// The time in milliseconds and the tag of a publication at `time_ms` (0 = now): each time and tag is later than that before
    /// it, so that the time is moved on when a later one was given out already.
    pub fn next(&self, time_ms: u64) -> (u64, u32) {
        let time_ms = if time_ms == 0 { now_ms() } else { time_ms };
        let first = (time_ms / 1000) << TAG_BITS | 1;
        let after = |last: u64| first.max(last + 1);
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        let (second, tag) = split(after(last.unwrap_or_else(|last| last)));
        let moved = second > time_ms / 1000;
        (if moved { second * 1000 } else { time_ms }, tag)
    }
}

fn split(packed: u64) -> (u64, u32) {
    (packed >> TAG_BITS, (packed & ((1 << TAG_BITS) - 1)) as u32)
}

fn now_ms() -> u64 {
    // A clock before 1970 is as good as one at 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_begin_anew_with_each_second() {
        let seconds = Seconds::default();
        let given = [1_000, 1_999, 2_500, 2_500].map(|time_ms| seconds.next(time_ms));
        assert_eq!(given, [(1_000, 1), (1_999, 2), (2_500, 1), (2_500, 2)]);
    }

    #[test]
    fn who_comes_late_is_of_the_last_second() {
        let seconds = Seconds::default();
        assert_eq!(seconds.next(5_000), (5_000, 1));
        assert_eq!(seconds.next(4_999), (5_000, 2));
        assert_eq!(seconds.next(5_100), (5_100, 3));
    }

    #[test]
    fn no_time_is_now() {
        let (time_ms, tag) = Seconds::default().next(0);
        assert!(time_ms > 1_700_000_000_000 && tag == 1);
    }
}
