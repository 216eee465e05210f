//! nginx with the nchan module, set up to be measured beside ours: one process, no log, in a directory of its own.
//!
//! Needs Debian's `nginx` and `libnginx-mod-nchan`, or what is like them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io, process};

use anyhow::{Context, Result};

const CONFIG: &str = include_str!("../nchan/nginx.conf");
/// Where distributions put modules.
const MODULES: [&str; 3] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/lib/nginx/modules"];
const MODULE: &str = "ngx_nchan_module.so";

/// Its directory; removed when dropped.
#[derive(Debug)]
pub struct Home(PathBuf);

impl Home {
    /// Writes the configuration for an address.
    pub fn make(address: SocketAddr) -> Result<Home> {
        let home = Home(env::temp_dir().join(format!("fanfare-bench-nchan-{}-{}", process::id(), address.port())));
        fs::create_dir_all(&home.0).with_context(|| format!("making {}", home.0.display()))?;
        let config = CONFIG
            .replace("{dir}", &home.0.to_string_lossy())
            .replace("{address}", &address.to_string())
            .replace("{module}", &module()?.to_string_lossy());
        fs::write(home.config(), config)?;
        Ok(home)
    }

    /// What starts it.
    pub fn command(&self) -> Command {
        // Debian keeps it where only root's PATH leads.
        let program = Some("/usr/sbin/nginx").filter(|path| Path::new(path).exists()).unwrap_or("nginx");
        let mut command = Command::new(program);
        command.arg("-e").arg(self.0.join("error.log")).arg("-p").arg(&self.0).arg("-c").arg(self.config());
        command
    }

    fn config(&self) -> PathBuf {
        self.0.join("nginx.conf")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

fn module() -> Result<PathBuf> {
    let candidates = MODULES.map(|directory| Path::new(directory).join(MODULE));
    let found = candidates.into_iter().find(|path| path.exists());
    found.with_context(|| format!("no {MODULE}: install nginx and libnginx-mod-nchan"))
}
