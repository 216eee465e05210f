//! Consumers that acknowledge: each has one seat, and the last to come takes it.
//!
//! Where nodes share a log, a seat is taken there too, and whoever has it here is told what other nodes did.
//!
//! Not here: their marks, which are in the log.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fanfare_jobs::LogError;
use fanfare_jobs::log::{Log, Standing};
use tokio::sync::watch;

/// The seats of one app's consumers.
#[derive(Debug, Default)]
pub struct Seats(Mutex<HashMap<Box<str>, Chair>>);

#[derive(Debug)]
struct Chair {
    number: u64,
    /// Whether the log knows of it.
    is_known: bool,
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
        // Other nodes give numbers, too.
        let number = RandomState::new().hash_one(name).max(1);
        let (sender, told) = watch::channel(Told { mark, is_over: false });
        if let Some(before) = self.taken().insert(name.into(), Chair { number, is_known: false, told: sender }) {
            before.told.send_modify(|told| told.is_over = true);
        }
        Seat { seats: self.clone(), number, name: name.into(), told }
    }

    /// A consumer has done with everything up to here.
    pub fn marked(&self, name: &str, mark: u64) {
        if let Some(chair) = self.taken().get(name) {
            chair.told.send_modify(|told| told.mark = told.mark.max(mark));
        }
    }

    /// Who is there, and the mark of each; so many at most.
    pub fn marks(&self, max: usize) -> Vec<(Box<str>, u64)> {
        self.taken().iter().take(max).map(|(name, chair)| (name.clone(), chair.told.borrow().mark)).collect()
    }

    /// Who is there, as far as the log knows.
    pub fn sitters(&self) -> Vec<(Box<str>, u64)> {
        let taken = self.taken();
        let known = taken.iter().filter(|(_, chair)| chair.is_known);
        known.map(|(name, chair)| (name.clone(), chair.number)).collect()
    }

    /// What the log said of those who were there.
    pub fn heard(&self, sitters: &[(Box<str>, u64)], standings: &[Option<Standing>]) {
        let taken = self.taken();
        for ((name, number), standing) in sitters.iter().zip(standings) {
            let (Some(chair), Some(standing)) = (taken.get(name), standing) else { continue };
            if chair.number == *number {
                let mark = standing.mark;
                let is_over = standing.seat != *number;
                chair.told.send_if_modified(|told| {
                    let before = (told.mark, told.is_over);
                    (told.mark, told.is_over) = (told.mark.max(mark), told.is_over || is_over);
                    before != (told.mark, told.is_over)
                });
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Box<str>, Chair>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Takes it from whoever has it on another node, if there are others.
    pub async fn tell(&self, log: &dyn Log) -> Result<(), LogError> {
        let Some(shared) = log.shared() else { return Ok(()) };
        shared.take_seat(&self.name, self.number).await?;
        if let Some(chair) = self.seats.taken().get_mut(&self.name).filter(|chair| chair.number == self.number) {
            chair.is_known = true;
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if taken.get(&self.name).is_some_and(|chair| chair.number == self.number) {
            taken.remove(&self.name);
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

    #[test]
    fn what_another_node_did_is_told_to_whom_it_is_about() {
        let seats = Arc::new(Seats::default());
        let seat = seats.take("a", 3);
        assert_eq!(seats.sitters(), [], "the log does not know it yet");
        let sitters = [("a".into(), seat.number)];
        let standing = |seat| [Some(Standing { mark: 7, seat })];
        seats.heard(&sitters, &standing(seat.number));
        assert!(seat.told.borrow().mark == 7 && !seat.told.borrow().is_over);
        seats.heard(&[("a".into(), seat.number ^ 1)], &standing(1));
        assert!(!seat.told.borrow().is_over, "it was about an earlier one");
        seats.heard(&sitters, &[None]);
        assert!(!seat.told.borrow().is_over, "nobody knows of it");
        seats.heard(&sitters, &standing(seat.number ^ 1));
        assert!(seat.told.borrow().is_over);
    }
}
