//! Request heads that never end, are too large, or are none.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Server, eventually, one_app};

/// A server that waits for a head for one second.
fn hasty() -> Server {
    Server::start(&format!("head_timeout_s = 1\n{}", one_app("")))
}

/// All that the server says until it closes.
fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("not closed: {error}"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

#[test]
fn bytes_that_are_no_request_are_answered_with_400() {
    let server = Server::start(&one_app(""));
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let garbage: [&[u8]; 6] = [
        tls_hello,
        b"\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nname without colon\r\n\r\n",
    ];
    for bytes in garbage {
        let mut stream = server.tcp();
        stream.write_all(bytes).expect("the bytes are sent");
        let answer = answer(&mut stream);
        assert_eq!(status(&answer), "400", "{answer:?} to {:?}", String::from_utf8_lossy(bytes));
    }
    server.connect().settle();
}

/// Also for one who sends everything before it reads anything: the answer must not be lost to a reset.
#[test]
fn a_flood_of_headers_is_answered_with_431() {
    let server = Server::start(&one_app(""));
    let many: String = (0..1000).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X: {}\r\n", "y".repeat(17 << 10));
    let endless = format!("X: {}\r\n", "y".repeat(1 << 20));
    for headers in [many, long, endless] {
        let mut stream = server.tcp();
        let head = format!("GET / HTTP/1.1\r\nHost: here\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).expect("the server reads what it refuses");
        let answer = answer(&mut stream);
        assert_eq!(status(&answer), "431", "{answer:?} to {} bytes", head.len());
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_answered_with_408() {
    let server = hasty();
    let mut slow: Vec<_> = (0..50).map(|_| server.tcp()).collect();
    let began = Instant::now();
    for byte in format!("GET {} HTTP/1.1\r\nHost", super::PATH).bytes().take(8) {
        slow.iter_mut().for_each(|stream| stream.write_all(&[byte]).expect("the byte is sent"));
        thread::sleep(Duration::from_millis(50));
    }
    server.connect().settle();
    for stream in &mut slow {
        assert_eq!(status(&answer(stream)), "408");
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "whoever is quicker than a second may stay");
}

#[test]
fn peers_that_connect_and_say_nothing_are_let_go() {
    // So many that what the server touches for the first time meanwhile does not count.
    const SILENT: usize = 1_500;
    let server = hasty();
    let (sockets, rss) = (server.open_sockets(), server.rss_bytes());
    let mut silent: Vec<_> = (0..SILENT).map(|_| server.tcp()).collect();
    server.connect().settle();
    let grown = || server.rss_bytes().saturating_sub(rss) / SILENT as u64;
    // A task, a socket in the runtime's tables, a buffer that has not begun: far from the 16 KiB that a head may have.
    let waiting = grown();
    assert!(waiting < 8 << 10, "{waiting} bytes for each peer whose head is awaited");
    for stream in &mut silent {
        assert_eq!(status(&answer(stream)), "408");
    }
    // They have heard why, and have not gone yet.
    let refused = grown();
    assert!(refused < 8 << 10, "{refused} bytes for each peer that was refused");
    println!("{SILENT} silent peers: {waiting} bytes each, {refused} once refused");
    drop(silent);
    eventually("their sockets are closed", || server.open_sockets() <= sockets);
}

/// Refused and still there: the server's patience with those who read nothing has an end too.
#[test]
fn refused_peers_that_stay_are_let_go() {
    let server = hasty();
    let sockets = server.open_sockets();
    let refused: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = server.tcp();
            stream.write_all(b"\0").expect("the byte is sent");
            stream
        })
        .collect();
    eventually("they are let in", || server.open_sockets() > sockets);
    let began = Instant::now();
    eventually("their sockets are closed", || server.open_sockets() <= sockets);
    assert!(began.elapsed() < PATIENCE);
    drop(refused);
}
