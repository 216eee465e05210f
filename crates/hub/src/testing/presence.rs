//! What every presence store promises. `start` gives an empty store, as the only node of its cluster.

use std::sync::Arc;

use fanfare_proto::socket_id::SocketId;

use crate::key::ChannelKey;
use crate::presence::{Counts, Joined, Member, PresenceStore, StoreError};

/// A limit that no test meets by accident.
const MANY: u32 = 100;

type Store = Arc<dyn PresenceStore>;

fn room() -> ChannelKey {
    ChannelKey::new("1", "presence-room")
}

fn socket(b: u64) -> SocketId {
    SocketId { a: u64::MAX, b }
}

fn member(user: &str) -> Member {
    Member { user_id: user.to_owned(), user_info: Some(format!(r#"{{"name":"{user} \u00e9"}}"#).into()) }
}

async fn join(store: &Store, user: &str, b: u64) -> Joined {
    store.join(&room(), socket(b), member(user), MANY).await.expect("there is room")
}

/// The user who left with this socket, and the version after it.
async fn leave(store: &Store, b: u64) -> Option<(String, u64)> {
    store.leave(&room(), socket(b)).await.expect("the store answers").last
}

async fn left(store: &Store, b: u64) -> Option<String> {
    leave(store, b).await.map(|(user, _)| user)
}

async fn users(store: &Store) -> Vec<String> {
    ids(&store.members(&room()).await.expect("the store answers"))
}

fn ids(roster: &[Member]) -> Vec<String> {
    roster.iter().map(|member| member.user_id.clone()).collect()
}

async fn counts(store: &Store, key: &ChannelKey) -> Counts {
    store.counts(key).await.expect("the store answers")
}

/// The roster is told with the join, and has the joiner in it.
pub async fn the_first_join_of_a_user_shows_the_roster_with_the_joiner_in_it(start: impl AsyncFn() -> Store) {
    let store = start().await;
    let ann = join(&store, "ann", 1).await;
    assert_eq!((ann.first, ann.roster), (true, vec![member("ann")]));
    let bob = store.join(&room(), socket(2), Member { user_id: "bob".into(), user_info: None }, MANY).await;
    let bob = bob.expect("there is room");
    assert!(bob.first && bob.version > ann.version);
    assert_eq!(bob.roster, [member("ann"), Member { user_id: "bob".into(), user_info: None }]);
    assert_eq!(store.members(&room()).await, Ok(bob.roster));
}

/// Only the first join and the last leave are changes.
pub async fn a_user_is_a_member_while_any_of_its_sockets_is(start: impl AsyncFn() -> Store) {
    let store = start().await;
    let first = join(&store, "ann", 1).await;
    let second = join(&store, "ann", 2).await;
    assert!(first.first && !second.first);
    assert_eq!((second.version, ids(&second.roster)), (first.version, vec!["ann".to_owned()]));
    assert_eq!(left(&store, 1).await, None);
    assert_eq!(users(&store).await, ["ann"]);
    assert_eq!(left(&store, 2).await.as_deref(), Some("ann"));
    assert!(users(&store).await.is_empty());
}

/// A join that is told twice is one join.
pub async fn a_socket_that_joins_twice_is_counted_once(start: impl AsyncFn() -> Store) {
    let store = start().await;
    join(&store, "ann", 1).await;
    assert!(!join(&store, "ann", 1).await.first);
    assert_eq!(left(&store, 1).await.as_deref(), Some("ann"));
    assert_eq!(left(&store, 1).await, None);
}

/// Whoever leaves and comes back stands at the end.
pub async fn the_roster_is_in_order_of_joining(start: impl AsyncFn() -> Store) {
    let store = start().await;
    for (b, user) in ["zoe", "ann", "moe", "bob"].into_iter().enumerate() {
        join(&store, user, b as u64).await;
    }
    join(&store, "zoe", 10).await;
    assert_eq!(users(&store).await, ["zoe", "ann", "moe", "bob"]);
    leave(&store, 1).await;
    assert_eq!(ids(&join(&store, "ann", 11).await.roster), ["zoe", "moe", "bob", "ann"]);
}

/// A subscriber compares the version of its roster with those of changes, so none may come twice.
pub async fn every_change_raises_the_version_even_when_a_channel_begins_again(start: impl AsyncFn() -> Store) {
    let store = start().await;
    let mut version = 0;
    for round in 0..3 {
        for b in [1, 2] {
            let joined = join(&store, if b == 1 { "ann" } else { "bob" }, b).await;
            assert!(joined.version > version, "join in round {round}");
            version = joined.version;
        }
        for b in [1, 2] {
            let (_, after) = leave(&store, b).await.expect("its only socket left");
            assert!(after > version, "leave in round {round}");
            version = after;
        }
    }
}

/// Whoever has heard of all changes up to a version knows by the store's whether one is missing.
pub async fn each_change_raises_the_version_by_one_while_somebody_is_there(start: impl AsyncFn() -> Store) {
    let store = start().await;
    let begun = join(&store, "ann", 1).await.version;
    assert_eq!(join(&store, "bob", 2).await.version, begun + 1);
    assert_eq!(leave(&store, 1).await, Some(("ann".to_owned(), begun + 2)));
    assert_eq!(join(&store, "bob", 3).await.version, begun + 2, "nothing changed");
    assert_eq!(join(&store, "ann", 4).await.version, begun + 3);
    let hall = ChannelKey::new("1", "presence-hall");
    assert_eq!(store.versions(&[hall, room()]).await, Ok(vec![0, begun + 3]));
}

/// A socket that was refused, or has gone already, may still be said to leave.
pub async fn leaving_without_having_joined_changes_nothing(start: impl AsyncFn() -> Store) {
    let store = start().await;
    assert_eq!(leave(&store, 1).await, None);
    let joined = join(&store, "ann", 1).await;
    assert_eq!(leave(&store, 2).await, None);
    assert_eq!(join(&store, "ann", 3).await.version, joined.version);
    assert_eq!(users(&store).await, ["ann"]);
}

/// The limit counts users, and a refusal changes nothing.
pub async fn a_full_channel_takes_only_users_who_are_in_it(start: impl AsyncFn() -> Store) {
    let store = start().await;
    let enter = async |user: &str, b| store.join(&room(), socket(b), member(user), 2).await.map(|joined| joined.first);
    assert_eq!(enter("ann", 1).await, Ok(true));
    assert_eq!(enter("bob", 2).await, Ok(true));
    assert_eq!(enter("cat", 3).await, Err(StoreError::Full { members_max: 2 }));
    assert_eq!(enter("ann", 4).await, Ok(false));
    assert_eq!(leave(&store, 3).await, None, "whoever was refused is not in");
    assert_eq!(users(&store).await, ["ann", "bob"]);
    leave(&store, 2).await;
    assert_eq!(enter("cat", 3).await, Ok(true));
}

/// The limit is taken as given: zero is no word for "unlimited".
pub async fn a_channel_that_may_have_no_members_lets_nobody_in(start: impl AsyncFn() -> Store) {
    let store = start().await;
    let refused = store.join(&room(), socket(1), member("ann"), 0).await;
    assert_eq!(refused, Err(StoreError::Full { members_max: 0 }));
    assert!(users(&store).await.is_empty());
}

/// A user id and a channel name mean something else in another channel and another app.
pub async fn members_and_channels_of_apps_are_apart(start: impl AsyncFn() -> Store) {
    let store = start().await;
    join(&store, "ann", 1).await;
    for key in [ChannelKey::new("1", "presence-hall"), ChannelKey::new("2", "presence-room")] {
        assert_eq!(store.members(&key).await, Ok(vec![]));
        let joined = store.join(&key, socket(1), member("ann"), 1).await.expect("there is room");
        assert!(joined.first);
        store.leave(&key, socket(1)).await.expect("the store answers");
    }
    assert_eq!(users(&store).await, ["ann"]);
}

/// Subscribers are what the nodes say, users are who joined.
pub async fn counts_show_subscribers_and_distinct_users(start: impl AsyncFn() -> Store) {
    let store = start().await;
    assert_eq!(counts(&store, &room()).await, Counts::default());
    for (user, b) in [("ann", 1), ("ann", 2), ("bob", 3)] {
        join(&store, user, b).await;
        assert_eq!(store.subscribers(&room(), b).await, Ok(b));
    }
    assert_eq!(counts(&store, &room()).await, Counts { subscribers: 3, users: 2 });
    leave(&store, 3).await;
    assert_eq!(store.subscribers(&room(), 2).await, Ok(2));
    assert_eq!(counts(&store, &room()).await, Counts { subscribers: 2, users: 1 });
    leave(&store, 1).await;
    leave(&store, 2).await;
    assert_eq!(store.subscribers(&room(), 0).await, Ok(0));
    assert_eq!(counts(&store, &room()).await, Counts::default());
}

/// Only occupied channels of the very app, each with its counts.
pub async fn channels_are_found_by_prefix_and_in_order(start: impl AsyncFn() -> Store) {
    let store = start().await;
    for (app, name, n) in
        [("1", "b", 2), ("1", "a-2", 1), ("1", "a-1", 3), ("1", "a", 1), ("10", "a", 9), ("2", "a", 9)]
    {
        store.subscribers(&ChannelKey::new(app, name), n).await.expect("the store answers");
    }
    store.subscribers(&room(), 1).await.expect("the store answers");
    join(&store, "ann", 1).await;
    let found = async |prefix: &str| store.channels("1", prefix).await.expect("the store answers");
    let names = async |prefix: &str| found(prefix).await.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names("").await, ["a", "a-1", "a-2", "b", "presence-room"]);
    assert_eq!(names("a-").await, ["a-1", "a-2"]);
    assert_eq!(found("b").await, [("b".to_owned(), Counts { subscribers: 2, users: 0 })]);
    assert_eq!(found("presence-").await, [("presence-room".to_owned(), Counts { subscribers: 1, users: 1 })]);
    store.subscribers(&ChannelKey::new("1", "a-1"), 0).await.expect("the store answers");
    assert_eq!(names("a-").await, ["a-2"]);
    assert!(names("nobody").await.is_empty());
}

/// Only the first socket makes a user come online, and only the last one offline.
pub async fn a_user_is_online_while_any_of_its_sockets_is(start: impl AsyncFn() -> Store) {
    let store = start().await;
    assert_eq!(store.user_offline("1", "ann", socket(1)).await, Ok(false));
    assert_eq!(store.user_online("1", "ann", socket(1)).await, Ok(true));
    assert_eq!(store.user_online("1", "ann", socket(1)).await, Ok(false), "it was online already");
    assert_eq!(store.user_online("1", "ann", socket(2)).await, Ok(false));
    assert_eq!(store.user_offline("1", "ann", socket(1)).await, Ok(false));
    assert_eq!(store.user_offline("1", "ann", socket(1)).await, Ok(false));
    assert_eq!(store.user_offline("1", "ann", socket(2)).await, Ok(true));
    assert_eq!(store.user_online("1", "ann", socket(3)).await, Ok(true));
}

/// One answer for each id, whatever stands in it, and for this app only.
pub async fn who_is_online_is_answered_in_the_order_asked(start: impl AsyncFn() -> Store) {
    let store = start().await;
    for (app, user) in [("1", "ann"), ("1", "a/b #*"), ("2", "bob")] {
        store.user_online(app, user, socket(1)).await.expect("the store answers");
    }
    let asked = ["bob", "a/b #*", "nobody", "ann", "ann"].map(str::to_owned);
    assert_eq!(store.users_online("1", &asked).await, Ok(vec![false, true, false, true, true]));
    assert_eq!(store.users_online("1", &[]).await, Ok(vec![]));
}
