//! How far this node's subscribers have been told of the changes in each presence channel that it has open.
//!
//! A change raises the channel's version by one, so whoever has been told of all of them up to the store's version has
//! been told of all. They may come out of order: those who publish them are on several nodes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use crate::key::ChannelKey;

/// Changes that came before an earlier one. That many are missing more than a letter's delay, and the earlier is lost.
const AHEAD_MAX: usize = 1024;

/// What has been told; empty until [`Rosters::follow`] says that somebody is going to ask.
#[derive(Debug, Default)]
pub(crate) struct Rosters(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    followed: bool,
    channels: HashMap<ChannelKey, Told>,
}

/// What has been told in one channel.
#[derive(Debug, Default)]
struct Told {
    /// Everything up to here, since the first roster was shown.
    all: Option<u64>,
    /// And these.
    ahead: Vec<u64>,
}

impl Told {
    fn close_up(&mut self) {
        let Some(all) = &mut self.all else { return };
        self.ahead.sort_unstable();
        self.ahead.retain(|version| {
            if *version == *all + 1 {
                *all += 1;
            }
            *version > *all
        });
    }
}

impl Rosters {
    /// From now on, keep account.
    pub(crate) fn follow(&self) {
        self.table().followed = true;
    }

    /// Whether this node has the channel open.
    pub(crate) fn held(&self, key: &ChannelKey, held: bool) {
        let mut table = self.table();
        if !held {
            table.channels.remove(key);
        } else if table.followed && !table.channels.contains_key(key) {
            table.channels.insert(key.clone(), Told::default());
        }
    }

    /// A subscriber was shown the roster of this version. Those who were there before have to be told of it.
    pub(crate) fn shown(&self, key: &ChannelKey, version: u64) {
        if let Some(told) = self.table().channels.get_mut(key) {
            told.all.get_or_insert(version);
            told.close_up();
        }
    }

    /// Everybody was told of a change.
    pub(crate) fn changed(&self, key: &ChannelKey, version: u64) {
        if let Some(told) = self.table().channels.get_mut(key)
            && told.ahead.len() < AHEAD_MAX
        {
            told.ahead.push(version);
            told.close_up();
        }
    }

    /// Up to where everything has been told, channel by channel.
    pub(crate) fn told(&self) -> Vec<(ChannelKey, u64)> {
        let table = self.table();
        table.channels.iter().filter_map(|(key, told)| Some((key.clone(), told.all?))).collect()
    }

    /// The subscribers know that they have missed something; forgets what that was.
    pub(crate) fn resume(&self, key: &ChannelKey, version: u64) {
        if let Some(told) = self.table().channels.get_mut(key) {
            told.all = Some(version);
            told.close_up();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is sound between any two statements, so a poisoned lock tells nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> ChannelKey {
        ChannelKey::new("1", "presence-room")
    }

    fn rosters() -> Rosters {
        let rosters = Rosters::default();
        rosters.follow();
        rosters.held(&room(), true);
        rosters
    }

    #[test]
    fn changes_may_come_twice_out_of_order_and_before_the_roster() {
        let rosters = rosters();
        rosters.changed(&room(), 9);
        rosters.changed(&room(), 7);
        assert_eq!(rosters.told(), []);
        rosters.shown(&room(), 7);
        assert_eq!(rosters.told(), [(room(), 7)]);
        rosters.changed(&room(), 8);
        rosters.changed(&room(), 8);
        assert_eq!(rosters.told(), [(room(), 9)]);
    }

    #[test]
    fn a_later_roster_does_not_hide_what_the_earlier_subscribers_missed() {
        let rosters = rosters();
        rosters.shown(&room(), 3);
        rosters.changed(&room(), 5);
        rosters.shown(&room(), 5);
        assert_eq!(rosters.told(), [(room(), 3)]);
        rosters.resume(&room(), 5);
        rosters.changed(&room(), 6);
        assert_eq!(rosters.told(), [(room(), 6)]);
        rosters.held(&room(), false);
        assert_eq!(rosters.told(), []);
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let rosters = Rosters::default();
        rosters.held(&room(), true);
        rosters.shown(&room(), 1);
        assert_eq!(rosters.told(), []);
    }
}
