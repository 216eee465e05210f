//! F18, and what others see of members whose node goes: ghosts leave soon, and who comes back has never left.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::dice::Dice;
use super::show::{announce, config};
use crate::support::redis::Redis;
use crate::support::{KEY, Nodes, PATIENCE, Socket, WebSocket, eventually, inner, one_app, opcode};

const ROOM: &str = "presence-room";

/// A lease, and what it takes to notice that it has ended; and that on a machine that is busy with other tests.
const GHOSTS_GONE_WITHIN: Duration = Duration::from_secs(5);
const GHOSTS_GONE_WITHIN_BUSY: Duration = Duration::from_secs(12);

fn connect(nodes: &Nodes, node: usize) -> Socket {
    let target = format!("/app/{KEY}?protocol=7");
    Socket::established(WebSocket::open(nodes.addr(node), &target, &[]).expect("a socket"))
}

fn member(nodes: &Nodes, node: usize, user: &str) -> Socket {
    let mut socket = connect(nodes, node);
    socket.join(ROOM, &json!({"user_id": user}).to_string());
    socket
}

fn users(nodes: &Nodes, node: usize, room: &str) -> BTreeSet<String> {
    let answer = nodes.node(node).get(&format!("/channels/{room}/users"), &[]).json();
    let users = answer["users"].as_array().into_iter().flatten();
    users.map(|user| user["id"].as_str().expect("an id").to_owned()).collect()
}

fn names(who: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{who}-{n}")).collect()
}

/// What a member hears of another.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    room: String,
    /// `added` or `removed`.
    what: String,
    user: String,
}

impl Change {
    fn new(room: &str, what: &str, user: &str) -> Change {
        let [room, what, user] = [room, what, user].map(str::to_owned);
        Change { room, what, user }
    }
}

/// What a member hears of others until nothing new has come for a while.
fn heard(socket: &mut Socket, silence: Duration) -> Vec<Change> {
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
                } else if let Some(what) = event.strip_prefix("pusher_internal:member_") {
                    let (data, room) = (inner(&message), message["channel"].as_str().expect("a channel"));
                    heard.push(Change::new(room, what, data["user_id"].as_str().expect("a user")));
                    quiet_since = Instant::now();
                }
            }
            _ => panic!("{frame:?}"),
        }
    }
    heard
}

/// Users of one app who are in the same rooms: each of them by one connection.
struct Group {
    rooms: Vec<String>,
    /// Those who come back when their node is killed, and those who do not.
    coming: Vec<String>,
    going: Vec<String>,
}

const ROOMS_IN_GROUP: usize = 20;

impl Group {
    fn new(ix: usize, dice: &mut Dice) -> Group {
        let rooms = (0..ROOMS_IN_GROUP).map(|n| format!("presence-{}-{ix}-{n}", dice.below(1 << 20))).collect();
        let (coming, going) = names(&format!("user-{ix}"), 50).into_iter().partition(|_| dice.below(5) == 0);
        Group { rooms, coming, going }
    }

    /// A connection that is in all of its rooms.
    fn enter(&self, nodes: &Nodes, node: usize, user: &str) -> Socket {
        let mut socket = connect(nodes, node);
        let member = json!({"user_id": user}).to_string();
        self.rooms.iter().for_each(|room| socket.ask_for(room, Some(&member)));
        let mut missing = self.rooms.len();
        while missing > 0 {
            // Others come and go meanwhile.
            missing -= usize::from(socket.recv()["event"] == "pusher_internal:subscription_succeeded");
        }
        socket
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.coming.iter().chain(&self.going)
    }
}

/// F18.
#[test]
fn ghosts_of_a_killed_node_leave_and_who_comes_back_has_not_left() {
    let (seed, scale) = announce("F18");
    let mut dice = Dice::new(seed);
    let [one, two] = Redis::pair();
    let mut nodes = Nodes::start(&format!("{},{}", one.url(), two.url()), 3, &one_app(""));
    let groups: Vec<_> = (0..scale.times(1)).map(|ix| Group::new(ix, &mut dice)).collect();
    let each = |visit: &(dyn Fn(&Group) -> Vec<Socket> + Sync)| -> Vec<Vec<Socket>> {
        thread::scope(|scope| {
            let threads: Vec<_> = groups.iter().map(|group| scope.spawn(|| visit(group))).collect();
            threads.into_iter().map(|thread| thread.join().expect("they enter")).collect()
        })
    };
    let mut observers = each(&|group| vec![group.enter(&nodes, 0, "observer")]);
    let _first = each(&|group| group.all().map(|user| group.enter(&nodes, 1, user)).collect());
    observers.iter_mut().flatten().for_each(|observer| drop(heard(observer, Duration::from_millis(300))));
    let rooms = || groups.iter().flat_map(|group| group.rooms.iter().map(move |room| (group, room)));
    rooms().for_each(|(group, room)| assert_eq!(users(&nodes, 0, room).len(), group.all().count() + 1));

    let killed = Instant::now();
    nodes.kill(1);
    let _back = each(&|group| group.coming.iter().map(|user| group.enter(&nodes, 2, user)).collect());
    let back = killed.elapsed();
    let present = |group: &Group, room: &str| users(&nodes, 2, room).len() == group.coming.len() + 1;
    rooms().for_each(|(group, room)| eventually("the ghosts have left", || present(group, room)));
    let gone = killed.elapsed();

    let members = |of: fn(&Group) -> usize| groups.iter().map(|group| of(group) * group.rooms.len()).sum::<usize>();
    let mut changes = 0;
    for (group, observer) in groups.iter().zip(observers.iter_mut().flatten()) {
        let heard = heard(observer, Duration::from_secs(1));
        changes += heard.len();
        for room in &group.rooms {
            let mut left: Vec<_> = heard.iter().filter(|change| change.room == *room).collect();
            left.sort_unstable();
            let wanted = group.going.iter().map(|user| Change::new(room, "removed", user));
            assert!(
                left.into_iter().eq(wanted.collect::<BTreeSet<_>>().iter()),
                "each ghost once, and nobody else: {heard:?}"
            );
        }
    }
    println!(
        "F18: seed={seed} members={} came back={} after {back:.1?}, ghosts={} gone after {gone:.1?}, heard of {changes} changes",
        members(|group| group.all().count()),
        members(|group| group.coming.len()),
        members(|group| group.going.len()),
    );
    assert!(gone < if scale.is_long() { GHOSTS_GONE_WITHIN } else { GHOSTS_GONE_WITHIN_BUSY }, "after {gone:.1?}");
}

#[test]
fn nobody_is_seen_leaving_when_a_node_is_restarted() {
    let (seed, _) = announce("F2 members");
    let redis = Redis::standalone();
    let mut nodes = Nodes::start(&redis.url(), 3, &config());
    let mut observer = member(&nodes, 0, "observer");
    let all = names("member", 12);
    let sockets: Vec<_> = all.iter().map(|user| member(&nodes, 1, user)).collect();
    assert_eq!(heard(&mut observer, Duration::from_secs(1)).len(), all.len());

    let back = thread::scope(|scope| {
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
    println!("F2 members: seed={seed} {} moved; the observer heard {heard:?}", back.len());
    assert_eq!(heard, []);
    assert_eq!(users(&nodes, 0, ROOM).len(), all.len() + 1);
}
