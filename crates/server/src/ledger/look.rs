//! One look at all counts, in the order in which messages go: queues with their workers and pipelines, doors,
//! hub, loops, firehoses.
//!
//! A look takes a moment, and everything goes on meanwhile: what goes out of a part and what comes into the next are not read
//! at the same time. What follows from that is for `check` to know.
//!
//! Always true: what goes to and fro between nodes is left out. Where queues are shared, jobs put here are claimed elsewhere,
//! and where the broker is, what is published here arrives from there.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanfare_hub::hub::Counted;
use fanfare_hub::{Hub, Outcomes};
use fanfare_jobs::pipeline::{Reason, Slot};
use fanfare_jobs::sinks::{Lost, Outlet};
use fanfare_jobs::worker::{self, Lane};
use fanfare_jobs::{Counts, Totals};
use tokio::time::timeout;

use super::report::{Life, Link, Part, Place, Step};
use crate::apps::{Apps, Usage};
use crate::doors::Door;
use crate::edge::{LoopStats, Snapshot};
use crate::firehose::{self, Firehoses};
use crate::ingest::{Ingest, OfQueue, routes};
use crate::queues::{AtTheDoor, Queue, Queues, unfinished};

/// A store that does not answer by then is left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// Loops write their cells one by one: a reading that is the same twice is of one moment.
const READINGS_MAX: usize = 8;

/// Whatever counts.
pub struct Sources {
    /// The tenants.
    pub apps: Apps,
    /// The queues,
    pub queues: Queues,
    /// who works on them,
    pub ingest: Ingest,
    /// what is kept of publications for those who read everything,
    pub firehoses: Firehoses,
    /// where publications go,
    pub hub: Hub,
    /// and who delivers them.
    pub loops: Vec<Arc<LoopStats>>,
    /// Whether queues and broker are several nodes'.
    pub shared: bool,
    /// What apps have published, those included that are configured no more.
    pub published: Mutex<Published>,
}

/// All counts of one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The chain.
    pub chain: Vec<Step>,
    /// What this process has done.
    pub done: Life,
}

impl Sources {
    /// Reads everything; of stores that are several nodes' only if that is asked for.
    pub async fn look(&self, shared: bool) -> Look {
        let mut look = Look::default();
        let workers = self.ingest.of_queues();
        let of_queues: HashMap<_, _> = workers.iter().map(|of| ((&*of.app, &*of.queue), of)).collect();
        let mut queues = self.queues.all();
        queues.sort_by(|a, b| (&a.app, &a.name).cmp(&(&b.app, &b.name)));
        for queue in queues {
            let of_queue = of_queues.get(&(&*queue.app, &*queue.name)).copied();
            self.queue(&queue, of_queue, shared, &mut look).await;
        }
        self.doors(&workers, &mut look);
        self.loops(&mut look);
        self.firehoses(&mut look);
        look
    }

    /// What this process has done, by the counts that are its own.
    pub fn done(&self) -> Life {
        let mut look = Look::default();
        self.doors(&[], &mut look);
        self.loops(&mut look);
        look.done
    }

    async fn queue(&self, queue: &Queue, workers: Option<&OfQueue>, shared: bool, look: &mut Look) {
        let place = Place { app: queue.app.to_string(), queue: queue.name.to_string(), ..Place::default() };
        // Before the store is asked, so that it knows of all that is in here.
        let door = queue.at_the_door();
        look.part(put(&place, &door));
        if (shared || !self.shared)
            && let Ok(Ok(counts)) = timeout(PATIENCE, queue.store.counts()).await
        {
            match queue.began().filter(|_| !self.shared) {
                Some(began) => own_store(&place, &door, began, &counts, workers, look),
                None => look.part(Part { shared: true, ..jobs(&place, &Counts::default(), &counts) }),
            }
        }
        if let Some(workers) = workers {
            pipelines(&place, workers, look);
        }
    }

    /// Publications of all apps, until the hub has them.
    fn doors(&self, workers: &[OfQueue], look: &mut Look) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.add(&self.apps);
        let mut routed: HashMap<&str, u64> = HashMap::new();
        for of in workers {
            let lanes = of.lanes.iter().chain(&of.former).map(|lane| routes(lane)).sum::<u64>();
            *routed.entry(&of.app).or_default() += of.over.routes + lanes;
        }
        let (mut asked, mut recalled) = (0, 0);
        for (app, sums) in published.sums() {
            let place = Place { app: app.clone(), ..Place::default() };
            if let Some(&routed) = routed.get(&*app) {
                look.link(&place, ["sinks", "published by pipelines"], [routed; 2], sums.confirmed, 0);
            }
            for (door, n) in Door::ALL.iter().zip(sums.asked).filter(|(_, n)| *n > 0) {
                let part = format!("published by {}", door.as_str());
                look.part(Part { place: place.clone(), part, came: n, out: n, ..Part::default() });
                asked += n;
            }
            recalled += sums.asked[Door::Recall as usize];
        }
        let counted = self.hub.counted();
        look.link(&Place::default(), ["published", "hub"], [asked; 2], counted.posted.asked, 0);
        // What was published before a crash was counted then.
        look.done.published = counted.posted.published().saturating_sub(recalled);
        self.hub(&counted, look);
    }

    fn hub(&self, Counted { posted, own, arrived, letters }: &Counted, look: &mut Look) {
        let (node, named) = (Place::default(), |(reason, n): (&str, u64)| (reason.to_owned(), n));
        for (part, outcomes) in [("hub", posted), ("hub, by itself", own)] {
            let Outcomes { asked, heard, unheard, repeated, refused, given_up } = *outcomes;
            let dropped = [("unheard", unheard), ("repeated", repeated), ("given_up", given_up)].map(named).into();
            look.part(Part {
                part: part.to_owned(),
                came: asked,
                out: heard,
                dropped,
                failed: refused,
                in_flight: outcomes.in_flight(),
                ..Part::default()
            });
        }
        if !self.shared {
            let heard = posted.heard + own.heard;
            let unknown = |outcomes: &Outcomes| outcomes.in_flight() + outcomes.given_up + outcomes.refused;
            look.link(&node, ["hub", "this node"], [heard, heard + unknown(posted) + unknown(own)], *arrived, 0);
        }
        for (index, (letters, stats)) in letters.iter().zip(&self.loops).enumerate() {
            let arrived = read(stats).publications;
            let to = format!("loop {index}");
            look.link(&node, ["this node", &to], [letters.sent; 2], arrived, letters.waiting);
        }
    }

    fn firehoses(&self, look: &mut Look) {
        let mut hoses = self.firehoses.all();
        hoses.sort_by(|a, b| a.app.cmp(&b.app));
        for hose in hoses {
            firehose(&hose.app, &hose.tally.read()).into_iter().for_each(|part| look.part(part));
        }
    }

    fn loops(&self, look: &mut Look) {
        for (index, stats) in self.loops.iter().enumerate() {
            let sum = read(stats);
            look.done.delivered += sum.written;
            let dropped = [("closed", sum.dropped_closed), ("slow", sum.dropped_slow), ("older", sum.dropped_older)];
            look.part(Part {
                part: format!("deliveries of loop {index}"),
                came: sum.owed,
                out: sum.written,
                dropped: dropped.map(|(reason, n)| (reason.to_owned(), n)).into(),
                in_flight: sum.queued,
                ..Part::default()
            });
        }
    }
}

/// What a firehose took in, what it sent, and what of that has to be acknowledged.
fn firehose(app: &str, counts: &firehose::Counts) -> [Part; 3] {
    let part = |part: &str, came, out| {
        let place = Place { app: app.to_owned(), ..Place::default() };
        Part { place, part: part.to_owned(), came, out, ..Part::default() }
    };
    let dropped = |reason: &str, n| [(reason.to_owned(), n)].into();
    [
        Part {
            dropped: dropped("repeated", counts.known),
            failed: counts.failed,
            in_flight: counts.appending,
            ..part("firehose", counts.offered, counts.appended)
        },
        Part {
            dropped: dropped("filtered", counts.withheld),
            ..part("firehose readers", counts.sent + counts.withheld, counts.sent)
        },
        Part {
            dropped: dropped("returned", counts.returned),
            in_flight: counts.unacked,
            ..part("firehose consumers", counts.due, counts.acked)
        },
    ]
}

impl Look {
    fn part(&mut self, part: Part) {
        self.chain.push(Step::Part(part));
    }

    /// `sent`: for certain, and at most.
    fn link(&mut self, place: &Place, [from, to]: [&str; 2], [sent, sent_max]: [u64; 2], came: u64, under_way: u64) {
        let (place, from, to) = (place.clone(), from.to_owned(), to.to_owned());
        self.chain.push(Step::Link(Link { place, from, to, sent, sent_max, came, under_way, difference: 0 }));
    }
}

/// A loop's cells, of one moment if that can be had.
fn read(stats: &LoopStats) -> Snapshot {
    let reading = || {
        let mut snapshot = Snapshot::default();
        snapshot.add(stats);
        snapshot
    };
    let mut last = reading();
    for _ in 0..READINGS_MAX {
        let next = reading();
        if next == last {
            break;
        }
        last = next;
    }
    last
}

fn put(place: &Place, door: &AtTheDoor) -> Part {
    Part {
        place: place.clone(),
        part: "put".to_owned(),
        came: door.asked,
        out: door.taken,
        dropped: [("unheard".to_owned(), door.unheard)].into(),
        failed: door.refused,
        in_flight: door.in_flight,
        ..Part::default()
    }
}

/// What nobody else puts into, and nobody else claims from.
fn own_store(
    place: &Place,
    door: &AtTheDoor,
    began: &Counts,
    now: &Counts,
    workers: Option<&OfQueue>,
    look: &mut Look,
) {
    let took = |totals: &Totals| totals.put + totals.known;
    let came = took(&now.totals).saturating_sub(took(&began.totals));
    look.link(place, ["put", "jobs"], [door.taken, door.taken + door.unheard + door.in_flight], came, 0);
    look.part(jobs(place, began, now));
    look.part(claims(place, began, now));
    let claimed = now.totals.claimed.saturating_sub(began.totals.claimed);
    let (mut came, mut under_way) = (door.handed, door.asked_for);
    if let Some(of) = workers {
        came += of.over.claimed;
        for counts in of.workers.iter().map(|piped| piped.worker.counts()) {
            came += counts.claimed;
            under_way += counts.asked_for;
        }
    }
    look.link(place, ["claims", "workers"], [claimed; 2], came, under_way);
}

/// A queue's jobs since then; those that were there come in at the beginning.
fn jobs(place: &Place, began: &Counts, now: &Counts) -> Part {
    let since = |of: fn(&Totals) -> u64| of(&now.totals).saturating_sub(of(&began.totals));
    Part {
        place: place.clone(),
        part: "jobs".to_owned(),
        came: unfinished(began) + since(|totals| totals.put),
        out: since(|totals| totals.finished),
        dropped: [("retracted".to_owned(), since(|totals| totals.retracted))].into(),
        in_flight: unfinished(now),
        ..Part::default()
    }
}

/// The claims on them, in the same way.
fn claims(place: &Place, began: &Counts, now: &Counts) -> Part {
    let since = |of: fn(&Totals) -> u64| of(&now.totals).saturating_sub(of(&began.totals));
    let dropped = [
        ("stalled", since(Totals::parked)),
        ("retracted", since(|totals| totals.withdrawn)),
        ("released", since(|totals| totals.released)),
    ];
    Part {
        place: place.clone(),
        part: "claims".to_owned(),
        came: began.claimed + since(|totals| totals.claimed),
        out: since(|totals| totals.finished),
        dropped: dropped.map(|(reason, n)| (reason.to_owned(), n)).into(),
        failed: since(|totals| totals.failed),
        in_flight: now.claimed,
        ..Part::default()
    }
}

/// A queue's workers, and what its pipelines do with its jobs.
fn pipelines(place: &Place, of: &OfQueue, look: &mut Look) {
    let mut part = Part { place: place.clone(), part: "worker".to_owned(), ..Part::default() };
    let mut passes = of.over.passes;
    for counts in of.workers.iter().map(|piped| piped.worker.counts()) {
        let worker::Counts { claimed, finished, retried, released, stalled, lost, in_flight, .. } = counts;
        part.came += claimed;
        part.out += finished;
        part.failed += retried + lost;
        part.in_flight += in_flight;
        for (reason, n) in [("stalled", stalled), ("released", released)] {
            *part.dropped.entry(reason.to_owned()).or_default() += n;
        }
        passes += counts.passes;
    }
    look.part(part);
    let lanes = || of.lanes.iter().chain(&of.former);
    let taken: u64 = lanes().filter(|lane| !lane.shadow).map(|lane| lane.passed().taken).sum();
    look.link(place, ["worker", "pipelines"], [passes; 2], of.over.taken + taken, 0);
    for (index, lane) in lanes().enumerate() {
        let name = lane.pipeline.name();
        let name = match index.checked_sub(of.lanes.len()) {
            None => name.to_string(),
            Some(former) => format!("{name} (former, {former})"),
        };
        pipeline(Place { pipeline: name, ..place.clone() }, lane, look);
    }
}

fn pipeline(place: Place, lane: &Lane, look: &mut Look) {
    let passed = lane.passed();
    let (mut from, mut sent) = ("worker".to_owned(), passed.taken);
    for slot in lane.pipeline.stages() {
        let part = stage(&place, slot);
        look.link(&place, [&from, &part.part], [sent; 2], part.came, 0);
        (from, sent) = (part.part.clone(), part.out);
        look.part(part);
    }
    look.link(&place, [&from, "sinks"], [sent; 2], passed.through, 0);
    look.part(Part {
        place: place.clone(),
        part: "sinks".to_owned(),
        came: passed.through,
        out: passed.handed,
        failed: passed.given_up,
        in_flight: passed.waiting,
        ..Part::default()
    });
    for outlet in &lane.outlets {
        let part = sink(&place, outlet);
        look.link(&place, ["sinks", &part.part], [passed.handed + passed.copied; 2], part.came, 0);
        look.part(part);
    }
}

fn stage(place: &Place, slot: &Slot) -> Part {
    let tally = slot.counts.read();
    let dropped = Reason::ALL.map(|reason| (reason.to_string(), tally.dropped[reason as usize]));
    Part {
        place: place.clone(),
        part: slot.name.to_string(),
        came: tally.entered,
        made: tally.made,
        out: tally.out,
        dropped: dropped.into_iter().filter(|(_, n)| *n > 0).collect(),
        failed: tally.failed,
        in_flight: tally.in_flight,
        ..Part::default()
    }
}

fn sink(place: &Place, outlet: &Outlet) -> Part {
    let tally = outlet.counts();
    let lost = Lost::ALL.map(|why| (why.as_str(), tally.lost[why as usize]));
    let dropped = lost.into_iter().chain([("delivered_before", tally.before)]);
    Part {
        place: place.clone(),
        part: outlet.name.to_string(),
        came: tally.due,
        out: tally.out,
        dropped: dropped.filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.to_owned(), n)).collect(),
        failed: tally.failed + tally.withheld,
        in_flight: tally.in_flight + tally.waiting,
        ..Part::default()
    }
}

/// What apps have published.
#[derive(Default)]
pub struct Published {
    /// By where their counts are.
    known: HashMap<usize, (String, Arc<Usage>)>,
    /// Of apps that are over.
    over: BTreeMap<String, Sums>,
}

/// What an app has published, by [`Door::ALL`], and what of that was confirmed to pipelines.
#[derive(Clone, Copy, Default)]
struct Sums {
    asked: [u64; Door::ALL.len()],
    confirmed: u64,
}

impl Published {
    /// Takes in apps that are new, and adds up those that nobody uses any more.
    fn add(&mut self, apps: &Apps) {
        let over = &mut self.over;
        self.known.retain(|_, (app, usage)| {
            let is_used = Arc::strong_count(usage) > 1;
            if !is_used {
                over.entry(app.clone()).or_default().add(usage);
            }
            is_used
        });
        for app in apps.all() {
            let known = self.known.entry(Arc::as_ptr(&app.usage).addr());
            known.or_insert_with(|| (app.id.to_string(), app.usage.clone()));
        }
    }

    fn sums(&self) -> BTreeMap<String, Sums> {
        let mut sums = self.over.clone();
        for (app, usage) in self.known.values() {
            sums.entry(app.clone()).or_default().add(usage);
        }
        sums
    }
}

impl Sums {
    fn add(&mut self, usage: &Usage) {
        for door in Door::ALL {
            self.asked[door as usize] += usage.doors.asked(door);
        }
        self.confirmed += usage.doors.confirmed();
    }
}
