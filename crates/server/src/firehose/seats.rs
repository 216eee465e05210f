//! Consumers that acknowledge: each has one seat, and the last to come takes it.
//!
//! Not here: their marks, which are in the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The seats of one app's consumers.
#[derive(Debug, Default)]
pub struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    last: u64,
    by_name: HashMap<Box<str>, Chair>,
}

#[derive(Debug)]
struct Chair {
    number: u64,
    told: watch::Sender<Told>,
}

/// What who sits there is told.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The last entry that the consumer has done with.
    pub mark: u64,
    /// Somebody else has the seat.
    pub is_over: bool,
}

/// A seat, until it is dropped or another takes it.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    number: u64,
    /// The consumer.
    pub name: Box<str>,
    /// What it is told.
    pub told: watch::Receiver<Told>,
}

impl Seats {
    /// Takes a consumer's seat, from whoever has it.
    pub fn take(self: &Arc<Self>, name: &str, mark: u64) -> Seat {
        let mut taken = self.taken();
        taken.last += 1;
        let number = taken.last;
        let (sender, told) = watch::channel(Told { mark, is_over: false });
        if let Some(before) = taken.by_name.insert(name.into(), Chair { number, told: sender }) {
            before.told.send_modify(|told| told.is_over = true);
        }
        Seat { seats: self.clone(), number, name: name.into(), told }
    }

    /// A consumer has done with everything up to here.
    pub fn marked(&self, name: &str, mark: u64) {
        if let Some(chair) = self.taken().by_name.get(name) {
            chair.told.send_modify(|told| told.mark = told.mark.max(mark));
        }
    }

    /// Who is there, and the mark of each; so many at most.
    pub fn marks(&self, max: usize) -> Vec<(Box<str>, u64)> {
        let taken = self.taken();
        taken.by_name.iter().take(max).map(|(name, chair)| (name.clone(), chair.told.borrow().mark)).collect()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if taken.by_name.get(&self.name).is_some_and(|chair| chair.number == self.number) {
            taken.by_name.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_takes_the_seat_and_the_older_is_told() {
        let seats = Arc::new(Seats::default());
        let first = seats.take("a", 3);
        let second = seats.take("a", 3);
        assert!(first.told.borrow().is_over && !second.told.borrow().is_over);
        drop(first);
        seats.marked("a", 9);
        seats.marked("a", 5);
        assert_eq!(second.told.borrow().mark, 9);
        assert_eq!(seats.marks(1), [("a".into(), 9)]);
        drop(second);
        assert_eq!(seats.marks(1), []);
    }
}
