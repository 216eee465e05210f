//! What every broker promises. `start` gives a broker that delivers to the events it is handed, with nothing in it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_proto::socket_id::SocketId;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::broker::{
    Broker, BrokerError, BrokerEvents, Delivery, InFlight, Keep, Mark, Post, Published, StreamPosition,
};
use crate::key::ChannelKey;
use crate::publication::{Kind, Publication};

/// How long a delivery may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nothing may come before nothing will.
const QUIET: Duration = Duration::from_millis(200);

/// A short life for a stored publication, and what to wait until it has certainly expired.
pub(super) const TTL: Duration = Duration::from_millis(400);
pub(super) const EXPIRED: Duration = Duration::from_millis(500);

/// Kept for longer than any test takes.
const KEPT: Keep = Keep::newest(Duration::from_secs(60));

const BRIEFLY: Keep = Keep::newest(TTL);

/// One delivery.
#[derive(Debug)]
pub(super) struct Heard {
    key: ChannelKey,
    pub publication: Arc<Publication>,
    pub mark: Option<Mark>,
    /// Until it is dropped, it is still being shown.
    _in_flight: InFlight,
}

struct Ear(mpsc::UnboundedSender<Heard>);

#[async_trait]
impl BrokerEvents for Ear {
    async fn publication(&self, key: &ChannelKey, delivery: Delivery) {
        // A test that has ended hears no more.
        let Delivery { publication, mark, in_flight } = delivery;
        let _ = self.0.send(Heard { key: key.clone(), publication, mark, _in_flight: in_flight });
    }

    async fn gap(&self, key: &ChannelKey, _now: Mark) {
        panic!("{key:?}: a broker that nothing happens to has no gaps");
    }
}

impl Heard {
    fn position(&self) -> Option<StreamPosition> {
        self.mark.map(|mark| mark.position)
    }
}

/// A broker, and what a node hears from it.
pub(super) struct Node {
    pub broker: Arc<dyn Broker>,
    pub heard: mpsc::UnboundedReceiver<Heard>,
}

impl Node {
    pub async fn start(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) -> Self {
        let (ear, heard) = mpsc::unbounded_channel();
        Node { broker: start(Arc::new(Ear(ear))).await, heard }
    }

    pub async fn on(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>, key: &ChannelKey) -> Self {
        let node = Self::start(start).await;
        node.broker.subscribe(key).await.expect("an open broker takes subscriptions");
        node
    }

    pub async fn post(&self, key: &ChannelKey, publication: Publication, post: impl Into<Post>) -> Published {
        self.broker.publish(key, publication, post.into()).await.expect("an open broker takes publications")
    }

    pub async fn publish(&self, key: &ChannelKey, id: u32, keep: Keep) -> Option<StreamPosition> {
        self.post(key, numbered(id), keep).await.mark.map(|mark| mark.position)
    }

    pub async fn store(&self, key: &ChannelKey, id: u32) -> StreamPosition {
        self.publish(key, id, KEPT).await.expect("a stored publication has a position")
    }

    pub async fn hear(&mut self) -> Heard {
        let heard = timeout(PATIENCE, self.heard.recv()).await.expect("a publication is delivered");
        heard.expect("the broker lives")
    }

    pub async fn hear_numbers(&mut self, n: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        for _ in 0..n {
            numbers.push(number(&self.hear().await.publication));
        }
        numbers
    }

    pub async fn hear_nothing(&mut self) {
        if let Ok(heard) = timeout(QUIET, self.heard.recv()).await {
            panic!("nothing more should come, but {heard:?} did");
        }
    }

    pub async fn cached(&self, key: &ChannelKey) -> Option<(u32, StreamPosition)> {
        let cached = self.broker.cached(key).await.expect("an open broker answers");
        cached.map(|cached| (number(&cached.publication), cached.mark.position))
    }
}

pub(super) fn room() -> ChannelKey {
    ChannelKey::new("1", "cache-room")
}

pub(super) fn numbered(id: u32) -> Publication {
    Publication::event("\"event\"", format!("\"{id}\""))
}

pub(super) fn number(publication: &Publication) -> u32 {
    publication.data.trim_matches('"').parse().expect("data is a number in quotes")
}

/// Each delivery comes once, in the order of the publishes that were made one after another.
pub async fn publications_arrive_once_and_in_order(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let mut node = Node::on(start, &room()).await;
    for id in 0..100 {
        node.publish(&room(), id, if id % 3 == 0 { KEPT } else { Keep::TRANSIENT }).await;
    }
    assert_eq!(node.hear_numbers(100).await, (0..100).collect::<Vec<_>>());
    node.hear_nothing().await;
}

/// Nothing of a publication is lost on the way, and nothing is escaped again.
pub async fn a_publication_arrives_as_it_was_published(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let mut node = Node::on(start, &room()).await;
    let published = || Publication {
        user_id: Some("\"ann\"".into()),
        except: Some(SocketId { a: u64::MAX, b: 7 }),
        kind: Kind::Presence { version: u64::MAX },
        ..Publication::event("\"caf\\u00e9\"", "\"{\\\"a\\\":\\\"\u{1f3ba}\\n\\\"}\"")
    };
    node.post(&room(), published(), Post::TRANSIENT).await;
    let heard = node.hear().await;
    let (got, sent) = (&*heard.publication, published());
    assert_eq!((&got.event, &got.data, &got.user_id), (&sent.event, &sent.data, &sent.user_id));
    assert_eq!((got.except, got.kind, &heard.key), (sent.except, sent.kind, &room()));
    for kind in [Kind::Event, Kind::Unaddressed, Kind::Terminate] {
        let published = Publication { kind, ..numbered(1) };
        node.post(&room(), published, Post::TRANSIENT).await;
        assert_eq!(node.hear().await.publication.kind, kind);
    }
}

/// The position that the publisher is told is the one that is delivered, one more than the one before.
pub async fn stored_publications_have_positions_that_grow_by_one(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let mut node = Node::on(start, &room()).await;
    let first = node.store(&room(), 0).await;
    assert_eq!(node.hear().await.position(), Some(first));
    for id in 1..20 {
        node.publish(&room(), id, Keep::TRANSIENT).await;
        let position = node.store(&room(), id).await;
        assert_eq!(position, StreamPosition { offset: first.offset + u64::from(id), ..first });
        assert_eq!(node.hear().await.position(), None);
        assert_eq!(node.hear().await.position(), Some(position));
    }
}

/// Position, store and send are one act, also when many publish at once.
pub async fn positions_follow_delivery_order_whoever_publishes(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let mut node = Node::on(start, &room()).await;
    let first = node.store(&room(), 0).await;
    let mut publishers = tokio::task::JoinSet::new();
    for id in 1..=50 {
        let broker = node.broker.clone();
        publishers.spawn(async move { broker.publish(&room(), numbered(id), KEPT.into()).await.map(drop) });
    }
    node.hear().await;
    for offset in 1..=50 {
        let position = StreamPosition { offset: first.offset + offset, ..first };
        assert_eq!(node.hear().await.position(), Some(position));
    }
    assert!(publishers.join_all().await.into_iter().all(|published| published.is_ok()));
}

/// Several at once are published as if one after another.
pub async fn publications_of_one_post_keep_their_order(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let mut node = Node::on(start, &room()).await;
    let posts = (0..100).map(|id| (numbered(id), if id % 3 == 0 { Keep::TRANSIENT } else { KEPT }.into()));
    let published = node.broker.publish_all(&room(), posts.collect()).await.expect("an open broker takes publications");
    for (id, published) in (0..100).zip(published) {
        let heard = node.hear().await;
        let position = published.mark.map(|mark| mark.position);
        assert_eq!((number(&heard.publication), heard.position()), (id, position));
    }
}

/// A transient publication is delivered, and that is all.
pub async fn a_transient_publication_has_no_position_and_is_not_kept(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let mut node = Node::on(start, &room()).await;
    assert_eq!(node.publish(&room(), 1, Keep::TRANSIENT).await, None);
    assert_eq!(node.hear().await.position(), None);
    assert_eq!(node.cached(&room()).await, None);
    let stored = node.store(&room(), 2).await;
    node.publish(&room(), 3, Keep::TRANSIENT).await;
    assert_eq!(node.cached(&room()).await, Some((2, stored)));
}

/// Two channels, and channels of one name in two apps, share neither deliveries nor positions nor the newest event.
pub async fn channels_are_apart(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let namesake = ChannelKey::new("2", "cache-room");
    let mut node = Node::on(start, &room()).await;
    node.broker.subscribe(&namesake).await.expect("an open broker takes subscriptions");
    let first = node.store(&room(), 1).await;
    let other = node.store(&namesake, 2).await;
    let second = node.store(&room(), 3).await;
    assert_eq!(second, StreamPosition { offset: first.offset + 1, ..first });
    let mut heard = Vec::new();
    for _ in 0..3 {
        let Heard { key, publication, .. } = node.hear().await;
        heard.push((number(&publication), key));
    }
    heard.sort();
    assert_eq!(heard, [(1, room()), (2, namesake.clone()), (3, room())]);
    assert_eq!(node.cached(&room()).await, Some((3, second)));
    assert_eq!(node.cached(&namesake).await, Some((2, other)));
    assert_eq!(node.cached(&ChannelKey::new("1", "cache-other")).await, None);
}

/// Whoever asks gets the newest stored publication, for everybody, with the time that it has left.
pub async fn the_newest_stored_publication_is_served_until_it_expires(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let node = Node::start(start).await;
    node.store(&room(), 1).await;
    let sender = Some(SocketId { a: 1, b: 2 });
    let published = Publication { except: sender, ..numbered(2) };
    let mark = node.post(&room(), published, BRIEFLY).await.mark.expect("it is stored");
    let cached = node.broker.cached(&room()).await.expect("an open broker answers").expect("it is new");
    assert_eq!((number(&cached.publication), cached.mark.position), (2, mark.position));
    assert_eq!(cached.publication.except, None, "its publisher may ask for it too");
    assert!(!cached.ttl.is_zero() && cached.ttl <= TTL);
    sleep(EXPIRED).await;
    assert_eq!(node.cached(&room()).await, None);
}

/// A newer publication is served for its own time, not for what the one before had left.
pub async fn each_stored_publication_is_served_for_its_own_time(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let node = Node::start(start).await;
    node.publish(&room(), 1, BRIEFLY).await;
    let second = node.store(&room(), 2).await;
    sleep(EXPIRED).await;
    assert_eq!(node.cached(&room()).await, Some((2, second)));
    node.publish(&room(), 3, BRIEFLY).await;
    sleep(EXPIRED).await;
    assert_eq!(node.cached(&room()).await, None, "the older one does not come back");
}

/// Subscribing is a state, not a count.
pub async fn who_subscribes_twice_hears_once(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let mut node = Node::on(start, &room()).await;
    node.broker.subscribe(&room()).await.expect("an open broker takes subscriptions");
    node.publish(&room(), 1, Keep::TRANSIENT).await;
    assert_eq!(node.hear_numbers(1).await, [1]);
    node.hear_nothing().await;
}

/// After `unsubscribe` a broker may still deliver (the node drops what it does not want); after the next `subscribe` it
/// must, and once.
pub async fn a_channel_is_heard_again_after_unsubscribe_and_subscribe(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let mut node = Node::on(start, &room()).await;
    for id in 0..5 {
        node.broker.unsubscribe(&room()).await.expect("an open broker takes unsubscriptions");
        node.broker.subscribe(&room()).await.expect("an open broker takes subscriptions");
        node.publish(&room(), id, Keep::TRANSIENT).await;
    }
    assert_eq!(node.hear_numbers(5).await, [0, 1, 2, 3, 4]);
    node.hear_nothing().await;
}

/// Closing loses nothing that a publisher was told is accepted; closing twice is closing once.
pub async fn close_delivers_what_was_accepted_and_refuses_the_rest(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let mut node = Node::on(start, &room()).await;
    for id in 0..20 {
        node.publish(&room(), id, KEPT).await;
    }
    node.broker.close().await;
    assert_eq!(node.hear_numbers(20).await, (0..20).collect::<Vec<_>>());
    let refused = Some(BrokerError::Unavailable);
    assert_eq!(node.broker.publish(&room(), numbered(20), Post::TRANSIENT).await.err(), refused);
    assert_eq!(node.broker.subscribe(&room()).await.err(), refused);
    assert_eq!(node.broker.cached(&room()).await.err(), refused);
    node.broker.close().await;
}
