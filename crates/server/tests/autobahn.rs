//! The WebSocket conformance cases of the Autobahn suite, run by `kosoku` against the raw echo route.
//!
//! What each case is to find is checked in, beside the script that runs them. `UNIMPLEMENTED` is among it: 13.3.* and
//! 13.5.* offer compression with nothing but a window of 512 bytes, and a server that compresses a publication once for
//! all its readers declines such an offer, as RFC 7692 lets it.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use support::Server;

/// Of the exchange, and of the closing handshake.
type Verdict = (String, String);

#[test]
fn every_autobahn_case_ends_as_expected() {
    let server = Server::start_with("", &["--echo"]);
    let expected = verdicts(include_bytes!("../../../tests/autobahn/expected.json"));
    let found = run_all(&format!("ws://{}/echo", server.addr));

    let cases: Vec<_> = expected.keys().chain(found.keys()).collect();
    let other: Vec<_> = cases.iter().filter(|case| expected.get(**case) != found.get(**case)).collect();
    let lines: Vec<_> = other
        .iter()
        .map(|case| format!("{case}: expected {:?}, found {:?}", expected.get(**case), found.get(**case)))
        .collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

fn run_all(url: &str) -> BTreeMap<String, Verdict> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
    let python = tests.join("clients/.venv/bin/python");
    assert!(python.exists(), "run `cargo xtask setup` first");
    let mut runner = Command::new(python);
    runner.arg(tests.join("autobahn/run.py")).arg(url).stderr(Stdio::inherit());
    let output = runner.output().expect("Python starts");
    assert!(output.status.success(), "{runner:?} ended with {}", output.status);
    verdicts(&output.stdout)
}

fn verdicts(json: &[u8]) -> BTreeMap<String, Verdict> {
    serde_json::from_slice(json).expect("verdicts by case")
}
