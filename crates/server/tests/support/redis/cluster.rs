//! A Redis Cluster of three primaries with a replica each, whose slots can be moved.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::{Port, Redis, Reply, eventually};

const SLOTS: u16 = 16_384;
const NODE_TIMEOUT_MS: &str = "2000";

/// Longer than a handshake may take.
const MEET_AGAIN: Duration = Duration::from_secs(3);

/// The nodes; the first three were the primaries at the start, and the fourth is the first one's replica.
pub struct Cluster {
    pub nodes: Vec<Redis>,
    /// Where the nodes speak with each other.
    buses: Vec<Port>,
}

impl Cluster {
    /// Starts six nodes, and returns once each of them sees the whole.
    pub fn start() -> Cluster {
        let mut cluster = Cluster { nodes: Vec::new(), buses: Vec::new() };
        (0..6).for_each(|_| cluster.launch());
        for (ix, slots) in [0..=5460, 5461..=10922, 10923..=SLOTS - 1].into_iter().enumerate() {
            cluster.nodes[ix].run(&["CLUSTER", "ADDSLOTSRANGE", &slots.start().to_string(), &slots.end().to_string()]);
        }
        for (ix, node) in cluster.nodes.iter().enumerate() {
            // As redis-cli does: primaries with the same epoch would have to settle who is who first.
            node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(ix + 1).to_string()]);
        }
        (1..6).for_each(|ix| cluster.meet(ix));
        cluster.await_known(6);
        for ix in 3..6 {
            cluster.replicate(ix, ix - 3);
        }
        cluster.await_ok();
        cluster
    }

    /// As `FANFARE_REDIS` names it: three of the nodes.
    pub fn url(&self) -> String {
        let urls: Vec<_> = self.nodes[..3].iter().map(|node| format!("redis+cluster://{}", node.addr())).collect();
        urls.join(",")
    }

    /// Starts one more primary, which has no slots yet. Returns its place in `nodes`.
    pub fn add_node(&mut self) -> usize {
        self.launch();
        let ix = self.nodes.len() - 1;
        self.nodes[ix].run(&["CLUSTER", "SET-CONFIG-EPOCH", &(ix + 101).to_string()]);
        self.meet(ix);
        self.await_known(self.nodes.len());
        self.await_ok();
        ix
    }

    /// Takes a node without slots out, and ends it.
    pub fn remove_node(&mut self, ix: usize) {
        let id = self.id(ix);
        let mut node = self.nodes.remove(ix);
        self.buses.remove(ix);
        for other in self.nodes.iter().filter(|other| other.try_ask(&["PING"]).is_some()) {
            // Its own replica cannot forget it, and is none of ours here.
            other.ask(&["CLUSTER", "FORGET", &id]);
        }
        node.kill();
    }

    /// Which primary serves a slot.
    #[track_caller]
    pub fn owner(&self, slot: u16) -> usize {
        let mut owner = None;
        eventually("the slot has an owner", || {
            owner = self.primary_of(slot);
            owner.is_some()
        });
        owner.expect("it was waited for")
    }

    /// The slots that a primary serves by its own account.
    pub fn slots(&self, ix: usize) -> Vec<RangeInclusive<u16>> {
        let port = i64::from(self.nodes[ix].port());
        let map = self.nodes[ix].ask(&["CLUSTER", "SLOTS"]);
        let owned = map.array().iter().map(Reply::array).filter(|row| row[2].array()[1].int() == port);
        owned.map(|row| row[0].int() as u16..=row[1].int() as u16).collect()
    }

    /// The slots of a primary that hold keys.
    pub fn used_slots(&self, ix: usize) -> Vec<u16> {
        let mut client = self.nodes[ix].client();
        let mut ask = |words: &[&str]| client.ask(words).expect("the node answers");
        let keys = ask(&["KEYS", "*"]).texts();
        let slots: BTreeSet<_> = keys.iter().map(|key| ask(&["CLUSTER", "KEYSLOT", key]).int() as u16).collect();
        slots.into_iter().collect()
    }

    /// Moves slots with their keys to another primary, one after the other, as `redis-cli --cluster reshard` does.
    pub fn migrate(&self, slots: impl IntoIterator<Item = u16>, to: usize) {
        for slot in slots {
            let from = self.owner(slot);
            if from != to {
                self.begin_migration(slot, from, to);
                while self.migrate_some(slot, from, to, 100) > 0 {}
                self.end_migration(slot, from, to);
                eventually("the new owner is known", || self.primary_of(slot) == Some(to));
            }
        }
    }

    /// The first step of moving a slot: from here on, keys that are gone are ASKed for at the new owner.
    pub fn begin_migration(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.nodes[to].run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        self.nodes[from].run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
    }

    /// Moves at most `max` keys of a slot, and returns how many there were.
    pub fn migrate_some(&self, slot: u16, from: usize, to: usize, max: usize) -> usize {
        let keys = self.nodes[from].run(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &max.to_string()]).texts();
        if !keys.is_empty() {
            let port = self.nodes[to].port().to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "REPLACE", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            self.nodes[from].run(&words);
        }
        keys.len()
    }

    /// The last step: the new owner first, so that there is no moment without one.
    pub fn end_migration(&self, slot: u16, from: usize, to: usize) {
        let (slot, id) = (slot.to_string(), self.id(to));
        self.nodes[to].run(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        // The old one may have heard already, and then is a replica if this was its last slot.
        self.nodes[from].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        for node in &self.nodes {
            // Replicas refuse; they and those that are gone hear of it from the others.
            node.try_ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }

    /// Lets a replica take its primary's place in order. Returns once everyone knows.
    pub fn failover(&self, replica: usize) {
        self.nodes[replica].run(&["CLUSTER", "FAILOVER"]);
        eventually("the replica is a primary", || self.nodes[replica].info("role") == "master");
        let slots = self.slots(replica);
        eventually("everyone knows", || slots.iter().all(|slots| self.primary_of(*slots.start()) == Some(replica)));
        self.await_ok();
    }

    /// Every node that answers sees an owner for every slot, and every replica has its primary's data.
    #[track_caller]
    pub fn await_ok(&self) {
        eventually("the cluster is whole", || {
            self.nodes.iter().filter(|node| node.try_ask(&["PING"]).is_some()).all(is_ok)
        });
    }

    fn launch(&mut self) {
        let bus = Port::claim();
        self.nodes.push(Redis::with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus.number().to_string(),
            "--cluster-node-timeout",
            NODE_TIMEOUT_MS,
            "--cluster-replica-validity-factor",
            "0",
            "--repl-diskless-sync-delay",
            "0",
        ]));
        self.buses.push(bus);
    }

    fn meet(&self, ix: usize) {
        let (port, bus) = (self.nodes[ix].port().to_string(), self.buses[ix].number().to_string());
        self.nodes[0].run(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    fn replicate(&self, replica: usize, primary: usize) {
        self.nodes[replica].run(&["CLUSTER", "REPLICATE", &self.id(primary)]);
        eventually("the replica has the data", || self.nodes[replica].info("master_link_status") == "up");
    }

    fn await_known(&self, count: usize) {
        let mut met = Instant::now();
        eventually("all nodes know each other", || {
            // A handshake that takes longer than a node's time-out is forgotten.
            if met.elapsed() > MEET_AGAIN {
                (1..count).for_each(|ix| self.meet(ix));
                met = Instant::now();
            }
            self.nodes.iter().all(|node| {
                let text = node.ask(&["CLUSTER", "NODES"]).text();
                text.lines().filter(|line| line.contains(" connected") && !line.contains("handshake")).count() == count
            })
        });
    }

    fn id(&self, ix: usize) -> String {
        self.nodes[ix].run(&["CLUSTER", "MYID"]).text()
    }

    /// The owner by the account of every node that answers, if that is alive and says so itself.
    fn primary_of(&self, slot: u16) -> Option<usize> {
        let mut maps = self.nodes.iter().filter_map(|node| node.try_ask(&["CLUSTER", "SLOTS"]));
        let port = primary_port(&maps.next()?, slot)?;
        let ix = self.nodes.iter().position(|node| i64::from(node.port()) == port)?;
        let is_agreed = maps.all(|map| primary_port(&map, slot) == Some(port));
        (is_agreed && self.nodes[ix].info("role") == "master").then_some(ix)
    }
}

/// Who has a slot by what `CLUSTER SLOTS` answered.
fn primary_port(map: &Reply, slot: u16) -> Option<i64> {
    let row = map.array().iter().map(Reply::array).find(|row| {
        let slots = row[0].int()..=row[1].int();
        slots.contains(&i64::from(slot))
    })?;
    Some(row[2].array()[1].int())
}

fn is_ok(node: &Redis) -> bool {
    let info = node.ask(&["CLUSTER", "INFO"]).text();
    let link = node.info("master_link_status");
    info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384") && (link.is_empty() || link == "up")
}
