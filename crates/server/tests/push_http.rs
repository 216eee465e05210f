//! Publishing over plain HTTP, tokens, histories and repeats, written out on the wire.

mod support;

#[path = "push_http/history.rs"]
mod history;
#[path = "push_http/plain.rs"]
mod plain;
#[path = "push_http/polling.rs"]
mod polling;
#[path = "push_http/repeats.rs"]
mod repeats;
#[path = "push_http/tokens.rs"]
mod tokens;

use support::{Response, SECRET, Server, one_app};

const ROOM: &str = "/pub/fanfare-key/room";

fn server(keys: &str) -> Server {
    Server::start(&one_app(keys))
}

/// A request with the key's secret.
fn send(server: &Server, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
    send_as(server, SECRET, method, target, headers, body)
}

/// A request with a secret or a token.
fn send_as(
    server: &Server,
    bearer: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let bearer = format!("Bearer {bearer}");
    let headers = [&[("Authorization", bearer.as_str())], headers].concat();
    server.request(method, target, &headers, body)
}

/// Publishes a text, which must be taken, and tells the channel's part of the answer.
fn publish(server: &Server, target: &str, headers: &[(&str, &str)], body: &str) -> serde_json::Value {
    let response = send(server, "POST", target, headers, body);
    assert!(matches!(response.status, 200..=202), "{response:?}");
    let channel = target.rsplit('/').next().expect("a target has a channel");
    response.json()["channels"][channel].clone()
}

#[track_caller]
fn refused(response: &Response, status: u16, because: &str) {
    assert_eq!(response.status, status, "{response:?}");
    let error = response.json()["error"].as_str().expect("an error").to_owned();
    assert!(error.contains(because), "{error}");
}
