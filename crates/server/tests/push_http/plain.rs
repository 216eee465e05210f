//! `/pub/{app_key}/{channel}…`

use super::*;

#[test]
fn a_body_is_published_as_it_is_and_201_says_that_somebody_is_there() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    for method in ["POST", "PUT"] {
        let response = send(&server, method, ROOM, &[], "grüße\n\"x\"");
        assert_eq!(response.status, 201);
        assert_eq!(response.header("content-type"), Some("application/json"));
        socket.expect(r#"{"event":"message","channel":"room","data":"grüße\n\"x\""}"#);
    }
    assert_eq!(send(&server, "POST", "/pub/fanfare-key/empty", &[], "x").status, 202);
}

#[test]
fn an_event_has_the_name_that_its_publisher_gives_it() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    send(&server, "POST", ROOM, &[("Event-Type", "said"), ("Event-Id", "7")], "x");
    socket.expect(r#"{"event":"said","channel":"room","data":"x"}"#);
    for name in ["fanfare:gap", "pusher:error", "pusher_internal:x"] {
        refused(&send(&server, "POST", ROOM, &[("Event-Type", name)], "x"), 400, "the server's own");
    }
    refused(&send(&server, "POST", ROOM, &[("Event-Type", "")], "x"), 400, "name must have 1 to");
    refused(&send(&server, "POST", ROOM, &[("Event-Id", &"7".repeat(129))], "x"), 400, "Event-Id must have 1 to");
    socket.settle();
}

#[test]
fn the_type_and_the_id_are_kept_for_those_who_read() {
    let server = server("");
    let headers = [("Content-Type", "application/xml"), ("Event-Id", "ü-7"), ("Event-Type", "said")];
    publish(&server, ROOM, &headers, "<a/>");
    let read = server.request("GET", "/sub/fanfare-key/room?transport=longpoll&backtrack=1", &[], "");
    assert_eq!((read.status, read.body.as_str()), (200, "<a/>"), "{read:?}");
    assert_eq!(read.header("content-type"), Some("application/xml"));
    assert_eq!((read.header("fanfare-event"), read.header("fanfare-event-id")), (Some("said"), Some("ü-7")));
}

#[test]
fn one_post_goes_to_several_channels_and_each_has_its_place() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("b");
    let response =
        send(&server, "POST", "/pub/fanfare-key/a/b/presence-c/a?info=subscription_count,user_count", &[], "x");
    assert_eq!(response.status, 201, "one of them has a subscriber");
    socket.expect(r#"{"event":"message","channel":"b","data":"x"}"#);
    let told = response.json();
    let channels = told["channels"].as_object().expect("an object");
    assert_eq!(channels.keys().collect::<Vec<_>>(), ["a", "b", "presence-c"]);
    for (name, place) in channels {
        assert_eq!((&place["offset"], &place["repeated"]), (&1.into(), &false.into()), "{name}");
        assert!(place["cursor"].as_str().is_some_and(|cursor| (1..=128).contains(&cursor.len())), "{name}");
        assert!(u64::from_str_radix(place["epoch"].as_str().expect("text"), 16).is_ok(), "{name}");
    }
    assert_eq!((&channels["b"]["subscription_count"], channels["b"].get("user_count")), (&1.into(), None));
    assert_eq!(channels["presence-c"]["user_count"], 0);
}

#[test]
fn what_cannot_be_published_is_refused_with_the_reason() {
    let server = server("limits = { payload_bytes_max = 100, channel_name_len_max = 10 }");
    refused(&send(&server, "POST", ROOM, &[], ""), 400, "the body is empty");
    refused(&send(&server, "POST", ROOM, &[], &"x".repeat(101)), 413, "the body may have 100 bytes");
    assert_eq!(send(&server, "POST", ROOM, &[], &"x".repeat(100)).status, 202);
    refused(&send(&server, "POST", "/pub/fanfare-key/a%20b", &[], "x"), 400, "' ' in a channel name");
    refused(&send(&server, "POST", "/pub/fanfare-key/01234567890", &[], "x"), 400, "at most 10 are allowed");
    refused(&send(&server, "POST", "/pub/fanfare-key/a/private-encrypted-b", &[], "x"), 400, "");
    refused(&send(&server, "POST", "/pub/nobody/room", &[], "x"), 404, "no app has the key \"nobody\"");
    refused(&send(&server, "POST", "/pub/fanfare-key/", &[], "x"), 404, "nothing is here");
    refused(&send(&server, "POST", &format!("{ROOM}?info=users"), &[], "x"), 400, "unknown attribute");
    refused(&send(&server, "POST", ROOM, &[("Content-Type", &"t".repeat(129))], "x"), 400, "content-type must be");
    let response = send(&server, "PATCH", ROOM, &[], "x");
    refused(&response, 405, "expected one of GET, POST, PUT, DELETE, OPTIONS");
    assert_eq!(response.header("allow"), Some("GET, POST, PUT, DELETE, OPTIONS"));
}

#[test]
fn a_body_that_is_not_utf8_is_415() {
    use std::io::Write;
    let server = server("");
    let mut stream = server.tcp();
    let head =
        format!("POST {ROOM} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nContent-Length: 2\r\n\r\n");
    stream.write_all(&[head.as_bytes(), b"\xff\xfe"].concat()).expect("the request is sent");
    refused(&Response::read(&mut stream, &mut Vec::new()), 415, "must be text in UTF-8");
}

#[test]
fn only_the_secret_of_the_key_publishes() {
    let two_keys = r#"[[apps]]
id = "1"
keys = [{ key = "a", secret = "sa" }, { key = "b", secret = "sb" }]
"#;
    let server = Server::start(two_keys);
    let status = |bearer: &str| send_as(&server, bearer, "POST", "/pub/a/room", &[], "x").status;
    assert_eq!(status("sa"), 202);
    for wrong in ["sb", "s", "saa", "SA", "a"] {
        assert_eq!(status(wrong), 401, "{wrong}");
    }
    refused(&server.request("POST", "/pub/a/room", &[], "x"), 401, "expected Authorization: Bearer");
    let basic = [("Authorization", "Basic sa")];
    refused(&server.request("POST", "/pub/a/room", &basic, "x"), 401, "expected Authorization: Bearer");
    refused(&server.request("POST", "/pub/a/room?token=sa", &[], "x"), 401, "expected Authorization: Bearer");
}

#[test]
fn pages_of_allowed_origins_may_publish() {
    let server = server("allowed_origins = [\"https://good.example\"]");
    let good = [("Origin", "https://good.example")];
    let response = server.request("OPTIONS", ROOM, &good, "");
    assert_eq!((response.status, response.body.as_str()), (204, ""));
    assert_eq!(response.header("access-control-allow-origin"), Some("https://good.example"));
    assert_eq!(response.header("access-control-allow-methods"), Some("GET, POST, PUT, DELETE, OPTIONS"));
    assert_eq!(response.header("access-control-max-age"), Some("86400"));
    let allowed = response.header("access-control-allow-headers").expect("headers");
    for name in ["Authorization", "Content-Type", "Idempotency-Key", "Event-Id", "Event-Type"] {
        assert!(allowed.contains(name), "{name}");
    }

    let response = send(&server, "POST", ROOM, &good, "x");
    assert_eq!((response.status, response.header("vary")), (202, Some("Origin")));
    assert_eq!(response.header("access-control-allow-origin"), Some("https://good.example"));
    // A page is to read refusals too.
    let response = server.request("POST", ROOM, &good, "x");
    assert_eq!((response.status, response.header("access-control-allow-origin")), (401, Some("https://good.example")));

    let response = send(&server, "POST", ROOM, &[("Origin", "https://bad.example")], "x");
    refused(&response, 403, "pages of this origin");
    assert_eq!(response.header("access-control-allow-origin"), None);
    assert_eq!(send(&server, "POST", ROOM, &[], "x").header("access-control-allow-origin"), Some("*"));
}

#[test]
fn plain_publishing_counts_against_the_apps_rate() {
    let server = server("limits = { publishes_per_s = 2 }");
    assert_eq!(send(&server, "POST", "/pub/fanfare-key/a/b", &[], "x").status, 202);
    let response = send(&server, "POST", "/pub/fanfare-key/a/b", &[], "x");
    refused(&response, 429, "publishes_per_s");
    assert_eq!(response.header("retry-after"), Some("1"));
}

#[test]
fn a_disabled_app_is_403_and_a_prefix_may_stand_before() {
    refused(&send(&server("enabled = false"), "POST", ROOM, &[], "x"), 403, "disabled");
    let server = Server::start(&format!("path_prefix = \"/realtime\"\n{}", one_app("")));
    assert_eq!(send(&server, "POST", &format!("/realtime{ROOM}"), &[], "x").status, 202);
}

#[test]
fn a_publisher_is_told_about_its_channels() {
    let server = server("");
    let place = |offset: u64, stored: u64| {
        let told = send(&server, "GET", ROOM, &[], "").json();
        assert_eq!((&told["channel"], &told["offset"]), (&"room".into(), &offset.into()), "{told}");
        assert_eq!(told["stored_messages"], stored, "{told}");
        told
    };
    let nothing = place(0, 0);
    assert_eq!((&nothing["stored_bytes"], &nothing["subscription_count"]), (&0.into(), &0.into()));
    let mut socket = server.connect();
    socket.subscribe("room");
    publish(&server, ROOM, &[], "one");
    let two = publish(&server, ROOM, &[], "two");
    let told = place(2, 2);
    assert_eq!((&told["epoch"], &told["subscription_count"]), (&two["epoch"], &1.into()));
    assert!(told["stored_bytes"].as_u64().is_some_and(|bytes| bytes >= 6), "{told}");
    assert!(told.get("user_count").is_none());

    let list = send(&server, "GET", "/pub/fanfare-key/room/presence-x", &[], "").json();
    let names: Vec<_> = list["channels"].as_array().expect("a list").iter().map(|told| &told["channel"]).collect();
    assert_eq!(names, ["room", "presence-x"]);
    assert_eq!(list["channels"][1]["user_count"], 0);
    refused(&server.request("GET", ROOM, &[], ""), 401, "expected Authorization");
}

#[test]
fn deleting_says_goodbye_and_forgets() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("room");
    let first = publish(&server, ROOM, &[], "one");
    socket.expect(r#"{"event":"message","channel":"room","data":"one"}"#);
    let response = send(&server, "DELETE", ROOM, &[], "closing");
    assert_eq!(response.status, 200, "{response:?}");
    socket.expect(r#"{"event":"message","channel":"room","data":"closing"}"#);
    let after = response.json()["channels"]["room"].clone();
    assert_ne!(after["epoch"], first["epoch"]);
    assert_eq!(send(&server, "GET", ROOM, &[], "").json()["stored_messages"], 0);
    let missed = server.get("/channels/room/history", &[("since", first["cursor"].as_str().expect("a cursor"))]);
    assert_eq!((&missed.json()["recovered"], &missed.json()["publications"]), (&false.into(), &serde_json::json!([])));

    assert_eq!(send(&server, "DELETE", ROOM, &[], "").status, 200);
    publish(&server, ROOM, &[], "again");
    socket.expect(r#"{"event":"message","channel":"room","data":"again"}"#);
}
