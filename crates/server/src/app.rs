//! Where the parts meet: what is started, in which order, and how it is stopped.
//!
//! Start: listeners are bound first, so that a wrong address is found before anything runs; then the loops' mailboxes,
//! the hub over them, the loops themselves, the doors. Stop: readiness turns off, the doors close, connections are closed
//! over the drain time, what was accepted is delivered, histories are written. A second signal ends the process at once.

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
use tokio::signal::unix::{SignalKind, signal};
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
use crate::redis::nodes::Report;
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
    runtime.block_on(async { Node::start(config, source, echo, loops).await?.run().await })
}

/// Everything that runs.
struct Node {
    config: Config,
    source: Source,
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
    gatekeeper: Gatekeeper,
    /// What loops give back to the door.
    returned: mpsc::UnboundedReceiver<Returned>,
    certificates: Option<Certificates>,
    public: TcpListener,
    admin: TcpListener,
    push_stream: Option<(TcpListener, push_stream::Prepared)>,
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
    async fn start(config: Config, source: Source, echo: bool, n: usize) -> anyhow::Result<Node> {
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
        let firehoses = Firehoses::start(&config, apps.clone(), queues.clone())?;
        let tee = |broker: Arc<dyn Broker>| Tee::new(broker, firehoses.clone());
        let mut resumed = false;
        let (hub, memory) = match &shared {
            None => {
                let history = data.as_ref().and_then(DataDir::take_history);
                resumed = history.is_some();
                let broker = memory_broker(routes.clone(), history);
                (start_hub(routes, tee(Arc::new(broker.clone())), MemoryPresence::default()), Some(broker))
            }
            Some(shared) => {
                let hub = start_hub(routes, tee(Arc::new(shared.broker.clone())), shared.presence.clone());
                shared.attend(&hub, apps.clone());
                tokio::spawn(shared.clone().watch(readiness.clone()));
                (hub, None)
            }
        };
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
        Ok(Node {
            config,
            source,
            apps,
            tokens,
            data,
            queues,
            firehoses,
            memory,
            resumed,
            shared,
            readiness,
            hub,
            loops,
            threads,
            gatekeeper,
            returned,
            certificates,
            public,
            admin,
            push_stream,
        })
    }

    async fn run(self) -> anyhow::Result<()> {
        // Before the addresses are printed: whoever reads them may signal at once.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut reloads = config::watch(self.source, self.config.clone())?;
        let (stop, stopping) = watch::channel(false);
        let readiness = self.readiness;
        let (http, admin) = (self.public.local_addr()?, self.admin.local_addr()?);
        let (queues, firehoses) = (self.queues, self.firehoses);
        // Shared servers remember by themselves.
        let published = self.memory.as_ref().and(self.data.as_ref()).and_then(DataDir::published);
        let (recall, lines) = published
            .map_or_else(Default::default, |(recent, lines)| (Recall::new(recent), (!self.resumed).then_some(lines)));
        let api = Api::new(
            self.hub.clone(),
            self.apps.clone(),
            self.tokens.clone(),
            queues.clone(),
            recall.clone(),
            &self.config,
        );
        restore(&lines.unwrap_or_default(), &api.publisher(), &self.apps).await;
        firehoses.open();
        let ingest = Ingest::start(&self.config, queues.clone(), api.publisher(), self.apps.clone(), recall.clone());
        let mut revocations = self.tokens.changes();
        let answers = Arc::<Answers>::default();
        let loops = Loops::new(&self.loops);
        let (last, mut served) = mpsc::channel(1);
        let subscriptions = Subscriptions::new(self.gatekeeper.clone(), loops.clone());
        let public = Arc::new(Public {
            api,
            subscriptions,
            firehoses: firehoses.clone(),
            apps: self.apps.clone(),
            answers: answers.clone(),
            is_edge: self.config.role.is_edge(),
        });
        let tls = self.certificates.as_ref().map(Certificates::server_config).transpose()?;
        let push_stream = match self.push_stream {
            Some((listener, prepared)) => {
                let http = listener.local_addr()?;
                let face = prepared.open(
                    self.hub.clone(),
                    recall,
                    self.gatekeeper.clone(),
                    self.loops.len(),
                    stopping.clone(),
                );
                tokio::spawn(door::serve_only(listener, Arc::new(face), stopping.clone()));
                Some(http)
            }
            None => None,
        };
        let relay = |shared: &Shared| -> Arc<dyn Neighbours> { Arc::new(shared.relay.clone()) };
        let neighbours = self.shared.as_ref().map(relay);
        let door = Door::new(self.gatekeeper, loops, public, tls, neighbours, stopping, last);
        let mut door = tokio::spawn(door.run(self.public, self.returned));
        let cells: Vec<_> = self.loops.iter().map(|handle| handle.stats.clone()).collect();
        let sources = Sources {
            apps: self.apps.clone(),
            queues: queues.clone(),
            ingest: ingest.clone(),
            hub: self.hub.clone(),
            loops: cells.clone(),
            shared: self.shared.is_some(),
            published: Mutex::default(),
        };
        let ledger = Ledger::start(sources, self.data.as_ref().map(DataDir::life));
        let nodes = self.shared.as_ref().map(|shared| shared.report(report(http, &self.config, cells.clone())));
        let metrics = Admin::new(ledger.clone(), answers, readiness.clone(), nodes.clone());
        let metrics = Arc::new(metrics.with_firehoses(firehoses.clone()));
        // The admin listener outlives the drain, so that it can be watched.
        let (end, ending) = watch::channel(false);
        tokio::spawn(door::serve_only(self.admin, metrics, ending));
        println!("listening http={http}");
        if let Some(http) = push_stream {
            println!("push-stream http={http}");
        }
        println!("admin http={admin}");
        if self.config.dev {
            println!("{}", demo::banner(http, admin));
        }
        loop {
            tokio::select! {
                Some(config) = reloads.recv() => {
                    if let (Some(shared), Some(settings)) = (&self.shared, &config.redis) {
                        shared.change(settings).await;
                    }
                    queues.reload(&config).await;
                    reload(&self.apps, &config, &self.loops).await;
                    firehoses.reload(&config);
                    ingest.reload(&config);
                    reread(self.certificates.as_ref());
                }
                Ok(()) = revocations.changed() => {
                    let changes = *revocations.borrow_and_update();
                    recheck(&self.loops).await;
                    self.tokens.heed(changes);
                }
                ended = &mut door => ended?.context("the public listener failed")?,
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        tracing::info!(drain_s = self.config.drain_s, "stopping; a second signal ends at once");
        readiness.set(Unready::Stopping, true);
        stop.send_replace(true);
        queues.stop();
        firehoses.stop();
        // Its publications are confirmed by loops that still run.
        tokio::select! {
            () = ingest.stop(LAST_JOBS) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        self.hub.part();
        tokio::select! {
            () = drain(&self.loops, self.threads, &self.hub, self.config.drain_s) => {
                // What the loops said last may still be on its way through hyper.
                let _ = tokio::time::timeout(LAST_ANSWERS, served.recv()).await;
                if let (Some(data), Some(memory)) = (&self.data, &self.memory) {
                    data.put_history(&memory.save().await);
                }
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        ledger.stop().await;
        queues.close().await;
        if let Some(nodes) = nodes {
            nodes.leave().await;
        }
        end.send_replace(true);
        Ok(())
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
        Some(shared) => {
            let jobs = shared.jobs.clone();
            Kept::Shared(Box::new(move |app, settings| jobs.queue(app, settings)))
        }
        None => Kept::Here(data.map(DataDir::queues)),
    }
}

fn memory_broker(routes: Arc<Routes>, history: Option<History>) -> MemoryBroker {
    match history {
        Some(snapshot) => MemoryBroker::resume(routes, epoch(), snapshot),
        None => MemoryBroker::start(routes, epoch()),
    }
}

fn start_hub(routes: Arc<Routes>, broker: impl Broker + 'static, presence: impl PresenceStore + 'static) -> Hub {
    Hub::start(routes, Arc::new(broker), Arc::new(presence))
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

async fn reload(apps: &Apps, config: &Config, loops: &[LoopHandle]) {
    let Changed { added, changed, removed, disabled } = apps.reload(config);
    tracing::info!(
        added = added.len(),
        changed = changed.len(),
        removed = removed.len(),
        disabled = disabled.len(),
        "configuration reloaded"
    );
    if !removed.is_empty() || !disabled.is_empty() {
        recheck(loops).await;
    }
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
async fn drain(loops: &[LoopHandle], threads: Vec<JoinHandle<()>>, hub: &Hub, drain_s: u32) {
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
