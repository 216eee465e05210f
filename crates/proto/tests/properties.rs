//! The fuzz targets' laws on stable Rust: with raw bytes, and with bytes that get past the first check.

#[path = "../../../fuzz/bodies.rs"]
mod bodies;

use fanfare_proto::deflate::deflate;
use fanfare_proto::sign::sign_query;
use fanfare_proto::ws::masked_part;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// A failure is kept beside this file, so that it is tried first from then on.
fn config() -> ProptestConfig {
    let file = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::with_cases(512) }
}

fn raw() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..600)
}

/// First bytes that mostly make sense: opcodes 0, 1, 2, 8, 9, 10, most of them final, few with reserved bits.
fn first_byte() -> impl Strategy<Value = u8> {
    let opcode = prop_oneof![
        4 => Just(0u8), 4 => Just(1), 2 => Just(2), 1 => Just(8), 2 => Just(9), 1 => Just(10), 1 => 0..16u8,
    ];
    let bits = prop_oneof![8 => Just(0x80u8), 4 => Just(0), 3 => Just(0xc0), 2 => Just(0x40), 1 => Just(0xa0)];
    (opcode, bits).prop_map(|(opcode, bits)| opcode | bits)
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "\\PC{0,60}".prop_map(String::into_bytes),
        2 => "\\PC{0,200}".prop_map(|text| deflate(text.as_bytes())),
        1 => vec(any::<u8>(), 0..40),
        1 => vec(Just(0u8), 0..5000).prop_map(|zeros| deflate(&zeros)),
        // A close code and a reason.
        1 => (900..5100u16, "\\PC{0,10}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
        1 => vec(any::<u8>(), 120..300),
    ]
}

/// What a client might send: frames one behind the other, the last perhaps cut off.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let frames = vec((first_byte(), payload(), any::<[u8; 4]>()), 1..8);
    (any::<[u8; 3]>(), frames, 0..4usize).prop_map(|(choices, frames, cut_off)| {
        let mut wire = choices.to_vec();
        for (first, payload, mask) in frames {
            masked_part(&mut wire, first, &payload, mask);
        }
        wire.truncate(wire.len() - cut_off);
        wire
    })
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        r#""(\\u[0-9a-fA-F]{4}|\\ud83[cd]\\ud[c-f][0-9a-f]{2}|\\n|[a-z]){0,9}""#,
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            vec(("[a-z_]{1,9}", inner), 0..4).prop_map(object),
        ]
    })
}

fn object(fields: Vec<(String, String)>) -> String {
    let fields: Vec<_> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

/// Objects with the fields that somebody looks for, and values of any type.
fn message() -> impl Strategy<Value = String> {
    let event =
        prop_oneof!["pusher:(ping|pong|subscribe|unsubscribe|signin|other)", "client-\\PC{0,20}", "\\PC{0,20}",];
    let event = event.prop_map(|event| serde_json::to_string(&event).unwrap());
    let field = prop_oneof!["channel", "data", "auth", "channel_data", "user_data", "user_id", "user_info", "id"];
    (event, vec((field, json()), 0..4)).prop_map(|(event, mut fields)| {
        fields.push(("event".to_owned(), event));
        fields.sort();
        fields.dedup_by(|a, b| a.0 == b.0);
        object(fields)
    })
}

/// Client events that are relayed.
fn client_event() -> impl Strategy<Value = String> {
    json().prop_map(|data| format!(r#"{{"event":"client-a","channel":"private-a","data":{data}}}"#))
}

fn signed() -> impl Strategy<Value = String> {
    let text = "\\PC{0,12}";
    let query = (text, text, text)
        .prop_map(|(key, name, value)| sign_query(b"secret", &key, "POST", "/events", &[(&name, &value)], b"body", 7));
    let array = "auth_key=k&auth_timestamp=7&auth_version=1.0(&k(\\[[0-9]?\\]|%5[bB]%5D)?=[a-z+%]{0,4}){0,4}&auth_signature=[0-9a-f]{64}";
    let path = "(/[a-z%+ü ]{0,5}){1,3}";
    (prop_oneof![query.boxed(), array.boxed()], path, "\\PC{0,20}")
        .prop_map(|(query, path, body)| format!("secret\n{path}\n{query}\n{body}"))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn frames_hold_for_raw_bytes(data in raw()) {
        bodies::frames(&data);
    }

    #[test]
    fn frames_hold_for_frames(data in frames()) {
        bodies::frames(&data);
    }

    #[test]
    fn messages_hold_for_raw_bytes(data in raw()) {
        bodies::messages(&data);
    }

    #[test]
    fn messages_hold_for_messages(text in message()) {
        bodies::messages(text.as_bytes());
    }

    #[test]
    fn messages_hold_for_client_events(text in client_event()) {
        bodies::messages(text.as_bytes());
    }

    #[test]
    fn messages_hold_for_names(text in "(#server-to-user-|private-|presence-|cache-|encrypted-){0,3}[a-z=@,.;# ]{0,8}") {
        bodies::messages(text.as_bytes());
    }

    #[test]
    fn signing_holds_for_raw_bytes(data in raw()) {
        bodies::signing(&data);
    }

    #[test]
    fn signing_holds_for_signed_requests(text in signed()) {
        bodies::signing(text.as_bytes());
    }

    #[test]
    fn cursors_hold_for_raw_bytes(data in raw()) {
        bodies::cursors(&data);
    }

    #[test]
    fn cursors_hold_for_texts_like_them(text in "E[A-Za-z0-9_-]{10,140}|\\+?[0-9]{0,21}(\\.[0-9]{0,21})?") {
        bodies::cursors(text.as_bytes());
    }

    #[test]
    fn cursors_hold_for_near_epochs(
        settled in any::<u32>(),
        epoch in any::<u32>(),
        places in vec((any::<u64>(), 0..4000u64, 0..9999u64), 0..12),
    ) {
        let places = places.into_iter().flat_map(|(hash, later, offset)| [hash, u64::from(epoch) << 20 | later, offset]);
        let numbers = [u64::from(settled)].into_iter().chain(places);
        bodies::cursors(&numbers.flat_map(u64::to_le_bytes).collect::<Vec<_>>());
    }
}
