//! The data directory: what a stopped server leaves for the next one.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Server, one_app};

/// A server with the one app whose data are here.
fn server(dir: &Path) -> Server {
    Server::start(&config(dir))
}

fn config(dir: &Path) -> String {
    format!("data_dir = \"{}\"\ndrain_s = 0\n{}", dir.display(), one_app(""))
}

/// Stops in good order.
fn stop(mut server: Server) -> String {
    server.signal("TERM");
    assert!(server.wait().success());
    server.log()
}

/// What a new subscriber of the cache channel is told after the confirmation.
fn first_event(server: &Server) -> String {
    let mut socket = server.connect();
    socket.ask_for("cache-room", None);
    socket.expect_event("pusher_internal:subscription_succeeded");
    socket.recv_text()
}

const SAID: &str = r#"{"event":"said","channel":"cache-room","data":"kept"}"#;
const MISSED: &str = r#"{"event":"pusher:cache_miss","channel":"cache-room","data":"{}"}"#;

#[test]
fn what_was_remembered_outlives_a_stop_in_good_order_again_and_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("deep/inside");
    let first = server(&data);
    first.publish("cache-room", "said", "kept");
    stop(first);
    for _ in 0..2 {
        let next = server(&data);
        assert_eq!(first_event(&next), SAID);
        stop(next);
    }
}

#[test]
fn a_crash_leaves_nothing_of_what_came_before_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let first = server(dir.path());
    first.publish("cache-room", "said", "kept");
    stop(first);
    let mut crashing = server(dir.path());
    assert_eq!(first_event(&crashing), SAID);
    crashing.signal("KILL");
    crashing.wait();
    assert_eq!(first_event(&server(dir.path())), MISSED, "what came after it is unknown");
}

/// What a poller of these channels is answered.
fn poll(server: &Server, since: &str) -> Value {
    let target = format!("/sub/fanfare-key/room/hall?transport=poll&format=json{since}");
    server.request("GET", &target, &[], "").json()
}

fn since(answer: &Value) -> String {
    format!("&since={}", answer["cursor"].as_str().expect("an answer says where to go on from"))
}

#[test]
fn readers_go_on_over_a_graceful_restart_and_are_warned_after_a_crash() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let first = server(dir.path());
    first.publish("room", "said", "one");
    let before = since(&poll(&first, ""));
    first.publish("room", "said", "two");
    first.publish("hall", "said", "three");
    stop(first);
    let mut second = server(dir.path());
    second.publish("room", "said", "four");
    let answer = poll(&second, &before);
    let messages = answer["messages"].as_array().expect("a list");
    let heard: Vec<&str> = messages.iter().filter_map(|message| message["data"].as_str()).collect();
    assert_eq!((heard, &answer["recovered"]), (vec!["two", "three", "four"], &Value::Bool(true)));
    second.signal("KILL");
    second.wait();
    let answer = poll(&server(dir.path()), &since(&answer));
    assert_eq!((&answer["recovered"], &answer["messages"]), (&Value::Bool(false), &json!([])));
}

#[test]
fn a_damaged_file_is_put_aside_and_the_server_starts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let first = server(dir.path());
    first.publish("cache-room", "said", "kept");
    stop(first);
    let file = dir.path().join("history");
    let mut bytes = fs::read(&file).expect("a history was written");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("the file is ours");
    let next = server(dir.path());
    assert_eq!(first_event(&next), MISSED);
    let log = stop(next);
    assert!(log.contains("histories not read") && log.contains("damaged"), "{log}");
    assert!(dir.path().join("history.refused").exists());
}

#[test]
fn two_servers_do_not_share_a_directory() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let _first = server(dir.path());
    let file = dir.path().join("fanfare.toml");
    fs::write(&file, config(dir.path())).expect("the configuration is written");
    let second = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config"])
        .arg(&file)
        .output()
        .expect("the server starts");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("in use by another server"), "{said}");
}

#[test]
fn a_directory_that_cannot_be_made_costs_the_histories_only() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("the folder is ours");
    let server = server(&file.join("inside"));
    server.publish("cache-room", "said", "kept");
    assert_eq!(first_event(&server), SAID);
    assert!(stop(server).contains("no data directory"));
}
