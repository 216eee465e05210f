//! Serving badly on purpose, so that tests can show that the clients' account notices.

use std::collections::HashMap;

use clap::value_parser;

use super::connection::Connection;

/// What to do wrong, each counted over all deliveries.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Faults {
    /// Drop every Nth delivery
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    lossy: Option<u64>,
    /// Send every Nth delivery twice
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    duplicate: Option<u64>,
    /// Send every Nth delivery after the next one to the same subscriber
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

impl Saboteur {
    pub fn new(faults: Faults) -> Saboteur {
        Saboteur { faults, deliveries: 0, held: HashMap::new() }
    }

    pub fn send(&mut self, index: usize, connection: &mut Connection, frame: &[u8]) {
        self.deliveries += 1;
        let Faults { lossy, duplicate, reorder, corrupt } = self.faults;
        if self.is_due(lossy) {
            return;
        }
        if self.is_due(reorder) && !self.held.contains_key(&index) {
            self.held.insert(index, frame.to_vec());
            return;
        }
        if self.is_due(corrupt) {
            return connection.send(&altered(frame));
        }
        connection.send(frame);
        if self.is_due(duplicate) {
            connection.send(frame);
        }
        if let Some(late) = self.held.remove(&index) {
            connection.send(&late);
        }
    }

    fn is_due(&self, every: Option<u64>) -> bool {
        every.is_some_and(|n| self.deliveries.is_multiple_of(n))
    }
}

/// The data's last character stands before the closing quote and brace.
fn altered(frame: &[u8]) -> Vec<u8> {
    let mut altered = frame.to_vec();
    if let Some(at) = altered.len().checked_sub(3) {
        altered[at] ^= 1;
    }
    altered
}
