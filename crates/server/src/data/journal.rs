//! A file of lines that grows by one with each thing that must outlive a crash.
//!
//! A line that was cut short by the end of a process or of the disk is the reader's to skip; it is gone with the next
//! [`Journal::rewrite`].

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file, open at its end.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the file, and tells what it holds.
    pub fn open(path: PathBuf) -> io::Result<(Journal, String)> {
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let file = at_its_end(&path)?;
        Ok((Journal { path, file }, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Adds a line, which is in the hands of the system when this returns.
    pub fn append(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())
    }

    /// Puts these lines in the place of all others.
    pub fn rewrite(&mut self, lines: impl Iterator<Item = String>) -> io::Result<()> {
        let unfinished = self.path.with_extension("unfinished");
        let text: String = lines.flat_map(|line| [line, "\n".to_owned()]).collect();
        let mut file = super::create(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &self.path)?;
        self.file = at_its_end(&self.path)?;
        Ok(())
    }
}

/// Readable to nobody else.
pub(super) fn at_its_end(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_there_again_until_others_take_their_place() {
        let folder = tempfile::tempdir().expect("there is a temporary directory");
        let path = || folder.path().join("journal");
        let (mut journal, text) = Journal::open(path()).expect("the folder is ours");
        assert_eq!(text, "");
        for line in ["one", "two"] {
            journal.append(line).expect("the folder is ours");
        }
        let (mut journal, text) = Journal::open(path()).expect("the folder is ours");
        assert_eq!(text, "one\ntwo\n");
        journal.rewrite(["two".to_owned()].into_iter()).expect("the folder is ours");
        journal.append("three").expect("the folder is ours");
        assert_eq!(Journal::open(path()).expect("the folder is ours").1, "two\nthree\n");
    }
}
