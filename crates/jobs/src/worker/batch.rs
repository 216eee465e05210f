//! Where records wait that go on as one.
//!
//! Nobody leads a batch: what becomes of it is a future that all who wait for it have in common, so it goes on for as long
//! as one of them does.
//!
//! Always true:
//! - batches of one group go on one after the other, in the order in which they began;
//! - a record that is not waited for any more while its batch gathers is not in it, and is counted as failed by its stage;
//! - what waits is bounded by the jobs that are worked on, and a group that nobody is in leaves nothing behind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::plan::Lane;
use super::run::Joined;
use crate::pipeline::{self, Batch, Record, Route};

/// What becomes of a batch.
pub(super) type Going = Shared<BoxFuture<'static, Joined>>;

/// Which records go on together.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Group {
    /// Held by this stage.
    pub(super) stage: usize,
    /// What the stage goes by.
    pub(super) by: Arc<str>,
    /// Whoever may read one may read all.
    pub(super) routes: Vec<Route>,
    /// The sinks that have them already.
    pub(super) done: Vec<Arc<str>>,
}

/// A record in a batch.
pub(super) struct Member {
    pub(super) record: Record,
    /// Whether its job's attempt has failed meanwhile.
    pub(super) failed: Arc<AtomicBool>,
    /// Whether the batch has gone on without it, as it had.
    pub(super) left_out: Arc<AtomicBool>,
}

/// The batches of one pipeline.
#[derive(Default)]
pub(super) struct Batches(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// The last batch of each group, by its number.
    groups: HashMap<Group, Last>,
    /// Those that have not gone on.
    gathering: HashMap<u64, Open>,
    numbers: u64,
}

struct Last {
    number: u64,
    going: WeakShared<BoxFuture<'static, Joined>>,
    /// For the next one: an error says that this one has ended.
    ended: oneshot::Receiver<()>,
}

struct Open {
    members: Vec<(u64, Member)>,
    bytes: usize,
    full: Arc<Notify>,
}

impl Open {
    fn has_room(&self, bytes: usize, batch: &Batch) -> bool {
        self.members.len() < batch.max && self.bytes + bytes <= batch.bytes_max
    }
}

/// A member's place in a batch; dropped while that gathers, it is given up.
pub(super) struct Seat {
    lane: Arc<Lane>,
    stage: usize,
    batch: u64,
    number: u64,
}

/// A batch that gathers its members, and then goes on. Dropped when it has ended.
pub(super) struct Gathering {
    lane: Arc<Lane>,
    group: Group,
    number: u64,
    until: Instant,
    full: Arc<Notify>,
    before: Option<oneshot::Receiver<()>>,
    ended: Option<oneshot::Sender<()>>,
}

/// A place in the group's batch that gathers; if there is none, `begin` says what becomes of a new one.
pub(super) fn enter(
    lane: &Arc<Lane>,
    group: Group,
    batch: &Batch,
    member: Member,
    begin: impl FnOnce(Gathering) -> BoxFuture<'static, Joined>,
) -> (Seat, Going) {
    let (stage, bytes) = (group.stage, pipeline::bytes(&member.record));
    let mut table = lane.batches.table();
    let (number, going) = table.with_room(&group, bytes, batch).unwrap_or_else(|| {
        let within = Duration::from_millis(batch.within_ms);
        table.open(lane.clone(), group, within, begin)
    });
    let seat = table.next_number();
    let open = table.gathering.get_mut(&number).expect("it is there until it goes on");
    open.members.push((seat, member));
    open.bytes += bytes;
    if !open.has_room(0, batch) {
        open.full.notify_one();
    }
    (Seat { lane: lane.clone(), stage, batch: number, number: seat }, going)
}

impl Table {
    /// The batch that this group gathers, if there is room in it. Where there is not, it waits no longer.
    fn with_room(&self, group: &Group, bytes: usize, batch: &Batch) -> Option<(u64, Going)> {
        let last = self.groups.get(group)?;
        let open = self.gathering.get(&last.number)?;
        if !open.has_room(bytes, batch) {
            open.full.notify_one();
            return None;
        }
        Some((last.number, last.going.upgrade()?))
    }

    fn open(
        &mut self,
        lane: Arc<Lane>,
        group: Group,
        within: Duration,
        begin: impl FnOnce(Gathering) -> BoxFuture<'static, Joined>,
    ) -> (u64, Going) {
        let (number, full) = (self.next_number(), Arc::new(Notify::new()));
        let (ending, ended) = oneshot::channel();
        let before = self.groups.remove(&group).map(|last| last.ended);
        let until = Instant::now() + within;
        let gathering =
            Gathering { lane, group: group.clone(), number, until, full: full.clone(), before, ended: Some(ending) };
        let going = begin(gathering).shared();
        let weak = going.downgrade().expect("it has not ended before it was begun");
        self.groups.insert(group, Last { number, going: weak, ended });
        // The list itself, and no comma behind its last item.
        self.gathering.insert(number, Open { members: Vec::new(), bytes: 1, full });
        (number, going)
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

impl Batches {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathering {
    /// Its members, when it is full or its time is over, and it is its turn. Those are left out whose job has failed: none of
    /// its records overtakes one that did.
    pub(super) async fn members(&mut self) -> Vec<Member> {
        // Either way it gathers until its turn has come.
        let _ = timeout_at(self.until, self.full.notified()).await;
        if let Some(before) = &mut self.before {
            // Nothing is ever sent.
            let _ = before.await;
            self.before = None;
        }
        let open = self.lane.batches.table().gathering.remove(&self.number);
        let members = open.map_or_else(Vec::new, |open| open.members);
        let (failed, members): (Vec<Member>, _) =
            members.into_iter().map(|(_, member)| member).partition(|member| member.failed.load(Ordering::Relaxed));
        for member in failed {
            member.left_out.store(true, Ordering::Relaxed);
            self.lane.pipeline.fail_held(self.group.stage);
        }
        members
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let (lane, group, number) = (self.lane.clone(), self.group.clone(), self.number);
        let forget = move || {
            let mut table = lane.batches.table();
            if table.groups.get(&group).is_some_and(|last| last.number == number) {
                table.groups.remove(&group);
            }
        };
        match (self.before.take(), Handle::try_current()) {
            // All of its members have gone while the one before it went on: whoever is next waits for that one.
            (Some(before), Ok(runtime)) => {
                let ended = self.ended.take();
                runtime.spawn(async move {
                    let _ = before.await;
                    forget();
                    drop(ended);
                });
            }
            _ => forget(),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.lane.batches.table();
        let Some(open) = table.gathering.get_mut(&self.batch) else { return };
        let before = open.members.len();
        open.members.retain(|(number, _)| *number != self.number);
        let left = open.members.len() < before;
        if open.members.is_empty() {
            table.gathering.remove(&self.batch);
        }
        drop(table);
        if left {
            self.lane.pipeline.fail_held(self.stage);
        }
    }
}
