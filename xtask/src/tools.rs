//! What the tests need beside a Rust toolchain, installed when it is missing and left alone when it is there.
//!
//! Versions of the libraries under test are pinned in `tests/clients` (`package-lock.json`, `requirements.txt`). System
//! packages come from Debian or a descendant of it; elsewhere the message names what to install by hand.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::step::{Step, cargo, command, succeeds};

/// A Debian package, and a command that succeeds when what it brings is there.
struct Package {
    name: &'static str,
    check: (&'static str, &'static str),
}

const PACKAGES: [Package; 10] = [
    package("nodejs", "node", "--version"),
    package("npm", "npm", "--version"),
    package("python3-venv", "python3", "-m ensurepip --version"),
    package("chromium", "chromium", "--version"),
    package("nginx", "/usr/sbin/nginx", "-v"),
    package("libnginx-mod-nchan", "test", "-e /usr/lib/nginx/modules/ngx_nchan_module.so"),
    package("haproxy", "/usr/sbin/haproxy", "-v"),
    // The tests start their own on free ports; a service that the package starts beside them is left alone.
    package("redis-server", "redis-server", "--version"),
    package("redis-sentinel", "redis-sentinel", "--version"),
    package("faketime", "faketime", "--version"),
];

const fn package(name: &'static str, program: &'static str, args: &'static str) -> Package {
    Package { name, check: (program, args) }
}

/// Installs everything the tests need.
pub fn install(root: &Path) -> Result<()> {
    let clients = root.join("tests/clients");
    system_packages(root)?;
    node_packages(&clients)?;
    python_packages(&clients)?;
    nextest(root)
}

fn system_packages(root: &Path) -> Result<()> {
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| !succeeds(package.check.0, package.check.1))
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    ensure!(succeeds("apt-get", "--version"), "the tests need these Debian packages or what is like them: {names}");
    let install = format!("install --yes --no-install-recommends {names}");
    apt("package lists", "update --quiet").run_in(root)?;
    apt("system packages", &install).run_in(root)
}

/// A step that is a call of apt-get, as root.
fn apt(name: &str, args: &str) -> Step {
    let quietly = format!("DEBIAN_FRONTEND=noninteractive apt-get {args}");
    let as_root = if is_root() { "env" } else { "sudo" };
    Step::new(name, command(as_root, &quietly))
}

fn is_root() -> bool {
    let id = command("id", "-u").output();
    id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

fn node_packages(clients: &Path) -> Result<()> {
    let lock = clients.join("package-lock.json");
    unless_installed(&lock, &clients.join("node_modules"), || {
        let quietly = command("npm", "ci --no-audit --no-fund");
        Step::new("Node packages", quietly).run_in(clients)
    })
}

fn python_packages(clients: &Path) -> Result<()> {
    let venv = clients.join(".venv");
    unless_installed(&clients.join("requirements.txt"), &venv, || {
        let make = command("python3", "-m venv --clear .venv");
        let fill = "-m pip install --quiet --disable-pip-version-check -r requirements.txt";
        let fill = command(venv.join("bin/python"), fill);
        Step::new("Python environment", make).run_in(clients)?;
        Step::new("Python packages", fill).run_in(clients)
    })
}

/// Runs `install` unless `folder` says that it was made from this very `list`, and then lets it say so.
fn unless_installed(list: &Path, folder: &Path, install: impl Fn() -> Result<()>) -> Result<()> {
    let wanted = fs::read(list).with_context(|| format!("cannot read {}", list.display()))?;
    let stamp = folder.join(".installed-from");
    if fs::read(&stamp).is_ok_and(|made_from| made_from == wanted) {
        return Ok(());
    }
    install()?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

fn nextest(root: &Path) -> Result<()> {
    if succeeds("cargo", "nextest --version") {
        return Ok(());
    }
    cargo("cargo-nextest", "install cargo-nextest --locked").run_in(root)
}
