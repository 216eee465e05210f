//! WebSocket peers that send too much, announce too much, or never read.

use std::io::Write;

use super::PATH;
use crate::support::{Server, Socket, eventually, one_app};

const TEXT: u8 = 0x81;
const TEXT_BEGINS: u8 = 0x01;
const CONTINUES: u8 = 0x00;

/// The largest message by default: six times the payload limit, and 8 KiB.
const MESSAGE_BYTES_MAX: usize = 6 * (10 << 10) + (8 << 10);

/// The header of a masked text frame that announces this much, and nothing after it.
fn announcement(len: u64) -> Vec<u8> {
    let mut header = vec![TEXT, 0x80 | 127];
    header.extend(len.to_be_bytes());
    header.extend([1, 2, 3, 4]);
    header
}

#[test]
fn a_message_that_is_too_large_closes_with_1009() {
    let server = Server::start(&one_app(""));
    let mut whole = server.connect();
    whole.ws.send_frame(TEXT, &vec![b' '; MESSAGE_BYTES_MAX + 1]);
    whole.expect_close(1009);

    let mut parts = server.connect();
    parts.ws.send_frame(TEXT_BEGINS, &vec![b' '; MESSAGE_BYTES_MAX / 2]);
    parts.ws.send_frame(CONTINUES, &vec![b' '; MESSAGE_BYTES_MAX / 2]);
    parts.ws.send_frame(CONTINUES, b"   ");
    parts.expect_close(1009);
}

/// A message of the largest size is heard: it is no JSON, and the connection stays.
#[test]
fn a_message_of_the_largest_size_is_heard() {
    let server = Server::start(&one_app(""));
    let mut socket = server.connect();
    socket.ws.send_frame(TEXT, &vec![b' '; MESSAGE_BYTES_MAX]);
    socket.expect_error();
    socket.settle();
}

#[test]
fn a_huge_announced_length_costs_nothing() {
    const PEERS: usize = 200;
    let server = Server::start(&one_app(""));
    let mut peers: Vec<_> = (0..PEERS).map(|_| server.connect()).collect();
    let rss = server.rss_bytes();
    for (n, peer) in peers.iter_mut().enumerate() {
        peer.ws.send_bytes(&announcement(1 << (20 + n % 40)));
    }
    peers.iter_mut().for_each(|peer| peer.expect_close(1009));
    let grown = server.rss_bytes().saturating_sub(rss);
    println!("{PEERS} announcements of 1 MiB to 512 PiB: {grown} bytes");
    // Two hundred times the smallest of them would be 200 MiB; sockets that say goodbye and the allocator take some KiB.
    assert!(grown < 4 << 20);
}

/// What is allowed and announced, but not sent, is not held ready either.
#[test]
fn room_is_made_as_bytes_arrive() {
    const PEERS: usize = 200;
    let server = Server::start(&one_app(""));
    let mut peers: Vec<_> = (0..PEERS).map(|_| server.connect()).collect();
    let rss = server.rss_bytes();
    for peer in &mut peers {
        peer.ws.send_bytes(&announcement(MESSAGE_BYTES_MAX as u64));
        peer.ws.send_bytes(b"only this");
    }
    server.connect().settle();
    let grown = server.rss_bytes().saturating_sub(rss);
    println!("{PEERS} messages begun: {grown} bytes");
    // All of it at once would be 13.6 MiB.
    assert!(grown < 4 << 20);
}

#[test]
fn pings_of_a_client_that_never_reads_do_not_pile_up() {
    // The answers to one burst fit into the outbox; only what is not read fills it.
    const BURST: usize = 64;
    let server = Server::start(&format!("outbox_bytes_max = 16384\n{}", one_app("")));
    let mut deaf = server.connect();
    let burst: Vec<u8> = (0..BURST).flat_map(|_| ping()).collect();
    let rss = server.rss_bytes();
    let mut sent = 0;
    eventually("the client is closed as a slow consumer", || {
        // It may be closed by now, which the metric tells.
        sent += deaf.ws.stream.write_all(&burst).map_or(0, |()| BURST);
        server.metric("fanfare_connections_closed_total{reason=\"slow_consumer\"}") == 1.0
    });
    let grown = server.rss_bytes().saturating_sub(rss);
    println!("{sent} pings that were never read: {grown} bytes");
    // An outbox has 16 KiB here; the kernel's buffers do not count.
    assert!(grown < 4 << 20);
    server.connect().settle();
}

/// The largest ping, so that the answers fill the kernel's buffers soon.
fn ping() -> Vec<u8> {
    let mut frame = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    frame.extend([b'p'; 125]);
    frame
}

/// Half of a frame, a frame of an unknown kind, a frame that is not masked: each harms its own connection only.
#[test]
fn broken_frames_harm_nobody_else() {
    let server = Server::start(&one_app(""));
    let mut other = server.connect();
    other.subscribe("room");
    let broken: [&[u8]; 4] = [&[0x81], &[0x83, 0x80, 0, 0, 0, 0], &[0x81, 0x01, b'x'], &[0xf1, 0x80, 0, 0, 0, 0]];
    for bytes in broken {
        let mut socket = Socket::established(server.websocket(PATH));
        socket.ws.send_bytes(bytes);
        socket.ws.hang_up();
        while socket.ws.frame().is_some() {}
    }
    server.publish("room", "said", "still here");
    other.expect(r#"{"event":"said","channel":"room","data":"still here"}"#);
}
