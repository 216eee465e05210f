//! The naive model: everything that was ever sent on a channel, and who stayed there from when to when.
//!
//! It keeps no lists of members, no outboxes and no order of turns, so it is wrong in no way in which a shard can be.

use fanfare_hub::StreamPosition;
use fanfare_hub::shard::After;

/// One publication on a channel.
#[derive(Debug)]
pub struct Sent {
    pub id: usize,
    pub position: Option<StreamPosition>,
    pub version: Option<u64>,
    /// The number of the connection that it is kept from.
    pub except: Option<usize>,
    /// It tells of a gap.
    pub gap: bool,
}

impl Sent {
    /// Whether somebody who entered with `after` has it already.
    fn is_known(&self, after: After) -> bool {
        let stored = self.position.zip(after.stored);
        stored.is_some_and(|(own, seen)| own.epoch == seen.epoch && own.offset <= seen.offset)
            || self.version.zip(after.presence).is_some_and(|(own, seen)| own <= seen)
    }
}

/// One connection's time on a channel; both ends count the publications sent before.
#[derive(Debug)]
pub struct Stay {
    pub conn: usize,
    pub from: usize,
    pub to: Option<usize>,
    pub hold: bool,
    /// What lets it in.
    pub token: u32,
    /// Whether the connection has been told that it is subscribed.
    pub told: bool,
    pub after: After,
    pub ticks: u8,
    /// Publications before this one are compared with `after`.
    pub compared: usize,
}

impl Stay {
    pub fn new(conn: usize, from: usize, hold: bool, told: bool) -> Self {
        Stay { conn, from, to: None, hold, token: 0, told, after: After::default(), ticks: 0, compared: usize::MAX }
    }

    /// What this stay shows of `sent`, beginning at `start`; gaps not to those who are `deaf` to them.
    fn shown(&self, sent: &[Sent], start: usize, deaf: bool) -> Vec<usize> {
        let due = self.due(sent, start).filter(|index| !(sent[*index].gap && deaf));
        due.map(|index| sent[index].id).collect()
    }

    fn due(&self, sent: &[Sent], start: usize) -> impl Iterator<Item = usize> {
        (start..self.to.unwrap_or(sent.len())).filter(move |&index| {
            sent[index].except != Some(self.conn) && !(index < self.compared && sent[index].is_known(self.after))
        })
    }

    /// Whether somebody may have missed something who stayed until now.
    pub fn has_gap(&self, sent: &[Sent]) -> bool {
        self.to.is_none() && self.due(sent, self.from).any(|index| sent[index].gap)
    }

    /// Checks what was heard during this stay. A stay may begin with what was sent before it and not yet shown to those
    /// who were there; it may end anywhere once the connection has left or has been given up (not `whole`).
    pub fn check(&self, sent: &[Sent], heard: &[usize], whole: bool, deaf: bool, newest: bool) {
        let first = heard.first().and_then(|id| sent.iter().position(|sent| sent.id == *id));
        let due = self.shown(sent, first.map_or(self.from, |first| first.min(self.from)), deaf);
        let whole = whole && self.to.is_none();
        if newest {
            let mut rest = due.iter();
            assert!(heard.iter().all(|id| rest.any(|due| due == id)), "in order, nothing twice: {heard:?} of {due:?}");
            assert!(!whole || heard.last() == due.last(), "the newest is kept: {heard:?} of {due:?}");
        } else {
            assert!(due.starts_with(heard), "in order, no gap, nothing twice: {heard:?} of {due:?}");
            assert!(!whole || heard.len() == due.len(), "nothing is lost: {heard:?} of {due:?}");
        }
    }
}
