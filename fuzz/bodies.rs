//! What must hold for any bytes whatever: no panic, and the laws below.
//!
//! Plain functions, so that libFuzzer (`fuzz_targets/`) and proptest (`crates/proto/tests/properties.rs`) drive the
//! same ones.

use fanfare_proto::channel::{ChannelName, NAME_LEN_MAX, event_name_ok};
use fanfare_proto::client::ClientMessage;
use fanfare_proto::cursor::{CURSOR_LEN_MAX, Cursor, PLACES_MAX, Place};
use fanfare_proto::deflate::{deflate, inflate, negotiate};
use fanfare_proto::json::depth_within;
use fanfare_proto::presence::{ChannelData, UserData};
use fanfare_proto::server;
use fanfare_proto::sign::{SignedQuery, hmac_hex, hmac_matches, sign_query, split_auth};
use fanfare_proto::socket_id::SocketId;
use fanfare_proto::version::protocol;
use fanfare_proto::ws::{Assembler, BINARY, Incoming, Limits, Violation, masked_frame};
use serde_json::Value;
use serde_json::value::RawValue;

/// All that came of a stream of bytes: the items, and the violation that ended it, if any.
type Story = (Vec<String>, Option<Violation>);

/// Frames: how the bytes are cut into reads changes nothing, and a message survives the journey.
///
/// The first three bytes choose the limit, compression and the cuts; the rest is what a client sends.
pub fn frames(data: &[u8]) {
    let Some((&[limit, deflate, cut], wire)) = data.split_first_chunk() else {
        return;
    };
    let limits = Limits { message_bytes_max: usize::from(limit) * 16 };
    let deflate = deflate & 1 == 1;

    let whole = story([wire].into_iter(), &limits, deflate);
    assert_eq!(story(wire.chunks(1), &limits, deflate), whole);
    assert_eq!(story(wire.chunks(usize::from(cut) + 2), &limits, deflate), whole);
    message_survives(wire, [limit, cut, limit ^ cut, !cut]);
}

fn story<'a>(reads: impl Iterator<Item = &'a [u8]>, limits: &Limits, deflate: bool) -> Story {
    let (mut assembler, mut unread, mut items) = (Assembler::default(), Vec::new(), Vec::new());
    for read in reads {
        unread.extend_from_slice(read);
        if let Err(violation) = take_all(&mut assembler, &mut unread, &mut items, limits, deflate) {
            return (items, Some(violation));
        }
    }
    (items, None)
}

/// Takes every item that is there, and checks the promises about what is left.
fn take_all(
    assembler: &mut Assembler,
    unread: &mut Vec<u8>,
    items: &mut Vec<String>,
    limits: &Limits,
    deflate: bool,
) -> Result<(), Violation> {
    loop {
        let before = unread.clone();
        let (used, item) = assembler.next(unread, limits, deflate)?;
        let done = item.is_none();
        items.extend(item.map(|item| checked(item, limits)));
        assert_eq!(unread[used..], before[used..], "bytes changed that were not consumed");
        unread.drain(..used);
        if done {
            assert!(unread.len() < 14 + 125, "more kept than a control frame");
            return Ok(());
        }
        assert!(used > 0, "an item out of nothing");
    }
}

fn checked(item: Incoming<'_>, limits: &Limits) -> String {
    match &item {
        Incoming::Text(text) => assert!(text.len() <= limits.message_bytes_max),
        Incoming::Binary(bytes) => assert!(bytes.len() <= limits.message_bytes_max),
        Incoming::Ping(payload) => assert!(payload.len() <= 125),
        Incoming::Pong | Incoming::Close { .. } => {}
    }
    format!("{item:?}")
}

fn message_survives(payload: &[u8], mask: [u8; 4]) {
    let mut frame = Vec::new();
    masked_frame(&mut frame, BINARY, payload, mask);
    let limits = Limits { message_bytes_max: payload.len() };
    let mut assembler = Assembler::default();
    let (used, item) = assembler.next(&mut frame, &limits, false).expect("a frame of our own");
    assert_eq!(item, Some(Incoming::Binary(payload.into())));
    assert_eq!(used, frame.len());

    assert_eq!(inflate(&deflate(payload), payload.len()).as_deref(), Ok(payload));
    if let Ok(inflated) = inflate(payload, 1000) {
        assert!(inflated.len() <= 1000);
    }
}

/// Messages: what is relayed is JSON with a string for its data, and every text of ours reads back as it was.
pub fn messages(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(ClientMessage::ClientEvent { event, channel, data: Some(data) }) = ClientMessage::parse(&text) {
        relayed(&event, &channel, data);
    }
    if let Ok(data) = ChannelData::parse(&text) {
        assert!(!data.user_id.is_empty());
        a_presence_list_holds(&data.user_id, data.user_info.as_deref());
    }
    if let Ok(data) = UserData::parse(&text) {
        let channel = format!("#server-to-user-{}", data.id);
        assert!(ChannelName::parse(&channel, NAME_LEN_MAX).is_ok());
    }
    names(&text);
    answers(&text);
}

fn relayed(event: &str, channel: &str, data: &RawValue) {
    let token = server::string_token(data);
    let mut out = Vec::new();
    server::event(&mut out, &serde_json::to_string(event).unwrap(), Some(channel), &token, None);
    // A lone surrogate is relayed as it came; serde_json does not read those.
    let Ok(decoded) = serde_json::from_str::<String>(&token) else {
        return;
    };
    assert_eq!(server::string_token_len(&token), decoded.len());
    let relayed: Value = serde_json::from_slice(&out).expect("relayed messages are JSON");
    assert_eq!(relayed["event"], event);
    assert_eq!(relayed["channel"], channel);
    assert_eq!(relayed["data"], decoded);
}

fn a_presence_list_holds(user_id: &str, user_info: Option<&RawValue>) {
    let list = server::presence_data([(user_id, user_info.map(RawValue::get))].into_iter());
    // What serde_json checks less strictly as a raw value than as a value (depth, surrogates) is not ours to change.
    let Ok(list) = serde_json::from_str::<Value>(&list) else {
        return;
    };
    assert_eq!(list["presence"]["ids"][0], user_id);
    assert_eq!(list["presence"]["count"], 1);
    assert!(list["presence"]["hash"].as_object().unwrap().contains_key(user_id));
}

fn names(text: &str) {
    if let Ok(name) = ChannelName::parse(text, NAME_LEN_MAX) {
        assert_eq!(name.as_str(), text);
        assert_eq!(name.kind().takes_client_events(), text.starts_with("private-") || text.starts_with("presence-"));
    }
    assert_eq!(event_name_ok(text).is_ok(), (1..=200).contains(&text.chars().count()));
    let _ = (negotiate(text), depth_within(text, 16), server::string_token_len(text));
}

fn answers(text: &str) {
    let mut token = Vec::new();
    server::json_string(&mut token, text);
    let token = String::from_utf8(token).expect("JSON is UTF-8");
    assert_eq!(serde_json::from_str::<String>(&token).expect("a JSON string"), text);
    assert_eq!(server::string_token_len(&token), text.len());

    let mut out = Vec::new();
    server::channel_error(&mut out, text, text, text, 401);
    let answer: Value = serde_json::from_slice(&out).expect("answers are JSON");
    let data: Value = serde_json::from_str(answer["data"].as_str().expect("a string")).expect("JSON in a string");
    assert_eq!((&answer["channel"], &data["error"]), (&text.into(), &text.into()));
}

/// Signing: what we sign we verify, whatever the characters; and a signature covers all that it should.
pub fn signing(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(4, '\n');
    let mut part = || parts.next().unwrap_or("");
    let (secret, path, value, body) = (part().as_bytes(), part(), part(), part().as_bytes());

    if let Ok(query) = SignedQuery::parse(value) {
        let _ = query.verify(secret, "POST", path, body);
        assert!(query.param("auth_signature").is_none());
    }
    if let Some((key, hex)) = split_auth(path) {
        assert!(!key.contains(':') && !hex.is_empty());
        let _ = hmac_matches(secret, body, hex);
    }
    assert!(hmac_matches(secret, body, &hmac_hex(secret, body)));
    own_requests_verify(secret, &path.replace('%', ""), value, body);
}

fn own_requests_verify(secret: &[u8], path: &str, value: &str, body: &[u8]) {
    let name = format!("p{value}");
    let query = sign_query(secret, value, "POST", path, &[(&name, value), ("q", path)], body, 7);
    let signed = SignedQuery::parse(&query).expect("a query of our own");
    assert_eq!((signed.key(), signed.timestamp(), signed.param("q")), (value, 7, Some(path)));
    assert_eq!(signed.verify(secret, "POST", path, body), Ok(()));
    assert!(signed.verify(secret, "PUT", path, body).is_err());
    assert!(signed.verify(secret, "POST", &format!("{path}/"), body).is_err());
    assert!(signed.verify(secret, "POST", path, &[body, b"x"].concat()).is_err());
    assert!(signed.verify(&[secret, b"x"].concat(), "POST", path, body).is_err());
}

/// Cursors and socket ids: each value has a text that reads as it, and no text reads as anything it does not say.
pub fn cursors(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
    }
    if let Ok(socket) = text.parse::<SocketId>() {
        assert_eq!(socket.to_string().parse(), Ok(socket));
    }
    if let Ok(version) = protocol(Some(&text)) {
        assert!((4..=7).contains(&version));
    }
    let (numbers, _) = data.as_chunks::<8>();
    let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    if let [settled, places @ ..] = &*numbers {
        cursor_survives(*settled, places);
    }
    if let [a, b, ..] = *numbers {
        let socket = SocketId { a, b };
        assert_eq!(socket.to_string().parse(), Ok(socket));
    }
}

fn cursor_survives(settled: u64, numbers: &[u64]) {
    let (places, _) = numbers.as_chunks::<3>();
    let Some(&[first, ..]) = places.first() else { return };
    // All of one app, whose bits are the high ones.
    let of_app = |hash: u64| first >> 40 << 40 | hash << 24 >> 24;
    let places = places.iter().map(|&[hash, epoch, offset]| Place { channel_hash: of_app(hash), epoch, offset });
    let cursor = Cursor::of(places, settled);
    assert!((1..=PLACES_MAX).contains(&cursor.places().len()));
    let text = cursor.to_string();
    assert!(text.len() <= CURSOR_LEN_MAX);
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    assert_eq!(text.parse(), Ok(cursor));
    for end in 0..text.len() {
        assert!(text[..end].parse::<Cursor>().is_err(), "{text} cut at {end}");
    }
}
