//! Publishers: each channel's publications are numbered, one after the other, by one publisher who asks again, with the same
//! idempotency key and any node, until one of them says that it was published.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::dice::Dice;
use crate::support::{KEY, PATIENCE, Response, SECRET};

/// How long a publisher waits for an answer before it asks another node.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Microseconds since this test first asked. Each publication says when it was sent.
pub fn now_us() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed().as_micros() as u64
}

/// The publishers.
pub struct Press {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    nodes: Vec<SocketAddr>,
    /// Names publications apart from those of another test on the same Redis.
    seed: u64,
    done: AtomicBool,
    /// Bytes that follow a publication's number.
    padding: AtomicUsize,
    /// The newest publication of each channel that was accepted.
    newest: Mutex<BTreeMap<String, u64>>,
    published: AtomicU64,
    repeated: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    /// Answers that a publisher is not to meet: neither success nor 503 with `Retry-After`.
    wrong: Mutex<Vec<String>>,
}

/// What became of one attempt.
enum Outcome {
    Published,
    Refused,
    Unanswered,
}

impl Press {
    /// Begins to publish on each channel, `per_second` in all.
    pub fn start(nodes: &[SocketAddr], channels: &[String], per_second: f64, seed: u64) -> Press {
        let shared = Arc::new(Shared {
            nodes: nodes.to_vec(),
            seed,
            done: AtomicBool::new(false),
            padding: AtomicUsize::new(40),
            newest: Mutex::new(channels.iter().map(|channel| (channel.clone(), 0)).collect()),
            published: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            wrong: Mutex::default(),
        });
        let mut dice = Dice::new(seed);
        let pace = Duration::from_secs_f64(channels.len() as f64 / per_second);
        let publish = |channel: &String| {
            let (shared, channel, dice) = (shared.clone(), channel.clone(), dice.split());
            thread::spawn(move || shared.publish_all(&channel, pace, dice))
        };
        let threads = channels.iter().map(publish).collect();
        Press { shared, threads }
    }

    /// Makes publications as large as this, from now on.
    pub fn pad(&self, bytes: usize) {
        self.shared.padding.store(bytes, Ordering::Relaxed);
    }

    /// Ends, behind a last publication of each channel, which is accepted if it takes a while. Returns the newest of each.
    pub fn finish(&mut self) -> BTreeMap<String, u64> {
        self.shared.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a publisher does not panic");
        }
        self.newest()
    }

    /// The newest publication of each channel so far.
    pub fn newest(&self) -> BTreeMap<String, u64> {
        self.shared.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publications that were accepted.
    pub fn published(&self) -> u64 {
        self.shared.published.load(Ordering::Relaxed)
    }

    /// Attempts that were refused with 503.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Attempts whose outcome the publisher does not know.
    pub fn unanswered(&self) -> u64 {
        self.shared.unanswered.load(Ordering::Relaxed)
    }

    /// Answers that said so: published before.
    pub fn repeated(&self) -> u64 {
        self.shared.repeated.load(Ordering::Relaxed)
    }

    /// Answers that no publisher should have met.
    pub fn wrong(&self) -> Vec<String> {
        self.shared.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Press {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn publish_all(&self, channel: &str, pace: Duration, mut dice: Dice) {
        let mut next = Instant::now() + pace.mul_f64(dice.share());
        for number in 1.. {
            let (last, begun) = (self.done.load(Ordering::Relaxed), Instant::now());
            while let Outcome::Refused | Outcome::Unanswered = self.publish(channel, number, *dice.of(&self.nodes)) {
                thread::sleep(PAUSE_MAX.mul_f64(dice.share()));
                if self.done.load(Ordering::Relaxed) && begun.elapsed() > PATIENCE {
                    return self.complain(format!("{channel}: {number} was never accepted"));
                }
            }
            self.newest.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.to_owned(), number);
            if last {
                return;
            }
            // After an outage the pace goes on, rather than making up for it.
            next = (next + pace).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn publish(&self, channel: &str, number: u64, node: SocketAddr) -> Outcome {
        let padding = "x".repeat(self.padding.load(Ordering::Relaxed));
        let (seed, data) = (self.seed, format!("{number} {} {padding}", now_us()));
        let request = format!(
            "POST /pub/{KEY}/{channel} HTTP/1.1\r\nHost: fanfare.test\r\nConnection: close\r\nEvent-Type: n\r\n\
             Authorization: Bearer {SECRET}\r\nIdempotency-Key: {seed}-{channel}-{number}\r\n\
             Content-Length: {}\r\n\r\n{data}",
            data.len()
        );
        let (outcome, counter) = match ask(node, &request) {
            Ok(answer) if matches!(answer.status, 200..=202) => {
                self.repeated.fetch_add(u64::from(answer.status == 200), Ordering::Relaxed);
                (Outcome::Published, &self.published)
            }
            // A balancer's words for a node that did not answer.
            Ok(answer) if matches!(answer.status, 502 | 504) => (Outcome::Unanswered, &self.unanswered),
            Ok(answer) => {
                if answer.status != 503 || answer.header("retry-after").is_none() {
                    self.complain(format!("{answer:?}"));
                }
                (Outcome::Refused, &self.refused)
            }
            Err(_) => (Outcome::Unanswered, &self.unanswered),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    fn complain(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// A request on a connection of its own, whose failure is one of the things that may happen.
pub fn ask(addr: SocketAddr, request: &str) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let cut_off = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(cut_off)?;
    let mut answer = Response::head(&bytes[..head + 4]);
    answer.body = String::from_utf8_lossy(&bytes[head + 4..]).into_owned();
    Ok(answer)
}
