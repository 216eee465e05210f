//! A server that runs out of file descriptors.

use serde_json::json;

use super::PATH;
use crate::support::{Server, Socket, WebSocket, eventually, one_app};

const FILES_MAX: usize = 64;

/// Those that no client gets: an eighth of the limit.
const RESERVED: usize = FILES_MAX / 8;

#[test]
fn without_files_to_spare_those_inside_are_served_and_others_come_back() {
    let server =
        Server::start_with_files(&one_app("client_events = true\nlimits = { client_events_per_s = 1000 }"), FILES_MAX);
    let (mut ann, mut bob) = (member(&server), member(&server));
    let mut rest = Vec::new();
    let refusal = loop {
        match WebSocket::open(server.addr, PATH, &[]) {
            Ok(socket) => rest.push(Socket::established(socket)),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.status, 503, "{refusal:?}");
    let seconds = refusal.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| (1..=5).contains(&seconds)), "{refusal:?}");
    eventually("the server says why", || server.log().contains("limit of open files"));
    assert!(server.open_files() >= FILES_MAX - RESERVED, "what there was has been used: {}", server.open_files());
    for n in 0..100 {
        ann.say_on("private-room", "client-n", json!(n));
        assert_eq!(bob.expect_event("client-n")["data"], n.to_string());
    }

    println!("{FILES_MAX} files, {} connections, 100 events delivered among them, lost 0", rest.len() + 2);
    rest.truncate(rest.len() / 2);
    eventually("somebody is let in when others have left", || WebSocket::open(server.addr, PATH, &[]).is_ok());
    member(&server).settle();
    ann.settle();
}

fn member(server: &Server) -> Socket {
    let mut socket = server.connect();
    socket.subscribe("private-room");
    socket
}
