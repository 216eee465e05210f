//! A subscriber that reads nothing costs its outbox and its place, and nobody else anything.

use super::{Ledger, expect_number, number, publish_number};
use crate::support::{Server, Socket, eventually, one_app, opcode};

const PUBLISHED: usize = 400;
const READERS: usize = 10;

/// The kernel and 64 KiB of outbox hold far less than the 400 × 8 KiB that are published.
#[test]
fn a_subscriber_that_never_reads_is_closed_and_counted() {
    let server = Server::start(&format!("outbox_bytes_max = 65536\ndeflate = false\n{}", one_app("")));
    let mut slow = server.connect();
    slow.subscribe("room");
    let mut readers: Vec<_> = (0..READERS).map(|_| server.connect()).collect();
    readers.iter_mut().for_each(|reader| reader.subscribe("room"));

    for n in 0..PUBLISHED {
        publish_number(&server, "room", n, 8 << 10);
        readers.iter_mut().for_each(|reader| expect_number(reader, n));
    }

    assert_eq!(server.metric("fanfare_connections_closed_total{reason=\"slow_consumer\"}"), 1.0);
    eventually("the others are there", || server.metric("fanfare_connections") == READERS as f64);
    let ledger = Ledger::at_rest(&server);
    let heard = heard_by(slow);
    println!("published {PUBLISHED}, delivered {} to {READERS} readers, lost 0", PUBLISHED * READERS);
    println!("the slow one heard {heard}; {ledger:?}");
    let to_slow = ledger.written as usize - PUBLISHED * READERS;
    assert!(ledger.dropped > 0 && to_slow <= heard && heard < PUBLISHED, "what the kernel took was heard");
}

/// Reads what is left for a subscriber: the first publications, in order, and no gap between them.
fn heard_by(mut socket: Socket) -> usize {
    let mut heard = 0;
    while let Some(frame) = socket.ws.frame() {
        if frame.opcode == opcode::TEXT {
            let message = serde_json::from_slice(&frame.payload).expect("a message is JSON");
            assert_eq!(number(&message), heard);
            heard += 1;
        }
    }
    heard
}

#[test]
fn a_subscriber_of_a_channel_that_keeps_the_newest_stays() {
    let keys = "keep_newest = [\"price-*\"]";
    let server = Server::start(&format!("outbox_bytes_max = 65536\ndeflate = false\n{}", one_app(keys)));
    let mut slow = server.connect();
    slow.subscribe("price-gold");
    for n in 0..PUBLISHED {
        publish_number(&server, "price-gold", n, 8 << 10);
    }
    let mut last = None;
    while last != Some(PUBLISHED - 1) {
        let next = number(&slow.recv());
        assert!(last.is_none_or(|last| last < next), "{next} after {last:?}");
        last = Some(next);
    }
    slow.settle();
    let ledger = Ledger::at_rest(&server);
    println!("published {PUBLISHED} to one slow reader, the newest heard; {ledger:?}");
    assert_eq!(ledger.owed, PUBLISHED as u64);
}
