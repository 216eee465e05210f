//! An app's limits hold for all nodes together, and what one node is told to refuse, all refuse.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::redis::Redis;
use crate::support::{Nodes, PATIENCE, Socket, eventually, now_s, one_app, token};

/// How long shares take to go round, on a busy machine.
const ROUND: Duration = Duration::from_millis(200);

const TARGET: &str = "/app/fanfare-key?protocol=7";

/// A connection that was let in, or nothing if it was refused.
fn connect(nodes: &Nodes, ix: usize) -> Option<Socket> {
    let mut ws = nodes.node(ix).websocket(TARGET);
    let frame = ws.answering_pings().expect("a word of the server");
    let greeting = frame.text();
    if greeting.contains("connection_established") {
        let mut socket = Socket { id: String::new(), activity_timeout: 0, ws };
        socket.settle();
        return Some(socket);
    }
    assert!(greeting.contains("4004"), "{greeting}");
    None
}

/// Connects as often as the app lets it, until it has refused for a while.
fn fill(nodes: &Nodes, ix: usize, sockets: &mut Vec<Socket>, most: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut refused_since = None;
    while sockets.len() < most && Instant::now() < deadline {
        match connect(nodes, ix) {
            Some(socket) => {
                sockets.push(socket);
                refused_since = None;
            }
            None if refused_since.is_some_and(|since: Instant| since.elapsed() > 5 * ROUND) => return,
            None => {
                refused_since.get_or_insert(Instant::now());
                sleep(ROUND / 10);
            }
        }
    }
}

#[test]
fn an_app_has_as_many_connections_on_all_nodes_as_it_may() {
    let servers = Redis::pair();
    let urls = servers.each_ref().map(Redis::url).join(",");
    let nodes = Nodes::start(&urls, 3, &one_app("[apps.limits]\nconnections_max = 10"));
    let mut sockets = Vec::new();
    fill(&nodes, 0, &mut sockets, 9);
    assert_eq!(sockets.len(), 9, "one node may have nearly all of them");
    for ix in [1, 2, 0] {
        fill(&nodes, ix, &mut sockets, 20);
    }
    assert_eq!(sockets.len(), 10);
    // Room on one node is room on all.
    sockets.truncate(4);
    eventually("another node takes them", || {
        connect(&nodes, 2).inspect(|_| {}).map(|socket| sockets.push(socket)).is_some()
    });
    for ix in [2, 1] {
        fill(&nodes, ix, &mut sockets, 20);
    }
    assert_eq!(sockets.len(), 10);
}

#[test]
fn an_app_publishes_as_often_on_all_nodes_as_it_may() {
    let server = Redis::standalone();
    let nodes = Nodes::start(&server.url(), 2, &one_app("[apps.limits]\npublishes_per_s = 20"));
    let began = Instant::now();
    let mut taken = 0;
    for n in 0..200 {
        let answer = nodes.node(n % 2).post("/events", &json!({"name": "e", "channel": "room", "data": "x"}));
        match answer.status {
            200 => taken += 1,
            429 => assert!(answer.header("retry-after").is_some(), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    let most = 20 + (began.elapsed().as_secs_f64() * 20.0).ceil() as usize;
    println!("taken={taken} of 200 in {:?}", began.elapsed());
    assert!((20..=most).contains(&taken), "{taken} taken, at most {most} may be");
}

#[test]
fn a_token_that_one_node_took_back_is_refused_by_all() {
    let mut servers = Redis::pair();
    let urls = servers.each_ref().map(Redis::url).join(",");
    let mut nodes = Nodes::start(&urls, 2, &one_app(""));
    let bearer =
        format!("Bearer {}", token(json!({"publish": ["*"], "sub": "ann", "jti": "t1", "exp": now_s() + 600})));
    let publish = |nodes: &Nodes, ix: usize| {
        let target = "/pub/fanfare-key/room";
        nodes.node(ix).request("POST", target, &[("Authorization", &bearer)], "x").status
    };
    assert_eq!(publish(&nodes, 1), 202);
    nodes.node(0).post("/tokens/revoke", &json!({"sub": "ann"})).expect(200, "{}");
    eventually("the other node knows", || publish(&nodes, 1) == 401);
    nodes.kill(1);
    nodes.restart(1);
    assert_eq!(publish(&nodes, 1), 401, "a node that starts learns it first");
    // One node is enough to remember it.
    servers.iter_mut().for_each(Redis::restart_empty);
    nodes.kill(1);
    nodes.restart(1);
    eventually("the servers have it again", || publish(&nodes, 1) == 401);
}

#[test]
fn while_redis_is_away_the_share_that_a_node_had_holds() {
    let mut server = Redis::standalone();
    let nodes = Nodes::start(&server.url(), 2, &one_app("[apps.limits]\nconnections_max = 20"));
    let mut sockets: Vec<Socket> = (0..2).filter_map(|ix| connect(&nodes, ix)).collect();
    assert_eq!(sockets.len(), 2);
    sleep(ROUND);
    server.kill();
    fill(&nodes, 0, &mut sockets, 30);
    let one = sockets.len();
    assert!(one > 2, "it had been granted more than it used");
    fill(&nodes, 1, &mut sockets, 30);
    println!("connections: {one} with the first, {} with both", sockets.len());
    assert!(sockets.len() <= 20, "{}", sockets.len());
}
