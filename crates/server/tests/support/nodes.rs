//! Several `fanfare serve` on one Redis, each of which can be killed, held still and started again where it was.

use std::net::SocketAddr;

use super::redis::Port;
use super::{Server, eventually};

/// The nodes. Dropping them ends them.
pub struct Nodes {
    nodes: Vec<Option<Server>>,
    launches: Vec<Launch>,
}

/// How a node is started, each time in the same way.
struct Launch {
    port: Port,
    admin_port: Port,
    redis: String,
    config: String,
    args: Vec<String>,
}

impl Nodes {
    /// Starts `count` nodes with this configuration on the Redis that `redis` names as `FANFARE_REDIS` does.
    pub fn start(redis: &str, count: usize, config: &str) -> Nodes {
        let mut nodes = Nodes { nodes: Vec::new(), launches: Vec::new() };
        for _ in 0..count {
            nodes.add(redis, config, &[]);
        }
        nodes
    }

    /// Starts one more, perhaps with a role, or with its own way to Redis. Returns its place.
    pub fn add(&mut self, redis: &str, config: &str, args: &[&str]) -> usize {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let [port, admin_port] = [Port::claim(), Port::claim()];
        let launch = Launch { port, admin_port, redis: redis.to_owned(), config: config.to_owned(), args };
        self.nodes.push(Some(launch.start()));
        self.launches.push(launch);
        self.nodes.len() - 1
    }

    /// A node that runs.
    #[track_caller]
    pub fn node(&self, ix: usize) -> &Server {
        self.nodes[ix].as_ref().expect("this node runs")
    }

    /// Where a node listens, whether it runs or not.
    pub fn addr(&self, ix: usize) -> SocketAddr {
        ([127, 0, 0, 1], self.launches[ix].port.number()).into()
    }

    /// The port of its admin listener.
    pub fn admin_port(&self, ix: usize) -> u16 {
        self.launches[ix].admin_port.number()
    }

    /// Where all of them listen.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        (0..self.nodes.len()).map(|ix| self.addr(ix)).collect()
    }

    /// Ends a node as a crash does.
    pub fn kill(&mut self, ix: usize) {
        drop(self.nodes[ix].take());
    }

    /// Asks a node to stop, and waits until it has.
    pub fn terminate(&mut self, ix: usize) {
        if let Some(mut node) = self.nodes[ix].take() {
            node.signal("TERM");
            assert!(node.wait().success(), "{}", node.log());
        }
    }

    /// Starts a node that does not run, where it was.
    pub fn restart(&mut self, ix: usize) {
        assert!(self.nodes[ix].is_none(), "it runs");
        self.nodes[ix] = Some(self.launches[ix].start());
    }

    /// Waits until a node says that it is ready.
    #[track_caller]
    pub fn await_ready(&self, ix: usize) {
        eventually("the node is ready", || self.node(ix).admin_get("/readyz").status == 200);
    }
}

impl Launch {
    fn start(&self) -> Server {
        let args: Vec<_> = self.args.iter().map(String::as_str).collect();
        let [public, admin] = [&self.port, &self.admin_port].map(|port| format!("127.0.0.1:{}", port.number()));
        Server::start_beside(&self.redis, &self.config, &args, [&public, &admin])
    }
}
