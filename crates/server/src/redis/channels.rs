//! The channels that this node listens to, and what it has seen of each.
//!
//! Pub/sub is a hint, the stream is the truth: a publication is delivered if it is the next of its stream. If it is not, or
//! there is any other doubt, what lies between is read from the history first, while live ones wait.
//!
//! One at a time delivers to a channel: whoever has its *turn*. Nothing here delivers, or asks a server.
//!
//! Always true: what is delivered of a channel has rising positions; what has been seen is not delivered again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fanfare_hub::broker::InFlight;
use fanfare_hub::{ChannelKey, Publication};

use super::UnitIx;
use super::streams::Tip;

/// Bytes of live publications that wait for a channel's turn. Beyond it they are dropped, and read from the history later.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A publication that has arrived.
#[derive(Debug)]
pub struct Arrival {
    /// What was published.
    pub publication: Arc<Publication>,
    /// Where it was stored.
    pub tip: Option<Tip>,
    /// What it holds until all have been shown it.
    pub in_flight: InFlight,
}

impl Arrival {
    /// What it takes to keep it, more or less.
    pub fn bytes(&self) -> usize {
        self.publication.event.len() + self.publication.data.len() + 256
    }
}

/// What whoever has the turn does next.
#[derive(Debug)]
pub enum Work {
    /// To be shown.
    Deliver(Arrival),
    /// To be read from the history: what is missing after what was seen.
    Refill,
}

/// A channel that this node listens to.
#[derive(Debug)]
pub struct Watch {
    /// Which.
    pub key: ChannelKey,
    /// Its unit.
    pub unit: UnitIx,
    /// What it is called there.
    pub name: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Up to where all was delivered or told to be missing; `None` until the subscription stands.
    seen: Option<Tip>,
    /// Somebody has the turn.
    taken: bool,
    /// Something may be missing after what was seen.
    doubtful: bool,
    waiting: VecDeque<Arrival>,
    waiting_bytes: usize,
    /// What waits in front has been looked for in the history already.
    looked_up: bool,
    /// Nobody listens any more.
    gone: bool,
    quiet_since: Instant,
}

impl Watch {
    /// A channel that is being subscribed to: the turn is taken until [`Watch::begin`].
    pub fn new(key: ChannelKey, unit: UnitIx, name: Vec<u8>) -> Watch {
        let state = State {
            seen: None,
            taken: true,
            doubtful: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            looked_up: false,
            gone: false,
            quiet_since: Instant::now(),
        };
        Watch { key, unit, name, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a channel")
    }

    /// The subscription stands: everything after `tip` is delivered. Returns the first of it.
    pub fn begin(&self, tip: Tip) -> Option<Work> {
        self.state().seen = Some(tip);
        self.next()
    }

    /// Whether the subscription stands.
    pub fn has_begun(&self) -> bool {
        self.state().seen.is_some()
    }

    /// Nobody listens any more: nothing is delivered from here on.
    pub fn end(&self) {
        let mut state = self.state();
        state.gone = true;
        state.drop_waiting();
    }

    /// Whether nobody listens any more.
    pub fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Takes in a publication; returns what is to be done by the caller, who then has the turn.
    pub fn arrive(&self, arrival: Arrival) -> Option<Work> {
        let mut state = self.state();
        state.quiet_since = Instant::now();
        state.wait(arrival);
        if state.taken { None } else { state.next() }
    }

    /// What is to be done next by whoever has the turn; `None`: it has it no longer.
    pub fn next(&self) -> Option<Work> {
        self.state().next()
    }

    /// The turn is given back without having done what was to be done; somebody will have to.
    pub fn give_up(&self) {
        let mut state = self.state();
        state.doubtful = true;
        state.taken = false;
    }

    /// What has been seen, by whoever has the turn.
    pub fn seen(&self) -> Option<Tip> {
        self.state().seen
    }

    /// Whoever has the turn has delivered everything up to here, or told that it is missing.
    pub fn saw(&self, tip: Tip) {
        self.state().seen = Some(tip);
    }

    /// The stream stands there: if that is not what was seen, the caller has the turn and something to do.
    pub fn compare(&self, tip: Tip) -> Option<Work> {
        let mut state = self.state();
        let seen = state.seen?;
        state.quiet_since = Instant::now();
        let same = seen.position.epoch == tip.position.epoch && seen.position.offset >= tip.position.offset;
        state.doubtful |= !same;
        if state.taken || !state.doubtful { None } else { state.next() }
    }

    /// Whether nothing was heard of it for a while, or what was heard is in doubt.
    pub fn is_due(&self, quiet: Duration) -> bool {
        let state = self.state();
        state.seen.is_some() && (state.doubtful || state.quiet_since.elapsed() >= quiet)
    }
}

impl State {
    fn wait(&mut self, arrival: Arrival) {
        self.waiting_bytes += arrival.bytes();
        self.waiting.push_back(arrival);
        if self.waiting_bytes > WAITING_BYTES_MAX {
            self.drop_waiting();
            self.doubtful = true;
        }
    }

    fn drop_waiting(&mut self) {
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
    }

    fn next(&mut self) -> Option<Work> {
        self.taken = false;
        if self.gone {
            self.drop_waiting();
            return None;
        }
        let seen = self.seen?;
        if std::mem::take(&mut self.doubtful) {
            return Some(self.refill());
        }
        while let Some(arrival) = self.waiting.pop_front() {
            self.waiting_bytes -= arrival.bytes();
            let looked_up = std::mem::take(&mut self.looked_up);
            match arrival.tip.map_or(Follows::Next, |tip| follows(seen, tip)) {
                Follows::Next => {
                    self.seen = arrival.tip.or(self.seen);
                    self.taken = true;
                    return Some(Work::Deliver(arrival));
                }
                Follows::Hole if !looked_up => {
                    self.waiting_bytes += arrival.bytes();
                    self.waiting.push_front(arrival);
                    self.looked_up = true;
                    return Some(self.refill());
                }
                // The stream is the truth: what it does not know is of a past that it has lost, and that was told.
                Follows::Hole | Follows::Seen => {}
            }
        }
        None
    }

    fn refill(&mut self) -> Work {
        self.taken = true;
        Work::Refill
    }
}

enum Follows {
    Next,
    Hole,
    Seen,
}

/// Epochs rise: each is the stamp at which it began.
fn follows(seen: Tip, tip: Tip) -> Follows {
    let (seen, at) = (seen.position, tip.position);
    match at.epoch.cmp(&seen.epoch) {
        std::cmp::Ordering::Less => Follows::Seen,
        std::cmp::Ordering::Greater => Follows::Hole,
        std::cmp::Ordering::Equal if at.offset <= seen.offset => Follows::Seen,
        std::cmp::Ordering::Equal if at.offset == seen.offset + 1 => Follows::Next,
        std::cmp::Ordering::Equal => Follows::Hole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_hub::StreamPosition;

    fn tip(epoch: u64, offset: u64) -> Tip {
        Tip { position: StreamPosition { epoch, offset }, stamp: 100 * epoch + offset }
    }

    fn arrival(at: Option<Tip>) -> Arrival {
        let publication = Arc::new(Publication::event("\"e\"", "\"\""));
        Arrival { publication, tip: at, in_flight: InFlight::default() }
    }

    fn watch(seen: Tip) -> Watch {
        let watch = Watch::new(ChannelKey::new("1", "room"), UnitIx(0), Vec::new());
        assert!(watch.begin(seen).is_none());
        watch
    }

    /// What is delivered, with `R` for a refill.
    fn told(work: Option<Work>) -> String {
        match work {
            Some(Work::Deliver(arrival)) => arrival.tip.map_or("-".to_owned(), |tip| tip.position.offset.to_string()),
            Some(Work::Refill) => "R".to_owned(),
            None => String::new(),
        }
    }

    #[test]
    fn what_comes_next_is_delivered_and_nothing_twice() {
        let watch = watch(tip(1, 3));
        for (offset, what) in [(3, ""), (4, "4"), (4, ""), (5, "5"), (1, "")] {
            assert_eq!(told(watch.arrive(arrival(Some(tip(1, offset))))), what);
            watch.next();
        }
        assert_eq!(told(watch.arrive(arrival(None))), "-");
    }

    #[test]
    fn a_hole_is_filled_before_what_comes_after_it() {
        let watch = watch(tip(1, 3));
        assert_eq!(told(watch.arrive(arrival(Some(tip(1, 6))))), "R");
        assert_eq!(told(watch.arrive(arrival(Some(tip(1, 7))))), "", "it waits");
        watch.saw(tip(1, 5));
        assert_eq!(told(watch.next()), "6");
        assert_eq!(told(watch.next()), "7");
        assert_eq!(told(watch.next()), "");
    }

    #[test]
    fn what_the_stream_does_not_know_is_looked_for_once() {
        let watch = watch(tip(1, 3));
        assert_eq!(told(watch.arrive(arrival(Some(tip(2, 9))))), "R");
        assert_eq!(told(watch.next()), "");
        assert_eq!(told(watch.arrive(arrival(Some(tip(1, 4))))), "4");
    }

    #[test]
    fn who_could_not_fill_leaves_it_to_the_next() {
        let watch = watch(tip(1, 3));
        assert_eq!(told(watch.arrive(arrival(Some(tip(1, 6))))), "R");
        watch.give_up();
        assert!(watch.is_due(Duration::MAX));
        assert_eq!(told(watch.compare(tip(1, 3))), "R");
        watch.saw(tip(1, 6));
        assert_eq!(told(watch.next()), "");
        assert!(!watch.is_due(Duration::MAX));
    }

    #[test]
    fn a_stream_that_stands_elsewhere_is_looked_at() {
        let watch = watch(tip(1, 3));
        assert_eq!(told(watch.compare(tip(1, 3))), "");
        for other in [tip(1, 4), tip(2, 0)] {
            assert_eq!(told(watch.compare(other)), "R");
            watch.saw(tip(1, 3));
            watch.next();
        }
    }

    #[test]
    fn too_much_that_waits_is_read_again_later() {
        let watch = watch(tip(1, 0));
        assert_eq!(told(watch.arrive(arrival(Some(tip(1, 2))))), "R");
        for offset in 3..5000 {
            watch.arrive(arrival(Some(tip(1, offset))));
        }
        assert!(watch.state().waiting_bytes <= WAITING_BYTES_MAX);
        watch.saw(tip(1, 10));
        assert_eq!(told(watch.next()), "R");
    }
}
