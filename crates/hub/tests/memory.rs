//! The memory broker against a naive model that keeps everything that was ever published: under random actions, what
//! it calls recovered is exactly what was missed, and it calls nothing else so. Then what only this broker promises.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_hub::memory::{BadSnapshot, MemoryBroker, Snapshot};
use fanfare_hub::{
    Broker, BrokerEvents, ChannelKey, Delivery, History, HistoryRule, Idempotency, Keep, Mark, Post, Publication,
    Published, Since, StreamPosition,
};
use fanfare_proto::cursor::{Cursor, Place};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tokio::time::{Instant, sleep};

/// The first epoch of the tests' first life; each crash begins a later one.
const EPOCH: u64 = 1 << 40;

const WINDOW: Duration = Duration::from_secs(30);

const KEPT: HistoryRule =
    HistoryRule { messages: 50, bytes: 1 << 20, ttl: Duration::from_secs(100), app_bytes_max: 64 << 20 };

fn rules() -> [Keep; 6] {
    [
        Keep::history(KEPT),
        Keep::history(HistoryRule { messages: 3, ..KEPT }),
        Keep::history(HistoryRule { bytes: 40, ..KEPT }),
        Keep::history(HistoryRule { ttl: Duration::from_secs(9), ..KEPT }),
        Keep::newest(Duration::from_secs(20)),
        Keep::TRANSIENT,
    ]
}

fn key(channel: usize) -> ChannelKey {
    ChannelKey::new(["1", "1", "2"][channel], ["a", "b", "a"][channel])
}

fn event(id: u32) -> Publication {
    Publication::event("\"e\"", format!("\"{id}\""))
}

fn id(publication: &Publication) -> u32 {
    publication.data.trim_matches('"').parse().expect("data is a number in quotes")
}

/// Holds what is delivered until it is told that it has been shown.
#[derive(Default)]
struct Slow(Mutex<Vec<Delivery>>);

#[async_trait]
impl BrokerEvents for Slow {
    async fn publication(&self, _key: &ChannelKey, delivery: Delivery) {
        self.0.lock().unwrap().push(delivery);
    }

    async fn gap(&self, _key: &ChannelKey, _now: Mark) {
        unreachable!("memory loses nothing");
    }
}

#[derive(Clone, Debug)]
enum Action {
    Publish { channel: usize, rule: usize, word: Option<u8> },
    Subscribe { channel: usize, on: bool },
    Show { index: usize },
    Clear { channel: usize },
    Look { channel: usize },
    Ask { channel: usize, cursor: usize, second: Option<usize> },
    Sleep { s: u64 },
    Restart,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    let any_index = 0..1000usize;
    prop_oneof![
        12 => (0..3usize, prop_oneof![6 => Just(0usize), 4 => 0..6usize], proptest::option::weighted(0.2, 0..3u8))
            .prop_map(|(channel, rule, word)| Action::Publish { channel, rule, word }),
        3 => (0..3usize, any::<bool>()).prop_map(|(channel, on)| Action::Subscribe { channel, on }),
        6 => any_index.clone().prop_map(|index| Action::Show { index }),
        1 => (0..3usize).prop_map(|channel| Action::Clear { channel }),
        3 => (0..3usize).prop_map(|channel| Action::Look { channel }),
        12 => (0..3usize, any_index.clone(), proptest::option::weighted(0.3, any_index))
            .prop_map(|(channel, cursor, second)| Action::Ask { channel, cursor, second }),
        3 => prop_oneof![4 => 1..12u64, 1 => 12..130u64, 1 => Just(700u64)].prop_map(|s| Action::Sleep { s }),
        1 => Just(Action::Restart),
        1 => Just(Action::Crash),
    ]
}

/// A publication that was stored once.
#[derive(Clone, Copy, Debug)]
struct Item {
    id: u32,
    mark: Mark,
    bytes: usize,
    expires_at: Instant,
}

/// Everything that a channel ever stored.
#[derive(Default)]
struct Log {
    items: Vec<Item>,
    /// The first that is still kept; all after it are.
    kept: usize,
    epoch: Option<u64>,
    /// Where it stood when it was cleared last.
    ended: Option<StreamPosition>,
}

impl Log {
    fn expire(&mut self, now: Instant) {
        while self.items.get(self.kept).is_some_and(|item| item.expires_at <= now) {
            self.kept += 1;
        }
    }

    fn push(&mut self, item: Item, keep: &Keep, now: Instant) {
        self.epoch = Some(item.mark.position.epoch);
        self.items.push(item);
        let Some(rule) = keep.history else {
            self.kept = self.items.len();
            return;
        };
        self.expire(now);
        let bytes = |items: &[Item]| items.iter().map(|item| item.bytes).sum::<usize>();
        while self.items.len() - self.kept > rule.messages || bytes(&self.items[self.kept..]) > rule.bytes {
            self.kept += 1;
        }
    }

    /// What the holder of a cursor has missed, and whether all of that is kept.
    fn missed(&self, key: &ChannelKey, cursor: &Cursor) -> (Vec<u32>, bool) {
        let in_epoch = |item: &Item, epoch| item.mark.position.epoch == epoch;
        let own = |item: &Item, place: &Place| in_epoch(item, place.epoch) && item.mark.position.offset > place.offset;
        let is_new: Box<dyn Fn(&Item) -> bool> = match cursor.place(key.hash()) {
            Some(place) if Some(place.epoch) == self.epoch => Box::new(move |item| own(item, &place)),
            // The end of the epoch before: everything since was missed, and nothing of before. Or a channel that had been
            // forgotten was looked at, whose place is that of one that never was: then it is the stamp that tells.
            Some(place) if self.ended == Some(StreamPosition { epoch: place.epoch, offset: place.offset }) => {
                let settled = cursor.settled();
                Box::new(move |item| item.mark.position.epoch > place.epoch && item.mark.stamp > settled)
            }
            _ => Box::new(|item| item.mark.stamp > cursor.settled()),
        };
        let missed = (0..self.items.len()).filter(|index| is_new(&self.items[*index]));
        let missed: Vec<usize> = missed.collect();
        let all_kept = missed.first().is_none_or(|first| *first >= self.kept);
        (missed.into_iter().map(|index| self.items[index].id).collect(), all_kept)
    }

    fn clear(&mut self, epoch: u64) {
        self.kept = self.items.len();
        self.ended = self.epoch.map(|epoch| {
            let last = self.items.last().map(|item| item.mark.position).filter(|last| last.epoch == epoch);
            last.unwrap_or(StreamPosition { epoch, offset: 0 })
        });
        self.epoch = Some(epoch);
    }
}

struct World {
    broker: MemoryBroker,
    shown: Arc<Slow>,
    logs: [Log; 3],
    words: Vec<(usize, u8, Published, Instant)>,
    /// Every cursor that anybody could have, and the life it is of.
    cursors: Vec<(Mark, usize, u32)>,
    life: u32,
    ids: u32,
    stamp: u64,
    /// Streams may have been forgotten: then a true "recovered" is still exact, and a false one may be caution.
    forgetful: bool,
    began: Instant,
}

impl World {
    fn new() -> World {
        let shown = Arc::<Slow>::default();
        World {
            broker: MemoryBroker::start(shown.clone(), EPOCH),
            shown,
            logs: Default::default(),
            words: Vec::new(),
            cursors: Vec::new(),
            life: 0,
            ids: 0,
            stamp: 0,
            forgetful: false,
            began: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        1_800_000_000_000 + self.began.elapsed().as_millis() as u64
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Publish { channel, rule, word } => self.publish(channel, &rules()[rule], word).await,
            Action::Subscribe { channel, on: true } => self.broker.subscribe(&key(channel)).await.unwrap(),
            Action::Subscribe { channel, on: false } => self.broker.unsubscribe(&key(channel)).await.unwrap(),
            Action::Show { index } => {
                let mut shown = self.shown.0.lock().unwrap();
                if let Some(index) = index.checked_rem(shown.len()) {
                    shown.swap_remove(index);
                }
            }
            Action::Clear { channel } => {
                let mark = self.broker.clear(&key(channel)).await.unwrap();
                self.logs[channel].clear(mark.position.epoch);
                self.cursors.push((mark, channel, self.life));
            }
            Action::Look { channel } => self.look(channel).await,
            Action::Ask { channel, cursor, second } => self.ask(channel, cursor, second).await,
            Action::Sleep { s } => {
                self.forgetful |= s > 600;
                sleep(Duration::from_secs(s)).await;
            }
            Action::Restart => {
                self.shown.0.lock().unwrap().clear();
                let mut file = Vec::new();
                self.broker.save().await.write(&mut file, self.now_ms()).unwrap();
                let snapshot = Snapshot::read(&file, self.now_ms()).unwrap();
                self.broker = MemoryBroker::resume(self.shown.clone(), EPOCH + u64::from(self.life), snapshot);
            }
            Action::Crash => self.crash(),
        }
    }

    async fn publish(&mut self, channel: usize, keep: &Keep, word: Option<u8>) {
        self.ids += 1;
        let now = Instant::now();
        let idempotency = word.map(|word| Idempotency { key: word.to_string().into(), window: WINDOW });
        let publication = event(self.ids);
        let bytes = publication.event.len() + publication.data.len();
        let post = Post { keep: *keep, idempotency };
        let published = self.broker.publish(&key(channel), publication, post).await.unwrap();
        self.words.retain(|(_, _, _, expires_at)| *expires_at > now);
        let first = self.words.iter().find(|(of, known, ..)| Some(*known) == word && *of == channel);
        if let Some((_, _, first, _)) = first {
            assert_eq!((published.mark, published.repeated), (first.mark, true));
            return;
        }
        assert!(!published.repeated);
        self.words.extend(word.map(|word| (channel, word, published, now + WINDOW)));
        assert_eq!(published.mark.is_some(), !keep.is_transient());
        if let Some(mark) = published.mark {
            self.stored(channel, mark, bytes, keep, now);
        }
    }

    fn stored(&mut self, channel: usize, mark: Mark, bytes: usize, keep: &Keep, now: Instant) {
        assert!(mark.stamp > self.stamp, "stamps rise");
        self.stamp = mark.stamp;
        for delivery in self.shown.0.lock().unwrap().iter() {
            assert!(delivery.mark.is_none_or(|shown| mark.settled < shown.stamp), "it is still being shown");
        }
        let last = self.logs[channel].items.last().map(|item| item.mark.position);
        let same_epoch = last.filter(|last| last.epoch == mark.position.epoch);
        assert_eq!(mark.position.offset, same_epoch.map_or(1, |last| last.offset + 1));
        let expires_at = now + keep.history.map_or(Duration::ZERO, |rule| rule.ttl);
        self.logs[channel].push(Item { id: self.ids, mark, bytes, expires_at }, keep, now);
        self.cursors.push((mark, channel, self.life));
    }

    async fn look(&mut self, channel: usize) {
        let history = self.history(channel, Since::Last(u32::MAX)).await;
        let log = &mut self.logs[channel];
        log.expire(Instant::now());
        let kept: Vec<u32> = log.items[log.kept..].iter().map(|item| item.id).collect();
        assert_eq!(ids(&history), kept);
        if history.now.position.offset == 0 && history.now.position.epoch > log.epoch.unwrap_or(0) {
            // Whoever is subscribed is given a place even where nothing was published.
            log.epoch = Some(history.now.position.epoch);
        }
        self.cursors.push((history.now, channel, self.life));
    }

    async fn ask(&mut self, channel: usize, cursor: usize, second: Option<usize>) {
        let Some(index) = cursor.checked_rem(self.cursors.len()) else { return };
        let (mark, of, life) = self.cursors[index];
        let mut cursor = mark.cursor(&key(of));
        let mut known = life == self.life;
        // A cursor of two channels of an app, as a poller gets it.
        if let Some((other, also, life)) = second.map(|second| self.cursors[second % self.cursors.len()])
            && key(also).app() == key(of).app()
        {
            let settled = mark.settled.min(other.settled);
            cursor = Cursor::of([mark.place(&key(of)), other.place(&key(also))], settled);
            known &= life == self.life || cursor.places().len() == 1;
        }
        self.logs[channel].expire(Instant::now());
        let (missed, all_kept) = self.logs[channel].missed(&key(channel), &cursor);
        let history = self.history(channel, Since::Cursor(cursor.clone())).await;
        if history.recovered {
            assert!(known, "{cursor:?} is of another life");
            assert_eq!(ids(&history), missed, "{cursor:?}");
        } else {
            assert!(history.publications.is_empty());
            assert!(!known || !all_kept || self.forgetful, "{missed:?} since {cursor:?} are all there");
        }
    }

    async fn history(&self, channel: usize, since: Since) -> History {
        self.broker.history(&key(channel), &since, usize::MAX).await.unwrap()
    }

    fn crash(&mut self) {
        self.life += 1;
        self.shown.0.lock().unwrap().clear();
        self.broker = MemoryBroker::start(self.shown.clone(), EPOCH + u64::from(self.life) * (1 << 20));
        (self.logs, self.stamp, self.forgetful) = (Default::default(), 0, false);
        self.words.clear();
    }
}

fn ids(history: &History) -> Vec<u32> {
    history.publications.iter().map(|stored| id(&stored.publication)).collect()
}

/// Checked in: a few seconds. `PROPTEST_CASES=50000` has been run by hand.
const CASES: u32 = 200;

fn config() -> ProptestConfig {
    let file = FileFailurePersistence::WithSource("regressions");
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_called_recovered_is_what_was_missed(actions in vec(action(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for action in actions {
                world.act(action).await;
            }
        });
    }
}

// What only this broker promises.

fn start() -> MemoryBroker {
    // Deliveries are dropped at once: there is nobody who would be shown them.
    struct Nobody;

    #[async_trait]
    impl BrokerEvents for Nobody {
        async fn publication(&self, _key: &ChannelKey, _delivery: Delivery) {}

        async fn gap(&self, _key: &ChannelKey, _now: Mark) {
            unreachable!("memory loses nothing");
        }
    }
    MemoryBroker::start(Arc::new(Nobody), EPOCH)
}

async fn keep(broker: &MemoryBroker, channel: &ChannelKey, id: u32, rule: HistoryRule) -> Mark {
    let published = broker.publish(channel, event(id), Keep::history(rule).into()).await.unwrap();
    published.mark.expect("what is kept has a mark")
}

async fn missed(broker: &MemoryBroker, channel: &ChannelKey, cursor: Cursor) -> Option<Vec<u32>> {
    let history = broker.history(channel, &Since::Cursor(cursor), usize::MAX).await.unwrap();
    history.recovered.then(|| ids(&history))
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn in_a_quiet_channel_with_a_subscriber_nothing_was_missed_however_long() {
    let broker = start();
    let room = key(0);
    broker.subscribe(&room).await.unwrap();
    let last = keep(&broker, &room, 1, KEPT).await;
    sleep(HOUR).await;
    assert_eq!(missed(&broker, &room, last.cursor(&room)).await, Some(vec![]));
    broker.unsubscribe(&room).await.unwrap();
    sleep(Duration::from_secs(580)).await;
    assert_eq!(missed(&broker, &room, last.cursor(&room)).await, Some(vec![]), "the last one may come back");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(missed(&broker, &room, last.cursor(&room)).await, None, "forgotten");
    keep(&broker, &room, 2, KEPT).await;
    assert_eq!(missed(&broker, &room, last.cursor(&room)).await, None, "and it stays so");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_hours_for_the_first_publication_has_missed_nothing() {
    let broker = start();
    let (room, other) = (key(0), key(1));
    broker.subscribe(&room).await.unwrap();
    let waiting = broker.history(&room, &Since::Now, 0).await.unwrap().now;
    // All others are published to and forgotten.
    for channel in 0..100 {
        keep(&broker, &ChannelKey::new("1", &format!("room-{channel}")), 1, KEPT).await;
    }
    sleep(HOUR).await;
    broker.unsubscribe(&room).await.unwrap();
    sleep(Duration::from_secs(300)).await;
    assert_eq!(missed(&broker, &room, waiting.cursor(&room)).await, Some(vec![]));
    assert_eq!(missed(&broker, &other, waiting.cursor(&room)).await, None, "of that nobody kept account");
    keep(&broker, &room, 1, KEPT).await;
    assert_eq!(missed(&broker, &room, waiting.cursor(&room)).await, Some(vec![1]));
}

#[tokio::test(start_paused = true)]
async fn who_came_after_what_was_forgotten_missed_nothing_of_it() {
    let broker = start();
    let (room, other) = (key(0), key(1));
    keep(&broker, &room, 1, KEPT).await;
    let later = broker.history(&other, &Since::Now, 0).await.unwrap().now;
    sleep(HOUR).await;
    assert_eq!(missed(&broker, &room, later.cursor(&other)).await, Some(vec![]));
    keep(&broker, &room, 2, KEPT).await;
    assert_eq!(missed(&broker, &room, later.cursor(&other)).await, Some(vec![2]));
}

#[tokio::test(start_paused = true)]
async fn an_apps_budget_is_for_all_its_channels_together() {
    let broker = start();
    let rule = HistoryRule { app_bytes_max: 64 << 10, ..KEPT };
    let rooms: Vec<ChannelKey> = (0..400).map(|room| ChannelKey::new("1", &format!("room-{room}"))).collect();
    for round in 0..5 {
        for room in &rooms {
            keep(&broker, room, round, rule).await;
        }
    }
    let mut messages = 0;
    for room in &rooms {
        messages += broker.history(room, &Since::Now, 0).await.unwrap().held.messages;
    }
    // Each counts for its bytes and what surrounds them.
    assert!((100..256).contains(&messages), "{messages} publications of at least 256 bytes in 64 KiB");
    sleep(KEPT.ttl).await;
    let newest = keep(&broker, &rooms[0], 9, rule).await;
    for room in &rooms[1..100] {
        keep(&broker, room, 9, rule).await;
    }
    let held = broker.history(&rooms[0], &Since::Now, 0).await.unwrap();
    assert_eq!((held.held.messages, held.now.position), (1, newest.position), "what expired is given back");
}

/// A broker that knows something of everything.
async fn busy() -> (MemoryBroker, Vec<(ChannelKey, Mark)>) {
    let broker = start();
    let mut marks = Vec::new();
    for round in 0..20 {
        let room = key(round as usize % 3);
        let event = Publication {
            user_id: Some("\"ann\"".into()),
            event_id: Some("an id".into()),
            content_type: Some("text/plain".into()),
            time_ms: u64::from(round),
            ..event(round)
        };
        let idempotency = Some(Idempotency { key: round.to_string().into(), window: WINDOW });
        let keep = Keep { history: Some(KEPT), newest: Some(HOUR) };
        let published = broker.publish(&room, event, Post { keep, idempotency }).await.unwrap();
        marks.push((room, published.mark.unwrap()));
    }
    broker.clear(&key(2)).await.unwrap();
    (broker, marks)
}

async fn file(broker: &MemoryBroker) -> Vec<u8> {
    let mut file = Vec::new();
    broker.save().await.write(&mut file, 1_000_000).unwrap();
    file
}

/// Reads a snapshot as if the server had been away for so long.
fn resumed(file: &[u8], away: Duration) -> MemoryBroker {
    let snapshot = Snapshot::read(file, 1_000_000 + away.as_millis() as u64).unwrap();
    MemoryBroker::resume(Arc::new(Slow::default()), EPOCH + (1 << 20), snapshot)
}

/// All that can be asked of a broker about these channels.
async fn everything(broker: &MemoryBroker, marks: &[(ChannelKey, Mark)]) -> Vec<String> {
    let mut answers = Vec::new();
    for channel in 0..3 {
        let now = broker.history(&key(channel), &Since::Last(99), usize::MAX).await.unwrap();
        answers.push(format!("{now:?} {:?}", broker.cached(&key(channel)).await.unwrap()));
        for (room, mark) in marks {
            answers.push(format!("{:?}", missed(broker, &key(channel), mark.cursor(room)).await));
        }
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn a_resumed_broker_answers_as_the_saved_one_did() {
    let (broker, marks) = busy().await;
    let before = everything(&broker, &marks).await;
    let broker = resumed(&file(&broker).await, Duration::ZERO);
    assert_eq!(everything(&broker, &marks).await, before);
    let word = |word: &str| Some(Idempotency { key: word.into(), window: WINDOW });
    let repeat = Post { keep: Keep::history(KEPT), idempotency: word("4") };
    let repeat = broker.publish(&key(1), event(99), repeat).await.unwrap();
    assert_eq!((repeat.mark, repeat.repeated), (Some(marks[4].1), true));
    let next = keep(&broker, &key(1), 100, KEPT).await;
    assert!(next.stamp > marks[19].1.stamp && next.position.epoch == marks[1].1.position.epoch);
    assert_eq!(next.position.offset, marks[19].1.position.offset + 1);
}

#[tokio::test(start_paused = true)]
async fn time_goes_on_while_the_server_is_away() {
    let (broker, marks) = busy().await;
    let file = file(&broker).await;
    let (room, last) = &marks[19];
    let broker = resumed(&file, KEPT.ttl - Duration::from_secs(1));
    assert!(missed(&broker, room, marks[1].1.cursor(room)).await.is_some());
    let word = Some(Idempotency { key: "4".into(), window: WINDOW });
    let post = Post { keep: Keep::TRANSIENT, idempotency: word };
    assert!(!broker.publish(&key(1), event(99), post).await.unwrap().repeated, "its window has ended");
    let broker = resumed(&file, KEPT.ttl);
    assert_eq!(missed(&broker, room, marks[1].1.cursor(room)).await, None);
    assert_eq!(missed(&broker, room, last.cursor(room)).await, Some(vec![]));
    assert!(broker.cached(room).await.unwrap().is_some());
    assert!(resumed(&file, HOUR).cached(room).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_not_as_it_was_written_is_refused() {
    let (broker, _) = busy().await;
    let file = file(&broker).await;
    let read = |file: &[u8]| Snapshot::read(file, 0).map(|snapshot| snapshot.channels());
    assert_eq!(read(&file), Ok(3));
    for at in 0..file.len() {
        let refused = if at < 16 { BadSnapshot::Foreign } else { BadSnapshot::Damaged };
        assert_eq!(read(&file[..at]), Err(refused), "cut at {at}");
        let mut damaged = file.clone();
        damaged[at] ^= 0x40;
        assert_eq!(read(&damaged), Err(refused), "damaged at {at}");
    }
    assert_eq!(read(&[&file[..], b"\0"].concat()), Err(BadSnapshot::Damaged));
}

#[tokio::test(start_paused = true)]
async fn a_saved_broker_is_closed() {
    let (broker, _) = busy().await;
    broker.save().await;
    assert!(broker.publish(&key(0), event(1), Keep::history(KEPT).into()).await.is_err());
    assert!(broker.history(&key(0), &Since::Now, 0).await.is_err());
}

/// Shows deliveries on a thread of its own, in another order, and notes the stamps of those that it has shown.
struct Screen {
    shown: Vec<AtomicBool>,
    deliveries: Mutex<mpsc::Sender<Delivery>>,
}

impl Screen {
    fn start(publications: usize) -> Arc<Screen> {
        let (sender, deliveries) = mpsc::channel::<Delivery>();
        let shown = std::iter::repeat_with(AtomicBool::default).take(publications + 1).collect();
        let screen = Arc::new(Screen { shown, deliveries: Mutex::new(sender) });
        let (weak, mut waiting) = (Arc::downgrade(&screen), Vec::new());
        std::thread::spawn(move || {
            while let Ok(delivery) = deliveries.recv() {
                waiting.push(delivery);
                if waiting.len() < 8 {
                    continue;
                }
                let Some(screen) = weak.upgrade() else { return };
                for delivery in waiting.drain(..6).rev() {
                    screen.show(delivery);
                }
            }
        });
        screen
    }

    fn show(&self, delivery: Delivery) {
        let stamp = delivery.mark.expect("it is kept").stamp;
        self.shown[stamp as usize].store(true, Ordering::SeqCst);
        drop(delivery);
    }
}

#[async_trait]
impl BrokerEvents for Screen {
    async fn publication(&self, _key: &ChannelKey, delivery: Delivery) {
        // The thread ends with the test.
        let _ = self.deliveries.lock().unwrap().send(delivery);
    }

    async fn gap(&self, _key: &ChannelKey, _now: Mark) {
        unreachable!("memory loses nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_settled_has_been_shown_whoever_publishes_meanwhile() {
    const EACH: usize = 5000;
    let screen = Screen::start(4 * EACH);
    let broker = MemoryBroker::start(screen.clone(), EPOCH);
    let publishers = (0..4).map(|publisher| {
        let (broker, screen) = (broker.clone(), screen.clone());
        tokio::spawn(async move {
            let room = ChannelKey::new("1", &format!("room-{publisher}"));
            broker.subscribe(&room).await.unwrap();
            let mut seen = 0;
            for _ in 0..EACH {
                let mark = keep(&broker, &room, 1, KEPT).await;
                for stamp in seen + 1..=mark.settled {
                    assert!(screen.shown[stamp as usize].load(Ordering::SeqCst), "{stamp} is settled in {mark:?}");
                }
                seen = seen.max(mark.settled);
            }
            seen
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        assert!(publisher.await.unwrap() > 0, "something was settled");
    }
}
