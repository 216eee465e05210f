//! Coming back: every message once and in order, or a clear word that some may be missing.

use std::thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use fanfare_proto::cursor::{Cursor, Place, channel_hash};
use serde_json::{Value, json};

use super::*;
use crate::support::{APP_ID, Reader, STREAMS, TRANSPORTS, Transport, eventually, target};

/// Publishes numbers, and tells the cursor behind each.
fn publish_numbers(server: &Server, channel: &str, numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    let publish = |n: u32| {
        server.publish(channel, "said", &n.to_string());
        cursor(server, channel)
    };
    numbers.map(publish).collect()
}

#[track_caller]
fn expect_numbers(reader: &mut Reader, numbers: impl IntoIterator<Item = u32>) {
    for n in numbers {
        assert_eq!(reader.data(), n.to_string());
    }
}

/// What `fanfare:subscribed` or a poll's answer says to a cursor.
#[track_caller]
fn recovered(server: &Server, transport: Transport, channel: &str, since: &str) -> Value {
    if transport == Transport::LongPoll {
        let answer = server.request("GET", &target(transport, channel, &format!("&wait=1&since={since}")), &[], "");
        return answer.json().get("recovered").cloned().unwrap_or_else(|| panic!("{answer:?}"));
    }
    let more = format!("&since={since}");
    let mut reader = Reader::ask(server.addr, transport, channel, &more, &[]).expect("a stream");
    let told = reader.next();
    assert_eq!(told["event"], "fanfare:subscribed", "{told}");
    told["recovered"].clone()
}

#[test]
fn a_cursor_that_fails_may_fall_back_to_the_last_that_are_kept() {
    let server = server("");
    let old = publish_numbers(&server, "room", 1..=3).remove(0);
    let clear = [("Authorization", &*format!("Bearer {}", crate::support::SECRET))];
    assert_eq!(server.request("DELETE", &format!("/pub/{KEY}/room"), &clear, "").status, 200);
    let good = publish_numbers(&server, "room", 4..=7).remove(1);
    for transport in TRANSPORTS {
        assert_eq!(recovered(&server, transport, "room", &format!("{old}&backtrack=2")), false, "{transport:?}");
        let begin = |since: &str| {
            let more = format!("&since={since}&backtrack=1");
            let mut reader = Reader::ask(server.addr, transport, "room", &more, &[]).expect("a reader");
            if transport != Transport::LongPoll {
                reader.next();
            }
            reader
        };
        expect_numbers(&mut begin(&old), [7]);
        expect_numbers(&mut begin(&good), 6..=7);
    }
    let mut socket = Reader::open(&server, Transport::Socket, "other");
    socket.socket().send_text(&json!({ "subscribe": ["room"], "since": old, "backtrack": 3 }).to_string());
    assert_eq!(socket.next()["recovered"], false);
    expect_numbers(&mut socket, 5..=7);
}

#[test]
fn who_names_a_cursor_gets_what_came_after_it() {
    let server = server("");
    let cursors = publish_numbers(&server, "room", 1..=5);
    for transport in TRANSPORTS {
        let mut reader = Reader::ask(server.addr, transport, "room", &format!("&since={}", cursors[1]), &[])
            .unwrap_or_else(|why| panic!("{why:?}"));
        if transport != Transport::LongPoll {
            assert_eq!(reader.next()["recovered"], true, "{transport:?}");
        }
        expect_numbers(&mut reader, 3..=5);
    }
    let mut readers =
        TRANSPORTS.map(|transport| Reader::with(&server, transport, "room", &format!("&since={}", cursors[4])));
    publish_numbers(&server, "room", 6..=7);
    readers.iter_mut().for_each(|reader| expect_numbers(reader, 6..=7));
}

#[test]
fn headers_win_over_the_query_which_a_browser_only_repeats() {
    let server = server("");
    let cursors = publish_numbers(&server, "room", 1..=4);
    let (old, new) = (&cursors[0], &cursors[2]);
    let (strong, weak) = (format!("\"{new}\""), format!("W/\"{new}\""));
    let headers = [("Last-Event-ID", new.as_str()), ("If-None-Match", &strong), ("If-None-Match", &weak)];
    for transport in TRANSPORTS {
        for header in headers {
            for query in [format!("&since={old}"), String::new(), "&backtrack=3".into(), format!("&lastEventId={old}")]
            {
                let target = target(transport, "room", &query);
                if transport == Transport::LongPoll {
                    let told = server.request("GET", &target, &[header], "").json();
                    assert_eq!(told["messages"].as_array().map(Vec::len), Some(1), "{target} {header:?}: {told}");
                    continue;
                }
                let mut reader = Reader::ask(server.addr, transport, "room", &query, &[header]).expect("a stream");
                assert_eq!(reader.next()["recovered"], true, "{target} {header:?}");
                expect_numbers(&mut reader, [4]);
            }
        }
        for name in ["last_event_id", "lastEventID", "lastEventId", "since"] {
            let mut reader =
                Reader::ask(server.addr, transport, "room", &format!("&{name}={new}"), &[("Last-Event-ID", "")])
                    .expect("a stream");
            if transport != Transport::LongPoll {
                assert_eq!(reader.next()["recovered"], true, "{name}");
            }
            expect_numbers(&mut reader, [4]);
        }
    }
}

#[test]
fn the_last_few_may_be_asked_for() {
    let server = server("");
    publish_numbers(&server, "room", 1..=5);
    for transport in TRANSPORTS {
        for (backtrack, from) in [(2, 4), (5, 1), (9, 1), (10_000, 1)] {
            let mut reader = Reader::with(&server, transport, "room", &format!("&backtrack={backtrack}"));
            expect_numbers(&mut reader, from..=5);
        }
        if transport != Transport::LongPoll {
            let mut reader = Reader::with(&server, transport, "room", "&backtrack=0");
            server.publish("room", "said", "live");
            assert_eq!(reader.data(), "live");
        }
        server.request("DELETE", "/pub/fanfare-key/room", &[("Authorization", "Bearer fanfare-secret")], "");
        publish_numbers(&server, "room", 1..=5);
    }
}

#[test]
fn a_raw_poller_is_answered_one_by_one() {
    let server = server("");
    let start = cursor(&server, "room");
    publish_numbers(&server, "room", 1..=4);
    let mut wire = Wire::to(server.addr);
    for transport in ["longpoll", "poll"] {
        let mut tag = format!("\"{start}\"");
        for n in 1..=4 {
            let answer = wire.ask(&format!("/sub/fanfare-key/room?transport={transport}"), &[("If-None-Match", &tag)]);
            assert_eq!((answer.status, answer.body), (200, n.to_string()), "{transport}");
            tag = answer.headers.iter().find(|header| header.0 == "etag").expect("a tag").1.clone();
        }
        let answer =
            wire.ask(&format!("/sub/fanfare-key/room?transport={transport}&wait=1"), &[("If-None-Match", &tag)]);
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{transport}: {answer:?}");
    }
}

#[test]
fn several_channels_are_merged_in_the_order_of_their_publications() {
    let server = server("");
    let start = cursor(&server, "a/b/c");
    for n in 1..=12 {
        server.publish(["a", "b", "c"][n % 3], "said", &n.to_string());
    }
    for transport in TRANSPORTS {
        for since in [start.clone(), cursor(&server, "b").replace(&cursor(&server, "b"), &start)] {
            let mut reader = Reader::with(&server, transport, "c/a/b", &format!("&since={since}"));
            expect_numbers(&mut reader, 1..=12);
        }
        let mut reader = Reader::with(&server, transport, "c/a/b", "&backtrack=1");
        expect_numbers(&mut reader, 10..=12);
    }
}

#[test]
fn one_channels_cursor_resumes_the_others_too() {
    let server = server("");
    let mut reader = Reader::open(&server, Transport::Sse, "a/b/c");
    server.publish("a", "said", "1");
    assert_eq!(reader.data(), "1");
    server.publish("b", "said", "2");
    server.publish("c", "said", "3");
    let since = reader.cursor.clone().expect("a cursor");
    for transport in TRANSPORTS {
        let mut reader = Reader::with(&server, transport, "a/b/c", &format!("&since={since}"));
        let mut heard = reader.data();
        // What was being shown at the time may come twice; nothing may be left out.
        if heard == "1" {
            heard = reader.data();
        }
        assert_eq!((heard, reader.data()), ("2".into(), "3".into()), "{transport:?}");
    }
}

#[test]
fn what_was_trimmed_is_not_passed_over_in_silence() {
    let server = server("[[apps.history]]\nchannels = \"room\"\nmessages = 2");
    let cursors = publish_numbers(&server, "room", 1..=5);
    for transport in TRANSPORTS {
        assert_eq!(recovered(&server, transport, "room", &cursors[0]), false, "{transport:?}");
        assert_eq!(recovered(&server, transport, "room", &cursors[1]), false, "{transport:?}");
        assert_eq!(recovered(&server, transport, "room", &cursors[2]), true, "{transport:?}");
    }
}

#[test]
fn where_nothing_is_kept_nothing_is_promised() {
    let server = server("[[apps.history]]\nchannels = \"*\"\nenabled = false");
    for transport in TRANSPORTS {
        let mut reader = Reader::open(&server, transport, "room");
        if transport != Transport::LongPoll {
            server.publish("room", "said", "live");
            assert_eq!(reader.data(), "live", "{transport:?}");
        }
    }
    let mut wire = Wire::to(server.addr);
    wire.get("/sub/fanfare-key/hall", &[]);
    eventually("it waits", || subscriptions(&server, "hall") == 1);
    server.publish("hall", "said", "live");
    assert_eq!(wire.answer().body, "live");
}

#[test]
fn cursors_of_other_lives_and_of_none_begin_live() {
    let server = server("");
    let cursors = publish_numbers(&server, "room", 1..=3);
    let known: Cursor = cursors[2].parse().expect("a cursor");
    let place = known.places()[0];
    let hash = channel_hash(APP_ID, "room");
    assert_eq!(place.channel_hash, hash);
    let forged =
        |epoch, offset, settled| Cursor::single(Place { channel_hash: hash, epoch, offset }, settled).to_string();
    let cases = [
        ("from the future", forged(place.epoch, place.offset + 100, known.settled())),
        ("from the far future", forged(place.epoch, u64::MAX, u64::MAX)),
        ("of an unknown epoch", forged(place.epoch ^ 1 << 40, 1, 1)),
        ("of an earlier life", forged(1, 1, 1)),
    ];
    for transport in TRANSPORTS {
        for (what, cursor) in &cases {
            assert_eq!(recovered(&server, transport, "room", cursor), false, "{what} {transport:?}");
            if transport == Transport::LongPoll {
                let answer = sub(&server, &format!("room?since={cursor}"), &[]);
                assert_eq!((answer.status, answer.header("fanfare-recovered")), (204, Some("false")), "{answer:?}");
                let went_on = answer.header("fanfare-cursor").expect("a place to go on from");
                assert_eq!(recovered_or_quiet(&server, went_on), None, "{what}");
                continue;
            }
            let mut reader = Reader::with(&server, transport, "room", &format!("&since={cursor}"));
            server.publish("room", "said", "live");
            assert_eq!(reader.data(), "live", "{what} {transport:?}");
        }
    }
}

/// Publishes rising numbers to each of these channels until it is dropped.
pub struct Publishing {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Publishing {
    pub fn start(server: &Server, channels: &[&'static str]) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let publish = |channel: &&'static str| {
            let (stop, channel, mut publisher) = (stop.clone(), *channel, Publisher::to(server));
            thread::spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    publisher.publish(channel, &n.to_string());
                }
            })
        };
        Publishing { threads: channels.iter().map(publish).collect(), stop }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Whatever went wrong with one of them, the reader has missed its messages.
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}

fn recovered_or_quiet(server: &Server, since: &str) -> Option<Value> {
    let told = sub(server, &format!("room?transport=poll&format=json&since={since}"), &[]).json();
    told.get("recovered").filter(|recovered| **recovered != json!(true)).cloned()
}

#[test]
fn a_cleared_history_is_a_gap() {
    let server = server("");
    let cursors = publish_numbers(&server, "room", 1..=3);
    let bearer = [("Authorization", "Bearer fanfare-secret")];
    assert_eq!(server.request("DELETE", "/pub/fanfare-key/room", &bearer, "").status, 200);
    for transport in TRANSPORTS {
        assert_eq!(recovered(&server, transport, "room", &cursors[0]), false, "{transport:?}");
    }
    assert_eq!(recovered(&server, Transport::Sse, "room", &cursors[2]), true, "it had heard all of it");
}

#[test]
fn a_graceful_restart_loses_nothing_and_a_crash_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = format!("data_dir = {:?}\ndrain_s = 0\n{}", folder.path(), one_app(""));
    let mut first = Server::start(&config);
    let cursors = publish_numbers(&first, "room", 1..=3);
    let both = cursor(&first, "room/hall");
    first.signal("TERM");
    assert!(first.wait().success());

    let mut second = Server::start(&config);
    second.publish("room", "said", "4");
    second.publish("hall", "said", "5");
    for transport in TRANSPORTS {
        assert_eq!(recovered(&second, transport, "room", &cursors[0]), true, "{transport:?}");
        let mut reader = Reader::with(&second, transport, "room", &format!("&since={}", cursors[0]));
        expect_numbers(&mut reader, 2..=4);
        let mut reader = Reader::with(&second, transport, "room/hall", &format!("&since={both}"));
        expect_numbers(&mut reader, 4..=5);
    }
    second.signal("KILL");
    second.wait();

    let third = Server::start(&config);
    for transport in TRANSPORTS {
        assert_eq!(recovered(&third, transport, "room", &cursors[0]), false, "{transport:?}");
    }
}

/// Reads a while, leaves, and comes back with the last cursor it heard, again and again, while somebody publishes.
fn comes_and_goes(server: &Server, transport: Transport, visits: u32) {
    let mut since = cursor(server, "room");
    let mut last = 0;
    let _publishing = Publishing::start(server, &["room"]);
    for visit in 0..visits {
        let mut reader = Reader::ask(server.addr, transport, "room", &format!("&since={since}"), &[])
            .unwrap_or_else(|why| panic!("{why:?}"));
        if transport != Transport::LongPoll {
            let told = reader.next();
            assert_eq!(told["recovered"], true, "{transport:?} after {last}: {told}");
        }
        let enough = last + 1 + visit % 7;
        while last < enough || reader.has_heard() {
            expect_numbers(&mut reader, [last + 1]);
            last += 1;
        }
        since = reader.cursor.clone().expect("a cursor");
    }
    println!("{transport:?}: {last} messages in {visits} visits, each once");
}

const VISITS: u32 = 100;

#[test]
fn coming_back_while_somebody_publishes_loses_and_doubles_nothing() {
    for transport in TRANSPORTS {
        comes_and_goes(&server(KEEP_ALL), transport, VISITS);
    }
}

/// How many publications of a channel a cursor has behind it.
#[track_caller]
fn offset(cursor: &Value, channel: &str) -> u64 {
    let cursor: Cursor = cursor.as_str().expect("a cursor").parse().expect("a whole cursor");
    cursor.place(channel_hash(APP_ID, channel)).expect("a place in the channel").offset
}

#[test]
fn the_first_message_is_the_one_after_the_cursor_that_the_confirmation_tells() {
    let server = server(KEEP_ALL);
    let _publishing = Publishing::start(&server, &["room"]);
    for visit in 0..VISITS {
        for transport in STREAMS {
            let mut reader = Reader::ask(server.addr, transport, "room", "", &[]).expect("a stream");
            let mut last = offset(&reader.next()["cursor"], "room");
            for _ in 0..=visit % 5 {
                let next = offset(&reader.next()["cursor"], "room");
                assert_eq!(next, last + 1, "{transport:?}");
                last = next;
            }
        }
    }
}

/// A cursor of one channel resumes the others by what had been shown to everybody, so that a message may come twice.
#[test]
fn coming_back_to_several_channels_loses_nothing() {
    const CHANNELS: [&str; 3] = ["a", "b", "c"];
    for transport in TRANSPORTS {
        let server = server(KEEP_ALL);
        let mut since = cursor(&server, "a/b/c");
        let _publishing = Publishing::start(&server, &CHANNELS);
        let (mut last, mut repeats) = ([0_u64; 3], 0);
        for _ in 0..VISITS {
            let mut reader = Reader::ask(server.addr, transport, "a/b/c", &format!("&since={since}"), &[])
                .unwrap_or_else(|why| panic!("{why:?}"));
            // To the end of what was missed, and a little further.
            let mut enough = last.map(|n| n + 2);
            if transport != Transport::LongPoll {
                for _ in CHANNELS {
                    let told = reader.next();
                    assert_eq!(told["recovered"], true, "{transport:?} {told}");
                    let channel = CHANNELS.iter().position(|name| told["channel"] == *name).expect("one of ours");
                    // No cursor: what was missed follows, on this channel or another.
                    if told["cursor"].is_string() {
                        enough[channel] = offset(&told["cursor"], CHANNELS[channel]) + 2;
                    }
                }
            }
            while last.iter().zip(&enough).any(|(last, enough)| last < enough) || reader.has_heard() {
                let message = reader.next();
                let channel = CHANNELS.iter().position(|name| message["channel"] == *name).expect("one of ours");
                let n: u64 = message["data"].as_str().and_then(|data| data.parse().ok()).expect("a number");
                assert!(n <= last[channel] + 1, "{transport:?}: {n} on {channel} after {}", last[channel]);
                repeats += u32::from(n <= last[channel]);
                last[channel] = last[channel].max(n);
            }
            since = reader.cursor.clone().expect("a cursor");
        }
        println!("{transport:?}: {last:?}, {repeats} repeated");
    }
}
