//! The last hour, minute by minute: so that "in which minute was it lost" has an answer.

use std::collections::{HashMap, VecDeque};

use super::check::first_parted;
use super::look::Look;
use super::report::{Minute, Part, Step};

/// Minutes that are known. A look takes a few hundred bytes for each part.
pub const MINUTES: usize = 60;

/// How long one is.
const MINUTE_MS: u64 = 60_000;

/// What the counts were at the end of each minute.
#[derive(Debug, Default)]
pub struct Minutes {
    /// The oldest first, with their times; one more than there are minutes.
    ends: VecDeque<(u64, Look)>,
}

impl Minutes {
    /// Takes in the look of now, if it is the first of a minute.
    pub fn note(&mut self, look: &Look, now_ms: u64, since_ms: u64) {
        let last_ms = self.ends.back().map_or(since_ms, |(ended_ms, _)| *ended_ms);
        if now_ms.saturating_sub(last_ms) >= MINUTE_MS {
            // Links that agree say nothing later, and parts to which nothing ever happened are like those that are not there.
            let told = |step: &&Step| match step {
                Step::Part(part) => !part.is_quiet(),
                Step::Link(link) => link.difference != 0,
            };
            let chain = look.chain.iter().filter(told).cloned().collect();
            self.ends.push_back((now_ms, Look { chain, done: look.done }));
            if self.ends.len() > MINUTES {
                self.ends.pop_front();
            }
        }
    }

    /// The last `n` minutes, the oldest first; the last of them ends now.
    pub fn last(&self, n: usize, look: &Look, now_ms: u64) -> Vec<Minute> {
        let (nothing, now) = (Look::default(), (now_ms, look));
        let all: Vec<(u64, &Look)> = self.ends.iter().map(|(ms, look)| (*ms, look)).chain([now]).collect();
        // The first minute of a ring that is full has nothing before it to be compared with.
        let from = all.len().saturating_sub(n).max(usize::from(self.ends.len() == MINUTES));
        let before = |at: usize| at.checked_sub(1).map_or(&nothing, |before| all[before].1);
        (from..all.len()).map(|at| minute(before(at), all[at])).collect()
    }
}

fn minute(before: &Look, (ended_ms, look): (u64, &Look)) -> Minute {
    let part = |step: &Step| match step {
        Step::Part(part) => Some(part.clone()),
        Step::Link(_) => None,
    };
    let before: HashMap<String, Part> =
        before.chain.iter().filter_map(|step| Some((step.name(), part(step)?))).collect();
    let happened = look.chain.iter().filter_map(|step| match step {
        Step::Part(part) => Some(Step::Part(part.since(before.get(&step.name())))),
        Step::Link(link) => (link.difference != 0).then(|| Step::Link(link.clone())),
    });
    let quiet = |step: &Step| matches!(step, Step::Part(part) if part.is_quiet());
    Minute { ended_ms, parted: first_parted(&look.chain), chain: happened.filter(|step| !quiet(step)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(came: u64, in_flight: u64) -> Look {
        let part = Part { part: "jobs".to_owned(), came, out: came - in_flight, in_flight, ..Part::default() };
        Look { chain: vec![Step::Part(part)], ..Look::default() }
    }

    fn counts(minute: &Minute) -> (u64, u64, u64) {
        match &minute.chain[..] {
            [] => (0, 0, 0),
            [Step::Part(Part { came, out, in_flight, .. })] => (*came, *out, *in_flight),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_minute_says_what_happened_in_it() {
        let mut minutes = Minutes::default();
        minutes.note(&look(3, 0), 30_000, 0);
        minutes.note(&look(10, 1), 60_000, 0);
        minutes.note(&look(10, 1), 61_000, 0);
        minutes.note(&look(15, 0), 120_000, 0);
        let last = minutes.last(10, &look(15, 0), 130_000);
        assert_eq!(last.iter().map(counts).collect::<Vec<_>>(), [(10, 9, 1), (5, 6, 0), (0, 0, 0)]);
        assert_eq!(last.iter().map(|minute| minute.ended_ms).collect::<Vec<_>>(), [60_000, 120_000, 130_000]);
        assert_eq!(minutes.last(1, &look(15, 0), 130_000).len(), 1);
    }

    #[test]
    fn an_hour_is_known_and_no_more() {
        let mut minutes = Minutes::default();
        (1..=200).for_each(|n| minutes.note(&look(n, 0), n * MINUTE_MS, 0));
        let last = minutes.last(usize::MAX, &look(200, 0), 200 * MINUTE_MS + 1);
        assert_eq!(last.len(), MINUTES);
        assert!(last[..MINUTES - 1].iter().all(|minute| counts(minute) == (1, 1, 0)));
    }
}
