//! A changed configuration, and a server that stops.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Frame, SECRET, Server, Socket, WebSocket, eventually, one_app};

/// Another app beside the one that all helpers speak for.
fn other_app(keys: &str) -> String {
    format!("[[apps]]\nid = \"2\"\nkeys = [{{ key = \"other-key\", secret = \"{SECRET}\" }}]\n{keys}\n")
}

// Reloading.

#[test]
fn changed_limits_hold_for_connections_that_are_open() {
    let server = Server::start(&one_app(""));
    let (mut one, mut two) = (server.connect(), server.connect());
    one.subscribe("private-room");
    two.subscribe("private-room");
    one.say_on("private-room", "client-typing", json!({}));
    one.expect_error();

    server.reload(&one_app("client_events = true\nlimits = { channel_name_len_max = 12 }"));
    one.say_on("private-room", "client-typing", json!({}));
    two.expect(r#"{"event":"client-typing","channel":"private-room","data":"{}"}"#);
    one.ask_for("a-name-that-is-long", None);
    one.expect_error();
}

#[test]
fn an_app_that_was_removed_loses_its_connections_with_4001_and_others_keep_theirs() {
    let server = Server::start(&[one_app(""), other_app("")].concat());
    let (mut ours, mut theirs) = (server.connect(), server.connect_to("/app/other-key?protocol=7"));
    ours.subscribe("room");
    theirs.subscribe("room");
    server.reload(&one_app(""));
    assert_eq!(theirs.expect_error(), json!({"code": 4001, "message": "the app was removed"}));
    theirs.expect_close(4001);
    server.publish("room", "said", "still here");
    ours.expect(r#"{"event":"said","channel":"room","data":"still here"}"#);
}

#[test]
fn an_app_that_was_disabled_loses_its_connections_with_4003_and_may_come_back() {
    let server = Server::start(&[one_app(""), other_app("")].concat());
    let (mut ours, mut theirs) = (server.connect(), server.connect_to("/app/other-key?protocol=7"));
    server.reload(&[one_app(""), other_app("enabled = false")].concat());
    assert_eq!(theirs.expect_error(), json!({"code": 4003, "message": "the app is disabled"}));
    theirs.expect_close(4003);
    ours.settle();

    server.reload(&[one_app(""), other_app("")].concat());
    server.connect_to("/app/other-key?protocol=7").settle();
    ours.settle();
}

#[test]
fn a_configuration_that_does_not_check_out_changes_nothing() {
    let server = Server::start(&one_app("client_events = true"));
    let mut socket = server.connect();
    fs::write(server.config_file(), "[[apps]]\nid = 1\n").expect("the configuration is written");
    server.signal("HUP");
    eventually("the mistake is logged", || server.log().contains("new configuration refused"));
    socket.settle();
    server.connect().settle();
}

// Stopping.

/// Waits for the close, answers it as a client does, and says when it came.
fn closed_at(mut ws: WebSocket, code: u16) -> Instant {
    let close = ws.frame();
    assert_eq!(close.as_ref().and_then(Frame::close_code), Some(code), "{close:?}");
    let at = Instant::now();
    ws.close(code);
    at
}

#[test]
fn a_server_that_stops_closes_with_4200_spread_over_its_drain_time() {
    let mut server = Server::start(&format!("drain_s = 2\nloops = 1\n{}", one_app("")));
    let sockets: Vec<Socket> = (0..40).map(|_| server.connect()).collect();
    let told = Instant::now();
    server.signal("TERM");
    let waiting: Vec<_> = sockets.into_iter().map(|socket| thread::spawn(move || closed_at(socket.ws, 4200))).collect();
    let mut after: Vec<Duration> = waiting.into_iter().map(|one| one.join().expect("it was closed") - told).collect();
    after.sort();
    assert!(after[10] >= Duration::from_millis(250), "a quarter went at once: {after:?}");
    assert!(after[39] >= Duration::from_millis(1500), "all went at once: {after:?}");
    assert!(after[39] <= Duration::from_millis(4000), "it took too long: {after:?}");
    assert!(server.wait().success());
}

#[test]
fn a_server_that_stops_takes_nobody_in_and_says_that_it_is_not_ready() {
    let server = Server::start(&format!("drain_s = 30\n{}", one_app("")));
    let _kept: Vec<Socket> = (0..100).map(|_| server.connect()).collect();
    assert_eq!(server.admin_get("/readyz").status, 200);
    server.signal("TERM");
    eventually("it is not ready any more", || server.admin_get("/readyz").status == 503);
    eventually("nobody is taken in", || std::net::TcpStream::connect(server.addr).is_err());
    assert_eq!(server.admin_get("/healthz").status, 200);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start(&format!("drain_s = 60\n{}", one_app("")));
    let _kept: Vec<Socket> = (0..100).map(|_| server.connect()).collect();
    server.signal("TERM");
    eventually("it is stopping", || server.log().contains("stopping"));
    server.signal("INT");
    server.wait();
}

#[test]
fn a_server_without_connections_or_drain_time_ends_at_once() {
    let mut idle = Server::start(&one_app(""));
    idle.signal("TERM");
    assert!(idle.wait().success());

    let mut hasty = Server::start(&format!("drain_s = 0\n{}", one_app("")));
    let sockets: Vec<Socket> = (0..10).map(|_| hasty.connect()).collect();
    hasty.signal("INT");
    for mut socket in sockets {
        socket.expect_close(4200);
    }
    assert!(hasty.wait().success());
}
