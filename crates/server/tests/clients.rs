//! The official Pusher libraries and the common readers of event streams, unchanged and pinned, and our own client, against
//! the real server.
//!
//! Each library has a driver in `tests/clients` that makes every call the library has and checks what comes of it. A
//! driver is a program of its own: it is told where the server is, and its exit status is the result.
//!
//! `cargo xtask setup` installs what the drivers need.

mod support;

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use support::proxy::Proxy;
use support::redis::Redis;
use support::{APP_ID, Certificate, KEY, Program, SECRET, Server, one_app};

/// The toggles that some calls need on. Everything else is as a new user finds it.
const FEATURES: &str = "client_events = true\nsubscription_count = true";

/// Enough for what is published while a client is away, on a machine that is busy.
const HISTORY: &str = "[[apps.history]]\nchannels = \"*\"\nmessages = 10000\nbytes = 1048576";

#[test]
fn pusher_js_in_node() {
    node("pusher-js.mjs", &Server::start(&one_app(FEATURES)));
}

#[test]
fn pusher_js_in_node_over_xhr_streaming() {
    run(over("xhr_streaming", "pusher-js.mjs", &Server::start(&one_app(FEATURES))));
}

#[test]
fn pusher_js_in_node_over_xhr_polling() {
    run(over("xhr_polling", "pusher-js.mjs", &Server::start(&one_app(FEATURES))));
}

#[test]
fn pusher_js_over_xhr_streaming_whose_requests_go_to_any_of_three_nodes() {
    run(Nodes::start().over("xhr_streaming", "pusher-js.mjs"));
}

#[test]
fn pusher_js_over_xhr_polling_whose_requests_go_to_any_of_three_nodes() {
    run(Nodes::start().over("xhr_polling", "pusher-js.mjs"));
}

#[test]
fn pusher_js_hears_what_a_pipeline_encrypts() {
    // The master key of the drivers.
    let pipeline = r#"
        [[apps.queues]]
        name = "rooms"
        durability = "memory"
        [[apps.pipelines]]
        name = "rooms"
        queue = "rooms"
        stages = [
            { stage = "json" },
            { stage = "pusher_encrypted", key = "master" },
            { stage = "route", channels = ["private-encrypted-{{ room }}", "open-{{ room }}"], event = "{{ kind }}" },
        ]
        sinks = [{ sink = "channels" }]
        [ingest.keys]
        master = "fanfarefanfarefanfarefanfarefanf""#;
    node("pusher-pipeline.mjs", &Server::start(&one_app(&format!("{FEATURES}{pipeline}"))));
}

#[test]
fn pusher_js_falls_back_by_itself() {
    // With a transport named, the port of WebSockets is blocked.
    run(over("xhr_streaming", "fallback.mjs", &Server::start(&one_app(FEATURES))));
}

#[test]
fn pusher_js_in_node_on_two_nodes() {
    let servers = Redis::pair();
    let redis = servers.each_ref().map(Redis::url).join(",");
    let nodes = support::Nodes::start(&redis, 2, &one_app(FEATURES));
    let mut driver = node_command("pusher-js.mjs", nodes.node(0));
    let ports: Vec<_> = nodes.addrs().iter().map(|addr| addr.port().to_string()).collect();
    driver.env("FANFARE_PORTS", ports.join(","));
    run(driver);
}

#[test]
fn pusher_js_in_node_over_tls() {
    let certificate = Certificate::new();
    run(secretly(&certificate, "ws", "pusher-js.mjs", &secret_server(&certificate)));
}

#[test]
fn pusher_js_comes_back_after_a_restart() {
    let config = one_app(FEATURES);
    let mut first = Server::start(&format!("drain_s = 1\n{config}"));
    let mut command = node_command("reconnect.mjs", &first);
    let mut driver = command.stdout(Stdio::piped()).spawn().expect("node starts");
    let mut said = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
    await_line(&mut said, "subscribed");

    first.signal("TERM");
    first.wait();
    let second = Server::start_on(&config, &[], &first.addr.to_string());

    await_line(&mut said, "subscribed");
    second.publish("room", "after", "the restart");
    assert!(driver.wait().expect("node ends").success());
}

#[test]
fn the_node_server_library() {
    node("pusher-http-node.mjs", &Server::start(&one_app(FEATURES)));
}

#[test]
fn the_python_server_library() {
    python("pusher_http_python.py", &Server::start(&one_app(FEATURES)));
}

/// Django's form in one tab of Chromium, readers in another, and the queue and the pipeline between them.
#[test]
fn the_django_example() {
    let data = tempfile::tempdir().expect("a folder");
    let example = Command::new(clients().join(".venv/bin/python"))
        .arg(clients().join("../../examples/django-comments/run.py"))
        .args(["--site", "0", "--fanfare", "0", "--admin", "0"])
        .env("FANFARE", env!("CARGO_BIN_EXE_fanfare"))
        .env("DJANGO_COMMENTS_DATA", data.path())
        .stdout(Stdio::piped())
        .spawn();
    let mut example = Program(example.expect("run `cargo xtask setup` first"));
    // Kept until the end, as whoever prints into a closed pipe ends.
    let mut said = BufReader::new(example.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok);
    let site = said.find_map(|line| Some(line.strip_prefix("comments: ")?.to_owned()));
    let site = site.expect("the example says where the site is");
    let site = site.split_whitespace().next().expect("an address");
    let driver = Command::new("node").arg("django.mjs").current_dir(clients()).env("SITE", site).status();
    assert!(driver.expect("node starts").success());
}

#[test]
fn laravel_echo() {
    node("laravel-echo.mjs", &Server::start(&one_app(FEATURES)));
}

#[test]
fn event_sources_in_node() {
    node("event-sources.mjs", &Server::start(&one_app(HISTORY)));
}

#[test]
fn httpx_sse() {
    python("httpx_sse_reader.py", &Server::start(&one_app(HISTORY)));
}

#[test]
fn curl() {
    run(driver_command("bash", "curl.sh", &Server::start(&one_app(""))));
}

#[test]
fn fanfare_js_behind_a_network_that_keeps_failing() {
    let server = Server::start(&one_app("[[apps.history]]\nchannels = \"*\"\nmessages = 10000\nseconds = 300"));
    let mut command = node_command("drops.mjs", &server);
    command.args(["--subscribers", "5", "--seconds", "7", "--every", "3", "--for", "1"]);
    // Node 20 has WebSockets, but only shows them when asked.
    command.env("NODE_OPTIONS", "--experimental-websocket");
    run(command);
}

#[test]
fn pusher_js_in_chromium() {
    node("chromium.mjs", &Server::start(&one_app(FEATURES)));
}

#[test]
fn pusher_js_in_chromium_over_xhr_streaming() {
    run(over("xhr_streaming", "chromium.mjs", &Server::start(&one_app(FEATURES))));
}

#[test]
fn pusher_js_in_chromium_over_xhr_polling() {
    run(over("xhr_polling", "chromium.mjs", &Server::start(&one_app(FEATURES))));
}

#[test]
fn pusher_js_in_chromium_over_tls() {
    let certificate = Certificate::new();
    run(secretly(&certificate, "ws", "chromium.mjs", &secret_server(&certificate)));
}

#[test]
fn pusher_js_in_chromium_over_http2() {
    let certificate = Certificate::new();
    run(secretly(&certificate, "xhr_streaming", "chromium.mjs", &secret_server(&certificate)));
}

#[test]
fn fanfare_js_in_node() {
    node("fanfare-node.mjs", &Server::start(&one_app(HISTORY)));
}

#[test]
fn fanfare_js_in_chromium() {
    node("fanfare-chromium.mjs", &Server::start(&one_app(HISTORY)));
}

#[test]
fn fanfare_js_obeys_the_rollout_in_node_and_chromium() {
    let server = Server::start(&one_app(HISTORY));
    let mut command = node_command("fanfare-rollout.mjs", &server);
    // The driver changes the configuration, and has it read again.
    command.env("FANFARE_CONFIG_FILE", server.config_file()).env("FANFARE_PID", server.pid().to_string());
    run(command);
}

#[test]
fn fanfare_js_loses_nothing_in_a_graceful_restart() {
    fanfare_js_and_a_restart("graceful", "TERM");
}

#[test]
fn fanfare_js_tells_the_gap_after_a_crash() {
    fanfare_js_and_a_restart("crash", "KILL");
}

#[test]
fn fanfare_js_goes_on_at_another_node_when_its_own_stops() {
    let redis = Redis::standalone();
    let config = format!("drain_s = 2\n{}\n[redis]\nservers = [\"{}\"]\n", one_app(HISTORY), redis.url());
    let [mut one, two] = [(); 2].map(|()| Server::start(&config));
    let balancer = Proxy::to(one.addr);
    let mut command = node_command("fanfare-restart.mjs", &one);
    command.env("FANFARE_PORT", balancer.addr.port().to_string()).env("RESTART", "graceful");
    let mut driver = command.stdout(Stdio::piped()).spawn().expect("node starts");
    let mut said = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
    await_line(&mut said, "subscribed");
    (0..10).for_each(|number| one.publish("room", "message", &number.to_string()));
    await_line(&mut said, "numbered");

    balancer.lead_to(two.addr);
    one.signal("TERM");
    // Some are still there, some have come, and some are in between.
    for number in 10..20 {
        two.publish("room", "message", &number.to_string());
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    assert!(one.wait().success());
    assert!(driver.wait().expect("node ends").success());
}

fn fanfare_js_and_a_restart(kind: &str, signal: &str) {
    let publish = |server: &Server, numbers: std::ops::Range<u32>| {
        numbers.for_each(|number| server.publish("room", "message", &number.to_string()));
    };
    let mut restart = Restart::begin(&one_app(HISTORY), "fanfare-restart.mjs", kind);
    restart.await_line("subscribed");
    publish(&restart.server, 0..10);
    restart.await_line("numbered");

    restart.with(signal);

    // What is published before they are back is theirs only if the server remembers where they were.
    if kind == "crash" {
        restart.await_line("gap");
    }
    publish(&restart.server, 10..20);
    restart.end();
}

#[test]
fn the_demo_page_in_chromium() {
    node("demo.mjs", &Server::start(""));
}

#[test]
fn the_demo_page_loses_nothing_in_a_graceful_restart() {
    the_demo_page_and_a_restart("graceful", "TERM");
}

#[test]
fn the_demo_page_tells_the_gap_after_a_crash() {
    the_demo_page_and_a_restart("crash", "KILL");
}

fn the_demo_page_and_a_restart(kind: &str, signal: &str) {
    let mut restart = Restart::begin("", "demo-restart.mjs", kind);
    restart.await_line("commented");
    restart.with(signal);
    let comment = r#"{"id":"away","user":"carl","name":"Carl","text":"while away","sent_ms":0}"#;
    restart.server.publish("thread.demo", "create", comment);
    restart.end();
}

/// Three nodes, and a load balancer in front of them that sends each request to the next one.
struct Nodes {
    nodes: [Server; 3],
    _balancer: Program,
    port: String,
    _redis: Redis,
}

impl Nodes {
    fn start() -> Nodes {
        let redis = Redis::standalone();
        let config = format!("{}\n[redis]\nservers = [\"{}\"]\n", one_app(FEATURES), redis.url());
        let nodes = [(); 3].map(|()| Server::start(&config));
        let ports = nodes.iter().map(|node| node.addr.port().to_string());
        let mut command = Command::new("node");
        command.arg("round-robin.mjs").args(ports).current_dir(clients()).stdout(Stdio::piped());
        let mut balancer = command.spawn().expect("node starts");
        let mut said = BufReader::new(balancer.stdout.take().expect("stdout is piped")).lines();
        let port = said.next().expect("it says where it listens").expect("a line");
        Nodes { nodes, _balancer: Program(balancer), port, _redis: redis }
    }

    fn over(&self, transport: &str, driver: &str) -> Command {
        let mut command = over(transport, driver, &self.nodes[0]);
        command.env("FANFARE_PORT", &self.port);
        command
    }
}

/// A driver whose server is restarted under it, on the same address and with the same data.
struct Restart {
    server: Server,
    config: String,
    data: tempfile::TempDir,
    driver: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Restart {
    fn begin(config: &str, driver: &str, kind: &str) -> Restart {
        let data = tempfile::tempdir().expect("a temporary folder");
        let server = start_with_data(config, &data, "127.0.0.1:0");
        let mut command = node_command(driver, &server);
        let mut driver = command.env("RESTART", kind).stdout(Stdio::piped()).spawn().expect("node starts");
        let said = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
        Restart { server, config: config.to_owned(), data, driver, said }
    }

    fn await_line(&mut self, wanted: &str) {
        await_line(&mut self.said, wanted);
    }

    fn with(&mut self, signal: &str) {
        self.server.signal(signal);
        self.server.wait();
        self.server = start_with_data(&self.config, &self.data, &self.server.addr.to_string());
    }

    fn end(mut self) {
        self.said.by_ref().map_while(Result::ok).for_each(|line| println!("{line}"));
        assert!(self.driver.wait().expect("node ends").success());
    }
}

fn start_with_data(config: &str, data: &tempfile::TempDir, listen: &str) -> Server {
    let data = data.path().to_str().expect("a path in UTF-8");
    Server::start_on(&format!("drain_s = 1\n{config}"), &["--data-dir", data], listen)
}

fn node(driver: &str, server: &Server) {
    run(node_command(driver, server));
}

/// The driver with another transport than WebSockets, whose port is blocked.
fn over(transport: &str, driver: &str, server: &Server) -> Command {
    let mut command = node_command(driver, server);
    command.env("FANFARE_TRANSPORT", transport);
    command
}

fn secret_server(certificate: &Certificate) -> Server {
    Server::start(&format!("{}{}", certificate.config(), one_app(FEATURES)))
}

/// The driver over TLS, trusting the certificate.
fn secretly(certificate: &Certificate, transport: &str, driver: &str, server: &Server) -> Command {
    let mut command = over(transport, driver, server);
    command.env("FANFARE_TLS", "1").env("NODE_EXTRA_CA_CERTS", certificate.cert_file());
    command
}

fn node_command(driver: &str, server: &Server) -> Command {
    assert!(clients().join("node_modules").exists(), "run `cargo xtask setup` first");
    driver_command("node", driver, server)
}

fn python(driver: &str, server: &Server) {
    let python = clients().join(".venv/bin/python");
    assert!(python.exists(), "run `cargo xtask setup` first");
    run(driver_command(python, driver, server));
}

fn driver_command(program: impl AsRef<Path>, driver: &str, server: &Server) -> Command {
    let mut command = Command::new(program.as_ref());
    command
        .arg(driver)
        .current_dir(clients())
        .env("FANFARE_HOST", server.addr.ip().to_string())
        .env("FANFARE_PORT", server.addr.port().to_string())
        .env("FANFARE_APP_ID", APP_ID)
        .env("FANFARE_KEY", KEY)
        .env("FANFARE_SECRET", SECRET)
        // Node 20 has it, but only shows it when asked.
        .env("NODE_OPTIONS", "--experimental-websocket");
    command
}

fn run(mut driver: Command) {
    let status = driver.status().expect("the driver starts");
    assert!(status.success(), "{driver:?} ended with {status}");
}

/// Waits until the driver says this.
fn await_line(said: &mut Lines<BufReader<ChildStdout>>, wanted: &str) {
    let mut lines = said.map(|line| line.expect("the driver speaks UTF-8"));
    assert!(lines.any(|line| line == wanted), "the driver ended before it said {wanted:?}");
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}
