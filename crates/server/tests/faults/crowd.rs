//! Subscribers over several nodes who resume elsewhere when they are cut, and are judged by what they heard.
//!
//! Each listens on a thread of its own, to one channel or to several by one cursor, by one transport.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::ear::{Ear, TRANSPORTS, Transport, Word};
use super::press::now_us;
use super::tally::{Counts, Tally};
use crate::support::eventually;

/// A client that hears nothing for this long gives its connection up. Heartbeats are more frequent.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// The longest pause between two attempts to connect; the average is half of it.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// The subscribers. Dropping them ends their connections.
pub struct Crowd {
    listeners: Vec<Arc<Listener>>,
    threads: Vec<JoinHandle<()>>,
    done: Arc<AtomicBool>,
}

struct Listener {
    transport: Transport,
    channels: Vec<String>,
    state: Mutex<State>,
    connected: AtomicU64,
}

#[derive(Default)]
struct State {
    tallies: BTreeMap<String, Tally>,
    /// Channels that were confirmed on the present connection.
    confirmed: BTreeSet<String>,
    /// How often it was told that something may be missing.
    told: u64,
    /// When each publication was heard, and how long it took, in microseconds.
    delays: Vec<(u64, u64)>,
    story: String,
}

impl Crowd {
    /// Subscribers of `common` and one or three of the other channels each, over all transports; returns once all of them are
    /// subscribed. They begin on nodes in turn.
    pub fn gather(nodes: &[SocketAddr], channels: &[String], size: usize, dice: &mut Dice) -> Crowd {
        let mut crowd = Crowd { listeners: Vec::new(), threads: Vec::new(), done: Arc::default() };
        for ix in 0..size {
            let transport = TRANSPORTS[ix % TRANSPORTS.len()];
            let others = if dice.below(2) == 0 { 1 } else { 3 };
            let mut own: Vec<_> = (0..others).map(|_| dice.of(&channels[1..]).clone()).collect();
            own.push(channels[0].clone());
            own.sort_unstable();
            own.dedup();
            crowd.add(nodes, nodes[ix % nodes.len()], transport, own, dice.split());
        }
        eventually("everybody is subscribed", || crowd.listeners.iter().all(|one| one.is_subscribed()));
        crowd
    }

    fn add(
        &mut self,
        nodes: &[SocketAddr],
        first: SocketAddr,
        transport: Transport,
        channels: Vec<String>,
        dice: Dice,
    ) {
        let listener =
            Arc::new(Listener { transport, channels, state: Mutex::default(), connected: AtomicU64::default() });
        let (nodes, done) = (nodes.to_vec(), self.done.clone());
        self.listeners.push(listener.clone());
        let small = thread::Builder::new().stack_size(256 << 10);
        let run = move || listener.run(first, &nodes, &done, dice);
        self.threads.push(small.spawn(run).expect("a thread"));
    }

    /// Waits until everybody has heard the newest publication of each of its channels, or was told that it may not. Returns whether it came to that.
    pub fn catch_up(&self, last: &BTreeMap<String, u64>, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while !self.listeners.iter().all(|one| one.has_heard(last)) {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// All counts together.
    pub fn counts(&self, last: &BTreeMap<String, u64>) -> Counts {
        let mut sum = Counts::default();
        for listener in &self.listeners {
            for (channel, tally) in &listener.lock().tallies {
                sum += tally.counts(last[channel]);
            }
        }
        sum
    }

    /// Connections beyond everybody's first, with or without those of stock Pusher clients.
    pub fn reconnects(&self, stock_too: bool) -> u64 {
        let counted = self.listeners.iter().filter(|one| stock_too || one.transport != Transport::Stock);
        counted.map(|one| one.connected.load(Ordering::Relaxed).saturating_sub(1)).sum()
    }

    /// What 99 of 100 publications took at most that were heard in that time, by those who never had to reconnect.
    pub fn p99(&self, heard_us: &Range<u64>) -> Duration {
        let mut delays = Vec::new();
        for one in self.listeners.iter().filter(|one| one.connected.load(Ordering::Relaxed) == 1) {
            let state = one.lock();
            delays.extend(state.delays.iter().filter(|(at, _)| heard_us.contains(at)).map(|(_, delay)| *delay));
        }
        delays.sort_unstable();
        let p99 = delays.get(delays.len() * 99 / 100).expect("somebody heard something");
        Duration::from_micros(*p99)
    }

    /// How often somebody was told that something may be missing, stock Pusher clients' reconnects not counted.
    pub fn told(&self) -> u64 {
        self.listeners.iter().map(|one| one.lock().told).sum()
    }

    /// How connections ended, and what was told.
    pub fn stories(&self) -> String {
        let story = |(ix, one): (usize, &Arc<Listener>)| format!("#{ix} {:?}\n{}", one.transport, one.lock().story);
        self.listeners.iter().enumerate().map(story).collect()
    }

    /// What went wrong, listener by listener, for a person who looks for the cause.
    pub fn complaints(&self, last: &BTreeMap<String, u64>) -> String {
        let mut text = String::new();
        for (ix, listener) in self.listeners.iter().enumerate() {
            let state = listener.lock();
            for (channel, tally) in &state.tallies {
                let counts = tally.counts(last[channel]);
                if counts.lost + counts.reordered + counts.repeated > 0 || !tally.is_done(last[channel]) {
                    let (transport, lost) = (listener.transport, tally.lost(last[channel]));
                    // Writing to a string cannot fail.
                    let _ = writeln!(text, "#{ix} {transport:?} {channel}: {counts}; of {}: {lost:?}", last[channel]);
                    let _ = writeln!(text, "{}", state.story);
                }
            }
        }
        text
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !thread::panicking() {
                panic!("a subscriber panicked");
            }
        }
    }
}

impl Listener {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_subscribed(&self) -> bool {
        self.lock().confirmed.len() == self.channels.len()
    }

    fn has_heard(&self, last: &BTreeMap<String, u64>) -> bool {
        let state = self.lock();
        self.channels.iter().all(|channel| state.tallies.get(channel).is_some_and(|tally| tally.is_done(last[channel])))
    }

    fn run(&self, first: SocketAddr, nodes: &[SocketAddr], done: &AtomicBool, mut dice: Dice) {
        let start = Instant::now();
        let (mut node, mut cursor) = (first, None);
        while !done.load(Ordering::Relaxed) {
            let ended = self.visit(node, &mut cursor, done);
            let mut state = self.lock();
            state.confirmed.clear();
            state.tallies.values_mut().for_each(Tally::connect);
            if self.transport == Transport::Stock {
                // Who cannot resume is told by the end of its connection.
                state.tallies.values_mut().for_each(Tally::flag);
            }
            let _ = writeln!(state.story, "  {:.2?} {node}: {ended}", start.elapsed());
            drop(state);
            thread::sleep(PAUSE_MAX.mul_f64(dice.share()));
            node = *dice.of(nodes);
        }
    }

    /// Listens on one node until the connection ends. Returns how it did.
    fn visit(&self, node: SocketAddr, cursor: &mut Option<String>, done: &AtomicBool) -> std::io::Error {
        // Who comes back without a place to come back to knows that there may be a hole.
        let cannot_resume = cursor.is_none() || self.transport == Transport::Stock;
        let unsure = cannot_resume && self.connected.load(Ordering::Relaxed) > 0;
        let mut ear = match Ear::open(node, self.transport, &self.channels, cursor.clone()) {
            Ok(ear) => ear,
            Err(error) => return error,
        };
        let mut counted = false;
        while !done.load(Ordering::Relaxed) {
            let words = match ear.listen(SILENCE_MAX) {
                Ok(words) => words,
                Err(error) => return error,
            };
            if !words.is_empty() && !std::mem::replace(&mut counted, true) {
                self.connected.fetch_add(1, Ordering::Relaxed);
            }
            words.into_iter().for_each(|word| self.take(word, unsure));
            cursor.clone_from(&ear.cursor);
        }
        std::io::ErrorKind::Interrupted.into()
    }

    fn take(&self, word: Word, unsure: bool) {
        let mut state = self.lock();
        let state = &mut *state;
        match word {
            Word::Publication { channel, number, sent_us } => {
                let now_us = now_us();
                state.delays.push((now_us, now_us.saturating_sub(sent_us)));
                state.tallies.entry(channel).or_default().hear(number);
            }
            Word::Subscribed { channel, recovered } => {
                let tally = state.tallies.entry(channel.clone()).or_default();
                if recovered == Some(false) || unsure {
                    tally.flag();
                    state.told += u64::from(recovered.is_some());
                    let _ = writeln!(state.story, "  recovered {recovered:?} on {channel}");
                }
                state.confirmed.insert(channel);
            }
            Word::Gap { channel } => {
                let _ = writeln!(state.story, "  gap on {channel}");
                state.tallies.entry(channel).or_default().flag();
                state.told += 1;
            }
        }
    }
}
