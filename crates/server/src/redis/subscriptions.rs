//! The pub/sub channels of a unit: what is wanted, and how far its server has followed. No I/O.
//!
//! A server answers in order, so a channel has at most one request under way; what was wanted meanwhile is done after the
//! answer.
//!
//! Always true: a channel that is wanted and not subscribed to, or the reverse, has a request under way or is in line.

use hashbrown::HashMap;
use std::collections::VecDeque;
use tokio::sync::oneshot;

/// How far the server has followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Off,
    Subscribing,
    On,
    Unsubscribing,
}

#[derive(Debug)]
struct Channel {
    wanted: bool,
    wire: Wire,
    /// It was subscribed to on an earlier connection, and is to be again before the unit is whole.
    again: bool,
    /// It was subscribed to, and has been wanted ever since.
    known: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Channel {
    /// Whether something is to be asked of the server now.
    fn is_due(&self) -> bool {
        matches!((self.wanted, self.wire), (true, Wire::Off) | (false, Wire::On))
    }
}

/// What one command asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Subscribe(Vec<Box<[u8]>>),
    Unsubscribe(Vec<Box<[u8]>>),
}

/// A unit's channels.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    channels: HashMap<Box<[u8]>, Channel>,
    /// Channels of which something may be due. One may stand here twice.
    line: VecDeque<Box<[u8]>>,
    /// How many channels are to be subscribed to again.
    again: usize,
}

impl Subscriptions {
    /// Wants a channel. `None`: it is subscribed to; otherwise one hears when it is.
    pub fn want(&mut self, name: &[u8]) -> Option<oneshot::Receiver<()>> {
        let new = || Channel { wanted: true, wire: Wire::Off, again: false, known: false, waiting: Vec::new() };
        let channel = self.channels.entry_ref(name).or_insert_with(new);
        channel.wanted = true;
        if channel.wire == Wire::On {
            return None;
        }
        if channel.is_due() {
            self.line.push_back(name.into());
        }
        let (done, waiting) = oneshot::channel();
        channel.waiting.push(done);
        Some(waiting)
    }

    /// No longer wants a channel.
    pub fn unwant(&mut self, name: &[u8]) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        (channel.wanted, channel.known) = (false, false);
        channel.waiting.clear();
        self.again -= usize::from(std::mem::take(&mut channel.again));
        match channel.wire {
            Wire::Off => drop(self.channels.remove(name)),
            Wire::On => self.line.push_back(name.into()),
            Wire::Subscribing | Wire::Unsubscribing => {}
        }
    }

    /// The next command, of at most so many channels.
    pub fn next(&mut self, channels_max: usize) -> Option<Request> {
        let mut names = Vec::new();
        let mut subscribe = true;
        while names.len() < channels_max {
            let Some(name) = self.line.front() else { break };
            let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.is_due()) else {
                self.line.pop_front();
                continue;
            };
            if names.is_empty() {
                subscribe = channel.wanted;
            } else if subscribe != channel.wanted {
                break;
            }
            channel.wire = if subscribe { Wire::Subscribing } else { Wire::Unsubscribing };
            names.extend(self.line.pop_front());
        }
        match (names.is_empty(), subscribe) {
            (true, _) => None,
            (false, true) => Some(Request::Subscribe(names)),
            (false, false) => Some(Request::Unsubscribe(names)),
        }
    }

    /// The server has subscribed us. Returns whether it had been subscribed to before.
    pub fn subscribed(&mut self, name: &[u8]) -> bool {
        let Some(channel) = self.channels.get_mut(name) else { return false };
        channel.wire = Wire::On;
        self.again -= usize::from(std::mem::take(&mut channel.again));
        for waiting in channel.waiting.drain(..) {
            // Whoever has gone meanwhile said so by `unwant`, or does not mind.
            let _ = waiting.send(());
        }
        if !channel.wanted {
            self.line.push_back(name.into());
        }
        std::mem::replace(&mut channel.known, channel.wanted)
    }

    /// The server has ended a subscription. Whether nobody had asked for it: the channel's slot has moved.
    pub fn unsubscribed(&mut self, name: &[u8]) -> bool {
        let Some(channel) = self.channels.get_mut(name) else { return false };
        let asked = channel.wire == Wire::Unsubscribing;
        channel.wire = Wire::Off;
        match channel.wanted {
            true if asked => self.line.push_back(name.into()),
            true => {}
            false => drop(self.channels.remove(name)),
        }
        !asked
    }

    /// Nothing is subscribed to, as the connection is another: everything wanted is in line again.
    pub fn start_over(&mut self) {
        self.channels.retain(|_, channel| channel.wanted);
        self.line.clear();
        for (name, channel) in &mut self.channels {
            channel.wire = Wire::Off;
            channel.again = true;
            self.line.push_back(name.clone());
        }
        self.again = self.channels.len();
    }

    /// Whether all that was subscribed to on an earlier connection is again.
    pub fn is_whole(&self) -> bool {
        self.again == 0
    }

    /// How many are wanted.
    pub fn len(&self) -> usize {
        self.channels.values().filter(|channel| channel.wanted).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Box<[u8]>> {
        names.iter().map(|name| name.as_bytes().into()).collect()
    }

    #[test]
    fn many_channels_share_a_command() {
        let mut channels = Subscriptions::default();
        let waiting: Vec<_> = ["a", "b", "c"].iter().map(|name| channels.want(name.as_bytes())).collect();
        assert_eq!(channels.next(2), Some(Request::Subscribe(names(&["a", "b"]))));
        assert_eq!(channels.next(2), Some(Request::Subscribe(names(&["c"]))));
        assert_eq!(channels.next(2), None);
        channels.subscribed(b"a");
        let done: Vec<bool> = waiting.into_iter().map(|w| w.expect("new").try_recv().is_ok()).collect();
        assert_eq!(done, [true, false, false]);
        assert!(channels.want(b"a").is_none());
    }

    #[test]
    fn what_changes_while_a_request_is_under_way_is_done_after_it() {
        let mut channels = Subscriptions::default();
        let _first = channels.want(b"a");
        assert_eq!(channels.next(9), Some(Request::Subscribe(names(&["a"]))));
        channels.unwant(b"a");
        assert_eq!(channels.next(9), None);
        channels.subscribed(b"a");
        assert_eq!(channels.next(9), Some(Request::Unsubscribe(names(&["a"]))));
        let mut again = channels.want(b"a").expect("it is being left");
        assert_eq!(channels.next(9), None);
        assert!(!channels.unsubscribed(b"a"));
        assert_eq!(channels.next(9), Some(Request::Subscribe(names(&["a"]))));
        assert!(again.try_recv().is_err());
        channels.subscribed(b"a");
        assert!(again.try_recv().is_ok());
    }

    #[test]
    fn a_new_connection_begins_with_all_that_is_wanted() {
        let mut channels = Subscriptions::default();
        for name in ["a", "b", "c"] {
            let _ = channels.want(name.as_bytes());
        }
        let _ = channels.next(9);
        for name in ["a", "b"] {
            assert!(!channels.subscribed(name.as_bytes()));
        }
        channels.unwant(b"b");
        channels.start_over();
        assert!(!channels.is_whole());
        let Some(Request::Subscribe(mut again)) = channels.next(9) else { panic!("a and c are wanted") };
        again.sort();
        assert_eq!(again, names(&["a", "c"]));
        assert!(channels.subscribed(b"a"), "it was before");
        channels.unwant(b"c");
        assert!(channels.is_whole(), "what is no longer wanted is not waited for");
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_told() {
        let mut channels = Subscriptions::default();
        let _ = channels.want(b"a");
        let _ = channels.next(9);
        channels.subscribed(b"a");
        assert!(channels.unsubscribed(b"a"));
        assert_eq!(channels.next(9), None, "where the slot is now is for others to find out");
    }
}
