//! What one tenant may use, the buckets that measure a rate, and the window that bounds what is in flight.
//!
//! Nothing here reads a clock: callers say what time it is, in milliseconds of a clock that never goes back (a time
//! earlier than one already seen counts as that one). A rate of 0 is no limit.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An app's limits. Where it says so, 0 means unlimited; the other defaults are Pusher's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, on all nodes together; 0 = unlimited. Beyond: close 4004.
    pub connections_max: u32,
    /// Channels one connection may hold; 0 = unlimited. Beyond: the subscribe is refused.
    pub channels_per_connection_max: u32,
    /// Bytes of a channel's name. Pusher documents 164, its server libraries allow 200.
    pub channel_name_len_max: usize,
    /// Bytes of an event's name.
    pub event_name_len_max: usize,
    /// Bytes of one event's data. Beyond: 413.
    pub payload_bytes_max: usize,
    /// Distinct users in one presence channel.
    pub presence_members_max: u32,
    /// Bytes of one member's `channel_data`.
    pub presence_member_bytes_max: usize,
    /// Events in one batch.
    pub batch_max: usize,
    /// Channels one event may be published to at once.
    pub publish_channels_max: usize,
    /// Publications through the HTTP API, on all nodes together; 0 = unlimited. Beyond: 429 with `Retry-After`.
    pub publishes_per_s: u32,
    /// Client events of one connection; 0 = unlimited. Beyond: error 4301, the connection stays.
    pub client_events_per_s: u32,
    /// Users one signed-in user may watch. Beyond: the first ones, and error 4302.
    pub watchlist_max: usize,
    /// How long a cache channel remembers its last event.
    pub cache_ttl_s: u32,
    /// Bytes of history on this node, all channels together. Beyond: the oldest are forgotten first.
    pub history_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 0,
            channels_per_connection_max: 0,
            channel_name_len_max: 200,
            event_name_len_max: 200,
            payload_bytes_max: 10 * 1024,
            presence_members_max: 100,
            presence_member_bytes_max: 1024,
            batch_max: 10,
            publish_channels_max: 100,
            publishes_per_s: 0,
            client_events_per_s: 10,
            watchlist_max: 100,
            cache_ttl_s: 30 * 60,
            history_bytes_max: 64 << 20,
        }
    }
}

/// A token bucket of one second's worth, full at first. 16 bytes, as every connection may have one.
///
/// It counts what has been taken and not yet earned back, in thousandths of a token: a rate per second is then
/// exactly as many thousandths per millisecond, and nothing is lost to rounding. The rate is an argument, so a
/// reloaded limit holds from the next take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    owed_milli: u64,
    seen_ms: u64,
}

const _: () = assert!(size_of::<Bucket>() == 16);

impl Bucket {
    /// Takes one token, if there is one.
    pub fn take(&mut self, now_ms: u64, rate_per_s: u32) -> bool {
        self.take_many(1, now_ms, rate_per_s).is_ok()
    }

    /// Takes `n` tokens at once, or none and says when to come again. A full bucket lends what it lacks, as more
    /// than a second's worth could otherwise never be had.
    fn take_many(&mut self, n: u32, now_ms: u64, rate_per_s: u32) -> Result<(), RetryAfter> {
        if rate_per_s == 0 {
            return Ok(());
        }
        self.earn(now_ms, rate_per_s);
        let cost_milli = u64::from(n) * 1000;
        let room_milli = (u64::from(rate_per_s) * 1000).max(cost_milli);
        let after_milli = self.owed_milli + cost_milli;
        if after_milli > room_milli {
            let missing_milli = after_milli - room_milli;
            return Err(RetryAfter { ms: missing_milli.div_ceil(u64::from(rate_per_s)) });
        }
        self.owed_milli = after_milli;
        Ok(())
    }

    fn earn(&mut self, now_ms: u64, rate_per_s: u32) {
        let elapsed_ms = now_ms.saturating_sub(self.seen_ms);
        let earned_milli = elapsed_ms.saturating_mul(u64::from(rate_per_s));
        self.owed_milli = self.owed_milli.saturating_sub(earned_milli);
        self.seen_ms = self.seen_ms.max(now_ms);
    }
}

/// When a refused publish may come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter {
    /// From now.
    pub ms: u64,
}

impl RetryAfter {
    /// The value of a `Retry-After` header: whole seconds, rounded up so that who obeys is served.
    pub fn seconds(self) -> u64 {
        self.ms.div_ceil(1000).max(1)
    }
}

/// An app's publish rate, shared by everyone who publishes for it. The lock is held for a few additions.
#[derive(Debug, Default)]
pub struct PublishRate(Mutex<Bucket>);

impl PublishRate {
    /// Counts `n` publications against the rate, all of them or none.
    pub fn take(&self, n: u32, now_ms: u64, rate_per_s: u32) -> Result<(), RetryAfter> {
        if rate_per_s == 0 {
            return Ok(());
        }
        // A bucket is sound between any two of its statements, so a poisoned lock tells nothing.
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take_many(n, now_ms, rate_per_s)
    }
}

/// Bytes of an app's publications that may be on their way to subscribers on this node. Beyond it publishers wait, so
/// that one tenant's flood fills neither the memory nor the queues of the others.
const WINDOW_BYTES: usize = 8 << 20;

/// What a publication through the API counts for at least. 128 of them in flight are plenty to join into one write; more
/// would only stand in a queue, where each adds its own delay: to 5,000 subscribers, at 0.4 µs a delivery, 128 are already a
/// quarter of a second.
const PUBLISH_BYTES_MIN: usize = 64 << 10;

/// What a client event counts for at least. A loop takes in the events of many connections at once, and must not wait.
const CLIENT_EVENT_BYTES_MIN: usize = 1 << 10;

/// An app's share of the node's memory for publications in flight; cheap to clone.
#[derive(Debug, Clone)]
pub struct Window {
    room: Arc<Semaphore>,
    bytes_min: usize,
}

impl Window {
    /// For publications through the API.
    pub fn for_publishes() -> Window {
        Window { room: Arc::new(Semaphore::new(WINDOW_BYTES)), bytes_min: PUBLISH_BYTES_MIN }
    }

    /// For client events.
    pub fn for_client_events() -> Window {
        Window { room: Arc::new(Semaphore::new(WINDOW_BYTES)), bytes_min: CLIENT_EVENT_BYTES_MIN }
    }

    /// A share for `n` publications of `bytes` together, if there is room now. It is given back when it is dropped.
    pub fn try_take(&self, n: usize, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_many_owned(self.share(n, bytes)).ok()
    }

    /// Waits until there is room.
    pub async fn take(&self, n: usize, bytes: usize) -> OwnedSemaphorePermit {
        let permit = self.room.clone().acquire_many_owned(self.share(n, bytes)).await;
        permit.expect("the semaphore is never closed")
    }

    /// What is larger than the window takes all of it.
    fn share(&self, n: usize, bytes: usize) -> u32 {
        bytes.max(n.saturating_mul(self.bytes_min)).min(WINDOW_BYTES) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(bucket: &mut Bucket, now_ms: u64, rate_per_s: u32) -> usize {
        (0..1000).take_while(|_| bucket.take(now_ms, rate_per_s)).count()
    }

    #[test]
    fn a_bucket_gives_a_seconds_worth_at_once_and_then_its_rate() {
        let mut bucket = Bucket::default();
        assert_eq!(takes(&mut bucket, 5_000, 10), 10);
        assert_eq!(takes(&mut bucket, 5_099, 10), 0);
        assert_eq!(takes(&mut bucket, 5_100, 10), 1);
        assert_eq!(takes(&mut bucket, 5_350, 10), 2);
        assert_eq!(takes(&mut bucket, 5_400, 10), 1);
        assert_eq!(takes(&mut bucket, 60_000, 10), 10);
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_is_met_exactly() {
        let mut bucket = Bucket::default();
        let taken: usize = (0..60_000).map(|ms| takes(&mut bucket, ms, 7)).sum();
        assert_eq!(taken, 7 + 7 * 60 - 1, "a burst, then 7/s; the token of the last millisecond is not due yet");
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(takes(&mut Bucket::default(), 0, 0), 1000);
        assert_eq!(PublishRate::default().take(u32::MAX, 0, 0), Ok(()));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = Bucket::default();
        assert_eq!(takes(&mut bucket, 9_000, 5), 5);
        assert_eq!(takes(&mut bucket, 1_000, 5), 0);
        assert_eq!(takes(&mut bucket, 9_200, 5), 1);
    }

    #[test]
    fn a_raised_rate_holds_from_the_next_take() {
        let mut bucket = Bucket::default();
        assert_eq!(takes(&mut bucket, 0, 5), 5);
        assert_eq!(takes(&mut bucket, 0, 8), 3);
        assert_eq!(takes(&mut bucket, 0, 2), 0);
    }

    #[test]
    fn a_refused_publish_is_told_when_it_will_be_taken() {
        let rate = PublishRate::default();
        assert_eq!(rate.take(4, 0, 4), Ok(()));
        let refused = rate.take(2, 100, 4).expect_err("the bucket is empty");
        assert_eq!(refused, RetryAfter { ms: 400 });
        assert_eq!(refused.seconds(), 1);
        assert_eq!(rate.take(2, 100 + refused.ms, 4), Ok(()));
    }

    #[test]
    fn a_batch_larger_than_the_rate_passes_a_full_bucket_and_is_paid_off_after() {
        let rate = PublishRate::default();
        assert_eq!(rate.take(10, 0, 4), Ok(()));
        assert_eq!(rate.take(1, 0, 4), Err(RetryAfter { ms: 1750 }));
        assert_eq!(RetryAfter { ms: 1750 }.seconds(), 2);
        assert_eq!(rate.take(1, 1750, 4), Ok(()));
        assert_eq!(rate.take(10, 1750, 4), Err(RetryAfter { ms: 1000 }));
    }
}
