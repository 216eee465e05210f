//! The WebSocket conformance cases of the Autobahn suite, run by `kosoku` against the raw echo route.
//!
//! What each case is to find is checked in, beside the script that runs them. `UNIMPLEMENTED` is among it: 13.3.* and
//! 13.5.* offer compression with nothing but a window of 512 bytes, and a server that compresses a publication once for
//! all its readers declines such an offer, as RFC 7692 lets it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use support::Server;

/// Of the exchange, and of the closing handshake.
type Verdict = (String, String);

#[test]
fn cases_1_to_10_end_as_expected() {
    run(&["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]);
}

#[test]
fn compression_cases_12_1_and_12_2_end_as_expected() {
    run(&["12.1.*", "12.2.*"]);
}

#[test]
fn compression_cases_12_3_to_12_5_end_as_expected() {
    run(&["12.3.*", "12.4.*", "12.5.*"]);
}

#[test]
fn compression_cases_13_end_as_expected() {
    run(&["13.*"]);
}

/// Runs these cases and compares them with what is expected of them. Several runs take several cores, while one takes no
/// more than the one that Python uses.
fn run(cases: &[&str]) {
    let server = Server::start_with("", &["--echo"]);
    let mut expected = verdicts(include_bytes!("../../../tests/autobahn/expected.json"));
    expected.retain(|case, _| cases.iter().any(|pattern| case.starts_with(pattern.trim_end_matches('*'))));
    let found = verdicts(&output(&format!("ws://{}/echo", server.addr), cases));

    let all: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let lines: Vec<_> = all
        .into_iter()
        .filter(|case| expected.get(*case) != found.get(*case))
        .map(|case| format!("{case}: expected {:?}, found {:?}", expected.get(case), found.get(case)))
        .collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    println!("{} cases", found.len());
}

fn output(url: &str, cases: &[&str]) -> Vec<u8> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
    let python = tests.join("clients/.venv/bin/python");
    assert!(python.exists(), "run `cargo xtask setup` first");
    let mut runner = Command::new(python);
    runner.arg(tests.join("autobahn/run.py")).arg(url).args(cases).stderr(Stdio::inherit());
    let output = runner.output().expect("Python starts");
    assert!(output.status.success(), "{runner:?} ended with {}", output.status);
    output.stdout
}

fn verdicts(json: &[u8]) -> BTreeMap<String, Verdict> {
    serde_json::from_slice(json).expect("verdicts by case")
}
