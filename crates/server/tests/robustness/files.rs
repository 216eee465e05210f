//! A server that runs out of file descriptors.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::PATH;
use crate::support::{Server, Socket, eventually, one_app};

const FILES_MAX: usize = 64;

#[test]
fn without_files_to_spare_those_inside_are_served_and_others_wait() {
    let server =
        Server::start_with_files(&one_app("client_events = true\nlimits = { client_events_per_s = 1000 }"), FILES_MAX);
    let (mut ann, mut bob) = (member(&server), member(&server));
    let mut rest: Vec<_> = (server.open_files()..FILES_MAX).map(|_| server.connect_to(PATH)).collect();
    assert_eq!(server.open_files(), FILES_MAX);

    // The kernel takes it in; the server cannot.
    let mut waiting = server.tcp();
    let handshake = format!(
        "GET {PATH} HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    waiting.write_all(handshake.as_bytes()).expect("the kernel takes the handshake");
    eventually("the server says why it accepts nobody", || server.log().contains("limit of open files"));
    for n in 0..100 {
        ann.say_on("private-room", "client-n", json!(n));
        assert_eq!(bob.expect_event("client-n")["data"], n.to_string());
    }

    println!("{FILES_MAX} files, {} connections, 100 events delivered among them, lost 0", rest.len() + 2);
    rest.truncate(rest.len() / 2);
    waiting.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out can be set");
    let mut begins = [0; 12];
    std::io::Read::read_exact(&mut waiting, &mut begins).expect("it is let in when others have left");
    assert_eq!(&begins, b"HTTP/1.1 101");
    member(&server).settle();
    ann.settle();
}

fn member(server: &Server) -> Socket {
    let mut socket = server.connect();
    socket.subscribe("private-room");
    socket
}
