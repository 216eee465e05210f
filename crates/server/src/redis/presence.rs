//! Who is here, on all nodes: a presence store in Redis.
//!
//! What a node enters belongs to its *incarnation*, a random word of each start, and stays while the incarnation's lease is
//! renewed (`leases`): nothing is renewed for each member. A mirror of it is kept here, from which everything can be entered
//! again after a server lost it.
//!
//! Always true:
//! - each act is one script on one unit, so rosters and counts are exact whichever node asks;
//! - an act that failed is repeated until the unit holds what this node means it to hold.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use fanfare_hub::{ChannelKey, Counts, Joined, Left, Member, PresenceEvents, PresenceStore, StoreError};
use fanfare_proto::socket_id::SocketId;
use futures_util::future::try_join_all;
use redis::Value;
use tokio::sync::Notify;

use super::leases::{Lease, Teller};
use super::mirror::{Entry, Mirror, State};
use super::{CallError, Redis, Script, UnitIx};

/// How many channels are asked for at once.
const PAGE: usize = 1000;

static ENTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!("#!lua\n", include_str!("scripts/presence.lua"), include_str!("scripts/enter.lua")))
});

/// The same for what makes room, and is welcome when the server's memory is full.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua flags=allow-oom\n",
        include_str!("scripts/presence.lua"),
        include_str!("scripts/enter.lua")
    ))
});

static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua flags=no-writes,allow-oom\n",
        include_str!("scripts/presence.lua"),
        include_str!("scripts/look.lua")
    ))
});

/// A presence store in Redis; cheap to clone.
#[derive(Clone)]
pub struct RedisPresence {
    pub(super) redis: Redis,
    /// This start of this node.
    pub(super) incarnation: Arc<str>,
    units: Arc<[Unit]>,
    /// Rung where changes that others told may have been missed.
    doubt: Arc<Notify>,
}

/// What this node knows of a unit.
#[derive(Default)]
pub(super) struct Unit {
    pub(super) mirror: Mirror,
    pub(super) lease: Lease,
}

impl RedisPresence {
    /// Makes this node known to all units.
    pub async fn start(redis: Redis) -> Result<RedisPresence, StoreError> {
        let incarnation = format!("{:016x}", RandomState::new().hash_one("incarnation")).into();
        let units = redis.units().map(|_| Unit::default()).collect();
        let presence = RedisPresence { redis, incarnation, units, doubt: Arc::default() };
        try_join_all(presence.redis.units().map(|unit| presence.begin(unit))).await?;
        Ok(presence)
    }

    /// Keeps the leases from now on, and tells of what others left behind.
    pub fn attend(&self, events: Arc<dyn PresenceEvents>) {
        let teller = Teller::start(events);
        for unit in self.redis.units() {
            tokio::spawn(self.clone().keep(unit));
            tokio::spawn(self.clone().tend(unit, teller.clone()));
        }
    }

    /// Rung where this node may have missed what others told.
    pub fn doubt(&self) -> Arc<Notify> {
        self.doubt.clone()
    }

    /// The unit serves, and may have lost everything; with another `generation`, it has.
    pub fn up(&self, unit: UnitIx, generation: u64) {
        let Unit { mirror, lease } = self.unit(unit);
        mirror.doubt_all();
        lease.up(generation);
        self.doubt.notify_one();
    }

    pub(super) fn unit(&self, unit: UnitIx) -> &Unit {
        &self.units[usize::from(unit.0)]
    }

    fn unit_of(&self, key: &ChannelKey) -> UnitIx {
        self.redis.unit_of(key.app(), key.name())
    }

    /// Users are spread over the units like channels, but not with any of them.
    fn unit_of_user(&self, app: &str, user: &str) -> UnitIx {
        self.redis.unit_of(app, &format!("#user-{user}"))
    }

    fn unit_of_entry(&self, entry: &Entry) -> UnitIx {
        match entry {
            Entry::Member(key, _) | Entry::Count(key) => self.unit_of(key),
            Entry::Online(key, _) => self.unit_of_user(key.app(), key.name()),
        }
    }

    /// Runs a script with what all of them are told first.
    pub(super) async fn call(&self, unit: UnitIx, script: &Script, args: Vec<Vec<u8>>) -> Result<Value, CallError> {
        let mut all = vec![self.redis.key(unit, ""), self.incarnation.as_bytes().to_vec()];
        all.extend(args);
        self.redis.call(unit, script, &[], &all).await
    }

    /// Enters one thing, or takes it out. Of what fails it is not known what became of it.
    async fn act(&self, entry: &Entry, act: Act) -> Result<Answer, StoreError> {
        let unit = self.unit_of_entry(entry);
        let called = self.call(unit, act.script(), act.args(entry)).await;
        let answer = called.map_err(unavailable).and_then(|answers| Answer::of(answers)?.list());
        if answer.is_err() {
            self.unit(unit).mirror.doubt(entry.clone());
        }
        answer
    }

    fn mirror(&self, entry: &Entry, state: Option<State>) {
        self.unit(self.unit_of_entry(entry)).mirror.set(entry, state);
    }

    async fn look(&self, unit: UnitIx, what: &str, of: Vec<Vec<u8>>) -> Result<Answer, StoreError> {
        let mut args = vec![what.as_bytes().to_vec()];
        args.extend(of);
        Answer::of(self.call(unit, &LOOK, args).await.map_err(unavailable)?)
    }

    /// One answer for each name, though several units are asked.
    async fn look_each(
        &self,
        what: &str,
        names: impl Iterator<Item = (UnitIx, Vec<u8>)>,
    ) -> Result<Vec<u64>, StoreError> {
        let mut asked: Vec<(Vec<usize>, Vec<Vec<u8>>)> = vec![Default::default(); self.units.len()];
        let mut n = 0;
        for (unit, name) in names {
            let (places, of) = &mut asked[usize::from(unit.0)];
            places.push(n);
            of.push(name);
            n += 1;
        }
        let wanted = self.redis.units().zip(asked).filter(|(_, (places, _))| !places.is_empty());
        let answers =
            try_join_all(wanted.map(async |(unit, (places, of))| Ok((places, self.look(unit, what, of).await?))));
        let mut found = vec![0; n];
        for (places, mut answer) in answers.await? {
            for place in places {
                found[place] = answer.number()?;
            }
        }
        Ok(found)
    }

    async fn channels_of(&self, unit: UnitIx, app: &str, prefix: &str) -> Result<Vec<(String, Counts)>, StoreError> {
        let mut found = Vec::new();
        let mut from = format!("[{prefix}").into_bytes();
        // No name holds this byte.
        let to = [b"(", prefix.as_bytes(), b"\xff"].concat();
        loop {
            let page = PAGE.to_string().into_bytes();
            let mut answer = self.look(unit, "channels", vec![app.into(), from, to.clone(), page]).await?;
            let before = found.len();
            while !answer.is_empty() {
                let (name, subscribers, users) = (answer.text()?, answer.number()?, answer.number()?);
                found.push((name, Counts { subscribers, users }));
            }
            match found.last() {
                Some((last, _)) if found.len() - before == PAGE => from = format!("({last}").into_bytes(),
                _ => return Ok(found),
            }
        }
    }
}

#[async_trait]
impl PresenceStore for RedisPresence {
    async fn join(
        &self,
        key: &ChannelKey,
        socket: SocketId,
        member: Member,
        members_max: u32,
    ) -> Result<Joined, StoreError> {
        let entry = Entry::Member(key.clone(), socket);
        self.mirror(&entry, Some(State::Member(member.clone())));
        let joined = async {
            let mut answer = self.act(&entry, Act::Join { member, members_max, roster: true }).await?;
            let first = match answer.signed()? {
                -1 => return Err(StoreError::Full { members_max }),
                first => first == 1,
            };
            Ok(Joined { first, version: answer.number()?, roster: answer.list()?.roster()? })
        };
        let joined = joined.await;
        if joined.is_err() {
            self.mirror(&entry, None);
        }
        joined
    }

    async fn leave(&self, key: &ChannelKey, socket: SocketId) -> Result<Left, StoreError> {
        let entry = Entry::Member(key.clone(), socket);
        self.mirror(&entry, None);
        let mut answer = self.act(&entry, Act::Leave).await?;
        if answer.number()? == 0 {
            return Ok(Left { last: None });
        }
        let version = answer.number()?;
        Ok(Left { last: Some((answer.text()?, version)) })
    }

    async fn versions(&self, keys: &[ChannelKey]) -> Result<Vec<u64>, StoreError> {
        self.look_each("versions", keys.iter().map(|key| (self.unit_of(key), key.as_str().into()))).await
    }

    async fn members(&self, key: &ChannelKey) -> Result<Vec<Member>, StoreError> {
        self.look(self.unit_of(key), "members", vec![key.as_str().into()]).await?.roster()
    }

    async fn subscribers(&self, key: &ChannelKey, n: u64) -> Result<u64, StoreError> {
        let entry = Entry::Count(key.clone());
        self.mirror(&entry, (n > 0).then_some(State::Count(n)));
        let mut answer = self.act(&entry, Act::Count(n)).await?;
        answer.number()?;
        answer.number()
    }

    async fn counts(&self, key: &ChannelKey) -> Result<Counts, StoreError> {
        let mut answer = self.look(self.unit_of(key), "counts", vec![key.as_str().into()]).await?;
        Ok(Counts { subscribers: answer.number()?, users: answer.number()? })
    }

    async fn channels(&self, app: &str, prefix: &str) -> Result<Vec<(String, Counts)>, StoreError> {
        let units = self.redis.units().map(|unit| self.channels_of(unit, app, prefix));
        let mut channels = try_join_all(units).await?.concat();
        channels.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(channels)
    }

    async fn user_online(&self, app: &str, user: &str, socket: SocketId) -> Result<bool, StoreError> {
        let entry = Entry::Online(ChannelKey::new(app, user), socket);
        self.mirror(&entry, Some(State::Online));
        Ok(self.act(&entry, Act::Online).await?.number()? == 1)
    }

    async fn user_offline(&self, app: &str, user: &str, socket: SocketId) -> Result<bool, StoreError> {
        let entry = Entry::Online(ChannelKey::new(app, user), socket);
        self.mirror(&entry, None);
        Ok(self.act(&entry, Act::Offline).await?.number()? == 1)
    }

    async fn users_online(&self, app: &str, users: &[String]) -> Result<Vec<bool>, StoreError> {
        let name = |user: &String| (self.unit_of_user(app, user), ChannelKey::new(app, user).as_str().into());
        let online = self.look_each("online", users.iter().map(name)).await?;
        Ok(online.into_iter().map(|online| online == 1).collect())
    }

    async fn retire(&self) {
        // Whom it does not reach takes out everything when the lease ends by itself.
        let _ = try_join_all(self.redis.units().map(|unit| self.end(unit))).await;
    }
}

pub(super) fn unavailable(error: CallError) -> StoreError {
    tracing::debug!(%error, "presence unavailable");
    StoreError::Unavailable
}

/// What is done with an entry.
pub(super) enum Act {
    Join { member: Member, members_max: u32, roster: bool },
    Leave,
    Count(u64),
    Online,
    Offline,
}

impl Act {
    /// What makes a unit hold this.
    pub(super) fn towards(entry: &Entry, state: Option<State>) -> Act {
        match (entry, state) {
            // Nobody is put out of a channel where they have been let in.
            (_, Some(State::Member(member))) => Act::Join { member, members_max: u32::MAX, roster: false },
            (_, Some(State::Count(n))) => Act::Count(n),
            (_, Some(State::Online)) => Act::Online,
            (Entry::Member(..), None) => Act::Leave,
            (Entry::Count(_), None) => Act::Count(0),
            (Entry::Online(..), None) => Act::Offline,
        }
    }

    fn script(&self) -> &'static Script {
        match self {
            Act::Join { .. } | Act::Online => &ENTER,
            Act::Count(n) if *n > 0 => &ENTER,
            Act::Leave | Act::Offline | Act::Count(_) => &LEAVE,
        }
    }

    /// The script for many acts.
    pub(super) fn script_for_all() -> &'static Script {
        &ENTER
    }

    pub(super) fn args(&self, entry: &Entry) -> Vec<Vec<u8>> {
        let kind = match self {
            Act::Join { roster: true, .. } => "J",
            Act::Join { .. } => "j",
            Act::Leave => "l",
            Act::Count(_) => "c",
            Act::Online => "o",
            Act::Offline => "f",
        };
        let (key, socket) = match entry {
            Entry::Member(key, socket) | Entry::Online(key, socket) => (key, socket.to_string()),
            Entry::Count(key) => (key, String::new()),
        };
        let (user, info, number) = match self {
            Act::Join { member, members_max, .. } => {
                (&*member.user_id, member.user_info.as_deref().unwrap_or(""), u64::from(*members_max))
            }
            Act::Count(n) => ("", "", *n),
            Act::Leave | Act::Online | Act::Offline => ("", "", 0),
        };
        [kind, key.as_str(), &socket, user, info, &number.to_string()].map(|text| text.as_bytes().to_vec()).into()
    }
}

/// A script's answer, read from its front. An answer of another shape is none.
#[derive(Debug)]
pub(super) struct Answer(std::vec::IntoIter<Value>);

impl Answer {
    pub(super) fn of(value: Value) -> Result<Answer, StoreError> {
        match value {
            Value::Array(values) => Ok(Answer(values.into_iter())),
            other => Err(misshapen(Some(other))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    pub(super) fn list(&mut self) -> Result<Answer, StoreError> {
        self.0.next().map_or_else(|| Err(misshapen(None)), Answer::of)
    }

    pub(super) fn signed(&mut self) -> Result<i64, StoreError> {
        match self.0.next() {
            Some(Value::Int(number)) => Ok(number),
            other => Err(misshapen(other)),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        Ok(self.signed()?.max(0).unsigned_abs())
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.0.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            other => Err(misshapen(other)),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// What may be nothing: then that is all there is to read.
    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Answer) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match self.0.as_slice() {
            [Value::Nil, ..] => {
                self.0.next();
                Ok(None)
            }
            _ => read(self).map(Some),
        }
    }

    fn roster(mut self) -> Result<Vec<Member>, StoreError> {
        let mut roster = Vec::with_capacity(self.0.len() / 2);
        while !self.is_empty() {
            let (user_id, info) = (self.text()?, self.text()?);
            roster.push(Member { user_id, user_info: (!info.is_empty()).then(|| info.into()) });
        }
        Ok(roster)
    }
}

fn misshapen(value: Option<Value>) -> StoreError {
    tracing::error!(?value, "a script answered in another shape");
    StoreError::Unavailable
}
