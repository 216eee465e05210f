//! `/pub` and `/channels-stats`.

use super::{Face, expect_refused};

const INFO: &str = "application/json";

#[test]
fn a_channel_begins_with_its_first_message_and_is_told_about() {
    let face = Face::start("");
    expect_refused(&face.get("/pub?id=a"), 404, "Channel does not exist.");
    let told = face.publish("a", "hello");
    assert_eq!(told.header("content-type"), Some(INFO));
    let info = "{\"channel\": \"a\", \"published_messages\": 1, \"stored_messages\": 1, \"subscribers\": 0}\r\n";
    assert_eq!(told.body, info);
    assert_eq!(face.get("/pub?id=a").body, info);
    let put = face.request("PUT", "/pub?id=a", &[], "again");
    assert_eq!((put.status, &put.json()["published_messages"]), (200, &2.into()));
    let plain = face.request("GET", "/pub?id=a", &[("Accept", "text/plain")], "");
    assert_eq!(plain.header("content-type"), Some("text/plain"));
    assert_eq!(plain.body, "channel: a\r\npublished_messages: 2\r\nstored_messages: 2\r\nactive_subscribers: 0\r\n");
}

#[test]
fn every_answer_names_the_server_and_forbids_caching() {
    let face = Face::start("");
    for response in [face.publish("a", "x"), face.get("/pub?id=nowhere"), face.get("/channels-stats"), face.get("/")] {
        assert!(response.header("x-nginx-pushstream-tag").is_some(), "{response:?}");
        assert!(response.header("x-nginx-pushstream-commit").is_some(), "{response:?}");
        assert_eq!(response.header("cache-control"), Some("no-cache, no-store, must-revalidate"));
        assert_eq!(response.header("expires"), Some("Thu, 01 Jan 1970 00:00:01 GMT"));
    }
}

#[test]
fn what_cannot_be_done_is_explained_in_a_header() {
    let face = Face::start("max_channel_id_length = 10");
    let get = |target: &str| face.get(target);
    let post = |target: &str, body: &str| face.request("POST", target, &[], body);
    expect_refused(&post("/pub?id=a", ""), 400, "Empty post requests are not allowed.");
    expect_refused(&post("/pub", "x"), 400, "No channel id provided.");
    expect_refused(&post("/pub?id=", "x"), 400, "No channel id provided.");
    expect_refused(&post("/pub?id=12345678901", "x"), 400, "Channel id is too large.");
    for id in ["ALL", "a*", "private-a", "presence-b"] {
        expect_refused(&post(&format!("/pub?id={id}"), "x"), 403, "Channel id not authorized for this method.");
        expect_refused(&get(&format!("/sub/{id}")), 403, "Channel id not authorized for this method.");
    }
    let spaced = post("/pub?id=a%20b", "x");
    assert_eq!(spaced.status, 400);
    assert!(spaced.header("x-nginx-pushstream-explain").is_some_and(|why| why.starts_with("Channel id is not valid")));
    let large = post("/pub?id=a", &"x".repeat(10 * 1024 + 1));
    assert_eq!((large.status, large.body.as_str()), (413, ""));
    assert_eq!(get("/nowhere").status, 404);
}

#[test]
fn other_methods_are_told_which_ones_there_are() {
    let face = Face::start("");
    let allow = |method: &str, target: &str| {
        let response = face.request(method, target, &[], "");
        (response.status, response.header("allow").unwrap_or_default().to_owned())
    };
    assert_eq!(allow("PATCH", "/pub?id=a"), (405, "GET, POST, PUT, DELETE".to_owned()));
    assert_eq!(allow("POST", "/sub/a"), (405, "GET".to_owned()));
    assert_eq!(allow("DELETE", "/channels-stats"), (405, "GET".to_owned()));
    assert_eq!(allow("HEAD", "/channels-stats"), (405, "GET".to_owned()));
}

#[test]
fn pages_of_other_origins_are_welcome_where_the_configuration_says_so() {
    let face = Face::start("allowed_origins = \"https://example.com\"");
    let options = face.request("OPTIONS", "/pub?id=a", &[], "");
    assert_eq!((options.status, options.body.as_str()), (200, ""));
    assert_eq!(options.header("access-control-allow-origin"), Some("https://example.com"));
    assert_eq!(options.header("access-control-allow-methods"), Some("GET, POST, PUT, DELETE"));
    let allowed = "If-Modified-Since,If-None-Match,Etag,Event-Id,Event-Type,Last-Event-Id";
    assert_eq!(options.header("access-control-allow-headers"), Some(allowed));
    let options = face.request("OPTIONS", "/sub/a", &[], "");
    assert_eq!((options.status, options.header("access-control-allow-methods")), (200, Some("GET")));
    let face = Face::start("");
    assert_eq!(face.request("OPTIONS", "/sub/a", &[], "").header("access-control-allow-origin"), None);
}

#[test]
fn only_known_machines_publish_and_see_statistics() {
    let face = Face::start("publish_from = [\"10.0.0.0/8\"]");
    let why = "Publishing is not allowed from this address.";
    expect_refused(&face.request("POST", "/pub?id=a", &[], "x"), 403, why);
    expect_refused(&face.request("DELETE", "/pub?id=a", &[], ""), 403, why);
    expect_refused(&face.get("/channels-stats"), 403, why);
    assert_eq!(face.request("GET", "/sub/a", &[("X-Nginx-PushStream-Mode", "polling")], "").status, 304);
}

#[test]
fn a_message_may_go_to_several_channels() {
    let face = Face::start("");
    let told = face.publish("a/b/c", "x").json();
    let ids: Vec<_> = told["infos"].as_array().expect("infos").iter().map(|info| info["channel"].clone()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    // As the JavaScript client writes it.
    assert_eq!(face.publish("/a/b", "y").json()["infos"][1]["published_messages"], 2);
    assert_eq!(face.request("POST", "/pub/d/e", &[], "z").json()["infos"][0]["channel"], "d");
}

#[test]
fn a_deleted_channel_is_gone() {
    let face = Face::start("");
    assert_eq!(face.request("DELETE", "/pub?id=a", &[], "").status, 404);
    face.publish("a", "x");
    expect_refused(&face.request("DELETE", "/pub?id=a/never", &[], ""), 200, "Channel deleted.");
    assert_eq!(face.get("/pub?id=a").status, 404);
    assert_eq!(face.request("DELETE", "/pub?id=a", &[], "").status, 404);
    assert_eq!(face.publish("a", "new").json()["published_messages"], 1, "it begins anew");
}

#[test]
fn publishing_says_nothing_where_the_configuration_says_so() {
    let face = Face::start("channel_info_on_publish = false");
    assert_eq!(face.publish("a", "x").body, "");
}

#[test]
fn statistics_are_summed_up_or_listed() {
    let face = Face::start("");
    face.publish("one", "x");
    face.publish("one", "x");
    face.publish("other", "x");
    let _listening = face.stream("/sub/third", &[]);
    let sum = face.get("/channels-stats");
    assert_eq!((sum.status, sum.header("content-type")), (200, Some(INFO)));
    let sum = sum.json();
    for (name, n) in [("channels", 3), ("published_messages", 3), ("stored_messages", 3), ("subscribers", 1)] {
        assert_eq!(sum[name], n, "{name} in {sum}");
    }
    for name in ["wildcard_channels", "messages_in_trash", "channels_in_delete", "channels_in_trash"] {
        assert_eq!(sum[name], 0, "{name} in {sum}");
    }
    assert!(sum["hostname"].is_string() && sum["time"].is_string() && sum["uptime"].is_u64(), "{sum}");
    assert!(sum["by_worker"][0]["pid"].is_string() && sum["by_worker"][0]["subscribers"] == 1, "{sum}");

    let ids = |target: &str| {
        let infos = face.get(target).json()["infos"].clone();
        let infos = infos.as_array().expect("infos").iter().map(|info| info["channel"].as_str().unwrap().to_owned());
        infos.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids("/channels-stats?id=ALL"), "one other third");
    assert_eq!(ids("/channels-stats?id=o*"), "one other");
    assert_eq!(ids("/channels-stats?id=third/never/one"), "third one");
    assert_eq!(ids("/channels-stats?id=x*"), "");
    assert_eq!(face.get("/channels-stats?id=one").json()["stored_messages"], 2);
    assert_eq!(face.get("/channels-stats?id=never").status, 404);
    let plain = face.request("GET", "/channels-stats", &[("Accept", "text/plain")], "");
    assert!(plain.body.contains("\r\nchannels: 3\r\n") && plain.body.contains("\r\nby_worker:\r\n"), "{}", plain.body);
}
