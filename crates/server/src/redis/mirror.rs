//! What this node wants to have entered in a unit, and of what it is not known whether it is there.
//!
//! Always true: an entry of which the unit may hold something else than the mirror is doubtful, until it has been entered, or
//! taken out, again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fanfare_hub::{ChannelKey, Member};
use fanfare_proto::socket_id::SocketId;
use hashbrown::{HashMap, HashSet};

/// Something that this node may have entered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A socket in a presence channel.
    Member(ChannelKey, SocketId),
    /// This node's subscribers of a channel.
    Count(ChannelKey),
    /// A socket that signed in; the key is of its app and user.
    Online(ChannelKey, SocketId),
}

/// As what it is entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The socket's user.
    Member(Member),
    /// So many.
    Count(u64),
    /// The user is online by this socket.
    Online,
}

/// One unit's mirror. The lock is held for a few look-ups.
#[derive(Debug, Default)]
pub struct Mirror(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entered: HashMap<Entry, State>,
    doubtful: HashSet<Entry>,
}

impl Mirror {
    /// From now on, this is to be there, or nothing.
    pub fn set(&self, entry: &Entry, state: Option<State>) {
        let mut table = self.table();
        match state {
            Some(state) => table.entered.insert(entry.clone(), state),
            None => table.entered.remove(entry),
        };
    }

    /// Whether the unit holds what it is to hold is not known.
    pub fn doubt(&self, entry: Entry) {
        self.table().doubtful.insert(entry);
    }

    /// The unit may have lost everything.
    pub fn doubt_all(&self) {
        let Table { entered, doubtful } = &mut *self.table();
        doubtful.extend(entered.keys().cloned());
    }

    /// Some doubtful entries, and what is to be there; they are doubtful no more.
    pub fn take_doubtful(&self, n: usize) -> Vec<(Entry, Option<State>)> {
        let mut table = self.table();
        let entries: Vec<Entry> = table.doubtful.iter().take(n).cloned().collect();
        let state = |entry: Entry| {
            table.doubtful.remove(&entry);
            let state = table.entered.get(&entry).cloned();
            (entry, state)
        };
        entries.into_iter().map(state).collect()
    }

    /// This has been entered. What was changed meanwhile may have come before it, and is doubtful now.
    pub fn settled(&self, batch: Vec<(Entry, Option<State>)>) {
        let mut table = self.table();
        for (entry, state) in batch {
            if table.entered.get(&entry) != state.as_ref() {
                table.doubtful.insert(entry);
            }
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

    #[test]
    fn what_changes_while_it_is_entered_is_doubtful_again() {
        let mirror = Mirror::default();
        let entry = Entry::Count(ChannelKey::new("1", "room"));
        mirror.set(&entry, Some(State::Count(2)));
        assert_eq!(mirror.take_doubtful(9), []);
        mirror.doubt_all();
        let batch = mirror.take_doubtful(9);
        assert_eq!(batch, [(entry.clone(), Some(State::Count(2)))]);
        mirror.set(&entry, None);
        mirror.settled(batch);
        let batch = mirror.take_doubtful(9);
        assert_eq!(batch, [(entry, None)]);
        mirror.settled(batch);
        assert_eq!(mirror.take_doubtful(9), []);
    }
}
