//! The worker of `examples/worker.py`: a stage in another language, without a plug-in.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{APP_ID, KEY, Program, SECRET, Server, eventually};
use crate::{Mail, server};

/// The worker, once it has said that it works.
fn worker(server: &Server) -> Program {
    let child = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/worker.py"))
        .arg("mail")
        .env("FANFARE_URL", format!("http://{}", server.addr))
        .env("FANFARE_APP_ID", APP_ID)
        .env("FANFARE_KEY", KEY)
        .env("FANFARE_SECRET", SECRET)
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Program(child.expect("python3 runs"));
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it speaks");
    assert_eq!(line, "working on mail\n");
    child
}

#[test]
fn a_worker_in_python_does_what_it_can_and_parks_the_rest() {
    let server = server("");
    let mut socket = server.connect();
    socket.subscribe("thread.7");
    let mut workers = [worker(&server), worker(&server)];
    let comment = |text: &str| json!({"thread": 7, "text": text});
    server.put(json!({"kind": "create", "key": "7", "data": comment("<b>one</b>"), "idempotency_key": "c1"}));
    server.put(json!({"kind": "edit", "key": "7", "data": comment("two")}));
    let poison = server.put(json!({"data": "no JSON"}));
    server.put(json!({"data": {"thread": 7, "text": 5}}));
    for (event, text) in [("create", "&lt;b&gt;one&lt;/b&gt;"), ("edit", "two")] {
        let told = socket.expect_event(event);
        let data: serde_json::Value = serde_json::from_str(told["data"].as_str().expect("a string")).expect("JSON");
        assert_eq!(data, comment(text));
    }
    eventually("all jobs are done", || server.count("finished") == 2 && server.count("stalled") == 2);
    assert!(server.job(poison)["reason"].as_str().is_some_and(|reason| reason.starts_with("no comment: ")));
    workers.iter().for_each(|worker| worker.signal("TERM"));
    // They wait for jobs just now, and leave when that is over.
    for worker in &mut workers {
        assert!(worker.wait().expect("it ends").success());
    }
}
