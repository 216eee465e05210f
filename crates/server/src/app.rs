//! Where the parts meet: what is started, in which order, and how it is stopped.
//!
//! Start: listeners are bound first, so that a wrong address is found before anything runs; then the loops' mailboxes,
//! the hub over them, the loops themselves, the doors. Stop: readiness turns off, the doors close, connections are closed
//! over the drain time, what was accepted is delivered, histories are written. A second signal ends the process at once.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use fanfare_hub::hub::{LOOPS_MAX, Routes};
use fanfare_hub::memory::{MemoryBroker, MemoryPresence, Snapshot as History};
use fanfare_hub::{Broker, Encode, Hub, PresenceStore};
use hyper::body::Incoming;
use hyper::{Request, Response};
use mio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::Api;
use crate::apps::{Apps, Changed};
use crate::config::{Config, Source};
use crate::data::{DataDir, now_ms};
use crate::edge::certificates::Certificates;
use crate::edge::door::{self, Door, Http};
use crate::edge::forms::Forms;
use crate::edge::listen::Reader;
use crate::edge::neighbours::Neighbours;
use crate::edge::shard_loop::Kit;
use crate::edge::subscribe::Subscriptions;
use crate::edge::upgrade::Gatekeeper;
use crate::edge::{Body, LoopHandle, LoopStats, Loops, Occupancy, Order, Returned, Settings, Snapshot, shard_loop};
use crate::firehose::{Firehoses, Tee};
use crate::ingest::Ingest;
use crate::ingest::recall::{Recall, restore};
use crate::ledger::{Ledger, Sources};
use crate::metrics::{Admin, Answers};
use crate::queues::{Kept, Queues};
use crate::readiness::{Readiness, Unready};
use crate::redis::nodes::{Nodes, Report};
use crate::redis::shared::Shared;
use crate::tokens::Tokens;
use crate::{config, demo, push_stream};

/// How long answers that are under way may take once nothing can be added to them.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How long jobs that pipelines have begun may take when the server stops; the rest is given back.
const LAST_JOBS: Duration = Duration::from_secs(5);

/// Runs the server until it is told to stop. `echo` opens the raw `/echo` route for conformance tests.
pub fn serve(config: Config, source: Source, echo: bool) -> anyhow::Result<()> {
    // Standard output is for the addresses, which scripts read.
    let filter = tracing_subscriber::EnvFilter::new(&config.log);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(cores).enable_all().build()?;
    // To the hub, the push-stream listener is a loop too.
    let loops = match config.role.is_edge() {
        true if config.loops == 0 => cores,
        true => config.loops,
        false => 0,
    };
    let loops = loops.min(LOOPS_MAX - 1);
    runtime.block_on(async {
        let (node, doors) = Node::start(config, echo, loops).await?;
        // Before the addresses are printed: whoever reads them may signal at once.
        let mut signals = Signals::new()?;
        let reloads = config::watch(source, node.config.clone())?;
        let mut open = node.open(doors).await?;
        open.run(reloads, &mut signals).await?;
        open.stop(signals).await;
        Ok(())
    })
}

/// What tells the server to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Everything that runs before anybody is let in.
struct Node {
    config: Config,
    apps: Apps,
    tokens: Tokens,
    data: Option<DataDir>,
    queues: Queues,
    firehoses: Firehoses,
    /// The broker whose histories a restart needs; shared servers keep their own.
    memory: Option<MemoryBroker>,
    /// Whether it has the histories of the server before.
    resumed: bool,
    /// What it shares with other nodes.
    shared: Option<Shared>,
    hub: Hub,
    readiness: Readiness,
    loops: Vec<LoopHandle>,
    threads: Vec<JoinHandle<()>>,
    certificates: Option<Certificates>,
}

/// Where people come in, and what is needed to let them.
struct Doors {
    public: TcpListener,
    admin: TcpListener,
    push_stream: Option<(TcpListener, push_stream::Prepared)>,
    gatekeeper: Gatekeeper,
    /// What loops give back to the door.
    returned: mpsc::UnboundedReceiver<Returned>,
}

/// A node whose doors are open.
struct Open {
    node: Node,
    ingest: Ingest,
    ledger: Ledger,
    /// What it tells other nodes of itself.
    nodes: Option<Nodes>,
    /// Ends when nobody comes in by the public listener any more.
    door: tokio::task::JoinHandle<std::io::Result<()>>,
    /// Ends with the last answer.
    served: mpsc::Receiver<Infallible>,
    /// Closes the doors; the admin listener outlives the drain, so that it can be watched.
    close: watch::Sender<bool>,
    close_admin: watch::Sender<bool>,
}

/// Plain HTTP on the public listener.
struct Public {
    api: Api,
    subscriptions: Subscriptions,
    firehoses: Firehoses,
    apps: Apps,
    answers: Arc<Answers>,
    is_edge: bool,
}

impl Http for Public {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        // The page is a subscriber's.
        if let Some(page) = demo::page(request.method(), request.uri().path(), &self.apps).filter(|_| self.is_edge) {
            return page.map(Body::from);
        }
        if self.subscriptions.are_at(request.uri().path()) {
            return self.subscriptions.answer(&request).await;
        }
        if self.firehoses.are_at(request.uri().path()) {
            return self.firehoses.answer(request).await;
        }
        let response = self.api.serve(request).await;
        self.answers.count(response.status());
        response.map(Body::from)
    }
}

impl Node {
    /// Binds and starts everything but the doors. Must be called on the runtime, where the hub's tasks are to run.
    async fn start(config: Config, echo: bool, n: usize) -> anyhow::Result<(Node, Doors)> {
        let public = bind(config.listen)?;
        let admin = bind(config.admin_listen)?;
        let certificates = config.tls.as_ref().map(Certificates::read).transpose()?;
        let apps = Apps::new(&config);
        let settings = Arc::new(Settings::new(&config, echo));
        let occupancy = Occupancy::default();
        let (prepared, mut mailboxes): (Vec<_>, Vec<_>) =
            (0..n).map(|_| shard_loop::prepare()).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let mut encoder: Arc<dyn Encode> = Arc::new(Forms::new(config.deflate_min_bytes));
        let mut push_stream = None;
        if let Some(settings) = &config.push_stream {
            let (prepared, mailbox) = push_stream::prepare(settings.clone(), encoder);
            mailboxes.push(mailbox);
            encoder = prepared.encoder();
            push_stream = Some((bind(settings.listen)?, prepared));
        }
        let routes = Arc::new(Routes::new(mailboxes, encoder.clone()));
        let data = config.data_dir.as_deref().map(DataDir::open).transpose()?.flatten();
        let tokens = match data.as_ref().and_then(DataDir::revocations) {
            Some((journal, text)) => Tokens::kept_in(journal, &text),
            None => Tokens::default(),
        };
        let readiness = Readiness::default();
        let shared = match &config.redis {
            None => None,
            Some(settings) => Some(
                Shared::start(settings, routes.clone(), apps.clone(), tokens.clone(), config.outbox_bytes_max).await?,
            ),
        };
        let queues = Queues::start(&config, kept(shared.as_ref(), data.as_ref()), readiness.clone())?;
        queues.begin().await;
        let firehoses = Firehoses::start(&config, apps.clone(), queues.clone(), readiness.clone())?;
        let history = data.as_ref().filter(|_| shared.is_none()).and_then(DataDir::take_history);
        let resumed = history.is_some();
        let (broker, presence, memory): (Arc<dyn Broker>, Arc<dyn PresenceStore>, _) = match &shared {
            Some(shared) => (Arc::new(shared.broker.clone()), Arc::new(shared.presence.clone()), None),
            None => {
                let memory = memory_broker(routes.clone(), history);
                (Arc::new(memory.clone()), Arc::new(MemoryPresence::default()), Some(memory))
            }
        };
        let hub = Hub::start(routes, Arc::new(Tee::new(broker, firehoses.clone())), presence);
        if let Some(shared) = &shared {
            shared.attend(&hub, apps.clone());
            tokio::spawn(shared.clone().watch(readiness.clone()));
        }
        let loops = prepared.iter().map(shard_loop::Prepared::handle).collect();
        let reader =
            Reader { apps: apps.clone(), tokens: tokens.clone(), path_prefix: config.path_prefix.as_str().into() };
        let gatekeeper = Gatekeeper {
            apps: apps.clone(),
            reader: reader.clone(),
            settings: settings.clone(),
            occupancy: occupancy.clone(),
        };
        let (returns, returned) = mpsc::unbounded_channel();
        let kit = Kit { reader, settings, occupancy, requests: hub.requests(), encoder, returns };
        let threads = start_loops(prepared, &kit)?;
        let doors = Doors { public, admin, push_stream, gatekeeper, returned };
        let node = Node {
            config,
            apps,
            tokens,
            data,
            queues,
            firehoses,
            memory,
            resumed,
            shared,
            hub,
            readiness,
            loops,
            threads,
            certificates,
        };
        Ok((node, doors))
    }

    /// Lets people in, once what a crash interrupted is in the histories again.
    async fn open(self, doors: Doors) -> anyhow::Result<Open> {
        let Doors { public, admin, push_stream, gatekeeper, returned } = doors;
        let (close, closing) = watch::channel(false);
        let (close_admin, closing_admin) = watch::channel(false);
        let (last, served) = mpsc::channel(1);
        let (http, http_admin) = (public.local_addr()?, admin.local_addr()?);
        let (recall, interrupted) = self.recall();
        let api = Api::new(
            self.hub.clone(),
            self.apps.clone(),
            self.tokens.clone(),
            self.queues.clone(),
            recall.clone(),
            &self.config,
        );
        restore(&interrupted, &api.publisher(), &self.apps).await;
        self.firehoses.open();
        let ingest =
            Ingest::start(&self.config, self.queues.clone(), api.publisher(), self.apps.clone(), recall.clone());
        let http_push_stream = match push_stream {
            Some((listener, prepared)) => {
                let http = listener.local_addr()?;
                let face =
                    prepared.open(self.hub.clone(), recall, gatekeeper.clone(), self.loops.len(), closing.clone());
                tokio::spawn(door::serve_only(listener, Arc::new(face), closing.clone()));
                Some(http)
            }
            None => None,
        };
        let answers = Arc::<Answers>::default();
        let loops = Loops::new(&self.loops);
        let everything = Arc::new(Public {
            api,
            subscriptions: Subscriptions::new(gatekeeper.clone(), loops.clone()),
            firehoses: self.firehoses.clone(),
            apps: self.apps.clone(),
            answers: answers.clone(),
            is_edge: self.config.role.is_edge(),
        });
        let tls = self.certificates.as_ref().map(Certificates::server_config).transpose()?;
        let neighbours = self.shared.as_ref().map(|shared| -> Arc<dyn Neighbours> { Arc::new(shared.relay.clone()) });
        let door = Door::new(gatekeeper, loops, everything, tls, neighbours, closing, last);
        let door = tokio::spawn(door.run(public, returned));
        let ledger = self.ledger(&ingest);
        let nodes = self.shared.as_ref().map(|shared| shared.report(report(http, &self.config, self.cells())));
        let metrics =
            Admin::new(ledger.clone(), self.firehoses.clone(), answers, self.readiness.clone(), nodes.clone());
        tokio::spawn(door::serve_only(admin, Arc::new(metrics), closing_admin));
        announce(http, http_push_stream, http_admin, self.config.dev);
        Ok(Open { node: self, ingest, ledger, nodes, door, served, close, close_admin })
    }

    /// Where pipelines write down what they publish, and what the server before had there when it crashed. Shared servers
    /// remember by themselves, and a server that was stopped left its histories.
    fn recall(&self) -> (Recall, String) {
        let published = self.memory.as_ref().and(self.data.as_ref()).and_then(DataDir::published);
        let (recall, lines) = published.map(|(recent, lines)| (Recall::new(recent), lines)).unwrap_or_default();
        (recall, if self.resumed { String::new() } else { lines })
    }

    fn cells(&self) -> Vec<Arc<LoopStats>> {
        self.loops.iter().map(|handle| handle.stats.clone()).collect()
    }

    fn ledger(&self, ingest: &Ingest) -> Ledger {
        let sources = Sources {
            apps: self.apps.clone(),
            queues: self.queues.clone(),
            ingest: ingest.clone(),
            firehoses: self.firehoses.clone(),
            hub: self.hub.clone(),
            loops: self.cells(),
            shared: self.shared.is_some(),
            published: Mutex::default(),
        };
        Ledger::start(sources, self.data.as_ref().map(DataDir::life))
    }
}

impl Open {
    /// Returns when the server is told to stop.
    async fn run(&mut self, mut reloads: mpsc::Receiver<Config>, signals: &mut Signals) -> anyhow::Result<()> {
        let mut revocations = self.node.tokens.changes();
        loop {
            tokio::select! {
                Some(config) = reloads.recv() => self.reload(&config).await,
                Ok(()) = revocations.changed() => {
                    let changes = *revocations.borrow_and_update();
                    recheck(&self.node.loops).await;
                    self.node.tokens.heed(changes);
                }
                ended = &mut self.door => ended?.context("the public listener failed")?,
                () = signals.next() => return Ok(()),
            }
        }
    }

    async fn reload(&self, config: &Config) {
        let node = &self.node;
        if let (Some(shared), Some(settings)) = (&node.shared, &config.redis) {
            shared.change(settings).await;
        }
        node.queues.reload(config).await;
        let changed = reload(&node.apps, config, &node.loops).await;
        node.firehoses.reload(config);
        self.ingest.reload(config);
        reread(node.certificates.as_ref());
        tracing::info!(
            added = changed.added.len(),
            changed = changed.changed.len(),
            removed = changed.removed.len(),
            disabled = changed.disabled.len(),
            "configuration reloaded"
        );
    }

    /// Ends in good order, or, on a second signal, at once.
    async fn stop(mut self, mut signals: Signals) {
        tracing::info!(drain_s = self.node.config.drain_s, "stopping; a second signal ends at once");
        self.node.readiness.set(Unready::Stopping, true);
        self.close.send_replace(true);
        self.node.queues.stop();
        self.node.firehoses.stop();
        tokio::select! {
            () = self.drain() => {}
            () = signals.next() => {}
        }
        self.ledger.stop().await;
        self.node.queues.close().await;
        if let Some(nodes) = &self.nodes {
            nodes.leave().await;
        }
        self.close_admin.send_replace(true);
    }

    async fn drain(&mut self) {
        // First: what pipelines publish is confirmed by loops that still run.
        self.ingest.stop(LAST_JOBS).await;
        let Node { config, data, firehoses, memory, hub, loops, threads, .. } = &self.node;
        hub.part();
        drain(loops, threads, hub, config.drain_s).await;
        // What the loops said last may still be on its way through hyper.
        let _ = tokio::time::timeout(LAST_ANSWERS, self.served.recv()).await;
        if let (Some(data), Some(memory)) = (data, memory) {
            let mut history = memory.save().await;
            history.forget_keys(|key, word| firehoses.lacks(key, word));
            data.put_history(&history);
        }
    }
}

/// Says on standard output what is where.
fn announce(http: SocketAddr, push_stream: Option<SocketAddr>, admin: SocketAddr, dev: bool) {
    println!("listening http={http}");
    if let Some(http) = push_stream {
        println!("push-stream http={http}");
    }
    println!("admin http={admin}");
    if dev {
        println!("{}", demo::banner(http, admin));
    }
}

/// What this node says of itself to others.
fn report(http: SocketAddr, config: &Config, cells: Vec<Arc<LoopStats>>) -> impl Fn() -> Report + Send + use<> {
    let (role, began) = (config.role.to_string(), Instant::now());
    move || {
        let mut sum = Snapshot::default();
        cells.iter().for_each(|cells| sum.add(cells));
        Report {
            listen: http.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: role.clone(),
            uptime_s: began.elapsed().as_secs(),
            connections: sum.connections,
            ..Report::default()
        }
    }
}

fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    door::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// Where queues have their jobs.
fn kept(shared: Option<&Shared>, data: Option<&DataDir>) -> Kept {
    match shared {
        Some(shared) => Kept::Shared(Box::new(shared.clone())),
        None => Kept::Here(data.map(DataDir::queues)),
    }
}

fn memory_broker(routes: Arc<Routes>, history: Option<History>) -> MemoryBroker {
    match history {
        Some(snapshot) => MemoryBroker::resume(routes, epoch(), snapshot),
        None => MemoryBroker::start(routes, epoch()),
    }
}

fn start_loops(prepared: Vec<shard_loop::Prepared>, kit: &Kit) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let random = RandomState::new();
    let start = |(index, prepared): (usize, shard_loop::Prepared)| {
        // Numbers that JavaScript can hold, should anybody parse the halves of a socket id.
        let salt = random.hash_one(index) >> 11;
        let kit = kit.clone();
        let run = move || {
            if let Err(error) = prepared.run(index, salt, kit) {
                tracing::error!(%error, index, "an event loop cannot poll and has ended");
            }
        };
        Ok(std::thread::Builder::new().name(format!("loop-{index}")).spawn(run)?)
    };
    prepared.into_iter().enumerate().map(start).collect()
}

async fn reload(apps: &Apps, config: &Config, loops: &[LoopHandle]) -> Changed {
    let changed = apps.reload(config);
    if !changed.removed.is_empty() || !changed.disabled.is_empty() {
        recheck(loops).await;
    }
    changed
}

/// Somebody who was let in may have to go. Returns when all loops have looked.
async fn recheck(loops: &[LoopHandle]) {
    let (done, mut all_done) = mpsc::channel(1);
    for handle in loops {
        handle.orders.send(Order::Recheck { done: done.clone() }).await;
    }
    drop(done);
    // Nothing is ever sent: it ends with the last loop's end of it.
    all_done.recv().await;
}

/// The certificate may have been renewed; one that cannot be used changes nothing.
fn reread(certificates: Option<&Certificates>) {
    match certificates.map(Certificates::reread) {
        Some(Err(error)) => tracing::warn!(%error, "new certificate refused; the old one stays"),
        Some(Ok(())) => tracing::info!("certificate read again"),
        None => {}
    }
}

/// Closes every connection, spread over the drain time, then delivers what the broker still holds.
async fn drain(loops: &[LoopHandle], threads: &[JoinHandle<()>], hub: &Hub, drain_s: u32) {
    for handle in loops {
        handle.orders.send(Order::Drain { over_ms: u64::from(drain_s) * 1000 }).await;
    }
    let ended = || threads.iter().all(JoinHandle::is_finished);
    while !ended() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    hub.close().await;
}

/// Later than that of every earlier start, with room for a thousand new epochs in each millisecond between.
fn epoch() -> u64 {
    now_ms() << 10
}
