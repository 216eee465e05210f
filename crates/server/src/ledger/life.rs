//! What has been published and delivered in the life of the installation: a small file in the data directory.
//!
//! Always true: the file is whole, or it is not used; it is replaced as one.
//!
//! ```text
//! fanfare life 1 published 1842 delivered 90211 5f0c8d3a1be2474d
//! ```

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use fanfare_proto::sign::hmac_hex;

use super::report::Life;

/// Digits of the checksum.
const SUM_LEN: usize = 16;

/// Where it is kept, if anywhere.
#[derive(Clone, Debug)]
pub struct Kept(Option<PathBuf>);

/// Why what was kept is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("it is not as it was written")]
    Damaged,
}

impl Kept {
    /// In this file.
    pub fn at(path: Option<PathBuf>) -> Kept {
        Kept(path)
    }

    /// What was kept; nothing, where there is no such file or it cannot be used.
    pub fn read(&self) -> Life {
        let Some(path) = &self.0 else { return Life::default() };
        match read(path) {
            Ok(life) => life,
            Err(Unusable::File(error)) if error.kind() == ErrorKind::NotFound => Life::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what was delivered before is not known: counting begins anew");
                Life::default()
            }
        }
    }

    /// Keeps this.
    pub fn write(&self, life: &Life) -> io::Result<()> {
        match &self.0 {
            Some(path) => write(path, life),
            None => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Life, Unusable> {
    let bytes = std::fs::read(path)?;
    std::str::from_utf8(&bytes).ok().and_then(parse).ok_or(Unusable::Damaged)
}

fn write(path: &Path, life: &Life) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut file = File::create(&unfinished)?;
    file.write_all(line(life).as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&unfinished, path)
}

fn line(Life { published, delivered }: &Life) -> String {
    let text = format!("fanfare life 1 published {published} delivered {delivered}");
    format!("{text} {}\n", sum(&text))
}

fn parse(line: &str) -> Option<Life> {
    let (text, last) = line.strip_suffix('\n')?.rsplit_once(' ')?;
    let (published, delivered) = text.strip_prefix("fanfare life 1 published ")?.split_once(" delivered ")?;
    let life = Life { published: published.parse().ok()?, delivered: delivered.parse().ok()? };
    (last == sum(text)).then_some(life)
}

fn sum(text: &str) -> String {
    hmac_hex(b"", text.as_bytes())[..SUM_LEN].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().expect("there is a temporary directory");
        let kept = Kept::at(Some(folder.path().join("life")));
        assert_eq!(kept.read(), Life::default());
        for n in [1, u64::MAX] {
            let life = Life { published: n, delivered: n / 2 };
            kept.write(&life).expect("the folder is ours");
            assert_eq!(kept.read(), life);
        }
    }

    #[test]
    fn what_is_damaged_is_not_used() {
        let whole = line(&Life { published: 7, delivered: 1234 });
        assert!(parse(&whole).is_some());
        for at in 0..whole.len() {
            assert_eq!(parse(&whole[..at]), None);
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(String::from_utf8(bytes).ok().as_deref().and_then(parse), None, "byte {at}");
        }
    }
}
