//! Who got what: every delivery of one receiving process is entered here once, and errors show as they happen.
//!
//! Within one lane and channel, sequences rise by one. So a subscriber is in order as long as each delivery is the next one;
//! a number ahead opens a gap, a number from a gap closes it late (`reordered`), and any other has been here (`duplicated`).
//! Lanes are not ordered among themselves, but all subscribers of a channel must see the same interleaving: each one's order
//! is folded into a number, and the numbers are compared at the end.
//!
//! Always true: `delivered` counts each publication at most once for each subscriber; what arrived altered, or on a channel
//! where it does not belong, counts as `corrupt` and not as delivered.

use std::collections::{BTreeMap, HashSet};
use std::ops::AddAssign;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::stamp::{STAMP_LEN, Stamp, filler_intact};

/// The longest latency that is told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Publications of one run. Bounds what a made-up number can make us remember.
pub const PUBLICATIONS_MAX: u32 = 1 << 24;

/// What to expect.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Terms {
    pub plan: Plan,
    pub run: u16,
    /// Bytes of data in each publication.
    pub size: usize,
    /// Publications before this one warm up: they are accounted for, but not timed.
    pub measured_from: u32,
}

/// Deliveries, right and wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub delivered: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupt: u64,
    /// Subscribers whose connection the server closed.
    pub closed: u64,
    /// Subscribers that were told of a gap when they came with a cursor.
    pub gaps: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.delivered += other.delivered;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
        self.closed += other.closed;
        self.gaps += other.gaps;
    }
}

/// One process' deliveries, while they happen.
pub struct Ledger {
    terms: Terms,
    counts: Counts,
    /// For each subscriber and lane, the sequence that comes next.
    next: Vec<u32>,
    /// For each subscriber, its order folded into one number.
    orders: Vec<u64>,
    /// Gaps: subscriber, lane, sequence. Empty with a server that is right.
    missing: HashSet<(usize, u32, u32)>,
    arrivals: Vec<Arrivals>,
    every: Histogram<u64>,
    timed: u64,
    last_ns: u64,
    bytes: u64,
}

/// One publication's deliveries to the subscribers of this process.
#[derive(Debug, Clone, Copy, Default)]
struct Arrivals {
    sent_ns: u64,
    first_ns: u64,
    last_ns: u64,
    count: u32,
}

/// What an entry showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Delivered; this many subscribers here have the publication now.
    Delivered { id: u32, count: u32 },
    /// Counted as one of the errors.
    Wrong,
}

impl Ledger {
    pub fn new(terms: Terms, subscribers: usize) -> Ledger {
        Ledger {
            next: vec![0; subscribers * terms.plan.lanes as usize],
            orders: vec![0; subscribers],
            terms,
            counts: Counts::default(),
            missing: HashSet::new(),
            arrivals: Vec::new(),
            every: latency_histogram(),
            timed: 0,
            last_ns: 0,
            bytes: 0,
        }
    }

    /// Enters what `subscriber` received: a message's data, from the stamp on.
    #[inline]
    pub fn enter(&mut self, subscriber: usize, channel: u32, data: &[u8], now_ns: u64) -> Entry {
        let Some(stamp) = self.check(channel, data) else {
            self.counts.corrupt += 1;
            return Entry::Wrong;
        };
        if !self.is_new(subscriber, &stamp) {
            self.counts.duplicated += 1;
            return Entry::Wrong;
        }
        self.counts.delivered += 1;
        self.last_ns = now_ns;
        let order = &mut self.orders[subscriber];
        *order = (order.rotate_left(5) ^ u64::from(stamp.id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if stamp.id >= self.terms.measured_from {
            self.every.saturating_record(now_ns.saturating_sub(stamp.sent_ns));
            self.timed += 1;
        }
        Entry::Delivered { id: stamp.id, count: self.arrived(&stamp, now_ns) }
    }

    /// The stamp, if these are the bytes that were sent to this channel in this run.
    #[inline]
    fn check(&self, channel: u32, data: &[u8]) -> Option<Stamp> {
        let Terms { plan, run, size, .. } = &self.terms;
        let data = data.get(..*size)?;
        let stamp = Stamp::read(data)?;
        let ours = stamp.run == *run && stamp.id < PUBLICATIONS_MAX && stamp.sequence <= stamp.id;
        (ours && plan.channels_of(stamp.id).contains(&channel) && filler_intact(&data[STAMP_LEN..])).then_some(stamp)
    }

    #[inline]
    fn is_new(&mut self, subscriber: usize, stamp: &Stamp) -> bool {
        let lane = self.terms.plan.lane(stamp.id);
        let next = &mut self.next[subscriber * self.terms.plan.lanes as usize + lane as usize];
        if stamp.sequence < *next {
            let late = self.missing.remove(&(subscriber, lane, stamp.sequence));
            self.counts.reordered += u64::from(late);
            return late;
        }
        if stamp.sequence > *next {
            self.missing.extend((*next..stamp.sequence).map(|sequence| (subscriber, lane, sequence)));
        }
        *next = stamp.sequence + 1;
        true
    }

    #[inline]
    fn arrived(&mut self, stamp: &Stamp, now_ns: u64) -> u32 {
        let id = stamp.id as usize;
        if id >= self.arrivals.len() {
            self.arrivals.resize(id + 1, Arrivals::default());
        }
        let arrivals = &mut self.arrivals[id];
        if arrivals.count == 0 {
            (arrivals.sent_ns, arrivals.first_ns) = (stamp.sent_ns, now_ns);
        }
        arrivals.last_ns = now_ns;
        arrivals.count += 1;
        arrivals.count
    }

    pub fn delivered(&self) -> u64 {
        self.counts.delivered
    }

    pub fn closed(&mut self) {
        self.counts.closed += 1;
    }

    /// A subscriber has read so many bytes.
    pub fn read(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// So many subscribers were told of a gap.
    pub fn gaps(&mut self, subscribers: u64) {
        self.counts.gaps += subscribers;
    }

    /// The whole account; `channel_of` tells each subscriber's channel.
    pub fn tally(&self, channel_of: impl Fn(usize) -> u32) -> Tally {
        let mut orders = BTreeMap::new();
        for (subscriber, &order) in self.orders.iter().enumerate() {
            *orders.entry((channel_of(subscriber), order)).or_insert(0) += 1;
        }
        let timed = self.arrivals.iter().skip(self.terms.measured_from as usize);
        Tally {
            counts: self.counts,
            orders: orders.into_iter().map(|((channel, order), n)| (channel, order, n)).collect(),
            every: self.every.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect(),
            spans: timed.map(Arrivals::span).collect(),
            timed: self.timed,
            last_ns: self.last_ns,
            bytes: self.bytes,
        }
    }
}

impl Arrivals {
    /// The latency of the first and of the last delivery, if there was any here.
    fn span(&self) -> Option<(u64, u64)> {
        let since_sent = |at_ns: u64| at_ns.saturating_sub(self.sent_ns);
        (self.count > 0).then(|| (since_sent(self.first_ns), since_sent(self.last_ns)))
    }
}

/// An empty histogram of latencies in nanoseconds, exact to three digits.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are in order")
}

/// The account of one process, or of several together.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    pub counts: Counts,
    /// Channel, folded order, and how many subscribers had it.
    orders: Vec<(u32, u64, u32)>,
    every: Vec<(u64, u64)>,
    spans: Vec<Option<(u64, u64)>>,
    /// Deliveries after the warm-up.
    pub timed: u64,
    /// When the last delivery arrived.
    pub last_ns: u64,
    /// Bytes that the subscribers read, once they were subscribed.
    pub bytes: u64,
}

impl Tally {
    /// Adds another process' account to this one.
    pub fn merge(&mut self, other: Tally) {
        self.counts += other.counts;
        self.orders.extend(other.orders);
        self.every.extend(other.every);
        self.spans.resize(self.spans.len().max(other.spans.len()), None);
        for (ours, theirs) in self.spans.iter_mut().zip(other.spans) {
            *ours = match (*ours, theirs) {
                (Some((first, last)), Some((first2, last2))) => Some((first.min(first2), last.max(last2))),
                (ours, theirs) => ours.or(theirs),
            };
        }
        self.timed += other.timed;
        self.last_ns = self.last_ns.max(other.last_ns);
        self.bytes += other.bytes;
    }

    /// Subscribers that saw another order than most subscribers of their channel.
    pub fn out_of_step(&self) -> u64 {
        let mut channels: BTreeMap<u32, BTreeMap<u64, u64>> = BTreeMap::new();
        for &(channel, order, n) in &self.orders {
            *channels.entry(channel).or_default().entry(order).or_default() += u64::from(n);
        }
        let minority =
            |orders: &BTreeMap<u64, u64>| orders.values().sum::<u64>() - orders.values().max().copied().unwrap_or(0);
        channels.values().map(minority).sum()
    }

    /// Latencies of the first, of every, and of the last subscriber of each publication.
    pub fn latencies(&self) -> [(&'static str, Histogram<u64>); 3] {
        let (mut first, mut every, mut last) = (latency_histogram(), latency_histogram(), latency_histogram());
        for &(latency, n) in &self.every {
            every.saturating_record_n(latency, n);
        }
        for &(first_ns, last_ns) in self.spans.iter().flatten() {
            first.saturating_record(first_ns);
            last.saturating_record(last_ns);
        }
        [("first", first), ("every", every), ("last", last)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Reach;

    const SIZE: usize = 50;

    fn ledger(lanes: u32, subscribers: usize) -> Ledger {
        let plan = Plan { lanes, channels: 1, batch: 1, reach: Reach::One };
        Ledger::new(Terms { plan, run: 7, size: SIZE, measured_from: 0 }, subscribers)
    }

    fn data(id: u32, sequence: u32) -> Vec<u8> {
        let mut data = Vec::new();
        Stamp { run: 7, id, sequence, sent_ns: 1_000 }.write(SIZE, &mut data);
        data
    }

    fn enter_all(ledger: &mut Ledger, subscriber: usize, sequences: &[u32]) {
        for &sequence in sequences {
            ledger.enter(subscriber, 0, &data(sequence, sequence), 5_000);
        }
    }

    #[test]
    fn what_comes_in_order_is_delivered() {
        let mut ledger = ledger(1, 1);
        enter_all(&mut ledger, 0, &[0, 1, 2]);
        let tally = ledger.tally(|_| 0);
        assert_eq!(tally.counts, Counts { delivered: 3, ..Counts::default() });
        assert_eq!(tally.latencies()[1].1.max(), 4_001);
    }

    #[test]
    fn a_repeat_is_a_duplicate_and_not_a_delivery() {
        let mut ledger = ledger(1, 1);
        enter_all(&mut ledger, 0, &[0, 1, 1, 0, 2]);
        assert_eq!(ledger.counts, Counts { delivered: 3, duplicated: 2, ..Counts::default() });
    }

    #[test]
    fn a_late_one_is_reordered_once_and_a_missing_one_stays_missing() {
        let mut ledger = ledger(1, 1);
        enter_all(&mut ledger, 0, &[0, 2, 1, 1, 5]);
        assert_eq!(ledger.counts, Counts { delivered: 4, duplicated: 1, reordered: 1, ..Counts::default() });
        assert_eq!(ledger.missing.len(), 2);
    }

    #[test]
    fn lanes_may_interleave_but_alike_for_everybody() {
        let mut ledger = ledger(2, 3);
        for (subscriber, ids) in [(0, [0, 1]), (1, [0, 1]), (2, [1, 0])] {
            for id in ids {
                ledger.enter(subscriber, 0, &data(id, 0), 5_000);
            }
        }
        let tally = ledger.tally(|_| 0);
        assert_eq!(tally.counts, Counts { delivered: 6, ..Counts::default() });
        assert_eq!(tally.out_of_step(), 1);
    }

    #[test]
    fn altered_foreign_and_misrouted_data_are_corrupt() {
        let mut ledger = ledger(1, 1);
        let mut altered = data(0, 0);
        altered[SIZE - 1] = b'!';
        assert_eq!(ledger.enter(0, 0, &altered, 5_000), Entry::Wrong);
        assert_eq!(ledger.enter(0, 0, &data(0, 0)[..SIZE - 1], 5_000), Entry::Wrong);
        assert_eq!(ledger.enter(0, 1, &data(0, 0), 5_000), Entry::Wrong);
        assert_eq!(ledger.counts, Counts { corrupt: 3, ..Counts::default() });
    }

    #[test]
    fn processes_are_added_up() {
        let mut whole = Tally::default();
        for sent in [2_000, 9_000] {
            let mut part = ledger(1, 1);
            part.enter(0, 0, &data(0, 0), sent);
            whole.merge(part.tally(|_| 0));
        }
        let [(_, first), (_, every), (_, last)] = whole.latencies();
        assert_eq!((first.max() / 10, every.len(), last.max() / 10), (100, 2, 800));
        assert_eq!((whole.counts.delivered, whole.out_of_step()), (2, 0));
    }
}
