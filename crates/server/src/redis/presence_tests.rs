//! The presence store keeps the contract on one server and on two, and several nodes that share them agree.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_hub::{ChannelKey, Counts, Member, PresenceEvents, PresenceStore};
use fanfare_proto::socket_id::SocketId;
use tokio::time::{Instant, sleep};

use super::presence::RedisPresence;
use super::tests::support as fixture;
use super::{LinkEvents, Redis, UnitIx};
use crate::config::{RedisSettings, test_redis};

/// How long a test waits for what nodes do by themselves, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Well before a lease ends.
const SOON: Duration = Duration::from_millis(1500);

/// Tells the store of a node how its servers are, once there is one.
#[derive(Default)]
struct Relay(Mutex<Option<RedisPresence>>);

#[async_trait]
impl LinkEvents for Relay {
    async fn message(&self, _unit: UnitIx, _channel: &[u8], _payload: Bytes) {}

    fn down(&self, _unit: UnitIx) {}

    async fn up(&self, unit: UnitIx, generation: u64) {
        if let Some(presence) = &*self.0.lock().expect("no test panics here") {
            presence.up(unit, generation);
        }
    }
}

/// What a node was told to tell.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Told {
    fn note(&self, what: String) {
        self.0.lock().expect("no test panics here").push(what);
    }

    fn all(&self) -> Vec<String> {
        let mut all = self.0.lock().expect("no test panics here").clone();
        all.sort();
        all
    }

    async fn becomes(&self, expected: &[&str]) {
        let until = Instant::now() + PATIENCE;
        while self.all() != expected {
            assert!(Instant::now() < until, "expected {expected:?}, told {:?}", self.all());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[async_trait]
impl PresenceEvents for Told {
    async fn joined(&self, key: &ChannelKey, member: Member, _version: u64) {
        self.note(format!("joined {} {}", key.as_str(), member.user_id));
    }

    async fn left(&self, key: &ChannelKey, user: &str, _version: u64) {
        self.note(format!("left {} {user}", key.as_str()));
    }

    async fn turned(&self, app: &str, user: &str, online: bool) {
        self.note(format!("{app}/{user} {}", if online { "online" } else { "offline" }));
    }

    async fn counted(&self, key: &ChannelKey, total: u64) {
        self.note(format!("counted {} {total}", key.as_str()));
    }
}

/// A node on these servers whose leases nobody renews: as one that is killed just now.
async fn dying(urls: &[String]) -> RedisPresence {
    dying_in(test_redis(&urls.join(","))).await
}

async fn dying_in(settings: RedisSettings) -> RedisPresence {
    let relay = Arc::<Relay>::default();
    let redis = Redis::start(&settings, relay.clone()).await.expect("the servers are there");
    let presence = RedisPresence::start(redis).await.expect("the servers answer");
    *relay.0.lock().expect("no test panics here") = Some(presence.clone());
    presence
}

/// A node that lives, and what it tells.
async fn living(urls: &[String]) -> (RedisPresence, Arc<Told>) {
    let (presence, told) = (dying(urls).await, Arc::<Told>::default());
    presence.attend(told.clone());
    (presence, told)
}

fn room() -> ChannelKey {
    ChannelKey::new("1", "presence-room")
}

fn socket(b: u64) -> SocketId {
    SocketId { a: 7, b }
}

async fn join(node: &RedisPresence, user: &str, b: u64) -> bool {
    let member = Member { user_id: user.to_owned(), user_info: None };
    node.join(&room(), socket(b), member, 1000).await.expect("there is room").first
}

async fn users(node: &RedisPresence) -> Vec<String> {
    let members = node.members(&room()).await.expect("the servers answer");
    members.into_iter().map(|member| member.user_id).collect()
}

async fn left(node: &RedisPresence, b: u64) -> Option<String> {
    node.leave(&room(), socket(b)).await.expect("the servers answer").last.map(|(user, _)| user)
}

/// A store that nobody used before, on servers that others may use.
async fn fresh(servers: &RedisSettings) -> Arc<dyn PresenceStore> {
    static INSTALLATIONS: AtomicU32 = AtomicU32::new(0);
    let n = INSTALLATIONS.fetch_add(1, Ordering::Relaxed);
    let settings = RedisSettings { prefix: format!("contract-{n}").into(), ..servers.clone() };
    let presence = dying_in(settings).await;
    presence.attend(Arc::<Told>::default());
    Arc::new(presence)
}

async fn keeps_the_contract(servers: &str) {
    keeps_the_contract_on(test_redis(servers)).await;
}

async fn keeps_the_contract_on(servers: RedisSettings) {
    let start = async || fresh(&servers).await;
    fanfare_hub::presence_contract!(in_turn start);
}

#[tokio::test]
async fn a_store_on_one_server_keeps_the_contract() {
    let server = fixture::Redis::standalone();
    keeps_the_contract(&server.url()).await;
}

#[tokio::test]
async fn a_store_on_two_servers_keeps_the_contract() {
    let servers = fixture::Redis::pair();
    keeps_the_contract(&servers.each_ref().map(fixture::Redis::url).join(",")).await;
}

#[tokio::test]
async fn a_store_on_partitions_of_two_servers_keeps_the_contract() {
    let servers = fixture::Redis::pair();
    let urls = servers.each_ref().map(fixture::Redis::url).join(",");
    keeps_the_contract_on(RedisSettings { partitioned: true, ..test_redis(&urls) }).await;
}

#[tokio::test]
async fn a_store_that_sentinels_watch_keeps_the_contract() {
    let group = fixture::Redis::sentinel();
    keeps_the_contract(&group.url()).await;
}

#[tokio::test]
async fn a_store_in_a_cluster_keeps_the_contract() {
    let cluster = fixture::Redis::cluster();
    keeps_the_contract(&cluster.url()).await;
}

#[tokio::test]
async fn in_a_cluster_too_what_a_dead_node_left_is_taken_out() {
    let cluster = fixture::Redis::cluster();
    let urls = [cluster.url()];
    let dead = dying(&urls).await;
    let (_node, told) = living(&urls).await;
    let halls: Vec<_> = (0..20).map(|n| ChannelKey::new("1", &format!("presence-{n:02}"))).collect();
    for (b, key) in halls.iter().enumerate() {
        let ann = Member { user_id: "ann".to_owned(), user_info: None };
        dead.join(key, socket(b as u64), ann, 10).await.expect("there is room");
    }
    let expected: Vec<String> = halls.iter().map(|key| format!("left {} ann", key.as_str())).collect();
    told.becomes(&expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn nodes_count_and_list_together() {
    let servers = fixture::Redis::pair();
    let urls = servers.each_ref().map(fixture::Redis::url);
    let ((one, _), (two, _)) = (living(&urls).await, living(&urls).await);
    assert!(join(&one, "ann", 1).await);
    assert!(!join(&two, "ann", 2).await);
    assert!(join(&two, "bob", 3).await);
    assert_eq!(users(&one).await, ["ann", "bob"]);
    assert_eq!(one.subscribers(&room(), 1).await, Ok(1));
    assert_eq!(two.subscribers(&room(), 2).await, Ok(3));
    assert_eq!(one.counts(&room()).await, Ok(Counts { subscribers: 3, users: 2 }));
    for n in 0..2500 {
        let key = ChannelKey::new("1", &format!("room-{n:04}"));
        if n % 2 == 0 { &one } else { &two }.subscribers(&key, 1).await.expect("the servers answer");
    }
    let channels = one.channels("1", "room-").await.expect("the servers answer");
    assert_eq!(channels.len(), 2500);
    assert!(channels.is_sorted_by(|(one, _), (other, _)| one < other));
    assert_eq!(left(&one, 1).await, None, "her other socket is on the other node");
    assert_eq!(left(&two, 2).await.as_deref(), Some("ann"));
    assert_eq!(one.user_online("1", "ann", socket(1)).await, Ok(true));
    assert_eq!(two.user_online("1", "ann", socket(2)).await, Ok(false));
    assert_eq!(one.user_offline("1", "ann", socket(1)).await, Ok(false));
    assert_eq!(one.users_online("1", &["bob".into(), "ann".into()]).await, Ok(vec![false, true]));
}

#[tokio::test]
async fn a_socket_that_joins_elsewhere_is_the_other_nodes_from_then_on() {
    let server = fixture::Redis::standalone();
    let urls = [server.url()];
    let ((one, _), (two, _)) = (living(&urls).await, living(&urls).await);
    assert!(join(&one, "ann", 1).await);
    assert!(!join(&two, "ann", 1).await);
    assert_eq!(left(&one, 1).await, None, "it is not its socket any more");
    assert_eq!(users(&one).await, ["ann"]);
    assert_eq!(left(&two, 1).await.as_deref(), Some("ann"));
}

#[tokio::test]
async fn what_a_dead_node_left_is_taken_out_and_told_once() {
    let server = fixture::Redis::standalone();
    let urls = [server.url()];
    let ((one, told), (two, also_told)) = (living(&urls).await, living(&urls).await);
    let dead = dying(&urls).await;
    for (b, user) in [(1, "ann"), (2, "bob"), (3, "cat")] {
        join(&dead, user, b).await;
    }
    dead.subscribers(&room(), 3).await.expect("the server answers");
    dead.user_online("1", "ann", socket(1)).await.expect("the server answers");
    dead.user_online("1", "bob", socket(2)).await.expect("the server answers");
    // Bob is back on another node before anybody noticed.
    assert!(!join(&one, "bob", 4).await);
    assert_eq!(one.user_online("1", "bob", socket(4)).await, Ok(false));
    one.subscribers(&room(), 1).await.expect("the server answers");
    let began = Instant::now();
    while users(&two).await != ["bob"] {
        assert!(began.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    println!("gone after {:?}", began.elapsed());
    assert_eq!(two.counts(&room()).await, Ok(Counts { subscribers: 1, users: 1 }));
    let expected =
        ["1/ann offline", "counted 1/presence-room 1", "left 1/presence-room ann", "left 1/presence-room cat"];
    let together = || {
        let mut together = [told.all(), also_told.all()].concat();
        together.sort();
        together
    };
    while together().len() < expected.len() {
        assert!(began.elapsed() < PATIENCE, "{:?}", together());
        sleep(Duration::from_millis(20)).await;
    }
    sleep(SOON).await;
    assert_eq!(together(), expected);
}

#[tokio::test]
async fn a_thousand_members_of_a_dead_node_are_taken_out_in_slices() {
    let server = fixture::Redis::standalone();
    let urls = [server.url()];
    let dead = dying(&urls).await;
    for b in 0..1000 {
        join(&dead, &format!("user-{b}"), b).await;
    }
    let (node, told) = living(&urls).await;
    let until = Instant::now() + PATIENCE;
    while told.all().len() < 1000 {
        assert!(Instant::now() < until, "{} of 1000 told", told.all().len());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(users(&node).await.is_empty());
}

#[tokio::test]
async fn what_a_server_lost_is_entered_again_and_is_no_news() {
    let server = fixture::Redis::standalone();
    let urls = [server.url()];
    let (node, told) = living(&urls).await;
    join(&node, "ann", 1).await;
    node.subscribers(&room(), 1).await.expect("the server answers");
    node.user_online("1", "ann", socket(1)).await.expect("the server answers");
    let before = node.versions(&[room()]).await.expect("the server answers");
    server.ask(&["FLUSHALL"]);
    let until = Instant::now() + PATIENCE;
    let whole = Ok(Counts { subscribers: 1, users: 1 });
    while node.counts(&room()).await != whole || node.users_online("1", &["ann".into()]).await != Ok(vec![true]) {
        assert!(Instant::now() < until, "{:?}", node.counts(&room()).await);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(
        node.versions(&[room()]).await.expect("the server answers") > before,
        "whoever compares sees that it began anew"
    );
    sleep(SOON).await;
    assert_eq!(told.all(), [""; 0]);
}

#[tokio::test]
async fn what_comes_back_with_older_data_is_taken_out() {
    let mut server = fixture::Redis::standalone();
    let urls = [server.url()];
    let (node, told) = living(&urls).await;
    for (b, user) in [(1, "ann"), (2, "bob")] {
        join(&node, user, b).await;
    }
    server.run(&["SAVE"]);
    assert_eq!(left(&node, 1).await.as_deref(), Some("ann"));
    server.restart();
    told.becomes(&["left 1/presence-room ann"]).await;
    assert_eq!(users(&node).await, ["bob"]);
}

#[tokio::test]
async fn a_node_that_was_taken_for_dead_enters_again_and_tells_so() {
    let server = fixture::Redis::standalone();
    let urls = [server.url()];
    let late = dying(&urls).await;
    join(&late, "ann", 1).await;
    late.user_online("1", "ann", socket(1)).await.expect("the server answers");
    let (node, told) = living(&urls).await;
    told.becomes(&["1/ann offline", "left 1/presence-room ann"]).await;
    let also_told = Arc::<Told>::default();
    late.attend(also_told.clone());
    also_told.becomes(&["1/ann online", "joined 1/presence-room ann"]).await;
    assert_eq!(users(&node).await, ["ann"]);
}

/// Moves what the server has written down, which is then as if its clock had been set back by so much.
fn set_back(server: &fixture::Redis, by_ms: i64) {
    const MOVE: &str = "for _, name in ipairs(redis.call('KEYS', '*leases')) do
        for _, node in ipairs(redis.call('ZRANGE', name, 0, -1)) do redis.call('ZINCRBY', name, ARGV[1], node) end
        redis.call('INCRBY', name:gsub('leases$', 'heard'), ARGV[1])
    end";
    server.run(&["EVAL", MOVE, "0", &by_ms.to_string()]);
}

#[tokio::test]
async fn where_a_servers_clock_is_set_only_the_dead_leave() {
    const HOUR_MS: i64 = 3_600_000;
    let server = fixture::Redis::standalone();
    let urls = [server.url()];
    let ((node, told), (other, also_told)) = (living(&urls).await, living(&urls).await);
    join(&node, "ann", 1).await;
    join(&other, "bob", 2).await;
    let mut expected = 0;
    for by_ms in [HOUR_MS, -HOUR_MS, -HOUR_MS] {
        let dead = dying(&urls).await;
        join(&dead, "cid", 3).await;
        set_back(&server, by_ms);
        expected += 1;
        let until = Instant::now() + PATIENCE;
        let heard = || [told.all(), also_told.all()].concat();
        while heard().len() < expected {
            assert!(Instant::now() < until, "round {expected}: {:?}", heard());
            sleep(Duration::from_millis(20)).await;
        }
        sleep(SOON).await;
        assert_eq!(heard(), vec!["left 1/presence-room cid"; expected]);
        assert_eq!(users(&node).await, ["ann", "bob"]);
    }
}

#[tokio::test]
async fn a_leave_that_failed_is_repeated() {
    let server = fixture::Redis::standalone();
    let urls = [server.url()];
    let (node, _) = living(&urls).await;
    join(&node, "ann", 1).await;
    server.stop();
    node.leave(&room(), socket(1)).await.expect_err("the server does not answer");
    server.cont();
    let until = Instant::now() + PATIENCE;
    while node.members(&room()).await != Ok(vec![]) {
        assert!(Instant::now() < until, "she is still there");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_comes_back_elsewhere_while_a_node_ends_is_not_missed() {
    let server = fixture::Redis::standalone();
    let urls = [server.url()];
    let ((one, _), (two, told)) = (living(&urls).await, living(&urls).await);
    join(&one, "ann", 1).await;
    join(&one, "bob", 2).await;
    one.retire().await;
    sleep(SOON).await;
    assert_eq!(users(&two).await, ["ann", "bob"]);
    assert!(!join(&two, "ann", 3).await);
    told.becomes(&["left 1/presence-room bob"]).await;
    assert_eq!(users(&two).await, ["ann"]);
}
