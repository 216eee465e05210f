//! Whom a server lets in during a rollout: percentages, lists, dark, the switch; over HTTP, as clients ask.

mod support;

use std::collections::HashSet;
use std::io::Write;

use serde_json::{Value, json};
use support::{KEY, Response, Server, eventually, one_app};

fn config(rollout: &str) -> String {
    one_app(&format!("[apps.rollout]\n{rollout}"))
}

fn server(rollout: &str) -> Server {
    Server::start(&config(rollout))
}

fn ask(server: &Server, query: &str) -> Value {
    let response = server.request("GET", &format!("/rollout/{KEY}?{query}"), &[], "");
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

/// Which of so many users are in, all asked on one connection.
fn users_in(server: &Server, count: u32) -> HashSet<u32> {
    let mut stream = server.tcp();
    let mut is_in = |user: &u32| {
        let head = format!("GET /rollout/{KEY}?user={user} HTTP/1.1\r\nHost: here\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the request is sent");
        Response::read(&mut stream, &mut Vec::new()).json()["enabled"] == true
    };
    (0..count).filter(|user| is_in(user)).collect()
}

/// Changes the configuration, and waits until a visitor is told what it says.
fn reload(server: &Server, rollout: &str, query: &str, is_so: impl Fn(&Value) -> bool) {
    server.reload(&config(rollout));
    eventually("the new rollout", || is_so(&ask(server, query)));
}

#[test]
fn without_a_rollout_everybody_is_in() {
    let server = Server::start(&one_app(""));
    let everybody = json!({
        "enabled": true, "dark": false, "percent": 100.0, "reason": "percent", "check_again_s": 55,
    });
    assert_eq!(ask(&server, "user=ann"), everybody);
    assert_eq!(ask(&server, "")["enabled"], true);
}

#[test]
fn of_ten_thousand_users_ten_percent_are_in_and_stay_in_at_twenty() {
    let server = server("percent = 10");
    let ten = users_in(&server, 10_000);
    assert!((900..=1_100).contains(&ten.len()), "{} users", ten.len());
    reload(&server, "percent = 20.5", "user=x", |told| told["percent"] == 20.5);
    let twenty = users_in(&server, 10_000);
    assert!((1_950..=2_150).contains(&twenty.len()), "{} users", twenty.len());
    assert!(twenty.is_superset(&ten));
}

#[test]
fn after_a_restart_and_on_another_node_the_same_are_in() {
    let before = users_in(&server("percent = 50"), 500);
    assert_eq!(before, users_in(&server("percent = 50"), 500));
    assert_ne!(before, users_in(&server("percent = 50\nseed = \"other\""), 500));
}

#[test]
fn lists_let_in_and_keep_out() {
    let server = server("percent = 0\nallow = [\"user:ann b\", \"site:blog\"]\ndeny = [\"user:eve\"]");
    for (query, enabled, reason) in [
        ("user=ann%20b", true, "allow"),
        ("user=carl&site=blog", true, "allow"),
        ("user=eve&site=blog", false, "deny"),
        ("user=carl", false, "percent"),
        ("id=4711", false, "percent"),
        ("", false, "unnamed"),
    ] {
        let told = ask(&server, query);
        assert_eq!((&told["enabled"], &told["reason"]), (&json!(enabled), &json!(reason)), "{query}");
    }
}

#[test]
fn the_switch_is_turned_by_a_reload_and_answers_are_counted() {
    let server = server("allow = [\"user:ann\"]");
    assert_eq!(ask(&server, "user=ann")["enabled"], true);
    reload(&server, "allow = [\"user:ann\"]\nkill = true\ncheck_again_s = 1", "user=ann", |told| {
        told["enabled"] == false
    });
    let told = ask(&server, "user=ann");
    assert_eq!((&told["reason"], &told["check_again_s"]), (&json!("kill"), &json!(1)));
    reload(&server, "dark = true", "user=ann", |told| told["enabled"] == true && told["dark"] == true);
    for answer in ["on", "off", "dark"] {
        assert!(server.metric(&format!("fanfare_rollout_answers_total{{app=\"1\",answer=\"{answer}\"}}")) >= 1.0);
    }
}

#[test]
fn a_part_of_those_who_are_in_is_dark() {
    let server = server("dark = 50");
    let dark = (0..200).filter(|user| ask(&server, &format!("user={user}"))["dark"] == true).count();
    assert!((60..=140).contains(&dark), "{dark} of 200");
}

#[test]
fn a_disabled_app_is_off_and_an_unknown_one_not_there() {
    let server = Server::start(&one_app("enabled = false"));
    let told = ask(&server, "user=ann");
    assert_eq!((&told["enabled"], &told["reason"]), (&json!(false), &json!("disabled")));
    let unknown = server.request("GET", "/rollout/other", &[("Origin", "https://page.test")], "");
    unknown.expect(404, r#"{"error":"no app has the key \"other\""}"#);
    assert_eq!(unknown.header("access-control-allow-origin"), Some("*"));
    assert_eq!(server.request("POST", &format!("/rollout/{KEY}"), &[], "").status, 405);
}

#[test]
fn pages_that_may_subscribe_may_ask() {
    let origins = "allowed_origins = [\"https://page.test\"]\n[apps.rollout]\ncheck_again_s = 20";
    let server = Server::start(&format!("path_prefix = \"/realtime\"\n{}", one_app(origins)));
    let target = format!("/realtime/rollout/{KEY}?user=ann");
    let from = |method, origin| server.request(method, &target, &[("Origin", origin)], "");

    let told = from("GET", "https://page.test");
    assert_eq!((told.status, told.json()["check_again_s"].clone()), (200, json!(18)));
    assert_eq!(told.header("cache-control"), Some("public, max-age=2"));
    assert_eq!(told.header("vary"), Some("Origin"));
    assert_eq!(told.header("access-control-allow-origin"), Some("https://page.test"));

    let stranger = from("GET", "https://other.test");
    assert_eq!((stranger.status, stranger.header("cache-control")), (403, Some("no-store")));

    let asked = from("OPTIONS", "https://page.test");
    assert_eq!((asked.status, asked.header("access-control-allow-methods")), (204, Some("GET, OPTIONS")));
}

#[test]
fn a_rollout_that_makes_no_sense_is_refused_with_its_line() {
    for (rollout, complaint) in [
        ("percent = 101", "expected a number from 0 to 100, such as 0.5, found 101"),
        ("percent = \"all\"", "expected a number"),
        ("dark = \"a bit\"", "expected true, false or a number from 0 to 100"),
        ("by = \"page\"", "expected \"user\" or \"site\", found \"page\""),
        ("allow = [\"ann\"]", "expected \"user:…\" or \"site:…\", found \"ann\""),
        ("percnt = 1", "unknown key `percnt`; the nearest known key is `percent`"),
        ("check_again_s = 0", "expected a whole number from 1 to 86400, found 0"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("fanfare.toml");
        let text = config(rollout);
        std::fs::write(&file, &text).expect("the configuration is written");
        let line = text.lines().position(|line| line == rollout).expect("it stands there") + 1;
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_fanfare"));
        let output = check.arg("check").arg("--config").arg(&file).output().expect("it runs");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(!output.status.success() && said.contains(complaint) && said.contains(&format!(":{line}:")), "{said}");
    }
}
