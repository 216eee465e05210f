//! The fixtures themselves: what a fault test builds on must be true.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::proxy::{Proxy, Way};
use crate::support::redis::{Redis, Reply};
use crate::support::{PATIENCE, SILENCE, eventually};

#[test]
fn a_redis_restarts_with_its_data_or_without() {
    let mut redis = Redis::standalone();
    let text = || Reply::Text("value".to_owned());
    redis.run(&["SET", "key", "value"]);
    let before = redis.info("run_id");
    redis.restart_with_data();
    assert_eq!(redis.ask(&["GET", "key"]), text());
    assert_ne!(redis.info("run_id"), before);
    redis.restart_empty();
    assert_eq!(redis.ask(&["GET", "key"]), Reply::Nil);

    redis.stop();
    redis.cont();
    redis.kill();
    assert!(redis.try_ask(&["PING"]).is_none());
}

#[test]
fn sentinels_put_the_replica_in_the_place_of_a_primary_that_died() {
    let mut group = Redis::sentinel();
    group.servers[0].run(&["SET", "key", "value"]);
    assert_eq!(group.servers[0].run(&["WAIT", "1", "10000"]).int(), 1);
    let old = group.kill_primary();
    let new = group.await_primary_after(old);
    assert_ne!(old, new);
    assert_eq!(group.servers[new].ask(&["GET", "key"]).text(), "value");
    // The old one comes back as the new one's replica.
    group.servers[old].restart();
    group.await_follower(old);
}

#[test]
fn a_clusters_slots_move_and_its_replicas_take_over() {
    let mut cluster = Redis::cluster();
    // The slot of "foo", as the specification of Redis Cluster computes it.
    let slot = 12_182;
    let owner = cluster.owner(slot);
    cluster.nodes[owner].run(&["SET", "foo", "value"]);
    let added = cluster.add_node();
    cluster.migrate([slot], added);
    eventually("the new owner is known", || cluster.owner(slot) == added);
    assert_eq!(cluster.nodes[added].ask(&["GET", "foo"]).text(), "value");
    assert!(cluster.nodes[owner].ask(&["GET", "foo"]).text().starts_with("MOVED 12182"));
    assert_eq!(cluster.slots(added), [slot..=slot]);
    cluster.migrate([slot], owner);
    eventually("the old owner has it back", || cluster.owner(slot) == owner);
    cluster.remove_node(added);

    cluster.failover(3);
    assert_eq!(cluster.owner(0), 3);
    cluster.nodes[1].kill();
    eventually("the replica took over", || cluster.nodes[4].info("role") == "master");
    cluster.await_ok();
}

/// A server that sends back what it hears.
fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut stream.try_clone().expect("a second handle"), &mut { stream }));
        }
    });
    addr
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addr).expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    stream
}

#[track_caller]
fn expect(stream: &mut TcpStream, wanted: &[u8]) {
    let mut heard = vec![0; wanted.len()];
    stream.read_exact(&mut heard).expect("an answer");
    assert_eq!(heard, wanted);
}

#[test]
fn a_proxy_stalls_delays_and_then_passes_what_it_held() {
    let proxy = Proxy::to(echo());
    let mut stream = connect(&proxy);
    stream.write_all(b"one").expect("sent");
    expect(&mut stream, b"one");

    proxy.stall(Way::Back);
    stream.write_all(b"two").expect("sent");
    stream.set_read_timeout(Some(SILENCE)).expect("a time-out can be set");
    let error = stream.read(&mut [0; 8]).expect_err("it is stalled");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    proxy.pass();
    expect(&mut stream, b"two");

    proxy.delay(Duration::from_millis(100), Duration::from_millis(50));
    let start = Instant::now();
    stream.write_all(b"three").expect("sent");
    expect(&mut stream, b"three");
    assert!(start.elapsed() >= Duration::from_millis(200), "there and back");
}

#[test]
fn a_proxy_cuts_refuses_and_halves() {
    let proxy = Proxy::to(echo());
    let mut stream = connect(&proxy);
    stream.write_all(b"one").expect("sent");
    expect(&mut stream, b"one");
    proxy.cut();
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));

    proxy.refuse();
    let mut refused = connect(&proxy);
    assert!(matches!(refused.read(&mut [0; 8]), Ok(0) | Err(_)));
    proxy.pass();

    let mut stream = connect(&proxy);
    stream.write_all(b"two").expect("sent");
    expect(&mut stream, b"two");
    // The echo hears the end, and ends in turn.
    proxy.halve(Way::Forth);
    assert_eq!(stream.read(&mut [0; 8]).expect("an end"), 0);
    drop(stream);
    eventually("nothing is left open", || proxy.open() == 0);
    assert_eq!(proxy.accepted(), 2);
}
