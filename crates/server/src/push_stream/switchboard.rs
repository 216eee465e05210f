//! Who listens on this listener, and how publications reach them.
//!
//! To the hub this is one more loop: it says how many subscribers it has of a channel, and is sent each publication of that
//! channel once. Each subscriber has a queue of its own, which holds messages whose bytes everybody of its template shares, and
//! is bounded by them; what takes a subscriber's messages out of its queue and writes them is a task of its own.
//!
//! Always true:
//! - a subscriber misses nothing that is published after all its channels have been opened;
//! - the last word about a deleted channel stands behind all that was published before it was deleted;
//! - nothing waits under the lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fanfare_hub::hub::Requests;
use fanfare_hub::mail::{Bell, Inbox, MAILBOX_LETTERS_MAX, mailbox};
use fanfare_hub::{ChannelKey, Form, Frames, Mail, Mailbox, Request, StreamPosition};
use hashbrown::HashMap;
use tokio::sync::{Notify, mpsc};

use super::clock::Moment;

/// What a message counts for in a queue beside its bytes.
const MESSAGE_BYTES: usize = 128;

/// How long to wait for the control plane before offering it the same requests again.
const BUSY_TICK: Duration = Duration::from_millis(1);

/// A switchboard whose mailbox exists, so that the hub can be made before it runs.
pub struct Prepared {
    mail: Inbox<Mail>,
    ring: Arc<Notify>,
}

/// Makes the mailbox that the hub is to write to.
pub fn prepare() -> (Prepared, Mailbox<Mail>) {
    let ring = Arc::<Notify>::default();
    let rung = ring.clone();
    let (sender, mail) = mailbox(MAILBOX_LETTERS_MAX, Bell::new(Arc::new(move || rung.notify_one())));
    (Prepared { mail, ring }, sender)
}

/// Who listens; cheap to clone.
#[derive(Clone)]
pub struct Switchboard(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    ring: Arc<Notify>,
    requests: Requests,
    /// The number by which the hub knows this loop.
    from: usize,
    /// What a queue may hold.
    queue_bytes_max: usize,
}

#[derive(Default)]
struct State {
    rooms: HashMap<ChannelKey, Room>,
    /// Requests that the control plane is still to take, in order.
    unsent: VecDeque<Request>,
    deleted: Vec<Arc<Deletion>>,
    next_id: u64,
}

/// A channel with a listener.
#[derive(Default)]
struct Room {
    /// The hub sends what is published to it.
    open: bool,
    listeners: HashMap<u64, Queue>,
    announce: bool,
}

/// What a subscriber hears.
pub enum News {
    /// One of its channels is open.
    Opened,
    /// The broker refused one of its channels.
    Refused,
    /// Something was published.
    Published(Message),
    /// One of its channels is no more.
    Deleted(Arc<Deletion>),
}

/// A publication, as one subscriber takes it.
#[derive(Clone, Debug)]
pub struct Message {
    /// The channel.
    pub key: ChannelKey,
    /// What it is written as.
    pub bytes: Bytes,
    /// When it was published.
    pub moment: Moment,
    /// Its place in the channel's stream, if it was stored.
    pub position: Option<StreamPosition>,
}

/// A channel that was deleted, and the last message of it.
#[derive(Debug)]
pub struct Deletion {
    /// The channel.
    pub key: ChannelKey,
    /// The last message, for each template.
    pub messages: Box<[Bytes]>,
}

/// More subscribers than a channel may have.
#[derive(Debug)]
pub struct ChannelFull;

/// The sending side of a subscriber's queue; cheap to clone.
#[derive(Clone)]
struct Queue {
    form: Form,
    news: mpsc::UnboundedSender<News>,
    bytes: Arc<AtomicUsize>,
    /// It did not read as fast as it was sent to.
    slow: Arc<Notify>,
}

impl Queue {
    fn push(&self, message: Message, bytes_max: usize) {
        let weight = message.weight();
        let before = self.bytes.fetch_add(weight, Ordering::Relaxed);
        // Whoever has nothing waiting may have the largest publication there is.
        if before > 0 && before + weight > bytes_max {
            // The weight stays: nothing is put behind a message that is missing.
            return self.slow.notify_one();
        }
        // It fails when the subscriber has just left.
        let _ = self.news.send(News::Published(message));
    }
}

impl Message {
    /// The message of a publication in one form; `None` where it is not shown in that form.
    pub fn of(frames: &Frames, form: Form) -> Option<Message> {
        let bytes = frames.owed(form);
        let (key, moment) = (frames.key().clone(), Moment::of(frames.publication()));
        (!bytes.is_empty()).then_some(Message { key, bytes, moment, position: frames.mark().map(|mark| mark.position) })
    }

    fn weight(&self) -> usize {
        self.bytes.len() + MESSAGE_BYTES
    }
}

impl Prepared {
    /// Runs it on the current tokio runtime, as the hub's loop number `from`. `queue_bytes_max` bounds what a slow reader may owe.
    pub fn start(self, requests: Requests, from: usize, queue_bytes_max: usize) -> Switchboard {
        let Prepared { mail, ring } = self;
        let state = Mutex::default();
        let board = Switchboard(Arc::new(Inner { state, ring, requests, from, queue_bytes_max }));
        tokio::spawn(board.clone().run(mail));
        board
    }
}

impl Switchboard {
    async fn run(self, mut mail: Inbox<Mail>) {
        loop {
            let busy = self.0.send_requests(&mut self.0.state());
            tokio::select! {
                () = self.0.ring.notified() => {}
                () = tokio::time::sleep(BUSY_TICK), if busy => {}
            }
            // What was published before a channel was deleted is in the mailbox by now.
            let deleted = std::mem::take(&mut self.0.state().deleted);
            mail.bell().hush();
            while let Some(letter) = mail.take() {
                self.0.deliver(letter);
                tokio::task::consume_budget().await;
            }
            deleted.into_iter().for_each(|deletion| self.0.delete(&deletion));
        }
    }

    /// Puts a subscriber on all of these channels, or on none when one has `subscribers_max` already (0 = unlimited).
    /// `announce`: whether subscribers are told how many they are.
    pub fn subscribe(
        &self,
        keys: Vec<ChannelKey>,
        form: Form,
        subscribers_max: usize,
        announce: bool,
    ) -> Result<Subscription, ChannelFull> {
        let (news, inbox) = mpsc::unbounded_channel();
        let queue = Queue { form, news, bytes: Arc::default(), slow: Arc::default() };
        let mut state = self.0.state();
        let n = |key: &ChannelKey| state.rooms.get(key).map_or(0, |room| room.listeners.len());
        if subscribers_max > 0 && keys.iter().any(|key| n(key) >= subscribers_max) {
            return Err(ChannelFull);
        }
        let id = state.next_id;
        state.next_id += 1;
        for key in &keys {
            let room = state.rooms.entry(key.clone()).or_default();
            room.announce = announce;
            room.listeners.insert(id, queue.clone());
            if room.open {
                // The receiver stands a few lines above.
                let _ = queue.news.send(News::Opened);
            }
            self.0.count(&mut state, key);
        }
        self.0.send_requests(&mut state);
        Ok(Subscription { board: self.clone(), id, keys, inbox, bytes: queue.bytes, slow: queue.slow })
    }

    /// Tells the subscribers of a channel that it is no more, and takes them off it.
    pub fn delete(&self, deletion: Deletion) {
        self.0.state().deleted.push(Arc::new(deletion));
        self.0.ring.notify_one();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever panicked, each change below leaves the tables sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether some are left that found no room.
    fn send_requests(&self, state: &mut State) -> bool {
        while let Some(request) = state.unsent.pop_front() {
            if let Err(request) = self.requests.try_send(request) {
                state.unsent.push_front(request);
                self.ring.notify_one();
                return true;
            }
        }
        false
    }

    /// Asks the hub to note how many listen now; a channel without listeners is forgotten.
    fn count(&self, state: &mut State, key: &ChannelKey) {
        let Some(room) = state.rooms.get(key) else { return };
        let (n, announce) = (room.listeners.len() as u32, room.announce);
        state.unsent.push_back(Request::Members { key: key.clone(), from: self.from, n, announce });
        if n == 0 {
            state.rooms.remove(key);
        }
    }

    fn deliver(&self, letter: Mail) {
        let mut state = self.state();
        match letter {
            Mail::Publication(frames) => {
                let Some(room) = state.rooms.get(frames.key()) else { return };
                for queue in room.listeners.values() {
                    let Some(message) = Message::of(&frames, queue.form) else { continue };
                    queue.push(message, self.queue_bytes_max);
                }
            }
            Mail::Opened(key) => {
                let Some(room) = state.rooms.get_mut(&key).filter(|room| !room.open) else { return };
                room.open = true;
                room.listeners.values().for_each(|queue| _ = queue.news.send(News::Opened));
            }
            Mail::Refused(key) => {
                let Some(room) = state.rooms.remove(&key) else { return };
                room.listeners.values().for_each(|queue| _ = queue.news.send(News::Refused));
                state.unsent.push_back(Request::Members { key, from: self.from, n: 0, announce: false });
                self.send_requests(&mut state);
            }
            // Nobody here asks for these.
            _ => {}
        }
    }

    fn delete(&self, deletion: &Arc<Deletion>) {
        let mut state = self.state();
        let Some(room) = state.rooms.get_mut(&deletion.key) else { return };
        for queue in std::mem::take(&mut room.listeners).values() {
            // It fails for a subscriber that has just left.
            let _ = queue.news.send(News::Deleted(deletion.clone()));
        }
        self.count(&mut state, &deletion.key);
        self.send_requests(&mut state);
    }
}

/// A subscriber's place. Dropping it takes the subscriber off all its channels.
pub struct Subscription {
    board: Switchboard,
    id: u64,
    keys: Vec<ChannelKey>,
    inbox: mpsc::UnboundedReceiver<News>,
    bytes: Arc<AtomicUsize>,
    slow: Arc<Notify>,
}

impl Subscription {
    /// Returns once messages were dropped because the subscriber reads too slowly: it is to be closed.
    pub async fn too_slow(&self) {
        self.slow.notified().await;
    }

    /// The next thing that it hears.
    pub async fn next(&mut self) -> News {
        // The queue's other side is in the switchboard until this is dropped, or the last channel was deleted.
        let Some(news) = self.inbox.recv().await else { return std::future::pending().await };
        if let News::Published(message) = &news {
            self.bytes.fetch_sub(message.weight(), Ordering::Relaxed);
        }
        news
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.board.0.state();
        for key in &self.keys {
            let listening = state.rooms.get_mut(key).is_some_and(|room| room.listeners.remove(&self.id).is_some());
            if listening {
                self.board.0.count(&mut state, key);
            }
        }
        self.board.0.send_requests(&mut state);
    }
}
