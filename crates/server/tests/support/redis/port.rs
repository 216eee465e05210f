//! Ports that stay a test's own for as long as it lives.
//!
//! Below those that the kernel gives to clients: a server that is down for a while must find its port free again.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const FIRST: u16 = 11_000;
const COUNT: u16 = 20_000;

/// A port that no other test on this machine claims meanwhile.
pub struct Port {
    number: u16,
    /// A socket with the port's number for a name: the kernel lets one process have it, and forgets it with the process.
    _claim: UnixListener,
}

impl Port {
    /// One that nobody listens on.
    pub fn claim() -> Port {
        let claimed = (0..1_000).find_map(|_| Port::try_claim(FIRST + (random() % u32::from(COUNT)) as u16));
        claimed.expect("most ports are free")
    }

    /// The port.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn try_claim(number: u16) -> Option<Port> {
        let name = SocketAddr::from_abstract_name(format!("fanfare-test-port-{number}")).expect("a short name");
        let claim = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Port { number, _claim: claim })
    }
}

/// Good enough that tests seldom try the same port twice.
fn random() -> u32 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let seed = time ^ std::process::id().rotate_left(16) ^ CALLS.fetch_add(0x9e37_79b9, Ordering::Relaxed);
    seed.wrapping_mul(0x85eb_ca6b) >> 8
}
