//! Whether the sums agree, and since when they do not.
//!
//! A part is compared with itself: its numbers are of one moment. Of a link, the two ends are not: everything goes on while
//! they are read. So two looks are taken, a moment apart. What had gone out by the first must have come in by the second,
//! unless it is known to be under way; and what had come in by the first must have gone out by the second. What is left
//! over is missing for certain, or comes from nowhere, however busy the server is.
//!
//! A moment may be too short where a disk or a CPU is overloaded: only what [`LOOKS`] looks in a row say is a difference, and
//! it is the least that any of them says. It is over when both ends agree while nothing moves, and not before: under load a
//! small difference cannot be seen, neither that it is there nor that it is not.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::look::Look;
use super::report::{Link, Parted, Step};

/// Looks that have to agree that something is missing.
pub const LOOKS: usize = 5;

/// What one pair of looks says about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The sums agree.
    Agree,
    /// Too much is going on to say.
    Busy,
    /// So many are missing; negative: too many.
    Differ(i64),
}

/// What is known of each step; empty at first.
#[derive(Debug, Default)]
pub struct Checks(BTreeMap<String, Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// What the last looks said, all of one sign.
    differences: VecDeque<i64>,
    /// What has been found; 0: nothing.
    found: i64,
}

impl Checks {
    /// Compares two looks, and writes what was found into the second. Answers how many comparisons that were.
    pub fn compare(&mut self, first: &Look, second: &mut Look) -> usize {
        let before: HashMap<String, &Step> = first.chain.iter().map(|step| (step.name(), step)).collect();
        let mut seen = std::mem::take(&mut self.0);
        let mut compared = 0;
        for step in &mut second.chain {
            let name = step.name();
            let Some(verdict) = before.get(&name).and_then(|before| judge(before, step)) else { continue };
            compared += 1;
            let mut known = seen.remove(&name).unwrap_or_default();
            known.heed(verdict);
            step.set_difference(known.found);
            self.0.insert(name, known);
        }
        compared
    }
}

/// The first step of a chain whose sums part.
pub fn first_parted(chain: &[Step]) -> Option<Parted> {
    let step = chain.iter().find(|step| step.difference() != 0)?;
    Some(Parted { at: step.name(), difference: step.difference() })
}

impl Seen {
    fn heed(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Agree => *self = Seen::default(),
            Verdict::Busy => self.differences.clear(),
            Verdict::Differ(difference) => {
                if self.differences.front().is_some_and(|before| before.signum() != difference.signum()) {
                    self.differences.clear();
                }
                self.differences.push_back(difference);
                if self.differences.len() > LOOKS {
                    self.differences.pop_front();
                }
                if self.differences.len() == LOOKS {
                    let least = self.differences.iter().min_by_key(|difference| difference.abs());
                    self.found = *least.expect("there are some");
                }
            }
        }
    }
}

/// `None` where the two are not to be compared.
fn judge(first: &Step, second: &Step) -> Option<Verdict> {
    match (first, second) {
        (Step::Part(_), Step::Part(part)) => Some(match part.imbalance() {
            0 => Verdict::Agree,
            difference => Verdict::Differ(difference),
        }),
        (Step::Link(first), Step::Link(second)) => Some(judge_link(first, second)),
        _ => None,
    }
}

fn judge_link(first: &Link, second: &Link) -> Verdict {
    let under_way = first.under_way.max(second.under_way);
    let missing = first.sent.saturating_sub(second.came + under_way);
    let too_many = first.came.saturating_sub(second.sent_max);
    match (missing, too_many) {
        (0, 0) if second.sent <= first.came && first.came <= second.sent_max => Verdict::Agree,
        (0, 0) => Verdict::Busy,
        (0, too_many) => Verdict::Differ(-(too_many as i64)),
        (missing, _) => Verdict::Differ(missing as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Part;
    use super::*;

    fn link(sent: u64, came: u64, under_way: u64) -> Step {
        let (from, to) = ("put".to_owned(), "jobs".to_owned());
        Step::Link(Link { from, to, sent, sent_max: sent, came, under_way, ..Link::default() })
    }

    fn part(name: &str, came: u64, out: u64, in_flight: u64) -> Step {
        Step::Part(Part { part: name.to_owned(), came, out, in_flight, ..Part::default() })
    }

    fn look(chain: impl IntoIterator<Item = Step>) -> Look {
        Look { chain: chain.into_iter().collect(), ..Look::default() }
    }

    /// What is found after these pairs of looks at one step.
    fn found(pairs: impl IntoIterator<Item = (Step, Step)>) -> i64 {
        let (mut checks, mut found) = (Checks::default(), 0);
        for (first, second) in pairs {
            let mut second = look([second]);
            assert_eq!(checks.compare(&look([first]), &mut second), 1);
            found = second.chain[0].difference();
        }
        found
    }

    #[test]
    fn what_is_missing_is_found_after_some_looks() {
        let missing = || (link(10, 7, 0), link(10, 7, 0));
        assert_eq!(found((1..LOOKS).map(|_| missing())), 0);
        assert_eq!(found((0..LOOKS).map(|_| missing())), 3);
        assert_eq!(found((0..LOOKS).map(|_| (link(7, 10, 0), link(7, 10, 0)))), -3);
        assert_eq!(found((0..LOOKS).map(|_| (part("a", 10, 7, 1), part("a", 10, 7, 1)))), 2);
    }

    #[test]
    fn it_is_found_under_load_once_it_is_more_than_passes_between_two_looks() {
        // 100 pass between two looks, and another five do not arrive.
        let pair = |n: u64| {
            let (sent, lost) = (n * 1000, n * 5);
            (link(sent, sent - lost, 0), link(sent + 100, sent + 100 - lost, 0))
        };
        assert_eq!(found((0..20).map(pair)), 0);
        let least = 25 * 5 - 100;
        assert_eq!(found((0..25 + LOOKS as u64).map(pair)), least);
    }

    #[test]
    fn what_goes_on_is_no_difference() {
        // Upstream is read first or last, and what is under way is counted too late or too early.
        let pairs = (0..1000).map(|n: u64| {
            let sent = n * 977;
            let held = n % 13;
            (link(sent, sent - held.min(sent), held), link(sent + 40, sent + 40 - held.min(sent), 13))
        });
        assert_eq!(found(pairs), 0);
    }

    #[test]
    fn what_may_have_gone_out_is_not_too_many() {
        let unheard = |came| match link(10, came, 0) {
            Step::Link(link) => Step::Link(Link { sent_max: 12, ..link }),
            part => part,
        };
        for came in 10..=12 {
            assert_eq!(found((0..10).map(|_| (unheard(came), unheard(came)))), 0);
        }
        assert_eq!(found((0..10).map(|_| (unheard(13), unheard(13)))), -1);
    }

    #[test]
    fn one_slow_look_is_no_difference() {
        let slow = || (link(10, 7, 0), link(10, 7, 0));
        let well = || (link(10, 10, 0), link(10, 10, 0));
        assert_eq!(found((0..40).map(|n| if n % 4 == 3 { well() } else { slow() })), 0);
    }

    #[test]
    fn a_difference_stays_until_both_ends_agree() {
        let missing = || (0..LOOKS).map(|_| (link(10, 7, 0), link(10, 7, 0)));
        assert_eq!(found(missing().chain([(link(10, 7, 0), link(90, 87, 0))])), 3);
        assert_eq!(found(missing().chain([(link(10, 10, 0), link(10, 10, 0))])), 0);
    }

    #[test]
    fn the_first_step_where_sums_part_is_named() {
        let mut checks = Checks::default();
        let parted = || look([part("a", 5, 5, 0), link(5, 4, 0), part("jobs", 4, 3, 0)]);
        let mut second = parted();
        for _ in 0..LOOKS {
            second = parted();
            checks.compare(&parted(), &mut second);
        }
        let parted = first_parted(&second.chain).expect("they part");
        assert_eq!(parted.to_string(), "put → jobs: 1 missing");
        assert_eq!(second.chain[2].difference(), 1);
    }
}
