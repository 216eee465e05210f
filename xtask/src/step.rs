//! One step of a chore: a command with a name, which either succeeds or stops the chore.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// A command, and what a person calls it.
pub struct Step {
    name: String,
    command: Command,
}

impl Step {
    pub fn new(name: impl Into<String>, command: Command) -> Self {
        let name = name.into();
        Self { name, command }
    }

    /// The same with these variables in its environment.
    pub fn with_env<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Runs the command in `folder` with its output shown, between a line that announces it and one that times it.
    pub fn run_in(mut self, folder: &Path) -> Result<()> {
        println!("\n==> {}: {}", self.name, shown(&self.command));
        let start = Instant::now();
        let status = self
            .command
            .current_dir(folder)
            .status()
            .with_context(|| format!("{}: cannot start {}", self.name, shown(&self.command)))?;
        ensure!(status.success(), "{} failed ({status})", self.name);
        println!("==> {}: done in {:.0} s", self.name, start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// A step that is a call of cargo, with its arguments separated by spaces.
pub fn cargo(name: &str, args: &str) -> Step {
    Step::new(name, command("cargo", args))
}

/// A program with its arguments separated by spaces.
pub fn command(program: impl AsRef<std::ffi::OsStr>, args: &str) -> Command {
    let mut command = Command::new(program);
    command.args(args.split_whitespace());
    command
}

/// Whether a program with these arguments runs and succeeds. It says nothing.
pub fn succeeds(program: &str, args: &str) -> bool {
    command(program, args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
