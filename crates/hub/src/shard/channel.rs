//! One loop's slice of a channel: its subscribers, and what they are still to be shown.
//!
//! While a batch is walked, `members` has three parts: visited, to visit, and joined since. A subscriber who leaves in the
//! middle of a walk must not move an unvisited one into the visited part, or that one would miss the batch; hence
//! `remove` moves up to three entries instead of swapping with the last.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::ConnKey;
use crate::broker::StreamPosition;
use crate::hold::held;
use crate::key::ChannelKey;
use crate::publication::{Form, Frames};

/// Excluded sockets that one batch may name: each is compared with every subscriber.
const EXCEPTS_MAX: usize = 8;

/// Bytes that are joined into one write. More would only be copied to wait in the kernel.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Set in `Member::place` while the subscription is catching up.
const CATCHING_UP: u32 = 1 << 31;

/// A subscriber in a channel's list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub conn: u32,
    /// Where the connection's own list names this channel.
    place: u32,
}

impl Member {
    pub fn new(conn: u32, place: usize, catching_up: bool) -> Self {
        let place = u32::try_from(place).expect("a connection has fewer than 2^31 subscriptions");
        Member { conn, place: if catching_up { place | CATCHING_UP } else { place } }
    }

    pub fn place(self) -> usize {
        (self.place & !CATCHING_UP) as usize
    }

    pub fn move_to(&mut self, place: usize) {
        *self = Member::new(self.conn, place, self.catching_up());
    }

    pub fn catching_up(self) -> bool {
        self.place & CATCHING_UP != 0
    }

    pub fn caught_up(&mut self) {
        self.place &= !CATCHING_UP;
    }
}

/// What a channel is for as long as this loop holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// Its subscribers are members that others see.
    pub presence: bool,
    /// Its subscribers are told how many they are.
    pub announce: bool,
    /// A subscriber whose outbox is full keeps the newest publications instead of being closed.
    pub newest: bool,
}

/// One loop's slice of a channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub key: ChannelKey,
    pub app: u32,
    /// Names this channel in outboxes; unlike the slot it is not used again soon.
    pub serial: u32,
    pub traits: Traits,
    /// Whether the gate is open: until then nobody is subscribed, and nothing is walked.
    pub open: bool,
    /// Whether the control plane is still to be told of a change of `members.len()`.
    pub changed: bool,
    /// Whether it stands in the rotation.
    pub active: bool,
    members: Vec<Member>,
    visited: usize,
    visit_end: usize,
    walk: Option<Batch>,
    pending: Vec<Arc<Frames>>,
    /// The newest stored publication that a walk has begun to show: whoever joins now is shown what follows it.
    begun: Option<StreamPosition>,
    /// Pollers that have had their answer and are expected back: counted lately, and before that.
    resting: [u32; 2],
    /// Whether it stands in the list of channels where pollers rest.
    pub rests: bool,
}

impl Channel {
    pub fn new(key: ChannelKey, app: u32, serial: u32, traits: Traits) -> Self {
        Channel {
            key,
            app,
            serial,
            traits,
            open: false,
            changed: false,
            active: false,
            members: Vec::new(),
            visited: 0,
            visit_end: 0,
            walk: None,
            pending: Vec::new(),
            begun: None,
            resting: [0; 2],
            rests: false,
        }
    }

    /// Subscribers, those included that rest between two polls.
    pub fn subscribers(&self) -> u32 {
        self.members.len() as u32 + self.resting.iter().sum::<u32>()
    }

    /// Where a newcomer's live messages begin, as far as is known.
    pub fn begun(&self) -> Option<StreamPosition> {
        self.begun
    }

    /// One more that rests.
    pub fn rest(&mut self) {
        self.resting[0] += 1;
    }

    /// One of those who rest is back, if anybody does: the one who has rested longest.
    pub fn wake(&mut self) -> bool {
        let waiting = self.resting.iter_mut().rev().find(|n| **n > 0);
        waiting.map(|n| *n -= 1).is_some()
    }

    /// Gives up those who have rested for a whole period; returns how many, and whether others rest still.
    pub fn age(&mut self) -> (u32, bool) {
        let [fresh, stale] = self.resting;
        self.resting = [0, fresh];
        (stale, fresh > 0)
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member_mut(&mut self, index: u32) -> &mut Member {
        &mut self.members[index as usize]
    }

    pub fn push(&mut self, member: Member) -> u32 {
        self.members.push(member);
        u32::try_from(self.members.len() - 1).expect("fewer than 2^32 subscribers fit in a loop")
    }

    /// Removes a subscriber; `moved(member, index)` is told of each other one that now stands elsewhere.
    pub fn remove(&mut self, index: u32, mut moved: impl FnMut(Member, u32)) {
        let mut hole = index as usize;
        let mut fill = |members: &mut Vec<Member>, hole: &mut usize, from: usize| {
            if *hole != from {
                members[*hole] = members[from];
                moved(members[*hole], *hole as u32);
            }
            *hole = from;
        };
        if hole < self.visited {
            self.visited -= 1;
            fill(&mut self.members, &mut hole, self.visited);
        }
        if hole < self.visit_end {
            self.visit_end -= 1;
            fill(&mut self.members, &mut hole, self.visit_end);
        }
        let last = self.members.len() - 1;
        fill(&mut self.members, &mut hole, last);
        self.members.pop();
        if self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
    }

    pub fn publish(&mut self, frames: Arc<Frames>) {
        self.pending.push(frames);
    }

    /// Whether there is anything that subscribers are still to be shown.
    pub fn has_work(&self) -> bool {
        self.walk.is_some() || !self.pending.is_empty()
    }

    /// The batch being walked; begins one with all that is pending when there is none.
    pub fn batch(&mut self, salt: u64) -> Option<Batch> {
        if self.walk.is_none() {
            self.walk = Batch::take(&mut self.pending, salt);
            let newest = self.walk.iter().flat_map(|batch| batch.frames()).rev().find_map(|frames| frames.position());
            self.begun = newest.or(self.begun);
            self.visited = 0;
            self.visit_end = self.members.len();
        }
        self.walk.clone()
    }

    /// The next subscriber to visit, its index, and its visit counted as made.
    pub fn next(&mut self) -> Option<(u32, Member)> {
        if self.visited >= self.visit_end {
            return None;
        }
        self.visited += 1;
        Some((self.visited as u32 - 1, self.members[self.visited - 1]))
    }

    /// Ends the walk if everybody has been visited.
    pub fn end_walk(&mut self) {
        if self.visited >= self.visit_end {
            self.walk = None;
            self.visited = 0;
            self.visit_end = 0;
        }
    }
}

/// What one walk shows to every subscriber: all that was pending when it began, joined into one write.
#[derive(Clone, Debug)]
pub(super) struct Batch(std::rc::Rc<Joined>);

#[derive(Debug)]
struct Joined {
    frames: SmallVec<[Arc<Frames>; 1]>,
    excepts: SmallVec<[ConnKey; 2]>,
    salt: u64,
    /// By form.
    bytes: Box<[OnceCell<Bytes>]>,
}

impl Batch {
    fn take(pending: &mut Vec<Arc<Frames>>, salt: u64) -> Option<Batch> {
        let mut excepts = SmallVec::new();
        let mut bytes = 0;
        let mut n = 0;
        for frames in pending.iter() {
            bytes += frames.publication().data.len();
            if n > 0 && (bytes > BATCH_BYTES_MAX || excepts.len() == EXCEPTS_MAX || frames.is_gap()) {
                break;
            }
            n += 1;
            // A gap stands alone: some have to be told of it in their own way.
            if frames.is_gap() {
                break;
            }
            excepts.extend(except_here(frames, salt).filter(|conn| !excepts.contains(conn)));
        }
        let frames: SmallVec<[Arc<Frames>; 1]> = pending.drain(..n).collect();
        if pending.is_empty() && pending.capacity() > 64 {
            *pending = Vec::new();
        }
        let forms = frames.first()?.encoder().forms();
        let bytes = std::iter::repeat_with(OnceCell::new).take(forms).collect();
        Some(Batch(Joined { frames, excepts, salt, bytes }.into()))
    }

    pub fn frames(&self) -> &[Arc<Frames>] {
        &self.0.frames
    }

    /// The same bytes for every subscriber that takes this form.
    pub fn bytes(&self, form: Form) -> &Bytes {
        self.0.bytes[usize::from(form.0)].get_or_init(|| match self.0.frames.as_slice() {
            [only] => only.owed(form),
            many => held(many[0].encoder().join(form, many), many.iter().filter_map(|frames| frames.hold())),
        })
    }

    /// Whether some publication of the batch excludes this connection.
    pub fn excludes(&self, conn: ConnKey) -> bool {
        self.0.excepts.contains(&conn)
    }

    /// The publications that this connection is to see.
    pub fn frames_for(&self, conn: ConnKey) -> impl Iterator<Item = &Arc<Frames>> {
        self.0.frames.iter().filter(move |frames| except_here(frames, self.0.salt) != Some(conn))
    }
}

/// The connection that a publication excludes, if it is one of this loop's: socket ids of a loop begin with its salt.
fn except_here(frames: &Frames, salt: u64) -> Option<ConnKey> {
    frames.publication().except.filter(|socket| socket.a == salt).map(|socket| ConnKey::from_bits(socket.b))
}
