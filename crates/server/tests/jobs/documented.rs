//! The lines of docs/ingest.md, run as they stand there.

use std::path::Path;
use std::process::Command;

use crate::support::{APP_ID, KEY, SECRET};
use crate::{Mail, server};

const PAGE: &str = include_str!("../../../../docs/ingest.md");

/// The shell lines of the page, one block after the other.
fn blocks() -> Vec<&'static str> {
    let blocks = PAGE.split("```sh\n").skip(1);
    blocks.map(|rest| rest.split_once("```").expect("a block has an end").0).collect()
}

#[test]
fn the_documented_lines_work() {
    let server = server("");
    let script = blocks().concat().replace("127.0.0.1:6001", &server.addr.to_string());
    let binary = Path::new(env!("CARGO_BIN_EXE_fanfare"));
    // What `fanfare` finds in a configuration, where the page is read.
    let to = format!("--url http://{} --app-id {APP_ID} --key {KEY} --secret {SECRET}", server.addr);
    let fanfare = format!("fanfare() {{ {} \"$@\" {to}; }}\n", binary.display());
    let output = Command::new("bash").args(["-e", "-o", "pipefail", "-c", &(fanfare + &script)]).output();
    let output = output.expect("bash runs");
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{error}");
    assert!(said.contains(r#"{"ids":[1]}"#) && said.contains(r#""lease":"1.2""#), "{said}");
    assert_eq!(server.job(1)["result"], r#"{"message_id":"m1"}"#);
    assert_eq!((server.count("claimed"), server.count("waiting")), (2, 2));
}
