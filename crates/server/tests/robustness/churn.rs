//! Fifty thousand who come, subscribe and go, each in its own way, and leave nothing behind.

use std::thread;
use std::time::Duration;

use super::{PATH, expect_empty, reset};
use crate::support::{Server, Socket, eventually, one_app, opcode};

/// Come and gone after the warm-up, by threads that have this many connected at once, together.
const VISITS: usize = 50_000;
const AT_ONCE: usize = 400;
const THREADS: usize = 4;

/// Until the tables have their full size and the allocator's arenas their largest: over 200,000 visits after so many, memory
/// grew by less than half a megabyte.
const WARM_UP: usize = 72_000;

/// What arenas may still grow by, as loops meet connections in another order each time. It is 42 bytes a visit, less than
/// the smallest thing that is kept for a connection or a channel.
const TOLERANCE_BYTES: u64 = 2 << 20;

#[test]
fn fifty_thousand_visitors_leave_nothing_behind() {
    let server = Server::start(&one_app(""));
    visit(&server, 0..WARM_UP);
    let (files, rss) = at_rest(&server);
    visit(&server, WARM_UP..WARM_UP + VISITS);
    let (files_after, rss_after) = at_rest(&server);
    let accepted = server.metric("fanfare_connections_accepted_total");
    println!("{accepted} visits; from visit {WARM_UP} on: files {files} → {files_after}, RSS {rss} → {rss_after}");
    assert_eq!(accepted, (WARM_UP + VISITS) as f64);
    assert!(files_after <= files, "files are left open");
    assert!(rss_after <= rss + TOLERANCE_BYTES, "memory is not given back");
    server.connect().subscribe("room");
}

/// Open files and memory once the tables are empty and every goodbye has been said.
fn at_rest(server: &Server) -> (usize, u64) {
    expect_empty(server);
    let mut before = usize::MAX;
    eventually("no socket is left", || {
        let files = server.open_files();
        std::mem::replace(&mut before, files) == files && {
            // Channels stay subscribed at the broker for a second, closed sockets for two.
            thread::sleep(Duration::from_millis(2500));
            server.open_files() == files
        }
    });
    (before, server.rss_bytes())
}

fn visit(server: &Server, visits: std::ops::Range<usize>) {
    let share = visits.len() / THREADS;
    thread::scope(|scope| {
        for from in visits.step_by(share) {
            scope.spawn(move || (from..from + share).step_by(AT_ONCE / THREADS).for_each(|from| wave(server, from)));
        }
    });
}

/// All come and subscribe, and only then do they go.
fn wave(server: &Server, from: usize) {
    let mut visitors: Vec<_> = (from..from + AT_ONCE / THREADS).map(|n| (n, server.connect_to(PATH))).collect();
    for (n, socket) in &mut visitors {
        subscribe(socket, *n);
    }
    for (n, socket) in visitors {
        leave(socket, n);
    }
}

/// To a channel that everybody knows, one that nobody else will ever name, or a presence channel.
fn subscribe(socket: &mut Socket, n: usize) {
    match n % 4 {
        0 => socket.subscribe("everybody"),
        1 => _ = socket.join(&format!("presence-{}", n / 64), &format!("{{\"user_id\":\"{n}\"}}")),
        _ => socket.subscribe(&format!("only-{n}")),
    }
}

fn leave(mut socket: Socket, n: usize) {
    match n % 5 {
        0 => {
            socket.ws.close(1000);
            while socket.ws.frame().is_some_and(|frame| frame.opcode != opcode::CLOSE) {}
        }
        1 | 2 => reset(&socket.ws.stream),
        // The header of a frame, and half of what it announces.
        3 => socket.ws.send_bytes(&[0x81, 0x80 | 4, 0, 0, 0, 0, b'{', b'"']),
        _ => {}
    }
}
