//! Who may read, and what they are told who may not.

use serde_json::json;

use crate::support::{KEY, Server, eventually, one_app};
use crate::{TOKEN, Tap, ack, ask, config, config_in, publish};

#[test]
fn who_may_not_is_told_why() {
    let server = Server::start(&config("", ", connections_max = 1"));
    let errors = |method, target: &str, headers: &[(&str, &str)]| {
        let answer = server.request(method, target, headers, "");
        (answer.status, answer.json()["error"].as_str().expect("an error").to_owned())
    };
    let bearer = format!("Bearer {TOKEN}");
    let good = [("Authorization", bearer.as_str())];
    let (home, away) = (format!("/firehose/{KEY}"), format!("/firehose/{KEY}/nack"));
    assert_eq!(errors("GET", "/firehose/nobody", &good), (404, "no app has the key \"nobody\"".into()));
    assert_eq!(errors("GET", &home, &[]).0, 401);
    assert_eq!(errors("GET", &home, &[("Authorization", "Bearer token-of-all-that-ix")]).0, 401);
    assert_eq!(errors("DELETE", &home, &good), (405, "expected GET, HEAD".into()));
    assert_eq!(errors("GET", &format!("{home}/ack"), &good), (405, "expected POST".into()));
    assert_eq!(errors("GET", &away, &good).0, 404);
    assert_eq!(errors("GET", &format!("{home}?filter=channel+%3D%3D"), &good).0, 400);
    assert_eq!(errors("GET", &format!("{home}?since=yesterday"), &good).0, 400);
    assert_eq!(ack(&server, "nobody", &Tap::open(&server, "").cursor()).status, 404);

    let is_free = || server.metric("fanfare_firehose_connections{app=\"1\"}") == 0.0;
    eventually("the first connection is gone", is_free);
    assert_eq!(server.request("HEAD", &home, &good, "").status, 200);
    eventually("the second is gone", is_free);
    let _tap = Tap::open(&server, "");
    let full = ask(&server, "GET", "", TOKEN);
    assert_eq!((full.status, full.header("retry-after")), (429, Some("5")));
    assert!(!server.log().contains(TOKEN));
}

#[test]
fn a_token_may_stand_in_the_address() {
    let server = Server::start(&config("", ""));
    let head = server.request("HEAD", &format!("/firehose/{KEY}?token={TOKEN}"), &[], "");
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/x-ndjson")));
}

#[test]
fn an_app_without_a_firehose_has_none() {
    let server = Server::start(&one_app(""));
    assert_eq!(ask(&server, "GET", "", TOKEN).status, 404);
    server.publish("room", "said", "hello");
    assert!(!server.admin_get("/metrics").body.contains("firehose"));
}

#[test]
fn a_reload_takes_tokens_back_and_gives_others() {
    let server = Server::start(&config("", ""));
    let (mut tap, cursor) = (Tap::open(&server, ""), Tap::open(&server, "").cursor());
    publish(&server, "room", 0..1);
    assert_eq!(tap.data(1), ["0"]);
    // Something else has changed: whoever reads goes on.
    server.reload(&config("window_s = 60", ""));
    publish(&server, "room", 1..2);
    assert_eq!(tap.data(1), ["1"]);
    server.reload(&config("", "").replace(TOKEN, "another-token-than-before"));
    assert_eq!(
        tap.next(),
        json!({"event": "fanfare:closed", "reason": "the token was changed or taken back", "reconnect": true})
    );
    assert_eq!(tap.heard(), None);
    assert_eq!(ask(&server, "GET", "", TOKEN).status, 401);
    let mut other = Tap::with(&server, "another-token-than-before", &format!("since={cursor}"));
    assert_eq!(other.data(2), ["0", "1"]);
    server.reload(&one_app(""));
    assert_eq!(ask(&server, "GET", "", TOKEN).status, 404);
    // What is published meanwhile is in nobody's firehose.
    publish(&server, "room", 2..3);
    server.reload(&config("", ""));
    publish(&server, "room", 3..4);
    let mut back = Tap::open(&server, &format!("since={cursor}"));
    assert_eq!(back.data(3), ["0", "1", "3"]);
}

#[test]
fn the_path_prefix_is_taken_and_may_have_been_taken_off() {
    let server = Server::start(&format!("path_prefix = \"/realtime\"\n{}", config("", "")));
    let authorization = format!("Bearer {TOKEN}");
    let status = |target: String| {
        let answer = server.request("GET", &target, &[("Authorization", &authorization)], "");
        (answer.status, answer.body.contains("since: expected"))
    };
    assert_eq!(status(format!("/realtime/firehose/{KEY}?since=nonsense")), (400, true));
    assert_eq!(status(format!("/firehose/{KEY}?since=nonsense")), (400, true));
    assert_eq!(status(format!("/other/firehose/{KEY}?since=nonsense")), (404, false));
}

#[test]
fn a_reload_that_cannot_be_had_in_full_changes_no_firehose() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let memory =
        |token: &str| config_in(&file.path().join("data"), "durability = \"memory\"", "").replace(TOKEN, token);
    let server = Server::start(&memory(TOKEN));
    let other = "[[apps]]\nid = \"2\"\nkeys = [{ key = \"other\", secret = \"of-the-other-app\" }]\n\
        [apps.firehose]\ndurability = \"disk\"\ntokens = [{ name = \"all\", token = \"token-of-another-app\" }]\n";
    server.reload(&(memory("another-token-than-before") + other));
    eventually("it is refused", || server.log().contains("firehoses stay as they were"));
    assert_eq!(ask(&server, "HEAD", "", TOKEN).status, 200);
    assert_eq!(ask(&server, "GET", "", "another-token-than-before").status, 401);
}
