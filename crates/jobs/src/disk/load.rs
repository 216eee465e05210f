//! From rows to queues, and whether any are missing.
//!
//! Always true of what is loaded without damage: it holds all that the mark says was acknowledged; each queue's jobs have the
//! prints that its numbers say they have; and each row is as it was written.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;
use fjall::Keyspace;

use super::mark::{Mark, MarkedQueue};
use super::rows::{self, Open, Table};
use crate::index::{Index, Numbers, Row};
use crate::job::{JobId, Phase};
use crate::store::Limits;

/// What is wrong with a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// What was found.
    pub found: Vec<Box<str>>,
    /// Jobs that were acknowledged and are not there any more.
    pub missing: Vec<(Box<str>, RangeInclusive<u64>)>,
    /// Jobs of which only what was put is known: they may have been worked on since.
    pub set_back: Vec<(Box<str>, JobId)>,
}

impl Damage {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn add(&mut self, found: impl Into<Box<str>>) {
        self.found.push(found.into());
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.found.join("; "))?;
        for (queue, jobs) in &self.missing {
            write!(out, "; missing of {queue}: jobs {} to {}", jobs.start(), jobs.end())?;
        }
        for (queue, job) in &self.set_back {
            write!(out, "; of job {} of {queue} only what was put is known", job.0)?;
        }
        Ok(())
    }
}

/// Beyond any number that a queue has given to a lease: where the last is lost, none is given again.
const LOST_NUMBERS: u64 = 1 << 60;

/// A queue as it was found.
pub(super) struct Stored {
    pub(super) number: u32,
    pub(super) name: Box<str>,
    pub(super) index: Index,
    /// Of the prints of its jobs.
    pub(super) sum: u64,
}

/// All there is.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) commit: u64,
    pub(super) queues: Vec<Stored>,
    pub(super) damage: Damage,
    /// Whether there may be more that was not read.
    pub(super) is_cut_short: bool,
}

/// Reads all rows in their order; what cannot be read ends it.
pub(super) fn load(tables: &Keyspace, mark: Option<&Mark>) -> Loaded {
    // Tables that contradict themselves make their reader panic.
    let read = || read_in_order(tables, mark);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or_else(|_| {
        let mut damage = Damage::default();
        damage.add("the tables cannot be read");
        Loaded { damage, is_cut_short: true, ..Loaded::default() }
    })
}

fn read_in_order(tables: &Keyspace, mark: Option<&Mark>) -> Loaded {
    let mut loader = Loader::default();
    for row in tables.iter() {
        match row.into_inner() {
            Ok((key, value)) => loader.read(&key, &value),
            Err(error) => {
                loader.damage.add(format!("a table cannot be read: {error}"));
                return Loaded { is_cut_short: true, ..loader.finish(mark) };
            }
        }
    }
    loader.finish(mark)
}

/// What there is if nothing can be read.
pub(super) fn nothing(mark: Option<&Mark>) -> Loaded {
    Loader::default().finish(mark)
}

/// Reads row by row, so that one that cannot be read does not hide the others.
pub(super) fn salvage(tables: &Keyspace, mark: &Mark) -> Loaded {
    let mut loader = Loader::default();
    let mut read = |queue, table, id| {
        let key = rows::key(queue, table, id);
        match tables.get(key) {
            Ok(value) => value.into_iter().for_each(|value| loader.read(&key, &value)),
            Err(_) => loader.lost(queue, table, id),
        }
    };
    read(0, Table::Numbers, JobId(0));
    for MarkedQueue { number, jobs, .. } in &mark.queues {
        read(*number, Table::Numbers, JobId(0));
        read(*number, Table::Name, JobId(0));
        for id in (1..=*jobs).map(JobId) {
            read(*number, Table::Put, id);
            read(*number, Table::State, id);
        }
    }
    loader.finish(Some(mark))
}

#[derive(Default)]
struct Loader {
    commit: u64,
    queues: BTreeMap<u32, Pending>,
    damage: Damage,
}

/// What has been read of a queue.
#[derive(Default)]
struct Pending {
    name: Option<Box<str>>,
    numbers: Option<(Numbers, u64)>,
    rows: HashMap<JobId, Row>,
}

impl Pending {
    fn name(&self, number: u32) -> Box<str> {
        self.name.clone().unwrap_or_else(|| format!("queue {number}").into())
    }
}

impl Loader {
    fn read(&mut self, key: &[u8], value: &[u8]) {
        let Some((number, table, id)) = rows::parse_key(key) else {
            return self.damage.add(format!("there is a row of no table: {key:?}"));
        };
        let read = rows::open(key, value).and_then(|opened| match number {
            0 => {
                self.commit = opened.commit;
                Some(())
            }
            _ => self.queues.entry(number).or_default().read(table, id, opened),
        });
        if read.is_none() {
            self.lost(number, table, id);
        }
    }

    /// A row cannot be read, or is not as it was written.
    fn lost(&mut self, number: u32, table: Table, id: JobId) {
        let queue = self.queues.entry(number).or_default();
        let name = queue.name(number);
        match table {
            Table::Numbers if number == 0 => self.damage.add("the last commit is not as it was written"),
            Table::Numbers => self.damage.add(format!("the numbers of {name} are not as they were written")),
            Table::Name => self.damage.add(format!("the name of {name} is not as it was written")),
            Table::Put => {
                self.damage.add(format!("job {} of {name} is not as it was written", id.0));
                self.damage.missing.push((name, id.0..=id.0));
            }
            Table::State if queue.rows.contains_key(&id) => {
                self.damage.add(format!("the state of job {} of {name} is not as it was written", id.0));
                self.damage.set_back.push((name, id));
            }
            Table::State => {
                self.damage.add(format!("job {} of {name} has a state, but was not put", id.0));
                self.damage.missing.push((name, id.0..=id.0));
            }
        }
    }

    fn finish(mut self, mark: Option<&Mark>) -> Loaded {
        if let Some(mark) = mark {
            self.compare(mark);
        } else if self.commit > 0 {
            self.damage.add("the mark cannot be read, so nobody knows whether the journal is whole");
        }
        let mut loaded = Loaded { commit: self.commit, damage: self.damage, ..Loaded::default() };
        for (number, queue) in self.queues.into_iter().filter(|(number, _)| *number > 0) {
            loaded.queues.push(queue.finish(number, &mut loaded.damage));
        }
        loaded
    }

    fn compare(&mut self, mark: &Mark) {
        if self.commit < mark.commit {
            let (commit, acknowledged) = (self.commit, mark.commit);
            self.damage.add(format!("the journal ends with commit {commit}, but {acknowledged} were acknowledged"));
        }
        for MarkedQueue { number, jobs, name } in &mark.queues {
            let queue = self.queues.entry(*number).or_default();
            queue.name.get_or_insert_with(|| name.clone());
            let first = queue.numbers.map_or(1, |(numbers, _)| numbers.jobs + 1);
            if first <= *jobs {
                self.damage.add(format!("{name} has fewer jobs than were acknowledged"));
                self.damage.missing.push((name.clone(), first..=*jobs));
            }
        }
    }
}

impl Pending {
    fn read(&mut self, table: Table, id: JobId, opened: Open<'_>) -> Option<()> {
        let sum = opened.sum;
        match table {
            Table::Numbers => self.numbers = Some(rows::read_numbers(opened)?),
            Table::Name => self.name = Some(rows::read_name(opened)?),
            Table::Put => {
                let mut row = rows::read_put(id, opened)?;
                row.print = rows::print_of(sum, None);
                row.entry.job.spec.data = Bytes::new();
                self.rows.insert(id, row);
            }
            Table::State => {
                let row = self.rows.get_mut(&id)?;
                rows::read_state(row, opened)?;
                row.print = rows::print_of(rows::put_sum(row.print), Some(sum));
                if let Phase::Finished { result } = &mut row.entry.phase {
                    *result = Bytes::new();
                }
            }
        }
        Some(())
    }

    fn finish(self, number: u32, damage: &mut Damage) -> Stored {
        let name = self.name(number);
        let sum = self.rows.values().fold(0, |sum: u64, row| sum.wrapping_add(row.print));
        let lost = Numbers { others: LOST_NUMBERS, ..Numbers::default() };
        let (numbers, written) = self.numbers.unwrap_or((lost, 0));
        let mut index = Index::new(Limits::default());
        index.remember_changes();
        index.set_numbers(numbers);
        let mut rows: Vec<_> = self.rows.into_values().collect();
        rows.sort_unstable_by_key(|row| row.place);
        rows.into_iter().for_each(|row| index.insert(row));
        if self.numbers.is_none() {
            damage.add(format!("the numbers of {name} are missing"));
        } else if sum != written {
            let (jobs, acknowledged) = (index.unfinished(), numbers.totals.unfinished());
            damage.add(format!(
                "jobs of {name} are missing or not as they were last written: {jobs} are unfinished, {acknowledged} should be"
            ));
        }
        Stored { number, name, index, sum }
    }
}
