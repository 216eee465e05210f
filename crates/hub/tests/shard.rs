//! What a shard promises, one behaviour at a time.

mod support;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use bytes::Bytes;
use fanfare_hub::hold::Hold;
use fanfare_hub::publication::Form;
use fanfare_hub::shard::{After, Change, ConnKey, Doom, Subscribed, Traits};
use fanfare_hub::{ChannelKey, Kind, Publication, Shard, StreamPosition};

use support::{Mood, PLAIN, SALT, Tap, change, frames, gap, held, note, publication, settle, socket, stored};

/// More than a slice has room for.
const CROWD: usize = 300;

const CAP: usize = 1000;

fn shard() -> Shard<Tap> {
    Shard::new(SALT, CAP)
}

fn key(name: &str) -> ChannelKey {
    ChannelKey::new("1", name)
}

fn join(shard: &mut Shard<Tap>, mood: Mood) -> (ConnKey, Tap) {
    let tap = Tap::new(mood);
    (shard.open(tap.clone(), 0, Form::TEXT), tap)
}

/// A connection that is live on the channel and has been told nothing.
fn live(shard: &mut Shard<Tap>, channel: &str, traits: Traits, mood: Mood) -> (ConnKey, Tap) {
    let (conn, tap) = join(shard, mood);
    shard.subscribe(conn, key(channel).as_str(), traits, false);
    shard.opened(&key(channel), |_| Bytes::new());
    (conn, tap)
}

/// A connection that waits to be let into a channel whose gate is open.
fn waiting(shard: &mut Shard<Tap>, channel: &str) -> (ConnKey, Tap, u32) {
    let (conn, tap) = join(shard, Mood::Open);
    let token = hold(shard, conn, channel);
    shard.opened(&key(channel), |_| note("not for those who are let in one by one"));
    (conn, tap, token)
}

fn hold(shard: &mut Shard<Tap>, conn: ConnKey, channel: &str) -> u32 {
    match shard.subscribe(conn, key(channel).as_str(), PLAIN, true) {
        Subscribed::Held(token) => token,
        other => panic!("expected to be held, got {other:?}"),
    }
}

fn publish(shard: &mut Shard<Tap>, channel: &str, id: usize) {
    shard.publish(frames(&key(channel), publication(id, 0)));
}

fn writable(shard: &mut Shard<Tap>, conn: ConnKey, tap: &Tap, mood: Mood) {
    tap.set(mood);
    tap.drained();
    shard.writable(conn);
}

fn position(offset: u64) -> Option<StreamPosition> {
    Some(StreamPosition { epoch: 1, offset })
}

fn changes(shard: &mut Shard<Tap>) -> Vec<(String, u32)> {
    shard.take_changes().into_iter().map(|Change { key, n, .. }| (key.name().to_owned(), n)).collect()
}

// Opening and counting.

#[test]
fn nobody_is_shown_anything_before_the_gate_is_open() {
    let mut shard = shard();
    let (conn, tap) = join(&mut shard, Mood::Open);
    assert_eq!(shard.subscribe(conn, "1/room", PLAIN, false), Subscribed::Waiting);
    publish(&mut shard, "room", 1);
    settle(&mut shard);
    assert!(tap.heard().is_empty() && !shard.is_live(conn, "1/room"));
    shard.opened(&key("room"), |_| note("welcome"));
    settle(&mut shard);
    assert_eq!(tap.heard(), ["welcome", "room 1"]);
    assert!(shard.is_live(conn, "1/room"));
}

#[test]
fn whoever_joins_an_open_channel_is_live_at_once() {
    let mut shard = shard();
    live(&mut shard, "room", PLAIN, Mood::Open);
    let (late, _) = join(&mut shard, Mood::Open);
    assert_eq!(shard.subscribe(late, "1/room", PLAIN, false), Subscribed::Live);
    assert_eq!(shard.subscribe(late, "1/room", PLAIN, false), Subscribed::Already);
}

#[test]
fn an_empty_welcome_is_not_sent() {
    let mut shard = shard();
    let (_, tap) = live(&mut shard, "#server-to-user-7", PLAIN, Mood::Open);
    settle(&mut shard);
    assert_eq!(tap.writes(), 0);
}

#[test]
fn a_refused_gate_puts_everybody_off_the_channel() {
    let mut shard = shard();
    let (conn, tap) = join(&mut shard, Mood::Open);
    shard.subscribe(conn, "1/room", PLAIN, false);
    publish(&mut shard, "room", 1);
    assert_eq!(shard.refused(&key("room")), [conn]);
    settle(&mut shard);
    assert!(!shard.is_subscribed(conn, "1/room") && tap.heard().is_empty());
    assert_eq!(shard.channels(), 0);
}

#[test]
fn the_control_plane_is_told_once_how_many_there_are() {
    let mut shard = shard();
    let (first, _) = live(&mut shard, "room", PLAIN, Mood::Open);
    live(&mut shard, "room", PLAIN, Mood::Open);
    assert_eq!(changes(&mut shard), [("room".to_owned(), 2)]);
    assert_eq!(changes(&mut shard), []);
    shard.close(first, None);
    assert_eq!(changes(&mut shard), [("room".to_owned(), 1)]);
}

#[test]
fn a_channel_that_ends_and_begins_again_is_told_as_that() {
    let mut shard = shard();
    let (conn, _) = live(&mut shard, "room", PLAIN, Mood::Open);
    shard.take_changes();
    shard.unsubscribe(conn, "1/room");
    assert_eq!(shard.subscribe(conn, "1/room", PLAIN, false), Subscribed::Waiting);
    assert_eq!(changes(&mut shard), [("room".to_owned(), 0), ("room".to_owned(), 1)]);
}

#[test]
fn when_all_have_gone_nothing_is_left() {
    let mut shard = shard();
    let conns: Vec<ConnKey> = (0..CROWD).map(|_| live(&mut shard, "room", PLAIN, Mood::Shut).0).collect();
    publish(&mut shard, "room", 1);
    shard.turn();
    conns.into_iter().for_each(|conn| drop(shard.close(conn, None)));
    settle(&mut shard);
    assert_eq!((shard.connections(), shard.channels()), (0, 0));
    assert_eq!(changes(&mut shard), [("room".to_owned(), 0)]);
    assert_eq!(shard.ledger().in_flight(), 0);
}

// Walking.

#[test]
fn a_turns_publications_leave_in_one_write() {
    let mut shard = shard();
    let (_, tap) = live(&mut shard, "room", PLAIN, Mood::Open);
    (1..=3).for_each(|id| publish(&mut shard, "room", id));
    settle(&mut shard);
    assert_eq!((tap.heard(), tap.writes()), (vec!["room 1".into(), "room 2".into(), "room 3".into()], 1));
}

#[test]
fn several_channels_of_one_turn_leave_in_one_write() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Open);
    for channel in ["hall", "yard"] {
        shard.subscribe(conn, key(channel).as_str(), PLAIN, false);
        shard.opened(&key(channel), |_| Bytes::new());
    }
    ["room", "hall", "yard"].iter().for_each(|channel| publish(&mut shard, channel, 1));
    settle(&mut shard);
    assert_eq!((tap.heard().len(), tap.writes()), (3, 1));
}

#[test]
fn a_giant_channel_gives_way_between_slices() {
    let mut shard = shard();
    let crowd: Vec<Tap> = (0..CROWD).map(|_| live(&mut shard, "stadium", PLAIN, Mood::Open).1).collect();
    let tap = Tap::new(Mood::Open);
    let lone = shard.open(tap.clone(), 1, Form::TEXT);
    shard.subscribe(lone, "2/room", PLAIN, false);
    shard.opened(&ChannelKey::new("2", "room"), |_| Bytes::new());
    publish(&mut shard, "stadium", 1);
    assert!(shard.turn(), "one slice is not all");
    shard.publish(frames(&ChannelKey::new("2", "room"), publication(2, 0)));
    shard.turn();
    shard.turn();
    assert_eq!(tap.heard(), ["room 2"], "the other app waited for a slice or two");
    settle(&mut shard);
    assert!(crowd.iter().all(|tap| tap.heard() == ["stadium 1"]));
}

#[test]
fn leaving_during_a_walk_loses_nothing_for_those_who_stay() {
    for leaver in 0..CROWD {
        let mut shard = shard();
        let mut crowd: Vec<_> = (0..CROWD).map(|_| live(&mut shard, "stadium", PLAIN, Mood::Open)).collect();
        publish(&mut shard, "stadium", 1);
        shard.turn();
        let (late, late_tap) = live(&mut shard, "stadium", PLAIN, Mood::Open);
        publish(&mut shard, "stadium", 2);
        shard.close(crowd.swap_remove(leaver).0, None);
        settle(&mut shard);
        assert!(crowd.iter().all(|(_, tap)| tap.heard() == ["stadium 1", "stadium 2"]), "{leaver} left");
        assert_eq!(late_tap.heard(), ["stadium 2"]);
        assert!(shard.is_live(late, "1/stadium"));
    }
}

#[test]
fn an_excluded_socket_gets_everything_but_what_excludes_it() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Open);
    let (_, other) = live(&mut shard, "room", PLAIN, Mood::Open);
    for id in 1..=4 {
        let except = (id % 2 == 0).then(|| socket(conn));
        shard.publish(frames(&key("room"), Publication { except, ..publication(id, 0) }));
    }
    settle(&mut shard);
    assert_eq!(tap.heard(), ["room 1", "room 3"]);
    assert_eq!(other.heard(), ["room 1", "room 2", "room 3", "room 4"]);
}

#[test]
fn more_exclusions_than_a_batch_can_name_are_kept_all_the_same() {
    let mut shard = shard();
    let crowd: Vec<_> = (0..20).map(|_| live(&mut shard, "room", PLAIN, Mood::Open)).collect();
    for (id, (conn, _)) in crowd.iter().enumerate() {
        shard.publish(frames(&key("room"), Publication { except: Some(socket(*conn)), ..publication(id, 0) }));
    }
    settle(&mut shard);
    for (own, (_, tap)) in crowd.iter().enumerate() {
        let others: Vec<String> = (0..20).filter(|id| *id != own).map(|id| format!("room {id}")).collect();
        assert_eq!(tap.heard(), others);
    }
}

#[test]
fn a_slot_that_is_used_again_within_a_turn_inherits_nothing() {
    let mut shard = shard();
    let (old, _) = live(&mut shard, "room", PLAIN, Mood::Shut);
    publish(&mut shard, "room", 1);
    settle(&mut shard);
    shard.send(old, note("for the old holder"));
    shard.close(old, None);
    let (new, tap) = join(&mut shard, Mood::Open);
    assert_eq!(new.slot, old.slot);
    let except = Some(socket(old));
    shard.subscribe(new, "1/room", PLAIN, false);
    shard.opened(&key("room"), |_| note("welcome"));
    shard.publish(frames(&key("room"), Publication { except, ..publication(2, 0) }));
    shard.send(old, note("for the old holder"));
    settle(&mut shard);
    assert_eq!(tap.heard(), ["welcome", "room 2"]);
    assert!(!shard.is_subscribed(old, "1/room") && !shard.is_open(old));
}

#[test]
fn a_dirty_mark_of_the_old_holder_does_not_reach_the_new_one() {
    let mut shard = shard();
    live(&mut shard, "room", PLAIN, Mood::Open);
    let (old, _) = join(&mut shard, Mood::Open);
    shard.send(old, note("marks the slot"));
    shard.close(old, None);
    let (new, tap) = live(&mut shard, "room", PLAIN, Mood::Shut);
    assert_eq!(new.slot, old.slot);
    publish(&mut shard, "room", 1);
    settle(&mut shard);
    assert_eq!(tap.writes(), 1);
}

#[test]
fn each_subscriber_gets_its_own_form() {
    let mut shard = shard();
    let tap = Tap::new(Mood::Open);
    let conn = shard.open(tap.clone(), 0, Form::DEFLATED);
    shard.subscribe(conn, "1/room", PLAIN, false);
    let (_, plain) = live(&mut shard, "room", PLAIN, Mood::Open);
    for (id, padding) in [(1, 0), (2, 300), (3, 0)] {
        shard.publish(frames(&key("room"), publication(id, padding)));
    }
    settle(&mut shard);
    assert_eq!(tap.heard(), ["room 1", "room 2", "room 3"]);
    assert_eq!(tap.texts(), plain.texts());
}

// Slow, shut and broken wires.

#[test]
fn a_slow_wire_gets_everything_in_its_own_time() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Slow(7));
    (1..=9).for_each(|id| publish(&mut shard, "room", id));
    while !shard.turn() && shard.ledger().in_flight() > 0 {
        writable(&mut shard, conn, &tap, Mood::Slow(7));
    }
    assert_eq!(tap.heard(), (1..=9).map(|id| format!("room {id}")).collect::<Vec<_>>());
}

#[test]
fn a_full_socket_is_not_offered_anything_until_it_is_writable() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Shut);
    for id in 1..=3 {
        publish(&mut shard, "room", id);
        settle(&mut shard);
    }
    assert_eq!(tap.writes(), 1);
    writable(&mut shard, conn, &tap, Mood::Open);
    assert_eq!((tap.heard().len(), tap.writes()), (3, 2));
}

#[test]
fn a_hold_is_kept_until_the_last_socket_has_taken_what_keeps_it() {
    let mut shard = shard();
    let (slow, tap) = live(&mut shard, "room", PLAIN, Mood::Shut);
    let (closed, _) = live(&mut shard, "room", PLAIN, Mood::Shut);
    let (_, other) = live(&mut shard, "room", PLAIN, Mood::Open);
    let (hold, mut release) = Hold::new();
    for id in 1..=2 {
        shard.publish(held(&key("room"), publication(id, 0), hold.clone()));
    }
    drop(hold);
    let mut is_free = || pin!(release.wait()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
    settle(&mut shard);
    assert_eq!(other.heard().len(), 2);
    assert!(!is_free(), "two outboxes have it");
    writable(&mut shard, slow, &tap, Mood::Open);
    assert_eq!(tap.heard().len(), 2);
    assert!(!is_free(), "one has it still");
    shard.close(closed, None);
    assert!(is_free());
}

#[test]
fn a_slow_consumer_is_given_up_at_the_cap_and_only_once() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Shut);
    let (_, other) = live(&mut shard, "room", PLAIN, Mood::Open);
    let mut given_up = Vec::new();
    for id in 0..10 {
        shard.publish(frames(&key("room"), publication(id, 200)));
        settle(&mut shard);
        given_up.extend(shard.take_doomed().into_iter().map(|doomed| (id, doomed)));
    }
    assert_eq!(given_up, [(4, (conn, Doom::SlowConsumer))], "four of about 245 bytes fit into {CAP}");
    assert_eq!(other.heard().len(), 10);
    writable(&mut shard, conn, &tap, Mood::Open);
    assert!(tap.heard().is_empty(), "whoever is given up is not written to any more");
    shard.close(conn, Some(Doom::SlowConsumer));
    assert_eq!((shard.ledger().dropped_slow, shard.ledger().in_flight()), (5, 0));
}

#[test]
fn a_message_larger_than_the_cap_reaches_whoever_keeps_up() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Slow(100));
    shard.publish(frames(&key("room"), publication(1, 2 * CAP)));
    settle(&mut shard);
    writable(&mut shard, conn, &tap, Mood::Open);
    assert_eq!(tap.heard(), ["room 1"]);
}

#[test]
fn who_asks_much_and_reads_nothing_is_given_up() {
    let mut shard = shard();
    let (conn, _) = join(&mut shard, Mood::Shut);
    (0..CAP / 10).for_each(|_| shard.send(conn, note("a pong of some bytes")));
    assert_eq!(shard.take_doomed(), [(conn, Doom::SlowConsumer)]);
}

#[test]
fn where_the_rule_says_so_a_slow_consumer_keeps_the_newest() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "prices", Traits { newest: true, ..PLAIN }, Mood::Slow(10));
    for id in 0..20 {
        shard.publish(frames(&key("prices"), publication(id, 200)));
        settle(&mut shard);
        tap.set(Mood::Shut);
    }
    writable(&mut shard, conn, &tap, Mood::Open);
    assert_eq!(shard.take_doomed(), []);
    let heard = tap.heard();
    assert_eq!((heard.first().unwrap().as_str(), heard.last().unwrap().as_str()), ("prices 0", "prices 19"));
    let ledger = shard.ledger();
    assert_eq!((ledger.written as usize, ledger.dropped_older as usize), (heard.len(), 20 - heard.len()));
}

#[test]
fn a_message_that_has_begun_is_never_dropped_for_a_newer_one() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "prices", Traits { newest: true, ..PLAIN }, Mood::Shut);
    for id in 0..20 {
        shard.publish(frames(&key("prices"), publication(id, 200)));
        settle(&mut shard);
        writable(&mut shard, conn, &tap, Mood::Slow(7));
    }
    writable(&mut shard, conn, &tap, Mood::Open);
    assert_eq!(
        (tap.heard().first().unwrap().as_str(), tap.heard().last().unwrap().as_str()),
        ("prices 0", "prices 19")
    );
}

#[test]
fn a_broken_wire_is_reported_once_and_not_written_again() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Broken);
    (1..=3).for_each(|id| {
        publish(&mut shard, "room", id);
        settle(&mut shard);
    });
    assert_eq!((shard.take_doomed(), tap.writes()), (vec![(conn, Doom::Broken)], 1));
    shard.close(conn, Some(Doom::Broken));
    assert_eq!((shard.ledger().dropped_closed, shard.ledger().in_flight()), (1, 0));
}

#[test]
fn last_words_follow_what_is_owed() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Open);
    shard.publish(frames(&key("room"), Publication { kind: Kind::Terminate, ..publication(1, 0) }));
    assert_eq!(shard.take_doomed(), [(conn, Doom::Terminated)]);
    shard.send(conn, note("owed"));
    shard.last_words(conn, note("farewell"));
    assert_eq!(tap.heard(), ["owed", "farewell"]);
}

#[test]
fn terminate_closes_everybody_on_the_channel_and_is_shown_to_nobody() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "#server-to-user-7", PLAIN, Mood::Open);
    let (other, _) = live(&mut shard, "room", PLAIN, Mood::Open);
    shard.publish(frames(&key("#server-to-user-7"), Publication { kind: Kind::Terminate, ..publication(1, 0) }));
    settle(&mut shard);
    assert_eq!(shard.take_doomed(), [(conn, Doom::Terminated)]);
    assert!(tap.heard().is_empty() && shard.is_open(other));
}

// Gaps.

fn lost(offset: u64) -> StreamPosition {
    StreamPosition { epoch: 1, offset }
}

fn gapped(shard: &mut Shard<Tap>, offset: u64) {
    shard.publish(gap(&key("room"), offset as usize, lost(offset)));
}

fn deaf(shard: &mut Shard<Tap>) -> (ConnKey, Tap) {
    let tap = Tap::new(Mood::Open);
    let conn = shard.open(tap.clone(), 0, Form::DEFLATED);
    shard.subscribe(conn, "1/room", PLAIN, false);
    shard.opened(&key("room"), |_| Bytes::new());
    (conn, tap)
}

#[test]
fn a_gap_keeps_its_place_among_what_is_published() {
    let mut shard = shard();
    let (_, tap) = live(&mut shard, "room", PLAIN, Mood::Open);
    publish(&mut shard, "room", 1);
    gapped(&mut shard, 2);
    publish(&mut shard, "room", 3);
    settle(&mut shard);
    assert_eq!((tap.heard(), shard.take_gapped()), (vec!["room 1".into(), "room 2".into(), "room 3".into()], vec![]));
}

#[test]
fn who_cannot_be_told_of_a_gap_is_named_once_and_stays_live() {
    let mut shard = shard();
    let (conn, tap) = deaf(&mut shard);
    (1..=3).for_each(|offset| {
        publish(&mut shard, "room", offset);
        gapped(&mut shard, offset as u64);
    });
    publish(&mut shard, "room", 4);
    settle(&mut shard);
    assert_eq!(shard.take_gapped(), [conn]);
    assert_eq!(tap.heard(), ["room 1", "room 2", "room 3", "room 4"]);
    assert!(shard.take_gapped().is_empty() && shard.take_doomed().is_empty());
}

#[test]
fn who_is_catching_up_hears_of_a_gap_once_and_only_if_its_history_ends_before_it() {
    for (seen, expected) in [(4, vec!["welcome", "room 5"]), (5, vec!["welcome"]), (9, vec!["welcome"])] {
        let mut shard = shard();
        let (conn, tap, token) = waiting(&mut shard, "room");
        gapped(&mut shard, 5);
        settle(&mut shard);
        let after = After { stored: Some(lost(seen)), presence: None };
        assert!(shard.entered(conn, "1/room", token, note("welcome"), after));
        settle(&mut shard);
        assert_eq!(tap.heard(), expected, "after {seen}");
    }
}

#[test]
fn who_rests_between_two_polls_has_to_ask_after_a_gap() {
    let mut shard = shard();
    let (conn, tap) = live(&mut shard, "room", PLAIN, Mood::Open);
    tap.take_once();
    shard.publish(stored(&key("room"), publication(1, 0), position(1)));
    settle(&mut shard);
    assert_eq!(shard.take_answered(), [conn]);
    shard.rest(conn);
    assert!(shard.is_current("1/room", lost(1)));
    gapped(&mut shard, 4);
    settle(&mut shard);
    assert!(!shard.is_current("1/room", lost(1)) && shard.take_gapped().is_empty());
    assert!(shard.is_current("1/room", lost(4)), "nothing is between the news and whoever comes after it");
}

// Catching up.

#[test]
fn what_came_while_waiting_follows_the_welcome() {
    let mut shard = shard();
    let (conn, tap, token) = waiting(&mut shard, "room");
    (1..=2).for_each(|id| publish(&mut shard, "room", id));
    settle(&mut shard);
    assert!(tap.heard().is_empty() && !shard.is_live(conn, "1/room"));
    assert!(shard.entered(conn, "1/room", token, note("welcome"), After::default()));
    assert!(!shard.entered(conn, "1/room", token, note("again"), After::default()), "let in once");
    publish(&mut shard, "room", 3);
    settle(&mut shard);
    assert_eq!(tap.heard(), ["welcome", "room 1", "room 2", "room 3"]);
    assert!(shard.is_live(conn, "1/room"));
}

#[test]
fn what_the_cache_showed_is_not_shown_again() {
    let mut shard = shard();
    let (conn, tap, token) = waiting(&mut shard, "cache-room");
    let letter = |id: usize| stored(&key("cache-room"), publication(id, 0), position(id as u64));
    shard.publish(letter(1));
    settle(&mut shard);
    // The control plane was ahead of the mail: it read the third before the second got here.
    shard.entered(conn, "1/cache-room", token, note("third"), After { stored: position(3), presence: None });
    (2..=5).for_each(|id| shard.publish(letter(id)));
    settle(&mut shard);
    assert_eq!(tap.heard(), ["third", "cache-room 4", "cache-room 5"]);
}

#[test]
fn whoever_is_in_the_roster_is_not_announced_again() {
    let mut shard = shard();
    let (conn, tap, token) = waiting(&mut shard, "presence-room");
    let letter = |version: u64| frames(&key("presence-room"), change(version as usize, version));
    (1..=2).for_each(|version| shard.publish(letter(version)));
    settle(&mut shard);
    shard.entered(conn, "1/presence-room", token, note("roster 3"), After { stored: None, presence: Some(3) });
    [4, 3, 5].into_iter().for_each(|version| shard.publish(letter(version)));
    settle(&mut shard);
    assert_eq!(tap.heard(), ["roster 3", "presence-room 4", "presence-room 5"]);
}

#[test]
fn a_newer_change_of_members_does_not_bring_the_cached_event_back() {
    let mut shard = shard();
    let (conn, tap, token) = waiting(&mut shard, "presence-cache-room");
    let room = key("presence-cache-room");
    shard.entered(
        conn,
        room.as_str(),
        token,
        note("roster 1, cached 1"),
        After { stored: position(1), presence: Some(1) },
    );
    shard.publish(frames(&room, change(2, 2)));
    shard.publish(stored(&room, publication(1, 0), position(1)));
    settle(&mut shard);
    assert_eq!(tap.heard(), ["roster 1, cached 1", "presence-cache-room 2"]);
}

#[test]
fn who_was_let_in_a_while_ago_is_not_compared_any_more() {
    let mut shard = shard();
    let (conn, tap, token) = waiting(&mut shard, "presence-room");
    shard.entered(conn, "1/presence-room", token, note("roster"), After { stored: None, presence: Some(9) });
    (0..10).for_each(|_| shard.tick());
    shard.publish(frames(&key("presence-room"), change(1, 9)));
    settle(&mut shard);
    assert_eq!(tap.heard(), ["roster", "presence-room 1"]);
}

#[test]
fn leaving_while_waiting_leaves_nothing_behind() {
    let mut shard = shard();
    let (conn, tap, token) = waiting(&mut shard, "room");
    publish(&mut shard, "room", 1);
    settle(&mut shard);
    shard.unsubscribe(conn, "1/room");
    assert!(!shard.entered(conn, "1/room", token, note("too late"), After::default()));
    settle(&mut shard);
    assert_eq!((tap.writes(), shard.channels(), shard.ledger().in_flight()), (0, 0, 0));
}

#[test]
fn an_answer_to_an_earlier_request_lets_nobody_in() {
    let mut shard = shard();
    let (conn, tap, earlier) = waiting(&mut shard, "room");
    shard.unsubscribe(conn, "1/room");
    let later = hold(&mut shard, conn, "room");
    assert!(!shard.entered(conn, "1/room", earlier, note("stale"), After::default()));
    assert!(shard.entered(conn, "1/room", later, note("welcome"), After::default()));
    settle(&mut shard);
    assert_eq!(tap.heard(), ["welcome"]);
}

// Pollers.

/// A poller that is live on the channel.
fn poller(shard: &mut Shard<Tap>, channel: &str) -> (ConnKey, Tap) {
    let tap = Tap::new(Mood::Open);
    tap.take_once();
    let conn = shard.open(tap.clone(), 0, Form::TEXT);
    shard.subscribe(conn, key(channel).as_str(), PLAIN, false);
    shard.opened(&key(channel), |_| Bytes::new());
    (conn, tap)
}

#[test]
fn a_poller_takes_one_batch_and_then_nothing() {
    let mut shard = shard();
    let (conn, tap) = poller(&mut shard, "room");
    (1..=2).for_each(|id| publish(&mut shard, "room", id));
    settle(&mut shard);
    publish(&mut shard, "room", 3);
    settle(&mut shard);
    assert_eq!(tap.heard(), ["room 1", "room 2"], "joined");
    assert_eq!((shard.take_answered(), shard.take_answered()), (vec![conn], vec![]));
}

#[test]
fn a_poller_between_two_polls_counts_for_a_while() {
    let mut shard = shard();
    let (conn, tap) = poller(&mut shard, "room");
    publish(&mut shard, "room", 1);
    settle(&mut shard);
    assert_eq!(changes(&mut shard), [("room".to_owned(), 1)]);
    shard.rest(conn);
    assert_eq!((shard.subscriptions(conn), shard.channels()), (0, 1));
    shard.subscribe(conn, "1/room", PLAIN, false);
    publish(&mut shard, "room", 2);
    settle(&mut shard);
    assert_eq!(tap.heard(), ["room 1", "room 2"]);
    assert!(changes(&mut shard).is_empty(), "it was a subscriber all along");
    shard.rest(conn);
    (0..30).for_each(|_| shard.tick());
    assert_eq!(changes(&mut shard), [("room".to_owned(), 0)]);
    assert_eq!(shard.channels(), 0);
}

#[test]
fn whoever_has_the_newest_misses_nothing_by_being_live_at_once() {
    let mut shard = shard();
    let (conn, _tap) = poller(&mut shard, "room");
    let letter = |id: usize| stored(&key("room"), publication(id, 0), position(id as u64));
    let current = |shard: &Shard<Tap>, offset| shard.is_current("1/room", position(offset).expect("stored"));
    shard.publish(letter(1));
    settle(&mut shard);
    shard.rest(conn);
    assert!(current(&shard, 1) && !current(&shard, 2));
    shard.publish(letter(2));
    settle(&mut shard);
    assert!(current(&shard, 2) && !current(&shard, 1), "what nobody was here for counts too");
}
