//! `compare`: a verb against a reference (`raw`, or nginx with nchan) and against a server, in turns, each freshly started for
//! each turn: the server on one CPU, the clients on another. The figures that differ are printed as ratios, round by round,
//! because two runs beside each other say more than any number of runs apart.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::value_parser;
use serde_json::{Value, json};

use crate::crew::own_verb;
use crate::machine::{Loopback, Tuned};
use crate::report::shown;
use crate::target::Dialect;
use crate::{nchan, sys};

/// Options of `compare`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The server's executable; the `fanfare` that this one is or lies beside, unless given
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Its arguments; {addr} and {admin} become free addresses
    #[arg(
        long,
        default_value = "serve --listen {addr} --admin-listen {admin} --data-dir=",
        allow_hyphen_values = true
    )]
    server_args: String,
    /// What the server is compared with
    #[arg(long, value_enum, default_value_t = Reference::Raw)]
    against: Reference,
    /// How often each of the two is measured
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// The CPU of the servers
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// The CPU of all clients
    #[arg(long, default_value_t = 1)]
    client_cpu: usize,
    /// Set RPS and the backlog of the loopback device as recommended, and put them back afterwards
    #[arg(long)]
    tune: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The verb with its options; fanout --lockstep -n 5000 -p 200 unless given
    #[arg(last = true, value_name = "VERB")]
    verb: Vec<String>,
}

/// What a server's figures are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Reference {
    /// A bare epoll loop of this crate
    Raw,
    /// nginx with Debian's libnginx-mod-nchan; for long-polling
    Nchan,
}

impl Reference {
    fn name(self) -> &'static str {
        match self {
            Reference::Raw => "raw",
            Reference::Nchan => "nchan",
        }
    }
}

const DEFAULT_VERB: &str = "fanout --lockstep -n 5000 -p 200";
const START_PATIENCE: Duration = Duration::from_secs(10);

/// What one turn measured, by name.
type Figures = BTreeMap<String, f64>;

pub fn run(options: &Options) -> Result<()> {
    let _tuned = options.tune.then(|| Tuned::apply(options.client_cpu)).transpose()?;
    let settings = Loopback::read()?;
    let suits = settings.suits(options.client_cpu);
    if !options.json {
        let remark = if suits { "as recommended" } else { "NOT as recommended: see --tune" };
        println!("loopback: {settings} ({remark})");
    }
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        let reference = options.measure(options.reference()?)?;
        let server = options.measure(options.server()?)?;
        rounds.push((reference, server));
    }
    let rows = rows(&rounds);
    if options.json {
        println!(
            "{}",
            json!({
                "loopback_as_recommended": suits,
                "verb": options.verb_line(),
                "figures": rows_json(&rows, options.against)
            })
        );
    } else {
        print_table(&options.verb_line(), &rows, options.against);
    }
    Ok(())
}

impl Options {
    fn verb_words(&self) -> Vec<String> {
        match self.verb.is_empty() {
            true => DEFAULT_VERB.split_whitespace().map(str::to_owned).collect(),
            false => self.verb.clone(),
        }
    }

    fn verb_line(&self) -> String {
        self.verb_words().join(" ")
    }

    fn reference(&self) -> Result<Started> {
        let address = free_address()?;
        match self.against {
            Reference::Raw => {
                let mut command = own_verb("raw")?;
                command.arg("--listen").arg(address.to_string());
                Started::start(command, address, self.server_cpu)
            }
            Reference::Nchan => {
                let home = nchan::Home::make(address)?;
                let mut started = Started::start(home.command(), address, self.server_cpu)?;
                started.dialect = Dialect::Nchan;
                started.home = Some(home);
                Ok(started)
            }
        }
    }

    fn server(&self) -> Result<Started> {
        let (address, admin) = (free_address()?, free_address()?);
        let executable = match &self.server {
            Some(path) => path.clone(),
            None => own_server()?,
        };
        let mut command = Command::new(executable);
        for word in self.server_args.split_whitespace() {
            command.arg(word.replace("{addr}", &address.to_string()).replace("{admin}", &admin.to_string()));
        }
        Started::start(command, address, self.server_cpu)
    }

    /// Runs the verb in a process of its own against a server, which ends with it.
    fn measure(&self, server: Started) -> Result<Figures> {
        let words = self.verb_words();
        let (verb, arguments) = words.split_first().context("no verb")?;
        let mut command = own_verb(verb)?;
        command.args(arguments).args(["--url", &server.address.to_string()]);
        command.args(["--server-pid", &server.process.id().to_string(), "--json"]);
        if server.dialect == Dialect::Nchan {
            command.args(["--dialect", "nchan"]);
        }
        sys::bind_child(&mut command, Some(self.client_cpu));
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "`{}` failed against {}", self.verb_line(), server.name);
        figures(&output.stdout)
    }
}

/// The executable that `fanfare bench` is a part of, or else its neighbour.
fn own_server() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    if own.file_stem().is_some_and(|stem| stem != "fanfare-bench") {
        return Ok(own);
    }
    let neighbour = own.with_file_name("fanfare");
    ensure!(neighbour.exists(), "no `fanfare` beside {}: give --server", own.display());
    Ok(neighbour)
}

/// An address that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A running server. Ends when dropped.
struct Started {
    name: String,
    process: Child,
    address: SocketAddr,
    dialect: Dialect,
    /// Outlives the process, which is killed first.
    home: Option<nchan::Home>,
}

impl Started {
    fn start(mut command: Command, address: SocketAddr, cpu: usize) -> Result<Started> {
        sys::bind_child(&mut command, Some(cpu));
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.spawn().with_context(|| format!("starting {name}"))?;
        let mut started = Started { name, process, address, dialect: Dialect::Fanfare, home: None };
        started.wait_until_it_accepts()?;
        Ok(started)
    }

    fn wait_until_it_accepts(&mut self) -> Result<()> {
        let give_up = Instant::now() + START_PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("{} has ended: {status}", self.name);
            }
            ensure!(Instant::now() < give_up, "{} does not listen on {}", self.name, self.address);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All numbers of a verb's report, latencies too.
fn figures(report: &[u8]) -> Result<Figures> {
    let report: Value = serde_json::from_slice(report).context("a verb's report is not JSON")?;
    let mut figures = Figures::new();
    for (name, value) in report["figures"].as_object().into_iter().flatten() {
        figures.extend(value.as_f64().map(|value| (name.clone(), value)));
    }
    for (of, percentiles) in report["latency_us"].as_object().into_iter().flatten() {
        for (quantile, us) in percentiles.as_object().into_iter().flatten() {
            figures.extend(us.as_f64().map(|us| (format!("latency_{of}_{quantile}_us"), us)));
        }
    }
    Ok(figures)
}

/// A figure over all rounds.
struct Row {
    name: String,
    reference: Spread,
    server: Spread,
    ratio: Spread,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Spread { min: values[0], median, max: values[values.len() - 1] }
    }

    fn json(&self) -> Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

/// The figures that both have and that differ in any round; what is the same on both sides was an input.
fn rows(rounds: &[(Figures, Figures)]) -> Vec<Row> {
    let Some((first, _)) = rounds.first() else {
        return Vec::new();
    };
    let row = |name: &String| {
        let pairs: Option<Vec<(f64, f64)>> =
            rounds.iter().map(|(reference, server)| Some((*reference.get(name)?, *server.get(name)?))).collect();
        let pairs = pairs.filter(|pairs| pairs.iter().any(|(reference, server)| reference != server))?;
        Some(Row {
            name: name.clone(),
            reference: Spread::of(pairs.iter().map(|pair| pair.0).collect()),
            server: Spread::of(pairs.iter().map(|pair| pair.1).collect()),
            ratio: Spread::of(pairs.iter().map(|(reference, server)| server / reference).collect()),
        })
    };
    first.keys().filter_map(row).collect()
}

fn rows_json(rows: &[Row], against: Reference) -> Value {
    let row = |row: &Row| {
        let spreads =
            json!({ against.name(): row.reference.json(), "server": row.server.json(), "ratio": row.ratio.json() });
        (row.name.clone(), spreads)
    };
    Value::Object(rows.iter().map(row).collect())
}

fn print_table(verb: &str, rows: &[Row], against: Reference) {
    println!("{verb}");
    println!("{:<34} {:>12} {:>12} {:>24}", "medians", against.name(), "server", "ratio (min .. max)");
    for Row { name, reference, server, ratio } in rows {
        let ratios = format!("{:.3} ({:.3} .. {:.3})", ratio.median, ratio.min, ratio.max);
        println!("{name:<34} {:>12} {:>12} {ratios:>24}", shown(reference.median), shown(server.median));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let round = |raw: f64, server: f64| {
            let figures = |cpu| Figures::from([("cpu_us".to_owned(), cpu), ("subscribers".to_owned(), 10.0)]);
            (figures(raw), figures(server))
        };
        let rows = rows(&[round(2.0, 4.0), round(4.0, 4.0), round(1.0, 3.0)]);
        assert_eq!(rows.len(), 1, "the input is left out");
        assert_eq!(rows[0].ratio, Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(rows[0].reference.median, 2.0);
    }
}
