//! A turn: channels shown to their subscribers in slices, then the outboxes of those who are owed more than one write.
//!
//! - A subscriber of one channel gets the batch written straight from shared bytes; nothing is kept for it unless its
//!   socket is full.
//! - A subscriber of several channels that are active at the same time collects them in its outbox, and is written to
//!   once at the end of the turn.
//! - A giant channel gives way after `SLICE` subscribers, so that the loop can serve sockets, mail and other apps.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::channel::{Batch, Member};
use super::{CATCH_UP_BYTES_MAX, ConnKey, Doom, Shard};
use crate::publication::Frames;

/// Subscribers shown to in one turn. A prototype lost no throughput with 64 to 256; a lone subscriber beside a channel of
/// 5,000 has p99 of 2 to 3 ms with this (docs/benchmarks.md, "Tenants").
const SLICE: u32 = 128;

/// Outboxes written in one turn.
const FLUSH: usize = 256;

/// Bytes after which a turn writes no further outbox: whoever comes back has much to be told, and a crowd of them must not
/// hold up the others.
const FLUSH_BYTES: usize = 256 << 10;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The socket took this many bytes; fewer than offered means that it is full until [`Shard::writable`].
    Took(usize),
    /// The connection is gone.
    Broken,
}

/// What a connection is written on: a socket of its loop.
pub trait Wire {
    /// Offers bytes, without waiting.
    fn write(&mut self, parts: &[IoSlice<'_>]) -> Sent;

    /// Whether it takes one batch and then nothing until it is asked to listen again: a long-poll. Once it has been shown
    /// something it is named by [`Shard::take_answered`].
    fn once(&self) -> bool {
        false
    }
}

impl<W: Wire> Shard<W> {
    /// Does a bounded piece of work; returns whether there is more. Serve sockets and mail in between.
    pub fn turn(&mut self) -> bool {
        // What was dirty before this turn leaves with it; what it makes dirty may be joined by the next one.
        let mut due = self.dirty.len();
        let mut budget = SLICE;
        while budget > 0 {
            let Some(number) = self.rotation.pop() else { break };
            self.walk(number, &mut budget);
        }
        if self.rotation.is_empty() {
            due = self.dirty.len();
        }
        let mut written = 0;
        for _ in 0..due.min(FLUSH) {
            let Some(key) = (written < FLUSH_BYTES).then(|| self.dirty.pop_front()).flatten() else { break };
            written += self.conn(key).map_or(0, |conn| conn.outbox.bytes());
            self.flush_dirty(key);
        }
        self.has_work()
    }

    /// Whether a turn would do anything.
    pub fn has_work(&self) -> bool {
        !self.rotation.is_empty() || !self.dirty.is_empty()
    }

    /// The socket of a connection takes bytes again.
    pub fn writable(&mut self, key: ConnKey) {
        if self.conn(key).is_none() {
            return;
        }
        let conn = self.conns.get_mut(key.slot).expect("looked up above");
        if std::mem::take(&mut conn.full) && !conn.outbox.is_empty() {
            self.flush(key.slot);
        }
    }

    fn flush_dirty(&mut self, key: ConnKey) {
        // The slot may have another holder by now, who has marks of its own.
        if self.conn(key).is_some() {
            let conn = self.conns.get_mut(key.slot).expect("looked up above");
            conn.dirty = false;
            self.flush(key.slot);
        }
    }

    pub(super) fn flush(&mut self, slot: u32) {
        loop {
            let conn = self.conns.get_mut(slot).expect("the caller looked it up");
            if conn.doomed || conn.outbox.is_empty() {
                return;
            }
            let parts = conn.outbox.front(&self.links);
            let offered: usize = parts.iter().map(|part| part.len()).sum();
            match conn.wire.write(&parts) {
                Sent::Took(n) => {
                    drop(parts);
                    let written = conn.outbox.advance(&mut self.links, n);
                    self.ledger.written += written;
                    self.ledger.queued -= written;
                    if n < offered {
                        conn.full = true;
                        return;
                    }
                }
                Sent::Broken => {
                    drop(parts);
                    return self.doom(slot, Doom::Broken);
                }
            }
        }
    }

    /// Shows a channel's batch to at most `budget` subscribers.
    fn walk(&mut self, number: u32, budget: &mut u32) {
        let salt = self.salt;
        let channel = self.channels.get_mut(number).expect("an active channel is kept");
        channel.active = false;
        // Alone on the floor: nothing would be gained by collecting.
        let straight = self.rotation.is_empty();
        if let Some(batch) = channel.batch(salt) {
            let (serial, newest) = (channel.serial, channel.traits.newest);
            let to = Showing { batch, number, serial, newest, straight };
            while *budget > 0 {
                let Some((_, member)) = self.channels.get_mut(number).expect("kept while it is walked").next() else {
                    break;
                };
                *budget -= 1;
                self.visit(&to, member);
            }
        }
        self.channels.get_mut(number).expect("kept while it is walked").end_walk();
        self.activate(number);
        self.drop_if_empty(number);
    }

    fn visit(&mut self, to: &Showing, member: Member) {
        let slot = member.conn;
        if member.catching_up() {
            return self.visit_catching_up(to, slot);
        }
        let generation = self.conns.generation(slot).expect("a member's slot exists");
        if to.batch.excludes(ConnKey { slot, generation }) {
            for frames in to.batch.frames_for(ConnKey { slot, generation }) {
                self.show(slot, to.number, frames);
            }
            return;
        }
        let conn = self.conns.get_mut(slot).expect("a member is open");
        let bytes = to.batch.bytes(conn.form);
        let deliveries = to.batch.frames().len() as u32;
        // No bytes: it is not for those who take this form.
        if conn.doomed || conn.answered || bytes.is_empty() {
            if to.batch.frames()[0].is_gap() {
                self.cannot_tell(ConnKey { slot, generation });
            }
            return;
        }
        if conn.wire.once() {
            conn.answered = true;
            self.answered.push(ConnKey { slot, generation });
        }
        if !conn.outbox.is_empty() || (conn.subs.len() > 1 && !to.straight) {
            return self.owe(slot, bytes.clone(), deliveries, to.serial, to.newest);
        }
        self.ledger.owed += u64::from(deliveries);
        match conn.wire.write(&[IoSlice::new(bytes)]) {
            Sent::Took(n) if n == bytes.len() => self.ledger.written += u64::from(deliveries),
            Sent::Took(n) => {
                conn.full = true;
                let mut rest = bytes.clone();
                rest.advance(n);
                self.push_rest(slot, rest, deliveries, to.serial, n > 0);
            }
            Sent::Broken => {
                self.ledger.dropped_closed += u64::from(deliveries);
                self.doom(slot, Doom::Broken);
            }
        }
    }

    fn visit_catching_up(&mut self, to: &Showing, slot: u32) {
        let generation = self.conns.generation(slot).expect("a member's slot exists");
        for frames in to.batch.frames_for(ConnKey { slot, generation }) {
            let Some(state) = self.catching_up.get_mut(&(slot, to.number)) else {
                self.show(slot, to.number, frames);
                continue;
            };
            if state.entered() {
                self.show(slot, to.number, frames);
            } else if state.hold(frames) > CATCH_UP_BYTES_MAX {
                self.doom(slot, Doom::SlowConsumer);
            }
        }
    }

    /// Shows one publication to one subscriber, unless it has it already.
    pub(super) fn show(&mut self, slot: u32, number: u32, frames: &Arc<Frames>) {
        if let Some(state) = self.catching_up.get(&(slot, number)) {
            let (show, caught_up) = state.judge(frames);
            if caught_up {
                self.caught_up(slot, number);
            }
            if !show {
                return;
            }
        }
        let generation = self.conns.generation(slot).expect("the caller holds a slot");
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| !conn.doomed && !conn.answered) else { return };
        let bytes = frames.owed(conn.form);
        if bytes.is_empty() {
            if frames.is_gap() {
                self.cannot_tell(ConnKey { slot, generation });
            }
            return;
        }
        if conn.wire.once() {
            conn.answered = true;
            self.answered.push(ConnKey { slot, generation });
        }
        let channel = self.channels.get(number).expect("a subscription's channel exists");
        self.owe(slot, bytes, 1, channel.serial, channel.traits.newest);
    }

    /// Something may be missing, and there is no message that says so in this connection's form.
    fn cannot_tell(&mut self, key: ConnKey) {
        let conn = self.conns.get_mut(key.slot).expect("the caller looked it up");
        if !conn.doomed && !conn.answered && !std::mem::replace(&mut conn.gapped, true) {
            self.gapped.push(key);
        }
    }

    fn owe(&mut self, slot: u32, bytes: Bytes, deliveries: u32, serial: u32, newest: bool) {
        self.ledger.owed += u64::from(deliveries);
        if self.make_room(slot, bytes.len(), serial, newest) {
            self.push(slot, bytes, deliveries, serial);
        } else {
            self.ledger.dropped_slow += u64::from(deliveries);
            self.doom(slot, Doom::SlowConsumer);
        }
    }
}

/// What is being shown, and how.
struct Showing {
    batch: Batch,
    number: u32,
    serial: u32,
    newest: bool,
    /// Write at once, even to those who are on several channels.
    straight: bool,
}
