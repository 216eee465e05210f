//! A shard compared with a naive model under random actions.
//!
//! What is compared: each connection receives exactly what the model says, in order, whole, nothing lost and nothing twice,
//! while wires are slow, shut or broken, members come and go in the middle of a walk, and slots are used again.

mod naive;
#[path = "../support/mod.rs"]
mod support;
mod world;

use fanfare_hub::publication::Form;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use support::Mood;
use world::{APPS, CHANNELS, Place, World};

/// Checked in: a few seconds. `PROPTEST_CASES=50000` has been run by hand.
const CASES: u32 = 150;

#[derive(Clone, Debug)]
enum Action {
    Open { app: usize, form: Form, mood: Mood },
    Close { conn: usize },
    Mood { conn: usize, mood: Mood },
    Subscribe { conn: usize, channel: usize, hold: bool },
    Unsubscribe { conn: usize, channel: usize },
    Gate { line: usize, opens: bool },
    Enter { conn: usize, channel: usize, stored: Option<i64>, presence: Option<i64> },
    Publish { line: usize, padding: usize, place: Place, except: Option<usize> },
    PublishPastAStranger { line: usize, slot: u64 },
    Gap { line: usize, restarted: bool },
    Terminate { line: usize },
    Turn,
    Tick,
    TakeChanges,
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::TEXT), Just(Form::DEFLATED)]
}

fn mood() -> impl Strategy<Value = Mood> {
    prop_oneof![
        6 => Just(Mood::Open),
        4 => (1..400usize).prop_map(Mood::Slow),
        3 => Just(Mood::Shut),
        1 => Just(Mood::Broken),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        5 => Just(Place::Transient),
        4 => Just(Place::Stored),
        1 => Just(Place::Restarted),
        3 => Just(Place::Change),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let conn = || any::<u16>().prop_map(usize::from);
    let (line, channel) = (|| 0..APPS * CHANNELS, || 0..CHANNELS);
    let by = || proptest::option::of(-3..=3i64);
    prop_oneof![
        6 => (0..APPS, form(), mood()).prop_map(|(app, form, mood)| Action::Open { app, form, mood }),
        2 => conn().prop_map(|conn| Action::Close { conn }),
        6 => (conn(), mood()).prop_map(|(conn, mood)| Action::Mood { conn, mood }),
        14 => (conn(), channel(), any::<bool>())
            .prop_map(|(conn, channel, hold)| Action::Subscribe { conn, channel, hold }),
        5 => (conn(), channel()).prop_map(|(conn, channel)| Action::Unsubscribe { conn, channel }),
        8 => (line(), proptest::bool::weighted(0.9)).prop_map(|(line, opens)| Action::Gate { line, opens }),
        8 => (conn(), channel(), by(), by())
            .prop_map(|(conn, channel, stored, presence)| Action::Enter { conn, channel, stored, presence }),
        24 => (line(), 0..300usize, place(), proptest::option::of(conn()))
            .prop_map(|(line, padding, place, except)| Action::Publish { line, padding, place, except }),
        1 => (line(), 0..4u64).prop_map(|(line, slot)| Action::PublishPastAStranger { line, slot }),
        2 => (line(), any::<bool>()).prop_map(|(line, restarted)| Action::Gap { line, restarted }),
        1 => line().prop_map(|line| Action::Terminate { line }),
        14 => Just(Action::Turn),
        3 => Just(Action::Tick),
        3 => Just(Action::TakeChanges),
    ]
}

/// The same action in the first app, so that more happens between the same few.
fn narrowed(action: Action) -> Action {
    match action {
        Action::Open { form, mood, .. } => Action::Open { app: 0, form, mood },
        Action::Gate { line, opens } => Action::Gate { line: line % CHANNELS, opens },
        Action::Publish { line, padding, place, except } => {
            Action::Publish { line: line % CHANNELS, padding, place, except }
        }
        Action::Gap { line, restarted } => Action::Gap { line: line % CHANNELS, restarted },
        other => other,
    }
}

fn act(world: &mut World, action: Action) {
    match action {
        Action::Open { app, form, mood } => world.open(app, form, mood),
        Action::Close { conn } => world.close(conn),
        Action::Mood { conn, mood } => world.mood(conn, mood),
        Action::Subscribe { conn, channel, hold } => world.subscribe(conn, channel, hold),
        Action::Unsubscribe { conn, channel } => world.unsubscribe(conn, channel),
        Action::Gate { line, opens } => world.gate(line, opens),
        Action::Enter { conn, channel, stored, presence } => world.enter(conn, channel, stored, presence),
        Action::Publish { line, padding, place, except } => world.publish(line, padding, place, except),
        Action::PublishPastAStranger { line, slot } => world.publish_past_a_stranger(line, slot),
        Action::Gap { line, restarted } => world.gap(line, restarted),
        Action::Terminate { line } => world.terminate(line),
        Action::Turn => world.turn(),
        Action::Tick => world.tick(),
        Action::TakeChanges => world.take_changes(),
    }
}

/// Roomy outboxes, or such as a few messages fill.
fn outbox_bytes_max() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1 << 20), 200..4000usize]
}

/// Members of the first channel at the start: none, or so many that a walk takes several turns.
fn crowd() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0usize), 1 => 130..400usize]
}

fn config() -> ProptestConfig {
    let file = FileFailurePersistence::WithSource("regressions");
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_shard_does_what_the_naive_model_says(
        outbox_bytes_max in outbox_bytes_max(),
        crowd in crowd(),
        narrow in any::<bool>(),
        actions in vec(action(), 1..150),
    ) {
        let mut world = World::new(outbox_bytes_max);
        for conn in 0..crowd {
            world.open(0, if conn % 3 == 0 { Form::DEFLATED } else { Form::TEXT }, Mood::Open);
            world.subscribe(conn, 0, false);
        }
        world.gate(0, true);
        for action in actions {
            act(&mut world, if narrow { narrowed(action) } else { action });
            world.check();
        }
        world.end();
    }
}
