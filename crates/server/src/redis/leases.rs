//! This node's leases: while they are renewed, what it has entered stays; what nodes left that renew no more is taken out by
//! whichever node beats next, in slices, each as one act.
//!
//! A killed node's members are gone within the lease and a beat. A node that was only stopped, or cut off, is told by its next
//! beat that it is unknown, and enters again what it has. Where a server heard nobody for a while, nobody was silent by its
//! own fault: all leases begin anew.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fanfare_hub::{ChannelKey, Member, PresenceEvents, StoreError};
use futures_util::StreamExt;
use futures_util::stream;
use redis::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use super::mirror::{Entry, State};
use super::presence::{Act, Answer, RedisPresence, Unit, unavailable};
use super::{Script, UnitIx};

/// How long a node counts as alive that says nothing. Two beats may be lost, and its members are still gone within 5 s.
const LEASE_MS: u64 = 3000;

/// How long what a node entered stays after it said that it ends: its clients are on their way to others.
const GRACE_MS: u64 = 5000;

const BEAT: Duration = Duration::from_secs(1);

/// Entries that one script takes out or enters: a millisecond or two of the server's time.
const SLICE: usize = 250;

/// Slices of changes that wait to be told. Beyond it, nothing more is taken out.
const SLICES_MAX: usize = 4;

/// Changes that are being told at once.
const TELLING_MAX: usize = 64;

static BEAT_SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua flags=allow-oom\n",
        include_str!("scripts/presence.lua"),
        include_str!("scripts/beat.lua")
    ))
});

/// A unit's lease, as this node sees it.
#[derive(Debug, Default)]
pub struct Lease {
    /// The unit's last known generation; 0 before the first.
    generation: AtomicU64,
    /// The unit has lost its data: others lost theirs too, and everybody who looks on is told that something is missing. What
    /// is entered again is no news.
    lost: AtomicBool,
    retired: AtomicBool,
    again: Notify,
    /// Other nodes have left something.
    others_died: AtomicBool,
    /// There may be something to take out or to enter again.
    work: Notify,
}

impl Lease {
    /// The unit serves again.
    pub fn up(&self, generation: u64) {
        self.serves(generation);
        self.again.notify_one();
    }

    fn serves(&self, generation: u64) {
        let before = self.generation.swap(generation, Ordering::SeqCst);
        if before != 0 && before != generation {
            self.lost.store(true, Ordering::SeqCst);
        }
    }
}

/// Something that changed without anybody on this node having asked for it.
#[derive(Debug)]
enum Change {
    Joined(ChannelKey, Member, u64),
    Left(ChannelKey, String, u64),
    Counted(ChannelKey, u64),
    Turned(ChannelKey, bool),
}

/// Tells changes beside the beats, which must not wait for it; cheap to clone.
#[derive(Clone)]
pub struct Teller(mpsc::Sender<Vec<Change>>);

impl Teller {
    /// Starts telling.
    pub fn start(events: Arc<dyn PresenceEvents>) -> Teller {
        let (sender, mut slices) = mpsc::channel::<Vec<Change>>(SLICES_MAX);
        tokio::spawn(async move {
            while let Some(slice) = slices.recv().await {
                stream::iter(slice).for_each_concurrent(TELLING_MAX, |change| change.tell(&*events)).await;
            }
        });
        Teller(sender)
    }
}

impl Change {
    async fn tell(self, events: &dyn PresenceEvents) {
        match self {
            Change::Joined(key, member, version) => events.joined(&key, member, version).await,
            Change::Left(key, user, version) => events.left(&key, &user, version).await,
            Change::Counted(key, total) => events.counted(&key, total).await,
            Change::Turned(user, online) => events.turned(user.app(), user.name(), online).await,
        }
    }

    /// A change that a beat answered.
    fn taken_out(mut answer: Answer) -> Result<Change, StoreError> {
        let (kind, name) = (answer.text()?, key(&answer.text()?));
        Ok(match &*kind {
            "c" => Change::Counted(name, answer.number()?),
            "f" => Change::Turned(name, false),
            _ => {
                let version = answer.number()?;
                Change::Left(name, answer.text()?, version)
            }
        })
    }

    /// What an entry changed when it was entered again or taken out, if anything.
    fn entered(entry: Entry, state: Option<State>, mut answer: Answer) -> Result<Option<Change>, StoreError> {
        if answer.number()? == 0 {
            return Ok(None);
        }
        Ok(Some(match (entry, state) {
            (Entry::Member(key, _), Some(State::Member(member))) => Change::Joined(key, member, answer.number()?),
            (Entry::Member(key, _), _) => {
                let version = answer.number()?;
                Change::Left(key, answer.text()?, version)
            }
            (Entry::Count(key), _) => Change::Counted(key, answer.number()?),
            (Entry::Online(key, _), state) => Change::Turned(key, state.is_some()),
        }))
    }
}

fn key(text: &str) -> ChannelKey {
    let (app, name) = text.split_once('/').unwrap_or((text, ""));
    ChannelKey::new(app, name)
}

impl RedisPresence {
    /// Makes this node known to the unit.
    pub(super) async fn begin(&self, unit: UnitIx) -> Result<(), StoreError> {
        let mut answer = Answer::of(self.beat_as("begin", unit, LEASE_MS, 0).await?)?;
        let (_more, _changes) = (answer.number()?, answer.list()?);
        self.unit(unit).lease.serves(answer.number()?);
        Ok(())
    }

    /// This node is known for a moment longer, and what it has entered after that is taken out by others.
    pub(super) async fn end(&self, unit: UnitIx) -> Result<(), StoreError> {
        self.unit(unit).lease.retired.store(true, Ordering::SeqCst);
        self.beat_as("retire", unit, GRACE_MS, 0).await.map(drop)
    }

    async fn beat_as(&self, mode: &str, unit: UnitIx, lease_ms: u64, slice: usize) -> Result<Value, StoreError> {
        let args = [lease_ms.to_string(), slice.to_string(), mode.to_owned()];
        self.call(unit, &BEAT_SCRIPT, args.map(String::into_bytes).into()).await.map_err(unavailable)
    }

    /// Renews the unit's lease until it is ended.
    pub(super) async fn keep(self, unit: UnitIx) {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lease = &self.unit(unit).lease;
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                () = lease.again.notified() => {}
            }
            if lease.retired.load(Ordering::SeqCst) {
                return;
            }
            // The link says what is wrong with the server, and the next beat finds out whether it still is.
            if let Err(error) = self.beat(unit).await {
                tracing::debug!(unit = unit.0, %error, "no beat");
            }
        }
    }

    async fn beat(&self, unit: UnitIx) -> Result<(), StoreError> {
        let Unit { mirror, lease } = self.unit(unit);
        let called = self.beat_as("beat", unit, LEASE_MS, 0).await?;
        if called == Value::Nil {
            // Of each unit, after whatever the link has told of its server.
            tracing::debug!(unit = unit.0, "presence lease lapsed; entering everything again");
            self.begin(unit).await?;
            mirror.doubt_all();
        } else {
            lease.others_died.store(Answer::of(called)?.number()? > 0, Ordering::SeqCst);
        }
        lease.work.notify_one();
        Ok(())
    }

    /// Takes out what dead nodes left, and enters again what is in doubt. Beside the beats: it may be much, and is told.
    pub(super) async fn tend(self, unit: UnitIx, teller: Teller) {
        let lease = &self.unit(unit).lease;
        loop {
            lease.work.notified().await;
            let reaped = self.reap(unit, &teller).await;
            if let Err(error) = reaped.and(self.settle(unit, &teller).await) {
                tracing::debug!(unit = unit.0, %error, "not settled");
            }
        }
    }

    async fn reap(&self, unit: UnitIx, teller: &Teller) -> Result<(), StoreError> {
        let lease = &self.unit(unit).lease;
        while lease.others_died.load(Ordering::SeqCst) && !lease.retired.load(Ordering::SeqCst) {
            // Nothing is taken out before it can be told.
            let Ok(permit) = teller.0.reserve().await else { return Ok(()) };
            let called = self.beat_as("beat", unit, LEASE_MS, SLICE).await?;
            if called == Value::Nil {
                return Ok(());
            }
            let mut answer = Answer::of(called)?;
            lease.others_died.store(answer.number()? > 0, Ordering::SeqCst);
            let mut changes = answer.list()?;
            let mut slice = Vec::new();
            while !changes.is_empty() {
                slice.push(Change::taken_out(changes.list()?)?);
            }
            permit.send(slice);
        }
        Ok(())
    }

    /// Makes the unit hold what it is to hold, where that is in doubt.
    async fn settle(&self, unit: UnitIx, teller: &Teller) -> Result<(), StoreError> {
        let here = self.unit(unit);
        loop {
            let batch = here.mirror.take_doubtful(SLICE);
            if batch.is_empty() {
                here.lease.lost.store(false, Ordering::SeqCst);
                return Ok(());
            }
            let acts = batch.iter().flat_map(|(entry, state)| Act::towards(entry, state.clone()).args(entry));
            let called = self.call(unit, Act::script_for_all(), acts.collect()).await;
            let Ok(answers) = called else {
                batch.into_iter().for_each(|(entry, _)| here.mirror.doubt(entry));
                return Err(StoreError::Unavailable);
            };
            let mut answers = Answer::of(answers)?;
            let mut changes = Vec::new();
            for (entry, state) in &batch {
                changes.extend(Change::entered(entry.clone(), state.clone(), answers.list()?)?);
            }
            here.mirror.settled(batch);
            if !changes.is_empty() && !here.lease.lost.load(Ordering::SeqCst) {
                // The other end lives as long as this process.
                let _ = teller.0.send(changes).await;
            }
        }
    }
}
