//! The link against real servers: what it tells and does when they go, come back, change, or stand still.

use super::*;
use crate::config::{test_config, test_redis};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[path = "../../tests/support/redis.rs"]
pub mod support;

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Remembers what it is told.
#[derive(Default)]
struct Diary {
    messages: Mutex<Vec<(UnitIx, Vec<u8>, Bytes)>>,
    downs: AtomicU64,
    ups: Mutex<Vec<(UnitIx, u64)>>,
}

#[async_trait]
impl LinkEvents for Diary {
    async fn message(&self, unit: UnitIx, channel: &[u8], payload: Bytes) {
        self.messages.lock().unwrap().push((unit, channel.to_vec(), payload));
    }

    fn down(&self, _unit: UnitIx) {
        self.downs.fetch_add(1, Ordering::SeqCst);
    }

    async fn up(&self, unit: UnitIx, generation: u64) {
        self.ups.lock().unwrap().push((unit, generation));
    }
}

impl Diary {
    fn ups(&self) -> usize {
        self.ups.lock().unwrap().len()
    }

    fn last_up(&self) -> (UnitIx, u64) {
        *self.ups.lock().unwrap().last().expect("it was up")
    }

    fn heard(&self, payload: &str) -> bool {
        self.messages.lock().unwrap().iter().any(|(_, _, heard)| heard == payload.as_bytes())
    }
}

async fn eventually(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn settings(lines: &str) -> RedisSettings {
    test_config(&format!("[redis]\n{lines}\n")).redis.expect("it was written")
}

fn standalone(servers: &[&support::Redis]) -> RedisSettings {
    let urls: Vec<String> = servers.iter().map(|server| format!("{:?}", server.url())).collect();
    settings(&format!("servers = [{}]", urls.join(", ")))
}

async fn start(settings: &RedisSettings) -> (Redis, Arc<Diary>) {
    let diary = Arc::new(Diary::default());
    let redis = Redis::start(settings, diary.clone()).await.expect("the servers serve");
    (redis, diary)
}

/// Adds to a counter under the fence, and answers it.
fn counter() -> Script {
    Script::new(
        "#!lua\nif redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return redis.error_reply('FENCED generation') end\n\
         return redis.call('INCRBY', KEYS[3], ARGV[2])",
    )
}

async fn count(redis: &Redis, unit: UnitIx, script: &Script) -> Result<i64, CallError> {
    let answer = redis.call(unit, script, &[redis.key(unit, "counter")], &[b"1".to_vec()]).await?;
    Ok(redis::from_redis_value(answer).expect("a number"))
}

/// Whether what is published to a channel is heard, whatever went wrong meanwhile.
async fn hears(redis: &Redis, diary: &Diary, unit: UnitIx, name: &str) {
    let channel = redis.key(unit, name);
    let mut number = 0;
    eventually("a message comes round", async || {
        number += 1;
        let payload = format!("{name} {number}");
        redis.publish(unit, &channel, payload.as_bytes()).await.is_ok_and(|receivers| receivers > 0) && {
            sleep(Duration::from_millis(20)).await;
            diary.heard(&payload)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_goes_round_and_calls_are_answered_in_order() {
    let server = support::Redis::standalone();
    let (redis, diary) = start(&standalone(&[&server])).await;
    let unit = redis.unit_of("1", "room");
    assert!(redis.is_up(unit));
    redis.subscribe(unit, redis.key(unit, "room")).await.expect("subscribed");
    assert_eq!(redis.publish(unit, &redis.key(unit, "room"), b"hello").await, Ok(1));
    eventually("the message comes", async || diary.heard("hello")).await;
    let script = counter();
    let calls = (0..100).map(|_| count(&redis, unit, &script));
    let answers: Vec<_> = futures_util::future::join_all(calls).await.into_iter().collect();
    assert_eq!(answers, (1..=100).map(Ok).collect::<Vec<_>>());
    assert_eq!(server.calls("eval"), 2, "the fence and the counter, each brought once");
    redis.unsubscribe(unit, &redis.key(unit, "room"));
    eventually("it is left", async || redis.publish(unit, &redis.key(unit, "room"), b"bye").await == Ok(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_comes_back_as_another_generation() {
    let mut server = support::Redis::standalone();
    let (redis, diary) = start(&standalone(&[&server])).await;
    let unit = UnitIx(0);
    redis.subscribe(unit, redis.key(unit, "room")).await.expect("subscribed");
    let (_, generation) = diary.last_up();
    server.kill();
    eventually("it is down", async || !redis.is_up(unit)).await;
    // Its two connections break one after the other; what was under way on the second may have been done.
    eventually("nothing is sent", async || count(&redis, unit, &counter()).await == Err(CallError::Down)).await;
    let began = Instant::now();
    assert_eq!(count(&redis, unit, &counter()).await, Err(CallError::Down));
    assert!(began.elapsed() < Duration::from_secs(1), "what is down answers at once");
    assert_eq!(redis.subscribe(unit, redis.key(unit, "other")).await, Err(CallError::Down));
    server.restart();
    eventually("it is up", async || diary.ups() == 2).await;
    assert!(diary.last_up().1 > generation);
    assert_eq!(diary.downs.load(Ordering::SeqCst), 1);
    assert_eq!(count(&redis, unit, &counter()).await, Ok(1));
    hears(&redis, &diary, unit, "room").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_channels_are_subscribed_to_again_with_twenty_commands() {
    let server = support::Redis::standalone();
    let (redis, diary) = start(&standalone(&[&server])).await;
    let unit = UnitIx(0);
    let all = (0..10_000).map(|n| redis.subscribe(unit, redis.key(unit, &format!("room-{n}"))));
    assert!(futures_util::future::join_all(all).await.into_iter().all(|done| done.is_ok()));
    let before = server.calls("ssubscribe");
    let (_, generation) = diary.last_up();
    server.cut("pubsub");
    eventually("it is up again", async || diary.ups() == 2).await;
    assert_eq!(diary.last_up().1, generation, "the data is the same");
    let commands = server.calls("ssubscribe") - before;
    assert!(commands <= 20, "{commands} commands");
    hears(&redis, &diary, unit, "room-9999").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_down_and_comes_back() {
    let server = support::Redis::standalone();
    let (redis, diary) = start(&standalone(&[&server])).await;
    let unit = UnitIx(0);
    redis.subscribe(unit, redis.key(unit, "room")).await.expect("subscribed");
    server.stop();
    assert_eq!(count(&redis, unit, &counter()).await, Err(CallError::Timeout));
    eventually("it is down", async || !redis.is_up(unit)).await;
    server.cont();
    eventually("it is up again", async || diary.ups() == 2).await;
    hears(&redis, &diary, unit, "room").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffer_that_overran_costs_the_subscriptions_and_no_calls() {
    let server = support::Redis::standalone();
    let (redis, diary) = start(&standalone(&[&server])).await;
    let unit = UnitIx(0);
    redis.subscribe(unit, redis.key(unit, "room")).await.expect("subscribed");
    server.config("client-output-buffer-limit", "pubsub 16kb 8kb 1");
    let large = vec![b'x'; 4 << 20];
    assert!(redis.publish(unit, &redis.key(unit, "room"), &large).await.is_ok());
    eventually("it is told", async || diary.downs.load(Ordering::SeqCst) >= 1).await;
    server.config("client-output-buffer-limit", "pubsub 32mb 8mb 60");
    eventually("it is up again", async || redis.is_up(unit)).await;
    assert!(count(&redis, unit, &counter()).await.is_ok());
    hears(&redis, &diary, unit, "room").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_was_lost_is_noticed_by_the_next_call() {
    let server = support::Redis::standalone();
    let (redis, diary) = start(&standalone(&[&server])).await;
    let unit = UnitIx(0);
    let (_, generation) = diary.last_up();
    server.flush();
    assert_eq!(count(&redis, unit, &counter()).await, Ok(1), "it is fenced again and retried");
    eventually("it is told", async || diary.ups() == 2).await;
    assert!(diary.last_up().1 > generation);
    server.run(&["SCRIPT", "FLUSH"]);
    assert_eq!(count(&redis, unit, &counter()).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_is_full_refuses_before_anything_is_written() {
    let server = support::Redis::standalone();
    let (redis, _diary) = start(&standalone(&[&server])).await;
    server.config("maxmemory", "1mb");
    assert_eq!(count(&redis, UnitIx(0), &counter()).await, Err(CallError::Full));
    server.config("maxmemory", "0");
    assert_eq!(count(&redis, UnitIx(0), &counter()).await, Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_passwords_are_told_and_wrong_ones_named() {
    let server = support::Redis::with(&["--requirepass", "open sesame"]);
    let url = |password: &str| settings(&format!("servers = [\"redis://:{password}@{}\"]", server.addr()));
    let (redis, diary) = start(&url("open%20sesame")).await;
    redis.subscribe(UnitIx(0), redis.key(UnitIx(0), "room")).await.expect("subscribed");
    hears(&redis, &diary, UnitIx(0), "room").await;
    let error = refused_at_once(&url("wrong")).await;
    assert!(error.starts_with(&server.addr().to_string()) && error.contains("authentication failed"), "{error}");
}

/// What a start is told that cannot be made by waiting.
async fn refused_at_once(settings: &RedisSettings) -> String {
    let began = Instant::now();
    let error = Redis::start(settings, Arc::new(Diary::default())).await.err().expect("it is wrong");
    assert!(began.elapsed() < START_TIMEOUT / 2, "it waited for {:?}", began.elapsed());
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_does_not_wait_for_what_will_not_mend_itself() {
    let plain = support::Redis::standalone();
    let locked = support::Redis::with(&["--requirepass", "open sesame"]);
    let shy = support::Redis::with(&["--user", "default", "on", "nopass", "~*", "+@all", "resetchannels"]);
    let clustered = support::Redis::with(&["--cluster-enabled", "yes"]);
    let url = |server: &support::Redis, login: &str| format!("redis://{login}{}", server.addr());
    let servers = |url: String| settings(&format!("servers = [{url:?}]"));
    for (settings, what) in [
        (servers(url(&plain, ":needless@")), "without any password"),
        (servers(url(&locked, "")), "NOAUTH"),
        (servers(url(&shy, "")), "no permissions to access one of the channels"),
        (servers(url(&clustered, "")), "configured as `cluster`"),
        (settings(&format!("cluster = [{:?}]", url(&plain, ""))), "cluster support disabled"),
        (settings(&format!("sentinels = [{:?}]\nmasters = [\"one\"]", url(&plain, ""))), "unknown command"),
    ] {
        let error = refused_at_once(&settings).await;
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_a_server_that_is_not_there_yet() {
    let mut server = support::Redis::standalone();
    let settings = standalone(&[&server]);
    server.kill();
    let starting = tokio::spawn(async move { Redis::start(&settings, Arc::new(Diary::default())).await.map(drop) });
    sleep(Duration::from_millis(300)).await;
    assert!(!starting.is_finished());
    server.restart();
    assert!(starting.await.expect("it did not panic").is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_sentinels_make_is_followed() {
    let mut group = support::Redis::sentinel();
    let (redis, diary) = start(&test_redis(&group.url())).await;
    let unit = UnitIx(0);
    redis.subscribe(unit, redis.key(unit, "room")).await.expect("subscribed");
    let (_, generation) = diary.last_up();
    group.kill_primary();
    eventually("another one serves", async || diary.ups() >= 2 && redis.is_up(unit)).await;
    assert!(diary.last_up().1 > generation);
    hears(&redis, &diary, unit, "room").await;
    assert!(count(&redis, unit, &counter()).await.is_ok());
}

/// A channel on each partition.
async fn subscribe_everywhere(redis: &Redis) {
    for unit in redis.units() {
        redis.subscribe(unit, redis.key(unit, "room")).await.expect("subscribed");
    }
}

async fn works_everywhere(redis: &Redis, diary: &Diary) {
    for unit in redis.units() {
        hears(redis, diary, unit, "room").await;
        eventually("calls are answered", async || count(redis, unit, &counter()).await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_a_cluster_is_followed() {
    let mut cluster = support::Redis::cluster();
    let (redis, diary) = start(&test_redis(&cluster.url())).await;
    assert_eq!(redis.units().count(), 64);
    subscribe_everywhere(&redis).await;
    works_everywhere(&redis, &diary).await;
    cluster.nodes[0].kill();
    eventually("it is noticed", async || diary.downs.load(Ordering::SeqCst) > 0).await;
    eventually("all is up", async || redis.units().all(|unit| redis.is_up(unit))).await;
    works_everywhere(&redis, &diary).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_takes_its_channels_along() {
    let cluster = support::Redis::cluster();
    let (redis, diary) = start(&test_redis(&cluster.url())).await;
    subscribe_everywhere(&redis).await;
    works_everywhere(&redis, &diary).await;
    let (first, commands) = (redis.units().next().expect("a unit"), cluster.nodes[1].calls("ssubscribe"));
    let slot = ring::slot_of_tag(redis.unit(first).name.as_bytes());
    let (from, ups) = (cluster.owner(slot), diary.ups());
    let to = (from + 1) % 3;
    let calls = async {
        let mut open = 0;
        for _ in 0..50 {
            match count(&redis, first, &counter()).await {
                // What the old server answers once it is known to have lost the slot is not believed.
                Err(CallError::Timeout) => open += 1,
                answer => assert!(answer.is_ok(), "a call waits for the slot: {answer:?}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
        assert!(open <= 1, "{open} answers were not believed");
    };
    let moving = async {
        tokio::task::block_in_place(|| cluster.migrate([slot], to));
    };
    tokio::join!(calls, moving);
    eventually("it is up again", async || diary.ups() > ups && redis.is_up(first)).await;
    works_everywhere(&redis, &diary).await;
    let commands = cluster.nodes[1].calls("ssubscribe") - commands;
    assert!(commands <= 2, "{commands} commands for one partition");
    let moved = diary.ups.lock().unwrap()[ups..].iter().all(|(unit, _)| *unit == first);
    assert!(moved, "the other partitions stayed up");
}

/// By unit, the port of its server.
fn homes_of(redis: &Redis) -> Vec<u16> {
    let port = |unit| redis.unit(unit).home().map_or(0, |link| link.address.port);
    redis.units().map(port).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_waits_for_a_slot_that_moves() {
    let cluster = Arc::new(support::Redis::cluster());
    let (redis, diary) = start(&test_redis(&cluster.url())).await;
    let unit = redis.units().next().expect("a unit");
    let slot = ring::slot_of_tag(redis.unit(unit).name.as_bytes());
    let moving = cluster.clone();
    let round = move || (0..6).for_each(|_| moving.migrate([slot], (moving.owner(slot) + 1) % 3));
    let moving = tokio::task::spawn_blocking(round);
    let mut subscribing = Vec::new();
    while !moving.is_finished() {
        let (redis, channel) = (redis.clone(), redis.key(unit, &format!("room-{}", subscribing.len())));
        subscribing.push(tokio::spawn(async move { redis.subscribe(unit, channel).await }));
        sleep(Duration::from_millis(1)).await;
    }
    moving.await.expect("it moved");
    let n = subscribing.len();
    let all: Vec<_> = futures_util::future::join_all(subscribing).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(all, vec![Ok(()); n], "all wait for the slot");
    hears(&redis, &diary, unit, &format!("room-{}", n - 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_come_and_go_with_their_partitions() {
    let servers: Vec<support::Redis> = (0..3).map(|_| support::Redis::standalone()).collect();
    let of = |ixs: &[usize]| RedisSettings {
        partitioned: true,
        ..standalone(&ixs.iter().map(|ix| &servers[*ix]).collect::<Vec<_>>())
    };
    let (redis, diary) = start(&of(&[0, 1])).await;
    let (late, late_diary) = start(&of(&[0, 1])).await;
    assert_eq!(redis.units().count(), 64);
    subscribe_everywhere(&redis).await;
    subscribe_everywhere(&late).await;
    let (ring, ups, homes) = (redis.ring(), diary.ups(), homes_of(&redis));
    redis.change(&of(&[0, 1, 2])).await;
    eventually("partitions move", async || diary.ups() > ups && redis.units().all(|unit| redis.is_up(unit))).await;
    assert_ne!(redis.ring(), ring);
    works_everywhere(&redis, &diary).await;
    assert!(servers[2].calls("evalsha") > 0, "the third one has some");
    // Whoever still has the old servers publishes nothing past those who have the new ones.
    let is_elsewhere: Vec<bool> = homes_of(&redis).iter().zip(&homes).map(|(now, before)| now != before).collect();
    let elsewhere = is_elsewhere.iter().filter(|is| **is).count();
    let told = redis.units().map(async |unit| (unit, late.publish(unit, &late.key(unit, "room"), b"late").await));
    for (unit, told) in futures_util::future::join_all(told).await {
        assert_eq!(told.is_err(), is_elsewhere[usize::from(unit.0)], "{unit:?} {told:?}");
    }
    let script = counter();
    let counts = redis.units().map(async |unit| (unit, count(&late, unit, &script).await));
    for (unit, counted) in futures_util::future::join_all(counts).await {
        assert_eq!(counted.is_err(), is_elsewhere[usize::from(unit.0)], "{unit:?} {counted:?}");
    }
    let ups = diary.ups();
    late.change(&of(&[0, 1, 2])).await;
    eventually("the other follows", async || late.units().all(|unit| late.is_up(unit))).await;
    works_everywhere(&late, &late_diary).await;
    assert_eq!(diary.ups(), ups, "who has gone before is left alone");
    // And back, to servers that have had them before; both at once.
    let (ups, homes) = (diary.ups(), homes_of(&redis));
    let first_two = of(&[0, 1]);
    tokio::join!(redis.change(&first_two), late.change(&first_two));
    let all_up = |node: &Redis| node.units().all(|unit| node.is_up(unit));
    let moved = || homes_of(&redis).iter().zip(&homes).filter(|(now, before)| now != before).count();
    eventually("all have moved", async || moved() >= elsewhere && diary.ups() >= ups + moved()).await;
    eventually("all is up", async || all_up(&redis) && all_up(&late)).await;
    works_everywhere(&redis, &diary).await;
    works_everywhere(&late, &late_diary).await;
    assert_eq!(diary.ups(), ups + moved(), "each has moved once");
    assert_eq!(redis.servers().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_away_when_it_was_removed_has_nothing_of_use_when_it_comes_back() {
    let servers = support::Redis::pair();
    let both = RedisSettings { partitioned: true, ..standalone(&[&servers[0], &servers[1]]) };
    let one = RedisSettings { partitioned: true, ..standalone(&[&servers[0]]) };
    let (redis, diary) = start(&both).await;
    subscribe_everywhere(&redis).await;
    let there = |port: &u16| *port == servers[1].port();
    let theirs: Vec<UnitIx> =
        redis.units().zip(homes_of(&redis)).filter(|(_, port)| there(port)).map(|(unit, _)| unit).collect();
    let before: HashMap<UnitIx, u64> = diary.ups.lock().unwrap().iter().copied().collect();
    servers[1].stop();
    redis.change(&one).await;
    let is_there = |redis: &Redis| homes_of(redis).iter().any(there);
    eventually("all is at the other", async || !is_there(&redis) && redis.units().all(|unit| redis.is_up(unit))).await;
    works_everywhere(&redis, &diary).await;
    servers[1].cont();
    redis.change(&both).await;
    eventually("it is back", async || is_there(&redis) && redis.units().all(|unit| redis.is_up(unit))).await;
    let after: HashMap<UnitIx, u64> = diary.ups.lock().unwrap().iter().copied().collect();
    for unit in theirs {
        assert!(after[&unit] > before[&unit], "what was published elsewhere is not there: {unit:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked() {
    let authority = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("its path is text").to_owned()
    };
    let cert = file("cert.pem", authority.cert.pem());
    let key = file("key.pem", authority.signing_key.serialize_pem());
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
    let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", &cert, "--tls-key-file", &key];
    let server = support::Redis::with(&[&tls[..], &["--tls-ca-cert-file", &cert, "--tls-auth-clients", "no"]].concat());
    let url = format!("servers = [\"rediss://127.0.0.1:{port}\"]");
    let (redis, diary) = start(&settings(&format!("{url}\nca = {cert:?}"))).await;
    redis.subscribe(UnitIx(0), redis.key(UnitIx(0), "room")).await.expect("subscribed");
    hears(&redis, &diary, UnitIx(0), "room").await;
    let error = refused_at_once(&settings(&url)).await;
    assert!(error.contains("certificate"), "{error}");
    drop(server);
}
