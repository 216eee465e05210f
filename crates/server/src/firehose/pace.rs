//! How fast messages may go out: each takes its turn, and none is dropped.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What was not used of the rate may be made up for this long.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The turns of all who share a rate.
#[derive(Debug)]
pub struct Pace {
    each: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// So many a second; `None`: as many as there are.
    pub fn new(per_s: u32) -> Option<Pace> {
        (per_s > 0).then(|| Pace { each: Duration::from_secs(1) / per_s, next: Mutex::new(Instant::now()) })
    }

    /// When the next message may go out. It has that turn.
    pub fn turn(&self) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = now.checked_sub(CATCH_UP).map_or(*next, |earliest| earliest.max(*next));
        *next = turn + self.each;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_keep_their_rate_and_a_little_is_made_up_for() {
        assert!(Pace::new(0).is_none());
        let pace = Pace::new(10).expect("a rate");
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(60)).await;
        let turns: Vec<_> = (0..4).map(|_| (pace.turn() - began).as_millis()).collect();
        assert_eq!(turns, [59_900, 60_000, 60_100, 60_200]);
    }
}
