//! Networks that stall, cut, delay and halve, between nodes and Redis and between clients and nodes.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::show::{Show, config};
use crate::support::proxy::{Proxy, Way};
use crate::support::redis::Redis;
use crate::support::{KEY, Nodes, eventually};

/// Within this time a node that hears nothing from Redis says so to its balancer, and once the network is well again everybody has
/// heard what was missed, or that it was.
const HEALED_WITHIN: Duration = Duration::from_secs(10);

/// Three nodes, the first of which has its own way to Redis.
fn behind_a_proxy(name: &'static str) -> (Redis, Proxy, Show) {
    let redis = Redis::standalone();
    let proxy = Proxy::to(redis.addr());
    let mut nodes = Nodes::start(&format!("{}#one", proxy.url()), 1, &config());
    nodes.add(&format!("{}#one", redis.url()), &config(), &[]);
    nodes.add(&format!("{}#one", redis.url()), &config(), &[]);
    (redis, proxy, Show::begin(name, nodes))
}

/// F5: nothing arrives in one direction, then in the other, then in both.
#[test]
fn a_node_that_is_cut_off_from_redis_hides_no_gap() {
    let (_redis, proxy, show) = behind_a_proxy("F5 partition");
    for (what, ways) in [
        ("nothing from Redis", &[Way::Back][..]),
        ("nothing to Redis", &[Way::Forth]),
        ("nothing either way", &[Way::Forth, Way::Back]),
    ] {
        let cut = Instant::now();
        ways.iter().for_each(|way| proxy.stall(*way));
        eventually("balancers are told", || show.nodes.node(0).admin_get("/readyz").status == 503);
        let noticed = cut.elapsed();
        show.go_on(Duration::from_secs(1));
        proxy.pass();
        let healed = show.recover(what, Instant::now());
        println!("F5 partition: {what}: noticed after {noticed:.1?}, over after {:.1?}", cut.elapsed());
        assert!(noticed.max(healed) < HEALED_WITHIN, "{what}: noticed after {noticed:.1?}, healed after {healed:.1?}");
        show.nodes.await_ready(0);
    }
    let verdict = show.end();
    assert_eq!((verdict.reconnects_of_cursors, verdict.told), (0, 0), "all is in the history: {verdict:?}");
}

/// F11 between a node and Redis.
#[test]
fn a_bad_network_to_redis_costs_nobody_a_message() {
    let (_redis, proxy, mut show) = behind_a_proxy("F11 to Redis");
    let mut dice = show.dice.split();
    for _ in 0..show.scale.times(5) {
        misbehave(&proxy, &mut dice);
    }
    proxy.pass();
    show.recover("the network is well again", Instant::now());
    let verdict = show.end();
    assert_eq!(verdict.told, 0, "all is in the history: {verdict:?}");
}

/// F11 between clients and nodes.
#[test]
fn a_bad_network_to_clients_costs_nobody_a_message() {
    let redis = Redis::standalone();
    let nodes = Nodes::start(&redis.url(), 3, &config());
    let proxies: Vec<_> = nodes.addrs().into_iter().map(Proxy::to).collect();
    let addrs: Vec<SocketAddr> = proxies.iter().map(|proxy| proxy.addr).collect();
    let mut show = Show::begin_at("F11 to clients", nodes, &addrs);
    let mut dice = show.dice.split();
    for _ in 0..show.scale.times(6) {
        misbehave(dice.of(&proxies), &mut dice.split());
    }
    proxies.iter().for_each(Proxy::pass);
    show.recover("the network is well again", Instant::now());
    let verdict = show.end();
    assert_eq!(verdict.told, 0, "who had a cursor went on from there: {verdict:?}");
}

#[test]
fn a_slow_redis_is_slow_and_nothing_else() {
    let (_redis, proxy, show) = behind_a_proxy("slow Redis");
    proxy.delay(Duration::from_millis(150), Duration::from_millis(150));
    show.go_on(Duration::from_secs(5));
    show.recover("while Redis is slow", Instant::now());
    proxy.pass();
    let verdict = show.end();
    assert_eq!((verdict.reconnects_of_cursors, verdict.told), (0, 0), "nothing was lost: {verdict:?}");
}

/// With a Redis that always takes longer than polls wait, their readers would hear nothing for ever.
#[test]
fn a_poll_is_over_when_what_was_missed_has_been_read() {
    let redis = Redis::standalone();
    let proxy = Proxy::to(redis.addr());
    let mut nodes = Nodes::start(&format!("{}#one", proxy.url()), 1, &config());
    nodes.add(&format!("{}#one", redis.url()), &config(), &[]);
    let target = format!("/sub/{KEY}/one/two?format=json&transport=");
    let begun = nodes.node(1).request("GET", &format!("{target}poll"), &[], "").json();
    nodes.node(1).publish("two", "said", "hello");

    proxy.stall(Way::Back);
    let poll = format!("{target}longpoll&wait=1&since={}", begun["cursor"].as_str().expect("a cursor"));
    let answer = thread::scope(|scope| {
        let poll = scope.spawn(|| nodes.node(0).request("GET", &poll, &[], "").json());
        thread::sleep(Duration::from_secs(3));
        proxy.pass();
        poll.join().expect("an answer")
    });
    assert_eq!(answer["messages"][0]["data"], "hello", "{answer}");
}

/// One fault for a moment: jitter for all of it, and drops of up to 2 s, resets, and ends of one way.
fn misbehave(proxy: &Proxy, dice: &mut Dice) {
    proxy.delay(Duration::from_millis(5), Duration::from_millis(200));
    match dice.below(5) {
        0 => proxy.stall(Way::Back),
        1 => proxy.stall(Way::Forth),
        2 => proxy.stall_both(),
        3 => proxy.cut(),
        _ => proxy.halve(*dice.of(&[Way::Forth, Way::Back])),
    }
    thread::sleep(Duration::from_millis(500 + dice.below(1500) as u64));
    proxy.pass();
    thread::sleep(Duration::from_millis(300));
}
