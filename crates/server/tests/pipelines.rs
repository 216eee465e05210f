//! Jobs through pipelines and into channels and files, against the real server.

mod support;

#[path = "pipelines/measured.rs"]
mod measured;
#[path = "pipelines/trouble.rs"]
mod trouble;

use std::fs;

use serde_json::{Value, json};
use support::redis::Redis;
use support::{KEY, Nodes, Reader, Response, SECRET, Server, Socket, Transport, eventually, inner, one_app};

/// An app with a queue `comments`, and a pipeline on it with these stages behind `json`, and these sinks.
fn config(stages: &str, sinks: &str) -> String {
    one_app(&format!(
        "[[apps.queues]]\nname = \"comments\"\ndurability = \"memory\"\n\
         [[apps.pipelines]]\nname = \"comments\"\nqueue = \"comments\"\n\
         stages = [{{ stage = \"json\" }}, {stages}]\nsinks = [{sinks}]"
    ))
}

const ROUTE: &str = "{ stage = \"route\", channels = [\"forum.{{ forum }}\", \"thread.{{ thread }}\"] }";
const CHANNELS: &str = "{ sink = \"channels\" }";

/// What tests say to the queue.
trait Comments {
    fn comments(&self, method: &str, path: &str, body: &Value) -> Response;

    fn put(&self, jobs: impl IntoIterator<Item = Value>) {
        let jobs: Vec<Value> = jobs.into_iter().collect();
        let response = self.comments("POST", "/jobs", &json!({ "jobs": jobs }));
        assert_eq!(response.status, 202, "{response:?}");
    }

    fn count(&self, state: &str) -> u64 {
        self.comments("GET", "", &Value::Null).json()[state].as_u64().expect("a number")
    }
}

impl Comments for Server {
    fn comments(&self, method: &str, path: &str, body: &Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.signed(method, &format!("/apps/1/queues/comments{path}"), &[], &body)
    }
}

fn comment(n: usize) -> Value {
    json!({ "key": "thread:2", "data": { "forum": 1, "thread": 2, "n": n } })
}

/// What the next events say in their field `n`.
fn numbers(socket: &mut Socket, events: usize) -> Vec<u64> {
    (0..events).map(|_| inner(&socket.expect_event("create"))["n"].as_u64().expect("a number")).collect()
}

#[test]
fn a_comment_is_made_safe_and_published_to_all_whom_it_concerns() {
    let server = Server::start(&config(&format!("{{ stage = \"sanitise\", fields = [\"text\"] }}, {ROUTE}"), CHANNELS));
    let mut forum = server.connect();
    forum.subscribe("forum.1");
    let mut thread = server.connect();
    thread.subscribe("thread.2");
    let data = json!({ "forum": 1, "thread": 2, "text": "hi <b>you</b><script>alert(1)</script>" });
    server.put([json!({ "kind": "edit", "data": data })]);
    for socket in [&mut forum, &mut thread] {
        let event = socket.expect_event("edit");
        assert_eq!(inner(&event)["text"], "hi <b>you</b>");
    }
    eventually("the job is finished", || server.count("finished") == 1);
}

#[test]
fn comments_of_a_key_arrive_in_their_order() {
    let server = Server::start(&config(ROUTE, CHANNELS));
    let mut socket = server.connect();
    socket.subscribe("thread.2");
    (0..10).for_each(|batch| server.put((0..20).map(|n| comment(batch * 20 + n))));
    assert!(numbers(&mut socket, 200).into_iter().eq(0..200));
}

#[test]
fn nobody_else_claims_what_pipelines_work_on() {
    let server = Server::start(&config(ROUTE, CHANNELS));
    let response = server.comments("POST", "/claim", &json!({ "jobs": 1 }));
    assert_eq!(response.status, 409, "{response:?}");
    assert!(response.body.contains("pipelines of this server work on the queue comments"), "{response:?}");
}

#[test]
fn a_job_that_cannot_be_read_is_stalled_and_says_why() {
    let server = Server::start(&config(ROUTE, CHANNELS));
    server.put([json!({ "data": "no json" }), json!({ "data": { "forum": 1 } })]);
    eventually("both are stalled", || server.count("stalled") == 2);
    let stalled = server.signed("GET", "/apps/1/queues/comments/jobs", &[("state", "stalled")], "").json();
    let reasons = stalled["jobs"].to_string();
    assert!(reasons.contains("comments/1.json") && reasons.contains("comments/2.route"), "{reasons}");
}

#[test]
fn an_apps_rate_makes_pipelines_wait_and_not_fail() {
    let limits = "\n[apps.limits]\npublishes_per_s = 20";
    let server = Server::start(&(config(ROUTE, CHANNELS) + limits));
    let mut socket = server.connect();
    socket.subscribe("thread.2");
    server.put((0..30).map(comment));
    assert!(numbers(&mut socket, 30).into_iter().eq(0..30));
    eventually("all are finished", || server.count("finished") == 30);
}

#[test]
fn a_reload_changes_pipelines_and_loses_nothing() {
    let versions = ["a", "b", "c"];
    let of = |version| {
        let set = format!("{{ stage = \"set\", fields = {{ version = \"{version}\" }} }}, {ROUTE}");
        config(&set, CHANNELS)
    };
    let server = Server::start(&of("a"));
    let mut socket = server.connect();
    socket.subscribe("thread.2");
    for (at, version) in versions.into_iter().enumerate() {
        server.reload(&of(version));
        server.put((0..50).map(|n| comment(at * 50 + n)));
    }
    let heard: Vec<Value> = (0..150).map(|_| inner(&socket.expect_event("create"))).collect();
    assert!(heard.iter().map(|event| event["n"].as_u64().expect("a number")).eq(0..150));
    assert_eq!(heard[149]["version"], "c");
    eventually("all are finished", || server.count("finished") == 150);
}

#[test]
fn pipelines_that_are_taken_away_and_come_back_end_what_they_have_begun() {
    let with = config(&format!("{{ stage = \"delay\", ms = 3000 }}, {ROUTE}"), CHANNELS);
    let without = with.split("[[apps.pipelines]]").next().expect("it begins with the app").to_owned();
    let server = Server::start(&with);
    server.put([comment(0)]);
    eventually("it is claimed", || server.count("claimed") == 1);
    server.reload(&without);
    server.reload(&with);
    eventually("it is finished", || server.count("finished") == 1);
    let totals = server.comments("GET", "", &Value::Null).json()["totals"].clone();
    assert_eq!((&totals["claimed"], &totals["failed"]), (&json!(1), &json!(0)), "{totals}");
}

#[test]
fn a_table_that_was_written_anew_is_read_by_a_reload() {
    let lookup = "{ stage = \"lookup\", field = \"forum\", into = \"forum\", file = \"tables/forums.json\" }";
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str| {
        fs::create_dir_all(folder.path().join("tables")).expect("the folder is ours");
        fs::write(folder.path().join("tables/forums.json"), json!({ "1": name }).to_string()).expect("it is ours");
    };
    write("news");
    let file = folder.path().join("fanfare.toml");
    fs::write(&file, config(&format!("{lookup}, {ROUTE}"), CHANNELS)).expect("the folder is ours");
    // Not where the server runs.
    let server = Server::start_with("", &["--config", file.to_str().expect("it is text")]);
    let mut socket = server.connect();
    socket.subscribe("thread.2");
    for name in ["news", "sports"] {
        write(name);
        server.read_again();
        server.put([comment(0)]);
        assert_eq!(inner(&socket.expect_event("create"))["forum"], name);
    }
}

/// A server that is killed has made an attempt: it may have ended for the job.
#[test]
fn what_is_in_flight_when_the_server_stops_has_used_up_no_attempt() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config("{ stage = \"delay\", ms = 600000 }", CHANNELS).replace("durability = \"memory\"\n", "");
    let config = format!("data_dir = \"{}\"\ndrain_s = 0\n{config}", folder.path().display());
    let mut server = Server::start(&config);
    server.put((0..20).map(|n| json!({ "key": n.to_string(), "data": comment(n)["data"] })));
    let totals = |server: &Server| server.comments("GET", "", &Value::Null).json()["totals"].clone();
    eventually("all are claimed", || server.count("claimed") == 20);
    for (ends, (signal, attempt, released)) in
        [("TERM", 1, 20), ("KILL", 2, 20), ("TERM", 2, 40)].into_iter().enumerate()
    {
        server.signal(signal);
        server.wait();
        server = Server::start(&config);
        eventually("all are claimed again", || totals(&server)["claimed"] == 20 * (ends + 2));
        let claimed = server.signed("GET", "/apps/1/queues/comments/jobs", &[("state", "claimed")], "").json();
        let attempts: Vec<&Value> =
            claimed["jobs"].as_array().expect("a list").iter().map(|job| &job["attempt"]).collect();
        assert_eq!(attempts, vec![&json!(attempt); 20], "{signal}");
        let totals = totals(&server);
        assert_eq!(
            (&totals["released"], &totals["failed"]),
            (&json!(released), &json!(20 * (attempt - 1))),
            "{signal}"
        );
    }
}

#[test]
fn a_reload_that_takes_the_pipelines_away_uses_up_no_attempt() {
    let with = config("{ stage = \"delay\", ms = 600000 }", CHANNELS);
    let (without, _) = with.split_once("[[apps.pipelines]]").expect("it has one");
    let server = Server::start(&with);
    server.put([comment(0)]);
    eventually("it is claimed", || server.count("claimed") == 1);
    server.reload(without);
    eventually("it is given back", || server.count("waiting") == 1);
    let claimed = server.comments("POST", "/claim", &json!({})).json();
    assert_eq!(claimed["jobs"][0]["attempt"], 1, "{claimed}");
}

#[test]
fn the_development_app_has_a_pipeline_of_its_own() {
    let server = Server::start("");
    let mut socket = server.connect();
    for channel in ["forum.demo", "thread.demo", "user.ann", "post.7"] {
        socket.subscribe(channel);
    }
    let data = r#"{"id":"7","forum":"demo","thread":"demo","user":"ann","text":"a < b"}"#;
    for (path, event) in [("/demo/create", "create"), ("/demo/edit", "edit"), ("/demo/delete", "delete")] {
        server.request("POST", path, &[], data).expect(200, "{}");
        for _ in 0..4 {
            assert_eq!(inner(&socket.expect_event(event))["text"], "a &lt; b");
        }
    }
    assert_eq!(server.request("POST", "/demo/create", &[], "{}").status, 400);
}

#[test]
fn records_go_into_files_that_are_confined() {
    let folder = tempfile::tempdir().expect("a folder");
    let sinks = "{ sink = \"file\", path = \"a/comments.ndjson\" }, { sink = \"null\" }";
    let ingest = format!("\n[ingest]\nfile_dir = {:?}", folder.path());
    let server = Server::start(&(config(ROUTE, sinks) + &ingest));
    server.put((0..10).map(comment));
    eventually("all are finished", || server.count("finished") == 10);
    let text = fs::read_to_string(folder.path().join("a/comments.ndjson")).expect("it is there");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.iter().map(|line| line["data"]["n"].as_u64().expect("a number")).eq(0..10));
    assert_eq!(lines[0]["routes"][1]["channel"], "thread.2");
}

#[test]
fn records_are_published_to_servers_elsewhere() {
    let edge = Server::start(&one_app(""));
    let sink = format!(
        "{{ sink = \"pusher\", urls = [\"http://{}\"], app = \"1\", key = \"{KEY}\", secret = \"edge\" }}",
        edge.addr
    );
    let server = Server::start(&(config(ROUTE, &sink) + &format!("\n[ingest.keys]\nedge = \"{SECRET}\"")));
    let mut socket = edge.connect();
    socket.subscribe("thread.2");
    server.put((0..20).map(comment));
    assert!(numbers(&mut socket, 20).into_iter().eq(0..20));
    eventually("all are finished", || server.count("finished") == 20);
}

#[test]
fn two_publications_of_a_job_on_one_channel_are_no_repeat() {
    let twice = "{ stage = \"route\", channels = [\"thread.{{ thread }}\"], event = \"created\" }, \
                 { stage = \"route\", channels = [\"thread.{{ thread }}\"], event = \"counted\" }";
    let beside = "\n[[apps.pipelines]]\nname = \"beside\"\nqueue = \"comments\"\n\
                  stages = [{ stage = \"json\" }, { stage = \"route\", channels = [\"thread.2\"], event = \"beside\" }]\n\
                  sinks = [{ sink = \"channels\" }]";
    let server = Server::start(&(config(twice, CHANNELS) + beside));
    let mut feed = Reader::with(&server, Transport::Stream, "thread.2", "");
    server.put([json!({ "idempotency_key": "save-1", "data": { "thread": 2 } })]);
    let mut heard: Vec<(String, String)> = (0..3)
        .map(|_| feed.next())
        .map(|message| ["event", "event_id"].map(|field| message[field].as_str().expect("text").to_owned()))
        .map(|[event, id]| (event, id))
        .collect();
    heard.sort();
    let wanted = [("beside", "save-1/beside"), ("counted", "save-1/1"), ("created", "save-1")];
    assert_eq!(heard, wanted.map(|(event, id)| (event.to_owned(), id.to_owned())));
}

#[test]
fn what_one_node_publishes_is_heard_on_the_others() {
    let redis = Redis::standalone();
    let nodes = Nodes::start(&redis.url(), 2, &config(ROUTE, CHANNELS));
    let mut socket = nodes.node(1).connect();
    socket.subscribe("thread.2");
    nodes.node(0).put((0..50).map(comment));
    assert!(numbers(&mut socket, 50).into_iter().eq(0..50));
    eventually("all are finished", || nodes.node(0).count("finished") == 50);
}

#[test]
fn what_was_acknowledged_survives_kills_and_reaches_the_sinks() {
    let folder = tempfile::tempdir().expect("a folder");
    let more = format!("\n[ingest]\nfile_dir = {:?}", folder.path());
    let config = format!("data_dir = {:?}\n", folder.path().join("data"))
        + &config(ROUTE, "{ sink = \"file\", path = \"out.ndjson\" }, { sink = \"channels\" }")
            .replace("durability = \"memory\"", "durability = \"disk\"")
        + &more;
    let mut put = 0;
    for _ in 0..5 {
        let mut server = Server::start(&config);
        for _ in 0..20 {
            server.put((put..put + 5).map(comment));
            put += 5;
        }
        server.signal("KILL");
        server.wait();
    }
    let server = Server::start(&config);
    eventually("all are finished", || server.count("finished") as usize == put);
    let text = fs::read_to_string(folder.path().join("out.ndjson")).expect("it is there");
    let mut numbers: Vec<usize> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("whole lines");
            line["data"]["n"].as_u64().expect("a number") as usize
        })
        .collect();
    // What was under way when the server was killed was done again, and nothing has overtaken it.
    numbers.dedup();
    assert!(numbers.into_iter().eq(0..put));
}

#[test]
fn what_pipelines_have_published_is_there_again_after_a_crash_and_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!("data_dir = {:?}\n", folder.path())
        + &config(ROUTE, CHANNELS).replace("durability = \"memory\"", "durability = \"disk\"");
    for life in 0..3 {
        let mut server = Server::start(&config);
        let mut feed = Reader::with(&server, Transport::Stream, "thread.2", "&backtrack=100");
        let mut heard = |n: usize| -> Vec<u64> {
            let data = (0..n).map(|_| serde_json::from_str::<Value>(&feed.data()).expect("JSON"));
            data.map(|data| data["n"].as_u64().expect("a number")).collect()
        };
        assert!(heard(life * 10).into_iter().eq(0..life as u64 * 10), "life {life}");
        server.put((life * 10..life * 10 + 10).map(comment));
        heard(10);
        eventually("all are finished", || server.count("finished") == (life as u64 + 1) * 10);
        server.signal("KILL");
        server.wait();
    }
    let mut server = Server::start(&config);
    let bearer = format!("Bearer {SECRET}");
    let answer = server.request("DELETE", &format!("/pub/{KEY}/forum.1"), &[("Authorization", &bearer)], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    server.put((30..40).map(comment));
    eventually("all are finished", || server.count("finished") == 40);
    server.signal("KILL");
    server.wait();
    // Nor is what a graceful stop has saved published again.
    for _ in 0..2 {
        let mut server = Server::start(&config);
        for (channel, kept) in [("thread.2", 40), ("forum.1", 10)] {
            let history = server.signed("GET", &format!("/apps/1/channels/{channel}/history"), &[], "").json();
            assert_eq!(history["publications"].as_array().expect("a list").len(), kept, "{channel}");
            assert_eq!(history["publications"][kept - 1]["event_id"], "comments:40");
        }
        server.signal("TERM");
        assert!(server.wait().success());
    }
}

#[test]
fn a_disk_that_fails_is_shown_where_publications_are_written_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!("data_dir = {:?}\n", folder.path()) + &config(ROUTE, CHANNELS);
    let server = Server::start_with_files_to_fill(&config);
    assert_eq!(server.metric("fanfare_recall_failing"), 0.0);
    server.fill_files();
    let bearer = format!("Bearer {SECRET}");
    for _ in 0..2 {
        server.request("DELETE", &format!("/pub/{KEY}/forum.1"), &[("Authorization", &bearer)], "");
    }
    assert_eq!((server.metric("fanfare_recall_failing"), server.metric("fanfare_recall_missed_total")), (1.0, 2.0));
}

#[test]
fn stages_and_sinks_are_counted() {
    let server = Server::start(&config(&format!("{{ stage = \"condition\", where = \"n != 3\" }}, {ROUTE}"), CHANNELS));
    server.put((0..10).map(comment));
    eventually("all are finished", || server.count("finished") == 10);
    let metrics = server.admin_get("/metrics").body;
    for line in [
        r#"fanfare_pipeline_jobs_total{app="1",queue="comments",what="finished"} 10"#,
        r#"fanfare_pipeline_stage_records_total{app="1",pipeline="comments",part="2.condition",what="in"} 10"#,
        r#"fanfare_pipeline_stage_records_total{app="1",pipeline="comments",part="2.condition",what="dropped_condition"} 1"#,
        r#"fanfare_pipeline_sink_records_total{app="1",pipeline="comments",part="1.channels",what="out"} 9"#,
        r#"fanfare_pipeline_in_flight{app="1",pipeline="comments",part="1.channels"} 0"#,
        r#"fanfare_pipeline_circuit_open{app="1",pipeline="comments",part="1.channels"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}
