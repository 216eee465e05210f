//! A quiet app beside one that publishes as fast as it can to readers that do not read.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_proto::sign::sign_query;
use serde_json::json;

use super::{Ledger, expect_number, numbered, publish_number};
use crate::support::{Server, Socket, one_app};

const LOUD: &str = "\n[[apps]]\nid = \"2\"\nkeys = [{ key = \"loud-key\", secret = \"loud-secret\" }]\n";
const QUIET_PUBLISHED: usize = 300;
const QUIET_READERS: usize = 5;
const LOUD_READERS: usize = 30;

#[test]
fn a_quiet_app_loses_nothing_beside_a_loud_one() {
    let server = Server::start(&(one_app("") + LOUD));
    let mut quiet: Vec<_> = (0..QUIET_READERS).map(|_| server.connect()).collect();
    quiet.iter_mut().for_each(|socket| socket.subscribe("room"));
    let mut loud: Vec<_> = (0..LOUD_READERS).map(|_| server.connect_to("/app/loud-key?protocol=7")).collect();
    loud.iter_mut().for_each(|socket| socket.subscribe("room"));

    let (over, flooded) = (AtomicBool::new(false), AtomicUsize::new(0));
    let heard = thread::scope(|scope| {
        scope.spawn(|| flood(&server, &over, &flooded));
        // Every third reads; the others are closed as slow consumers on the way.
        let (reading, _deaf) = loud.split_at_mut(LOUD_READERS / 3);
        let over = &over;
        let reading: Vec<_> = reading.iter_mut().map(|socket| scope.spawn(move || count(socket, over))).collect();
        for n in 0..QUIET_PUBLISHED {
            publish_number(&server, "room", n, 100);
            quiet.iter_mut().for_each(|socket| expect_number(socket, n));
        }
        over.store(true, Ordering::Relaxed);
        reading.into_iter().map(|reader| reader.join().expect("a reader counts")).sum::<usize>()
    });

    let delivered = QUIET_PUBLISHED * QUIET_READERS;
    println!("quiet: published {QUIET_PUBLISHED}, delivered {delivered} to {QUIET_READERS}, lost 0");
    println!("loud: published {}, heard {heard} by {} who read", flooded.into_inner(), LOUD_READERS / 3);
    drop(loud);
    println!("{:?}", Ledger::at_rest(&server));
}

/// Publishes until it is over. The server may say that it has enough (503), but nothing worse.
fn flood(server: &Server, over: &AtomicBool, flooded: &AtomicUsize) {
    let body = json!({"name": "n", "channels": ["room"], "data": numbered(0, 9 << 10)}).to_string();
    while !over.load(Ordering::Relaxed) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
        let query = sign_query(b"loud-secret", "loud-key", "POST", "/apps/2/events", &[], body.as_bytes(), now);
        let headers = [("Content-Type", "application/json")];
        let answer = server.request("POST", &format!("/apps/2/events?{query}"), &headers, &body);
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        flooded.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
    }
}

fn count(socket: &mut Socket, over: &AtomicBool) -> usize {
    let mut heard = 0;
    while !over.load(Ordering::Relaxed) {
        heard += socket.ws.frame_within(crate::support::SILENCE).map_or(0, |frame| usize::from(frame.is_some()));
    }
    heard
}
