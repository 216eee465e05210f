//! A running `fanfare serve`, and the requests that tests make of it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fanfare_proto::sign::sign_query;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{self, Response};
use super::pusher::Socket;
use super::websocket::WebSocket;
use super::{APP_ID, KEY, PATIENCE, SECRET, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_fanfare");

/// An address of the system's choice.
const ANYWHERE: &str = "127.0.0.1:0";

/// A server of this test alone. Dropping it ends it; when the test has failed, its log is shown.
pub struct Server {
    child: Child,
    folder: TempDir,
    log: Log,
    /// Where the public listener is.
    pub addr: SocketAddr,
    /// Where the admin listener is.
    pub admin: SocketAddr,
}

impl Server {
    /// Starts with this text as `fanfare.toml`. With none at all, the server has its development app.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// Starts with a configuration and further arguments of `serve`.
    pub fn start_with(config: &str, args: &[&str]) -> Self {
        Self::start_on(config, args, ANYWHERE)
    }

    /// Starts on a public address of the test's choice: that of a server which was there before.
    pub fn start_on(config: &str, args: &[&str], listen: &str) -> Self {
        Self::launch(Command::new(BINARY), config, args, [listen, ANYWHERE])
    }

    /// Starts with so many open files allowed, where `start` leaves the limit of the test itself.
    pub fn start_with_files(config: &str, files_max: usize) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files_max}; exec \"$0\" \"$@\""), BINARY]);
        Self::launch(command, config, &[], [ANYWHERE; 2])
    }

    /// Starts so that [`Server::fill_files`] makes its writes fail instead of ending it.
    pub fn start_with_files_to_fill(config: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", BINARY]);
        Self::launch(command, config, &[], [ANYWHERE; 2])
    }

    /// From now on no file can be written, as on a disk that fails.
    pub fn fill_files(&self) {
        self.fill_files_beyond(0);
    }

    /// From now on no file can be written behind its first so many bytes.
    pub fn fill_files_beyond(&self, bytes: u64) {
        let limit = format!("--fsize={bytes}");
        let limited = Command::new("prlimit").args(["--pid", &self.pid().to_string(), &limit]).status();
        assert!(limited.expect("prlimit runs").success());
    }

    /// Starts with these variables in its environment.
    pub fn start_in(config: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(BINARY);
        command.envs(environment.iter().copied());
        Self::launch(command, config, &[], [ANYWHERE; 2])
    }

    /// Starts as one of several nodes, on the Redis that `FANFARE_REDIS` names; with none, by itself. `listen` are the public
    /// and the admin address.
    pub fn start_beside(redis: &str, config: &str, args: &[&str], listen: [&str; 2]) -> Self {
        let mut command = Command::new("env");
        if !redis.is_empty() {
            command.arg(format!("FANFARE_REDIS={redis}"));
        }
        command.arg(BINARY);
        Self::launch(command, config, args, listen)
    }

    fn launch(mut command: Command, config: &str, args: &[&str], [public, admin]: [&str; 2]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        command
            .args(["serve", "--listen", public, "--admin-listen", admin])
            .args(args)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"FANFARE_")) {
            command.env_remove(name);
        }
        if !config.is_empty() {
            let file = folder.path().join("fanfare.toml");
            fs::write(&file, config).expect("the configuration is written");
            command.arg("--config").arg(file);
        }
        let mut child = command.spawn().expect("the server starts");
        let (log, lines) = Log::of(&mut child);
        let listening = Listening::await_in(&lines, &mut child, &log);
        Self { child, folder, log, addr: listening.public, admin: listening.admin }
    }

    /// The file that the server was started with, for tests that change it.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("fanfare.toml")
    }

    /// The server's own folder: its data directory is inside, unless the arguments said otherwise.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All that the server has printed so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The process' id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Memory that the server holds, as the kernel counts it.
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server has a status");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("VmRSS is a number of KiB") * 1024
    }

    /// Open files of the server: listeners, and one for each connection.
    pub fn open_files(&self) -> usize {
        self.files().count()
    }

    /// How many of those are sockets. What else there is may still be growing just after the start.
    pub fn open_sockets(&self) -> usize {
        let names = self.files().filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        names.filter(|name| name.to_string_lossy().starts_with("socket:")).count()
    }

    fn files(&self) -> fs::ReadDir {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server has a list of files")
    }

    /// Sends a signal by its name: `TERM`, `HUP`, `INT`.
    pub fn signal(&self, name: &str) {
        super::program::signal(self.pid(), name);
    }

    /// Changes its configuration, and waits until it goes by that.
    pub fn reload(&self, config: &str) {
        fs::write(self.config_file(), config).expect("the configuration is written");
        self.read_again();
    }

    /// Has it read its configuration again, and waits until it goes by that.
    pub fn read_again(&self) {
        let reloads = || self.log().matches("configuration reloaded").count();
        let before = reloads();
        self.signal("HUP");
        eventually("the configuration is read again", || reloads() > before);
    }

    /// Waits for the server to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the server is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server has not ended");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A Pusher connection, past `pusher:connection_established`.
    pub fn connect(&self) -> Socket {
        self.connect_to(&format!("/app/{KEY}?protocol=7&client=test&version=1.0"))
    }

    /// The same on a path of the test's choice.
    pub fn connect_to(&self, target: &str) -> Socket {
        Socket::established(self.websocket(target))
    }

    /// A WebSocket on which nothing was received yet.
    pub fn websocket(&self, target: &str) -> WebSocket {
        WebSocket::open(self.addr, target, &[]).expect("the server takes the WebSocket")
    }

    /// A bare TCP connection.
    pub fn tcp(&self) -> TcpStream {
        http::connect(self.addr)
    }

    /// Publishes an event, which must succeed with exactly `{}`.
    pub fn publish(&self, channel: &str, event: &str, data: &str) {
        let body = json!({"name": event, "channels": [channel], "data": data});
        let response = self.post("/events", &body);
        assert_eq!((response.status, response.body.as_str()), (200, "{}"));
    }

    /// A signed GET of a path below the app: `server.get("/channels", &[("info", "user_count")])`.
    pub fn get(&self, path: &str, params: &[(&str, &str)]) -> Response {
        self.signed("GET", &of_app(path), params, "")
    }

    /// A signed POST of a path below the app.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.signed("POST", &of_app(path), &[], &body.to_string())
    }

    /// A request signed with the app's secret. `path` is whole, and not escaped.
    pub fn signed(&self, method: &str, path: &str, params: &[(&str, &str)], body: &str) -> Response {
        self.signed_at(now_s(), method, path, params, body)
    }

    /// The same at another time, in seconds since 1970.
    pub fn signed_at(&self, at_s: u64, method: &str, path: &str, params: &[(&str, &str)], body: &str) -> Response {
        let (secret, body_bytes) = (SECRET.as_bytes(), body.as_bytes());
        let query = sign_query(secret, KEY, method, path, params, body_bytes, at_s);
        let target = format!("{}?{query}", path.replace(' ', "%20"));
        self.request(method, &target, &[("Content-Type", "application/json")], body)
    }

    /// A request as it stands.
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
        http::request(self.addr, method, target, headers, body)
    }

    /// A GET of the admin listener.
    pub fn admin_get(&self, target: &str) -> Response {
        http::request(self.admin, "GET", target, &[], "")
    }

    /// The value of a metric without labels, or with exactly these: `fanfare_connections{app="1"}`.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.admin_get("/metrics").body;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no metric {name} in:\n{page}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the server has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the server's log ---\n{}---", self.log.text());
        }
    }
}

fn of_app(path: &str) -> String {
    format!("/apps/{APP_ID}{path}")
}

/// Seconds since 1970, as requests are signed with.
pub fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_secs()
}

/// The two addresses that a starting server prints.
struct Listening {
    public: SocketAddr,
    admin: SocketAddr,
}

impl Listening {
    fn await_in(lines: &Receiver<String>, child: &mut Child, log: &Log) -> Self {
        let (mut public, mut admin) = (None, None);
        let deadline = Instant::now() + PATIENCE;
        while public.is_none() || admin.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                // It may have ended already, which is then what the log tells.
                let _ = child.kill();
                panic!("the server does not say where it listens:\n{}", log.text());
            };
            public = public.or(address(&line, "listening http="));
            admin = admin.or(address(&line, "admin http="));
        }
        let both = public.zip(admin);
        let (public, admin) = both.expect("the loop ends when both are there");
        Self { public, admin }
    }
}

fn address(line: &str, name: &str) -> Option<SocketAddr> {
    line.strip_prefix(name)?.trim().parse().ok()
}

/// What the server prints on both of its streams, gathered while it runs so that it never waits for a reader.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    /// Starts gathering, and hands on the lines of stdout as they come.
    fn of(child: &mut Child) -> (Self, Receiver<String>) {
        let (sender, lines) = channel();
        let log = Self::default();
        log.gather(child.stdout.take(), Some(sender));
        log.gather(child.stderr.take(), None);
        (log, lines)
    }

    fn gather(&self, from: Option<impl Read + Send + 'static>, lines: Option<Sender<String>>) {
        let (log, from) = (self.clone(), from.expect("the stream is piped"));
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                log.add(&line);
                // Nobody listens any more once the addresses are known.
                let _ = lines.as_ref().map(|lines| lines.send(line));
            }
        });
    }

    fn add(&self, line: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(line);
        text.push('\n');
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
