//! Serving badly on purpose, so that tests can show that the clients' account notices.

use std::collections::HashMap;

use clap::value_parser;

use super::connection::Connection;
use super::publication::{Form, Publication};
use crate::transport::Transport;

/// What to do wrong, each counted over all deliveries.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Faults {
    /// Drop every Nth delivery
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    lossy: Option<u64>,
    /// Send every Nth delivery twice
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    duplicate: Option<u64>,
    /// Send every Nth delivery after the next one to the same subscriber (not to pollers)
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(2..))]
    reorder: Option<u64>,
    /// Alter the last character of every Nth delivery
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    corrupt: Option<u64>,
}

impl Faults {
    pub fn any(&self) -> bool {
        [self.lossy, self.duplicate, self.reorder, self.corrupt].iter().any(Option::is_some)
    }
}

/// Stands between the loop and the sockets.
pub struct Saboteur {
    faults: Faults,
    deliveries: u64,
    /// Held back until the subscriber's next one.
    held: HashMap<usize, Vec<u8>>,
}

/// What became of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    Answered,
    StillWaits,
}

impl Saboteur {
    pub fn new(faults: Faults) -> Saboteur {
        Saboteur { faults, deliveries: 0, held: HashMap::new() }
    }

    pub fn send(&mut self, index: usize, connection: &mut Connection, form: &Form) {
        let frame = &form.bytes;
        self.deliveries += 1;
        let Faults { lossy, duplicate, reorder, corrupt } = self.faults;
        if self.is_due(lossy) {
            return;
        }
        if self.is_due(reorder) && !self.held.contains_key(&index) {
            self.held.insert(index, frame.clone());
            return;
        }
        if self.is_due(corrupt) {
            return connection.send(&altered(form));
        }
        connection.send(frame);
        if self.is_due(duplicate) {
            connection.send(frame);
        }
        if let Some(late) = self.held.remove(&index) {
            connection.send(&late);
        }
    }

    /// The same for a poll. A poller has one answer at a time: what it misses it is not told of later, what it gets twice it
    /// asks for twice, because the first answer's cursor was the one before; and nothing can overtake.
    pub fn answer(&mut self, connection: &mut Connection, publication: &Publication) -> Poll {
        self.deliveries += 1;
        let Faults { lossy, duplicate, corrupt, .. } = self.faults;
        if self.is_due(lossy) {
            return Poll::StillWaits;
        }
        let form = publication.form(Transport::Longpoll);
        if self.is_due(corrupt) {
            connection.send(&altered(form));
        } else if self.is_due(duplicate) {
            connection.send(&publication.answer(publication.offset - 1).bytes);
        } else {
            connection.send(&form.bytes);
        }
        Poll::Answered
    }

    fn is_due(&self, every: Option<u64>) -> bool {
        every.is_some_and(|n| self.deliveries.is_multiple_of(n))
    }
}

/// With another last character of the data.
fn altered(form: &Form) -> Vec<u8> {
    let mut altered = form.bytes.clone();
    if let Some(character) = altered.get_mut(form.last) {
        *character ^= 1;
    }
    altered
}
