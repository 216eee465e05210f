//! Consumers that acknowledge: at least once before, and not again after.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::support::{Server, eventually};
use crate::{TOKEN, Tap, ack, ask, config, config_in, folder, publish, text, texts};

#[test]
fn what_was_not_acknowledged_is_sent_again_and_nothing_else_is() {
    let folder = folder();
    let config = config_in(folder.path(), "", "");
    let mut first = Server::start(&config);
    let mut tap = Tap::open(&first, "consumer=shop");
    publish(&first, "room", 0..6);
    let heard: Vec<Value> = (0..6).map(|_| tap.message()).collect();
    let third = text(&heard[2]["cursor"]);
    ack(&first, "shop", &third).expect(200, &json!({"cursor": third}).to_string());
    // One that comes late changes nothing.
    ack(&first, "shop", &text(&heard[0]["cursor"])).expect(200, &json!({"cursor": third}).to_string());
    eventually("it is counted", || first.metric("fanfare_firehose_acked_total{app=\"1\"}") == 3.0);
    assert_eq!(first.metric("fanfare_firehose_lag{app=\"1\",consumer=\"all/shop\"}"), 3.0);
    drop(tap);
    let mut again = Tap::open(&first, "consumer=shop");
    assert_eq!(again.begins["recovered"], true);
    assert_eq!(again.data(3), texts(3..6));
    first.signal("KILL");
    first.wait();

    let second = Server::start(&config);
    publish(&second, "room", 6..7);
    assert_eq!(Tap::open(&second, "consumer=shop").data(4), texts(3..7));
    assert_eq!(ack(&second, "other", &third).status, 404);
    assert_eq!(ack(&second, "shop", "nonsense").status, 400);
    let strange = format!("8Q{}", "A".repeat(21));
    assert_eq!(ack(&second, "shop", &strange).status, 409);
}

#[test]
fn a_consumer_that_never_acknowledged_begins_where_it_first_did() {
    let server = Server::start(&config("", ""));
    drop(Tap::open(&server, "consumer=shop"));
    publish(&server, "room", 0..2);
    assert_eq!(Tap::open(&server, "consumer=shop").data(2), texts(0..2));
}

#[test]
fn the_newer_connection_takes_over() {
    let server = Server::start(&config("", ""));
    let mut older = Tap::open(&server, "consumer=shop");
    publish(&server, "room", 0..2);
    assert_eq!(older.data(2), texts(0..2));
    let mut newer = Tap::open(&server, "consumer=shop");
    assert_eq!(
        older.next(),
        json!({"event": "fanfare:closed", "reason": "another connection has taken over", "reconnect": false})
    );
    assert_eq!((older.heard(), newer.data(2)), (None, texts(0..2)));
}

/// The older one may be of a network that is no more, and not be missed for long.
#[test]
fn the_newer_connection_takes_over_where_there_is_room_for_one() {
    let server = Server::start(&config("", ", connections_max = 1"));
    let mut older = Tap::open(&server, "consumer=shop");
    for _ in 0..3 {
        let newer = Tap::open(&server, "consumer=shop");
        assert_eq!(older.next()["reason"], "another connection has taken over");
        older = newer;
    }
    assert_eq!(ask(&server, "GET", "consumer=other", TOKEN).status, 429);
    assert_eq!(ask(&server, "GET", "", TOKEN).status, 429);
    drop(older);
    let connections = || server.metric("fanfare_firehose_connections{app=\"1\"}");
    eventually("it is gone", || connections() == 0.0);
    Tap::open(&server, "");
}

#[test]
fn no_more_is_on_its_way_than_a_consumer_asked_for() {
    let server = Server::start(&config("", ""));
    let mut tap = Tap::open(&server, "consumer=shop&unacked_max=2");
    publish(&server, "room", 0..5);
    assert_eq!(tap.data(1), texts(0..1));
    let second = tap.message();
    // Nothing but heartbeats come: had more been sent, it would stand before the end of the connection.
    let sent = || server.metric("fanfare_firehose_sent_total{app=\"1\"}");
    assert_eq!(sent(), 2.0);
    assert_eq!(ack(&server, "shop", &text(&second["cursor"])).status, 200);
    assert_eq!(tap.data(2), texts(2..4));
    assert_eq!(sent(), 4.0);
}

/// With its cursor, it would acknowledge what it was never sent.
#[test]
fn a_message_that_is_held_back_has_no_cursor_yet() {
    let server = Server::start(&config("ack_timeout_s = 3", ""));
    let mut tap = Tap::open(&server, "consumer=shop&unacked_max=2");
    publish(&server, "room", 0..3);
    assert_eq!(tap.data(2), texts(0..2));
    // Heartbeats pass meanwhile.
    assert_eq!(tap.next()["reason"], "nothing was acknowledged for 3 s");
    assert_eq!(Tap::open(&server, "consumer=shop").data(3), texts(0..3));
}

#[test]
fn a_consumer_that_stays_silent_is_sent_away_to_begin_again() {
    let server = Server::start(&config("ack_timeout_s = 1", ""));
    let mut tap = Tap::open(&server, "consumer=shop");
    publish(&server, "room", 0..1);
    assert_eq!(tap.data(1), texts(0..1));
    let closed = tap.next();
    assert_eq!(closed["reason"], "nothing was acknowledged for 1 s");
    assert_eq!(tap.heard(), None);
    assert_eq!(Tap::open(&server, "consumer=shop").data(1), texts(0..1));
}

#[test]
fn what_a_filter_keeps_from_a_consumer_does_not_hold_up_its_mark() {
    let server = Server::start(&config("", ""));
    let tap = Tap::open(&server, "consumer=shop&channels=never");
    publish(&server, "room", 0..3);
    let lag = || server.metric("fanfare_firehose_lag{app=\"1\",consumer=\"all/shop\"}");
    eventually("its mark moves on", || lag() == 0.0);
    drop(tap);
    publish(&server, "room", 3..4);
    assert_eq!(Tap::open(&server, "consumer=shop").data(1), texts(3..4));
}

/// Dies behind any message, and acknowledges only some of what it has seen.
#[test]
fn a_consumer_that_dies_at_random_misses_nothing() {
    const MESSAGES: u32 = 200;
    let server = Server::start(&config("", ""));
    drop(Tap::open(&server, "consumer=shop"));
    publish(&server, "room", 0..MESSAGES);
    let (mut seen, mut acknowledged) = (HashMap::<u32, u32>::new(), None);
    let mut dice = 1_u32;
    let mut roll = |sides: u32| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (dice >> 16) % sides
    };
    while acknowledged != Some(MESSAGES - 1) {
        let mut tap = Tap::open(&server, "consumer=shop&unacked_max=20");
        for _ in 0..=roll(40) {
            let message = tap.message();
            let number: u32 = text(&message["data"]).parse().expect("a number");
            assert!(acknowledged.is_none_or(|last| number > last), "{number} again after {acknowledged:?}");
            *seen.entry(number).or_default() += 1;
            if roll(4) == 0 || number == MESSAGES - 1 {
                assert_eq!(ack(&server, "shop", &text(&message["cursor"])).status, 200);
                acknowledged = Some(number);
            }
            if acknowledged.map_or(0, |last| last + 1) + 20 == number + 1 || number == MESSAGES - 1 {
                break;
            }
        }
    }
    assert_eq!(seen.len() as u32, MESSAGES);
}
