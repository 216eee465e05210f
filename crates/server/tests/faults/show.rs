//! One fault test from its beginning to its verdict: nodes, a crowd, publishers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::crowd::Crowd;
use super::dice::Dice;
use super::press::Press;
use super::tally::Counts;
use crate::support::redis::Redis;
use crate::support::{Nodes, one_app};

/// Nodes on two servers that have served for some time: who resumes one channel by the cursor of another can prove nothing
/// about the time just after a server began.
pub fn nodes_on([one, two]: &[Redis; 2], count: usize) -> Nodes {
    let nodes = Nodes::start(&format!("{},{}", one.url(), two.url()), count, &config());
    thread::sleep(Duration::from_secs(11));
    nodes
}

/// How much a test does: little in the ordinary run; more by `FANFARE_FAULTS_SCALE`.
#[derive(Debug, Clone, Copy)]
pub struct Scale(f64);

impl Scale {
    fn of_the_run() -> Scale {
        Scale(variable("FANFARE_FAULTS_SCALE").and_then(|text| text.parse().ok()).unwrap_or(1.0))
    }

    /// As many of something as this scale wants.
    pub fn times(self, n: usize) -> usize {
        (n as f64 * self.0).ceil() as usize
    }

    /// Whether this is the long form, which has an idle machine for itself: figures hold there that a busy one may miss.
    pub fn is_long(self) -> bool {
        self.0 >= 10.0
    }

    /// As long as this scale wants.
    pub fn long(self, time: Duration) -> Duration {
        time.mul_f64(self.0)
    }
}

/// Says what a test does by chance and how much of it, so that it can be repeated: `FANFARE_FAULTS_SEED`.
pub fn announce(name: &str) -> (u64, Scale) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let seed = variable("FANFARE_FAULTS_SEED").and_then(|text| text.parse().ok()).unwrap_or(now);
    let scale = Scale::of_the_run();
    println!("{name}: seed={seed} scale={}", scale.0);
    (seed, scale)
}

/// What runs while something fails.
pub struct Show {
    name: &'static str,
    pub seed: u64,
    pub scale: Scale,
    pub dice: Dice,
    pub nodes: Nodes,
    pub crowd: Crowd,
    pub press: Press,
    began: Instant,
}

/// What came of it.
#[derive(Debug)]
pub struct Verdict {
    pub counts: Counts,
    /// Connections beyond everybody's first, of all clients and of those that can resume.
    pub reconnects: u64,
    pub reconnects_of_cursors: u64,
    /// How often somebody was told that something may be missing.
    pub told: u64,
}

/// The configuration of the nodes: histories that outlast a test, heartbeats that show who is alive, and room for all that a
/// fault holds back, since who is closed for reading slowly is another test.
pub fn config() -> String {
    let history = "limits = { payload_bytes_max = 65536, history_bytes_max = 268435456 }\n[[apps.history]]\nchannels = \"*\"\nmessages = 20000\nbytes = 67108864\nseconds = 900\n";
    format!(
        "heartbeat_s = 2\nactivity_timeout_s = 3\ndrain_s = 3\nloops = 1\noutbox_bytes_max = 33554432\n{}",
        one_app(history)
    )
}

impl Show {
    /// Gathers a crowd on the nodes, and lets publishers begin.
    pub fn begin(name: &'static str, nodes: Nodes) -> Show {
        let addrs = nodes.addrs();
        Show::begin_at(name, nodes, &addrs)
    }

    /// The same on so many channels that some of them are everywhere.
    pub fn begin_wide(name: &'static str, nodes: Nodes) -> Show {
        let addrs = nodes.addrs();
        Show::stage(name, nodes, &addrs, 36)
    }

    /// The same for a crowd and publishers that reach the nodes at other addresses: through proxies.
    pub fn begin_at(name: &'static str, nodes: Nodes, addrs: &[SocketAddr]) -> Show {
        Show::stage(name, nodes, addrs, 12)
    }

    fn stage(name: &'static str, nodes: Nodes, addrs: &[SocketAddr], channels: usize) -> Show {
        let (seed, scale) = announce(name);
        let mut dice = Dice::new(seed);
        // So that tests in a row meet other channels, and other slots of a Cluster.
        let channel = |ix| format!("fault-{}-{ix}", seed % 100_000);
        let channels: Vec<_> = (0..scale.times(channels)).map(channel).collect();
        let crowd = Crowd::gather(addrs, &channels, scale.times(30), &mut dice);
        let press = Press::start(addrs, &channels, 120.0 * scale.0, seed);
        let show = Show { name, seed, scale, dice, nodes, crowd, press, began: Instant::now() };
        show.go_on(Duration::from_secs(2));
        show
    }

    /// Lets time pass in which publications go on.
    pub fn go_on(&self, time: Duration) {
        thread::sleep(self.scale.long(time));
    }

    /// Waits until all channels have moved on by a publication from here, and everybody has heard it. Prints and returns how long
    /// that took since `since`.
    #[track_caller]
    pub fn recover(&self, what: &str, since: Instant) -> Duration {
        let before = self.press.newest();
        let moved_on = |now: &BTreeMap<String, u64>| now.iter().all(|(channel, newest)| *newest > before[channel]);
        let deadline = Instant::now() + Duration::from_secs(90);
        let mut newest = self.press.newest();
        while !moved_on(&newest) {
            assert!(
                Instant::now() < deadline,
                "{}: {what}: publishing does not go on\n{:?}",
                self.name,
                self.press.wrong()
            );
            thread::sleep(Duration::from_millis(20));
            newest = self.press.newest();
        }
        let published = since.elapsed();
        let all = self.crowd.catch_up(&newest, Duration::from_secs(60));
        assert!(all, "{}: {what}: not everybody hears again\n{}", self.name, self.crowd.complaints(&newest));
        let heard = since.elapsed();
        println!("{}: {what}: publishing after {published:.1?}, heard by all after {heard:.1?}", self.name);
        heard
    }

    /// Ends the publishing, waits until all of it was heard, and judges: nothing may be lost without a word, nor come out of
    /// order, nor twice over one connection, nor may a publisher have met an answer that tells it nothing.
    #[track_caller]
    pub fn end(mut self) -> Verdict {
        let last = self.press.finish();
        self.crowd.catch_up(&last, Duration::from_secs(45));
        // Who cannot be told in words is told by the end of its connection, and these ends are spread over half a second.
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline && !self.crowd.complaints(&last).is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
        let (counts, press) = (self.crowd.counts(&last), &self.press);
        let [reconnects, reconnects_of_cursors] = [true, false].map(|stock| self.crowd.reconnects(stock));
        let verdict = Verdict { counts, reconnects, reconnects_of_cursors, told: self.crowd.told() };
        println!(
            "{}: seed={} published={} asked_twice={} refused={} unanswered={} {counts} reconnects={} told={} in {:.0?}",
            self.name,
            self.seed,
            press.published(),
            press.repeated(),
            press.refused(),
            press.unanswered(),
            verdict.reconnects,
            verdict.told,
            self.began.elapsed(),
        );
        assert_eq!(press.wrong(), Vec::<String>::new(), "{}: answers to publishers", self.name);
        let complaints = self.crowd.complaints(&last);
        assert!(complaints.is_empty(), "{}: seed={}\n{complaints}", self.name, self.seed);
        assert!(counts.delivered > 0, "nothing was delivered");
        if verdict.told > 0 {
            println!("{}", self.crowd.stories());
        }
        verdict
    }
}

pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
