//! Which lane sends which publication to which channel: arithmetic that the publisher and every receiver agree on, so that
//! a receiver can tell by itself what it should have got.
//!
//! Publications are counted from 0 (`id`). `batch` of them share a request; requests go to the lanes in turn, and each lane
//! (an HTTP connection with one request in flight) sends its own in order. Nothing orders two lanes: only within one is
//! order promised, and only there a sequence is kept.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How publications spread over lanes and channels.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Plan {
    pub lanes: u32,
    pub channels: u32,
    pub batch: u32,
    pub reach: Reach,
}

/// How many channels a publication goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// One, and they take turns.
    One,
    /// All of them.
    All,
}

impl Plan {
    pub fn lane(&self, id: u32) -> u32 {
        id / self.batch % self.lanes
    }

    /// The first channel that it goes to, whose sequence it has.
    pub fn channel(&self, id: u32) -> u32 {
        match self.reach {
            Reach::One => id % self.channels,
            Reach::All => 0,
        }
    }

    /// All channels that it goes to.
    pub fn channels_of(&self, id: u32) -> Range<u32> {
        match self.reach {
            Reach::One => self.channel(id)..self.channel(id) + 1,
            Reach::All => 0..self.channels,
        }
    }

    /// The place of a lane's sequence for a channel in an array with one for each.
    pub fn slot(&self, channel: u32, lane: u32) -> usize {
        (channel * self.lanes + lane) as usize
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.channels as usize * self.lanes as usize
    }

    /// How many publications each slot has had when lane `l` has sent all of its requests below `ends[l]`.
    pub fn published(&self, ends: &[u32]) -> Vec<u32> {
        let mut counts = vec![0; self.slots()];
        let end = ends.iter().max().copied().unwrap_or(0) * self.batch;
        for id in 0..end {
            let lane = self.lane(id);
            if id / self.batch < ends[lane as usize] {
                self.channels_of(id).for_each(|channel| counts[self.slot(channel, lane)] += 1);
            }
        }
        counts
    }

    /// The same, for each channel over all lanes.
    pub fn per_channel<'a>(&self, published: &'a [u32]) -> impl Iterator<Item = u64> + use<'a> {
        published.chunks(self.lanes as usize).map(|lanes| lanes.iter().map(|&n| u64::from(n)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_take_lanes_and_channels_in_turn() {
        let plan = Plan { lanes: 2, channels: 3, batch: 1, reach: Reach::One };
        let spread: Vec<_> = (0..6).map(|id| (plan.lane(id), plan.channel(id))).collect();
        assert_eq!(spread, [(0, 0), (1, 1), (0, 2), (1, 0), (0, 1), (1, 2)]);
    }

    #[test]
    fn a_batch_stays_in_one_lane() {
        let plan = Plan { lanes: 2, channels: 1, batch: 3, reach: Reach::One };
        let lanes: Vec<_> = (0..7).map(|id| plan.lane(id)).collect();
        assert_eq!(lanes, [0, 0, 0, 1, 1, 1, 0]);
        assert_eq!(plan.published(&[3, 2]), [6, 3]);
    }

    #[test]
    fn lanes_that_stopped_apart_are_counted_apart() {
        let plan = Plan { lanes: 2, channels: 1, batch: 1, reach: Reach::One };
        // Lane 0 has sent requests 0, 2, 4; lane 1 has sent 1.
        assert_eq!(plan.published(&[6, 3]), [3, 1]);
    }

    #[test]
    fn what_goes_to_all_channels_counts_on_each() {
        let plan = Plan { lanes: 2, channels: 3, batch: 1, reach: Reach::All };
        assert_eq!(plan.published(&[4, 3]), [2, 1, 2, 1, 2, 1]);
        assert_eq!((plan.channel(5), plan.channels_of(5)), (0, 0..3));
    }
}
