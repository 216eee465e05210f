//! Workers that wait for jobs.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use fanfare_proto::sign::sign_query;
use serde_json::{Value, json};

use crate::support::{KEY, PATIENCE, SECRET, Server, eventually, now_s};
use crate::{MAIL, Mail, meanwhile, server, told};

/// A claim that waits, on a connection that the test may drop.
fn waiting_claim(server: &Server) -> std::net::TcpStream {
    let (path, body) = (format!("{MAIL}/claim"), json!({"wait_ms": 60_000}).to_string());
    let query = sign_query(SECRET.as_bytes(), KEY, "POST", &path, &[], body.as_bytes(), now_s());
    let mut stream = server.tcp();
    let head = format!("POST {path}?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).expect("the request is sent");
    stream
}

#[test]
fn a_waiting_worker_has_a_job_as_soon_as_it_is_put() {
    let server = server("");
    let claim = || server.claim(json!({"wait_ms": 60_000}));
    let jobs = meanwhile(claim, || _ = server.put(json!({"data": "x"})));
    assert_eq!(told(&jobs, "data"), ["x"]);
}

#[test]
fn a_worker_that_waits_in_vain_is_answered_with_nothing() {
    let server = server("");
    let began = Instant::now();
    assert!(server.claim(json!({"wait_ms": 300})).is_empty());
    assert!((Duration::from_millis(300)..PATIENCE).contains(&began.elapsed()));
}

#[test]
fn each_of_many_waiting_workers_has_one_of_as_many_jobs() {
    let server = server("");
    let claimed: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..20).map(|_| scope.spawn(|| server.claim(json!({"wait_ms": 60_000})))).collect();
        for n in 0..20 {
            server.put(json!({"data": n.to_string()}));
        }
        workers.into_iter().flat_map(|worker| worker.join().expect("it is answered")).collect()
    });
    let mut data = told(&claimed, "data");
    data.sort_by_key(|n| n.parse::<u32>().expect("a number"));
    assert_eq!(data, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn what_holds_a_key_wakes_those_who_wait_for_the_next_when_it_goes() {
    let server = server("");
    server.put(json!({"key": "k", "data": "one"}));
    server.put(json!({"key": "k", "data": "two"}));
    let one = server.claim_one();
    let claim = || server.claim(json!({"wait_ms": 60_000}));
    let jobs = meanwhile(claim, || server.about(&one, "finish", json!({})).expect(200, "{}"));
    assert_eq!(told(&jobs, "data"), ["two"]);
}

#[test]
fn a_worker_that_goes_away_while_it_waits_takes_no_job_along() {
    let server = server("");
    let before = server.open_sockets();
    for _ in 0..5 {
        drop(waiting_claim(&server));
    }
    eventually("the server has noticed", || server.open_sockets() <= before);
    server.put(json!({"data": "x"}));
    let job = server.claim(json!({"wait_ms": 30_000})).remove(0);
    assert_eq!(told(&[job], "data"), ["x"]);
}

#[test]
fn a_job_that_is_put_just_when_its_worker_goes_is_not_lost_until_its_lease_ends() {
    let server = server("lease_s = 86400");
    let mut put = 0;
    for n in 0..40u64 {
        let stream = waiting_claim(&server);
        // The two come in either order, and that is the point.
        thread::scope(|scope| {
            scope.spawn(|| _ = server.put(json!({"data": "x"})));
            scope.spawn(move || {
                thread::sleep(Duration::from_micros(n * 100));
                drop(stream);
            });
        });
        put += 1;
    }
    // Those that were answered before they went have their jobs; all others are there for somebody else.
    // In one look, as jobs may still be on their way back.
    let counts = server.mail("GET", "", &Value::Null).json();
    let [claimed, waiting] = ["claimed", "waiting"].map(|state| counts[state].as_u64().expect("a number"));
    assert_eq!(claimed + waiting, put);
    let mut there = 0;
    while let [job] = &server.claim(json!({"wait_ms": 300}))[..] {
        assert_eq!(job["attempt"], 1, "to have gone is no attempt");
        there += 1;
    }
    assert!(there >= waiting, "{there} of {waiting}");
}

#[test]
fn a_server_that_stops_answers_those_who_wait() {
    let mut server = server("");
    let stream = waiting_claim(&server);
    thread::sleep(Duration::from_millis(100));
    server.signal("TERM");
    let mut stream = stream;
    crate::support::Response::read(&mut stream, &mut Vec::new()).expect(200, r#"{"jobs":[]}"#);
    assert!(server.wait().success());
}
