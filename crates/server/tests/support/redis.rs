//! Redis as people run it: one server, two, a group that Sentinels watch, a Cluster; and what goes wrong with it.
//!
//! ```ignore
//! let mut redis = Redis::standalone();
//! redis.ask(&["SET", "a", "1"]);
//! redis.kill();
//! redis.restart_empty();
//! ```
//!
//! Always true:
//! - every process is Debian's own `redis-server`, on ports of this test alone that stay its own until the test ends,
//!   also while no server listens on them;
//! - every process ends with the value that holds it, and with the thread that started it;
//! - it speaks RESP by itself and names nothing of the code under test, and nothing of its neighbours here: the unit
//!   tests of the server take this file in by its path.

#![allow(dead_code, unused_imports)]

#[path = "redis/cluster.rs"]
mod cluster;
#[path = "redis/port.rs"]
mod port;
#[path = "redis/resp.rs"]
mod resp;
#[path = "redis/sentinel.rs"]
mod sentinel;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use cluster::Cluster;
pub use port::Port;
pub use resp::{Client, Reply};
pub use sentinel::Sentinel;

/// How long a fixture waits for what a Redis does by itself, on a busy machine: a Sentinel that stood still for two seconds
/// does nothing for thirty (its "TILT").
pub const PATIENCE: Duration = Duration::from_secs(80);

/// One `redis-server`. Dropping it ends it.
pub struct Redis {
    port: Port,
    folder: TempDir,
    /// What it was told beside the port and the folder.
    args: Vec<String>,
    /// The program's name: a Sentinel is a server with another one.
    program: &'static str,
    child: Child,
}

impl Redis {
    /// One that keeps nothing on disk.
    pub fn standalone() -> Redis {
        Redis::with(&[])
    }

    /// Two that do not know each other.
    pub fn pair() -> [Redis; 2] {
        [Redis::standalone(), Redis::standalone()]
    }

    /// A primary and its replica, watched by three Sentinels under the name `one`.
    pub fn sentinel() -> Sentinel {
        Sentinel::start("one")
    }

    /// A Cluster of three primaries and three replicas.
    pub fn cluster() -> Cluster {
        Cluster::start()
    }

    /// One with these arguments, such as `["--maxmemory", "5mb"]`; later ones win over the fixture's own. With
    /// `--requirepass` the fixture itself knows the password.
    pub fn with(args: &[&str]) -> Redis {
        let quiet = ["--save", "", "--appendonly", "no", "--loglevel", "notice"];
        Redis::launch("redis-server", None, &[&quiet, args].concat())
    }

    fn launch(program: &'static str, config: Option<String>, args: &[&str]) -> Redis {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = Port::claim();
        let mut args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        if let Some(config) = config {
            let file = folder.path().join("redis.conf");
            fs::write(&file, config).expect("the configuration is written");
            args.insert(0, file.to_str().expect("its path is text").to_owned());
        }
        let child = spawn(program, &port, folder.path(), &args);
        let mut redis = Redis { port, folder, args, program, child };
        redis.await_ready();
        redis
    }

    /// The port, which is the same after a restart.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// As the configuration names it.
    pub fn url(&self) -> String {
        let password = self.password().map_or(String::new(), |password| format!(":{password}@"));
        format!("redis://{password}{}", self.addr())
    }

    /// The process' id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder: dump, append-only file, log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connection of its own, for what must not share one.
    pub fn client(&self) -> Client {
        self.try_client().unwrap_or_else(|error| panic!("{}: {error}\n{}", self.addr(), self.log()))
    }

    fn try_client(&self) -> std::io::Result<Client> {
        let mut client = Client::connect(self.addr())?;
        if let Some(password) = self.password() {
            client.ask(&["AUTH", password])?;
        }
        Ok(client)
    }

    /// A command, on a connection of its own. An error is a reply like any other.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> Reply {
        let answer = self.try_client().and_then(|mut client| client.ask(words));
        answer.unwrap_or_else(|error| panic!("{words:?} to {}: {error}\n{}", self.addr(), self.log()))
    }

    /// The same where the server may be gone.
    pub fn try_ask(&self, words: &[&str]) -> Option<Reply> {
        self.try_client().and_then(|mut client| client.ask(words)).ok()
    }

    /// A command that must not be refused.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Reply {
        let reply = self.ask(words);
        assert!(!matches!(reply, Reply::Error(_)), "{words:?} to {}: {reply:?}", self.addr());
        reply
    }

    /// A field of INFO, such as `master_replid`; empty if there is none.
    pub fn info(&self, field: &str) -> String {
        self.try_info(field).unwrap_or_default()
    }

    fn try_info(&self, field: &str) -> Option<String> {
        let text = self.try_ask(&["INFO", "everything"])?.text();
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned))
    }

    /// How often a command was called, as `INFO commandstats` counts: `calls("evalsha")`.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.info(&format!("cmdstat_{command}"));
        let calls = stats.split(',').find_map(|stat| stat.strip_prefix("calls="));
        calls.and_then(|calls| calls.parse().ok()).unwrap_or(0)
    }

    /// Sets a directive of a running server.
    #[track_caller]
    pub fn config(&self, name: &str, value: &str) {
        self.run(&["CONFIG", "SET", name, value]);
    }

    /// Forgets all keys; the process stays the same.
    pub fn flush(&self) {
        self.run(&["FLUSHALL"]);
    }

    /// Ends the connections of a kind: `normal`, `pubsub`, `replica`.
    pub fn cut(&self, kind: &str) {
        self.run(&["CLIENT", "KILL", "TYPE", kind]);
    }

    /// Ends the process as a crash does.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Holds the process still, as a machine that swaps or a debugger does.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn cont(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(sent.expect("sh runs").success(), "{name} to {}", self.addr());
    }

    /// Starts it again, if need be after killing it, with what is in its folder: nothing, unless it was told to keep its
    /// data.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.program, &self.port, self.folder.path(), &self.args);
        self.await_ready();
    }

    /// Starts it again with the data that it has now.
    pub fn restart_with_data(&mut self) {
        self.run(&["SAVE"]);
        self.restart();
    }

    /// Starts it again without any data.
    pub fn restart_empty(&mut self) {
        self.kill();
        let _ = fs::remove_file(self.folder.path().join("dump.rdb"));
        let _ = fs::remove_dir_all(self.folder.path().join("appendonlydir"));
        self.restart();
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn password(&self) -> Option<&str> {
        let at = self.args.iter().position(|arg| arg == "--requirepass")?;
        self.args.get(at + 1).map(String::as_str)
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask(&["PING"]).is_none_or(|reply| reply.text() != "PONG") {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none() && Instant::now() < deadline, "no Redis at {}:\n{}", self.addr(), self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the log of {} at {} ---\n{}---", self.program, self.addr(), self.log());
        }
    }
}

/// `setpriv` lets the kernel end the process if the test is killed and drops nothing.
fn spawn(program: &str, port: &Port, folder: &Path, args: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    // A file comes before all options.
    let (file, args) = args.split_at(args.first().is_some_and(|arg| !arg.starts_with("--")).into());
    command.args(file).args(["--port", &port.number().to_string(), "--bind", "127.0.0.1"]).args(["--dir", "."]);
    command.args(args).current_dir(folder).stdin(Stdio::null()).stderr(Stdio::null()).stdout(log);
    command.spawn().expect("redis-server is installed: `cargo xtask setup`")
}

/// Waits for what a Redis does by itself.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}
