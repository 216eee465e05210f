//! What every broker promises of its histories. `start` is as in `broker`.

use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::cursor::{Cursor, Place};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::broker::{EXPIRED, Node, TTL, number, numbered, room};
use crate::broker::{
    Broker, BrokerEvents, Held, History, HistoryRule, Idempotency, Keep, Mark, Post, Published, Since, StreamPosition,
};
use crate::key::ChannelKey;
use crate::publication::Publication;

/// More than any test publishes, for longer than any takes.
const RULE: HistoryRule =
    HistoryRule { messages: 1000, bytes: 1 << 20, ttl: Duration::from_secs(60), app_bytes_max: 64 << 20 };

const KEPT: Keep = Keep::history(RULE);

/// How long an idempotency key is known to these tests.
const WINDOW: Duration = TTL;

impl Node {
    async fn keep(&self, key: &ChannelKey, id: u32, rule: HistoryRule) -> Mark {
        let published = self.post(key, numbered(id), Keep::history(rule)).await;
        published.mark.expect("what is kept has a mark")
    }

    async fn keep_all(&self, key: &ChannelKey, ids: std::ops::Range<u32>) -> Vec<Mark> {
        let mut marks = Vec::new();
        for id in ids {
            marks.push(self.keep(key, id, RULE).await);
        }
        marks
    }

    async fn history(&self, key: &ChannelKey, since: Since) -> History {
        self.broker.history(key, &since, usize::MAX).await.expect("an open broker answers")
    }

    /// What was missed since then, if nothing is missing.
    async fn missed(&self, key: &ChannelKey, cursor: Cursor) -> Option<Vec<u32>> {
        let history = self.history(key, Since::Cursor(cursor)).await;
        assert!(history.recovered || history.publications.is_empty(), "a part of what was missed is no help");
        history.recovered.then(|| numbers(&history))
    }

    /// Checks what was missed of `key` since a cursor that was made on `of`: exactly this within one ordering unit; from
    /// another unit it may be more, or not provable, but never less.
    async fn check_missed(&self, key: &ChannelKey, of: &ChannelKey, mark: Mark, expected: &[u32]) {
        let missed = self.missed(key, mark.cursor(of)).await;
        match self.broker.unit(key) == self.broker.unit(of) {
            true => assert_eq!(missed.as_deref(), Some(expected), "{key:?} since {mark:?} of {of:?}"),
            false => {
                assert!(missed.is_none_or(|missed| missed.ends_with(expected)), "{key:?} since {mark:?} of {of:?}")
            }
        }
    }

    async fn now(&self, key: &ChannelKey) -> Mark {
        self.history(key, Since::Now).await.now
    }

    async fn post_with(&self, key: &ChannelKey, id: u32, keep: Keep, word: &str) -> Published {
        let idempotency = Some(Idempotency { key: word.into(), window: WINDOW });
        self.post(key, numbered(id), Post { keep, idempotency }).await
    }
}

fn numbers(history: &History) -> Vec<u32> {
    history.publications.iter().map(|stored| number(&stored.publication)).collect()
}

/// Where something was stored. How far everything else had been shown then is a reader's own affair.
fn stored_at(mark: Mark) -> (StreamPosition, u64) {
    (mark.position, mark.stamp)
}

fn other() -> ChannelKey {
    ChannelKey::new("1", "other")
}

fn elsewhere() -> ChannelKey {
    ChannelKey::new("1", "elsewhere")
}

/// What is kept comes back in order, from wherever it is asked for.
pub async fn a_history_holds_what_was_kept_in_order(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let node = Node::start(start).await;
    let marks = node.keep_all(&room(), 0..10).await;
    let all = node.history(&room(), Since::Last(u32::MAX)).await;
    let read: Vec<_> = all.publications.iter().map(|stored| stored_at(stored.mark)).collect();
    assert_eq!(read, marks.iter().copied().map(stored_at).collect::<Vec<_>>());
    assert_eq!((numbers(&all), all.now.position), ((0..10).collect(), marks[9].position));
    assert_eq!(all.held, Held { messages: 10, bytes: 10 * ("\"event\"\"0\"".len()) });
    assert_eq!(numbers(&node.history(&room(), Since::Last(3)).await), [7, 8, 9]);
    assert_eq!(numbers(&node.history(&room(), Since::Now).await), [0; 0]);
    for (id, mark) in (0..).zip(&marks) {
        assert_eq!(node.missed(&room(), mark.cursor(&room())).await, Some((id + 1..10).collect()));
    }
}

/// The oldest first, so that a reader goes on from the last one it got.
pub async fn a_history_is_read_in_parts(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let node = Node::start(start).await;
    let marks = node.keep_all(&room(), 0..5).await;
    let since = Since::Cursor(marks[0].cursor(&room()));
    let part = node.broker.history(&room(), &since, 2).await.expect("an open broker answers");
    assert_eq!((numbers(&part), part.recovered, part.now.position), (vec![1, 2], true, marks[4].position));
    let none = node.broker.history(&room(), &Since::Last(5), 0).await.expect("an open broker answers");
    assert!(none.publications.is_empty());
}

/// Whoever has been shown everything up to now, also when nothing was published yet, can go on from there.
pub async fn the_present_is_a_place_to_go_on_from(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let node = Node::start(start).await;
    let nothing = node.now(&room()).await;
    assert_eq!(nothing.position.offset, 0);
    assert_eq!(node.missed(&room(), nothing.cursor(&room())).await, Some(vec![]));
    node.keep_all(&room(), 0..2).await;
    assert_eq!(node.missed(&room(), nothing.cursor(&room())).await, Some(vec![0, 1]));
    let later = node.now(&room()).await;
    node.keep(&room(), 2, RULE).await;
    assert_eq!(node.missed(&room(), later.cursor(&room())).await, Some(vec![2]));
    node.check_missed(&other(), &room(), later, &[]).await;
}

/// One cursor is enough for all channels.
pub async fn a_cursor_resumes_other_channels_by_its_stamp(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let mut node = Node::on(start, &room()).await;
    node.broker.subscribe(&other()).await.expect("an open broker takes subscriptions");
    let mut marks = Vec::new();
    for id in 0..6 {
        let key = if id % 2 == 0 { room() } else { other() };
        marks.push(node.keep(&key, id, RULE).await);
        // Shown to everybody, and dropped.
        node.hear().await;
    }
    node.check_missed(&other(), &room(), marks[0], &[1, 3, 5]).await;
    node.check_missed(&room(), &other(), marks[1], &[2, 4]).await;
    node.check_missed(&room(), &other(), marks[5], &[]).await;
    let vector = Cursor::of([marks[2].place(&room()), marks[1].place(&other())], marks[1].settled);
    assert_eq!(node.missed(&room(), vector.clone()).await, Some(vec![4]));
    assert_eq!(node.missed(&other(), vector).await, Some(vec![3, 5]));
}

/// A cursor does not stand for what may not have been shown to its holder yet.
pub async fn what_is_still_being_shown_is_not_settled(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let mut node = Node::on(start, &room()).await;
    let slow = node.keep(&room(), 1, RULE).await;
    let being_shown = node.hear().await;
    let meanwhile = node.keep(&other(), 2, RULE).await;
    node.check_missed(&room(), &other(), meanwhile, &[1]).await;
    if node.broker.unit(&room()) == node.broker.unit(&other()) {
        assert!(meanwhile.settled < slow.stamp && slow.stamp < meanwhile.stamp);
        assert!(node.now(&other()).await.settled < slow.stamp);
    }
    drop(being_shown);
    let after = node.keep(&other(), 3, RULE).await;
    assert!(after.settled >= slow.stamp);
    node.check_missed(&room(), &other(), after, &[]).await;
}

/// Each bound of a rule drops the oldest; whoever has seen what was dropped has missed nothing.
pub async fn what_a_rule_drops_is_not_called_recovered(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let node = Node::start(start).await;
    let (count, size, age) = (room(), other(), ChannelKey::new("1", "age"));
    let event = "\"event\"\"0\"".len();
    for (key, rule) in [
        (&count, HistoryRule { messages: 3, ..RULE }),
        (&size, HistoryRule { bytes: 3 * event + event / 2, ..RULE }),
        (&age, RULE),
    ] {
        let before = node.now(&elsewhere()).await;
        let mut marks = Vec::new();
        for id in 0..6 {
            marks.push(
                node.keep(key, id, if key == &age && id < 3 { HistoryRule { ttl: TTL, ..RULE } } else { rule }).await,
            );
        }
        sleep(EXPIRED).await;
        assert_eq!(numbers(&node.history(key, Since::Last(9)).await), [3, 4, 5], "{key:?}");
        assert_eq!(node.history(key, Since::Now).await.held, Held { messages: 3, bytes: 3 * event });
        assert_eq!(node.missed(key, marks[1].cursor(key)).await, None, "{key:?}");
        assert_eq!(node.missed(key, before.cursor(&elsewhere())).await, None, "{key:?}");
        assert_eq!(node.missed(key, marks[2].cursor(key)).await, Some(vec![3, 4, 5]), "{key:?}");
        assert_eq!(node.missed(key, marks[5].cursor(key)).await, Some(vec![]), "{key:?}");
    }
}

/// A publication that is stored and not kept would leave a hole.
pub async fn a_publication_that_is_not_kept_ends_what_can_be_recovered(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let node = Node::start(start).await;
    let first = node.keep(&room(), 1, RULE).await;
    let newest = node.post(&room(), numbered(2), Keep::newest(RULE.ttl)).await.mark.expect("it is stored");
    node.keep(&room(), 3, RULE).await;
    assert_eq!(node.missed(&room(), first.cursor(&room())).await, None);
    assert_eq!(node.missed(&room(), newest.cursor(&room())).await, Some(vec![3]));
    node.publish(&room(), 4, Keep::TRANSIENT).await;
    assert_eq!(node.missed(&room(), newest.cursor(&room())).await, Some(vec![3]), "transient ones are no part of it");
}

/// An app's histories stay within its budget, and cost other apps nothing.
pub async fn an_app_over_its_budget_loses_its_oldest(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let node = Node::start(start).await;
    let neighbour = ChannelKey::new("2", "room");
    let theirs = node.keep_all(&neighbour, 0..20).await;
    let tight = HistoryRule { app_bytes_max: 16 << 10, ..RULE };
    let first = node.keep(&room(), 0, tight).await;
    let mut last = first;
    for id in 1..500 {
        last = node.keep(&room(), id, tight).await;
    }
    let history = node.history(&room(), Since::Last(u32::MAX)).await;
    assert!((1..200).contains(&history.held.messages), "{:?} of 16 KiB", history.held);
    assert!(numbers(&history).ends_with(&[498, 499]));
    assert_eq!(node.missed(&room(), first.cursor(&room())).await, None);
    assert_eq!(node.missed(&room(), last.cursor(&room())).await, Some(vec![]));
    assert_eq!(node.missed(&neighbour, theirs[0].cursor(&neighbour)).await, Some((1..20).collect()));
}

/// Forged cursors, those of another life, and those from the future begin live, and are told so.
pub async fn a_cursor_that_cannot_be_trusted_recovers_nothing(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let node = Node::start(start).await;
    let mark = node.keep_all(&room(), 0..3).await[1];
    let (place, settled) = (mark.place(&room()), mark.settled);
    let forged = [
        Cursor::single(Place { epoch: 0, ..place }, settled),
        Cursor::single(Place { epoch: place.epoch + 1000, ..place }, settled),
        Cursor::single(Place { epoch: u64::MAX, ..place }, settled),
        Cursor::single(Place { offset: 4, ..place }, settled),
        Cursor::single(Place { offset: u64::MAX, ..place }, settled),
        Cursor::single(place, u64::MAX),
        Cursor::of([Place { epoch: 0, ..mark.place(&other()) }, place], settled),
    ];
    for cursor in forged {
        assert_eq!(node.missed(&room(), cursor.clone()).await, None, "{cursor:?}");
        let history = node.history(&room(), Since::Cursor(cursor)).await;
        assert_eq!(history.now.position.offset, 3, "and it says where to go on from");
    }
    let of_a_quiet_channel = Cursor::single(Place { epoch: 0, ..place }, 0);
    assert_eq!(node.missed(&other(), of_a_quiet_channel).await, None);
}

/// A repeat is answered as the first one was, and nothing of it is delivered or stored.
pub async fn a_repeat_returns_the_first_mark_and_delivers_nothing(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let mut node = Node::on(start, &room()).await;
    for (key, keep) in [(room(), KEPT), (room(), Keep::TRANSIENT), (other(), KEPT), (other(), Keep::TRANSIENT)] {
        let word = format!("{}", keep.is_transient());
        let first = node.post_with(&key, 1, keep, &word).await;
        let repeat = node.post_with(&key, 2, keep, &word).await;
        assert_eq!((first.mark.is_some(), first.repeated), (!keep.is_transient(), false), "{key:?}");
        assert_eq!(repeat.mark.map(stored_at), first.mark.map(stored_at), "{key:?}");
        assert_eq!((repeat.heard, repeat.repeated), (first.heard, true), "{key:?}");
    }
    assert_eq!(node.hear_numbers(2).await, [1, 1]);
    node.hear_nothing().await;
    assert_eq!(numbers(&node.history(&room(), Since::Last(9)).await), [1]);
    assert_eq!(node.now(&other()).await.position.offset, 1);
}

/// A key means something within its channel and its window only.
pub async fn a_key_is_known_in_its_channel_until_its_window_ends(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let node = Node::start(start).await;
    assert!(!node.post_with(&room(), 1, KEPT, "k").await.repeated);
    assert!(!node.post_with(&other(), 2, KEPT, "k").await.repeated);
    assert!(!node.post_with(&ChannelKey::new("2", "cache-room"), 3, KEPT, "k").await.repeated);
    assert!(!node.post_with(&room(), 4, KEPT, "l").await.repeated);
    assert!(node.post_with(&room(), 5, KEPT, "k").await.repeated);
    sleep(EXPIRED).await;
    assert!(!node.post_with(&room(), 6, KEPT, "k").await.repeated);
    assert!(node.post_with(&room(), 7, KEPT, "k").await.repeated);
    assert_eq!(numbers(&node.history(&room(), Since::Last(9)).await), [1, 4, 6]);
}

/// Also of those that come at the same moment only one is published.
pub async fn of_equal_keys_at_once_one_is_published(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let mut node = Node::on(start, &room()).await;
    let mut publishers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let broker = node.broker.clone();
        let idempotency = Some(Idempotency { key: "k".into(), window: RULE.ttl });
        let post = Post { keep: KEPT, idempotency };
        publishers.spawn(async move { broker.publish(&room(), numbered(1), post).await });
    }
    let published = publishers.join_all().await;
    let repeats = published.iter().flatten().filter(|published| published.repeated).count();
    assert_eq!((published.len(), repeats), (20, 19));
    assert_eq!(node.hear_numbers(1).await, [1]);
    node.hear_nothing().await;
}

/// After a clear nothing of before it is served, and only those who had seen all of it have missed nothing.
pub async fn a_cleared_channel_goes_on_in_a_new_epoch(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let node = Node::start(start).await;
    let marks = node.keep_all(&room(), 0..3).await;
    node.post(&room(), numbered(3), Keep { newest: Some(RULE.ttl), ..KEPT }).await;
    let end = node.now(&room()).await;
    let cleared = node.broker.clear(&room()).await.expect("an open broker clears");
    assert!(cleared.position.epoch > end.position.epoch && cleared.position.offset == 0);
    assert_eq!(node.history(&room(), Since::Last(9)).await.held, Held::default());
    assert_eq!(node.cached(&room()).await, None);
    let next = node.keep(&room(), 4, RULE).await;
    assert_eq!((next.position.epoch, next.position.offset), (cleared.position.epoch, 1));
    assert_eq!(node.missed(&room(), marks[1].cursor(&room())).await, None);
    for seen_all in [end, cleared] {
        assert_eq!(node.missed(&room(), seen_all.cursor(&room())).await, Some(vec![4]));
    }
    let empty = node.broker.clear(&other()).await.expect("an open broker clears what is empty");
    assert_eq!(node.missed(&other(), empty.cursor(&other())).await, Some(vec![]));
}

/// Who subscribes, then reads the history, has everything: what it did not read is delivered.
pub async fn subscribing_before_reading_misses_nothing(start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>) {
    let mut node = Node::start(start).await;
    for round in 0..20 {
        let key = ChannelKey::new("1", &format!("room-{round}"));
        let broker = node.broker.clone();
        let channel = key.clone();
        let publisher = tokio::spawn(async move {
            for id in 0..50 {
                broker.publish(&channel, numbered(id), KEPT.into()).await.expect("an open broker takes publications");
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        node.broker.subscribe(&key).await.expect("an open broker takes subscriptions");
        let history = node.history(&key, Since::Last(u32::MAX)).await;
        let mut seen = numbers(&history);
        while seen.len() < 50 {
            let heard = node.hear().await;
            let position = heard.mark.expect("it is kept").position;
            if position.offset > history.now.position.offset {
                seen.push(number(&heard.publication));
            }
        }
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        publisher.await.expect("the publisher does not panic");
        node.broker.unsubscribe(&key).await.expect("an open broker takes unsubscriptions");
        while node.heard.try_recv().is_ok() {}
    }
}

/// Whoever publishes is told whether anybody was there.
pub async fn a_publisher_is_told_whether_anybody_was_there(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let node = Node::on(start, &room()).await;
    for keep in [KEPT, Keep::TRANSIENT] {
        assert!(node.post(&room(), numbered(1), keep).await.heard);
        assert!(!node.post(&other(), numbered(1), keep).await.heard);
    }
}

/// What a publisher holds of its app's window comes back when everybody has been shown what it published, not when the
/// history forgets that.
pub async fn a_share_of_the_window_is_given_back_when_all_have_been_shown(
    start: impl AsyncFn(Arc<dyn BrokerEvents>) -> Arc<dyn Broker>,
) {
    let mut node = Node::on(start, &room()).await;
    let window = Arc::new(Semaphore::new(4));
    let share = || Some(window.clone().try_acquire_owned().expect("there is room"));
    for key in [room(), other()] {
        for id in 0..2 {
            let publication = Publication { permit: share(), ..numbered(id) };
            let idempotency = Some(Idempotency { key: "k".into(), window: RULE.ttl });
            node.post(&key, publication, Post { keep: KEPT, idempotency }).await;
        }
    }
    let being_shown = node.hear().await;
    assert_eq!(window.available_permits(), 3, "repeats, and what nobody hears, hold nothing");
    drop(being_shown);
    assert_eq!(window.available_permits(), 4);
    assert_eq!(node.history(&room(), Since::Now).await.held.messages, 1);
}
