//! The account is only worth something if it catches a bad server: here the reference serves badly on purpose, over real
//! sockets and through real client processes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_fanfare-bench");

/// A `raw` server on a free port. Ends when dropped.
struct Raw {
    process: Child,
    address: String,
}

impl Raw {
    fn start(faults: &[&str]) -> Raw {
        let mut command = Command::new(BENCH);
        command.args(["raw", "--listen", "127.0.0.1:0"]).args(faults);
        let mut process = command.stdout(Stdio::piped()).spawn().expect("raw starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("raw says where it listens");
        let address = line.trim().strip_prefix("listening on ").expect("in these words").to_owned();
        Raw { process, address }
    }

    fn pid(&self) -> String {
        self.process.id().to_string()
    }

    /// Runs a verb against it; its output, and its report if it got that far.
    fn run(&self, verb: &str) -> (Output, Value) {
        let mut command = Command::new(BENCH);
        command.args(verb.split(' ')).args(["--url", &self.address, "--server-pid", &self.pid(), "--json"]);
        let output = command.output().expect("the verb starts");
        let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output, report)
    }

    /// Runs a verb that must succeed.
    fn report(&self, verb: &str) -> Value {
        let (output, report) = self.run(verb);
        assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(report["ok"], true);
        report["figures"].clone()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const PLAIN: [&str; 4] = ["ws", "sse", "stream", "longpoll"];
const FANOUT: &str = "fanout -n 20 -p 100 --warmup 10 --patience-ms 300";
const RESUME: &str = "resume -n 40 --missed 110 --before-s 0.2 --others 5 --patience-ms 500";
/// 110 publications to 20 subscribers.
const DELIVERIES: u64 = 2_200;

/// The figures of a run that must fail.
fn figures_of_failure(fault: &str) -> Value {
    let raw = Raw::start(&[fault, "10"]);
    let (output, report) = raw.run(FANOUT);
    assert!(!output.status.success(), "{fault} must make the verb fail");
    assert_eq!(report["ok"], false);
    report["figures"].clone()
}

#[test]
fn a_clean_server_passes() {
    let raw = Raw::start(&[]);
    let figures = raw.report(FANOUT);
    assert_eq!((figures["expected"].as_u64(), figures["delivered"].as_u64()), (Some(DELIVERIES), Some(DELIVERIES)));
    assert!(figures["server_cpu_us_per_delivery"].as_f64().expect("measured") > 0.0);
}

#[test]
fn a_clean_server_passes_however_it_is_driven() {
    let raw = Raw::start(&[]);
    for how in [
        "--in-flight 7 --channels 3 --processes 2",
        "--batch 4 --in-flight 3 --channels 5",
        "--lockstep --channels 3 --processes 2",
        "--rate 400 --size 20000",
    ] {
        let figures = raw.report(&format!("{FANOUT} {how}"));
        assert_eq!(figures["lost"], 0, "{how}");
        assert_eq!(figures["expected"], figures["delivered"], "{how}");
    }
}

#[test]
fn a_clean_server_passes_over_every_transport() {
    let raw = Raw::start(&[]);
    for transport in PLAIN {
        for how in ["--in-flight 7 --channels 3 --processes 2", "--lockstep", "--size 20000 -p 30"] {
            let figures = raw.report(&format!("fanout -n 20 --transport {transport} {how}"));
            assert_eq!(figures["expected"], figures["delivered"], "{transport} {how}");
        }
    }
}

#[test]
fn a_bad_server_fails_over_every_transport() {
    for (fault, figure) in [("--lossy", "lost"), ("--duplicate", "duplicated"), ("--corrupt", "corrupt")] {
        let raw = Raw::start(&[fault, "10"]);
        for transport in PLAIN {
            let (output, report) = raw.run(&format!("{FANOUT} --transport {transport}"));
            assert!(!output.status.success(), "{fault} over {transport} must make the verb fail");
            let count = report["figures"][figure].as_u64();
            // A poller that is behind gets the rest of what it is owed without mishap.
            let expected =
                if transport == "longpoll" { 1..=DELIVERIES / 10 } else { DELIVERIES / 10..=DELIVERIES / 10 };
            assert!(count.is_some_and(|count| expected.contains(&count)), "{fault} over {transport}: {count:?}");
        }
    }
}

#[test]
fn swapped_deliveries_are_counted_over_every_transport_that_can_swap() {
    let raw = Raw::start(&["--reorder", "10"]);
    for transport in ["ws", "sse", "stream"] {
        let (output, report) = raw.run(&format!("{FANOUT} --transport {transport}"));
        assert!(!output.status.success());
        assert!(report["figures"]["reordered"].as_u64() > Some(0), "over {transport}");
    }
}

#[test]
fn dropped_deliveries_are_counted_as_lost() {
    let figures = figures_of_failure("--lossy");
    assert_eq!(figures["lost"], DELIVERIES / 10);
    assert_eq!(figures["delivered"], DELIVERIES - DELIVERIES / 10);
    assert_eq!((figures["duplicated"].as_u64(), figures["reordered"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn a_loss_ends_lockstep_instead_of_hanging_it() {
    let raw = Raw::start(&["--lossy", "1000"]);
    let (output, report) = raw.run(&format!("{FANOUT} --lockstep"));
    assert!(!output.status.success());
    assert_eq!(report["figures"]["lost"], 1);
}

#[test]
fn repeated_deliveries_are_counted_as_duplicated() {
    let figures = figures_of_failure("--duplicate");
    assert_eq!(figures["duplicated"], DELIVERIES / 10);
    assert_eq!((figures["lost"].as_u64(), figures["reordered"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn swapped_deliveries_are_counted_as_reordered() {
    let figures = figures_of_failure("--reorder");
    let (reordered, lost) = (figures["reordered"].as_u64(), figures["lost"].as_u64());
    // What is held back at the very end has no successor to follow, and stays away.
    assert_eq!(reordered.zip(lost).map(|(reordered, lost)| reordered + lost), Some(DELIVERIES / 10 / 2));
    assert!(reordered > lost);
}

#[test]
fn altered_deliveries_are_counted_as_corrupt_and_lost() {
    let figures = figures_of_failure("--corrupt");
    assert_eq!((figures["corrupt"].as_u64(), figures["lost"].as_u64()), (Some(DELIVERIES / 10), Some(DELIVERIES / 10)));
}

#[test]
fn everybody_who_resumes_gets_what_was_missed() {
    let raw = Raw::start(&[]);
    for transport in ["sse", "longpoll"] {
        let figures = raw.report(&format!("{RESUME} --transport {transport}"));
        assert_eq!(figures["expected"], figures["delivered"], "{transport}");
        assert!(figures["others_p99_ratio"].as_f64().is_some_and(|ratio| ratio > 0.0));
    }
}

#[test]
fn a_history_that_is_too_short_is_told_from_one_that_hides_it() {
    let (output, report) = Raw::start(&["--history", "50"]).run(RESUME);
    assert!(!output.status.success());
    assert_eq!(report["figures"]["not_recovered"], 40);
    assert_eq!(report["figures"]["lost"], 40 * 110, "nothing is replayed where not everything can be");
    let (output, report) = Raw::start(&["--lossy", "10"]).run(RESUME);
    assert!(!output.status.success());
    assert_eq!(report["figures"]["not_recovered"], 0);
    assert!(report["figures"]["lost"].as_u64() > Some(0));
}

#[test]
fn a_round_of_long_polling_is_measured() {
    let raw = Raw::start(&[]);
    let figures = raw.report("longpoll -n 100 -k 10");
    assert_eq!(figures["delivered"], 100 * 15);
    assert!(figures["server_cpu_ms_per_round"].as_f64().is_some_and(|ms| ms > 0.0));
}

#[test]
fn nchan_is_measured_by_the_same_clients() {
    let mut command = Command::new(BENCH);
    command.args(["compare", "--against", "nchan", "--rounds", "1", "--json", "--server", BENCH]);
    command.args(["--server-args", "raw --listen {addr}", "--", "longpoll", "-n", "50", "-k", "5"]);
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let cpu = &report["figures"]["server_cpu_us_per_answer"];
    assert!(cpu["nchan"]["median"].as_f64().is_some_and(|us| us > 0.0));
    assert!(cpu["ratio"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0));
}

#[test]
fn the_other_verbs_measure_too() {
    let raw = Raw::start(&[]);
    let positive = |figures: &Value, name: &str| figures[name].as_f64().is_some_and(|value| value > 0.0);
    assert!(positive(&raw.report("connect -n 200 --churn"), "connections_per_s"));
    assert!(positive(&raw.report("connect -n 200 -m 10"), "server_cpu_us_per_connection"));
    assert!(raw.report("idle -n 200")["server_bytes_per_connection"].is_number());
    assert!(positive(&raw.report("publish --seconds 0.2 --in-flight 4"), "requests_per_s"));
    assert!(positive(&raw.report("publish --seconds 0.2 --batch 10 --path /"), "events_per_s"));
    let mixed = "mixed -n 50 -p 20 --victim-key k --victim-secret s --victim-app-id 2";
    assert!(positive(&raw.report(mixed), "flood_deliveries_per_s"));
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let raw = Raw::start(&[]);
    // An address where nobody listens: the one that this server has just given up.
    let address = raw.address.clone();
    drop(raw);
    let output = Command::new(BENCH).args(["connect", "-n", "1", "--url", &address]).output().expect("it starts");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"));
}
