//! `fanfare bench ingest` against the server that it asks for.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::Server;

fn bench(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_fanfare")).args(["bench", "ingest"]).args(args).output();
    output.expect("the command line runs")
}

#[test]
fn what_is_put_reaches_every_reader_and_its_way_is_timed() {
    let configuration = bench(&["--configuration"]);
    let server = Server::start(std::str::from_utf8(&configuration.stdout).expect("UTF-8"));
    let (url, pid) = (server.addr.to_string(), server.pid().to_string());
    let load = ["--readers", "20", "--rate", "40", "--seconds", "2", "--warmup", "0.5", "--patience-ms", "20000"];
    for transport in ["pusher", "sse"] {
        let to = ["--url", &url, "--server-pid", &pid, "--transport", transport, "--json"];
        let output = bench(&[&to[..], &load].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let figures = &report["figures"];
        // 80 records, and 20 before that are not timed; each to 20 readers.
        assert_eq!((&figures["records"], &figures["delivered"]), (&json!(100), &json!(2_000)));
        let ms = |of: &str, what: &str| report["latency_us"][of][what].as_f64().expect("measured") / 1e3;
        assert!(0.0 < ms("first", "p50") && ms("first", "p50") <= ms("last", "max"), "{report}");
        assert!(0.0 < ms("every", "mean") && ms("every", "mean") <= ms("every", "max"), "{report}");
    }
}
