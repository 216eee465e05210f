//! One unit: which server has it now, under which generation, and what is subscribed to there.
//!
//! A task for each unit goes through the same steps again whenever something about its server changes: fence, subscribe to
//! everything, tell that it is up; and when that no longer holds, tell that it is down.

use super::commands::Commands;
use super::dial::Address;
use super::link::Link;
use super::refusal::{Refusal, judge};
use super::subscriber::Subscriber;
use super::subscriptions::Subscriptions;
use super::{CallError, LinkEvents, Script, UnitIx};
use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use redis::{Cmd, RedisResult, Value};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// How long a question may take, all attempts together.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts at what a server refused.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Between questions whether the unit was brought back to a server that it was taken from.
const TAKEN_PAUSE: Duration = Duration::from_secs(1);
/// How long a question waits for a server that has only just been given the unit.
const ARRIVAL: Duration = Duration::from_secs(1);
/// Between attempts at a slot that is on its way.
const MOVING_PAUSE: Duration = Duration::from_millis(20);

static CLOSE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/close.lua")));
/// By how much the clocks of this machine and of Redis may differ where two primaries served at the same time.
const CLOCKS_DIFFER: Duration = Duration::from_millis(100);

static FENCE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/fence.lua")));

/// What is asked of a server.
pub(super) enum Question<'a> {
    /// A script, with its keys and arguments but those that every script has.
    Script { script: &'a Script, keys: &'a [Vec<u8>], args: &'a [Vec<u8>] },
    /// About one key or channel of the unit.
    Command(Cmd),
}

/// Where questions go: a connection, and the generation under which its server is known.
pub(super) struct Route {
    pub commands: Arc<Commands>,
    pub generation: u64,
}

/// A unit.
pub(super) struct Unit {
    pub ix: UnitIx,
    /// What channels are assigned by.
    pub name: Arc<str>,
    /// What all of its keys begin with.
    prefix: String,
    fence_key: Vec<u8>,
    stamp_key: Vec<u8>,
    /// Its server.
    home: watch::Sender<Option<Arc<Link>>>,
    route: ArcSwapOption<Route>,
    /// Told whenever `route` has changed.
    routed: Notify,
    subscriptions: Mutex<Subscriptions>,
    /// Told when the subscriptions may have become whole.
    subscribed: Notify,
    /// Told when the generation was refused.
    fenced: Notify,
    /// Told when the server ended a subscription or refused one: the slot is elsewhere.
    moved: Notify,
    /// The server that it was given to and has not begun at, which may have had it before.
    given_to: Mutex<Option<Address>>,
    /// Its server says that another one has it, and nobody has said which.
    taken: AtomicBool,
    /// Whether the listeners were told that it is up, and not yet that it is down.
    risen: AtomicBool,
    /// When the last script was answered, in microseconds since 1970; 0: never.
    answered_us: AtomicU64,
    /// Which process answered the last fence: its `run_id` and replication id.
    process: Mutex<String>,
}

impl Unit {
    /// A unit without a server. `tag` is the hash tag that puts all of its keys into one slot of a Cluster.
    pub fn new(ix: UnitIx, name: Arc<str>, prefix: &str, tag: Option<&str>) -> Unit {
        let prefix = match tag {
            Some(tag) => format!("{prefix}:{{{tag}}}:"),
            None => format!("{prefix}:"),
        };
        Unit {
            ix,
            name,
            fence_key: format!("{prefix}fence").into(),
            stamp_key: format!("{prefix}stamp").into(),
            prefix,
            home: watch::Sender::new(None),
            route: ArcSwapOption::empty(),
            routed: Notify::new(),
            subscriptions: Mutex::default(),
            subscribed: Notify::new(),
            fenced: Notify::new(),
            moved: Notify::new(),
            given_to: Mutex::default(),
            taken: AtomicBool::new(false),
            risen: AtomicBool::new(false),
            answered_us: AtomicU64::new(0),
            process: Mutex::default(),
        }
    }

    /// The whole name of a key.
    pub fn key(&self, rest: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), rest.as_bytes()].concat()
    }

    /// What all of its keys and channels begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Its server.
    pub fn home(&self) -> Option<Arc<Link>> {
        self.home.borrow().clone()
    }

    /// Moves it to a server.
    pub fn settle(&self, link: Option<Arc<Link>>) {
        self.taken.store(false, Ordering::Release);
        self.home.send_replace(link);
    }

    /// Where questions go; `None`: nowhere just now.
    pub fn route(&self) -> Option<Arc<Route>> {
        self.route.load_full()
    }

    /// Waits for another route than this one, or until it is known that there is none.
    async fn another_route(&self, than: &Arc<Route>) {
        loop {
            let changed = self.routed.notified();
            if self.route().is_some() && !self.is_current(than) || self.is_taken() {
                return;
            }
            changed.await;
        }
    }

    fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// Where questions go, as soon as that is known: not while its server is gone, or has it no longer.
    pub async fn arrival(&self) -> Option<Arc<Route>> {
        let arriving = async {
            loop {
                let changed = self.routed.notified();
                if let Some(route) = self.route() {
                    return Some(route);
                }
                if self.is_taken() || self.home().is_none_or(|link| link.is_gone()) {
                    return None;
                }
                changed.await;
            }
        };
        timeout(ARRIVAL, arriving).await.ok().flatten()
    }

    /// Whether the listeners know it as up.
    pub fn has_risen(&self) -> bool {
        self.risen.load(Ordering::Acquire)
    }

    /// Its channels.
    pub fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some of its channels were subscribed to.
    pub fn has_subscribed(&self) {
        self.subscribed.notify_one();
    }

    /// What is wanted of its channels has changed.
    pub fn have_changed(&self) {
        self.subscribed.notify_one();
        if let Some(subscriber) = self.home().and_then(|link| link.subscriber_now()) {
            subscriber.notify();
        }
    }

    /// The server said that the slot is elsewhere.
    pub fn has_moved(&self) {
        self.moved.notify_one();
        self.doubt();
    }

    fn doubt(&self) {
        if let Some(link) = self.home() {
            link.doubt();
        }
    }

    fn is_current(&self, route: &Arc<Route>) -> bool {
        self.route().is_some_and(|current| Arc::ptr_eq(&current, route))
    }

    /// Under which its server is known; 0: under none.
    pub fn generation(&self) -> u64 {
        self.route().map_or(0, |route| route.generation)
    }

    /// Asks its server until there is an answer, for as long as the server says that it has done nothing.
    pub async fn ask(&self, question: &Question<'_>) -> Result<Value, CallError> {
        timeout(ASK_TIMEOUT, self.ask_on(question)).await.unwrap_or(Err(CallError::Timeout))
    }

    async fn ask_on(&self, question: &Question<'_>) -> Result<Value, CallError> {
        loop {
            let route = self.arrival().await.ok_or(CallError::Down)?;
            let error = match self.ask_once(&route, question).await {
                Ok(answer) => return self.believe(&route, question, answer),
                Err(error) => error,
            };
            match judge(&error) {
                Refusal::Final(error) => return Err(error),
                Refusal::Fenced | Refusal::Moved if !self.is_current(&route) => self.another_route(&route).await,
                Refusal::Fenced => {
                    self.fenced.notify_one();
                    self.another_route(&route).await;
                }
                Refusal::Moved => {
                    self.has_moved();
                    self.another_route(&route).await;
                }
                Refusal::Moving | Refusal::NoScript => sleep(MOVING_PAUSE).await,
                Refusal::Unable => {
                    self.doubt();
                    return Err(CallError::Down);
                }
            }
        }
    }

    /// What a server says that the unit has left may be known to nobody else: then it is as if it had not been said.
    fn believe(&self, route: &Arc<Route>, question: &Question<'_>, answer: Value) -> Result<Value, CallError> {
        if matches!(question, Question::Script { .. }) {
            if !self.is_current(route) {
                return Err(CallError::Timeout);
            }
            self.answered_us.store(now_us(), Ordering::Release);
        }
        Ok(answer)
    }

    async fn ask_once(&self, route: &Route, question: &Question<'_>) -> RedisResult<Value> {
        let (script, keys, args) = match question {
            Question::Command(command) => return route.commands.ask(command).await,
            Question::Script { script, keys, args } => (script, keys, args),
        };
        let generation = route.generation.to_string();
        let own: [&[u8]; 2] = [&self.fence_key, &self.stamp_key];
        let keys: Vec<&[u8]> = own.into_iter().chain(keys.iter().map(Vec::as_slice)).collect();
        let first: [&[u8]; 1] = [generation.as_bytes()];
        let args: Vec<&[u8]> = first.into_iter().chain(args.iter().map(Vec::as_slice)).collect();
        route.commands.run(script, &keys, &args).await
    }

    /// Ends it at its server, as another one is to have it. Returns whether the server knows.
    pub async fn close(&self, given_to: &Address) -> bool {
        *self.given_to() = Some(given_to.clone());
        let Some(commands) = self.home().and_then(|link| link.commands_now()) else { return false };
        let asked_us = now_us();
        let answer = timeout(ASK_TIMEOUT, commands.run(&CLOSE, &[&self.fence_key], &[])).await;
        let answer = answer.ok().and_then(|answer| redis::from_redis_value(answer.ok()?).ok());
        match answer {
            // Whoever begins at the other server from here on does so after all that was answered here.
            Some(true) => self.answered_us.store(asked_us - CLOCKS_DIFFER.as_micros() as u64, Ordering::Release),
            // Whoever was the first tells the other server what was answered here.
            Some(false) => self.process().clear(),
            None => {}
        }
        answer.is_some()
    }

    fn given_to(&self) -> MutexGuard<'_, Option<Address>> {
        self.given_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The unit's task. Ends never.
    pub async fn live(self: Arc<Self>, events: Arc<dyn LinkEvents>) {
        let mut home = self.home.subscribe();
        loop {
            let link = home.borrow_and_update().clone();
            let living = async {
                match &link {
                    Some(link) => self.live_on(link, &*events).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = home.changed() => {}
                () = living => {}
            }
            self.leave(&*events);
            if let Some(subscriber) = link.and_then(|link| link.subscriber_now()) {
                subscriber.detach(self.ix);
            }
        }
    }

    async fn live_on(self: &Arc<Self>, link: &Link, events: &dyn LinkEvents) {
        loop {
            let commands = link.commands().await;
            tokio::select! {
                () = link.commands_lost(&commands) => {}
                () = self.serve(link, &commands, events) => {}
            }
            self.leave(events);
        }
    }

    /// Goes on for as long as the connection is good, each time under another generation.
    async fn serve(self: &Arc<Self>, link: &Link, commands: &Arc<Commands>, events: &dyn LinkEvents) {
        loop {
            let generation = self.fence(link, commands).await;
            // What was said of the route before.
            let _ = self.fenced.notified().now_or_never();
            self.go(Some(Route { commands: commands.clone(), generation }));
            tokio::select! {
                () = self.fenced.notified() => {}
                () = self.listen(link, generation, events) => {}
            }
            self.leave(events);
        }
    }

    fn process(&self) -> MutexGuard<'_, String> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fence(&self, link: &Link, commands: &Commands) -> u64 {
        loop {
            let is_given = self.given_to().as_ref() == Some(&link.address);
            let given: &[u8] = if is_given { b"open" } else { b"" };
            let before = self.process().clone();
            let until_us = match self.answered_us.load(Ordering::Acquire) {
                0 => 0,
                us => us + CLOCKS_DIFFER.as_micros() as u64,
            };
            let until_us = until_us.to_string();
            let args = [given, before.as_bytes(), until_us.as_bytes()];
            let answer = commands.run(&FENCE, &[&self.fence_key], &args).await;
            match answer.and_then(|value| Ok(redis::from_redis_value::<(u64, String)>(value)?)) {
                Ok((generation, process)) => {
                    self.given_to().take_if(|address| *address == link.address);
                    self.taken.store(false, Ordering::Release);
                    *self.process() = process;
                    link.recovery().fences.add(1);
                    return generation;
                }
                Err(error) if judge(&error) == Refusal::Moved => link.doubt(),
                Err(error) => {
                    let is_taken = error.code() == Some("GONE") && self.given_to().is_none();
                    link.blame(error);
                    if is_taken {
                        self.taken.store(true, Ordering::Release);
                        self.routed.notify_waiters();
                        sleep(TAKEN_PAUSE).await;
                    }
                }
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Goes on under one generation, each time on another connection for pub/sub.
    async fn listen(self: &Arc<Self>, link: &Link, generation: u64, events: &dyn LinkEvents) {
        loop {
            let subscriber = link.subscriber().await;
            let _ = self.moved.notified().now_or_never();
            subscriber.attach(self);
            tokio::select! {
                () = link.subscriber_lost(&subscriber) => {}
                () = self.moved.notified() => {
                    subscriber.detach(self.ix);
                    self.fall(events);
                    // Most often, the unit has been given another server before this is over.
                    sleep(RETRY_PAUSE).await;
                }
                () = self.hear(&subscriber, generation, events) => {}
            }
            self.fall(events);
        }
    }

    /// Ends never.
    async fn hear(&self, subscriber: &Arc<Subscriber>, generation: u64, events: &dyn LinkEvents) {
        while !self.subscriptions().is_whole() {
            self.subscribed.notified().await;
        }
        tracing::debug!(unit = %self.name, server = %subscriber.server, generation, "unit is up");
        self.risen.store(true, Ordering::Release);
        events.up(self.ix, generation).await;
        std::future::pending().await
    }

    fn go(&self, route: Option<Route>) {
        self.route.store(route.map(Arc::new));
        self.routed.notify_waiters();
    }

    fn leave(&self, events: &dyn LinkEvents) {
        self.go(None);
        self.fall(events);
    }

    fn fall(&self, events: &dyn LinkEvents) {
        if self.risen.swap(false, Ordering::AcqRel) {
            tracing::debug!(unit = %self.name, "unit is down");
            events.down(self.ix);
        }
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
