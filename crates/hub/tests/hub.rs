//! What a hub promises, with the in-memory broker and presence store and real mailboxes: no part of it is a stand-in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_hub::hub::{Requests, Routes, user_channel, watch_channel};
use fanfare_hub::mail::{Bell, Entrance, Inbox, MAILBOX_LETTERS_MAX, mailbox};
use fanfare_hub::memory::{MemoryBroker, MemoryPresence};
use fanfare_hub::presence::{Counts, PresenceStore};
use fanfare_hub::publication::{Form, PusherForms};
use fanfare_hub::shard::{ConnKey, Traits};
use fanfare_hub::{
    Begin, Broker, BrokerError, BrokerEvents, Cached, ChannelKey, Frames, History, HistoryRule, Hub, Keep, Kind, Mail,
    Mark, Member, Post as Posting, Publication, Published, Request, Shard, Since, StoreError,
};
use fanfare_proto::socket_id::SocketId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

mod support;

use support::{Mood, PLAIN, Tap, note};

/// Longer than any answer takes when time is paused: it passes only when nothing else can happen.
const PATIENCE: Duration = Duration::from_secs(60);

const MEMBERS_MAX: u32 = 2;

/// The memory broker behind a door that can be shut, and a list of who came through it.
struct Door {
    broker: MemoryBroker,
    shut: AtomicBool,
    log: Mutex<Vec<String>>,
}

impl Door {
    fn pass(&self, verb: &str, key: &ChannelKey) -> Result<(), BrokerError> {
        if self.shut.load(Ordering::Relaxed) {
            return Err(BrokerError::Unavailable);
        }
        self.log.lock().unwrap().push(format!("{verb} {}", key.as_str()));
        Ok(())
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

#[async_trait]
impl Broker for Door {
    async fn subscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.pass("subscribe", key)?;
        self.broker.subscribe(key).await
    }

    async fn unsubscribe(&self, key: &ChannelKey) -> Result<(), BrokerError> {
        self.pass("unsubscribe", key)?;
        self.broker.unsubscribe(key).await
    }

    async fn publish(
        &self,
        key: &ChannelKey,
        publication: Publication,
        post: Posting,
    ) -> Result<Published, BrokerError> {
        self.broker.publish(key, publication, post).await
    }

    async fn history(&self, key: &ChannelKey, since: &Since, limit: usize) -> Result<History, BrokerError> {
        self.pass("history", key)?;
        self.broker.history(key, since, limit).await
    }

    async fn clear(&self, key: &ChannelKey) -> Result<Mark, BrokerError> {
        self.broker.clear(key).await
    }

    async fn cached(&self, key: &ChannelKey) -> Result<Option<Cached>, BrokerError> {
        if self.shut.load(Ordering::Relaxed) {
            return Err(BrokerError::Unavailable);
        }
        self.broker.cached(key).await
    }

    async fn close(&self) {
        self.broker.close().await;
    }
}

/// The box of one loop, and what wakes that loop.
struct Post {
    inbox: Inbox<Mail>,
    woken: Arc<Notify>,
}

impl Post {
    async fn next(&mut self) -> Mail {
        loop {
            self.inbox.bell().hush();
            if let Some(letter) = self.inbox.take() {
                return letter;
            }
            timeout(PATIENCE, self.woken.notified()).await.expect("a letter comes");
        }
    }

    async fn opened(&mut self) -> ChannelKey {
        match self.next().await {
            Mail::Opened(key) => key,
            other => panic!("expected Opened, got {other:?}"),
        }
    }

    async fn refused(&mut self) -> ChannelKey {
        match self.next().await {
            Mail::Refused(key) => key,
            other => panic!("expected Refused, got {other:?}"),
        }
    }

    async fn publication(&mut self) -> Arc<Frames> {
        match self.next().await {
            Mail::Publication(frames) => frames,
            other => panic!("expected Publication, got {other:?}"),
        }
    }

    async fn text(&mut self) -> String {
        let frames = self.publication().await;
        String::from_utf8(frames.publication().text(frames.key().name())).unwrap()
    }

    async fn entered(&mut self) -> Result<Entrance, StoreError> {
        match self.next().await {
            Mail::Entered { outcome, .. } => outcome,
            other => panic!("expected Entered, got {other:?}"),
        }
    }

    async fn said(&mut self) -> Vec<String> {
        match self.next().await {
            Mail::Say { texts, .. } => texts.into_iter().map(|text| String::from_utf8(text).unwrap()).collect(),
            other => panic!("expected Say, got {other:?}"),
        }
    }

    fn is_empty(&mut self) -> bool {
        self.inbox.take().is_none()
    }
}

struct Node {
    hub: Hub,
    requests: Requests,
    routes: Arc<Routes>,
    door: Arc<Door>,
    presence: Arc<MemoryPresence>,
}

impl Node {
    fn ask(&self, request: Request) {
        assert!(self.requests.try_send(request).is_ok(), "there is room");
    }

    fn members(&self, key: &ChannelKey, from: usize, n: u32) {
        self.ask(Request::Members { key: key.clone(), from, n, announce: false });
    }

    fn announced(&self, key: &ChannelKey, n: u32) {
        self.ask(Request::Members { key: key.clone(), from: 0, n, announce: true });
    }

    fn enter(&self, from: usize, b: u64, user: &str) {
        let member = Some((Member { user_id: user.to_owned(), user_info: None }, MEMBERS_MAX));
        let (key, conn, socket) = (room(), ConnKey::from_bits(b), socket(b));
        self.ask(Request::Enter { key, from, conn, token: 1, socket, member, cached: false, begin: None });
    }

    fn leave(&self, b: u64) {
        self.ask(Request::Leave { key: room(), socket: socket(b), may_return: false });
    }

    fn sign_in(&self, b: u64, user: &str, watchlist: &[&str]) {
        let (key, conn, socket) = (user_channel("1", user), ConnKey::from_bits(b), socket(b));
        let watchlist = watchlist.iter().map(|&user| user.to_owned()).collect();
        let welcome = vec![b"welcome".to_vec()];
        self.ask(Request::SignedIn { key, from: 0, conn, socket, user: user.to_owned(), watchlist, welcome });
    }

    fn sign_out(&self, b: u64, user: &str) {
        self.ask(Request::SignedOut { key: user_channel("1", user), socket: socket(b), user: user.to_owned() });
    }

    async fn publish(&self, key: &ChannelKey, data: &str) {
        let publication = Publication::event("\"e\"", format!("\"{data}\""));
        self.hub.publish(key, publication, Posting::TRANSIENT).await.unwrap();
    }

    /// Everything that was asked before has been served, and its letters lie in the boxes.
    async fn settled(&self) {
        self.hub.channels("1", "").await.unwrap();
    }

    async fn counts(&self, key: &ChannelKey) -> Counts {
        self.hub.counts(key).await.unwrap()
    }
}

/// A node with this many loops.
fn start<const LOOPS: usize>() -> (Node, [Post; LOOPS]) {
    start_with(MAILBOX_LETTERS_MAX)
}

fn start_with<const LOOPS: usize>(letters_max: usize) -> (Node, [Post; LOOPS]) {
    let mut mailboxes = Vec::new();
    let posts = std::array::from_fn(|_| {
        let woken = Arc::new(Notify::new());
        let wake = woken.clone();
        let (sender, inbox) = mailbox(letters_max, Bell::new(Arc::new(move || wake.notify_one())));
        mailboxes.push(sender);
        Post { inbox, woken }
    });
    let routes = Arc::new(Routes::new(mailboxes, Arc::new(PusherForms { deflate_bytes_min: 1024 })));
    let (shut, log) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let door = Arc::new(Door { broker: MemoryBroker::start(routes.clone(), 1), shut, log });
    let presence = Arc::new(MemoryPresence::default());
    let hub = Hub::start(routes.clone(), door.clone(), presence.clone());
    (Node { requests: hub.requests(), hub, routes, door, presence }, posts)
}

fn room() -> ChannelKey {
    ChannelKey::new("1", "presence-room")
}

fn socket(b: u64) -> SocketId {
    SocketId { a: support::SALT, b }
}

// Gates and routes.

#[tokio::test(start_paused = true)]
async fn the_first_subscriber_opens_the_gate_for_its_loop() {
    let (node, [mut one, mut two]) = start();
    node.members(&room(), 0, 1);
    assert_eq!(one.opened().await, room());
    assert!(two.is_empty());
    node.members(&room(), 1, 1);
    assert_eq!(two.opened().await, room());
    node.members(&room(), 0, 2);
    node.settled().await;
    assert!(one.is_empty(), "the second subscriber of a loop finds it open");
    assert_eq!(node.door.log(), ["subscribe 1/presence-room"]);
}

#[tokio::test(start_paused = true)]
async fn a_publication_is_one_letter_to_each_loop_with_a_subscriber() {
    let (node, [mut one, mut two, mut three]) = start();
    node.publish(&room(), "nobody is here").await;
    node.members(&room(), 0, 7);
    node.members(&room(), 2, 1);
    one.opened().await;
    three.opened().await;
    node.publish(&room(), "hello").await;
    let (first, third) = (one.publication().await, three.publication().await);
    assert!(Arc::ptr_eq(&first, &third), "encoded once for all loops");
    assert!(one.is_empty() && two.is_empty() && three.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_broker_is_left_a_second_after_the_last_subscriber() {
    let (node, [mut one]) = start();
    node.members(&room(), 0, 1);
    one.opened().await;
    node.members(&room(), 0, 0);
    node.settled().await;
    sleep(Duration::from_millis(900)).await;
    assert_eq!(node.door.log(), ["subscribe 1/presence-room"]);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(node.door.log(), ["subscribe 1/presence-room", "unsubscribe 1/presence-room"]);
    node.publish(&room(), "nobody is here").await;
    assert!(one.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_within_the_second_keeps_the_channel_open() {
    let (node, [mut one]) = start();
    for _ in 0..5 {
        node.members(&room(), 0, 1);
        assert_eq!(one.opened().await, room());
        node.members(&room(), 0, 0);
        node.settled().await;
        sleep(Duration::from_millis(800)).await;
    }
    node.members(&room(), 0, 1);
    one.opened().await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(node.door.log(), ["subscribe 1/presence-room"]);
    node.publish(&room(), "still here").await;
    one.publication().await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_left_and_came_back_misses_nothing_while_its_request_waits() {
    let (node, [mut one]) = start();
    let mut shard: Shard<Tap> = Shard::new(support::SALT, 1 << 20);
    let tap = Tap::new(Mood::Open);
    let conn = shard.open(tap.clone(), 0, Form::TEXT);
    shard.subscribe(conn, room().as_str(), PLAIN, false);
    node.members(&room(), 0, 1);
    let opened = one.opened().await;
    // The letter of the first opening finds the second subscription.
    shard.unsubscribe(conn, room().as_str());
    shard.subscribe(conn, room().as_str(), PLAIN, false);
    shard.opened(&opened, |_| note("welcome"));
    node.members(&room(), 0, 0);
    node.settled().await;
    node.publish(&room(), "7:").await;
    node.members(&room(), 0, 1);
    shard.publish(one.publication().await);
    support::settle(&mut shard);
    assert_eq!(tap.heard(), ["welcome", "presence-room 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_refuses_leaves_nothing_behind() {
    let (node, [mut one]) = start();
    node.door.shut.store(true, Ordering::Relaxed);
    node.members(&room(), 0, 1);
    assert_eq!(one.refused().await, room());
    assert_eq!(node.counts(&room()).await, Counts::default());
    node.publish(&room(), "nobody is here").await;
    assert!(one.is_empty());
    // What the loop says once it has put its subscribers off.
    node.members(&room(), 0, 0);
    node.door.shut.store(false, Ordering::Relaxed);
    node.members(&room(), 0, 1);
    assert_eq!(one.opened().await, room(), "the next one may find the broker well");
    assert_eq!(node.counts(&room()).await.subscribers, 1);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_was_away_for_a_moment_is_asked_again() {
    let (node, [mut one, mut two]) = start();
    node.door.shut.store(true, Ordering::Relaxed);
    node.members(&room(), 0, 1);
    node.enter(0, 1, "ann");
    node.enter(0, 2, "bob");
    node.members(&room(), 1, 1);
    // He did not wait.
    node.leave(2);
    sleep(Duration::from_secs(5)).await;
    assert!(one.is_empty() && two.is_empty());
    assert_eq!(node.hub.members(&room()).await, Ok(vec![]), "nobody is let in before the channel is open");
    node.door.shut.store(false, Ordering::Relaxed);
    assert_eq!((one.opened().await, two.opened().await), (room(), room()));
    assert!(one.publication().await.publication().event.contains("member_added"));
    assert!(one.entered().await.is_ok());
    sleep(Duration::from_secs(20)).await;
    assert!(one.is_empty(), "told once");
    assert_eq!(node.hub.members(&room()).await.unwrap().len(), 1);
    assert_eq!(node.counts(&room()).await.subscribers, 2);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_not_waited_for_any_more_is_not_opened() {
    let (node, [mut one]) = start();
    node.door.shut.store(true, Ordering::Relaxed);
    node.members(&room(), 0, 1);
    node.members(&room(), 0, 0);
    node.settled().await;
    node.door.shut.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(20)).await;
    assert!(one.is_empty() && node.door.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_gap_reaches_the_loops_that_hold_the_channel_in_its_place() {
    let (node, [mut one, mut two]) = start();
    node.members(&room(), 0, 1);
    one.opened().await;
    let now = node.keep(&room(), 1).await;
    node.routes.gap(&room(), now).await;
    node.keep(&room(), 2).await;
    assert_eq!(number(&one.publication().await), 1);
    let gap = one.publication().await;
    assert_eq!((gap.is_gap(), gap.mark()), (true, Some(now)));
    assert_eq!(number(&one.publication().await), 2);
    assert!(two.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_makes_the_publisher_wait_and_loses_nothing() {
    let (node, [mut one]) = start_with(4);
    node.members(&room(), 0, 1);
    one.opened().await;
    let publisher = tokio::spawn(async move {
        for n in 0..100 {
            node.publish(&room(), &n.to_string()).await;
        }
        node
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!publisher.is_finished(), "it waits for the loop");
    for n in 0..100 {
        assert!(one.text().await.ends_with(&format!(r#""data":"{n}"}}"#)));
    }
    assert!(publisher.await.is_ok() && one.is_empty());
}

#[tokio::test(start_paused = true)]
async fn close_delivers_what_was_accepted_and_refuses_the_rest() {
    let (node, [mut one]) = start();
    node.members(&room(), 0, 1);
    let publication = Box::new(Publication::event("\"client-e\"", "\"last\""));
    node.ask(Request::Publish { key: room(), from: 0, conn: ConnKey::from_bits(1), publication });
    node.hub.close().await;
    one.opened().await;
    assert!(one.text().await.contains("last"));
    let refused = node.hub.publish(&room(), Publication::event("\"e\"", "\"late\""), Posting::TRANSIENT).await;
    assert_eq!(refused, Err(BrokerError::Unavailable));
}

// Presence and cache.

#[tokio::test(start_paused = true)]
async fn who_enters_gets_the_roster_and_only_the_others_are_told() {
    let (node, [mut one, mut two]) = start();
    node.members(&room(), 0, 1);
    node.enter(0, 1, "ann");
    node.members(&room(), 1, 1);
    node.enter(1, 2, "bob");
    one.opened().await;
    let own = one.publication().await;
    assert_eq!(own.publication().except, Some(socket(1)), "her own socket is not told of her");
    let (roster, version) = one.entered().await.unwrap().roster.unwrap();
    assert_eq!(roster, r#"{"presence":{"ids":["ann"],"hash":{"ann":null},"count":1}}"#);
    assert_eq!(own.publication().kind, Kind::Presence { version });

    two.opened().await;
    let (told, own) = (one.publication().await, two.publication().await);
    assert!(Arc::ptr_eq(&told, &own));
    assert_eq!(own.publication().except, Some(socket(2)));
    let text = told.publication().text("presence-room");
    let expected = r#"{"event":"pusher_internal:member_added","channel":"presence-room","data":"{\"user_id\":\"bob\",\"user_info\":null}"}"#;
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    let (roster, later) = two.entered().await.unwrap().roster.unwrap();
    assert_eq!(roster, r#"{"presence":{"ids":["ann","bob"],"hash":{"ann":null,"bob":null},"count":2}}"#);
    assert!(later > version);
}

#[tokio::test(start_paused = true)]
async fn a_user_with_two_sockets_comes_once_and_goes_once() {
    let (node, [mut one]) = start();
    node.members(&room(), 0, 1);
    one.opened().await;
    node.enter(0, 1, "ann");
    assert!(one.text().await.contains("member_added"));
    one.entered().await.unwrap();
    node.enter(0, 2, "ann");
    one.entered().await.unwrap();
    node.leave(1);
    node.settled().await;
    assert!(one.is_empty(), "she is still here");
    assert_eq!(node.counts(&room()).await, Counts { subscribers: 1, users: 1 });
    node.leave(2);
    let expected =
        r#"{"event":"pusher_internal:member_removed","channel":"presence-room","data":"{\"user_id\":\"ann\"}"}"#;
    assert_eq!(one.text().await, expected);
    node.leave(2);
    node.settled().await;
    assert!(one.is_empty());
    assert_eq!(node.hub.members(&room()).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_full_presence_channel_is_said_to_be_full() {
    let (node, [mut one]) = start();
    ["ann", "bob", "cat"].iter().zip(1..).for_each(|(user, b)| node.enter(0, b, user));
    assert!(one.entered().await.is_ok() && one.entered().await.is_ok());
    assert_eq!(one.entered().await.unwrap_err(), StoreError::Full { members_max: MEMBERS_MAX });
    assert_eq!(node.hub.members(&room()).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_enters_a_cache_channel_gets_the_newest_event_or_a_miss() {
    let (node, [mut one]) = start();
    let key = ChannelKey::new("1", "cache-room");
    let enter = || Request::Enter {
        key: key.clone(),
        from: 0,
        conn: ConnKey::from_bits(1),
        token: 1,
        socket: socket(1),
        member: None,
        cached: true,
        begin: None,
    };
    node.ask(enter());
    assert!(matches!(one.entered().await.unwrap().cached, Some(None)), "a miss");
    let keep = Keep::newest(Duration::from_secs(5));
    let published = node.hub.publish(&key, Publication::event("\"e\"", "\"new\""), keep).await.unwrap();
    node.ask(enter());
    let cached = one.entered().await.unwrap().cached.unwrap().expect("the newest event");
    assert_eq!((&*cached.publication.data, Some(cached.mark)), ("\"new\"", published.mark));
    sleep(Duration::from_secs(6)).await;
    node.ask(enter());
    assert!(matches!(one.entered().await.unwrap().cached, Some(None)), "expired");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_shown_the_cached_event_is_no_member() {
    let (node, [mut one]) = start();
    node.door.shut.store(true, Ordering::Relaxed);
    let member = Some((Member { user_id: "ann".into(), user_info: None }, MEMBERS_MAX));
    let (conn, socket) = (ConnKey::from_bits(1), socket(1));
    node.ask(Request::Enter { key: room(), from: 0, conn, token: 1, socket, member, cached: true, begin: None });
    assert_eq!(one.entered().await.unwrap_err(), StoreError::Unavailable);
    assert_eq!(node.hub.members(&room()).await, Ok(vec![]));
}

// Recovery.

impl Node {
    fn enter_since(&self, key: &ChannelKey, begin: impl Into<Begin>) {
        let (key, conn, socket, begin) = (key.clone(), ConnKey::from_bits(1), socket(1), Some(begin.into()));
        self.ask(Request::Enter { key, from: 0, conn, token: 1, socket, member: None, cached: false, begin });
    }

    async fn keep(&self, key: &ChannelKey, data: u32) -> Mark {
        let keep = Keep::history(HistoryRule::default());
        let publication = Publication::event("\"e\"", format!("\"{data}\""));
        self.hub.publish(key, publication, keep).await.unwrap().mark.expect("it is kept")
    }
}

fn number(frames: &Arc<Frames>) -> u32 {
    frames.publication().data.trim_matches('"').parse().unwrap()
}

impl Post {
    /// Everything that a subscriber is shown until it has this one: what it missed, then what is newer than that.
    async fn shown_until(&mut self, last: u32) -> Vec<u32> {
        let (mut shown, mut held, mut now) = (Vec::new(), Vec::new(), None);
        while shown.last() != Some(&last) {
            match self.next().await {
                Mail::Opened(_) => {}
                Mail::Publication(frames) => held.push(frames),
                Mail::Entered { outcome, .. } => {
                    let replay = outcome.unwrap().replay.expect("it asked since when");
                    assert!(replay.recovered);
                    shown.extend(replay.frames.iter().map(number));
                    now = Some(replay.now.position);
                }
                other => panic!("expected what a subscriber is shown, got {other:?}"),
            }
            if let Some(now) = now {
                let newer = held.drain(..).filter(|frames| frames.position().unwrap().offset > now.offset);
                shown.extend(newer.map(|frames| number(&frames)));
            }
        }
        shown
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_published_between_the_steps_of_a_subscribe_is_shown_once() {
    let (node, [mut one]) = start();
    let key = ChannelKey::new("1", "room");
    let since = node.keep(&key, 0).await.cursor(&key);
    node.keep(&key, 1).await;
    node.members(&key, 0, 1);
    node.keep(&key, 2).await;
    assert_eq!(one.opened().await, key);
    node.keep(&key, 3).await;
    node.enter_since(&key, Since::Cursor(since));
    node.keep(&key, 4).await;
    node.settled().await;
    node.keep(&key, 5).await;
    assert_eq!(one.shown_until(5).await, [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscribe_in_the_middle_of_a_stream_misses_nothing() {
    let (node, [mut one]) = start();
    let node = Arc::new(node);
    for round in 0..200 {
        let key = ChannelKey::new("1", &format!("room-{round}"));
        let since = node.keep(&key, 0).await.cursor(&key);
        let (publisher, channel) = (node.clone(), key.clone());
        let publisher = tokio::spawn(async move {
            for data in 1..=60 {
                publisher.keep(&channel, data).await;
            }
        });
        (0..round % 40).for_each(|_| std::hint::spin_loop());
        node.members(&key, 0, 1);
        node.enter_since(&key, Since::Cursor(since));
        assert_eq!(one.shown_until(60).await, (1..=60).collect::<Vec<_>>());
        publisher.await.unwrap();
        node.members(&key, 0, 0);
        node.settled().await;
        while one.inbox.take().is_some() {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_says_nothing_any_more_may_fall_back_to_the_last_that_are_kept() {
    let (node, [mut one]) = start();
    let key = ChannelKey::new("1", "room");
    let since = node.keep(&key, 0).await.cursor(&key);
    node.keep(&key, 1).await;
    node.hub.clear(&key).await.unwrap();
    for data in 2..=4 {
        node.keep(&key, data).await;
    }
    node.members(&key, 0, 1);
    one.opened().await;
    for (or_last, replayed) in [(0, 0), (2, 2), (9, 3)] {
        node.enter_since(&key, Begin { since: Since::Cursor(since.clone()), or_last });
        let replay = one.entered().await.unwrap().replay.unwrap();
        assert_eq!((replay.recovered, replay.frames.len()), (false, replayed));
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_come_back_together_share_what_was_encoded() {
    let (node, [mut one]) = start();
    let key = ChannelKey::new("1", "room");
    let since = node.keep(&key, 0).await.cursor(&key);
    let second = node.keep(&key, 1).await.cursor(&key);
    node.keep(&key, 2).await;
    node.members(&key, 0, 1);
    one.opened().await;
    let mut replays = Vec::new();
    for cursor in [&since, &second, &since] {
        node.enter_since(&key, Since::Cursor(cursor.clone()));
        replays.push(one.entered().await.unwrap().replay.unwrap().frames);
    }
    assert_eq!(replays.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2]);
    assert!(Arc::ptr_eq(&replays[0][1], &replays[1][0]) && Arc::ptr_eq(&replays[0][0], &replays[2][0]));
    let kept = Arc::downgrade(&replays[0][1]);
    drop(replays);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(kept.strong_count(), 0, "what they shared goes when they have been served");
}

#[tokio::test(start_paused = true)]
async fn who_wants_only_what_comes_is_told_where_that_begins() {
    let (node, [mut one]) = start();
    let key = ChannelKey::new("1", "room");
    node.members(&key, 0, 1);
    one.opened().await;
    let mark = node.keep(&key, 1).await;
    one.publication().await;
    node.enter_since(&key, Since::Now);
    let replay = one.entered().await.unwrap().replay.unwrap();
    assert!(replay.frames.is_empty() && replay.recovered);
    assert_eq!(replay.now.position, mark.position);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_connection_ended_has_some_seconds_to_come_back() {
    let (node, [mut one]) = start();
    let lost = |b| node.ask(Request::Leave { key: room(), socket: socket(b), may_return: true });
    node.ask(Request::Members { key: room(), from: 0, n: 1, announce: false });
    one.opened().await;
    node.enter(0, 1, "ann");
    one.publication().await;
    one.entered().await.unwrap();
    lost(1);
    // Back with another connection: nobody hears of it, then or later.
    node.enter(0, 2, "ann");
    one.entered().await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(node.hub.members(&room()).await.map(|members| members.len()), Ok(1));
    lost(2);
    let text = one.text().await;
    assert!(text.contains("member_removed"), "{text}");
    assert_eq!(node.hub.members(&room()).await, Ok(vec![]));
}

// Counts.

#[tokio::test(start_paused = true)]
async fn a_node_that_is_about_to_end_lets_its_members_come_back_elsewhere() {
    let (node, [mut one]) = start();
    node.members(&room(), 0, 2);
    one.opened().await;
    for (b, user) in [(1, "ann"), (2, "bob")] {
        node.enter(0, b, user);
        one.publication().await;
        one.entered().await.expect("there is room");
    }
    node.hub.part();
    node.leave(1);
    node.leave(2);
    node.settled().await;
    // Another node lets her in again.
    let ann = Member { user_id: "ann".to_owned(), user_info: None };
    node.presence.join(&room(), socket(9), ann, MEMBERS_MAX).await.expect("she is in it already");
    let before = Instant::now();
    assert!(one.text().await.contains("bob"), "the only one of whom it is told that he left");
    assert_eq!(before.elapsed(), Duration::from_secs(5));
    node.settled().await;
    assert!(one.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_nobody_told_is_told_as_a_gap() {
    let (node, [mut one]) = start();
    node.hub.audit(Arc::default());
    node.members(&room(), 0, 1);
    one.opened().await;
    node.enter(0, 1, "ann");
    one.publication().await;
    one.entered().await.expect("there is room");
    let silent = timeout(Duration::from_secs(30), one.next()).await;
    assert!(silent.is_err(), "everything was told");
    let bob = Member { user_id: "bob".to_owned(), user_info: None };
    node.presence.join(&room(), socket(9), bob, MEMBERS_MAX).await.expect("there is room");
    assert!(one.publication().await.is_gap());
    let silent = timeout(Duration::from_secs(30), one.next()).await;
    assert!(silent.is_err(), "it is told once");
}

#[tokio::test(start_paused = true)]
async fn a_count_shows_everything_that_was_asked_before_it() {
    let (node, _posts) = start::<2>();
    for n in 1..=50 {
        node.members(&room(), 0, n);
        node.members(&room(), 1, n);
        assert_eq!(node.counts(&room()).await.subscribers, u64::from(2 * n));
    }
    node.members(&user_channel("1", "ann"), 0, 1);
    let expected = vec![("presence-room".to_owned(), Counts { subscribers: 100, users: 0 })];
    assert_eq!(node.hub.channels("1", "").await, Ok(expected), "users' own channels are nobody's business");
    assert_eq!(node.hub.channels("1", "private-").await, Ok(vec![]));
}

/// The counts that were told, and the seconds at which they were.
async fn told(post: &mut Post, began: Instant, until: Duration) -> Vec<(u64, u64)> {
    let mut told = Vec::new();
    while let Ok(frames) = timeout((began + until).saturating_duration_since(Instant::now()), post.publication()).await
    {
        let publication = frames.publication();
        assert_eq!(&*publication.event, "\"pusher_internal:subscription_count\"");
        let digits = publication.data.chars().filter(char::is_ascii_digit).collect::<String>();
        told.push((began.elapsed().as_secs(), digits.parse().unwrap()));
    }
    told
}

#[tokio::test(start_paused = true)]
async fn up_to_a_hundred_every_change_of_the_count_is_told() {
    let (node, [mut one]) = start();
    let began = Instant::now();
    (1..=100).for_each(|n| node.announced(&room(), n));
    one.opened().await;
    let counts = told(&mut one, began, Duration::from_secs(30)).await;
    assert_eq!(counts, (1..=100).map(|n| (0, n)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn above_a_hundred_the_count_is_told_every_five_seconds_and_the_last_one_is() {
    let (node, [mut one]) = start();
    let began = Instant::now();
    node.announced(&room(), 101);
    one.opened().await;
    (102..=150).for_each(|n| node.announced(&room(), n));
    assert_eq!(told(&mut one, began, Duration::from_secs(60)).await, [(0, 101), (5, 150)]);
}

#[tokio::test(start_paused = true)]
async fn a_count_that_wavers_about_a_hundred_is_not_told_more_often() {
    let (node, [mut one]) = start();
    let began = Instant::now();
    node.announced(&room(), 101);
    one.opened().await;
    let mut counts = Vec::new();
    for (second, n) in [(1, 102), (2, 100), (3, 103), (7, 104)] {
        counts.extend(told(&mut one, began, Duration::from_secs(second)).await);
        node.announced(&room(), n);
    }
    counts.extend(told(&mut one, began, Duration::from_secs(60)).await);
    assert_eq!(counts, [(0, 101), (2, 100), (7, 104)]);
}

#[tokio::test(start_paused = true)]
async fn a_channel_whose_rule_says_so_tells_its_subscribers_how_many_they_are() {
    let mut shard: Shard<Tap> = Shard::new(support::SALT, 1 << 20);
    let (node, [mut one]) = start();
    let conn = shard.open(Tap::new(Mood::Open), 0, Form::TEXT);
    shard.subscribe(conn, room().as_str(), Traits { announce: true, ..PLAIN }, false);
    for change in shard.take_changes() {
        node.ask(Request::Members { key: change.key, from: 0, n: change.n, announce: change.announce });
    }
    one.opened().await;
    assert!(one.text().await.contains("subscription_count"));
}

// Users.

#[tokio::test(start_paused = true)]
async fn terminate_reaches_every_loop_of_the_user() {
    let (node, [mut one, mut two]) = start();
    let key = user_channel("1", "ann");
    node.members(&key, 1, 1);
    two.opened().await;
    node.hub.terminate("1", "ann").await.unwrap();
    assert_eq!(two.publication().await.publication().kind, Kind::Terminate);
    assert!(one.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_watcher_is_told_who_is_online_and_then_of_every_change() {
    let (node, [mut one]) = start();
    node.sign_in(1, "ann", &[]);
    assert_eq!(one.said().await, ["welcome"]);
    let watched = ["ann", "bob"].map(|user| watch_channel("1", user));
    for key in &watched {
        node.members(key, 0, 1);
        one.opened().await;
    }
    node.sign_in(9, "watcher", &["ann", "bob"]);
    let text = |state: &str, user: &str| {
        format!(
            r#"{{"event":"pusher_internal:watchlist_events","data":"{{\"events\":[{{\"name\":\"{state}\",\"user_ids\":[\"{user}\"]}}]}}"}}"#
        )
    };
    assert_eq!(one.said().await, ["welcome"]);
    assert_eq!(one.said().await, [text("online", "ann"), text("offline", "bob")]);
    node.sign_in(2, "bob", &[]);
    assert_eq!(one.text().await, text("online", "bob"));
    assert_eq!(one.said().await, ["welcome"], "after the watchers were told");
    node.sign_in(3, "bob", &[]);
    assert_eq!(one.said().await, ["welcome"]);
    node.sign_out(2, "bob");
    node.settled().await;
    assert!(one.is_empty(), "he is still there with another socket");
    node.sign_out(3, "bob");
    assert_eq!(one.text().await, text("offline", "bob"));
}
