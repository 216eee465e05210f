//! When a target is left alone: after some failures in a row nobody asks it for a while, then one asks for all.
//!
//! Always true: while the circuit is half open, one delivery is under way and no more.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// Failures in a row that open the circuit.
const FAILURES_MAX: u32 = 5;

/// How long it stays open: short at first, as most failures are.
const OPEN: Backoff = Backoff { first: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// The longest that a target may ask for.
const AFTER_MAX: Duration = Duration::from_secs(3600);

/// How a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Well, as far as anybody knows.
    Closed,
    /// Being asked by one delivery.
    HalfOpen,
    /// Left alone.
    Open,
}

/// What a delivery may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Go.
    Go,
    /// Go, and ask for all.
    Ask,
    /// Wait until then, and ask again.
    Until(Instant),
    /// Wait for the one that is trying.
    ForProbe,
}

/// The state of one target.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Failures in a row.
    failures: u32,
    /// How often in a row it has been opened.
    opened: u32,
    /// Nobody asks before.
    until: Option<Instant>,
    probing: bool,
}

impl Breaker {
    pub(super) fn circuit(&self) -> Circuit {
        match (self.until, self.probing) {
            (None, _) => Circuit::Closed,
            (Some(_), true) => Circuit::HalfOpen,
            (Some(_), false) => Circuit::Open,
        }
    }

    /// Lets a delivery go, or says for what it waits.
    pub(super) fn pass(&mut self, now: Instant) -> Pass {
        match self.until {
            None => Pass::Go,
            Some(_) if self.probing => Pass::ForProbe,
            Some(until) if now < until => Pass::Until(until),
            Some(_) => {
                self.probing = true;
                Pass::Ask
            }
        }
    }

    /// A delivery was confirmed or refused: there is somebody.
    pub(super) fn well(&mut self) {
        *self = Breaker::default();
    }

    /// A delivery failed; answers whether that opened the circuit. Those that were under way when it opened say nothing
    /// new, but for the one that was `asking`.
    pub(super) fn failed(&mut self, asking: bool, now: Instant, after: Option<Duration>) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.until {
            Some(_) => asking,
            None => after.is_some() || self.failures >= FAILURES_MAX,
        };
        if opens {
            self.probing = false;
            self.opened = self.opened.saturating_add(1);
            let wait = OPEN.at_least_half_after(self.opened);
            self.until = Some(now + after.map_or(wait, |after| after.min(AFTER_MAX).max(wait)));
        }
        opens
    }

    /// The one that was asking has gone without an answer: somebody else may ask.
    pub(super) fn gave_up(&mut self) {
        self.probing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_MAX - 1 {
            assert!(!breaker.failed(false, now, None));
        }
        assert!(breaker.failed(false, now, None));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.circuit(), Circuit::Open);
        assert!(matches!(breaker.pass(now), Pass::Until(until) if until > now));
    }

    #[test]
    fn one_asks_for_all() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + Duration::from_secs(1);
        assert_eq!((breaker.pass(later), breaker.pass(later)), (Pass::Ask, Pass::ForProbe));
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
        breaker.well();
        assert_eq!((breaker.circuit(), breaker.pass(later)), (Circuit::Closed, Pass::Go));
    }

    #[test]
    fn it_stays_open_for_longer_each_time() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let Pass::Until(until) = breaker.pass(now) else { panic!("it is open") };
            waits.push(until - now);
            now = until;
            assert_eq!(breaker.pass(now), Pass::Ask);
            assert!(breaker.failed(true, now, None));
        }
        assert!(waits[0] <= Duration::from_millis(500) && waits[9] >= Duration::from_secs(15), "{waits:?}");
    }

    #[test]
    fn a_target_that_names_a_time_is_left_alone_until_then() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        assert!(breaker.failed(false, now, Some(Duration::from_secs(60))));
        assert_eq!(breaker.pass(now + Duration::from_secs(59)), Pass::Until(now + Duration::from_secs(60)));
        assert_eq!(breaker.pass(now + Duration::from_secs(60)), Pass::Ask);
    }

    #[test]
    fn who_was_under_way_when_it_opened_does_not_end_the_asking() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.pass(later), Pass::Ask);
        assert!(!breaker.failed(false, later, None), "it is open already");
        assert_eq!(breaker.pass(later), Pass::ForProbe);
        breaker.gave_up();
        assert_eq!(breaker.pass(later), Pass::Ask);
    }
}
