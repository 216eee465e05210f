//! Metrics in Prometheus' text format, and what else the admin listener answers.
//!
//! A scrape sums the cells that the loops own; only answers of the API are counted here.

mod firehose;
mod ledger;
mod pipelines;
mod queues;

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use self::firehose::FirehoseCounts;
use self::ledger::LedgerCounts;
use self::pipelines::PipelineCounts;
use self::queues::QueueCounts;
use crate::apps::Apps;
use crate::edge::door::Http;
use crate::edge::{Body, LoopStats, Snapshot};
use crate::firehose::Firehoses;
use crate::ledger::{Ledger, Sources, text};
use crate::readiness::Readiness;
use crate::redis::nodes::{Nodes, Server};

/// The admin listener: `/metrics`, `/ledger`, `/healthz`, `/readyz`.
#[derive(Debug)]
pub struct Admin {
    registry: Registry,
    readiness: Readiness,
    queues: QueueCounts,
    firehoses: FirehoseCounts,
    ledger: Ledger,
}

/// Answers to plain HTTP requests, by the first digit of their status.
#[derive(Debug, Default)]
pub struct Answers([AtomicU64; 6]);

impl Answers {
    /// Counts one answer.
    pub fn count(&self, status: StatusCode) {
        self.0[usize::from(status.as_u16() / 100).min(5)].fetch_add(1, Ordering::Relaxed);
    }
}

impl Admin {
    /// Serves what the ledger knows, and what else there is to count.
    pub fn new(
        ledger: Ledger,
        firehoses: Firehoses,
        answers: Arc<Answers>,
        readiness: Readiness,
        nodes: Option<Nodes>,
    ) -> Self {
        let Sources { apps, queues, ingest, loops: cells, .. } = ledger.sources();
        let (apps, queues, ingest, cells) = (apps.clone(), queues.clone(), ingest.clone(), cells.clone());
        let (queues, firehoses) = (QueueCounts::new(queues), FirehoseCounts::new(firehoses));
        let mut registry = Registry::with_prefix("fanfare");
        registry.register_collector(Box::new(Cells { apps, cells, answers }));
        if let Some(nodes) = nodes {
            registry.register_collector(Box::new(Shards(nodes)));
        }
        registry.register_collector(Box::new(queues.clone()));
        registry.register_collector(Box::new(PipelineCounts(ingest)));
        registry.register_collector(Box::new(firehoses.clone()));
        registry.register_collector(Box::new(LedgerCounts(ledger.clone())));
        Admin { registry, readiness, queues, firehoses, ledger }
    }

    /// `?minutes=N` says how many of the last minutes are wanted, `?format=text` that a person reads it.
    fn ledger(&self, query: &str) -> Response<Full<Bytes>> {
        let param = |name: &str| query.split('&').find_map(|param| param.strip_prefix(name)?.strip_prefix('='));
        let minutes = match param("minutes").map(str::parse).transpose() {
            Ok(minutes) => minutes.unwrap_or(0),
            Err(_) => return plain(StatusCode::BAD_REQUEST, "minutes: expected a number"),
        };
        let report = self.ledger.report(minutes);
        match param("format") {
            Some("text") => answer(StatusCode::OK, "text/plain; charset=utf-8", text::written(&report)),
            None | Some("json") => {
                let json = serde_json::to_string(&report).expect("names and numbers have a JSON form");
                answer(StatusCode::OK, "application/json", json)
            }
            Some(_) => plain(StatusCode::BAD_REQUEST, "format: expected json or text"),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        self.queues.look().await;
        self.firehoses.look().await;
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            Err(Error) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
        }
    }
}

impl Http for Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "expected GET").map(Body::from);
        }
        let response = match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/ledger" => self.ledger(request.uri().query().unwrap_or_default()),
            "/healthz" => plain(StatusCode::OK, "ok"),
            "/readyz" => match self.readiness.unready() {
                None => plain(StatusCode::OK, "ready"),
                Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &why.to_string()),
            },
            _ => plain(StatusCode::NOT_FOUND, "expected /metrics, /ledger, /healthz or /readyz"),
        };
        response.map(Body::from)
    }
}

fn plain(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", format!("{message}\n"))
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[derive(Debug)]
struct Cells {
    apps: Apps,
    cells: Vec<Arc<LoopStats>>,
    answers: Arc<Answers>,
}

impl Cells {
    fn sum(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        self.cells.iter().for_each(|cells| sum.add(cells));
        sum
    }
}

impl Collector for Cells {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), Error> {
        let sum = self.sum();
        gauge(&mut to, "connections", "Open connections", sum.connections)?;
        gauge(&mut to, "channels", "Channels with a subscriber, counted once per loop", sum.channels)?;
        let dropped = sum.dropped_closed + sum.dropped_slow + sum.dropped_older;
        // The cells are read one by one while loops go on writing, so a sum may run ahead of its parts for a moment.
        let in_flight = sum.owed.saturating_sub(sum.written + dropped);
        gauge(&mut to, "deliveries_in_flight", "Deliveries that wait in outboxes", in_flight)?;
        counter(&mut to, "connections_accepted", "Connections ever admitted", sum.connected)?;
        counter(&mut to, "messages_received", "Messages from clients", sum.messages_in)?;
        counter(&mut to, "publications", "Publications that reached a loop", sum.publications)?;
        counter(&mut to, "deliveries_owed", "Publications times subscribers", sum.owed)?;
        counter(&mut to, "deliveries_written", "Deliveries that the kernel took", sum.written)?;
        let dropped = [("closed", sum.dropped_closed), ("slow", sum.dropped_slow), ("older", sum.dropped_older)];
        by_reason(&mut to, "deliveries_dropped", "Deliveries that reached nobody", &dropped)?;
        let closed = [
            ("slow_consumer", sum.closed_slow),
            ("silent", sum.closed_silent),
            ("told", sum.closed_told),
            ("gap", sum.closed_gap),
            ("violation", sum.closed_violation),
        ];
        by_reason(&mut to, "connections_closed", "Connections that this server closed", &closed)?;
        self.http_answers(&mut to)?;
        self.app_connections(&mut to)?;
        self.rollout_answers(&mut to)
    }
}

impl Cells {
    fn http_answers(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut family =
            to.encode_descriptor("http_answers", "Answers of the API by status", None, MetricType::Counter)?;
        for (status, n) in ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(&self.answers.0[2..]) {
            let value = ConstCounter::new(n.load(Ordering::Relaxed));
            value.encode(family.encode_family(&[("status", status)])?)?;
        }
        Ok(())
    }

    fn app_connections(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut family = to.encode_descriptor("app_connections", "Open connections by app", None, MetricType::Gauge)?;
        for app in self.apps.all() {
            let value = ConstGauge::new(i64::from(app.usage.connections()));
            value.encode(family.encode_family(&[("app", &*app.id)])?)?;
        }
        Ok(())
    }

    fn rollout_answers(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "What visitors were told of an app's rollout: on, dark or off";
        let mut family = to.encode_descriptor("rollout_answers", help, None, MetricType::Counter)?;
        for app in self.apps.all() {
            for (answer, n) in app.usage.rollout.counts() {
                ConstCounter::new(n).encode(family.encode_family(&[("app", &*app.id), ("answer", answer)])?)?;
            }
        }
        Ok(())
    }
}

/// What this node sees of the Redis servers, and of those that share them.
#[derive(Debug)]
struct Shards(Nodes);

impl Collector for Shards {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), Error> {
        gauge(&mut to, "nodes", "Nodes that share the Redis servers, this one included", self.0.heard().len() as u64)?;
        let help = "Nodes that are configured with other Redis servers, and do not hear this one";
        gauge(&mut to, "nodes_strange", help, self.0.strangers() as u64)?;
        let recovery = self.0.recovery();
        for (name, help, count) in [
            (
                "redis_fences",
                "Partitions fenced: once at the start, and whenever another process may serve",
                &recovery.fences,
            ),
            ("redis_resubscriptions", "Channels subscribed to again", &recovery.resubscriptions),
            ("refills", "Times that a channel's history was read for what was missing", &recovery.refills),
            ("refilled_publications", "Missing publications that were found there", &recovery.refilled),
            ("gaps", "Times that a channel's subscribers were told that something is missing", &recovery.gaps),
        ] {
            counter(&mut to, name, help, count.get())?;
        }
        let servers = self.0.servers();
        let mut family = |name, help, value: fn(&Server) -> f64| -> Result<(), Error> {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for server in &servers {
                let value = ConstGauge::new(value(server));
                value.encode(family.encode_family(&[("server", &*server.server)])?)?;
            }
            Ok(())
        };
        family("redis_up", "Whether a server serves this node", |server| f64::from(u8::from(server.up)))?;
        family("redis_units", "Partitions that a server has; 1 outside of a Cluster", |server| server.units as f64)?;
        let help = "Channels that this node is subscribed to";
        family("redis_subscriptions", help, |server| server.subscriptions as f64)?;
        family("redis_channels", "Channels that any node is subscribed to", |server| server.channels as f64)?;
        let help = "How long a message takes to a server and back";
        family("redis_lag_seconds", help, |server| server.lag_us as f64 / 1e6)?;
        family("redis_memory_bytes", "Memory that a server uses", |server| server.memory as f64)?;
        let help = "Memory that a server may use; 0 = as much as there is";
        family("redis_memory_max_bytes", help, |server| server.memory_max as f64)?;
        let help = "How often a connection to a server was lost since this node started";
        let mut family = to.encode_descriptor("redis_lost", help, None, MetricType::Counter)?;
        for server in &servers {
            let value = ConstCounter::new(server.lost);
            value.encode(family.encode_family(&[("server", &*server.server)])?)?;
        }
        Ok(())
    }
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), Error> {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    ConstGauge::new(value).encode(to.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), Error> {
    ConstCounter::new(value).encode(to.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn by_reason(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, values: &[(&str, u64)]) -> Result<(), Error> {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (reason, value) in values {
        ConstCounter::new(*value).encode(family.encode_family(&[("reason", *reason)])?)?;
    }
    Ok(())
}
