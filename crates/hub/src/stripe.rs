//! One stripe of the hub: a task that serves the loops' requests about its channels, one at a time and in order.
//!
//! Always true:
//! - a channel's route exists before the broker is asked for it, so that no message between the two is lost;
//! - the gate (open, or closing since the last subscriber left) is a state in this table, not a lock: whoever asks while
//!   the broker is being asked waits in this task's queue;
//! - a loop keeps its route for a while after its last subscriber left: it may have let the next one in already, on the
//!   word of an earlier opening, while its request still waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::server;
use fanfare_proto::socket_id::SocketId;
use hashbrown::HashMap;
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::broker::{Broker, History, Since, Stored};
use crate::herald::Herald;
use crate::hub::{Requests, Routes};
use crate::key::ChannelKey;
use crate::mail::{Begin, Entrance, Mail, Replay, Request};
use crate::patience::{Entry, Patience, Unopened, until};
use crate::presence::{Member, PresenceStore, StoreError};
use crate::publication::{Frames, Publication};
use crate::shard::ConnKey;

/// How long a loop without subscribers keeps its route to a channel, and the node its subscription at the broker: page
/// changes leave and come back.
const LINGER: Duration = Duration::from_secs(1);

/// How long a member whose connection ended counts as present: readers over HTTP are cut off and come back all the time,
/// and everybody does when this node is about to end.
const GRACE: Duration = Duration::from_secs(5);

/// Up to here every change of a subscription count is told; beyond it, one per `COUNT_PAUSE` (pusher.com/docs, "Subscription
/// count events").
const COUNT_EACH_MAX: u64 = 100;
const COUNT_PAUSE: Duration = Duration::from_secs(5);

/// What a stripe is asked.
pub(crate) enum Ask {
    /// A loop's request.
    Serve(Request),
    /// Answer once everything before this has been served.
    Settle(oneshot::Sender<()>),
}

/// A channel that this node has open.
#[derive(Default)]
pub(crate) struct Open {
    shares: SmallVec<[Share; 2]>,
    /// When the count was last told, and whether it has changed since.
    told_at: Option<Instant>,
    untold: bool,
    /// What was replayed within the last `LINGER`, by stamp: when many come back at once, each publication is encoded
    /// once for all of them.
    replayed: HashMap<u64, Arc<Frames>>,
}

/// One loop's share of a channel.
#[derive(Clone, Copy, Default)]
struct Share {
    /// Its subscribers.
    n: u32,
    /// How often it was left by the last of them within the last `LINGER`.
    lingers: u32,
}

impl Open {
    fn total(&self) -> u64 {
        self.shares.iter().map(|share| u64::from(share.n)).sum()
    }

    fn share(&mut self, index: usize) -> &mut Share {
        if self.shares.len() <= index {
            self.shares.resize(index + 1, Share::default());
        }
        &mut self.shares[index]
    }

    /// A bit for each loop that publications go to.
    fn holders(&self) -> u64 {
        let holds = |share: &Share| share.n > 0 || share.lingers > 0;
        self.shares.iter().enumerate().filter(|(_, share)| holds(share)).map(|(index, _)| 1 << index).sum()
    }

    fn is_pausing(&self, now: Instant) -> bool {
        self.told_at.is_some_and(|at| now < at + COUNT_PAUSE)
    }
}

/// Something to look at again later.
enum Due {
    /// Nobody of this loop has been on the channel for a while: is it still wanted?
    Vacate(ChannelKey, usize),
    /// Nobody has come back for this member in time, or in another's name.
    Leave(ChannelKey, SocketId),
    /// The same for a user who signed in.
    SignOut(ChannelKey, SocketId, String),
    /// Whoever came back together has been served.
    Unreplay(ChannelKey),
    /// The count changed during the pause.
    Tell(ChannelKey),
}

pub(crate) struct Stripe {
    routes: Arc<Routes>,
    broker: Arc<dyn Broker>,
    presence: Arc<dyn PresenceStore>,
    herald: Herald,
    requests: Requests,
    channels: HashMap<ChannelKey, Open>,
    /// What is due after `LINGER`, and what is after `COUNT_PAUSE`: one queue each, so that both are in order of time.
    lingers: VecDeque<(Instant, Due)>,
    tells: VecDeque<(Instant, Due)>,
    /// The same after `GRACE`.
    graces: VecDeque<(Instant, Due)>,
    /// Who waits for the broker or the store to come back.
    patience: Patience,
}

impl Stripe {
    pub(crate) fn new(
        routes: Arc<Routes>,
        broker: Arc<dyn Broker>,
        presence: Arc<dyn PresenceStore>,
        requests: Requests,
    ) -> Self {
        Stripe {
            herald: Herald::new(routes.clone(), broker.clone()),
            routes,
            broker,
            presence,
            requests,
            channels: HashMap::new(),
            lingers: VecDeque::new(),
            tells: VecDeque::new(),
            graces: VecDeque::new(),
            patience: Patience::default(),
        }
    }

    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        loop {
            let due = self.next_due();
            let ask = tokio::select! {
                ask = inbox.recv() => ask,
                () = sleep_until(due), if due.is_some() => {
                    self.serve_due().await;
                    continue;
                }
            };
            match ask {
                Some(Ask::Serve(request)) => self.serve(request).await,
                Some(Ask::Settle(done)) => {
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
                None => return,
            }
        }
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Members { key, from, n, announce } => self.members(key, from, n, announce).await,
            Request::Enter { key, from, conn, token, socket, member, cached, begin } => {
                self.let_in(Entry { key, from, conn, token, socket, member, cached, begin, until: until() }).await;
            }
            Request::Leave { key, socket, may_return } if may_return || self.requests.are_parting() => {
                self.patience.forget(&key, socket);
                self.graces.push_back((Instant::now() + GRACE, Due::Leave(key, socket)));
            }
            Request::Leave { key, socket, .. } => {
                self.patience.forget(&key, socket);
                self.leave(&key, socket).await;
            }
            Request::Publish { key, from, conn, publication } => {
                self.client_event(&key, from, conn, *publication).await;
            }
            Request::SignedIn { key, from, conn, socket, user, watchlist, welcome } => {
                self.signed_in(key.app(), &user, socket).await;
                self.routes.mail(from, Mail::Say { conn, texts: welcome }).await;
                if !watchlist.is_empty() {
                    self.watch(key.app(), from, conn, watchlist);
                }
            }
            Request::SignedOut { key, socket, user } if self.requests.are_parting() => {
                self.graces.push_back((Instant::now() + GRACE, Due::SignOut(key, socket, user)));
            }
            Request::SignedOut { key, socket, user } => self.signed_out(key.app(), &user, socket).await,
        }
    }

    // Subscribing and counting.

    async fn members(&mut self, key: ChannelKey, from: usize, n: u32, announce: bool) {
        if let Some(waiting) = self.patience.unopened.get_mut(&key) {
            waiting.open.share(from).n = n;
            if waiting.open.total() == 0 {
                self.patience.unopened.remove(&key);
                self.routes.set(&key, 0);
            }
            return;
        }
        let Some(open) = self.channels.get_mut(&key) else {
            if n > 0 {
                let mut open = Open::default();
                open.share(from).n = n;
                self.open(key, Unopened { open, announce, until: until() }).await;
            }
            return;
        };
        let was = std::mem::replace(&mut open.share(from).n, n);
        if was == 0 && n > 0 {
            self.routes.set(&key, open.holders());
            self.routes.mail(from, Mail::Opened(key.clone())).await;
        }
        if was > 0 && n == 0 {
            open.share(from).lingers += 1;
            self.lingers.push_back((Instant::now() + LINGER, Due::Vacate(key.clone(), from)));
        }
        self.counted(&key, announce).await;
    }

    /// Opens the gate of a channel that nobody on this node had; false if the broker is away. Whoever waits for it is told so
    /// when it has been away for too long.
    async fn open(&mut self, key: ChannelKey, mut unopened: Unopened) -> bool {
        let holders = unopened.open.holders();
        self.routes.set(&key, holders);
        match self.broker.subscribe(&key).await {
            Ok(()) => {
                self.channels.insert(key.clone(), std::mem::take(&mut unopened.open));
                self.mail_each(holders, || Mail::Opened(key.clone())).await;
                self.counted(&key, unopened.announce).await;
                true
            }
            Err(_) if Instant::now() < unopened.until => {
                self.patience.keep_shut(key, unopened);
                false
            }
            Err(error) => {
                tracing::warn!(channel = key.as_str(), %error, "subscribe refused");
                self.routes.set(&key, 0);
                self.mail_each(holders, || Mail::Refused(key.clone())).await;
                false
            }
        }
    }

    async fn mail_each(&self, holders: u64, letter: impl Fn() -> Mail) {
        for index in (0..u64::BITS as usize).filter(|index| holders & (1 << index) != 0) {
            self.routes.mail(index, letter()).await;
        }
    }

    /// Asks again for everybody who waits, up to the first who has to wait on: what is away for one is away for all.
    async fn try_again(&mut self) {
        let (unopened, outside) = self.patience.take();
        let mut well = true;
        for (key, unopened) in unopened {
            if well || unopened.until <= Instant::now() {
                well = self.open(key, unopened).await;
            } else {
                self.patience.keep_shut(key, unopened);
            }
        }
        for entry in outside {
            if well || entry.until <= Instant::now() {
                well = self.let_in(entry).await;
            } else if let Err(entry) = self.patience.keep_outside(entry) {
                self.turn_away(entry).await;
            }
        }
    }

    /// Tells the store, and those who are to be told, how many subscribers there are now.
    async fn counted(&mut self, key: &ChannelKey, announce: bool) {
        let Some(open) = self.channels.get(key) else { return };
        let total = open.total();
        match self.presence.subscribers(key, total).await {
            Ok(cluster) if announce => self.announce(key, cluster).await,
            Ok(_) => {}
            Err(error) => tracing::warn!(channel = key.as_str(), %error, "count not stored"),
        }
    }

    async fn announce(&mut self, key: &ChannelKey, total: u64) {
        let Some(open) = self.channels.get_mut(key) else { return };
        let now = Instant::now();
        if total > COUNT_EACH_MAX && open.is_pausing(now) {
            if !open.untold {
                open.untold = true;
                self.tells.push_back((now + COUNT_PAUSE, Due::Tell(key.clone())));
            }
            return;
        }
        open.told_at = Some(now);
        open.untold = false;
        self.herald.counted(key, total).await;
    }

    fn next_due(&self) -> Option<Instant> {
        let first = |queue: &VecDeque<(Instant, Due)>| queue.front().map(|(at, _)| *at);
        let dues = [first(&self.lingers), first(&self.tells), first(&self.graces), self.patience.due()];
        dues.into_iter().flatten().min()
    }

    async fn serve_due(&mut self) {
        let now = Instant::now();
        let queues = |stripe: &mut Self| {
            let due = pop_due(&mut stripe.lingers, now).or_else(|| pop_due(&mut stripe.tells, now));
            due.or_else(|| pop_due(&mut stripe.graces, now))
        };
        while let Some(due) = queues(self) {
            match due {
                Due::Vacate(key, from) => self.vacate(&key, from).await,
                Due::Unreplay(key) => {
                    self.channels.get_mut(&key).map(|open| std::mem::take(&mut open.replayed));
                }
                Due::Leave(key, socket) => self.leave(&key, socket).await,
                Due::SignOut(key, socket, user) => self.signed_out(key.app(), &user, socket).await,
                Due::Tell(key) => self.tell(&key).await,
            }
        }
        if self.patience.due().is_some_and(|at| at <= now) {
            self.try_again().await;
        }
    }

    async fn tell(&mut self, key: &ChannelKey) {
        let Some(open) = self.channels.get_mut(key) else { return };
        // Told since: a later look is due for what has changed after that.
        if open.is_pausing(Instant::now()) || !std::mem::take(&mut open.untold) {
            return;
        }
        if let Ok(counts) = self.presence.counts(key).await {
            self.announce(key, counts.subscribers).await;
        }
    }

    async fn vacate(&mut self, key: &ChannelKey, from: usize) {
        let Some(open) = self.channels.get_mut(key) else { return };
        open.share(from).lingers -= 1;
        let holders = open.holders();
        self.routes.set(key, holders);
        if holders > 0 {
            return;
        }
        self.channels.remove(key);
        if let Err(error) = self.broker.unsubscribe(key).await {
            tracing::warn!(channel = key.as_str(), %error, "unsubscribe refused");
        }
    }

    // Presence and cache.

    /// Lets a subscriber in, or says why not; false if that has to wait.
    async fn let_in(&mut self, entry: Entry) -> bool {
        match self.enter(&entry).await {
            Err(StoreError::Unavailable) => {
                if let Err(entry) = self.patience.keep_outside(entry) {
                    self.turn_away(entry).await;
                }
                false
            }
            outcome => {
                let Entry { key, from, conn, token, .. } = entry;
                self.routes.mail(from, Mail::Entered { key, conn, token, outcome }).await;
                true
            }
        }
    }

    async fn turn_away(&self, entry: Entry) {
        let Entry { key, from, conn, token, .. } = entry;
        let outcome = Err(StoreError::Unavailable);
        self.routes.mail(from, Mail::Entered { key, conn, token, outcome }).await;
    }

    async fn enter(&mut self, entry: &Entry) -> Result<Entrance, StoreError> {
        let Entry { key, socket, member, cached, begin, .. } = entry;
        // Before the channel is open, a history would miss what comes after it.
        if self.patience.unopened.contains_key(key) {
            return Err(StoreError::Unavailable);
        }
        let mut entrance = Entrance::default();
        // What can fail before the join, which would have to be taken back.
        if let Some(begin) = begin {
            entrance.replay = Some(self.replay(key, begin).await?);
        }
        if *cached {
            entrance.cached = Some(self.broker.cached(key).await.map_err(|_| StoreError::Unavailable)?);
        }
        if let Some((member, members_max)) = member {
            entrance.roster = Some(self.join(key, *socket, member.clone(), *members_max).await?);
        }
        Ok(entrance)
    }

    /// What was missed. The loop and this node have subscribed before: what is not in it will be delivered.
    async fn replay(&mut self, key: &ChannelKey, begin: &Begin) -> Result<Replay, StoreError> {
        let mut history = self.history(key, &begin.since).await?;
        let recovered = history.recovered;
        if !recovered && begin.or_last > 0 {
            history = self.history(key, &Since::Last(begin.or_last)).await?;
        }
        let frames = self.replayed(key, history.publications);
        Ok(Replay { frames, now: history.now, recovered })
    }

    async fn history(&self, key: &ChannelKey, since: &Since) -> Result<History, StoreError> {
        self.broker.history(key, since, usize::MAX).await.map_err(|_| StoreError::Unavailable)
    }

    fn replayed(&mut self, key: &ChannelKey, missed: Vec<Stored>) -> Vec<Arc<Frames>> {
        let routes = self.routes.clone();
        let Some(open) = self.channels.get_mut(key) else {
            return missed.into_iter().map(|stored| routes.frames(key, stored)).collect();
        };
        if open.replayed.is_empty() && !missed.is_empty() {
            self.lingers.push_back((Instant::now() + LINGER, Due::Unreplay(key.clone())));
        }
        let mut frames = |stored: Stored| {
            open.replayed.entry(stored.mark.stamp).or_insert_with(|| routes.frames(key, stored)).clone()
        };
        missed.into_iter().map(&mut frames).collect()
    }

    /// Joins, tells the others, and returns the roster with its version.
    async fn join(
        &self,
        key: &ChannelKey,
        socket: SocketId,
        member: Member,
        members_max: u32,
    ) -> Result<(String, u64), StoreError> {
        let joined = self.presence.join(key, socket, member.clone(), members_max).await?;
        self.routes.rosters.shown(key, joined.version);
        if joined.first {
            self.herald.added(key, &member, joined.version, Some(socket)).await;
        }
        let roster = joined.roster.iter().map(|member| (member.user_id.as_str(), member.user_info.as_deref()));
        Ok((server::presence_data(roster), joined.version))
    }

    async fn leave(&self, key: &ChannelKey, socket: SocketId) {
        match self.presence.leave(key, socket).await {
            Ok(left) => {
                if let Some((user_id, version)) = left.last {
                    self.herald.removed(key, &user_id, version, Some(socket)).await;
                }
            }
            Err(error) => tracing::warn!(channel = key.as_str(), %error, "leave not stored"),
        }
    }

    /// Publishes what a client said; tells it when that could not be done.
    async fn client_event(&self, key: &ChannelKey, from: usize, conn: ConnKey, publication: Publication) {
        if let Err(error) = self.routes.publish_own(&*self.broker, key, publication).await {
            let message = format!("Client event on {} rejected - {error}: try again later", key.name());
            let mut text = Vec::new();
            server::error(&mut text, None, &message);
            self.routes.mail(from, Mail::Say { conn, texts: vec![text] }).await;
        }
    }

    // Users.

    async fn signed_in(&self, app: &str, user: &str, socket: SocketId) {
        match self.presence.user_online(app, user, socket).await {
            Ok(true) => self.herald.turned(app, user, true).await,
            Ok(false) => {}
            Err(error) => tracing::warn!(app, %error, "sign-in not stored"),
        }
    }

    async fn signed_out(&self, app: &str, user: &str, socket: SocketId) {
        match self.presence.user_offline(app, user, socket).await {
            Ok(true) => self.herald.turned(app, user, false).await,
            Ok(false) => {}
            Err(error) => tracing::warn!(app, %error, "sign-out not stored"),
        }
    }

    /// Answers a new watcher beside this task: it waits for other stripes, which may be waiting for this one. There is at
    /// most one such answer per connection, for a socket signs in once.
    fn watch(&self, app: &str, from: usize, conn: ConnKey, watchlist: Vec<String>) {
        let (routes, presence, requests) = (self.routes.clone(), self.presence.clone(), self.requests.clone());
        let app = app.to_owned();
        tokio::spawn(async move {
            // The loop asked for the watched channels before it reported the sign-in: from here on changes reach it.
            requests.all_settled().await;
            let Ok(before) = presence.users_online(&app, &watchlist).await else { return };
            routes.mail(from, Mail::Say { conn, texts: watchlist_texts(&watchlist, &before, None) }).await;
            // A change between the reading and the letter may have been told first: then the letter lied, so look again.
            let Ok(after) = presence.users_online(&app, &watchlist).await else { return };
            if after != before {
                let texts = watchlist_texts(&watchlist, &after, Some(&before));
                routes.mail(from, Mail::Say { conn, texts }).await;
            }
        });
    }
}

/// One message with those who are online and one with those who are not; with `before`, only whoever changed.
fn watchlist_texts(watchlist: &[String], now: &[bool], before: Option<&[bool]>) -> Vec<Vec<u8>> {
    let text = |name: &str, state: bool| {
        let in_state = |index: usize| now[index] == state && before.is_none_or(|before| before[index] != state);
        let users: Vec<&str> =
            watchlist.iter().enumerate().filter(|(index, _)| in_state(*index)).map(|(_, user)| user.as_str()).collect();
        (!users.is_empty()).then(|| {
            let mut out = Vec::new();
            server::watchlist(&mut out, &[(name, &users)]);
            out
        })
    };
    [text("online", true), text("offline", false)].into_iter().flatten().collect()
}

fn pop_due(queue: &mut VecDeque<(Instant, Due)>, now: Instant) -> Option<Due> {
    queue.pop_front_if(|(at, _)| *at <= now).map(|(_, due)| due)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
