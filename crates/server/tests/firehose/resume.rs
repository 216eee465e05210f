//! Coming back: after a while, after a restart, after a crash, and too late.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{PATIENCE, Server, eventually};
use crate::{Tap, config, config_in, folder, publish, text, texts};

fn server(folder: &Path) -> Server {
    Server::start(&config_in(folder, "", ""))
}

#[test]
fn a_cursor_goes_on_where_it_was_also_after_a_restart() {
    let folder = folder();
    let mut first = server(folder.path());
    let mut tap = Tap::open(&first, "");
    assert_eq!(tap.begins.get("recovered"), None);
    publish(&first, "room", 0..10);
    assert_eq!(tap.data(4), texts(0..4));
    let cursor = text(&tap.message()["cursor"]);
    assert_eq!(Tap::open(&first, &format!("since={cursor}")).data(5), texts(5..10));
    assert_eq!(Tap::open(&first, "backfill=3").data(3), texts(7..10));
    first.signal("TERM");
    assert_eq!(tap.data(5), texts(5..10));
    let closed = json!({"event": "fanfare:closed", "reason": "the server is stopping", "reconnect": true});
    assert_eq!((tap.next(), tap.heard()), (closed, None));
    assert!(first.wait().success());

    let second = server(folder.path());
    publish(&second, "room", 10..12);
    let mut tap = Tap::open(&second, &format!("since={cursor}"));
    assert_eq!(tap.begins["recovered"], true);
    assert_eq!(tap.data(7), texts(5..12));
}

#[test]
fn what_a_publisher_was_told_is_there_after_a_kill() {
    let folder = folder();
    let mut acknowledged = Vec::new();
    let mut cursor = None;
    for round in 0..4 {
        let mut server = server(folder.path());
        cursor = cursor.or_else(|| Some(Tap::open(&server, "").cursor()));
        let told = Arc::new(Mutex::new(Vec::new()));
        let publishers: Vec<_> = (0..3)
            .map(|publisher| {
                let (addr, told) = (server.addr, told.clone());
                let answers = move |n: &u32| told_of(addr, &format!("{round}-{publisher}-{n}"), &told);
                thread::spawn(move || (0..).take_while(answers).count())
            })
            .collect();
        eventually("some are published", || told.lock().expect("nobody panicked").len() >= 40);
        thread::sleep(Duration::from_millis(some_ms(round)));
        server.signal("KILL");
        server.wait();
        publishers.into_iter().for_each(|publisher| _ = publisher.join());
        acknowledged.extend(told.lock().expect("nobody panicked").drain(..));
    }
    let server = server(folder.path());
    server.publish("room", "said", "the end");
    let mut tap = Tap::open(&server, &format!("since={}", cursor.expect("there was a first")));
    assert_eq!(tap.begins["recovered"], true);
    let (mut there, mut twice) = (HashSet::new(), 0);
    loop {
        let data = text(&tap.message()["data"]);
        if data == "the end" {
            break;
        }
        twice += usize::from(!there.insert(data));
    }
    let missing: Vec<_> = acknowledged.iter().filter(|data| !there.contains(*data)).collect();
    assert!(missing.is_empty() && twice == 0, "{missing:?} of {}, {twice} twice", acknowledged.len());
}

/// Some time, another in each round.
fn some_ms(round: u64) -> u64 {
    round * 37 % 50
}

/// Publishes it; false once the server is gone.
fn told_of(addr: std::net::SocketAddr, data: &str, told: &Mutex<Vec<String>>) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(addr) else { return false };
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let (key, secret) = (crate::KEY, crate::support::SECRET);
    let head =
        format!("POST /pub/{key}/room HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {secret}");
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{data}", data.len());
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).is_err() || stream.read_to_end(&mut answer).is_err() {
        return false;
    }
    let is_told = answer.starts_with(b"HTTP/1.1 20");
    if is_told {
        told.lock().expect("nobody panicked").push(data.to_owned());
    }
    is_told
}

#[test]
fn what_the_window_no_longer_holds_is_told_as_a_gap() {
    let server = Server::start(&config("window_bytes = 65536", ""));
    let tap = Tap::open(&server, "");
    let cursor = tap.cursor();
    let event = |n: u32| json!({"channel": "room", "name": "said", "data": format!("{n:09000}")});
    for n in 0..4 {
        let batch: Vec<_> = (0..5).map(|at| event(5 * n + at)).collect();
        assert_eq!(server.post("/batch_events", &json!({"batch": batch})).status, 200);
    }
    let mut late = Tap::open(&server, &format!("since={cursor}"));
    assert_eq!(late.begins["recovered"], false);
    let gap = late.next();
    assert_eq!((&gap["event"], &gap["cursor"]), (&json!("fanfare:gap"), &late.begins["cursor"]));
    let missed = gap["missed"].as_u64().expect("a number");
    assert!((12..18).contains(&missed), "{missed}");
    let rest: Vec<u64> = late.data(20 - missed as usize).iter().map(|data| data.parse().expect("a number")).collect();
    assert_eq!(rest, (missed..20).collect::<Vec<_>>());
    assert!(server.metric("fanfare_firehose_gaps_total{app=\"1\"}") >= 1.0);
}

/// Nobody knows what the last entries of such a log were, so numbers are left out.
#[test]
fn a_repaired_log_is_told_as_a_gap_and_waits_for_what_comes() {
    let folder = folder();
    let mut first = server(folder.path());
    let mut tap = Tap::open(&first, "");
    publish(&first, "room", 0..50);
    tap.data(49);
    let cursor = text(&tap.message()["cursor"]);
    first.signal("KILL");
    first.wait();
    damage(&folder.path().join("queues/db"));
    let repair = ["jobs", "repair", "--data-dir", folder.path().to_str().expect("text")];
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare")).args(repair).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");

    let second = server(folder.path());
    let mut tap = Tap::open(&second, &format!("since={cursor}"));
    // Before anything more is published.
    let gap = tap.next();
    assert_eq!((&gap["event"], gap.get("missed")), (&json!("fanfare:gap"), None));
    publish(&second, "room", 50..51);
    assert_eq!(tap.data(1), texts(50..51));
    let entries = second.metric("fanfare_firehose_log_entries{app=\"1\"}");
    assert!(entries <= 51.0, "{entries}");
}

/// Breaks something that the last journal has.
fn damage(database: &Path) {
    let files = std::fs::read_dir(database).expect("it is there").map(|file| file.expect("a file").path());
    let journal = files.filter(|path| path.extension().is_some_and(|end| end == "jnl")).max().expect("a journal");
    let mut bytes = std::fs::read(&journal).expect("it can be read");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("something is in it");
    bytes[used - 200..used - 190].fill(b'x');
    std::fs::write(&journal, bytes).expect("it can be written");
}

#[test]
fn a_firehose_in_memory_ends_with_its_process_and_says_so() {
    let memory = config("durability = \"memory\"", "");
    let first = Server::start(&memory);
    publish(&first, "room", 0..2);
    let cursor = Tap::open(&first, "backfill=1").cursor();
    drop(first);
    let second = Server::start(&memory);
    publish(&second, "room", 2..4);
    let mut tap = Tap::open(&second, &format!("since={cursor}"));
    assert_eq!(tap.begins["recovered"], false);
    let gap = tap.next();
    assert_eq!((&gap["event"], gap.get("missed")), (&json!("fanfare:gap"), None));
    assert_eq!(tap.data(2), texts(2..4));
}

/// Histories are made again from what pipelines wrote down; what is in the firehose is there already.
#[test]
fn what_a_history_has_again_after_a_kill_is_not_there_twice() {
    let folder = folder();
    let pipeline = "[[apps.queues]]\nname = \"comments\"\n\
        [[apps.pipelines]]\nname = \"comments\"\nqueue = \"comments\"\nsinks = [{ sink = \"channels\" }]\n\
        stages = [{ stage = \"json\" }, { stage = \"route\", channels = [\"forum\"], event = \"{{kind}}\" }]\n";
    let config = config_in(folder.path(), "", "") + pipeline;
    let mut first = Server::start(&config);
    let cursor = Tap::open(&first, "").cursor();
    let put = |server: &Server, n: u32| {
        let job = json!({"jobs": [{"kind": "create", "key": "k", "data": {"n": n}}]});
        assert_eq!(server.post("/queues/comments/jobs", &job).status, 202);
    };
    (0..3).for_each(|n| put(&first, n));
    let finished = || first.metric("fanfare_queue_jobs{app=\"1\",queue=\"comments\",state=\"finished\"}");
    eventually("all are published", || finished() == 3.0);
    first.signal("KILL");
    first.wait();

    let second = Server::start(&config);
    assert!(second.log().contains("in the histories again"));
    put(&second, 3);
    let mut tap = Tap::open(&second, &format!("since={cursor}"));
    let data = tap.data(4).join(" ");
    assert_eq!(data, r#"{"n":0} {"n":1} {"n":2} {"n":3}"#);
}
