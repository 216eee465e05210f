//! A presence store for one node: tables behind one short lock, never held over an await.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use fanfare_proto::socket_id::SocketId;
use hashbrown::{HashMap, HashSet};

use crate::key::ChannelKey;
use crate::presence::{Counts, Joined, Left, Member, PresenceStore, StoreError};

/// A presence store for one node.
#[derive(Debug, Default)]
pub struct MemoryPresence {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Ordered, so that an app's channels are one range.
    subscribers: BTreeMap<ChannelKey, u64>,
    channels: HashMap<ChannelKey, Roster>,
    online: HashMap<ChannelKey, HashSet<SocketId>>,
    /// The highest version of any channel that emptied: where one that fills again goes on, so that none comes twice.
    ended: u64,
}

#[derive(Debug, Default)]
struct Roster {
    /// One more with each change.
    version: u64,
    sockets: HashMap<SocketId, String>,
    /// By user id: order of joining, sockets, and who it is.
    users: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    joined_at_version: u64,
    sockets: u32,
    member: Member,
}

impl Roster {
    fn members(&self) -> Vec<Member> {
        let mut entries: Vec<&Entry> = self.users.values().collect();
        entries.sort_unstable_by_key(|entry| entry.joined_at_version);
        entries.into_iter().map(|entry| entry.member.clone()).collect()
    }

    fn join(&mut self, socket: SocketId, member: Member, members_max: u32) -> Result<bool, StoreError> {
        if self.sockets.contains_key(&socket) {
            return Ok(false);
        }
        let first = !self.users.contains_key(&member.user_id);
        if first && self.users.len() >= members_max as usize {
            return Err(StoreError::Full { members_max });
        }
        self.sockets.insert(socket, member.user_id.clone());
        if first {
            self.version += 1;
        }
        let joined_at_version = self.version;
        let entry = self.users.entry(member.user_id.clone());
        entry.or_insert(Entry { joined_at_version, sockets: 0, member }).sockets += 1;
        Ok(first)
    }

    fn leave(&mut self, socket: SocketId) -> Option<(String, u64)> {
        let user_id = self.sockets.remove(&socket)?;
        let entry = self.users.get_mut(&user_id).expect("a socket's user is in the roster");
        entry.sockets -= 1;
        if entry.sockets > 0 {
            return None;
        }
        self.users.remove(&user_id);
        self.version += 1;
        Some((user_id, self.version))
    }
}

impl Tables {
    fn counts(&self, key: &ChannelKey) -> Counts {
        Counts {
            subscribers: self.subscribers.get(key).copied().unwrap_or(0),
            users: self.channels.get(key).map_or(0, |roster| roster.users.len() as u64),
        }
    }
}

impl MemoryPresence {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("no code panics while it holds the tables")
    }
}

#[async_trait]
impl PresenceStore for MemoryPresence {
    async fn join(
        &self,
        key: &ChannelKey,
        socket: SocketId,
        member: Member,
        members_max: u32,
    ) -> Result<Joined, StoreError> {
        let mut tables = self.tables();
        let Tables { channels, ended, .. } = &mut *tables;
        if members_max == 0 {
            // Refused here, or the empty roster that is made below would stay.
            return Err(StoreError::Full { members_max });
        }
        let begun = || Roster { version: *ended, ..Roster::default() };
        let roster = channels.entry(key.clone()).or_insert_with(begun);
        let first = roster.join(socket, member, members_max)?;
        Ok(Joined { first, roster: roster.members(), version: roster.version })
    }

    async fn leave(&self, key: &ChannelKey, socket: SocketId) -> Result<Left, StoreError> {
        let mut tables = self.tables();
        let Tables { channels, ended, .. } = &mut *tables;
        let Some(roster) = channels.get_mut(key) else { return Ok(Left { last: None }) };
        let last = roster.leave(socket);
        if roster.users.is_empty() {
            *ended = roster.version.max(*ended);
            channels.remove(key);
        }
        Ok(Left { last })
    }

    async fn versions(&self, keys: &[ChannelKey]) -> Result<Vec<u64>, StoreError> {
        let tables = self.tables();
        Ok(keys.iter().map(|key| tables.channels.get(key).map_or(0, |roster| roster.version)).collect())
    }

    async fn members(&self, key: &ChannelKey) -> Result<Vec<Member>, StoreError> {
        Ok(self.tables().channels.get(key).map(Roster::members).unwrap_or_default())
    }

    async fn subscribers(&self, key: &ChannelKey, n: u64) -> Result<u64, StoreError> {
        let mut tables = self.tables();
        if n == 0 {
            tables.subscribers.remove(key);
        } else if let Some(count) = tables.subscribers.get_mut(key) {
            *count = n;
        } else {
            tables.subscribers.insert(key.clone(), n);
        }
        Ok(n)
    }

    async fn counts(&self, key: &ChannelKey) -> Result<Counts, StoreError> {
        Ok(self.tables().counts(key))
    }

    async fn channels(&self, app: &str, prefix: &str) -> Result<Vec<(String, Counts)>, StoreError> {
        let tables = self.tables();
        let from = ChannelKey::new(app, prefix);
        let range = tables.subscribers.range(from.clone()..);
        let wanted = range.take_while(|(key, _)| key.as_str().starts_with(from.as_str()));
        Ok(wanted.map(|(key, _)| (key.name().to_owned(), tables.counts(key))).collect())
    }

    async fn user_online(&self, app: &str, user: &str, socket: SocketId) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let sockets = tables.online.entry(ChannelKey::new(app, user)).or_default();
        let was_offline = sockets.is_empty();
        sockets.insert(socket);
        Ok(was_offline)
    }

    async fn user_offline(&self, app: &str, user: &str, socket: SocketId) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        let key = ChannelKey::new(app, user);
        let Some(sockets) = tables.online.get_mut(&key) else { return Ok(false) };
        let gone = sockets.remove(&socket) && sockets.is_empty();
        if sockets.is_empty() {
            tables.online.remove(&key);
        }
        Ok(gone)
    }

    async fn users_online(&self, app: &str, users: &[String]) -> Result<Vec<bool>, StoreError> {
        let tables = self.tables();
        Ok(users.iter().map(|user| tables.online.contains_key(&ChannelKey::new(app, user))).collect())
    }

    /// There is no other node to come back to.
    async fn retire(&self) {}
}
