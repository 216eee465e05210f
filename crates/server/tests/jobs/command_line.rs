//! `fanfare jobs`: every verb, for people and for scripts.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{APP_ID, KEY, SECRET, Server};
use crate::{Mail, server};

/// What `fanfare jobs` prints when it succeeds.
fn jobs(server: &Server, args: &[&str]) -> String {
    let (ok, out, error) = run(server, args, "");
    assert!(ok, "{args:?}: {error}");
    out
}

fn spawn(server: &Server, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.arg("jobs").args(args);
    command.args(["--url", &format!("http://{}", server.addr), "--app-id", APP_ID, "--key", KEY, "--secret", SECRET]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the command line runs")
}

/// Whether it succeeds on this input, and what it prints where.
fn run(server: &Server, args: &[&str], input: &str) -> (bool, String, String) {
    let mut child = spawn(server, args);
    match child.stdin.take().expect("it is piped").write_all(input.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {} // It has ended without reading: it says why.
        written => written.expect("it reads"),
    }
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn json_of(server: &Server, args: &[&str]) -> Value {
    let out = jobs(server, &[args, &["--json"]].concat());
    serde_json::from_str(&out).expect("JSON")
}

#[test]
fn a_job_goes_through_its_life() {
    let server = server("attempts_max = 5");
    let put =
        jobs(&server, &["put", "mail", r#"{"text":"hi"}"#, "--job-key", "k", "--kind", "edit", "--priority", "3"]);
    let id = put.trim().to_owned();
    let claim = || json_of(&server, &["claim", "mail", "--worker", "w1", "--lease-s", "60"])["jobs"][0].clone();
    let lease = |job: &Value| job["lease"].as_str().expect("a lease").to_owned();

    let first = claim();
    assert_eq!(
        (&first["data"], &first["kind"], &first["key"]),
        (&json!(r#"{"text":"hi"}"#), &json!("edit"), &json!("k"))
    );
    assert!(jobs(&server, &["extend", "mail", &lease(&first), "--lease-s", "600"]).starts_with("ends in "));
    let cancel = ["cancel", "mail", &lease(&first), "--reason", "no answer", "--progress", "half"];
    assert_eq!(jobs(&server, &cancel), "waiting\n");
    let second = claim();
    assert_eq!((&second["attempt"], &second["progress"]), (&json!(2), &json!("half")));
    assert_eq!(jobs(&server, &["release", "mail", &lease(&second), "--progress", "more"]), "done\n");
    let third = claim();
    assert_eq!((&third["attempt"], &third["progress"]), (&json!(2), &json!("more")));
    assert_eq!(jobs(&server, &["stall", "mail", &lease(&third), "poison"]), "done\n");
    let listed = jobs(&server, &["list", "mail", "--state", "stalled"]);
    assert!(
        listed.lines().count() == 2 && listed.contains("poison") && listed.contains(r#"{"text":"hi"}"#),
        "{listed}"
    );
    assert_eq!(jobs(&server, &["retry", "mail", &id]), format!("{id}\n"));
    assert_eq!(jobs(&server, &["finish", "mail", &lease(&claim()), "all sent"]), "done\n");
    let shown = jobs(&server, &["show", "mail", &id]);
    assert!(shown.contains("state     finished") && shown.contains("result    all sent"), "{shown}");
    assert_eq!(jobs(&server, &["retract", "mail", &id]), format!("{id}\n"));
    let (ok, _, error) = run(&server, &["show", "mail", &id], "");
    assert!(!ok && error.contains(&format!("404 Not Found: {{\"error\":\"there is no job {id}\"}}")), "{error}");
}

#[test]
fn each_line_of_the_input_is_a_job() {
    let server = server("");
    let lines: String = (0..1200).map(|n| format!("line {n}\n")).collect();
    let (ok, out, error) = run(&server, &["put", "mail", "-"], &lines);
    assert!(ok, "{error}");
    assert_eq!(out.lines().count(), 1200);
    assert_eq!(server.count("waiting"), 1200);
    assert_eq!(server.claim(json!({}))[0]["data"], "line 0");
}

#[test]
fn lines_are_put_as_they_come() {
    let server = server("");
    let mut child = spawn(&server, &["put", "mail", "-"]);
    let mut input = child.stdin.take().expect("it is piped");
    let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
    for n in 0..3 {
        // Whoever writes waits for the id before the next.
        writeln!(input, "line {n}").expect("it reads");
        let mut id = String::new();
        out.read_line(&mut id).expect("it answers");
        assert!(id.trim().parse::<u64>().is_ok(), "{id:?}");
    }
    drop(input);
    assert!(child.wait().expect("it ends").success());
    assert_eq!(server.count("waiting"), 3);
}

#[test]
fn long_lines_are_put_in_turns_and_one_key_is_not_for_all() {
    let server = server("");
    let lines: String = (0..50).map(|_| "\u{1}".repeat(20_000) + "\n").collect();
    let (ok, out, error) = run(&server, &["put", "mail", "-"], &lines);
    assert!(ok, "{error}");
    assert_eq!(out.lines().count(), 50);
    let (ok, _, error) = run(&server, &["put", "mail", "-", "--idempotency-key", "k"], "a\nb\n");
    assert!(!ok && error.contains("all lines would be the same job"), "{error}");
    assert_eq!(server.count("waiting"), 50);
}

#[test]
fn stalled_jobs_are_retried_together_and_queues_are_counted() {
    let server = server("");
    for n in 0..3 {
        server.put(json!({"key": format!("k{n}"), "data": n}));
        let job = server.claim_one();
        server.about(&job, "stall", json!({"reason": "poison"})).expect(200, "{}");
    }
    assert_eq!(jobs(&server, &["retry", "mail", "--all", "--job-key", "k1"]), "1 retried\n");
    assert_eq!(json_of(&server, &["counts", "mail"])["stalled"], 2);
    let counts = jobs(&server, &["counts"]);
    let row: Vec<_> = counts.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row[..7], ["mail", "1", "0", "0", "2", "0", "3"], "{counts}");
    assert!(jobs(&server, &["counts", "mail"]).contains("ever: "));
    assert_eq!(jobs(&server, &["claim", "mail", "--jobs", "9"]).lines().count(), 2);
    assert_eq!(jobs(&server, &["claim", "mail", "--wait-s", "1"]), "no job is there to be claimed\n");
}
