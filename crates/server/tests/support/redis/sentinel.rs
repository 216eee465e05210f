//! A primary and its replica, watched by three Sentinels.

use super::{Redis, Reply, eventually};

/// How long a primary may be silent before the Sentinels elect another.
const DOWN_AFTER_MS: u32 = 1_500;

/// The group. Which of its two servers is the primary changes with time.
pub struct Sentinel {
    name: &'static str,
    /// The two servers; the first was the primary at the start.
    pub servers: [Redis; 2],
    /// The three that watch.
    pub sentinels: [Redis; 3],
}

impl Sentinel {
    /// Starts a group, and returns once each Sentinel knows the others and the replica, so that it can fail over.
    pub fn start(name: &'static str) -> Sentinel {
        let primary = Redis::standalone();
        // Both remember what they replicate in the file, which lets them come back in the role that they were given.
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
        for server in [&primary, &replica] {
            server.config("repl-diskless-sync-delay", "0");
        }
        let config = format!(
            "sentinel monitor {name} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {name} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {name} 5000\n",
            primary.port()
        );
        let sentinels = [(); 3].map(|()| Redis::launch("redis-sentinel", Some(config.clone()), &[]));
        let group = Sentinel { name, servers: [primary, replica], sentinels };
        eventually("the Sentinels know each other", || group.sentinels.iter().all(|one| group.is_ready(one)));
        group
    }

    /// As `FANFARE_REDIS` names it.
    pub fn url(&self) -> String {
        let urls: Vec<_> = self.sentinels.iter().map(|one| format!("redis+sentinel://{}", one.addr())).collect();
        format!("{}/{}", urls.join(","), self.name)
    }

    /// The name of the group.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Which server most of the Sentinels name as the primary; `None` while they do not agree.
    pub fn primary(&self) -> Option<usize> {
        let ports: Vec<_> = self.sentinels.iter().filter_map(|one| self.primary_port(one)).collect();
        (0..self.servers.len()).find(|&ix| {
            let named = ports.iter().filter(|&&port| port == self.servers[ix].port());
            named.count() >= 2
        })
    }

    /// The server that is the primary and says so itself.
    #[track_caller]
    pub fn await_primary(&self) -> usize {
        let mut primary = None;
        eventually("there is a primary", || {
            primary = self.primary().filter(|&ix| self.servers[ix].info("role") == "master");
            primary.is_some()
        });
        primary.expect("it was waited for")
    }

    /// The server that became the primary after this one.
    #[track_caller]
    pub fn await_primary_after(&self, old: usize) -> usize {
        eventually("there is another primary", || self.primary().is_some_and(|ix| ix != old));
        self.await_primary()
    }

    /// Waits until this server has the primary's data, which it does not before the Sentinels have told it to.
    #[track_caller]
    pub fn await_follower(&self, ix: usize) {
        eventually("it follows the primary", || self.servers[ix].info("master_link_status") == "up");
    }

    /// Kills the primary, and returns which server it was.
    pub fn kill_primary(&mut self) -> usize {
        let primary = self.await_primary();
        self.servers[primary].kill();
        primary
    }

    /// An orderly failover, with the old primary alive. Returns the new one.
    pub fn failover(&self) -> usize {
        let old = self.await_primary();
        eventually("a failover can begin", || {
            self.sentinels[0].ask(&["SENTINEL", "FAILOVER", self.name]).text() == "OK"
        });
        self.await_primary_after(old)
    }

    fn primary_port(&self, sentinel: &Redis) -> Option<u16> {
        let addr = sentinel.try_ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name])?.texts();
        addr.get(1)?.parse().ok()
    }

    fn is_ready(&self, sentinel: &Redis) -> bool {
        let fields = sentinel.ask(&["SENTINEL", "MASTER", self.name]).texts();
        let field = |name: &str| fields.iter().position(|field| field == name).map(|at| fields[at + 1].as_str());
        let replicas = sentinel.ask(&["SENTINEL", "REPLICAS", self.name]);
        field("num-other-sentinels") == Some("2") && replicas.array().iter().any(is_linked)
    }
}

/// Whether a Sentinel knows that this replica has the primary's data.
fn is_linked(replica: &Reply) -> bool {
    let fields = replica.texts();
    fields.windows(2).any(|pair| pair == ["master-link-status", "ok"])
}
