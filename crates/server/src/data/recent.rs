//! The last lines of many, in two files: what a server that starts after a crash is to know of the one before it.
//!
//! Always true:
//! - what has not been written whole spoils no other line;
//! - a line is in the hands of the system when [`Recent::append`] returns: it outlives this process, but not the machine;
//! - the two files hold at most twice [`BYTES_MAX`] and a line.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::journal::at_its_end;

/// Of one file; then it takes the place of the older one. What a second or two of the busiest pipelines is.
const BYTES_MAX: u64 = 32 << 20;

/// The files, the newer one open at its end.
#[derive(Debug)]
pub struct Recent {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Whether the last line may have been cut short.
    torn: bool,
}

impl Recent {
    /// Opens the files, and tells what they hold, the oldest line first.
    pub fn open(path: PathBuf) -> io::Result<(Recent, String)> {
        let (mut bytes, newer) = (read(&older(&path))?, read(&path)?);
        let torn = newer.last().is_some_and(|last| *last != b'\n');
        let recent = Recent { file: at_its_end(&path)?, path, bytes: newer.len() as u64, torn };
        bytes.extend(newer);
        Ok((recent, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Adds lines, each with its end. After an error, those that come later can be added all the same.
    pub fn append(&mut self, lines: &str) -> io::Result<()> {
        if self.bytes > BYTES_MAX {
            std::fs::rename(&self.path, older(&self.path))?;
            (self.file, self.bytes, self.torn) = (at_its_end(&self.path)?, 0, false);
        }
        let lines = if self.torn { Cow::Owned(format!("\n{lines}")) } else { Cow::Borrowed(lines) };
        self.bytes += lines.len() as u64;
        self.torn = true;
        self.file.write_all(lines.as_bytes())?;
        self.torn = false;
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("older")
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_there_again_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("there is a temporary directory");
        let open = || Recent::open(folder.path().join("recent")).expect("the folder is ours");
        let (mut recent, text) = open();
        assert_eq!(text, "");
        recent.append("one\ntwo\nhal").expect("the folder is ours");
        let (mut recent, text) = open();
        assert_eq!(text, "one\ntwo\nhal");
        recent.append("three\n").expect("the folder is ours");
        assert_eq!(open().1, "one\ntwo\nhal\nthree\n");

        recent.file = File::open(&recent.path).expect("it is there, and now cannot be written");
        recent.append("lost\n").expect_err("the file is open for reading");
        recent.file = at_its_end(&recent.path).expect("the folder is ours");
        recent.append("after\n").expect("the disk is well again");
        assert_eq!(open().1, "one\ntwo\nhal\nthree\n\nafter\n");

        let long = "x".repeat(BYTES_MAX as usize) + "\n";
        for line in [&*long, "four\n", &long, "five\n"] {
            recent.append(line).expect("the folder is ours");
        }
        assert_eq!(open().1, ["four\n", &*long, "five\n"].concat());
    }
}
