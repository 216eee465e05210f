//! The HTTP API, written out on the wire: what the official server libraries rely on, and what they are told.

mod support;

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_proto::sign::{hmac_hex, md5_hex, sign_query};
use serde_json::json;
use support::{APP_ID, KEY, Response, SECRET, Server, one_app};

const EVENTS: &str = "/apps/1/events";

fn server(keys: &str) -> Server {
    Server::start(&one_app(keys))
}

/// A request whose query was signed over whatever text the test chose.
fn signed_over(server: &Server, method: &str, target: &str, query: &str, text: &str, body: &str) -> Response {
    let signature = hmac_hex(SECRET.as_bytes(), text.as_bytes());
    server.request(method, &format!("{target}?{query}&auth_signature={signature}"), &[], body)
}

/// A request as it stands, to the last byte.
fn raw(server: &Server, text: &str) -> Response {
    let mut stream = server.tcp();
    stream.write_all(text.as_bytes()).expect("the request is sent");
    Response::read(&mut stream, &mut Vec::new())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

fn auth_query() -> String {
    format!("auth_key={KEY}&auth_timestamp={}&auth_version=1.0", now_s())
}

#[track_caller]
fn refused(response: &Response, status: u16, because: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let error = response.json()["error"].as_str().expect("an error").to_owned();
    assert!(error.contains(because), "{error}");
}

// Publishing.

#[test]
fn an_event_reaches_its_subscribers_as_the_token_that_was_posted() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    let body = r#"{"name":"sa\u0069d","channels":["room"],"data":"\u00fc \"x\"\n"}"#;
    let response = server.signed("POST", EVENTS, &[], body);
    assert_eq!((response.status, response.body.as_str()), (200, "{}"));
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(socket.recv_text(), r#"{"event":"sa\u0069d","channel":"room","data":"\u00fc \"x\"\n"}"#);
}

#[test]
fn data_that_is_no_string_arrives_as_one() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    server.post("/events", &json!({"name": "said", "channel": "room", "data": {"n": [1, null]}})).expect(200, "{}");
    assert_eq!(socket.recv_text(), r#"{"event":"said","channel":"room","data":"{\"n\":[1,null]}"}"#);
}

#[test]
fn an_event_goes_to_each_of_its_channels_once_and_not_to_the_socket_left_out() {
    let server = server("");
    let (mut one, mut two, mut both) = (server.connect(), server.connect(), server.connect());
    one.subscribe("one");
    two.subscribe("two");
    both.subscribe("one");
    both.subscribe("two");
    let body = json!({"name": "said", "channels": ["one", "two", "one"], "data": "x", "socket_id": both.id});
    server.post("/events", &body).expect(200, "{}");
    one.expect(r#"{"event":"said","channel":"one","data":"x"}"#);
    two.expect(r#"{"event":"said","channel":"two","data":"x"}"#);
    one.settle();
    both.settle();
}

#[test]
fn a_batch_keeps_its_order_within_a_channel() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    let batch: Vec<_> = (0..10).map(|n| json!({"name": "n", "channel": "room", "data": n})).collect();
    let response = server.post("/batch_events", &json!({"batch": batch}));
    assert_eq!((response.status, response.body.as_str()), (200, "{}"));
    for n in 0..10 {
        socket.expect(&format!(r#"{{"event":"n","channel":"room","data":"{n}"}}"#));
    }
}

#[test]
fn nothing_of_a_request_is_published_when_a_part_of_it_is_refused() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    let good = json!({"name": "said", "channel": "room", "data": "x"});
    let batch =
        server.post("/batch_events", &json!({"batch": [good, {"name": "said", "channel": "a b", "data": "x"}]}));
    refused(&batch, 400, "event 1 of the batch: ' ' in a channel name");
    let event = server.post("/events", &json!({"name": "said", "channels": ["room", "a/b"], "data": "x"}));
    refused(&event, 400, "'/' in a channel name");
    let encrypted = json!({"name": "said", "channels": ["room", "private-encrypted-room"], "data": "x"});
    refused(&server.post("/events", &encrypted), 400, "can be published to that channel alone");
    socket.settle();
}

#[test]
fn the_servers_own_events_cannot_be_feigned() {
    let server = server("");
    for name in ["pusher:error", "pusher_internal:member_added", "fanfare:gap"] {
        let response = server.post("/events", &json!({"name": name, "channel": "room", "data": "x"}));
        refused(&response, 400, "are the server's own");
    }
}

#[test]
fn counts_come_back_when_asked_for() {
    let server = server("");
    let (mut ann, mut ann_too) = (server.connect(), server.connect());
    ann.join("presence-room", r#"{"user_id":"ann"}"#);
    ann_too.join("presence-room", r#"{"user_id":"ann"}"#);
    ann.subscribe("open");
    let info = "subscription_count,user_count";
    let body = json!({"name": "n", "channels": ["presence-room", "open", "empty"], "data": "x", "info": info});
    let told = r#"{"channels":{"presence-room":{"user_count":1,"subscription_count":2},
        "open":{"subscription_count":1},"empty":{"subscription_count":0}}}"#;
    server.post("/events", &body).expect(200, told);

    let event = |channel, info| json!({"name": "n", "channel": channel, "data": "x", "info": info});
    let batch = json!({"batch": [event("presence-room", Some("user_count")), event("open", None)]});
    server.post("/batch_events", &batch).expect(200, r#"{"batch":[{"user_count":1},{}]}"#);
    let unknown = json!({"name": "n", "channel": "open", "data": "x", "info": "users"});
    refused(&server.post("/events", &unknown), 400, "unknown attribute \"users\"");
}

#[test]
fn the_deprecated_call_takes_the_body_as_the_data() {
    let server = server("");
    let (mut socket, mut left_out) = (server.connect(), server.connect());
    socket.subscribe("room");
    left_out.subscribe("room");
    let params = [("name", "said"), ("socket_id", left_out.id.as_str())];
    let response = server.signed("POST", "/apps/1/channels/room/events", &params, "{\"n\":1}\n");
    assert_eq!((response.status, response.body.as_str()), (202, ""));
    socket.expect(r#"{"event":"said","channel":"room","data":"{\"n\":1}\n"}"#);
    left_out.settle();
    refused(&server.signed("POST", "/apps/1/channels/room/events", &[], "x"), 400, "name is missing");
}

// Limits.

#[test]
fn too_much_data_is_413_however_it_is_escaped() {
    let server = server("limits = { payload_bytes_max = 100 }");
    let event = |data: &str| format!(r#"{{"name":"n","channel":"c","data":"{data}"}}"#);
    server.signed("POST", EVENTS, &[], &event(&r"\u0061".repeat(100))).expect(200, "{}");
    let response = server.signed("POST", EVENTS, &[], &event(&"a".repeat(101)));
    refused(&response, 413, "data may have 100 bytes, this has 101");
    let batch = format!(r#"{{"batch":[{}]}}"#, event(&"a".repeat(101)));
    refused(&server.signed("POST", "/apps/1/batch_events", &[], &batch), 413, "event 0 of the batch: data may have");
}

#[test]
fn a_body_is_read_no_further_than_its_limit() {
    let server = Server::start(&format!("publish_body_bytes_max = 16384\n{}", one_app("")));
    let body = "x".repeat(0x4001);
    refused(&server.signed("POST", EVENTS, &[], &body), 413, "the body may have 16384 bytes");
    // Of unannounced length.
    let query = sign_query(SECRET.as_bytes(), KEY, "POST", EVENTS, &[], body.as_bytes(), now_s());
    let head = format!("POST {EVENTS}?{query} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let response = raw(&server, &format!("{head}4001\r\n{body}\r\n0\r\n\r\n"));
    refused(&response, 413, "the body may have 16384 bytes");
}

#[test]
fn an_app_that_publishes_too_often_is_told_when_to_come_again() {
    let server = server("limits = { publishes_per_s = 2 }");
    let two = json!({"name": "n", "channels": ["a", "b"], "data": "x"});
    server.post("/events", &two).expect(200, "{}");
    let response = server.post("/events", &two);
    refused(&response, 429, "publishes_per_s");
    assert_eq!(response.header("retry-after"), Some("1"));
}

#[test]
fn a_disabled_app_is_403() {
    let server = server("enabled = false");
    refused(&server.get("/channels", &[]), 403, "disabled");
}

// Signatures.

#[test]
fn a_wrong_signature_shows_what_was_to_be_signed_and_never_the_digest() {
    let server = server("");
    let query = auth_query();
    let text = format!("GET\n/apps/1/channels\n{query}");
    let digest = hmac_hex(SECRET.as_bytes(), text.as_bytes());
    let response =
        server.request("GET", &format!("/apps/1/channels?{query}&auth_signature={}", "0".repeat(64)), &[], "");
    refused(&response, 401, &format!("{text:?}"));
    assert!(!response.body.contains(&digest));
}

#[test]
fn a_request_that_is_not_signed_is_told_what_it_needs() {
    let server = server("");
    refused(&server.request("GET", "/apps/1/channels", &[], ""), 401, "the query needs auth_key");
    let version = auth_query().replace("1.0", "2.0");
    let response = server.request("GET", &format!("/apps/1/channels?{version}&auth_signature=00"), &[], "");
    refused(&response, 401, "auth_version must be 1.0");
    let old = sign_query(SECRET.as_bytes(), KEY, "GET", "/apps/1/channels", &[], b"", now_s() - 1000);
    refused(&server.request("GET", &format!("/apps/1/channels?{old}"), &[], ""), 401, "auth_timestamp");
}

#[test]
fn a_body_must_be_covered_by_the_signature() {
    let server = server("");
    let body = r#"{"name":"n","channel":"c","data":"x"}"#;
    let query = auth_query();
    let text = format!("POST\n{EVENTS}\n{query}");
    refused(&signed_over(&server, "POST", EVENTS, &query, &text, body), 401, "body_md5");
    let query = format!("{query}&body_md5={}", md5_hex(b"another"));
    let text = format!("POST\n{EVENTS}\n{query}");
    refused(&signed_over(&server, "POST", EVENTS, &query, &text, body), 401, "body_md5 does not match");
}

#[test]
fn get_may_carry_the_digest_of_its_empty_body() {
    let server = server("");
    let query = format!("{}&body_md5=d41d8cd98f00b204e9800998ecf8427e", auth_query());
    let path = "/apps/1/channels";
    signed_over(&server, "GET", path, &query, &format!("GET\n{path}\n{query}"), "").expect(200, r#"{"channels":{}}"#);
}

#[test]
fn the_path_may_be_signed_as_it_is_meant_or_as_it_is_sent() {
    let server = server("");
    let (sent, meant) =
        ("/apps/1/users/user%20id/%C3%BC/terminate_connections", "/apps/1/users/user id/ü/terminate_connections");
    for signed in [sent, meant] {
        let query = auth_query();
        signed_over(&server, "POST", sent, &query, &format!("POST\n{signed}\n{query}"), "").expect(200, "{}");
    }
}

#[test]
fn every_pair_of_an_app_signs_and_no_other_apps() {
    let rotated = r#"
        [[apps]]
        id = "1"
        keys = [{ key = "new", secret = "n" }, { key = "old", secret = "o" }]
        [[apps]]
        id = "2"
        keys = [{ key = "other", secret = "x" }]
    "#;
    let server = Server::start(rotated);
    let get = |key, secret: &str| {
        let query = sign_query(secret.as_bytes(), key, "GET", "/apps/1/channels", &[], b"", now_s());
        server.request("GET", &format!("/apps/1/channels?{query}"), &[], "")
    };
    get("new", "n").expect(200, r#"{"channels":{}}"#);
    get("old", "o").expect(200, r#"{"channels":{}}"#);
    refused(&get("new", "o"), 401, "invalid signature");
    refused(&get("other", "x"), 401, "auth_key \"other\" is not a key of this app");
    let query = sign_query(b"n", "new", "GET", "/apps/3/channels", &[], b"", now_s());
    refused(&server.request("GET", &format!("/apps/3/channels?{query}"), &[], ""), 404, "there is no app \"3\"");
}

#[test]
fn the_path_prefix_is_not_signed() {
    let server = Server::start(&format!("path_prefix = \"/push\"\n{}", one_app("")));
    let query = sign_query(SECRET.as_bytes(), KEY, "GET", "/apps/1/channels", &[], b"", now_s());
    for prefix in ["/push", ""] {
        let response = server.request("GET", &format!("{prefix}/apps/1/channels?{query}"), &[], "");
        response.expect(200, r#"{"channels":{}}"#);
    }
}

// Questions.

#[test]
fn channels_are_listed_while_somebody_is_on_them() {
    let server = server("");
    server.get("/channels", &[]).expect(200, r#"{"channels":{}}"#);
    let mut socket = server.connect();
    socket.subscribe("open");
    socket.join("presence-room", r#"{"user_id":1}"#);
    server.get("/channels", &[]).expect(200, r#"{"channels":{"open":{},"presence-room":{}}}"#);
    let list = |prefix, info| server.get("/channels", &[("filter_by_prefix", prefix), ("info", info)]);
    list("presence-", "user_count").expect(200, r#"{"channels":{"presence-room":{"user_count":1}}}"#);
    list("op", "subscription_count").expect(200, r#"{"channels":{"open":{"subscription_count":1}}}"#);
    list("nothing", "").expect(200, r#"{"channels":{}}"#);
    refused(&list("", "user_count"), 400, "filter_by_prefix must begin with presence-");
    refused(&list("", "cache"), 400, "of a single channel only");

    socket.unsubscribe("open");
    socket.settle();
    server.get("/channels", &[]).expect(200, r#"{"channels":{"presence-room":{}}}"#);
}

#[test]
fn a_channel_that_nobody_is_on_is_no_mistake() {
    let server = server("");
    let ask = |name: &str, info| server.get(&format!("/channels/{name}"), &[("info", info)]);
    ask("room", "").expect(200, r#"{"occupied":false}"#);
    let mut socket = server.connect();
    socket.join("presence-room", r#"{"user_id":"ann"}"#);
    let told = r#"{"occupied":true,"user_count":1,"subscription_count":1}"#;
    ask("presence-room", "user_count,subscription_count").expect(200, told);
    refused(&ask("room", "user_count"), 400, "room is no presence channel");
    refused(&ask("a b", ""), 400, "in a channel name");
}

#[test]
fn a_cache_channel_tells_its_newest_event() {
    let server = server("limits = { cache_ttl_s = 60 }");
    let ask = || server.get("/channels/cache-room", &[("info", "cache")]);
    ask().expect(200, r#"{"occupied":false,"cache":null}"#);
    server.publish("cache-room", "said", "first");
    server.publish("cache-room", "said", "\"second\"");
    ask().expect(200, r#"{"occupied":false,"cache":{"data":"\"second\"","ttl":60}}"#);
}

#[test]
fn users_are_listed_once_each() {
    let server = server("");
    let users = |name: &str| server.get(&format!("/channels/{name}/users"), &[]);
    users("presence-room").expect(200, r#"{"users":[]}"#);
    let mut sockets = [server.connect(), server.connect(), server.connect()];
    for (socket, id) in sockets.iter_mut().zip([1, 2, 1]) {
        socket.join("presence-room", &format!(r#"{{"user_id":{id}}}"#));
    }
    users("presence-room").expect(200, r#"{"users":[{"id":"1"},{"id":"2"}]}"#);
    refused(&users("room"), 400, "room is no presence channel");
    let stats = server.get("/channels/presence-room/stats", &[]);
    stats.expect(200, r#"{"occupied":true,"user_count":2,"connection_count":3}"#);
}

// Users.

#[test]
fn a_users_sockets_are_closed_with_or_without_the_app_in_the_path() {
    let server = server("");
    for path in ["/apps/1/users/ann/terminate_connections", "/users/ann/terminate_connections"] {
        let (mut ann, mut ben) = (server.connect(), server.connect());
        ann.sign_in(r#"{"id":"ann"}"#);
        ben.sign_in(r#"{"id":"ben"}"#);
        let response = server.signed("POST", path, &[], "{}");
        assert_eq!((response.status, response.body.as_str()), (200, "{}"));
        ann.expect_close(4009);
        ben.settle();
    }
}

#[test]
fn an_event_for_a_user_reaches_all_of_its_sockets() {
    let server = server("");
    let mut sockets = [server.connect(), server.connect()];
    for socket in &mut sockets {
        socket.sign_in(r#"{"id":"ann"}"#);
    }
    server.publish("#server-to-user-ann", "notice", "x");
    for socket in &mut sockets {
        socket.expect(r##"{"event":"notice","channel":"#server-to-user-ann","data":"x"}"##);
    }
}

// Around the calls.

#[test]
fn a_wrong_path_or_method_is_told_the_right_one() {
    let server = server("");
    refused(&server.request("GET", "/nowhere", &[], ""), 404, "expected /apps/{app_id}/");
    refused(&server.request("GET", &format!("/apps/{APP_ID}/nowhere"), &[], ""), 404, "batch_events");
    let response = server.request("PUT", EVENTS, &[], "{}");
    refused(&response, 405, "expected POST");
    assert_eq!(response.header("allow"), Some("POST, OPTIONS"));
    let response = server.request("OPTIONS", "/apps/1/channels", &[], "");
    assert_eq!((response.status, response.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
}

#[test]
fn a_body_that_is_not_json_is_400() {
    let server = server("");
    refused(&server.signed("POST", EVENTS, &[], "name=x"), 400, "not valid JSON");
    refused(&server.signed("POST", EVENTS, &[], "[1]"), 400, "not a JSON object");
    refused(&server.signed("POST", "/apps/1/batch_events", &[], "{}"), 400, "batch is missing");
}

// Development.

#[test]
fn the_development_app_lets_clients_in() {
    let server = Server::start("");
    let mut socket = server.connect();
    let form = format!("socket_id={}&channel_name=presence-room&user_id=ann", socket.id);
    let response =
        server.request("POST", "/pusher/auth", &[("Content-Type", "application/x-www-form-urlencoded")], &form);
    assert_eq!((response.status, response.header("access-control-allow-origin")), (200, Some("*")));
    let mut data = response.json();
    data["channel"] = "presence-room".into();
    socket.say("pusher:subscribe", data);
    socket.expect_event("pusher_internal:subscription_succeeded");

    let form = json!({"socket_id": socket.id, "user_id": "ann"}).to_string();
    let response = server.request("POST", "/pusher/user-auth", &[("Content-Type", "application/json")], &form);
    socket.say("pusher:signin", response.json());
    socket.expect_event("pusher:signin_success");

    let wrong = server.request("POST", "/pusher/auth", &[], "socket_id=1.2");
    refused(&wrong, 400, "channel_name is missing");
    assert_eq!(wrong.header("access-control-allow-origin"), Some("*"), "a page may read why");
    let preflight = [("Origin", "http://example.com"), ("Access-Control-Request-Headers", "x-own")];
    let response = server.request("OPTIONS", "/pusher/auth", &preflight, "");
    assert_eq!((response.status, response.header("access-control-allow-headers")), (204, Some("x-own")));
}

#[test]
fn other_apps_are_let_in_by_nobody_and_have_no_demo() {
    let server = Server::start("[[apps]]\nid = \"1\"\nkeys = [{ key = \"k\", secret = \"s\" }]");
    for path in ["/pusher/auth", "/pusher/user-auth"] {
        refused(&server.request("POST", path, &[], "socket_id=1.2&channel_name=private-room"), 404, "nothing is here");
    }
    let page = server.request("GET", "/", &[], "");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("The server runs.") && !page.body.contains("<script"));
}

#[test]
fn the_demo_loads_nothing_from_elsewhere() {
    let server = Server::start("");
    let page = server.request("GET", "/", &[], "");
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    let script = server.request("GET", "/assets/pusher-8.6.0.min.js", &[], "");
    assert_eq!(script.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert!(script.body.starts_with("/*!\n * Pusher JavaScript Library v8.6.0\n"));
}
