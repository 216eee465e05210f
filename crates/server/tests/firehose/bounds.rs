//! What readers cost: nobody waits for them, and they do not grow.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{KEY, SECRET, Server, eventually};
use crate::{Tap, config, config_in, folder, publish, text, texts};

#[test]
fn a_rate_is_kept_and_nothing_is_dropped() {
    let server = Server::start(&config("", ", messages_per_s = 20"));
    let cursor = Tap::open(&server, "").cursor();
    publish(&server, "room", 0..40);
    let began = Instant::now();
    let mut tap = Tap::open(&server, &format!("since={cursor}"));
    assert_eq!(tap.data(40), texts(0..40));
    // Two seconds, less what may be made up for.
    assert!(began.elapsed() >= Duration::from_millis(1700), "{:?}", began.elapsed());
    let began = Instant::now();
    let mut slower = Tap::open(&server, &format!("since={cursor}&rate=10"));
    assert_eq!(slower.data(10), texts(0..10));
    assert!(began.elapsed() >= Duration::from_millis(750), "{:?}", began.elapsed());
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody_and_does_not_grow() {
    let server = Server::start(&config("durability = \"memory\"\nwindow_bytes = 1048576", ""));
    let mut idle = Tap::open(&server, "");
    let batch = |n: u32| {
        let event = |at| json!({"channel": "room", "name": "said", "data": format!("{:09000}", n * 10 + at)});
        let batch: Vec<_> = (0..10).map(event).collect();
        assert_eq!(server.post("/batch_events", &json!({"batch": batch})).status, 200);
    };
    (0..50).for_each(batch);
    let before = server.rss_bytes();
    // Many times what the window, the sockets and the reader hold together.
    (50..600).for_each(batch);
    let grown = server.rss_bytes().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes more");
    // And when it reads again, it hears what it missed.
    let mut numbers = Vec::new();
    let mut missed = 0;
    while numbers.last() != Some(&5999) {
        let line = idle.next();
        match line["event"].as_str() {
            Some("fanfare:gap") => missed += line["missed"].as_u64().expect("a number"),
            Some("said") => numbers.push(text(&line["data"]).parse::<u64>().expect("a number")),
            _ => {}
        }
    }
    assert!(missed > 0 && numbers.is_sorted());
    assert_eq!(numbers.len() as u64 + missed, 6000);
}

#[test]
fn what_cannot_be_kept_is_not_acknowledged() {
    let server = Server::start_with_files_to_fill(&config("", ""));
    publish(&server, "room", 0..1);
    server.fill_files();
    let event = json!({"name": "said", "channels": ["room"], "data": "lost"});
    let refused = server.post("/events", &event);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("published, but not recorded"), "{refused:?}");
    eventually("somebody is told", || server.log().contains("the firehose cannot be written"));
    eventually("the node is not ready", || server.admin_get("/readyz").body == "a firehose cannot be written\n");
}

/// Publishes it under its own name; whether that was taken.
fn is_taken(server: &Server, text: &str) -> bool {
    let bearer = format!("Bearer {SECRET}");
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", text)];
    let answer = server.request("POST", &format!("/pub/{KEY}/room"), &headers, text);
    assert!(matches!(answer.status, 200..300 | 503), "{text}: {answer:?}");
    answer.status != 503
}

/// As the operator is told to do after a disk that failed.
#[test]
fn what_was_not_recorded_before_a_restart_is_recorded_when_it_is_repeated_after_it() {
    let folder = folder();
    let forgets = "[[apps.history]]\nchannels = \"filler\"\nenabled = false\n";
    let config = config_in(folder.path(), "", "") + forgets;
    let mut first = Server::start_with_files_to_fill(&config);
    // What the firehose has of this is more than a file may be, and what the histories have is less.
    let much: String = (0..8000).map(|n: u64| char::from(b'a' + (n * n * n / 7 % 26) as u8)).collect();
    (0..10).for_each(|_| first.publish("filler", "said", &much));
    let cursor = Tap::open(&first, "").cursor();
    assert!(is_taken(&first, "kept"));
    first.fill_files_beyond(4096);
    assert!(!is_taken(&first, "lost"));
    first.signal("TERM");
    assert!(first.wait().success());
    assert!(first.log().contains("histories written"));

    let second = Server::start(&config);
    for text in ["kept", "lost", "lost", "last"] {
        assert!(is_taken(&second, text));
    }
    let mut tap = Tap::open(&second, &format!("since={cursor}"));
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "last") {
        heard.extend(tap.data(1));
    }
    assert_eq!(heard, ["kept", "lost", "last"]);
}
