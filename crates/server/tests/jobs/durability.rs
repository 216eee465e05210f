//! What is on disk, after whatever became of the server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{Server, eventually, one_app};
use crate::{Mail, config_in, told};

fn server(folder: &Path) -> Server {
    Server::start(&config_in(folder, ""))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn kill(mut server: Server) {
    server.signal("KILL");
    server.wait();
}

fn stop(mut server: Server) {
    server.signal("TERM");
    assert!(server.wait().success());
}

/// A server on this folder that does not start, and what `fanfare jobs repair` says of it.
fn fanfare(args: &[&str], folder: &Path) -> Output {
    let config = folder.with_extension("toml");
    fs::write(&config, config_in(folder, "")).expect("the configuration is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(args).arg("--config").arg(config).output().expect("it runs")
}

#[test]
fn what_was_answered_for_is_there_after_a_kill() {
    let folder = folder();
    let first = server(folder.path());
    for n in 0..20 {
        first.put(json!({"key": format!("k{}", n % 2), "idempotency_key": n.to_string(), "data": n.to_string()}));
    }
    let jobs = first.claim(json!({"jobs": 2}));
    first.about(&jobs[0], "finish", json!({"result": "done"})).expect(200, "{}");
    first.about(&jobs[1], "stall", json!({"reason": "poison"})).expect(200, "{}");
    kill(first);

    let second = server(folder.path());
    assert_eq!((second.count("finished"), second.count("stalled")), (1, 1));
    assert_eq!(second.job(jobs[0]["id"].as_u64().expect("an id"))["result"], "done");
    assert_eq!(second.put(json!({"idempotency_key": "0", "data": "again"})), jobs[0]["id"].as_u64().expect("an id"));
    let mut rest = Vec::new();
    while let [job] = &second.claim(json!({"lease_ms": 60_000}))[..] {
        second.about(job, "finish", json!({})).expect(200, "{}");
        rest.push(job["data"].as_str().expect("text").parse::<u32>().expect("a number"));
    }
    let of = |k| rest.iter().copied().filter(|n| n % 2 == k).collect::<Vec<_>>();
    assert_eq!((of(0), of(1)), ((2..20).step_by(2).collect(), (3..20).step_by(2).collect()));
}

#[test]
fn a_worker_does_not_notice_a_restart() {
    let folder = folder();
    let first = server(folder.path());
    first.put(json!({"data": "x"}));
    let job = first.claim(json!({"lease_ms": 600_000})).remove(0);
    stop(first);
    let second = server(folder.path());
    assert_eq!(second.count("claimed"), 1);
    second.about(&job, "finish", json!({})).expect(200, "{}");
}

#[test]
fn a_queue_in_memory_ends_with_the_process() {
    let folder = folder();
    let config = config_in(folder.path(), "durability = \"memory\"");
    let first = Server::start(&config);
    first.put(json!({"data": "x"}));
    stop(first);
    assert_eq!(Server::start(&config).count("waiting"), 0);
}

#[test]
fn jobs_of_a_queue_that_is_configured_no_more_are_kept_and_named() {
    let folder = folder();
    let first = server(folder.path());
    first.put(json!({"data": "kept"}));
    stop(first);
    let other = "[[apps.queues]]\nname = \"other\"\n";
    let config = format!("data_dir = \"{}\"\n{}", folder.path().display(), one_app(other));
    let second = Server::start(&config);
    assert!(second.log().contains("a queue that is on disk is not configured"), "{}", second.log());
    second.reload(&config_in(folder.path(), ""));
    assert_eq!(second.claim_one()["data"], "kept");
}

#[test]
fn a_disk_that_fails_takes_no_jobs_and_loses_none() {
    let folder = folder();
    let first = Server::start_with_files_to_fill(&config_in(folder.path(), ""));
    for n in 0..5 {
        first.put(json!({"data": n.to_string()}));
    }
    first.fill_files();
    let refused = first.mail("POST", "/jobs", &json!({"jobs": [{"data": "lost?"}]}));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert!(refused.body.contains("the queue cannot be written"), "{refused:?}");
    eventually("the node is not ready", || first.admin_get("/readyz").body == "a queue cannot be written\n");
    assert_eq!(first.metric("fanfare_queue_writable{app=\"1\",queue=\"mail\"}"), 0.0);
    kill(first);
    let second = server(folder.path());
    assert_eq!(told(&second.claim(json!({"jobs": 9})), "data"), ["0", "1", "2", "3", "4"]);
    assert_eq!(second.admin_get("/readyz").status, 200);
}

/// The file in which the last jobs are.
fn journal(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder.join("queues/db")).expect("it is there").map(|file| file.expect("a file").path());
    files.filter(|path| path.extension().is_some_and(|end| end == "jnl")).max().expect("a journal")
}

#[test]
fn a_damaged_folder_is_refused_until_it_is_repaired() {
    let folder = folder();
    let data = folder.path().join("data");
    let first = server(&data);
    for n in 0..50 {
        first.put(json!({"data": n.to_string()}));
    }
    kill(first);
    let (journal, text) = (journal(&data), b"\"lost\"");
    let mut bytes = fs::read(&journal).expect("it can be read");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("something is in it");
    bytes[used / 2..used / 2 + text.len()].copy_from_slice(text);
    fs::write(&journal, bytes).expect("it can be written");

    let output = fanfare(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"], &data);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("the queues are damaged"), "{error}");
    assert!(error.contains("`fanfare jobs repair` goes on without what is missing"), "{error}");

    let output = fanfare(&["jobs", "repair"], &data);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("repaired, without what was missing"), "{output:?}");
    let second = server(&data);
    let left = second.mail("GET", "", &Value::Null).json()["waiting"].as_u64().expect("a number");
    assert!((1..50).contains(&left), "{left} jobs are left");
    let busy = fanfare(&["jobs", "repair"], &data);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("is held by process"), "{busy:?}");
}

#[test]
fn the_development_app_has_a_queue_wherever_it_runs() {
    let folder = folder();
    let path = folder.path().to_str().expect("a path in UTF-8");
    for (args, durable) in [(vec![], false), (vec!["--data-dir", path], true)] {
        let server = Server::start_with("", &args);
        let put = server.post("/queues/comments/jobs", &json!({"jobs": [{"data": {"text": "hi"}}]}));
        assert_eq!(put.status, 202, "{put:?}");
        assert_eq!(folder.path().join("queues").exists(), durable);
    }
}
