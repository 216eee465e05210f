//! What becomes of publications when their log fails, and of readers when it is long.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_hub::{
    Broker, BrokerError, Cached, ChannelKey, History, HistoryRule, Idempotency, Keep, Mark, Post, Publication,
    Published, Since, StreamPosition,
};
use fanfare_jobs::log::{self, Ends, Fresh, SharedLog, Standing, Tip, Written};
use fanfare_jobs::{Log, LogEntry, LogError};
use fanfare_proto::channel::ChannelPattern;
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::filter::Filters;
use super::lines::{self, Form};
use super::reader::{Reader, Start};
use super::{Hose, Signal};
use crate::config::{Durability, FirehoseSettings, FirehoseToken, Secret};
use crate::queues::Clock;

/// A broker that knows repeats, and refuses what is called so.
#[derive(Default)]
struct Known {
    /// Each with the place of what was published first.
    words: Mutex<HashMap<Arc<str>, u64>>,
    last: AtomicU64,
}

#[async_trait]
impl Broker for Known {
    async fn publish(&self, _: &ChannelKey, publication: Publication, post: Post) -> Result<Published, BrokerError> {
        if *publication.event == *"\"refused\"" {
            return Err(BrokerError::Unavailable);
        }
        let next = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut words = self.words.lock().expect("nobody panicked");
        let offset = post.idempotency.map_or(next, |idempotency| *words.entry(idempotency.key).or_insert(next));
        let mark = Mark { position: StreamPosition { epoch: 1, offset }, stamp: offset, settled: 0 };
        Ok(Published { repeated: offset != next, mark: Some(mark), heard: false })
    }

    async fn subscribe(&self, _: &ChannelKey) -> Result<(), BrokerError> {
        unreachable!("nobody subscribes")
    }

    async fn unsubscribe(&self, _: &ChannelKey) -> Result<(), BrokerError> {
        unreachable!("nobody subscribes")
    }

    async fn history(&self, _: &ChannelKey, _: &Since, _: usize) -> Result<History, BrokerError> {
        unreachable!("nobody asks")
    }

    async fn clear(&self, _: &ChannelKey) -> Result<Mark, BrokerError> {
        unreachable!("nobody asks")
    }

    async fn cached(&self, _: &ChannelKey) -> Result<Option<Cached>, BrokerError> {
        unreachable!("nobody asks")
    }

    async fn close(&self) {}
}

/// A log whose disk is as it is told to be.
struct Tried {
    disk: watch::Receiver<Disk>,
    written: Arc<Mutex<Vec<String>>>,
    /// What was written is known by, in a log that is shared.
    names: Option<Arc<Mutex<Vec<Arc<str>>>>>,
    wakes: watch::Sender<Tip>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Well,
    Stalled,
    Broken,
}

#[async_trait]
impl Log for Tried {
    async fn append(&self, entries: Vec<Fresh>, _: u64) -> Result<Written, LogError> {
        if let Some(names) = &self.names {
            let named = entries.iter().filter_map(|entry| Some(entry.name.as_ref()?.text.clone()));
            names.lock().expect("nobody panicked").extend(named);
        }
        let (mut disk, written) = (self.disk.clone(), self.written.clone());
        Ok(Box::pin(async move {
            let disk = *disk.wait_for(|disk| *disk != Disk::Stalled).await.expect("the test goes on");
            if disk == Disk::Broken {
                return Err(LogError::Unavailable("broken".into()));
            }
            let event = |entry: &Fresh| {
                let entry: serde_json::Value = serde_json::from_slice(&entry.data).expect("JSON");
                entry["event"].as_str().expect("a text").to_owned()
            };
            written.lock().expect("nobody panicked").extend(entries.iter().map(event));
            Ok(entries.len() as u64)
        }))
    }

    /// It takes a while, and never comes to an end.
    async fn read(&self, from: Tip, _: usize) -> Result<Vec<LogEntry>, LogError> {
        sleep(Duration::from_millis(100)).await;
        let data = lines::entry("room", &Publication::event("\"said\"", "\"data\""));
        Ok(vec![LogEntry { number: from.next, time_ms: 0, data }])
    }

    async fn ends(&self) -> Result<Ends, LogError> {
        unreachable!("nobody reads")
    }

    async fn mark(&self, _: &str) -> Result<Option<u64>, LogError> {
        unreachable!("nobody reads")
    }

    async fn set_mark(&self, _: &str, _: u64, _: u64) -> Result<u64, LogError> {
        unreachable!("nobody reads")
    }

    async fn trim(&self, _: u64) -> Result<(), LogError> {
        Ok(())
    }

    fn set_keep(&self, _: log::Keep) {}

    fn wakes(&self) -> watch::Receiver<Tip> {
        self.wakes.subscribe()
    }

    fn shared(&self) -> Option<&dyn SharedLog> {
        self.names.as_ref().map(|_| self as &dyn SharedLog)
    }
}

#[async_trait]
impl SharedLog for Tried {
    async fn take_seat(&self, _: &str) -> Result<u64, LogError> {
        unreachable!("nobody reads")
    }

    async fn keep_seat(&self, _: &str, _: u64) -> Result<(), LogError> {
        unreachable!("nobody reads")
    }

    async fn standings(&self, _: &[Box<str>]) -> Result<Vec<Option<Standing>>, LogError> {
        unreachable!("nobody reads")
    }

    fn moves(&self) -> watch::Receiver<()> {
        unreachable!("nobody reads")
    }
}

/// A firehose, and all that it stands between.
#[derive(Clone)]
struct Bench {
    hose: Arc<Hose>,
    broker: Arc<Known>,
    disk: Arc<watch::Sender<Disk>>,
    written: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(None)
    }

    fn with(names: Option<Arc<Mutex<Vec<Arc<str>>>>>) -> Bench {
        let (disk, is) = watch::channel(Disk::Well);
        let written = Arc::<Mutex<Vec<String>>>::default();
        let log = Tried { disk: is, written: written.clone(), names, wakes: watch::Sender::default() };
        let hose = Arc::new(Hose::new("1".into(), Arc::new(log), Clock::start()));
        Bench { hose, broker: Arc::default(), disk: Arc::new(disk), written }
    }

    fn disk_is(&self, disk: Disk) {
        self.disk.send_replace(disk);
    }

    /// Publishes these events, each with its key, if it has one. Answers of each whether it was repeated.
    async fn publish(&self, events: &[(&str, Option<&str>)]) -> Result<Vec<bool>, BrokerError> {
        let post = |(event, key): &(&str, Option<&str>)| {
            let window = Duration::from_secs(60);
            let idempotency = key.map(|key| Idempotency { key: key.into(), window });
            let post = Post { keep: Keep::history(HistoryRule::default()), idempotency };
            (Publication::event(format!("\"{event}\""), "\"data\""), post)
        };
        let key = ChannelKey::new("1", "room");
        let published = self.hose.publish(&*self.broker, &key, events.iter().map(post).collect()).await?;
        Ok(published.iter().map(|one| one.repeated).collect())
    }

    fn written(&self) -> Vec<String> {
        self.written.lock().expect("nobody panicked").clone()
    }
}

#[tokio::test]
async fn a_repeat_adds_what_is_missing_once() {
    let bench = Bench::new();
    bench.disk_is(Disk::Broken);
    for repeated in 0..2 {
        assert_eq!(bench.publish(&[("a", Some("k"))]).await, Err(BrokerError::Unrecorded), "{repeated}");
    }
    assert_eq!(bench.publish(&[("b", None)]).await, Err(BrokerError::Unrecorded));
    bench.disk_is(Disk::Well);
    for _ in 0..3 {
        assert_eq!(bench.publish(&[("a", Some("k"))]).await, Ok(vec![true]));
        assert_eq!(bench.written(), ["a"]);
    }
    // Without a key it is another one.
    assert_eq!(bench.publish(&[("b", None)]).await, Ok(vec![false]));
    assert_eq!(bench.written(), ["a", "b"]);
    let counts = bench.hose.tally.read();
    assert_eq!((counts.offered, counts.failed, counts.appended, counts.appending), (5, 3, 2, 0));
}

#[tokio::test]
async fn a_repeat_is_answered_when_the_first_is_written() {
    let bench = Bench::new();
    let publish = || {
        let bench = bench.clone();
        tokio::spawn(async move { bench.publish(&[("a", Some("k"))]).await })
    };
    bench.disk_is(Disk::Stalled);
    let (first, repeat) = (publish(), publish());
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!first.is_finished() && !repeat.is_finished());
    bench.disk_is(Disk::Broken);
    for told in [first, repeat] {
        assert_eq!(told.await.expect("it ends"), Err(BrokerError::Unrecorded));
    }
    bench.disk_is(Disk::Stalled);
    let (again, repeat) = (publish(), publish());
    for _ in 0..100 {
        yield_now().await;
    }
    assert!(!again.is_finished() && !repeat.is_finished());
    bench.disk_is(Disk::Well);
    for told in [again, repeat] {
        assert_eq!(told.await.expect("it ends"), Ok(vec![true]));
    }
    assert_eq!(bench.written(), ["a"]);
}

#[tokio::test]
async fn what_was_refused_leaves_no_doubt_about_another() {
    let bench = Bench::new();
    let batch = [("a", Some("k")), ("refused", None), ("never", None)];
    for _ in 0..2 {
        assert_eq!(bench.publish(&batch).await, Err(BrokerError::Unavailable));
        assert_eq!(bench.written(), ["a"]);
    }
}

#[tokio::test]
async fn one_batch_may_say_the_same_twice() {
    let bench = Bench::new();
    let batch = [("a", Some("k")), ("a", Some("k"))];
    bench.disk_is(Disk::Broken);
    assert_eq!(bench.publish(&batch).await, Err(BrokerError::Unrecorded));
    bench.disk_is(Disk::Well);
    assert_eq!(bench.publish(&batch).await, Ok(vec![true, true]));
    assert_eq!(bench.written(), ["a"]);
}

/// The broker may have forgotten a key that the log still knows: then it is of another publication.
#[tokio::test]
async fn a_shared_log_knows_publications_and_not_only_their_keys() {
    let names = Arc::<Mutex<Vec<_>>>::default();
    let bench = Bench::with(Some(names.clone()));
    for repeated in [false, true, false] {
        if !repeated {
            bench.broker.words.lock().expect("nobody panicked").clear();
        }
        assert_eq!(bench.publish(&[("a", Some("k"))]).await, Ok(vec![repeated]));
    }
    let names = names.lock().expect("nobody panicked");
    let [first, repeat, other] = &names[..] else { panic!("expected three, got {names:?}") };
    assert!(first == repeat && first != other, "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_for_whom_there_is_nothing_for_long_hears_how_far_it_is() {
    let hose = Bench::new().hose;
    let token = FirehoseToken {
        name: "all".into(),
        token: Secret::new("token-of-all-that-is"),
        channels: vec![ChannelPattern::parse("never", 200).expect("a pattern")],
        events: Vec::new(),
        filter: None,
        messages_per_s: 0,
        connections_max: 1,
    };
    let keep = log::Keep { age_ms: 1000, bytes: 1000 };
    let ack_timeout = Duration::from_secs(60);
    hose.go_by(&FirehoseSettings { durability: Durability::Memory, keep, ack_timeout, tokens: vec![token] });
    let bearer = hose.bearer("token-of-all-that-is").expect("it is known");
    let (out, mut chunks) = mpsc::channel(2);
    let start = Start { epoch: 1, next: 1, recovered: None, missed: None };
    let reader = Reader {
        connection: bearer.connect(None).expect("a place"),
        filters: Filters([bearer.filter.clone(), Arc::default()]),
        form: Form::Lines,
        epoch: 1,
        next: 1,
        shown: 0,
        seat: None,
        unacked: VecDeque::new(),
        unacked_max: 1,
        silent_since: Instant::now(),
        pace: None,
        heartbeat: Duration::from_secs(1),
        spoken_at: Instant::now(),
        buffer: Vec::new(),
        out,
        hose,
    };
    let (_signals, signals) = watch::channel(Signal::default());
    tokio::spawn(reader.run(start, signals));
    for event in ["fanfare:subscribed", "fanfare:cursor", "fanfare:cursor"] {
        let line = tokio::time::timeout(Duration::from_secs(5), chunks.recv()).await;
        let line = line.expect("it is told in time").expect("the reader lives");
        let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(line["event"], event);
    }
}
