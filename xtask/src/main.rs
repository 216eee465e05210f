//! The project's own chores, so that one command does each of them on any machine: `cargo xtask test`.
//!
//! Not here: anything that a user of Fanfare needs, or that only one machine can do.

mod step;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use step::{Step, cargo};

const USAGE: &str = "\
usage: cargo xtask <chore>

  setup   installs what the tests need: Chromium, Node, Python, their packages, nginx with nchan, Redis,
          cargo-nextest
  test    setup, then formatting, lints and every test; stops at the first step that fails";

fn main() -> ExitCode {
    let chore = std::env::args().nth(1);
    let done = match chore.as_deref() {
        Some("setup") => tools::install(&root()),
        Some("test") => test(&root()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nxtask: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("xtask lies inside the workspace").to_owned()
}

/// The tests that speak to a server run the same optimised binary that users get, so all of it is built with `--release`.
fn test(root: &Path) -> anyhow::Result<()> {
    tools::install(root)?;
    for step in checks() {
        step.run_in(root)?;
    }
    println!("\nxtask: everything passed");
    Ok(())
}

/// Cheap ones first; the tests last, so that their summary closes the output.
fn checks() -> [Step; 4] {
    [
        cargo("formatting", "fmt --all --check"),
        cargo("lints", "clippy --workspace --all-targets --release --locked -- -D warnings"),
        cargo("documentation examples", "test --workspace --doc --release --locked"),
        cargo("tests", "nextest run --workspace --release --locked"),
    ]
}
