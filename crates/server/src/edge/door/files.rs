//! Files that are left to the process, so that clients never take the last ones.
//!
//! A new socket gets the lowest number that is free: a high number says that few are left, and costs nothing to look at.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files that clients leave to the rest: links to Redis, the admin listener, certificates, histories. Of a small limit it is
/// an eighth.
const RESERVED: usize = 64;

/// Whether there is room for a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    Enough,
    /// It can be told that there is none for it.
    Scarce,
    /// Not even that: half of the reserve are no client's at any time.
    Exhausted,
}

/// The limit of this process.
pub struct Files {
    max: usize,
    /// Whether the newest socket found no room, so that the log says it once.
    scarce: AtomicBool,
}

impl Files {
    /// As the process was started with; without a limit where the kernel does not tell.
    pub fn of_the_process() -> Files {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Files::at_most(soft_limit(&limits).unwrap_or(usize::MAX))
    }

    fn at_most(max: usize) -> Files {
        Files { max, scarce: AtomicBool::new(false) }
    }

    /// What a socket's number says.
    pub fn room_for(&self, socket: &impl AsRawFd) -> Room {
        let room = self.room_at(usize::try_from(socket.as_raw_fd()).unwrap_or(0));
        let scarce = room != Room::Enough;
        if self.scarce.swap(scarce, Ordering::Relaxed) != scarce && scarce {
            tracing::warn!(files_max = self.max, "turning connections away: raise the limit of open files (ulimit -n)");
        }
        room
    }

    fn room_at(&self, number: usize) -> Room {
        let left = self.max.saturating_sub(number + 1);
        let reserved = RESERVED.min(self.max / 8);
        match left {
            _ if left >= reserved => Room::Enough,
            _ if left >= reserved / 2 => Room::Scarce,
            _ => Room::Exhausted,
        }
    }
}

/// `Max open files            1024                 524288               files`
fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_files_are_nobodys() {
        let limits = "Max processes  7 7 processes\nMax open files            1024                 4096   files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files unlimited unlimited files"), None);
        let files = Files::at_most(1024);
        let room = |number| files.room_at(number);
        assert_eq!([room(10), room(959), room(960)], [Room::Enough, Room::Enough, Room::Scarce]);
        assert_eq!([room(991), room(992), room(1023)], [Room::Scarce, Room::Exhausted, Room::Exhausted]);
        let small = Files::at_most(64);
        assert_eq!(small.room_at(55), Room::Enough);
        assert_eq!(small.room_at(56), Room::Scarce);
    }
}
