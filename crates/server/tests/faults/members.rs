//! F18, and what others see of members whose node goes: ghosts leave soon, and who comes back has never left.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::show::config;
use crate::support::redis::Redis;
use crate::support::{KEY, Nodes, PATIENCE, Socket, WebSocket, eventually, inner, opcode};

const ROOM: &str = "presence-room";

/// A lease, and some time for a busy machine to notice that it has ended. On an idle one it takes less than 5 s.
const GHOSTS_GONE_WITHIN: Duration = Duration::from_secs(12);

fn member(nodes: &Nodes, node: usize, user: &str) -> Socket {
    let target = format!("/app/{KEY}?protocol=7");
    let mut socket = Socket::established(WebSocket::open(nodes.addr(node), &target, &[]).expect("a socket"));
    socket.join(ROOM, &json!({"user_id": user}).to_string());
    socket
}

fn users(nodes: &Nodes, node: usize) -> BTreeSet<String> {
    let answer = nodes.node(node).get(&format!("/channels/{ROOM}/users"), &[]).json();
    let users = answer["users"].as_array().into_iter().flatten();
    users.map(|user| user["id"].as_str().expect("an id").to_owned()).collect()
}

fn names(who: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{who}-{n}")).collect()
}

/// What a member hears of others until nothing new has come for a while.
fn heard(socket: &mut Socket, silence: Duration) -> Vec<(String, String)> {
    let mut heard = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < silence && Instant::now() < deadline {
        let Ok(frame) = socket.ws.frame_within(Duration::from_millis(200)) else { continue };
        let frame = frame.expect("an observer's connection stays");
        match frame.opcode {
            opcode::PING => socket.ws.pong(&frame.payload),
            opcode::TEXT => {
                let message: Value = serde_json::from_slice(&frame.payload).expect("JSON");
                let event = message["event"].as_str().unwrap_or_default();
                if event == "pusher:ping" {
                    socket.say("pusher:pong", json!({}));
                } else if event.starts_with("pusher_internal:member") {
                    let user = inner(&message)["user_id"].as_str().expect("a user").to_owned();
                    heard.push((event.trim_start_matches("pusher_internal:member_").to_owned(), user));
                    quiet_since = Instant::now();
                }
            }
            _ => panic!("{frame:?}"),
        }
    }
    heard
}

#[test]
fn ghosts_of_a_killed_node_leave_and_who_comes_back_has_not_left() {
    let [one, two] = Redis::pair();
    let mut nodes = Nodes::start(&format!("{},{}", one.url(), two.url()), 3, &config());
    let _others: Vec<_> = names("other", 5).iter().map(|user| member(&nodes, 2, user)).collect();
    let (coming, going) = (names("coming", 10), names("going", 10));
    let _first: Vec<_> = coming.iter().chain(&going).map(|user| member(&nodes, 1, user)).collect();
    let mut observer = member(&nodes, 0, "observer");
    assert_eq!(users(&nodes, 0).len(), 26);

    let killed = Instant::now();
    nodes.kill(1);
    let _back: Vec<_> = coming.iter().map(|user| member(&nodes, 2, user)).collect();
    println!("F18: {} members are back after {:.1?}", coming.len(), killed.elapsed());
    eventually("the ghosts have left", || users(&nodes, 2).len() == 16);
    let gone = killed.elapsed();
    let heard = heard(&mut observer, Duration::from_secs(2));
    println!("F18: 10 ghosts gone after {gone:.1?}; the observer heard {} changes", heard.len());
    let mut left: Vec<_> = heard.iter().map(|(event, user)| (event.as_str(), user.as_str())).collect();
    left.sort_unstable();
    let wanted: Vec<_> = going.iter().map(|user| ("removed", user.as_str())).collect();
    assert_eq!(left, wanted, "each ghost once, and nobody else");
    assert!(gone < GHOSTS_GONE_WITHIN, "after {gone:.1?}");
}

#[test]
fn nobody_is_seen_leaving_when_a_node_is_restarted() {
    let redis = Redis::standalone();
    let mut nodes = Nodes::start(&redis.url(), 3, &config());
    let mut observer = member(&nodes, 0, "observer");
    let all = names("member", 12);
    let sockets: Vec<_> = all.iter().map(|user| member(&nodes, 1, user)).collect();
    assert_eq!(heard(&mut observer, Duration::from_secs(1)).len(), all.len());

    let back = std::thread::scope(|scope| {
        let come_back = |(mut socket, user): (Socket, String)| {
            let nodes = &nodes;
            scope.spawn(move || {
                let close = loop {
                    match socket.ws.answering_pings() {
                        Some(frame) if frame.opcode == opcode::CLOSE => break frame.close_code(),
                        Some(_) => {}
                        None => break None,
                    }
                };
                assert_eq!(close, Some(4200), "{user} is asked to go elsewhere");
                drop(socket);
                member(nodes, 2, &user)
            })
        };
        let threads: Vec<_> = sockets.into_iter().zip(all.clone()).map(come_back).collect();
        nodes.node(1).signal("TERM");
        threads.into_iter().map(|thread| thread.join().expect("a member comes back")).collect::<Vec<_>>()
    });
    nodes.terminate(1);
    // For longer than a lease.
    let heard = heard(&mut observer, Duration::from_secs(7));
    println!("F2 members: {} moved; the observer heard {heard:?}", back.len());
    assert_eq!(heard, []);
    assert_eq!(users(&nodes, 0).len(), all.len() + 1);
}
