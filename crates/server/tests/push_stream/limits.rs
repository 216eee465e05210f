//! Who may subscribe, and the events channel.

use super::{Face, expect_refused};
use crate::support::eventually;

#[test]
fn a_channel_has_as_many_subscribers_as_it_may() {
    let face = Face::start("max_subscribers_per_channel = 2");
    let (first, _second) = (face.stream("/sub/a", &[]), face.stream("/ev/b/a", &[]));
    let why = "Subscribers limit per channel has been exceeded.";
    expect_refused(&face.get("/sub/a"), 403, why);
    expect_refused(&face.get("/lp/c/a"), 403, why);
    assert_eq!(face.get("/poll/a").status, 304, "who polls is no subscriber");
    drop(first);
    eventually("the place is free", || face.subscribers("a") == 1);
    face.stream("/sub/a", &[]);
}

#[test]
fn only_publishers_open_channels_where_the_configuration_says_so() {
    let face = Face::start("authorized_channels_only = true");
    expect_refused(&face.get("/sub/a"), 403, "Subscriber could not create channels.");
    expect_refused(&face.get("/lp/a"), 403, "Subscriber could not create channels.");
    face.publish("a", "x");
    face.stream("/sub/a.b1", &[]).expect("x");
    expect_refused(&face.get("/sub/a/b"), 403, "Subscriber could not create channels.");
}

#[test]
fn the_events_channel_tells_of_channels_and_subscribers() {
    let face = Face::start(
        "events_channel_id = \"events\"\nallow_connections_to_events_channel = true\n[push_stream.streaming]\n\
         message_template = \"~text~|\"",
    );
    let mut events = face.stream("/sub/events", &[]);
    face.publish("a", "x");
    events.expect("{\"type\": \"channel_created\", \"channel\": \"a\"}|");
    let mut stream = face.stream("/sub/a", &[]);
    events.expect("{\"type\": \"client_subscribed\", \"channel\": \"a\"}|");
    assert_eq!(face.request("DELETE", "/pub?id=a", &[], "").status, 200);
    stream.expect("Channel deleted|");
    stream.expect_end();
    let mut last = [events.take_to("|"), events.take_to("|")];
    last.sort();
    assert!(last[0].contains("\"channel_destroyed\"") && last[1].contains("\"client_unsubscribed\""), "{last:?}");
    let why = "Only internal routines can change events channel.";
    expect_refused(&face.request("POST", "/pub?id=events", &[], "x"), 403, why);
    expect_refused(&face.request("DELETE", "/pub?id=events", &[], ""), 403, why);
}

#[test]
fn the_events_channel_is_closed_unless_the_configuration_opens_it() {
    let face = Face::start("events_channel_id = \"events\"");
    expect_refused(&face.get("/sub/events"), 403, "Subscription to events channel is not allowed.");
}

#[test]
fn subscribers_count_as_connections_of_their_app() {
    let face = Face::start_app("[apps.limits]\nconnections_max = 1", "");
    let stream = face.stream("/sub/a", &[]);
    assert_eq!(face.get("/sub/a").status, 503);
    drop(stream);
    eventually("the place is free", || face.get("/poll/a").status == 304);
}

#[test]
fn an_app_that_is_switched_off_takes_its_subscribers_along() {
    let face = Face::start("[push_stream.streaming]\nfooter_template = \"end\"");
    let mut stream = face.stream("/sub/a", &[]);
    let file = face.server.config_file();
    let config = std::fs::read_to_string(&file).expect("the configuration is read");
    std::fs::write(&file, config.replace("[[apps]]", "[[apps]]\nenabled = false")).expect("it is written");
    face.server.signal("HUP");
    stream.expect("end");
    stream.expect_end();
    expect_refused(&face.get("/sub/a"), 403, "The app is disabled.");
}

#[test]
fn pages_of_foreign_origins_stay_outside() {
    let face = Face::start_app("allowed_origins = [\"https://example.com\"]", "");
    let poll = |origin| face.request("GET", "/poll/a", &[("Origin", origin)], "").status;
    assert_eq!((poll("https://example.com"), poll("https://example.org")), (304, 403));
}

#[test]
fn a_slow_reader_is_closed_and_nobody_waits_for_it() {
    let face = Face::start_app("[apps.limits]\npayload_bytes_max = 200000", "max_messages_stored_per_channel = 1");
    let _slow = face.stream("/sub/a", &[]);
    let text = "x".repeat(200_000);
    eventually("the slow reader is closed", || {
        face.publish("a", &text);
        face.subscribers("a") == 0
    });
}
