//! One loop's share of the hub: its connections, their subscriptions, and what they are owed.
//!
//! Owned by one thread, so nothing here locks. Nothing here touches a socket or a clock either: callers hand in mail, bytes
//! and ticks, a [`Wire`] to write on, and get back which connections to close.
//!
//! Always true (`tests/model` compares with a naive model under random actions):
//! - a connection is in a channel's `members` exactly when the channel is in its `subs`, each naming the other's place;
//! - a connection is on the dirty list when its outbox is not empty and its socket is not known to be full;
//! - the ledger balances: owed = written + dropped + what lies in outboxes.
//!
//! Not here: encoding (`publication`), who is present across nodes (`presence`), what a client may do (the server).

mod catch_up;
mod channel;
mod outbox;
mod rotation;
mod walk;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use smallvec::SmallVec;

pub use catch_up::After;
pub use channel::Traits;
pub use walk::{Sent, Wire};

use crate::broker::StreamPosition;
use crate::key::ChannelKey;
use crate::publication::{Form, Frames, Kind};
use crate::slots::Slots;
use catch_up::CatchUp;
use channel::{Channel, Member};
use outbox::{Links, Outbox, UNICAST};
use rotation::Rotation;

/// Bytes held for a subscription that is catching up; beyond it the connection is closed as a slow consumer.
const CATCH_UP_BYTES_MAX: usize = 1 << 20;

/// Ticks in which a poller that had its answer must be back to count as a subscriber all along; it has up to twice as many.
const REST_TICKS: u32 = 10;

/// A connection of one loop: its slot, and which holder of that slot it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// The slot's number.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
}

impl ConnKey {
    /// Both in one number: the second half of the connection's socket id.
    pub fn bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The connection that [`ConnKey::bits`] names.
    pub fn from_bits(bits: u64) -> Self {
        ConnKey { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// Why the shard wants a connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doom {
    /// It does not read as fast as it is sent to.
    SlowConsumer,
    /// Its user was told to go (`terminate_connections`).
    Terminated,
    /// Its socket failed.
    Broken,
}

/// Publications × subscribers, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Publications that arrived by mail.
    pub publications: u64,
    /// Deliveries that became due.
    pub owed: u64,
    /// Deliveries that the kernel has taken whole.
    pub written: u64,
    /// Deliveries dropped because a connection closed first.
    pub dropped_closed: u64,
    /// Deliveries dropped because a connection was closed as a slow consumer.
    pub dropped_slow: u64,
    /// Deliveries dropped for newer ones, where a channel's rule says so.
    pub dropped_older: u64,
    /// Deliveries that wait in outboxes, counted there.
    pub queued: u64,
}

impl Ledger {
    /// Deliveries that wait in outboxes, as the others leave them: as many as are `queued`.
    pub fn in_flight(&self) -> u64 {
        self.owed - self.written - self.dropped_closed - self.dropped_slow - self.dropped_older
    }
}

#[derive(Debug)]
struct Conn<W> {
    wire: W,
    app: u32,
    form: Form,
    /// On the dirty list.
    dirty: bool,
    /// Its socket took less than it was offered; it waits for `writable`.
    full: bool,
    /// Reported in `doomed`; whatever else comes for it is dropped.
    doomed: bool,
    /// It takes one batch and has been shown it.
    answered: bool,
    /// Reported in `gapped`.
    gapped: bool,
    outbox: Outbox,
    subs: SmallVec<[Sub; 2]>,
}

/// A subscription, as its connection sees it.
#[derive(Clone, Copy, Debug)]
struct Sub {
    channel: u32,
    /// Where the channel's list names this connection.
    index: u32,
}

/// What became of a request to subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// It is live.
    Live,
    /// It waits for the channel's gate.
    Waiting,
    /// It waits to be let in by this token.
    Held(u32),
    /// It was subscribed before.
    Already,
}

/// A change of a channel's subscribers in this loop, for the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The channel.
    pub key: ChannelKey,
    /// Its subscribers in this loop.
    pub n: u32,
    /// Whether they are told how many they are.
    pub announce: bool,
}

/// One loop's share of the hub. Each connection keeps the [`Wire`] that it is written on.
#[derive(Debug)]
pub struct Shard<W> {
    /// The first half of this loop's socket ids.
    salt: u64,
    outbox_bytes_max: usize,
    conns: Slots<Conn<W>>,
    channels: Slots<Channel>,
    by_key: HashMap<ChannelKey, u32>,
    serial: u32,
    links: Links,
    rotation: Rotation,
    dirty: VecDeque<ConnKey>,
    /// By connection slot and channel slot.
    catching_up: HashMap<(u32, u32), CatchUp>,
    changes: Vec<Change>,
    changed: Vec<u32>,
    doomed: Vec<(ConnKey, Doom)>,
    answered: Vec<ConnKey>,
    gapped: Vec<ConnKey>,
    /// Channels where pollers rest, by number and serial.
    resting: Vec<(u32, u32)>,
    ticks: u32,
    token: u32,
    ledger: Ledger,
}

impl<W: Wire> Shard<W> {
    /// An empty shard. `salt` begins the socket ids of its connections; `outbox_bytes_max` bounds what a slow reader may owe.
    pub fn new(salt: u64, outbox_bytes_max: usize) -> Self {
        Shard {
            salt,
            outbox_bytes_max,
            conns: Slots::default(),
            channels: Slots::default(),
            by_key: HashMap::new(),
            serial: 0,
            links: Slots::default(),
            rotation: Rotation::default(),
            dirty: VecDeque::new(),
            catching_up: HashMap::new(),
            changes: Vec::new(),
            changed: Vec::new(),
            doomed: Vec::new(),
            answered: Vec::new(),
            gapped: Vec::new(),
            resting: Vec::new(),
            ticks: 0,
            token: 0,
            ledger: Ledger::default(),
        }
    }

    // Connections.

    /// A new connection of the app with this number.
    pub fn open(&mut self, wire: W, app: u32, form: Form) -> ConnKey {
        let (outbox, subs) = (Outbox::default(), SmallVec::new());
        let (dirty, full, doomed, answered, gapped) = (false, false, false, false, false);
        let conn = Conn { wire, app, form, dirty, full, doomed, answered, gapped, outbox, subs };
        let (slot, generation) = self.conns.insert(conn);
        ConnKey { slot, generation }
    }

    /// Forgets a connection and all its subscriptions; returns its wire and the channels that it was on.
    pub fn close(&mut self, key: ConnKey, reason: Option<Doom>) -> Option<(W, Vec<(ChannelKey, Traits)>)> {
        self.conn(key)?;
        let mut left = Vec::new();
        while let Some(place) = self.conns.get(key.slot).and_then(|conn| conn.subs.len().checked_sub(1)) {
            left.push(self.leave(key.slot, place, false));
        }
        let mut conn = self.conns.remove(key.slot).expect("it was there a moment ago");
        let dropped = conn.outbox.clear(&mut self.links);
        self.ledger.queued -= dropped;
        match reason {
            Some(Doom::SlowConsumer) => self.ledger.dropped_slow += dropped,
            _ => self.ledger.dropped_closed += dropped,
        }
        Some((conn.wire, left))
    }

    /// Offers a message once, behind whatever the connection is owed; to be called before [`Shard::close`].
    pub fn last_words(&mut self, key: ConnKey, bytes: Bytes) {
        if self.conn(key).is_some_and(|conn| !conn.full) {
            self.push(key.slot, bytes, 0, UNICAST);
            self.conns.get_mut(key.slot).expect("looked up above").doomed = false;
            self.flush(key.slot);
        }
    }

    /// What a connection is written on.
    pub fn wire(&mut self, key: ConnKey) -> Option<&mut W> {
        self.conn(key)?;
        self.conns.get_mut(key.slot).map(|conn| &mut conn.wire)
    }

    /// Whether something waits in a connection's outbox.
    pub fn owes(&self, key: ConnKey) -> bool {
        self.conn(key).is_some_and(|conn| !conn.outbox.is_empty())
    }

    /// The form in which a connection takes its messages.
    pub fn form(&self, key: ConnKey) -> Option<Form> {
        self.conn(key).map(|conn| conn.form)
    }

    /// Has a connection take its messages in another form from now on.
    pub fn set_form(&mut self, key: ConnKey, form: Form) {
        if self.conn(key).is_some() {
            self.conns.get_mut(key.slot).expect("looked up above").form = form;
        }
    }

    /// The connection that holds a slot below [`Shard::slots`], if one does.
    pub fn holder(&self, slot: u32) -> Option<ConnKey> {
        self.conns.get(slot)?;
        Some(ConnKey { slot, generation: self.conns.generation(slot)? })
    }

    /// One more than the highest slot ever held.
    pub fn slots(&self) -> u32 {
        self.conns.end()
    }

    /// The number of the connection's app.
    pub fn app(&self, key: ConnKey) -> Option<u32> {
        self.conn(key).map(|conn| conn.app)
    }

    /// Whether this very connection is open.
    pub fn is_open(&self, key: ConnKey) -> bool {
        self.conn(key).is_some()
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// How many channels have a subscriber here.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// How many channels a connection is on, those that it did not ask for included.
    pub fn subscriptions(&self, key: ConnKey) -> usize {
        self.conn(key).map_or(0, |conn| conn.subs.len())
    }

    /// Deliveries, and what became of them.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// The connections to close, and why; each once.
    pub fn take_doomed(&mut self) -> Vec<(ConnKey, Doom)> {
        std::mem::take(&mut self.doomed)
    }

    /// The connections that took one batch and have been shown it; each once.
    pub fn take_answered(&mut self) -> Vec<ConnKey> {
        std::mem::take(&mut self.answered)
    }

    /// The connections that may have missed something and cannot be told; each once. They are to come back, and are live until
    /// they go.
    pub fn take_gapped(&mut self) -> Vec<ConnKey> {
        std::mem::take(&mut self.gapped)
    }

    fn conn(&self, key: ConnKey) -> Option<&Conn<W>> {
        self.conns.get(key.slot).filter(|_| self.conns.generation(key.slot) == Some(key.generation))
    }

    fn doom(&mut self, slot: u32, why: Doom) {
        let generation = self.conns.generation(slot).expect("the slot exists");
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if !std::mem::replace(&mut conn.doomed, true) {
            self.doomed.push((ConnKey { slot, generation }, why));
        }
    }

    // Subscriptions.

    /// Whether a connection is on a channel.
    pub fn is_subscribed(&self, key: ConnKey, channel: &str) -> bool {
        self.place(key, channel).is_some()
    }

    /// Whether a connection is on a channel, and has been told so.
    pub fn is_live(&self, key: ConnKey, channel: &str) -> bool {
        let Some(place) = self.place(key, channel) else { return false };
        let sub = self.conns.get(key.slot).expect("it has a place").subs[place];
        let channel = self.channels.get(sub.channel).expect("a subscription's channel exists");
        let waits = || self.catching_up.get(&(key.slot, sub.channel)).is_some_and(|state| !state.entered());
        channel.open && !waits()
    }

    /// Whether a newcomer that has everything up to `position` misses nothing by being live at once.
    pub fn is_current(&self, channel: &str, position: StreamPosition) -> bool {
        let channel = self.by_key.get(channel).and_then(|number| self.channels.get(*number));
        channel.is_some_and(|channel| channel.open && channel.begun() == Some(position))
    }

    /// Takes a poller that has had its answer off its channels. It counts as a subscriber for a while, as it will be back.
    pub fn rest(&mut self, key: ConnKey) {
        while let Some(place) = self.conn(key).and_then(|conn| conn.subs.len().checked_sub(1)) {
            self.leave(key.slot, place, true);
        }
        if let Some(conn) = self.conns.get_mut(key.slot).filter(|conn| conn.answered) {
            conn.answered = false;
        }
    }

    /// Puts a connection on a channel. `hold`: it waits for [`Shard::entered`], and live messages wait with it.
    pub fn subscribe(&mut self, key: ConnKey, channel: &str, traits: Traits, hold: bool) -> Subscribed {
        if self.conn(key).is_none() || self.is_subscribed(key, channel) {
            return Subscribed::Already;
        }
        let number = self.channel(key.slot, channel, traits);
        let conn = self.conns.get_mut(key.slot).expect("looked up above");
        let channel = self.channels.get_mut(number).expect("found or made above");
        let index = channel.push(Member::new(key.slot, conn.subs.len(), hold));
        conn.subs.push(Sub { channel: number, index });
        let live = channel.open && !hold;
        // A poller that is back was counted all along.
        if !(conn.wire.once() && channel.wake()) {
            self.note_change(number);
        }
        if hold {
            self.token = self.token.wrapping_add(1);
            self.catching_up.insert((key.slot, number), CatchUp::new(self.token));
            return Subscribed::Held(self.token);
        }
        if live { Subscribed::Live } else { Subscribed::Waiting }
    }

    /// Takes a connection off a channel; returns what the channel is, or `None` if it was not on it.
    pub fn unsubscribe(&mut self, key: ConnKey, channel: &str) -> Option<Traits> {
        let place = self.place(key, channel)?;
        Some(self.leave(key.slot, place, false).1)
    }

    /// The changes since the last call, one for each channel.
    pub fn take_changes(&mut self) -> Vec<Change> {
        for number in std::mem::take(&mut self.changed) {
            if let Some(channel) = self.channels.get_mut(number).filter(|channel| channel.changed) {
                channel.changed = false;
                let n = channel.subscribers();
                self.changes.push(Change { key: channel.key.clone(), n, announce: channel.traits.announce });
            }
        }
        std::mem::take(&mut self.changes)
    }

    /// The channel's gate is open: whoever waited for that alone is live, and is sent what `welcome` makes for its wire,
    /// unless that is empty.
    pub fn opened(&mut self, key: &ChannelKey, mut welcome: impl FnMut(&W) -> Bytes) {
        let Some(&number) = self.by_key.get(key) else { return };
        let channel = self.channels.get_mut(number).expect("the index names channels that exist");
        if std::mem::replace(&mut channel.open, true) {
            return;
        }
        let waiting = channel.members().iter().filter(|member| !member.catching_up());
        let waiting: Vec<u32> = waiting.map(|member| member.conn).collect();
        for slot in waiting {
            let welcome = welcome(&self.conns.get(slot).expect("a member is open").wire);
            if !welcome.is_empty() {
                self.push(slot, welcome, 0, UNICAST);
            }
        }
        self.activate(number);
    }

    /// The channel's gate could not be opened: everybody is off it again. Returns who that was.
    pub fn refused(&mut self, key: &ChannelKey) -> Vec<ConnKey> {
        let Some(&number) = self.by_key.get(key) else { return Vec::new() };
        let channel = self.channels.get(number).expect("the index names channels that exist");
        let refused: Vec<u32> = channel.members().iter().map(|member| member.conn).collect();
        let key_of = |slot| ConnKey { slot, generation: self.conns.generation(slot).expect("a member's slot exists") };
        let refused: Vec<ConnKey> = refused.into_iter().map(key_of).collect();
        for conn in &refused {
            self.unsubscribe(*conn, key.as_str());
        }
        refused
    }

    /// Whether a subscription waits to be let in by this token.
    pub fn awaits(&self, key: ConnKey, channel: &str, token: u32) -> bool {
        let Some(place) = self.place(key, channel) else { return false };
        let number = self.conns.get(key.slot).expect("it has a place").subs[place].channel;
        self.catching_up.get(&(key.slot, number)).is_some_and(|state| state.awaits(token))
    }

    /// Lets in a subscription that waited: `welcome` first, then what was held and is newer than `after`, then live.
    /// Returns false if it is gone, or waits by another token.
    pub fn entered(&mut self, key: ConnKey, channel: &str, token: u32, welcome: Bytes, after: After) -> bool {
        if !self.awaits(key, channel, token) {
            return false;
        }
        let place = self.place(key, channel).expect("it waits on this channel");
        let number = self.conns.get(key.slot).expect("it has a place").subs[place].channel;
        let state = self.catching_up.get_mut(&(key.slot, number)).expect("it waits");
        let held = state.enter(after);
        if !welcome.is_empty() {
            self.push(key.slot, welcome, 0, UNICAST);
        }
        for frames in held {
            self.show(key.slot, number, &frames);
        }
        if after.is_nothing() {
            self.caught_up(key.slot, number);
        }
        true
    }

    /// About once a second: subscriptions that were let in a while ago need no comparing any more.
    pub fn tick(&mut self) {
        let ticked = self.catching_up.iter_mut().filter_map(|(at, state)| state.tick().then_some(*at));
        for (slot, number) in ticked.collect::<Vec<_>>() {
            self.caught_up(slot, number);
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(REST_TICKS) {
            self.age_resting();
        }
    }

    fn age_resting(&mut self) {
        let mut resting = std::mem::take(&mut self.resting);
        resting.retain(|&(number, serial)| {
            let Some(channel) = self.channels.get_mut(number).filter(|channel| channel.serial == serial) else {
                return false;
            };
            let (gone, more) = channel.age();
            channel.rests = more;
            if gone > 0 {
                self.note_change(number);
                self.drop_if_empty(number);
            }
            more
        });
        self.resting.append(&mut resting);
    }

    /// The channel's slot; made if this is its first subscriber here.
    fn channel(&mut self, slot: u32, name: &str, traits: Traits) -> u32 {
        let app = self.conns.get(slot).expect("only open connections subscribe").app;
        let (app_id, channel) = name.split_once('/').expect("a channel's key holds a slash");
        if let Some(&number) = self.by_key.get(name) {
            return number;
        }
        let key = ChannelKey::new(app_id, channel);
        self.serial = (self.serial + 1) % UNICAST;
        let (number, _) = self.channels.insert(Channel::new(key.clone(), app, self.serial, traits));
        self.by_key.insert(key, number);
        number
    }

    fn place(&self, key: ConnKey, channel: &str) -> Option<usize> {
        let conn = self.conn(key)?;
        let number = *self.by_key.get(channel)?;
        conn.subs.iter().position(|sub| sub.channel == number)
    }

    /// Takes the subscription at `place` out of both indexes. `rest`: it is expected back.
    fn leave(&mut self, slot: u32, place: usize, rest: bool) -> (ChannelKey, Traits) {
        let conn = self.conns.get_mut(slot).expect("only open connections leave");
        let sub = conn.subs.swap_remove(place);
        if let Some(moved) = conn.subs.get(place).copied() {
            let channel = self.channels.get_mut(moved.channel).expect("a subscription's channel exists");
            channel.member_mut(moved.index).move_to(place);
        }
        let channel = self.channels.get_mut(sub.channel).expect("a subscription's channel exists");
        let conns = &mut self.conns;
        channel.remove(sub.index, |member, index| {
            conns.get_mut(member.conn).expect("a member is open").subs[member.place()].index = index;
        });
        let left = (channel.key.clone(), channel.traits);
        self.catching_up.remove(&(slot, sub.channel));
        if rest {
            channel.rest();
            if !std::mem::replace(&mut channel.rests, true) {
                self.resting.push((sub.channel, channel.serial));
            }
            return left;
        }
        self.note_change(sub.channel);
        self.drop_if_empty(sub.channel);
        left
    }

    fn drop_if_empty(&mut self, number: u32) {
        let channel = self.channels.get_mut(number).expect("the caller holds its number");
        // An active channel stands in the rotation by number, and goes when its turn comes.
        if channel.subscribers() > 0 || channel.active {
            return;
        }
        let channel = self.channels.remove(number).expect("looked up above");
        self.by_key.remove(&channel.key);
        if channel.changed {
            self.changes.push(Change { key: channel.key, n: 0, announce: channel.traits.announce });
        }
    }

    fn note_change(&mut self, number: u32) {
        let channel = self.channels.get_mut(number).expect("the caller holds its number");
        if !std::mem::replace(&mut channel.changed, true) {
            self.changed.push(number);
        }
    }

    fn caught_up(&mut self, slot: u32, number: u32) {
        self.catching_up.remove(&(slot, number));
        let Some(conn) = self.conns.get(slot) else { return };
        let Some(sub) = conn.subs.iter().find(|sub| sub.channel == number).copied() else { return };
        let channel = self.channels.get_mut(number).expect("a subscription's channel exists");
        channel.member_mut(sub.index).caught_up();
    }

    // Publications.

    /// A publication for one of this loop's channels; shown to its subscribers by the turns that follow.
    pub fn publish(&mut self, frames: Arc<Frames>) {
        self.ledger.publications += 1;
        let Some(&number) = self.by_key.get(frames.key()) else { return };
        let channel = self.channels.get_mut(number).expect("the index names channels that exist");
        if frames.publication().kind == Kind::Terminate {
            let members: Vec<u32> = channel.members().iter().map(|member| member.conn).collect();
            members.into_iter().for_each(|slot| self.doom(slot, Doom::Terminated));
            return;
        }
        channel.publish(frames);
        self.activate(number);
    }

    /// Adds a message for one connection; who asks much and reads nothing is closed like any slow consumer.
    pub fn send(&mut self, key: ConnKey, bytes: Bytes) {
        if self.conn(key).is_none() {
            return;
        }
        if self.make_room(key.slot, bytes.len(), UNICAST, false) {
            self.push(key.slot, bytes, 0, UNICAST);
        } else {
            self.doom(key.slot, Doom::SlowConsumer);
        }
    }

    /// Adds messages that have room together or not at all. To somebody who owes nothing there is room for any: what was
    /// missed may be more than an outbox holds, and would be again whenever they came back for it.
    pub fn send_all(&mut self, key: ConnKey, parts: Vec<Bytes>) {
        if self.conn(key).is_none() {
            return;
        }
        if self.make_room(key.slot, parts.iter().map(Bytes::len).sum(), UNICAST, false) {
            parts.into_iter().for_each(|part| self.push(key.slot, part, 0, UNICAST));
        } else {
            self.doom(key.slot, Doom::SlowConsumer);
        }
    }

    fn activate(&mut self, number: u32) {
        let channel = self.channels.get_mut(number).expect("the caller holds its number");
        // Before the gate is open nobody is subscribed; what arrives waits for those who will be.
        if channel.open && channel.has_work() && !std::mem::replace(&mut channel.active, true) {
            self.rotation.push(channel.app, number);
        }
    }

    /// Queues bytes for a connection, with the answer of its channel when it owes too much.
    fn push(&mut self, slot: u32, bytes: Bytes, deliveries: u32, serial: u32) {
        self.push_rest(slot, bytes, deliveries, serial, false);
    }

    fn push_rest(&mut self, slot: u32, bytes: Bytes, deliveries: u32, serial: u32, started: bool) {
        let generation = self.conns.generation(slot).expect("the caller holds a slot");
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.outbox.push(&mut self.links, bytes, deliveries, serial, started);
        self.ledger.queued += u64::from(deliveries);
        if !conn.full && !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push_back(ConnKey { slot, generation });
        }
    }

    /// Makes room for `bytes` more of a channel; false if the connection has to go instead.
    fn make_room(&mut self, slot: u32, bytes: usize, serial: u32, newest: bool) -> bool {
        let conn = self.conns.get_mut(slot).expect("the caller holds a slot");
        if conn.outbox.bytes() + bytes <= self.outbox_bytes_max || conn.outbox.is_empty() {
            return true;
        }
        if newest {
            let dropped = conn.outbox.drop_channel(&mut self.links, serial);
            self.ledger.dropped_older += dropped;
            self.ledger.queued -= dropped;
            return true;
        }
        false
    }
}
