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

  setup   installs what the tests need: Chromium, Node, Python, their packages, nginx with nchan, HAProxy,
          Redis, faketime, cargo-nextest
  test    setup, then formatting, lints and every test; stops at the first step that fails
  faults  the fault tests in their long form: cargo xtask faults [SCALE [SEED]], where SCALE (10) says how much more there
          is of everything than in the ordinary run, and SEED repeats an earlier one";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("setup") => tools::install(&root()),
        Some("test") => test(&root()),
        Some("faults") => faults(&root(), &args[1..]),
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

/// What fails, fails by chance: each test prints its seed, and is run with more of everything and for longer.
fn faults(root: &Path, args: &[String]) -> anyhow::Result<()> {
    tools::install(root)?;
    let scale = args.first().map_or("10", String::as_str);
    let seed = args.get(1).map(|seed| ("FANFARE_FAULTS_SEED", seed.as_str()));
    let run = "nextest run --package fanfare --test faults --profile faults --release --locked --no-fail-fast";
    cargo("faults", run).with_env([("FANFARE_FAULTS_SCALE", scale)].into_iter().chain(seed)).run_in(root)
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
