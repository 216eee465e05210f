//! `fanfare record` and `fanfare replay`: what was published comes again, in order, and every message is accounted for.

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::proxy::Proxy;
use support::tap::Tap;
use support::{APP_ID, KEY, Program, SECRET, Server, eventually, one_app};

/// As many as tests publish.
const HISTORY: &str = "[[apps.history]]\nchannels = \"*\"\nmessages = 1000\nseconds = 300";

fn server() -> Server {
    Server::start(&one_app(HISTORY))
}

/// A verb of the command line, that talks to a server.
fn fanfare(verb: &str, at: SocketAddr) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.arg(verb).args(["--url", &format!("http://{at}"), "--app", APP_ID, "--key", KEY, "--secret", SECRET]);
    command
}

/// A recorder at work.
struct Recorder {
    child: Program,
    said: std::io::Lines<BufReader<ChildStderr>>,
    folder: tempfile::TempDir,
}

impl Recorder {
    fn start(at: SocketAddr, args: &[&str]) -> Recorder {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = fanfare("record", at);
        command.args(args).arg("--out").arg(folder.path().join("tape.ndjson"));
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let said = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        Recorder { child: Program(child), said, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("tape.ndjson")
    }

    /// Waits until it has said a line that holds each of these, in any order.
    fn await_all(&mut self, wanted: &[&str]) {
        let mut wanted = wanted.to_vec();
        while !wanted.is_empty() {
            let line = self.said.next().expect("it goes on").expect("UTF-8");
            wanted.retain(|wanted| !line.contains(wanted));
        }
    }

    fn await_messages(&self, count: usize) {
        eventually("the messages in the file", || messages(&self.file()).len() == count);
    }

    /// Ends it as Ctrl-C does, and returns its last words.
    fn interrupt(&mut self) -> (ExitStatus, String) {
        self.child.signal("INT");
        let words: Vec<String> = self.said.by_ref().map_while(Result::ok).collect();
        (self.child.wait().expect("it is our child"), words.join("\n"))
    }
}

/// The messages of a recording: channel, event and data.
fn messages(file: &Path) -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let word = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let message = |line: Value| ["channel", "event", "data"].map(|name| word(&line, name));
    lines.filter(|line| line.get("channel").is_some()).map(message).collect()
}

/// A recording of these messages, each with its time.
fn tape(folder: &Path, messages: &[(u64, &str, &str)]) -> PathBuf {
    let file = folder.join("made.ndjson");
    let mut text = "{\"fanfare_recording\":1,\"began_ms\":0}\n".to_owned();
    for (at_ms, channel, data) in messages {
        text += &format!("{}\n", json!({"at_ms": at_ms, "channel": channel, "event": "e", "data": data}));
    }
    text += &format!("{}\n", json!({"end": true, "messages": messages.len(), "gaps": 0}));
    std::fs::write(&file, text).expect("the folder is ours");
    file
}

fn replay(server: &Server, file: &Path, args: &[&str]) -> Output {
    fanfare("replay", server.addr).arg(file).args(args).output().expect("it runs")
}

fn replayed(server: &Server, file: &Path, args: &[&str]) -> String {
    let output = replay(server, file, args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What a channel's history holds: event and data.
fn history(server: &Server, channel: &str) -> Vec<[String; 2]> {
    let told = server.get(&format!("/channels/{channel}/history"), &[("limit", "1000")]).json();
    let publications = told["publications"].as_array().unwrap_or_else(|| panic!("no publications in {told}")).clone();
    let word = |publication: &Value, name: &str| publication[name].as_str().expect("a string").to_owned();
    publications.iter().map(|publication| ["event", "data"].map(|name| word(publication, name))).collect()
}

#[test]
fn what_was_recorded_is_replayed_in_order_into_the_same_channels() {
    let (one, other) = (server(), server());
    let channels = ["news", "weather", "private-orders"];
    let mut recorder =
        Recorder::start(one.addr, &["--channel", "news", "--channel", "weather", "--channel", "private-orders"]);
    recorder.await_all(&channels.map(|channel| format!("subscribed to {channel}")).each_ref().map(String::as_str));
    for number in 0..60 {
        one.publish(channels[number % 3], &format!("event-{}", number % 2), &format!("ü\n{number}"));
    }
    recorder.await_messages(60);
    let (status, said) = recorder.interrupt();
    assert!(status.success() && said.contains("recorded 60 messages of 3 channels"), "{said}");

    let told = replayed(&other, &recorder.file(), &["--speed", "1000"]);
    assert!(told.starts_with("published 60, refused 0, unknown 0, in "), "{told}");
    assert!(told.contains("late by "), "{told}");
    for channel in channels {
        assert_eq!(history(&one, channel).len(), 20);
        assert_eq!(history(&other, channel), history(&one, channel));
    }
}

#[test]
fn channels_are_found_by_how_they_begin_as_they_appear() {
    let server = server();
    let mut first = server.connect();
    first.subscribe("thread.1");
    let mut recorder = Recorder::start(server.addr, &["--prefix", "thread."]);
    recorder.await_all(&["subscribed to thread.1"]);
    let mut second = server.connect();
    second.subscribe("thread.2");
    second.subscribe("other");
    // Before the recorder knows the channel, and no less recorded.
    server.publish("thread.2", "e", "early");
    server.publish("other", "e", "no");
    recorder.await_all(&["subscribed to thread.2"]);
    server.publish("thread.2", "e", "late");
    recorder.await_messages(2);
    let message = |data: &str| ["thread.2", "e", data].map(str::to_owned);
    assert_eq!(messages(&recorder.file()), [message("early"), message("late")]);
    assert!(recorder.interrupt().0.success());
}

#[test]
fn a_recording_goes_on_after_its_connection_broke_without_a_loss_or_a_repeat() {
    let server = server();
    let proxy = Proxy::to(server.addr);
    let mut recorder = Recorder::start(proxy.addr, &["--channel", "news"]);
    recorder.await_all(&["subscribed to news"]);
    for number in 0..30 {
        server.publish("news", "e", &number.to_string());
        if number % 10 == 5 {
            proxy.cut();
        }
        if number % 10 == 8 {
            recorder.await_all(&["subscribed to news"]);
        }
    }
    recorder.await_messages(30);
    let numbers: Vec<String> = messages(&recorder.file()).into_iter().map(|[_, _, data]| data).collect();
    assert_eq!(numbers, (0..30).map(|number| number.to_string()).collect::<Vec<_>>());
    let (_, said) = recorder.interrupt();
    assert!(said.contains("recorded 30 messages of 1 channels") && said.contains("gaps: 0"), "{said}");
}

#[test]
fn a_firehose_is_recorded_from_a_cursor_and_replayed() {
    let token = "token-of-all-that-is";
    let firehose = format!("{HISTORY}\n[apps.firehose]\ntokens = [{{ name = \"all\", token = \"{token}\" }}]");
    let (one, other) = (Server::start(&format!("data_dir = \"data\"\n{}", one_app(&firehose))), server());
    let cursor = Tap::open(&one, "").cursor();
    let publish = |numbers: std::ops::Range<u32>| {
        for n in numbers {
            one.publish(["news", "thread.1"][n as usize % 2], "said", &format!("{{\"n\":{n}}}"));
        }
    };
    publish(0..10);
    let proxy = Proxy::to(one.addr);
    let args = ["--firehose", token, "--since", &cursor, "--filter", "data.n != 4", "--prefix", ""];
    let mut recorder = Recorder::start(proxy.addr, &args);
    recorder.await_messages(9);
    proxy.cut();
    publish(10..20);
    recorder.await_messages(19);
    let (status, said) = recorder.interrupt();
    assert!(status.success() && said.contains("recorded 19 messages of 2 channels"), "{said}");
    assert!(said.contains("gaps: 0") && said.contains("--since "), "{said}");
    let numbers: Vec<String> = messages(&recorder.file()).into_iter().map(|[_, _, data]| data).collect();
    let expected: Vec<String> = (0..20).filter(|n| *n != 4).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(numbers, expected);

    replayed(&other, &recorder.file(), &["--speed", "1000"]);
    assert_eq!(history(&other, "thread.1"), history(&one, "thread.1"));
    let output = fanfare("record", one.addr).args(["--firehose", "no-such-token-there"]).output().expect("it runs");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success() && said.contains("401"), "{said}");
}

#[test]
fn a_channel_that_may_not_be_read_and_a_file_that_is_there_are_refused() {
    let server = server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tape(folder.path(), &[]);
    let output =
        fanfare("record", server.addr).args(["--channel", "news", "--out"]).arg(&file).output().expect("it runs");
    assert!(!output.status.success() && messages(&file).is_empty());
    let output = fanfare("record", server.addr).args(["--channel", "no spaces"]).output().expect("it runs");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!output.status.success() && said.contains("no spaces"), "{said}");
    let output = fanfare("record", server.addr).output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("say what to record"), "{output:?}");
}

#[test]
fn everything_goes_into_one_channel_in_the_order_of_the_recording() {
    let server = server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data: Vec<String> = (0..300).map(|number: u32| number.to_string()).collect();
    let entries: Vec<_> = (0..300).map(|n| (n as u64, ["a", "b", "c"][n % 3], data[n].as_str())).collect();
    let file = tape(folder.path(), &entries);
    let told = replayed(&server, &file, &["--speed", "100", "--into-one-channel", "hot"]);
    assert!(told.starts_with("published 300, refused 0, unknown 0, "), "{told}");
    let heard: Vec<String> = history(&server, "hot").into_iter().map(|[_, data]| data).collect();
    assert_eq!(heard, data);
    assert!(history(&server, "a").is_empty());
}

#[test]
fn a_recording_is_replayed_as_fast_as_it_is_told() {
    let server = server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tape(folder.path(), &[(0, "a", "first"), (60_000, "a", "last")]);
    let began = Instant::now();
    replayed(&server, &file, &["--speed", "120"]);
    // Half a second, and what a busy machine takes to start a process.
    assert!((Duration::from_millis(500)..Duration::from_secs(30)).contains(&began.elapsed()));
    let output = replay(&server, &file, &["--speed", "0"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected a number above 0"), "{output:?}");
}

#[test]
fn of_a_damaged_recording_nothing_is_published_and_the_line_is_named() {
    let server = server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tape(folder.path(), &[(0, "a", "one"), (1, "a", "two"), (2, "a", "three")]);
    let text = std::fs::read_to_string(&file).expect("it is there");
    for (damaged, line) in [
        (text.replace("\"two\"", "\"tw"), "line 3: "),
        (text.replace("\"channel\":\"a\",\"data\":\"three\"", "\"data\":\"three\""), "line 4: "),
        (text[..text.len() - 5].to_owned(), "line 5: it breaks off"),
        (text.lines().filter(|line| !line.contains("two")).map(|line| format!("{line}\n")).collect(), "line 4: "),
        ("{}\n".to_owned(), "line 1: not a recording"),
    ] {
        std::fs::write(&file, damaged).expect("the folder is ours");
        let output = replay(&server, &file, &["--speed", "1000"]);
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(!output.status.success() && said.contains(line), "{said}");
    }
    assert!(history(&server, "a").is_empty());
}

#[test]
fn what_the_server_refuses_is_counted_and_the_rest_is_published() {
    let server = server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let big = "x".repeat(20_000);
    let entries: Vec<_> = (0..40).map(|n| (0, "a", if n % 10 == 3 { big.as_str() } else { "small" })).collect();
    let output = replay(&server, &tape(folder.path(), &entries), &["--speed", "1000"]);
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(told.starts_with("published 36, refused 4, unknown 0, "), "{told}");
    assert!(!output.status.success() && said.contains("4 of 40 messages were not published"), "{said}");
    assert!(said.contains("413") && said.contains("data may have 10240 bytes"), "{said}");
    assert_eq!(history(&server, "a").len(), 36);
}

#[test]
fn a_server_that_is_too_busy_is_waited_for() {
    let server = Server::start(&one_app(&format!("{HISTORY}\n[apps.limits]\npublishes_per_s = 20")));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data: Vec<String> = (0..50).map(|number: u32| number.to_string()).collect();
    let entries: Vec<_> = data.iter().map(|data| (0, "a", data.as_str())).collect();
    let told = replayed(&server, &tape(folder.path(), &entries), &[]);
    assert!(told.starts_with("published 50, refused 0, unknown 0, "), "{told}");
    // Fifty at twenty a second take more than a second, and all were due at once.
    let p99 = told.split(" ms (p50), ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(p99.is_some_and(|ms| ms > 500.0), "{told}");
    let heard: Vec<String> = history(&server, "a").into_iter().map(|[_, data]| data).collect();
    assert_eq!(heard, data);
}

#[test]
fn a_loop_ends_when_it_is_interrupted_and_adds_up() {
    let server = server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tape(folder.path(), &[(0, "a", "one"), (10, "b", "two")]);
    let mut command = fanfare("replay", server.addr);
    let child = command.arg(&file).arg("--loop").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = Program(child.expect("it starts"));
    eventually("some rounds", || history(&server, "b").len() > 5);
    child.signal("INT");
    assert!(child.wait().expect("it ends").success());
    let published = history(&server, "a").len() + history(&server, "b").len();
    let told = std::io::read_to_string(child.stdout.take().expect("it is piped")).expect("UTF-8");
    assert!(told.starts_with(&format!("published {published}, refused 0, unknown 0, ")), "{told} {published}");
}

#[test]
fn a_second_signal_does_not_wait_for_a_server_that_hangs() {
    let server = server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let messages: Vec<_> = (0..200).map(|n| (n, "a", "one")).collect();
    let file = tape(folder.path(), &messages);
    let mut command = fanfare("replay", server.addr);
    let child = command.arg(&file).arg("--loop").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = Program(child.expect("it starts"));
    eventually("the first messages", || history(&server, "a").len() > 5);
    server.signal("STOP");
    // Until something is sent that is not answered.
    thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    // The first is to wait for answers; a signal that comes before it is noticed is the same.
    while child.try_wait().expect("it is our child").is_none() {
        assert!(begin.elapsed() < Duration::from_secs(15), "it waits for the server");
        child.signal("INT");
        thread::sleep(Duration::from_millis(200));
    }
    server.signal("CONT");
    let told = std::io::read_to_string(child.stdout.take().expect("it is piped")).expect("UTF-8");
    assert!(told.starts_with("published ") && !told.contains("unknown 0,"), "{told}");
}
