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
    /// The number that a log that nodes share has given; 0: none yet.
    seat: u64,
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
        let number = RandomState::new().hash_one(name).max(1);
        let (sender, told) = watch::channel(Told { mark, is_over: false });
        if let Some(before) = self.taken().insert(name.into(), Chair { number, seat: 0, told: sender }) {
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

    /// Who is there as far as the log knows, and the number that it gave each.
    pub fn sitters(&self) -> Vec<(Box<str>, u64)> {
        let taken = self.taken();
        let known = taken.iter().filter(|(_, chair)| chair.seat > 0);
        known.map(|(name, chair)| (name.clone(), chair.seat)).collect()
    }

    /// What the log said of those who were there. Answers which of them it does not know any more, though nobody has come since.
    pub fn heard(&self, sitters: &[(Box<str>, u64)], standings: &[Option<Standing>]) -> Vec<(Box<str>, u64)> {
        let taken = self.taken();
        let mut lost = Vec::new();
        for ((name, seat), standing) in sitters.iter().zip(standings) {
            let (Some(chair), Some(standing)) = (taken.get(name), standing) else { continue };
            if chair.seat != *seat {
                continue;
            }
            if standing.seat < *seat {
                lost.push((name.clone(), *seat));
            }
            let (mark, is_over) = (standing.mark, standing.seat > *seat);
            chair.told.send_if_modified(|told| {
                let before = (told.mark, told.is_over);
                (told.mark, told.is_over) = (told.mark.max(mark), told.is_over || is_over);
                before != (told.mark, told.is_over)
            });
        }
        lost
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Box<str>, Chair>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Takes it from whoever has it on another node, if there are others.
    pub async fn tell(&self, log: &dyn Log) -> Result<(), LogError> {
        // Whoever has taken over here tells it, too, and must not lose the seat to this one.
        let Some(shared) = log.shared().filter(|_| !self.told.borrow().is_over) else { return Ok(()) };
        let seat = shared.take_seat(&self.name).await?;
        if let Some(chair) = self.seats.taken().get_mut(&self.name).filter(|chair| chair.number == self.number) {
            chair.seat = seat;
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
        seats.taken().get_mut("a").expect("it is there").seat = 5;
        let sitters = seats.sitters();
        assert_eq!(sitters, [("a".into(), 5)]);
        let heard = |seat| seats.heard(&sitters, &[Some(Standing { mark: 7, seat })]);
        assert_eq!(heard(5), []);
        assert!(seat.told.borrow().mark == 7 && !seat.told.borrow().is_over);
        assert_eq!(seats.heard(&[("a".into(), 4)], &[Some(Standing { mark: 7, seat: 6 })]), []);
        assert!(!seat.told.borrow().is_over, "it was about an earlier one");
        assert_eq!(seats.heard(&sitters, &[None]), []);
        assert!(!seat.told.borrow().is_over, "nobody knows of it");
        assert_eq!([heard(4), heard(0)].concat(), [sitters.clone(), sitters.clone()].concat());
        assert!(!seat.told.borrow().is_over, "nobody has come since");
        assert_eq!(heard(6), []);
        assert!(seat.told.borrow().is_over);
    }
}
