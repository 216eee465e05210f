//! A program beside the server, which ends when the test does, however that ends.

use std::ops::{Deref, DerefMut};
use std::process::{Child, Command};

/// A child that is told to end, and waited for, when this is dropped.
pub struct Program(pub Child);

impl Program {
    /// Sends a signal by its name: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        signal(self.0.id(), name);
    }
}

impl Deref for Program {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Program {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.signal("TERM");
            // It fails only when the child has ended already.
            let _ = self.0.wait();
        }
    }
}

/// Sends a process a signal by its name.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(sent.expect("sh runs").success(), "{name} to {pid}");
}
