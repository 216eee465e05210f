//! The numbers that order a node's stored publications, and which of them everybody has been shown.
//!
//! Stamps are drawn without a lock, by whoever holds the lock of a table. A publication that is going to be delivered
//! boards before it draws its stamp, so that there is no moment at which the stamp is drawn and its flight unknown.
//!
//! Always true: everything stored with a stamp up to [`Stamps::settled`] has been shown to every subscriber of this node,
//! and can be seen by whoever takes the lock of its table after asking.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::broker::{Flight, Tower};

/// No publication is in flight.
const NONE: u64 = u64::MAX;

/// The stamps of one node.
#[derive(Debug)]
pub struct Stamps {
    next: AtomicU64,
    /// No publication in flight has a stamp below this.
    oldest: AtomicU64,
    flights: Mutex<Flights>,
}

/// Publications in flight, in the order of boarding.
#[derive(Debug, Default)]
struct Flights {
    /// The number of the first in the queue.
    first: u64,
    /// What was the next stamp when each boarded; `None` once it has landed.
    queue: VecDeque<Option<u64>>,
}

impl Stamps {
    /// `next` is the first to be drawn, and not 0.
    pub fn from(next: u64) -> Arc<Stamps> {
        Arc::new(Stamps { next: next.into(), oldest: NONE.into(), flights: Mutex::default() })
    }

    /// A stamp higher than every one before it.
    pub fn draw(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// The next stamp to be drawn.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Everything up to here has been shown.
    pub fn settled(&self) -> u64 {
        // In this order: a flight that boards between the two loads draws a stamp that is not below `next`.
        let next = self.next();
        next.min(self.oldest.load(Ordering::SeqCst)) - 1
    }

    /// Nothing whose stamp is drawn from now on is settled until the flight is dropped.
    pub fn board(self: &Arc<Stamps>) -> Flight {
        let mut flights = self.flights();
        let floor = self.next();
        flights.queue.push_back(Some(floor));
        let number = flights.first + flights.queue.len() as u64 - 1;
        self.oldest.fetch_min(floor, Ordering::SeqCst);
        Flight::new(number, self.clone())
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().expect("no code panics while it holds the flights")
    }
}

impl Tower for Stamps {
    fn landed(&self, number: u64) {
        let mut flights = self.flights();
        let index = (number - flights.first) as usize;
        flights.queue[index] = None;
        while flights.queue.pop_front_if(|flight| flight.is_none()).is_some() {
            flights.first += 1;
        }
        let oldest = flights.queue.front().copied().flatten();
        self.oldest.store(oldest.unwrap_or(NONE), Ordering::SeqCst);
    }
}
