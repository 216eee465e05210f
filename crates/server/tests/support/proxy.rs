//! A TCP proxy that misbehaves as networks do: it stalls, cuts, delays and halves.
//!
//! ```ignore
//! let proxy = Proxy::to(redis.addr());
//! proxy.stall(Way::Back);   // requests arrive, answers do not
//! proxy.pass();
//! ```
//!
//! Always true: bytes are never changed nor reordered within a connection, and none is dropped from the middle of one, as
//! TCP itself would see to that; what a fault holds back is delivered once it is over, unless the connection was cut.

#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From whoever connects to whom is connected to.
    Forth,
    Back,
}

/// The proxy. Dropping it cuts everything, and closes its listener.
pub struct Proxy {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    to: Option<SocketAddr>,
    stalled: [bool; 2],
    /// Each piece waits this long, and up to as long again as the second says.
    delay: (Duration, Duration),
    /// New connections are closed at once.
    refusing: bool,
    ended: bool,
    /// Both ends of each connection that is open.
    open: Vec<(u64, TcpStream, TcpStream)>,
    accepted: u64,
    random: u64,
}

impl Proxy {
    /// A proxy that passes everything.
    pub fn to(addr: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("it has an address");
        let state = State { to: Some(addr), random: 0x2545_f491_4f6c_dd1d, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&listener));
        Proxy { addr: own, shared }
    }

    /// As the configuration of a node names the Redis behind it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Ends every fault. What was held back goes on.
    pub fn pass(&self) {
        self.change(|state| {
            state.stalled = [false; 2];
            state.delay = Default::default();
            state.refusing = false;
        });
    }

    /// Holds back one way, on all connections and those to come: packets that are lost without a word.
    pub fn stall(&self, way: Way) {
        self.change(|state| state.stalled[way as usize] = true);
    }

    /// Holds back both ways.
    pub fn stall_both(&self) {
        self.change(|state| state.stalled = [true; 2]);
    }

    /// Delays each piece by `at_least`, and by up to `jitter` more.
    pub fn delay(&self, at_least: Duration, jitter: Duration) {
        self.change(|state| state.delay = (at_least, jitter));
    }

    /// Resets all connections; new ones are taken.
    pub fn cut(&self) {
        self.change(State::cut);
    }

    /// Resets all connections, and takes no new ones until `pass`.
    pub fn refuse(&self) {
        self.change(|state| {
            state.refusing = true;
            state.cut();
        });
    }

    /// Ends one way of every open connection as a peer does that has no more to say; the other goes on.
    pub fn halve(&self, way: Way) {
        self.change(|state| {
            for (_, client, server) in &state.open {
                let end = if way == Way::Forth { server } else { client };
                // It may be gone already.
                let _ = end.shutdown(Shutdown::Write);
            }
        });
    }

    /// From now on, new connections lead elsewhere.
    pub fn lead_to(&self, addr: SocketAddr) {
        self.change(|state| state.to = Some(addr));
    }

    /// Connections that were taken so far.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.lock().open.len()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|state| {
            state.ended = true;
            state.cut();
        });
        // The listener's thread wakes up to see it.
        let _ = TcpStream::connect(self.addr);
    }
}

impl State {
    fn cut(&mut self) {
        for (_, client, server) in self.open.drain(..) {
            for end in [client, server] {
                // With nothing to linger for, the close is a reset.
                let _ = socket2::SockRef::from(&end).set_linger(Some(Duration::ZERO));
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }

    /// How long the next piece waits.
    fn wait(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = (self.random % 1_000) as f64 / 1_000.0;
        self.delay.0 + self.delay.1.mul_f64(share)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            let to = {
                let state = self.lock();
                if state.ended {
                    return;
                }
                state.to.filter(|_| !state.refusing)
            };
            // Otherwise the connection is closed as it is dropped.
            if let (Ok(client), Some(to)) = (client, to)
                && let Ok(server) = TcpStream::connect(to)
            {
                // What fails here failed with the connection.
                let _ = self.clone().carry(client, server);
            }
        }
    }

    fn carry(self: Arc<Self>, client: TcpStream, server: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let id = {
            let mut state = self.lock();
            if state.refusing || state.ended {
                return Ok(());
            }
            state.accepted += 1;
            let id = state.accepted;
            let ends = (client.try_clone()?, server.try_clone()?);
            state.open.push((id, ends.0, ends.1));
            id
        };
        let back = (self.clone(), server.try_clone()?, client.try_clone()?);
        let forth = thread::spawn(move || self.pump(Way::Forth, client, server));
        thread::spawn(move || {
            let (shared, from, to) = back;
            shared.pump(Way::Back, from, to);
            // Both ways have ended once this one has been joined.
            let _ = forth.join();
            shared.lock().open.retain(|open| open.0 != id);
        });
        Ok(())
    }

    /// Carries one way of one connection until either end closes it.
    fn pump(&self, way: Way, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = [0; 64 << 10];
        loop {
            let read = from.read(&mut piece).unwrap_or(0);
            self.hold(way);
            if read == 0 || to.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        // Whoever reads there sees the end, behind all that was said.
        let _ = to.shutdown(Shutdown::Write);
    }

    /// Waits for as long as the present faults say.
    fn hold(&self, way: Way) {
        let wait = self.lock().wait();
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        let state = self.lock();
        let stalled = |state: &mut State| state.stalled[way as usize] && !state.ended;
        drop(self.changed.wait_while(state, stalled).unwrap_or_else(PoisonError::into_inner));
    }
}
