//! What the machine says about a process (`/proc`) and about its loopback device (`/sys`).

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys;

/// Ticks a second in `/proc/PID/stat`; fixed by the kernel's interface with user space.
const TICKS_PER_S: f64 = 100.0;
const RPS_CPUS: &str = "/sys/class/net/lo/queues/rx-0/rps_cpus";
const MAX_BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";
/// Below it, bursts of more packets than this are dropped on loopback once RPS is on, and every latency reads 200 ms.
const BACKLOG_RECOMMENDED: u64 = 65_535;

/// Long against a system call and a scheduler's tick, short against a round of thousands of answers.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Timers and the look itself are less, any request is more.
const IDLE_PCT: f64 = 2.0;
/// A server that is busy for 10 s without being asked is not going to be idle.
const LOOKS_MAX: u32 = 2_000;
const UNSEEN: Duration = Duration::from_millis(100);

/// What a process has used up to now.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub at_ns: u64,
    pub cpu_ns: u64,
    pub user_s: f64,
    pub system_s: f64,
    pub rss_bytes: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Usage> {
        let (user_s, system_s) = cpu_split(pid)?;
        Ok(Usage {
            at_ns: sys::monotonic_ns(),
            cpu_ns: sys::process_cpu_ns(pid).with_context(|| format!("CPU clock of process {pid}"))?,
            user_s,
            system_s,
            rss_bytes: rss_bytes(pid)?,
        })
    }

    /// CPU time used since `earlier`, in nanoseconds.
    pub fn cpu_ns_since(&self, earlier: &Usage) -> f64 {
        (self.cpu_ns - earlier.cpu_ns) as f64
    }

    /// How much of one CPU was used since `earlier`, in percent.
    pub fn busy_pct_since(&self, earlier: &Usage) -> f64 {
        100.0 * self.cpu_ns_since(earlier) / (self.at_ns - earlier.at_ns).max(1) as f64
    }

    /// How much of the CPU time since `earlier` was spent in the kernel, in percent; counted in ticks, so only roughly.
    pub fn system_pct_since(&self, earlier: &Usage) -> f64 {
        let system = self.system_s - earlier.system_s;
        let both = system + self.user_s - earlier.user_s;
        if both > 0.0 { 100.0 * system / both } else { 0.0 }
    }
}

/// Waits until a server does nothing any more, as far as can be seen: a look every few milliseconds, and hardly any CPU time
/// used between two of them. Without a process to look at, waits for a while.
pub fn wait_until_idle(pid: Option<u32>) -> Result<()> {
    let Some(pid) = pid else {
        std::thread::sleep(UNSEEN);
        return Ok(());
    };
    let mut before = Usage::of(pid)?;
    for _ in 0..LOOKS_MAX {
        std::thread::sleep(BETWEEN_LOOKS);
        let now = Usage::of(pid)?;
        if now.busy_pct_since(&before) < IDLE_PCT {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}

fn cpu_split(pid: u32) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The command's name may hold spaces and brackets; the fields are counted from the last bracket.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).with_context(|| format!("{path} has no CPU times"))?;
    Ok((user / TICKS_PER_S, system / TICKS_PER_S))
}

fn rss_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmRSS"))? * 1024)
}

/// The two settings that decide whose CPU pays for the receivers' half of loopback traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loopback {
    rps_cpus: String,
    max_backlog: u64,
}

impl Loopback {
    pub fn read() -> Result<Loopback> {
        let backlog = fs::read_to_string(MAX_BACKLOG).context(MAX_BACKLOG)?;
        Ok(Loopback {
            rps_cpus: fs::read_to_string(RPS_CPUS).context(RPS_CPUS)?.trim().to_owned(),
            max_backlog: backlog.trim().parse().context(MAX_BACKLOG)?,
        })
    }

    /// The receivers' work on the clients' CPU, and a backlog that a burst fits into.
    pub fn recommended(client_cpu: usize) -> Loopback {
        Loopback { rps_cpus: format!("{:x}", 1_u128 << client_cpu), max_backlog: BACKLOG_RECOMMENDED }
    }

    /// Whether a measurement under these settings charges the receivers' work to `client_cpu`, and drops nothing.
    pub fn suits(&self, client_cpu: usize) -> bool {
        let wanted = Loopback::recommended(client_cpu);
        let mask = |text: &str| u128::from_str_radix(&text.replace(',', ""), 16).ok();
        mask(&self.rps_cpus) == mask(&wanted.rps_cpus) && self.max_backlog >= wanted.max_backlog
    }

    fn write(&self) -> Result<()> {
        set(RPS_CPUS, &self.rps_cpus)?;
        set(MAX_BACKLOG, &self.max_backlog.to_string())
    }
}

impl std::fmt::Display for Loopback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rps_cpus={} netdev_max_backlog={}", self.rps_cpus, self.max_backlog)
    }
}

fn set(path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    fs::write(path, value).with_context(|| format!("writing {value} to {}", path.display()))
}

/// Settings changed for a measurement; put back when dropped.
#[derive(Debug)]
pub struct Tuned {
    before: Loopback,
}

impl Tuned {
    pub fn apply(client_cpu: usize) -> Result<Tuned> {
        let tuned = Tuned { before: Loopback::read()? };
        sys::outlive_interrupt();
        Loopback::recommended(client_cpu).write()?;
        Ok(tuned)
    }
}

impl Drop for Tuned {
    fn drop(&mut self) {
        if let Err(error) = self.before.write() {
            eprintln!("could not restore {}: {error:#}", self.before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_clock_that_rises() {
        let pid = std::process::id();
        let before = Usage::of(pid).expect("own /proc entry");
        let mut sum = 0_u64;
        for i in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum ^ i);
        }
        let after = Usage::of(pid).expect("own /proc entry");
        assert!(before.rss_bytes > 100_000);
        assert!(after.cpu_ns_since(&before) > 0.0);
    }

    #[test]
    fn a_mask_is_compared_as_a_number() {
        let set = Loopback { rps_cpus: "00000000,00000002".into(), max_backlog: 70_000 };
        assert!(set.suits(1));
        assert!(!set.suits(0));
        assert!(!Loopback { max_backlog: 1_000, ..set }.suits(1));
    }
}
