//! Publishing over connections that are kept: some lanes, each with one request under way at a time.
//!
//! Always true:
//! - what is published to one channel goes through one lane, so that its order stays;
//! - everything that was handed in is counted once when the lanes have ended: published, refused, or unknown;
//! - a lane holds [`WAITING_MAX`] messages at most, and whoever has more waits.
//!
//! Not here: when something is to be published (`replay`).

use super::access::Access;
use super::request::Request;
use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::RETRY_AFTER;
use hyper::{Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use serde::Serialize;
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, timeout};

/// Messages that wait in a lane.
const WAITING_MAX: usize = 64;
/// What a server takes in one batch unless it is configured otherwise.
const BATCH_MAX: usize = 10;
/// Bytes of data in one batch: less than a server takes by default, whatever JSON makes of them.
const BATCH_BYTES_MAX: usize = 128 << 10;
/// A server that has not answered by then will not.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often a message is offered to a server that is too busy, or to one that cannot be connected to.
const TRIES_MAX: u32 = 20;
const RETRY_DEFAULT: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// Something to publish.
#[derive(Debug, Serialize)]
pub struct Publication {
    /// The event.
    pub name: String,
    /// Where.
    pub channel: String,
    /// What.
    pub data: String,
    /// When it should leave.
    #[serde(skip)]
    pub due: Instant,
}

/// What became of everything.
#[derive(Debug)]
pub struct Tally {
    /// The server has them.
    pub published: u64,
    /// The server said no, or was not there.
    pub refused: u64,
    /// The connection broke before there was an answer: the server may have them.
    pub unknown: u64,
    /// What was said to the first that was not published.
    pub first_refusal: Option<String>,
    /// By how many microseconds they left late.
    pub late_us: Histogram<u64>,
}

impl Tally {
    fn new() -> Tally {
        let late_us = Histogram::new(3).expect("three digits are a precision");
        Tally { published: 0, refused: 0, unknown: 0, first_refusal: None, late_us }
    }

    fn count(&mut self, n: u64, outcome: Outcome) {
        let why = match outcome {
            Outcome::Published => return self.published += n,
            Outcome::Refused(status, said) => {
                self.refused += n;
                format!("{status}: {said}")
            }
            Outcome::Unsent(why) => {
                self.refused += n;
                why
            }
            Outcome::Unknown(why) => {
                self.unknown += n;
                why
            }
        };
        self.first_refusal.get_or_insert(why);
    }
}

/// The lanes. They live in the [`LocalSet`] that they were opened in.
pub struct Lanes {
    to: Vec<mpsc::Sender<Publication>>,
    sent: u64,
    lanes: JoinSet<()>,
    tally: Rc<RefCell<Tally>>,
}

impl Lanes {
    /// Opens so many; the first connection has to succeed.
    pub async fn open(set: &LocalSet, access: Rc<Access>, n: usize, bar: &ProgressBar) -> anyhow::Result<Lanes> {
        drop(connect(&access).await?);
        let tally = Rc::new(RefCell::new(Tally::new()));
        let mut lanes = Lanes { to: Vec::new(), sent: 0, lanes: JoinSet::new(), tally };
        for _ in 0..n {
            let (to, waiting) = mpsc::channel(WAITING_MAX);
            let tally = lanes.tally.clone();
            let lane = Lane { access: access.clone(), connection: None, tally, bar: bar.clone() };
            lanes.to.push(to);
            lanes.lanes.spawn_local_on(lane.run(waiting), set);
        }
        Ok(lanes)
    }

    /// Hands a publication to its channel's lane. Given up, it was not handed in.
    pub async fn publish(&mut self, publication: Publication) {
        let mut hasher = DefaultHasher::new();
        publication.channel.hash(&mut hasher);
        let lane = hasher.finish() % self.to.len() as u64;
        let lane = &self.to[usize::try_from(lane).expect("the remainder of a length")];
        let room = lane.reserve().await.expect("a lane ends when this end of it does");
        self.sent += 1;
        room.send(publication);
    }

    /// How many were handed in.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Waits until everything has an answer, or until that is given up.
    pub async fn end(self, given_up: impl Future<Output = ()>) -> Tally {
        drop(self.to);
        tokio::select! {
            _ = self.lanes.join_all() => {}
            () = given_up => {}
        }
        let mut tally = self.tally.replace(Tally::new());
        let rest = self.sent - tally.published - tally.refused - tally.unknown;
        if rest > 0 {
            tally.count(rest, Outcome::Unknown("interrupted before there was an answer".to_owned()));
        }
        tally
    }
}

type Connection = SendRequest<Full<Bytes>>;

/// Connects; what the connection has to do is done beside.
async fn connect(access: &Access) -> anyhow::Result<Connection> {
    let server = &access.server.authority;
    let stream = TcpStream::connect(server).await.with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What it has to say of its end, the answer that does not come says too.
    tokio::spawn(connection);
    Ok(sender)
}

/// What an attempt to publish came to.
enum Outcome {
    Published,
    /// All of what was sent.
    Refused(StatusCode, String),
    /// There was no connection.
    Unsent(String),
    Unknown(String),
}

struct Lane {
    access: Rc<Access>,
    connection: Option<Connection>,
    tally: Rc<RefCell<Tally>>,
    bar: ProgressBar,
}

impl Lane {
    async fn run(mut self, mut waiting: mpsc::Receiver<Publication>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while let Some(first) = waiting.recv().await {
            let mut bytes = first.data.len();
            batch.push(first);
            while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                let Ok(more) = waiting.try_recv() else { break };
                bytes += more.data.len();
                batch.push(more);
            }
            self.note_lateness(&batch);
            self.publish(&batch).await;
            self.bar.inc(batch.len() as u64);
            batch.clear();
        }
    }

    fn note_lateness(&self, batch: &[Publication]) {
        let now = Instant::now();
        let late_us = &mut self.tally.borrow_mut().late_us;
        for publication in batch {
            let late = now.saturating_duration_since(publication.due);
            // Not `saturating_record`, which does not let it grow.
            let recorded = late_us.record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
            recorded.expect("it grows by itself");
        }
    }

    /// Publishes them in order. A batch is refused as a whole, so its parts are then offered one by one.
    async fn publish(&mut self, batch: &[Publication]) {
        match self.offer(batch).await {
            Outcome::Refused(status, _) if batch.len() > 1 && status.is_client_error() => {
                for one in batch {
                    let outcome = self.offer(std::slice::from_ref(one)).await;
                    self.tally.borrow_mut().count(1, outcome);
                }
            }
            outcome => self.tally.borrow_mut().count(batch.len() as u64, outcome),
        }
    }

    /// One request, repeated while the server asks for that.
    async fn offer(&mut self, batch: &[Publication]) -> Outcome {
        let mut tries = 1;
        loop {
            let (outcome, retry) = self.ask(batch).await;
            match retry {
                Some(pause) if tries < TRIES_MAX => sleep(pause).await,
                _ => return outcome,
            }
            tries += 1;
        }
    }

    /// The outcome, and after what time another one is likely.
    async fn ask(&mut self, batch: &[Publication]) -> (Outcome, Option<Duration>) {
        let connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => match connect(&self.access).await {
                Ok(connection) => connection,
                Err(error) => return (Outcome::Unsent(format!("{error:#}")), Some(RETRY_DEFAULT)),
            },
        };
        match timeout(ANSWER_WITHIN, self.exchange(connection, batch)).await {
            Ok(Ok((StatusCode::OK, ..))) => (Outcome::Published, None),
            Ok(Ok((status, retry, said))) => (Outcome::Refused(status, said), retry),
            Ok(Err(error)) => (Outcome::Unknown(format!("{error:#}")), None),
            Err(_) => (Outcome::Unknown(format!("no answer within {} s", ANSWER_WITHIN.as_secs())), None),
        }
    }

    async fn exchange(
        &mut self,
        mut connection: Connection,
        batch: &[Publication],
    ) -> anyhow::Result<(StatusCode, Option<Duration>, String)> {
        let request = match batch {
            [one] => Request::post("/events", serde_json::to_string(one)?),
            _ => Request::post("/batch_events", serde_json::json!({ "batch": batch }).to_string()),
        };
        connection.ready().await?;
        let response = connection.send_request(request.signed_now(&self.access)?).await?;
        let (status, retry) = (response.status(), retry_after(&response));
        let body = response.into_body().collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok((status, retry, String::from_utf8_lossy(&body).trim().to_owned()))
    }
}

/// After what time a server that is too busy wants to be asked again.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Some(seconds.map_or(RETRY_DEFAULT, Duration::from_secs).min(RETRY_LONGEST))
}
