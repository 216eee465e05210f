//! The ledger of the real server: it balances whatever happens, and says what did.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::redis::Redis;
use support::tap::{self, Tap};
use support::{Nodes, Response, Server, eventually, inner, one_app};

const ROUTE: &str = "{ stage = \"route\", channels = [\"forum.{{ forum }}\", \"thread.{{ thread }}\"] }";

/// How long the ledger is watched under load.
const LOAD: Duration = Duration::from_secs(8);

/// An app with a queue `comments` on disk, whose pipeline has these stages behind `json`.
fn config(folder: &Path, stages: &str) -> String {
    let app = one_app(&format!(
        "[[apps.queues]]\nname = \"comments\"\nattempts_max = 2\n\
         [[apps.pipelines]]\nname = \"comments\"\nqueue = \"comments\"\n\
         stages = [{{ stage = \"json\" }}, {stages}]\n\
         sinks = [{{ sink = \"channels\" }}, {{ sink = \"file\", path = \"out.ndjson\" }}]"
    ));
    let (data, files) = (folder.join("data"), folder.join("files"));
    format!("data_dir = {data:?}\ndrain_s = 0\n{app}\n[ingest]\nfile_dir = {files:?}\nfaults = true")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn fanfare(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fanfare")).args(args).output().expect("the command line runs")
}

fn comment(n: usize) -> Value {
    json!({ "key": format!("thread:{}", n % 7), "data": { "forum": 1, "thread": n % 7, "n": n } })
}

/// What tests say to a server and ask its ledger.
trait Books {
    fn comments(&self, method: &str, path: &str, body: &Value) -> Response;

    fn put(&self, jobs: impl IntoIterator<Item = Value>) -> Vec<u64> {
        let jobs: Vec<Value> = jobs.into_iter().collect();
        let response = self.comments("POST", "/jobs", &json!({ "jobs": jobs }));
        assert_eq!(response.status, 202, "{response:?}");
        response.json()["ids"].as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id")).collect()
    }

    fn count(&self, state: &str) -> u64 {
        self.comments("GET", "", &Value::Null).json()[state].as_u64().expect("a number")
    }

    fn ledger(&self) -> Value;

    /// The numbers of a part, which there is.
    fn part(&self, name: &str) -> Value {
        part(&self.ledger()["chain"], name).unwrap_or_else(|| panic!("no part {name}"))
    }

    /// Waits until the part's number is that.
    fn reaches(&self, name: &str, number: &str, n: u64) {
        eventually(&format!("{name}: {number} {n}"), || {
            part(&self.ledger()["chain"], name).is_some_and(|part| part[number] == n)
        });
    }

    /// Waits until the ledger has looked so many times more.
    fn looked(&self, times: usize) {
        for _ in 0..times {
            let before = self.ledger()["now_ms"].clone();
            eventually("the ledger looks again", || self.ledger()["now_ms"] != before);
        }
    }

    /// Nothing parts, and nothing has.
    fn balances(&self);
}

impl Books for Server {
    fn comments(&self, method: &str, path: &str, body: &Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.signed(method, &format!("/apps/1/queues/comments{path}"), &[], &body)
    }

    fn ledger(&self) -> Value {
        self.admin_get("/ledger").json()
    }

    fn balances(&self) {
        self.looked(7);
        let ledger = self.ledger();
        assert!(ledger["parted"].is_null(), "{ledger:#}");
        assert!(ledger["compared"].as_u64().expect("a number") > 20, "{ledger:#}");
        assert!(!self.log().contains("does not balance"), "{ledger:#}");
        for step in ledger["chain"].as_array().expect("a list") {
            if let Some(link) = step.get("link") {
                assert!(
                    link["sent"].as_u64() <= link["came"].as_u64()
                        && link["came"].as_u64() <= link["sent_max"].as_u64(),
                    "{link}"
                );
            }
        }
        let admin = self.admin.to_string();
        let said = fanfare(&["ledger", "--admin", &admin]);
        assert!(said.status.success(), "{said:?}");
    }
}

fn part(chain: &Value, name: &str) -> Option<Value> {
    let steps = chain.as_array().expect("a list");
    steps.iter().filter_map(|step| step.get("part")).find(|part| part["part"] == name).cloned()
}

#[test]
fn all_that_becomes_of_jobs_is_in_the_ledger() {
    let folder = folder();
    let stages = format!(
        "{{ stage = \"condition\", where = \"n != 3\" }}, {{ stage = \"split\", field = \"parts\", into = \"part\", on_error = \"pass\" }}, {ROUTE}"
    );
    let server = Server::start(&config(folder.path(), &stages));
    let mut socket = server.connect();
    socket.subscribe("forum.1");
    let mut idempotent = comment(8);
    idempotent["idempotency_key"] = "once".into();
    idempotent["data"]["parts"] = json!([1, 2]);
    server.put((0..8).map(comment).chain([idempotent.clone()]));
    server.put([idempotent]);
    // One that nobody can read, one that goes nowhere, one that is taken back, one that is claimed and taken back.
    server.put([json!({ "data": "no json" }), json!({ "data": { "n": 9 } })]);
    let later = server.put([json!({ "not_before_ms": 4_102_444_800_000_u64, "data": {} })])[0];
    assert_eq!(server.comments("DELETE", &format!("/jobs/{later}"), &Value::Null).status, 200);
    assert_eq!(server.comments("POST", "/jobs", &json!({ "jobs": [{ "data": 1, "kind": "no" }] })).status, 400);
    eventually("the others are finished", || server.count("finished") == 9 && server.count("stalled") == 2);

    server.reaches("put", "in", 13);
    server.reaches("jobs", "out", 9);
    let jobs = server.part("jobs");
    assert_eq!((&jobs["in"], &jobs["dropped"]["retracted"], &jobs["in_flight"]), (&json!(12), &json!(1), &json!(2)));
    let claims = server.part("claims");
    assert_eq!((&claims["in"], &claims["out"], &claims["in_flight"]), (&json!(11), &json!(9), &json!(0)));
    assert_eq!(server.part("2.condition")["dropped"], json!({ "condition": 1 }));
    assert_eq!(server.part("3.split")["made"], 1);
    server.reaches("1.channels", "out", 9);
    server.reaches("published by pipelines", "out", 18);
    server.reaches("hub", "out", 9);
    assert_eq!(server.part("hub")["dropped"]["unheard"], 9);
    server.balances();
    let life = server.ledger()["life"].clone();
    assert_eq!((&life["published"], &life["delivered"]), (&json!(18), &json!(9)));
    assert_eq!(server.metric("fanfare_ledger_parted"), 0.0);
    assert_eq!(server.metric("fanfare_life_deliveries_total"), 9.0);
}

#[test]
fn what_was_joined_is_in_the_ledger() {
    let folder = folder();
    let stages = "{ stage = \"batch\", max = 3, within_ms = 300, by = \"forum.{{ forum }}\", into = \"comments\" }, \
                  { stage = \"route\", channels = [\"{{ key }}\"], event = \"comments\" }";
    let server = Server::start(&config(folder.path(), stages));
    let mut socket = server.connect();
    socket.subscribe("forum.1");
    let of = |forum: usize, n: usize| json!({ "data": { "forum": forum, "n": n } });
    server.put((0..5).map(|n| of(1, n)).chain([of(2, 5)]));
    let mut heard: Vec<Value> = Vec::new();
    for items in [3, 2] {
        let list = inner(&socket.expect_event("comments"))["comments"].as_array().expect("a list").clone();
        assert_eq!(list.len(), items, "{list:?}");
        assert!(list.is_sorted_by_key(|item| item["n"].as_u64()), "{list:?}");
        heard.extend(list);
    }
    heard.sort_by_key(|item| item["n"].as_u64());
    assert_eq!(heard, (0..5).map(|n| json!({ "forum": 1, "n": n })).collect::<Vec<_>>());
    eventually("all are finished", || server.count("finished") == 6);
    server.reaches("2.batch", "out", 3);
    let batch = server.part("2.batch");
    assert_eq!((&batch["in"], &batch["dropped"], &batch["failed"]), (&json!(6), &json!({ "joined": 3 }), &json!(0)));
    server.reaches("1.channels", "out", 3);
    server.reaches("2.file", "out", 3);
    server.reaches("published by pipelines", "out", 3);
    server.balances();
}

#[test]
fn retries_and_last_attempts_are_in_the_ledger() {
    let folder = folder();
    let stages = format!("{{ stage = \"fault\", error_percent = 100 }}, {ROUTE}");
    let server = Server::start(&config(folder.path(), &stages));
    server.put((0..3).map(comment));
    eventually("all were tried twice", || server.count("stalled") == 3);
    server.reaches("claims", "failed", 6);
    let worker = server.part("worker");
    assert_eq!((&worker["in"], &worker["in_flight"]), (&json!(6), &json!(0)));
    server.balances();
}

#[test]
fn nothing_is_missing_after_a_kill_and_lives_are_added_up() {
    let folder = folder();
    let config = config(folder.path(), ROUTE);
    let mut delivered = 0;
    for life in 0..3 {
        let mut server = Server::start(&config);
        let before = server.ledger()["life"]["delivered"].as_u64().expect("a number");
        assert_eq!(before, delivered);
        let mut socket = server.connect();
        socket.subscribe("forum.1");
        server.put((0..50).map(comment));
        if life == 1 {
            // Written every few seconds, also by a server that is killed.
            eventually("all are finished", || server.count("finished") >= 100);
            eventually("it is written down", || {
                let text = fs::read_to_string(folder.path().join("data/life")).expect("it was there");
                text.contains(&format!("delivered {} ", server.ledger()["life"]["delivered"]))
            });
            server.balances();
            delivered = server.ledger()["life"]["delivered"].as_u64().expect("a number");
            server.put((0..50).map(comment));
            server.signal("KILL");
            server.wait();
            let text = fs::read_to_string(folder.path().join("data/life")).expect("it is there");
            let written = text.split(' ').nth_back(1).expect("a number");
            delivered = delivered.max(written.parse().expect("a number"));
        } else {
            eventually("nothing waits", || server.count("waiting") + server.count("claimed") == 0);
            server.balances();
            delivered = server.ledger()["life"]["delivered"].as_u64().expect("a number");
            assert!(delivered >= before + 50);
            server.signal("TERM");
            assert!(server.wait().success());
        }
    }
    fs::write(folder.path().join("data/life"), "fanfare life 1 published 9 delivered 9 0\n")
        .expect("the folder is ours");
    let server = Server::start(&config);
    assert_eq!(server.ledger()["life"]["delivered"], 0);
    assert!(server.log().contains("counting begins anew"), "{}", server.log());
}

#[test]
fn nothing_is_amiss_under_load() {
    let folder = folder();
    let server = Server::start(&config(folder.path(), ROUTE));
    let more = |n: usize| format!("{{ stage = \"set\", fields = {{ version = \"{n}\" }} }}, {ROUTE}");
    let mut sockets: Vec<_> = (0..4).map(|_| server.connect()).collect();
    sockets.iter_mut().for_each(|socket| socket.subscribe("forum.1"));
    // One reads nothing, so that there is something in flight.
    let (over, lazy) = (AtomicBool::new(false), sockets.pop());
    thread::scope(|scope| {
        for producer in 0..2 {
            let (over, server) = (&over, &server);
            scope.spawn(move || {
                for n in (0..).step_by(10).take_while(|_| !over.load(Ordering::Relaxed)) {
                    match producer {
                        0 => _ = server.put((n..n + 10).map(comment)),
                        _ => server.publish("forum.1", "said", "hello"),
                    }
                }
            });
        }
        for mut socket in sockets {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    socket.recv_text();
                }
            });
        }
        let began = Instant::now();
        for reload in 0.. {
            server.looked(1);
            assert_eq!(server.metric("fanfare_ledger_parted"), 0.0, "{:#}", server.ledger());
            if began.elapsed() > LOAD {
                break;
            }
            // Every other one has the stages of the one before.
            server.reload(&config(folder.path(), &if reload % 4 < 2 { more(reload) } else { ROUTE.to_owned() }));
        }
        over.store(true, Ordering::Relaxed);
        // Whoever still listens hears this, and looks up.
        (0..2).for_each(|_| server.publish("forum.1", "over", "now"));
    });
    drop(lazy);
    eventually("nothing waits", || server.count("waiting") + server.count("claimed") == 0);
    server.balances();
}

#[test]
fn what_goes_from_node_to_node_is_not_missing() {
    let (folder, redis) = (folder(), Redis::standalone());
    let config = config(folder.path(), ROUTE).replace("attempts_max", "durability = \"memory\"\nattempts_max");
    let config = config.replace(", { sink = \"file\", path = \"out.ndjson\" }", "");
    let nodes = Nodes::start(&redis.url(), 2, config.split_once('\n').expect("it has lines").1);
    let mut sockets = [nodes.node(0).connect(), nodes.node(1).connect()];
    sockets.iter_mut().for_each(|socket| socket.subscribe("forum.1"));
    (0..10).for_each(|n| _ = nodes.node(n % 2).put((0..10).map(comment)));
    eventually("all are finished", || nodes.node(0).count("finished") == 100);
    for node in [nodes.node(0), nodes.node(1)] {
        node.looked(7);
        let ledger = node.ledger();
        assert!(ledger["parted"].is_null(), "{ledger:#}");
        assert!(!node.log().contains("does not balance"));
        assert_eq!(node.part("jobs")["shared"], true);
    }
    let admins = [nodes.node(0).admin.to_string(), nodes.node(1).admin.to_string()].join(",");
    let said = fanfare(&["ledger", "--nodes", &admins, "--json"]);
    let sum: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(part(&sum["chain"], "put").expect("a part")["out"], 100);
    assert_eq!(part(&sum["chain"], "worker").expect("a part")["out"], 100);
}

#[test]
fn what_a_firehose_is_owed_is_in_the_ledger() {
    let token = "[apps.firehose]\ntokens = [{ name = \"all\", token = \"token-of-all-that-is\" }]";
    let server = Server::start(&format!("data_dir = \"data\"\n{}", one_app(token)));
    let mut all = Tap::open(&server, "channels=news");
    let mut shop = Tap::open(&server, "consumer=shop");
    for n in 0..10 {
        server.publish(if n < 4 { "news" } else { "other" }, "said", &n.to_string());
    }
    assert_eq!((all.data(4).len(), shop.data(7).len()), (4, 7));
    let (eighth, _) = (shop.message(), shop.data(2));
    assert_eq!(tap::ack(&server, "shop", &tap::text(&eighth["cursor"])).status, 200);
    server.reaches("firehose", "out", 10);
    server.reaches("firehose readers", "out", 14);
    server.reaches("firehose consumers", "in_flight", 2);
    assert_eq!(server.part("firehose readers")["dropped"]["filtered"], 6);
    drop(shop);
    server.reaches("firehose consumers", "in_flight", 0);
    let owed = server.part("firehose consumers");
    assert_eq!((&owed["in"], &owed["out"], &owed["dropped"]["returned"]), (&json!(10), &json!(8), &json!(2)), "{owed}");
    server.looked(7);
    assert!(server.ledger()["parted"].is_null());
}

#[test]
fn minutes_and_formats_are_as_they_are_asked_for() {
    let server = Server::start(&one_app(""));
    server.publish("room", "said", "hello");
    server.reaches("hub", "in", 1);
    let report = server.admin_get("/ledger?minutes=5").json();
    let minutes = report["minutes"].as_array().expect("a list");
    assert_eq!(minutes.len(), 1, "{report:#}");
    assert_eq!(part(&minutes[0]["chain"], "hub").expect("it was busy")["in"], 1);
    let text = server.admin_get("/ledger?format=text&minutes=1").body;
    assert!(
        text.contains("1 published and 0 delivered in its life") && text.contains("The minute up to now"),
        "{text}"
    );
    for wrong in ["format=xml", "minutes=many"] {
        assert_eq!(server.admin_get(&format!("/ledger?{wrong}")).status, 400, "{wrong}");
    }
}

#[test]
fn the_ledgers_of_several_nodes_are_added_up() {
    let servers = [Server::start(&one_app("")), Server::start(&one_app(""))];
    for server in &servers {
        server.publish("room", "said", "hello");
        server.reaches("hub", "in", 1);
    }
    let nodes = servers.each_ref().map(|server| server.admin.to_string()).join(",");
    let said = fanfare(&["ledger", "--nodes", &nodes, "--json"]);
    assert!(said.status.success(), "{said:?}");
    let sum: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!((&part(&sum["chain"], "hub").expect("a hub")["in"], &sum["life"]["published"]), (&json!(2), &json!(2)));
}

#[test]
fn a_ledger_that_does_not_balance_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let admin = listener.local_addr().expect("an address").to_string();
    let report = json!({
        "version": "1", "since_ms": 0, "now_ms": 9000, "life": { "published": 1, "delivered": 2 }, "compared": 2,
        "parted": { "at": "app 1: queue comments: put → jobs", "difference": 1 },
        "chain": [{ "link": { "app": "1", "queue": "comments", "from": "put", "to": "jobs", "sent": 5, "sent_max": 5,
                              "came": 4, "under_way": 0, "difference": 1 } }],
    });
    let answer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let _ = stream.read(&mut [0; 4096]).expect("a request");
        let body = report.to_string();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("an answer");
    });
    let said = fanfare(&["ledger", "--admin", &format!("http://{admin}")]);
    answer.join().expect("it answered");
    let (out, error) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!(said.status.code(), Some(1));
    assert!(out.contains("THE SUMS PART at app 1: queue comments: put → jobs: 1 missing"), "{out}");
    assert!(error.contains("the sums part at app 1: queue comments: put → jobs"), "{error}");
}
