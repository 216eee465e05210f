//! Which server has which unit: as configured, as the Sentinels say, or as the Cluster says.

use super::UnitIx;
use super::cluster;
use super::commands::answered;
use super::dial::{Address, DialError, Dialer};
use super::fault::Fault;
use super::link::{Common, Link, LiveLink};
use super::nodes::Server;
use super::ring::{self, Ring};
use super::sentinel;
use super::unit::Unit;
use crate::config::{Login, RedisServer, RedisServers, RedisSettings};
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How often Sentinels and Clusters are asked when nothing seems wrong.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Between two rounds of questions, whatever seems wrong.
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// How long those who are asked have.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Servers of a Cluster that are asked at once.
const ASKED_MAX: usize = 8;

/// Where the units are, once somebody knows.
pub(super) type Homes = HashMap<UnitIx, Address>;

/// The units of the settings, none of which has a server yet; `first` is the number of the first.
pub(super) fn units(settings: &RedisSettings, first: u16) -> Vec<Arc<Unit>> {
    let names: Vec<(Arc<str>, Option<String>)> = match &settings.servers {
        RedisServers::Standalone(servers) if !settings.partitioned => {
            servers.iter().map(|server| (server.name.clone(), None)).collect()
        }
        RedisServers::Sentinel { masters, .. } => masters.iter().map(|master| (master.clone(), None)).collect(),
        RedisServers::Standalone(_) | RedisServers::Cluster(_) => {
            ring::partition_tags().into_iter().map(|tag| (tag.as_str().into(), Some(tag))).collect()
        }
    };
    let unit = |(ix, (name, tag)): (u16, (Arc<str>, Option<String>))| {
        Arc::new(Unit::new(UnitIx(ix), name, &settings.prefix, tag.as_deref()))
    };
    (first..).zip(names).map(unit).collect()
}

/// The ring of some units.
pub(super) fn ring_of(units: &[Arc<Unit>]) -> Ring {
    Ring::new(units.iter().map(|unit| (unit.ix, &*unit.name)))
}

/// What keeps units at their servers.
pub(super) struct Topology {
    servers: Mutex<RedisServers>,
    /// Told when `servers` has changed.
    changed: Notify,
    partitioned: bool,
    units: Vec<Arc<Unit>>,
    links: Mutex<HashMap<Address, LiveLink>>,
    common: Arc<Common>,
    /// Why the last question had no answer.
    fault: Mutex<Option<Fault>>,
}

impl Topology {
    /// Nothing happens before [`Topology::follow`].
    pub fn new(settings: &RedisSettings, units: Vec<Arc<Unit>>, common: Arc<Common>) -> Topology {
        Topology {
            servers: Mutex::new(settings.servers.clone()),
            changed: Notify::new(),
            partitioned: settings.partitioned,
            units,
            links: Mutex::default(),
            common,
            fault: Mutex::default(),
        }
    }

    /// Gives partitions to other servers. Where one was, nobody may publish from here on; a server that is gone cannot be told.
    pub async fn change(&self, to: RedisServers) {
        let (RedisServers::Standalone(old), RedisServers::Standalone(new), true) =
            (self.configured(), &to, self.partitioned)
        else {
            return;
        };
        let (old, new) = (self.homes(&old), self.homes(new));
        let moved: Vec<&Arc<Unit>> = self.units.iter().filter(|unit| old[&unit.ix] != new[&unit.ix]).collect();
        if moved.is_empty() {
            return;
        }
        tracing::info!(partitions = moved.len(), "giving partitions to other Redis servers");
        let closed = join_all(moved.iter().map(|unit| unit.close(&new[&unit.ix]))).await;
        let unaware = closed.iter().filter(|closed| !**closed).count();
        if unaware > 0 {
            tracing::warn!(partitions = unaware, "taken from Redis servers that do not answer");
        }
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.changed.notify_one();
    }

    fn configured(&self) -> RedisServers {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which standalone server has which unit.
    fn homes(&self, servers: &[RedisServer]) -> Homes {
        let units = || self.units.iter().map(|unit| unit.ix);
        if !self.partitioned {
            return units().zip(servers.iter().map(Address::from)).collect();
        }
        let partitions: Vec<&str> = self.units.iter().map(|unit| &*unit.name).collect();
        let names: Vec<&str> = servers.iter().map(|server| &*server.name).collect();
        let shares = ring::shares(&partitions, &names);
        units().zip(shares.into_iter().map(|ix| Address::from(&servers[ix]))).collect()
    }

    /// Stands for the set of servers.
    pub fn fingerprint(&self) -> u64 {
        match self.configured() {
            RedisServers::Standalone(servers) if self.partitioned => {
                Ring::new(servers.iter().map(|server| (UnitIx(0), &*server.name))).fingerprint()
            }
            _ => ring_of(&self.units).fingerprint(),
        }
    }

    /// The units that it keeps.
    pub fn units(&self) -> &[Arc<Unit>] {
        &self.units
    }

    /// What is wrong with the server of a unit that has not come up; first of all, what will not mend itself.
    pub fn fault(&self) -> Option<(String, Fault)> {
        let asking = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nowhere = || asking.clone().unwrap_or_else(|| Fault::passing("nobody knows where it is"));
        let fault = |unit: &Arc<Unit>| match unit.home() {
            Some(link) => (link.address.to_string(), link.fault()),
            None => (unit.name.to_string(), nowhere()),
        };
        let faults = self.units.iter().filter(|unit| !unit.has_risen()).map(fault);
        faults.reduce(|first, other| if other.1.lasting && !first.1.lasting { other } else { first })
    }

    /// What this node sees of the servers.
    pub fn servers(&self) -> Vec<Server> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut servers: Vec<Server> = links.values().map(|live| self.server(&live.link)).collect();
        servers.sort_by(|a, b| a.server.cmp(&b.server));
        servers
    }

    fn server(&self, link: &Arc<Link>) -> Server {
        let there = |unit: &&Arc<Unit>| unit.home().is_some_and(|home| Arc::ptr_eq(&home, link));
        let subscriptions = self.units.iter().filter(there).map(|unit| unit.subscriptions().len());
        link.server(self.units.iter().filter(there).count(), subscriptions.sum())
    }

    /// Follows the units' moves. Ends never.
    pub async fn follow(&self) {
        let mut asker = Asker::default();
        let mut known: HashSet<Address> = HashSet::new();
        loop {
            let homes = self.ask(&mut asker, &mut known).await;
            let fault = homes.map(|homes| self.settle(&homes)).err();
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
            if matches!(self.configured(), RedisServers::Standalone(_)) {
                self.changed.notified().await;
                continue;
            }
            sleep(ASK_PAUSE).await;
            let _ = timeout(ASK_EVERY, self.common.doubt.notified()).await;
        }
    }

    async fn ask(&self, asker: &mut Asker, known: &mut HashSet<Address>) -> Result<Homes, Fault> {
        match &self.configured() {
            RedisServers::Standalone(servers) => Ok(self.homes(servers)),
            RedisServers::Sentinel { sentinels, .. } => {
                let mut homes = Homes::new();
                for unit in &self.units {
                    let answers = asker.ask(&self.common.dialer, &of(sentinels), &sentinel::question(&unit.name)).await;
                    homes.insert(unit.ix, sentinel::primary(answers)?);
                }
                Ok(homes)
            }
            RedisServers::Cluster(seeds) => {
                let login = login_of(seeds);
                let seeds = of(seeds);
                let others = known.iter().map(|at| (at.clone(), login.clone()));
                let mut asked: Vec<_> = seeds.iter().cloned().chain(others).collect();
                let mut twice = HashSet::new();
                asked.retain(|(at, _)| twice.insert(at.clone()));
                // Those that answered before come first; whoever does not answer has its turn when they do not either.
                asked.sort_by_key(|(at, _)| !asker.has(at));
                asked.truncate(ASKED_MAX);
                let answers = asker.ask(&self.common.dialer, &asked, &cluster::question()).await;
                let view = cluster::View::merged(answers)?;
                *known = view.servers().cloned().collect();
                let slot = |unit: &Arc<Unit>| ring::slot_of_tag(unit.name.as_bytes());
                Ok(self.units.iter().filter_map(|unit| Some((unit.ix, view.primary_of(slot(unit))?.clone()))).collect())
            }
        }
    }

    /// Moves units, starts links to new servers, and ends those that have no unit left.
    fn settle(&self, homes: &Homes) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut moved = 0;
        for unit in &self.units {
            let Some(address) = homes.get(&unit.ix) else { continue };
            if unit.home().is_some_and(|link| link.address == *address) {
                continue;
            }
            tracing::debug!(unit = %unit.name, server = %address, "unit is at");
            moved += 1;
            let start = || LiveLink::start(address.clone(), self.login(address), self.common.clone());
            let live = links.entry(address.clone()).or_insert_with(start);
            unit.settle(Some(live.link.clone()));
        }
        let home_of_any =
            |address: &Address| self.units.iter().any(|unit| unit.home().is_some_and(|link| link.address == *address));
        links.retain(|address, _| home_of_any(address));
        if moved > 0 {
            tracing::info!(moved, servers = links.len(), "Redis servers have their units");
        }
    }

    fn login(&self, at: &Address) -> Login {
        match &self.configured() {
            RedisServers::Sentinel { login, .. } => login.clone(),
            RedisServers::Cluster(seeds) => login_of(seeds),
            RedisServers::Standalone(servers) => {
                let server = servers.iter().find(|server| Address::from(*server) == *at);
                server.map(|server| server.login.clone()).unwrap_or_default()
            }
        }
    }
}

/// All servers of a Cluster have the same users.
fn login_of(seeds: &[RedisServer]) -> Login {
    seeds.first().map(|seed| seed.login.clone()).unwrap_or_default()
}

fn of(servers: &[RedisServer]) -> Vec<(Address, Login)> {
    servers.iter().map(|server| (Address::from(server), server.login.clone())).collect()
}

/// An answer, and who gave it.
pub(super) type Answer = (Address, Result<Value, Fault>);

/// Connections to those who are asked again and again.
#[derive(Default)]
struct Asker {
    connections: HashMap<Address, (MultiplexedConnection, super::dial::Running)>,
}

impl Asker {
    fn has(&self, at: &Address) -> bool {
        self.connections.contains_key(at)
    }

    /// Asks all of them at once. Whoever does not answer is dialled anew the next time.
    async fn ask(&mut self, dialer: &Dialer, whom: &[(Address, Login)], question: &Cmd) -> Vec<Answer> {
        let each = whom.iter().map(|(at, login)| {
            let there = self.connections.remove(at);
            async move {
                let asked = async {
                    let (mut connection, driver) = match there {
                        Some(there) => there,
                        None => dialer.commands(at, login).await?,
                    };
                    let answer = answered(connection.send_packed_command(question).await);
                    Ok::<_, DialError>(((connection, driver), answer.map_err(Fault::from)))
                };
                let outcome = match timeout(ASK_TIMEOUT, asked).await {
                    Ok(outcome) => outcome.map_err(Fault::from),
                    Err(_) => Err(Fault::passing("no answer in time")),
                };
                (at.clone(), outcome)
            }
        });
        let each: Vec<_> = each.collect();
        let mut answers = Vec::new();
        for (at, outcome) in join_all(each).await {
            let answer = match outcome {
                Ok((connection, answer)) => {
                    if answer.is_ok() {
                        self.connections.insert(at.clone(), connection);
                    }
                    answer
                }
                Err(reason) => Err(reason),
            };
            answers.push((at, answer));
        }
        answers
    }
}
