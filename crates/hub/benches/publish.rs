//! What the hub takes for a publication that nobody listens to: CPU time of the one thread that does all of it, whoever else wants
//! the core.
//!
//! `cargo bench -p fanfare-hub --bench publish [ROUNDS]`. A batch is ten publications to ten of a thousand channels, as the
//! HTTP API hands them over once they have been read, and as a pipeline's sink does; making them is measured apart and taken
//! off. A history keeps a hundred; a key is known for two minutes, and by then there are as many as an app may have.
//!
//! Beside it, a reference that does the least that keeping a text can take: a look into a map behind a lock, the text's place
//! in a queue, and the oldest goes.

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare_hub::broker::{HistoryRule, Idempotency, Keep, Post};
use fanfare_hub::hub::Routes;
use fanfare_hub::memory::{MemoryBroker, MemoryPresence};
use fanfare_hub::publication::PusherForms;
use fanfare_hub::{ChannelKey, Hub, Publication};

const CHANNELS: usize = 1_000;
const BATCH: usize = 10;
/// Of a round: more than all keys that are remembered.
const PUBLICATIONS: usize = 200_000;
const KEPT: usize = 100;
const DATA: &str =
    r#""I quite agree, and it is what I have been saying all along, though it isn't all that new, as you will see.""#;

fn main() {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(9);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let channels: Vec<_> = (0..CHANNELS).map(|n| ChannelKey::new("1", &format!("forum.{n}"))).collect();
        println!("{:<24} {:>6.2} µs each", "reference", reference(&channels, rounds).await);
        for (name, history, keyed) in
            [("plain", 0, false), ("key", 0, true), ("history", KEPT, false), ("history and key", KEPT, true)]
        {
            let us = publish(&channels, rounds, history, keyed).await;
            println!("{name:<24} {us:>6.2} µs each");
        }
    });
}

/// Microseconds that this thread has had of a core.
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts this");
    let ns: f64 = stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first number is nanoseconds");
    ns / 1e3
}

/// Microseconds for each publication: the median of some rounds, after one that warms up. `act` is given the number of the first
/// of a batch.
async fn median(rounds: usize, mut act: impl AsyncFnMut(usize)) -> f64 {
    let mut took = Vec::new();
    for round in 0..=rounds {
        let began = cpu_us();
        for n in 0..PUBLICATIONS / BATCH {
            act(round * PUBLICATIONS + n * BATCH).await;
        }
        took.push((cpu_us() - began) / PUBLICATIONS as f64);
    }
    took.remove(0);
    took.sort_by(f64::total_cmp);
    took[rounds / 2]
}

async fn reference(channels: &[ChannelKey], rounds: usize) -> f64 {
    let kept: Mutex<HashMap<ChannelKey, VecDeque<Arc<str>>>> = Mutex::default();
    median(rounds, async |first| {
        for n in first..first + BATCH {
            let mut kept = kept.lock().expect("nobody fails");
            let channel = kept.entry(channels[n % CHANNELS].clone()).or_default();
            channel.push_back(DATA.into());
            if channel.len() > KEPT {
                channel.pop_front();
            }
        }
    })
    .await
}

async fn publish(channels: &[ChannelKey], rounds: usize, history: usize, keyed: bool) -> f64 {
    let routes = Arc::new(Routes::new(Vec::new(), Arc::new(PusherForms { deflate_bytes_min: 256 })));
    let broker = MemoryBroker::start(routes.clone(), 1);
    let hub = Hub::start(routes, Arc::new(broker), Arc::new(MemoryPresence::default()));
    let post = |n: usize| {
        let rule = HistoryRule { messages: history, ..HistoryRule::default() };
        let idempotency =
            keyed.then(|| Idempotency { key: format!("comments:{n}").into(), window: Duration::from_secs(120) });
        let keep = if history > 0 { Keep { history: Some(rule), newest: None } } else { Keep::TRANSIENT };
        (
            Publication { time_ms: 1_795_000_000_000, ..Publication::event("\"create\"", DATA) },
            Post { keep, idempotency },
        )
    };
    let making = median(rounds, async |first| {
        for n in first..first + BATCH {
            black_box(vec![post(n)]);
        }
    });
    let making = making.await;
    let both = median(rounds, async |first| {
        for n in first..first + BATCH {
            hub.publish_all(&channels[n % CHANNELS], vec![post(n)]).await.expect("it is published");
        }
    });
    both.await - making
}
