//! The judge: what one subscriber of one channel heard, against what was published there.
//!
//! Publications of a channel are numbered from 1. A number that is passed over is *lost* until the subscriber is told that
//! something may be missing: then it is *flagged*. A number that was passed over without a word and comes later is
//! *reordered*; one that was heard before is a *duplicate*, which clients recognise. After a reconnect that is no failure;
//! on one and the same connection it is *repeated*, unless the subscriber was told in between: a server that has lost what it
//! stored does not know either what was published before.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::AddAssign;

/// What was heard, by numbers of publications.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub delivered: u64,
    pub duplicate: u64,
    pub lost: u64,
    pub flagged: u64,
    pub reordered: u64,
    pub repeated: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.delivered += other.delivered;
        self.duplicate += other.duplicate;
        self.lost += other.lost;
        self.flagged += other.flagged;
        self.reordered += other.reordered;
        self.repeated += other.repeated;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { delivered, duplicate, lost, flagged, reordered, repeated } = self;
        write!(f, "delivered={delivered} duplicate={duplicate} lost={lost} flagged={flagged} ")?;
        write!(f, "reordered={reordered} repeated={repeated}")
    }
}

/// One channel, as one subscriber hears it.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Counts,
    /// The highest number that was heard.
    newest: u64,
    /// The highest number that was heard on the present connection, without a word since.
    newest_here: u64,
    /// Whether the subscriber was told that something may be missing behind `newest`.
    told: bool,
    /// Numbers that were passed over: without a word so far, and told of.
    lost: BTreeSet<u64>,
    flagged: BTreeSet<u64>,
}

impl Tally {
    /// The subscriber is told that something may be missing.
    pub fn flag(&mut self) {
        self.told = true;
        self.newest_here = 0;
        self.flagged.append(&mut self.lost);
    }

    /// What follows comes over another connection.
    pub fn connect(&mut self) {
        self.newest_here = 0;
    }

    /// The subscriber hears a publication.
    pub fn hear(&mut self, number: u64) {
        self.counts.repeated += u64::from(number <= self.newest_here);
        self.newest_here = self.newest_here.max(number);
        if number > self.newest {
            self.pass_over(number);
            self.newest = number;
            self.counts.delivered += 1;
        } else if self.lost.remove(&number) {
            self.counts.delivered += 1;
            self.counts.reordered += 1;
        } else if self.flagged.remove(&number) {
            self.counts.delivered += 1;
        } else {
            self.counts.duplicate += 1;
        }
    }

    /// Whether all up to this number is accounted for.
    pub fn is_done(&self, last: u64) -> bool {
        self.told || self.newest >= last
    }

    /// The counts, if the last publication had this number.
    pub fn counts(&self, last: u64) -> Counts {
        let missing = last.saturating_sub(self.newest);
        let (flagged, lost) = if self.told { (missing, 0) } else { (0, missing) };
        let of = |set: &BTreeSet<u64>| set.len() as u64;
        Counts { lost: of(&self.lost) + lost, flagged: of(&self.flagged) + flagged, ..self.counts }
    }

    /// Numbers that are missing without a word.
    pub fn lost(&self, last: u64) -> Vec<u64> {
        let end = if self.told { 0..0 } else { self.newest + 1..last + 1 };
        self.lost.iter().copied().chain(end).collect()
    }

    fn pass_over(&mut self, number: u64) {
        let told = std::mem::take(&mut self.told);
        let missing = self.newest + 1..number;
        if told { self.flagged.extend(missing) } else { self.lost.extend(missing) }
    }
}

#[test]
fn the_judge_tells_loss_from_what_was_flagged() {
    let heard = |words: &[Option<u64>], last| {
        let mut tally = Tally::default();
        for word in words {
            match word {
                Some(number) => tally.hear(*number),
                None => tally.flag(),
            }
        }
        let Counts { delivered, duplicate, lost, flagged, reordered, .. } = tally.counts(last);
        [delivered, duplicate, lost, flagged, reordered]
    };
    assert_eq!(heard(&[Some(1), Some(2), Some(3)], 3), [3, 0, 0, 0, 0]);
    assert_eq!(heard(&[Some(1), Some(1), Some(2)], 2), [2, 1, 0, 0, 0]);
    assert_eq!(heard(&[Some(1), Some(4)], 4), [2, 0, 2, 0, 0]);
    assert_eq!(heard(&[Some(1), None, Some(4)], 4), [2, 0, 0, 2, 0]);
    assert_eq!(heard(&[Some(1), None, Some(1), Some(3), Some(5)], 5), [3, 1, 1, 1, 0], "a word excuses one hole");
    assert_eq!(heard(&[Some(1), Some(3), Some(2)], 3), [3, 0, 0, 0, 1]);
    assert_eq!(heard(&[Some(1), Some(3), None, Some(4)], 4), [3, 0, 0, 1, 0], "told late is told");
    assert_eq!(heard(&[Some(1), None, Some(3), Some(2)], 3), [3, 0, 0, 0, 0], "who was told may hear it after all");
    assert_eq!(heard(&[Some(1), Some(2)], 5), [2, 0, 3, 0, 0], "nothing more came");
    assert_eq!(heard(&[Some(1), Some(2), None], 5), [2, 0, 0, 3, 0]);
}

#[test]
fn the_judge_excuses_repeats_after_a_reconnect_or_a_word() {
    let mut tally = Tally::default();
    (1..3).for_each(|number| tally.hear(number));
    tally.connect();
    (1..3).for_each(|number| tally.hear(number));
    tally.flag();
    (1..3).for_each(|number| tally.hear(number));
    assert_eq!(tally.counts(2).repeated, 0);
    (1..4).for_each(|number| tally.hear(number));
    assert_eq!(tally.counts(3).repeated, 2);
}
