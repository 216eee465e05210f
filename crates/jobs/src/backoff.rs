//! How long to wait before trying again: longer after each failure, up to a cap, and not everybody at the same moment.

use std::time::Duration;

/// Waits that grow.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The longest wait after the first failure.
    pub first: Duration,
    /// The longest wait of all.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after so many failures in a row, of which there is one at least: anything from none to twice as long as
    /// the last time ("full jitter"), so that those who failed together do not come back together.
    pub fn after(&self, failures: u32) -> Duration {
        self.longest(failures).mul_f64(fastrand::f64())
    }

    /// The same, but at least half of it: for those who must not come back at once.
    pub fn at_least_half_after(&self, failures: u32) -> Duration {
        self.longest(failures).mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    fn longest(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let backoff = Backoff { first: Duration::from_secs(1), cap: Duration::from_secs(10) };
        let longest: Vec<u64> = [1, 2, 3, 4, 5, 60].map(|failures| backoff.longest(failures).as_secs()).to_vec();
        assert_eq!(longest, [1, 2, 4, 8, 10, 10]);
        for failures in 1..100 {
            assert!(backoff.after(failures) <= backoff.longest(failures));
            assert!(backoff.at_least_half_after(failures) * 2 >= backoff.longest(failures));
        }
    }
}
