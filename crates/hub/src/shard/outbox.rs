//! What a connection is still owed: a chain of shared bytes, out of a pool that all connections of a loop share.
//!
//! An idle connection pays twelve bytes for it. Nothing is copied into an outbox: each link points at bytes that every
//! other subscriber shares.

use std::io::IoSlice;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::slots::Slots;

const NONE: u32 = u32::MAX;

/// Links that one write may join: as many as the kernel copies onto its stack (`UIO_FASTIOV`) times eight.
const JOINED_MAX: usize = 64;

/// The channel number of messages to one connection only.
pub(super) const UNICAST: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Link {
    bytes: Bytes,
    /// Publications in it, counted when its last byte is taken.
    deliveries: u32,
    /// The serial of the channel that it came from.
    channel: u32,
    started: bool,
    next: u32,
}

/// The pool of links.
pub(super) type Links = Slots<Link>;

/// One connection's chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outbox {
    head: u32,
    tail: u32,
    bytes: u32,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox { head: NONE, tail: NONE, bytes: 0 }
    }
}

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.head == NONE
    }

    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Adds to the end. `started`: some of it has been written already, so it can no longer be dropped.
    pub fn push(&mut self, links: &mut Links, bytes: Bytes, deliveries: u32, channel: u32, started: bool) {
        self.bytes += bytes.len() as u32;
        let (number, _) = links.insert(Link { bytes, deliveries, channel, started, next: NONE });
        match links.get_mut(self.tail) {
            Some(tail) => tail.next = number,
            None => self.head = number,
        }
        self.tail = number;
    }

    /// The first links, for one write.
    pub fn front<'a>(&self, links: &'a Links) -> SmallVec<[IoSlice<'a>; 4]> {
        let mut parts = SmallVec::new();
        let mut at = self.head;
        while let Some(link) = links.get(at).filter(|_| parts.len() < JOINED_MAX) {
            parts.push(IoSlice::new(&link.bytes));
            at = link.next;
        }
        parts
    }

    /// Takes `n` written bytes off the front; returns the publications that are now written whole.
    pub fn advance(&mut self, links: &mut Links, mut n: usize) -> u64 {
        let mut deliveries = 0;
        while n > 0 {
            let link = links.get_mut(self.head).expect("no more is written than was queued");
            let taken = n.min(link.bytes.len());
            link.bytes.advance(taken);
            link.started = true;
            n -= taken;
            self.bytes -= taken as u32;
            if link.bytes.is_empty() {
                deliveries += self.pop(links);
            }
        }
        deliveries
    }

    /// Drops what is queued of one channel and not yet begun; returns how many publications that were.
    pub fn drop_channel(&mut self, links: &mut Links, channel: u32) -> u64 {
        let mut kept = Outbox::default();
        let mut dropped = 0;
        while let Some(link) = links.remove(self.head) {
            self.head = link.next;
            if link.channel == channel && !link.started {
                dropped += u64::from(link.deliveries);
            } else {
                kept.push(links, link.bytes, link.deliveries, link.channel, link.started);
            }
        }
        *self = kept;
        dropped
    }

    /// Drops everything; returns how many publications that were.
    pub fn clear(&mut self, links: &mut Links) -> u64 {
        let mut dropped = 0;
        while !self.is_empty() {
            dropped += self.pop(links);
        }
        *self = Outbox::default();
        dropped
    }

    fn pop(&mut self, links: &mut Links) -> u64 {
        let link = links.remove(self.head).expect("the head is a link");
        self.head = link.next;
        if self.head == NONE {
            self.tail = NONE;
        }
        u64::from(link.deliveries)
    }
}
