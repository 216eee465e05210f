//! A Lua script that servers run for us, known to them by its digest.
//!
//! Always true: its text begins with `#!lua`, so that a server whose memory is full refuses it before its first write.

use sha1::{Digest, Sha1};

/// A script. Its first keys are those of the unit's fence and stamp, its first argument the generation.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    digest: String,
}

impl Script {
    /// Takes in a script's text, which is part of the program.
    pub fn new(text: &'static str) -> Script {
        assert!(text.starts_with("#!lua"), "a script says what language it is in");
        let digest = Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Script { text, digest }
    }

    /// What `EVAL` takes.
    pub(super) fn text(&self) -> &'static str {
        self.text
    }

    /// What `EVALSHA` takes.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}
