//! How far this node has come in each unit: up to which stamp all that it is subscribed to has been shown.
//!
//! A unit's messages arrive in the order of their stamps. Each boards when it arrives and lands when all have been shown it;
//! what is behind the newest arrival and not in flight is settled. A doubt is a flight for what may have been missed: nothing is
//! settled beyond it until it has been filled or told.
//!
//! A cursor of one unit is used in others too, with [`SKEW_US`] taken off for clocks that differ. So no unit's stamps are called
//! settled that are far ahead of what is settled in another: half of the skew is for clocks, half for this.
//!
//! Always true: everything stored in a unit with a stamp up to [`Stamps::settled`], on channels that this node has been
//! subscribed to since, has been shown to all of its subscribers, or they have been told of a gap.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use fanfare_hub::broker::{Flight, Tower};

use super::UnitIx;

/// What is taken off a cursor's stamp where it is used in another unit than it was made in.
pub const SKEW_US: u64 = 10_000_000;

/// The progress of a node in all units.
#[derive(Debug, Default)]
pub struct Stamps {
    units: Mutex<HashMap<UnitIx, Arc<Unit>>>,
}

/// The progress in one unit.
#[derive(Debug, Default)]
struct Unit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The stamp that arrived last; `None` before anything of the unit is subscribed to.
    last: Option<u64>,
    /// By the stamp that each has or is not below.
    flights: BTreeSet<(u64, u64)>,
    /// By number: the stamps of `flights`.
    floors: HashMap<u64, u64>,
    boarded: u64,
    /// No more is settled than this, as far as other units go.
    cap: u64,
}

impl State {
    fn settled(&self) -> Option<u64> {
        let last = self.last?;
        Some(self.flights.first().map_or(last, |(floor, _)| last.min(floor - 1)))
    }
}

impl Unit {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a unit's stamps")
    }

    fn board(self: &Arc<Unit>, floor: u64) -> Flight {
        let mut state = self.state();
        state.boarded += 1;
        let number = state.boarded;
        state.flights.insert((floor, number));
        state.floors.insert(number, floor);
        Flight::new(number, self.clone())
    }
}

impl Tower for Unit {
    fn landed(&self, number: u64) {
        let mut state = self.state();
        if let Some(floor) = state.floors.remove(&number) {
            state.flights.remove(&(floor, number));
        }
    }
}

impl Stamps {
    fn unit(&self, unit: UnitIx) -> Arc<Unit> {
        let mut units = self.units.lock().expect("no code panics while it holds the units");
        units.entry(unit).or_default().clone()
    }

    /// This node listens to the unit from this stamp on; nothing new if it did before.
    pub fn listen(&self, unit: UnitIx, stamp: u64) {
        self.unit(unit).state().last.get_or_insert(stamp);
    }

    /// A publication has arrived that is to be shown.
    pub fn board(&self, unit: UnitIx, stamp: u64) -> Flight {
        let unit = self.unit(unit);
        let flight = unit.board(stamp);
        let mut state = unit.state();
        state.last = state.last.map(|last| last.max(stamp));
        drop(state);
        flight
    }

    /// Everything up to this stamp has arrived.
    pub fn arrived(&self, unit: UnitIx, stamp: u64) {
        let unit = self.unit(unit);
        let mut state = unit.state();
        state.last = state.last.map(|last| last.max(stamp));
    }

    /// Something after this stamp may have been missed, until this is dropped.
    pub fn doubt(&self, unit: UnitIx, stamp: u64) -> Flight {
        self.unit(unit).board(stamp + 1)
    }

    /// As [`Stamps::doubt`], of all that has not arrived yet.
    pub fn doubt_from_here(&self, unit: UnitIx) -> Option<Flight> {
        let last = self.unit(unit).state().last?;
        Some(self.doubt(unit, last))
    }

    /// Up to where all has been shown: not beyond `stamp`, which is the last of the unit that is known otherwise.
    pub fn settled(&self, unit: UnitIx, stamp: u64) -> u64 {
        let unit = self.unit(unit);
        let state = unit.state();
        let settled = state.settled().map_or(stamp, |settled| settled.min(stamp));
        if state.cap > 0 { settled.min(state.cap) } else { settled }
    }

    /// Holds each unit back by what is settled in the others. What this leaves is safe until it is called again, as nothing
    /// becomes unsettled.
    pub fn level(&self) {
        let units: Vec<_> =
            self.units.lock().expect("no code panics while it holds the units").values().cloned().collect();
        let slowest = units.iter().filter_map(|unit| unit.state().settled()).min();
        let cap = slowest.map_or(0, |slowest| slowest + SKEW_US / 2);
        units.iter().for_each(|unit| unit.state().cap = cap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: UnitIx = UnitIx(1);
    const TWO: UnitIx = UnitIx(2);
    const MAX: u64 = u64::MAX;

    #[test]
    fn what_is_in_flight_is_not_settled() {
        let stamps = Stamps::default();
        assert_eq!(stamps.settled(ONE, 7), 7, "who listens to nothing has missed nothing");
        stamps.listen(ONE, 10);
        let (first, second) = (stamps.board(ONE, 20), stamps.board(ONE, 30));
        assert_eq!(stamps.settled(ONE, MAX), 19);
        drop(second);
        assert_eq!(stamps.settled(ONE, MAX), 19);
        drop(first);
        assert_eq!((stamps.settled(ONE, MAX), stamps.settled(ONE, 25)), (30, 25));
        stamps.arrived(ONE, 40);
        assert_eq!((stamps.settled(ONE, MAX), stamps.settled(TWO, MAX)), (40, MAX));
    }

    #[test]
    fn a_doubt_holds_back_what_came_after_it() {
        let stamps = Stamps::default();
        stamps.listen(ONE, 10);
        let doubt = stamps.doubt_from_here(ONE);
        drop(stamps.board(ONE, 30));
        assert_eq!(stamps.settled(ONE, MAX), 10);
        drop(doubt);
        assert_eq!(stamps.settled(ONE, MAX), 30);
        assert!(stamps.doubt_from_here(TWO).is_none());
    }

    #[test]
    fn a_unit_is_not_far_ahead_of_another() {
        let stamps = Stamps::default();
        stamps.listen(ONE, 10);
        stamps.listen(TWO, 10);
        stamps.arrived(ONE, 10 * SKEW_US);
        stamps.level();
        assert_eq!(stamps.settled(ONE, MAX), 10 + SKEW_US / 2);
        stamps.arrived(TWO, 10 * SKEW_US);
        stamps.level();
        assert_eq!(stamps.settled(ONE, MAX), 10 * SKEW_US);
    }
}
