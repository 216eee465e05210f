//! The load balancers of `docs/scaling.md`, as they are written there, before nodes that are restarted in turn.
//!
//! Skipped where nginx or HAProxy is not installed; `cargo xtask setup` installs both.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::show::{Show, config};
use crate::support::redis::{Port, Redis};
use crate::support::{Nodes, eventually};

const PAGE: &str = include_str!("../../../../docs/scaling.md");

/// A balancer with the configuration of the page.
struct Balancer {
    child: Child,
    addr: SocketAddr,
    folder: tempfile::TempDir,
    _port: Port,
}

impl Balancer {
    /// Starts what `command` makes of a folder and a configuration in it; `None` where the program is not installed.
    fn start(
        language: &str,
        nodes: &Nodes,
        program: &str,
        command: impl Fn(&mut Command, &str, &mut String),
    ) -> Option<Balancer> {
        if !Path::new(program).exists() {
            eprintln!("skipped: there is no {program} here");
            return None;
        }
        let port = Port::claim();
        let addr = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let mut config = at_addresses(&code(language), nodes, addr);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut launch = Command::new(program);
        command(&mut launch, folder.path().to_str().expect("its path is text"), &mut config);
        fs::write(folder.path().join("conf"), config).expect("the configuration is written");
        let log = fs::File::create(folder.path().join("log")).expect("a log");
        let child = launch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts");
        let balancer = Balancer { child, addr, folder, _port: port };
        eventually("the balancer listens", || TcpStream::connect(addr).is_ok());
        Some(balancer)
    }

    fn nginx(nodes: &Nodes) -> Option<Balancer> {
        Balancer::start("nginx", nodes, "/usr/sbin/nginx", |command, folder, config| {
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
                .concat();
            *config = config.replace("http {\n", &format!("http {{\naccess_log off;\n{temporary}"));
            let directives = format!("pid {folder}/pid; daemon off; master_process off;");
            command.args(["-e", &format!("{folder}/log"), "-p", folder, "-c", "conf", "-g", &directives]);
        })
    }

    fn haproxy(nodes: &Nodes) -> Option<Balancer> {
        Balancer::start("haproxy", nodes, "/usr/sbin/haproxy", |command, folder, config| {
            // What the tests' limit of open files allows.
            *config = config.replace("maxconn 200000", "maxconn 2000");
            command.args(["-db", "-f", "conf"]).current_dir(folder);
        })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

/// The code block of the page in this language.
fn code(language: &str) -> String {
    let code = PAGE.split_once(&format!("```{language}\n")).and_then(|(_, rest)| rest.split_once("```"));
    code.expect("the page has a configuration").0.to_owned()
}

/// A configuration of the page, for a test's own addresses.
fn at_addresses(config: &str, nodes: &Nodes, addr: SocketAddr) -> String {
    let mut config =
        config.replace("listen 80 ", &format!("listen {addr} ")).replace("bind :80", &format!("bind {addr}"));
    for ix in 0..3 {
        config = config.replace(&format!("127.0.0.1:600{}", ix + 1), &nodes.addr(ix).to_string());
        let admin = nodes.admin_port(ix);
        config = config.replace(&format!("port 960{}", ix + 1), &format!("port {admin}"));
    }
    config
}

/// Everybody connects through the balancer, and is dealt to whichever node.
fn restart_behind(name: &'static str, balancer: impl Fn(&Nodes) -> Option<Balancer>) {
    let redis = Redis::standalone();
    let nodes = Nodes::start(&redis.url(), 3, &config());
    let Some(balancer) = balancer(&nodes) else { return };
    let mut show = Show::begin_at(name, nodes, &[balancer.addr]);
    let connections: Vec<_> = (0..3).map(|ix| show.nodes.node(ix).metric("fanfare_connections")).collect();
    println!("{name}: connections {connections:?}");
    assert!(connections.iter().all(|count| *count > 0.0), "every node has its share: {connections:?}");
    for ix in 0..3 {
        let stopped = Instant::now();
        show.nodes.terminate(ix);
        show.nodes.restart(ix);
        show.nodes.await_ready(ix);
        show.recover("restarted", stopped);
    }
    let verdict = show.end();
    assert_eq!(verdict.told, 0, "who had a cursor went on from there: {verdict:?}");
}

#[test]
fn nodes_behind_nginx_are_restarted_without_loss() {
    restart_behind("nginx", Balancer::nginx);
}

#[test]
fn nodes_behind_haproxy_are_restarted_without_loss() {
    restart_behind("HAProxy", Balancer::haproxy);
}
