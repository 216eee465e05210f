//! A shard and the naive model side by side: every action happens to both.

use std::collections::HashMap;

use fanfare_hub::shard::{After, ConnKey, Doom, Ledger, Subscribed, Traits};
use fanfare_hub::{ChannelKey, Kind, Publication, Shard, StreamPosition};
use fanfare_proto::socket_id::SocketId;

use crate::naive::{Sent, Stay};
use crate::support::{Mood, PLAIN, SALT, Tap, change, frames, gap, note, publication, settle, socket, stored};
use fanfare_hub::publication::Form;

/// Apps, and channels of each.
pub const APPS: usize = 3;
pub const CHANNELS: usize = 3;

/// In each app, the channel whose slow subscribers keep the newest.
const NEWEST: usize = 2;

/// Ticks after which nothing is compared any more.
const TICKS: u8 = 5;

struct Conn {
    key: ConnKey,
    app: usize,
    tap: Tap,
    mood: Mood,
    open: bool,
    doom: Option<Doom>,
    /// It takes a form in which no gap can be told.
    deaf: bool,
    gapped: bool,
}

/// A channel as the model knows it.
struct Line {
    key: ChannelKey,
    traits: Traits,
    /// Whether the shard has heard that the gate is open, and has not forgotten the channel since.
    open: bool,
    sent: Vec<Sent>,
    stays: Vec<Stay>,
    newest: StreamPosition,
    version: u64,
    /// What the control plane believes.
    told: u32,
}

impl Line {
    fn standing(&mut self) -> impl Iterator<Item = &mut Stay> {
        self.stays.iter_mut().filter(|stay| stay.to.is_none())
    }

    fn is_empty(&self) -> bool {
        self.stays.iter().all(|stay| stay.to.is_some())
    }

    fn stay(&mut self, conn: usize) -> Option<&mut Stay> {
        self.standing().find(|stay| stay.conn == conn)
    }

    fn leave(&mut self, conn: usize) -> Option<bool> {
        let to = self.sent.len();
        let stay = self.stay(conn)?;
        stay.to = Some(to);
        Some(stay.told)
    }

    fn number(&self) -> &str {
        self.key.name()
    }
}

/// What a publication is, apart from its content.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Transient,
    Stored,
    /// Stored in a new epoch.
    Restarted,
    Change,
}

pub struct World {
    shard: Shard<Tap>,
    conns: Vec<Conn>,
    lines: Vec<Line>,
    roomy: bool,
    ids: usize,
    /// Nobody was closed or given up so far.
    gentle: bool,
}

impl World {
    pub fn new(outbox_bytes_max: usize) -> Self {
        let line = |index: usize| Line {
            key: ChannelKey::new(&(index / CHANNELS).to_string(), &format!("c{}", index % CHANNELS)),
            traits: Traits { newest: index % CHANNELS == NEWEST, ..PLAIN },
            open: false,
            sent: Vec::new(),
            stays: Vec::new(),
            newest: StreamPosition { epoch: 1, offset: 0 },
            version: 0,
            told: 0,
        };
        World {
            shard: Shard::new(SALT, outbox_bytes_max),
            conns: Vec::new(),
            lines: (0..APPS * CHANNELS).map(line).collect(),
            roomy: outbox_bytes_max >= 1 << 20,
            ids: 0,
            gentle: true,
        }
    }

    // Connections.

    pub fn open(&mut self, app: usize, form: Form, mood: Mood) {
        let tap = Tap::new(mood);
        let key = self.shard.open(tap.clone(), app as u32, form);
        let deaf = form == Form::DEFLATED;
        self.conns.push(Conn { key, app, tap, mood, open: true, doom: None, deaf, gapped: false });
    }

    pub fn close(&mut self, conn: usize) {
        let Some(conn) = self.pick(conn) else { return };
        self.gentle = false;
        self.conns[conn].open = false;
        let (key, doom) = (self.conns[conn].key, self.conns[conn].doom);
        let (_, left) = self.shard.close(key, doom).expect("the connection was open");
        let on = self.lines.iter_mut().filter_map(|line| line.leave(conn));
        assert_eq!(on.count(), left.len(), "close tells every channel that it left");
        assert!(!self.shard.is_open(key) && self.shard.close(key, None).is_none(), "closed once");
    }

    pub fn mood(&mut self, conn: usize, mood: Mood) {
        let Some(conn) = self.pick(conn) else { return };
        self.conns[conn].tap.set(mood);
        self.conns[conn].mood = mood;
        if mood != Mood::Shut {
            self.conns[conn].tap.drained();
            self.shard.writable(self.conns[conn].key);
        }
    }

    /// An open connection out of all there ever were, if the number falls on one.
    fn pick(&self, conn: usize) -> Option<usize> {
        let conn = conn.checked_rem(self.conns.len())?;
        self.conns[conn].open.then_some(conn)
    }

    // Subscriptions.

    pub fn subscribe(&mut self, conn: usize, channel: usize, hold: bool) {
        let Some(conn) = self.pick(conn) else { return };
        let (key, line) = (self.conns[conn].key, self.conns[conn].app * CHANNELS + channel);
        if self.lines[line].is_empty() && hold {
            // Whether an empty channel has been forgotten yet shows only when somebody is live on it at once.
            settle(&mut self.shard);
            self.lines[line].open = false;
        }
        let line = &mut self.lines[line];
        let alone = line.is_empty();
        let subscribed = self.shard.subscribe(key, line.key.as_str(), line.traits, hold);
        assert!(self.shard.is_subscribed(key, line.key.as_str()));
        if line.stay(conn).is_some() {
            return assert_eq!(subscribed, Subscribed::Already);
        }
        let live = subscribed == Subscribed::Live;
        assert!(if alone { line.open || !live } else { live == (line.open && !hold) }, "live exactly when it may be");
        line.open &= !alone || live;
        let mut stay = Stay::new(conn, line.sent.len(), hold, live);
        if let Subscribed::Held(token) = subscribed {
            stay.token = token;
        }
        line.stays.push(stay);
        if live {
            self.shard.send(key, note(&format!("+{}", line.number())));
        }
    }

    pub fn unsubscribe(&mut self, conn: usize, channel: usize) {
        let Some(conn) = self.pick(conn) else { return };
        let key = self.conns[conn].key;
        let line = &mut self.lines[self.conns[conn].app * CHANNELS + channel];
        let told = line.leave(conn);
        assert_eq!(self.shard.unsubscribe(key, line.key.as_str()), told.map(|_| line.traits));
        if told == Some(true) {
            self.shard.send(key, note(&format!("-{}", line.number())));
        }
    }

    pub fn gate(&mut self, line: usize, opens: bool) {
        let line = &mut self.lines[line];
        if line.open || line.is_empty() {
            return;
        }
        if opens {
            self.shard.opened(&line.key, |_| note(&format!("+{}", line.number())));
            line.standing().for_each(|stay| stay.told = !stay.hold);
            line.open = true;
            return;
        }
        let refused = self.shard.refused(&line.key);
        let to = line.sent.len();
        let waiting: Vec<usize> = line.standing().map(|stay| stay.conn).collect();
        line.standing().for_each(|stay| stay.to = Some(to));
        let sorted = |mut keys: Vec<ConnKey>| {
            keys.sort_by_key(|key| key.slot);
            keys
        };
        let waiting = waiting.into_iter().map(|conn| self.conns[conn].key).collect();
        assert_eq!(sorted(refused), sorted(waiting), "all who waited are off the channel");
    }

    /// Lets somebody in who has seen the channel as it is now, or as it was or will be some publications off.
    pub fn enter(&mut self, conn: usize, channel: usize, stored: Option<i64>, presence: Option<i64>) {
        let Some(conn) = self.pick(conn) else { return };
        let key = self.conns[conn].key;
        let line = &mut self.lines[self.conns[conn].app * CHANNELS + channel];
        if !line.open {
            return;
        }
        let newest = line.newest;
        let after = After {
            stored: stored.map(|by| StreamPosition { offset: newest.offset.saturating_add_signed(by), ..newest }),
            presence: presence.map(|by| line.version.saturating_add_signed(by)),
        };
        let welcome = note(&format!("+{}", line.number()));
        let name = line.key.clone();
        let waiting = line.stay(conn).filter(|stay| stay.hold && !stay.told);
        let token = waiting.as_ref().map_or(0, |stay| stay.token);
        assert_eq!(self.shard.entered(key, name.as_str(), token, welcome, after), waiting.is_some(), "let in once");
        if let Some(stay) = waiting {
            (stay.told, stay.after) = (true, after);
        }
    }

    // Publications.

    pub fn publish(&mut self, line: usize, padding: usize, place: Place, except: Option<usize>) {
        self.ids += 1;
        let id = self.ids;
        let line = &mut self.lines[line];
        let mut sent = Sent { id, position: None, version: None, except: None, gap: false };
        let mut letter = publication(id, padding);
        match place {
            Place::Transient => {}
            Place::Stored => line.newest.offset += 1,
            Place::Restarted => line.newest = StreamPosition { epoch: line.newest.epoch + 1, offset: 1 },
            Place::Change => {
                line.version += 1;
                letter = change(id, line.version);
                sent.version = Some(line.version);
            }
        }
        sent.position = matches!(place, Place::Stored | Place::Restarted).then_some(line.newest);
        sent.except = except.and_then(|conn| conn.checked_rem(self.conns.len()));
        letter.except = sent.except.map(|conn| socket(self.conns[conn].key));
        self.shard.publish(stored(&line.key, letter, sent.position));
        line.sent.push(sent);
    }

    /// A publication that excludes a socket of another loop reaches everybody here.
    pub fn publish_past_a_stranger(&mut self, line: usize, slot: u64) {
        self.ids += 1;
        let line = &mut self.lines[line];
        let mut letter = publication(self.ids, 0);
        letter.except = Some(SocketId { a: SALT + 1, b: slot });
        self.shard.publish(frames(&line.key, letter));
        line.sent.push(Sent { id: self.ids, position: None, version: None, except: None, gap: false });
    }

    /// Something was lost: in the middle of the stream, or with its beginning.
    pub fn gap(&mut self, line: usize, restarted: bool) {
        self.ids += 1;
        let line = &mut self.lines[line];
        line.newest = match restarted {
            true => StreamPosition { epoch: line.newest.epoch + 1, offset: 0 },
            false => StreamPosition { offset: line.newest.offset + 3, ..line.newest },
        };
        self.shard.publish(gap(&line.key, self.ids, line.newest));
        line.sent.push(Sent { id: self.ids, position: Some(line.newest), version: None, except: None, gap: true });
    }

    pub fn terminate(&mut self, line: usize) {
        self.reap();
        let line = &mut self.lines[line];
        let conns = &self.conns;
        let on: Vec<usize> = line.standing().map(|stay| stay.conn).filter(|&conn| conns[conn].doom.is_none()).collect();
        self.shard.publish(frames(&line.key, Publication { kind: Kind::Terminate, ..publication(0, 0) }));
        self.reap();
        assert!(on.iter().all(|&conn| self.conns[conn].doom == Some(Doom::Terminated)));
    }

    // Time.

    pub fn turn(&mut self) {
        let more = self.shard.turn();
        assert_eq!(more, self.shard.has_work());
    }

    pub fn tick(&mut self) {
        settle(&mut self.shard);
        let held = self.lines.iter().filter(|line| !line.is_empty());
        assert_eq!(self.shard.channels(), held.count(), "an empty channel is forgotten");
        self.shard.tick();
        for line in &mut self.lines {
            let now = line.sent.len();
            for stay in line.standing().filter(|stay| stay.hold && stay.told && stay.ticks < TICKS) {
                stay.ticks += 1;
                if stay.ticks == TICKS {
                    stay.compared = now;
                }
            }
        }
    }

    // Checks.

    /// What holds after each action.
    pub fn check(&mut self) {
        self.reap();
        assert_eq!(self.shard.connections(), self.conns.iter().filter(|conn| conn.open).count());
        let Ledger { owed, written, dropped_closed, dropped_slow, dropped_older, queued, .. } = self.shard.ledger();
        assert_eq!(owed, written + dropped_closed + dropped_slow + dropped_older + queued, "the ledger balances");
    }

    /// The control plane knows the true counts whenever it has read its mail.
    pub fn take_changes(&mut self) {
        let mut counts: HashMap<ChannelKey, Vec<u32>> = HashMap::new();
        for change in self.shard.take_changes() {
            counts.entry(change.key).or_default().push(change.n);
        }
        for line in &mut self.lines {
            if let Some((last, before)) = counts.get(&line.key).and_then(|counts| counts.split_last()) {
                assert!(before.iter().all(|&n| n == 0), "one change, but for those that end a channel");
                line.told = *last;
            }
            assert_eq!(line.told as usize, line.standing().count(), "subscribers of {:?}", line.key);
        }
    }

    /// Those who are to be closed, each named once and for a reason.
    fn reap(&mut self) {
        for (key, doom) in self.shard.take_doomed() {
            let conn = self.conns.iter_mut().find(|conn| conn.key == key && conn.open).expect("an open connection");
            assert!(doom != Doom::Broken || conn.mood == Mood::Broken, "only a broken wire is broken");
            assert!(doom != Doom::SlowConsumer || !self.roomy, "nobody owes that much");
            assert_eq!(conn.doom.replace(doom), None, "doomed once");
            self.gentle = false;
        }
        for key in self.shard.take_gapped() {
            // It may have been closed since.
            let Some(conn) = self.conns.iter_mut().find(|conn| conn.key == key) else {
                panic!("never opened: {key:?}")
            };
            assert!(conn.deaf, "whoever can be told is not to go");
            assert!(!std::mem::replace(&mut conn.gapped, true), "named once");
        }
    }

    /// Lets everything flow, compares what arrived, closes everybody, and finds nothing left.
    pub fn end(mut self) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].mood != Mood::Broken {
                self.mood(conn, Mood::Open);
            }
        }
        settle(&mut self.shard);
        self.check();
        let heard: usize = (0..self.conns.len()).map(|conn| self.check_heard(conn)).sum();
        let ledger = self.shard.ledger();
        assert!(ledger.written as usize <= heard, "written means arrived");
        assert!(!self.gentle || ledger.written as usize == heard, "arrived means written");
        assert!(!self.gentle || ledger.in_flight() == 0, "every outbox is empty");
        (0..self.conns.len()).for_each(|conn| self.close(conn));
        settle(&mut self.shard);
        self.take_changes();
        assert_eq!((self.shard.channels(), self.shard.connections()), (0, 0));
        assert_eq!(self.shard.ledger().in_flight(), 0, "the ledger balances");
    }

    /// Compares what a connection heard with what it was owed; returns how many publications that were.
    fn check_heard(&self, conn: usize) -> usize {
        let Conn { app, tap, open, doom, deaf, gapped, .. } = &self.conns[conn];
        let heard = tap.heard();
        for line in &self.lines[app * CHANNELS..(app + 1) * CHANNELS] {
            let visits = visits(&heard, line.number());
            let stays: Vec<&Stay> = line.stays.iter().filter(|stay| stay.conn == conn && stay.told).collect();
            let whole = *open && doom.is_none();
            let missed = stays.iter().any(|stay| stay.has_gap(&line.sent));
            assert!(!(whole && *deaf && missed) || *gapped, "whoever cannot be told has to go");
            assert!(if whole { visits.len() == stays.len() } else { visits.len() <= stays.len() });
            assert!(visits.iter().flatten().is_sorted_by(|a, b| a < b), "nothing twice, in order: {visits:?}");
            stays.iter().zip(&visits).for_each(|(stay, ids)| {
                stay.check(&line.sent, ids, whole, *deaf, line.traits.newest);
            });
        }
        heard.iter().filter(|text| text.starts_with('c')).count()
    }
}

/// What was heard of a channel during each stay, as the notes around it tell.
fn visits(heard: &[String], channel: &str) -> Vec<Vec<usize>> {
    let mut visits: Vec<Vec<usize>> = Vec::new();
    let mut inside = false;
    for text in heard {
        if text.strip_prefix('+') == Some(channel) {
            assert!(!std::mem::replace(&mut inside, true), "told once");
            visits.push(Vec::new());
        } else if text.strip_prefix('-') == Some(channel) {
            assert!(std::mem::replace(&mut inside, false), "left once");
        } else if let Some(id) = text.strip_prefix(channel).and_then(|text| text.strip_prefix(' ')) {
            assert!(inside, "nothing before the welcome, nothing after the farewell: {heard:?}");
            visits.last_mut().expect("inside a visit").push(id.parse().expect("a number"));
        }
    }
    visits
}
