//! Channels, events, sockets, versions, cursors, close codes.

use fanfare_proto::channel::{Access, BadEventName, BadName, ChannelName, ChannelPattern, NAME_LEN_MAX, event_name_ok};
use fanfare_proto::close::{CloseCode, ErrorCode, Reconnect};
use fanfare_proto::cursor::{BadCursor, CURSOR_LEN_MAX, Cursor, Place, channel_hash};
use fanfare_proto::socket_id::{BadSocketId, SocketId};
use fanfare_proto::version::protocol;

fn parse(name: &str) -> Result<ChannelName<'_>, BadName> {
    ChannelName::parse(name, NAME_LEN_MAX)
}

fn kind(name: &str) -> (Access<'_>, bool) {
    let kind = parse(name).unwrap().kind();
    (kind.access, kind.cache)
}

#[test]
fn a_channel_name_takes_every_character_of_the_grammar() {
    let name = "abcxyzABCXYZ0189_-=@,.;";
    assert_eq!(parse(name).unwrap().as_str(), name);
}

#[test]
fn a_channel_name_refuses_any_other_character_and_names_it() {
    for (name, found) in [("a b", ' '), ("a/b", '/'), ("grüße", 'ü'), ("a:b", ':'), ("a#", '#'), ("a\n", '\n')] {
        assert_eq!(parse(name), Err(BadName::Character { found }));
    }
    let message = parse("a b").unwrap_err().to_string();
    assert_eq!(message, "' ' in a channel name: only letters, digits and _ - = @ , . ; are allowed");
}

#[test]
fn a_channel_name_of_200_bytes_is_the_longest() {
    assert!(parse(&"a".repeat(200)).is_ok());
    assert_eq!(parse(&"a".repeat(201)), Err(BadName::TooLong { len: 201, len_max: 200 }));
}

#[test]
fn an_app_may_allow_shorter_names_only() {
    let error = ChannelName::parse("four5", 4).unwrap_err();
    assert_eq!(error.to_string(), "channel name of 5 bytes: at most 4 are allowed");
}

#[test]
fn an_empty_channel_name_is_refused() {
    assert_eq!(parse(""), Err(BadName::Empty));
}

#[test]
fn a_hash_begins_the_channels_of_users_and_no_others() {
    assert_eq!(kind("#server-to-user-42"), (Access::ServerToUser("42"), false));
    assert_eq!(parse("#server-to-user-"), Err(BadName::Reserved));
    assert_eq!(parse("#other"), Err(BadName::Reserved));
    assert_eq!(parse("#server-to-user-a b"), Err(BadName::Character { found: ' ' }));
}

#[test]
fn each_prefix_has_its_own_access_and_cache() {
    assert_eq!(kind("chat"), (Access::Public, false));
    assert_eq!(kind("cache-chat"), (Access::Public, true));
    assert_eq!(kind("private-chat"), (Access::Private, false));
    assert_eq!(kind("private-cache-chat"), (Access::Private, true));
    assert_eq!(kind("private-encrypted-chat"), (Access::PrivateEncrypted, false));
    assert_eq!(kind("private-encrypted-cache-chat"), (Access::PrivateEncrypted, true));
    assert_eq!(kind("presence-chat"), (Access::Presence, false));
    assert_eq!(kind("presence-cache-chat"), (Access::Presence, true));
}

#[test]
fn a_prefix_counts_only_where_it_stands_and_is_whole() {
    assert_eq!(kind("my-private-chat"), (Access::Public, false));
    assert_eq!(kind("privateer"), (Access::Public, false));
    assert_eq!(kind("cache-private-chat"), (Access::Public, true));
    assert_eq!(kind("private-cached"), (Access::Private, false));
}

#[test]
fn what_must_be_signed_also_takes_client_events() {
    for name in ["private-a", "private-encrypted-a", "presence-a"] {
        let kind = parse(name).unwrap().kind();
        assert!(kind.needs_auth() && kind.takes_client_events(), "{name}");
    }
    for name in ["a", "cache-a", "#server-to-user-a"] {
        let kind = parse(name).unwrap().kind();
        assert!(!kind.needs_auth() && !kind.takes_client_events(), "{name}");
    }
    assert!(parse("presence-cache-a").unwrap().kind().is_presence());
    assert!(!parse("private-presence-a").unwrap().kind().is_presence());
}

#[test]
fn an_event_name_has_1_to_200_characters_whatever_they_weigh() {
    assert_eq!(event_name_ok("ü".repeat(200).as_str()), Ok(()));
    assert_eq!(event_name_ok(&"ü".repeat(201)), Err(BadEventName::TooLong { len: 201 }));
    assert_eq!(event_name_ok(""), Err(BadEventName::Empty));
}

#[test]
fn a_socket_id_reads_as_it_is_written() {
    let socket = SocketId { a: 1234, b: u64::MAX };
    assert_eq!(socket.to_string(), "1234.18446744073709551615");
    assert_eq!(socket.to_string().parse(), Ok(socket));
}

#[test]
fn a_socket_id_is_two_numbers_and_nothing_else() {
    for text in ["", "1", "1.", ".1", "1.2.3", "+1.2", "-1.2", "1.2 ", "a.b", "1.18446744073709551616", "1:2"] {
        assert_eq!(text.parse::<SocketId>(), Err(BadSocketId), "{text}");
    }
}

#[test]
fn protocols_4_to_7_are_spoken_as_they_are() {
    for (text, version) in [("4", 4), ("5", 5), ("6", 6), ("7", 7)] {
        assert_eq!(protocol(Some(text)), Ok(version));
    }
}

#[test]
fn a_missing_or_later_protocol_reads_as_7() {
    for value in [None, Some("8"), Some("255"), Some("99999999999999999999")] {
        assert_eq!(protocol(value), Ok(7), "{value:?}");
    }
}

#[test]
fn protocols_before_4_are_refused_with_4007() {
    for text in ["0", "1", "2", "3", "03"] {
        assert_eq!(protocol(Some(text)), Err(CloseCode::OLD_PROTOCOL), "{text}");
    }
}

#[test]
fn a_malformed_protocol_is_refused_with_4006() {
    for text in ["", "seven", "7.0", "-7", "+7", " 7"] {
        assert_eq!(protocol(Some(text)), Err(CloseCode::BAD_VERSION), "{text}");
    }
}

#[test]
fn a_close_code_tells_whether_and_when_clients_return() {
    assert_eq!(CloseCode::APP_UNKNOWN.reconnection(), Reconnect::Never);
    assert_eq!(CloseCode::UNAUTHORIZED.reconnection(), Reconnect::Never);
    assert_eq!(CloseCode::OVER_CAPACITY.reconnection(), Reconnect::BackOff);
    assert_eq!(CloseCode::RECONNECT.reconnection(), Reconnect::Now);
    assert_eq!(CloseCode::PONG_MISSING.reconnection(), Reconnect::Now);
    assert_eq!(CloseCode::GOING_AWAY.reconnection(), Reconnect::Ordinary);
}

#[test]
fn codes_that_must_not_travel_are_no_close_codes() {
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        assert_eq!(CloseCode::from_peer(code), None, "{code}");
    }
    for code in [1000, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999] {
        assert_eq!(CloseCode::from_peer(code).map(CloseCode::code), Some(code));
    }
}

#[test]
fn error_codes_are_numbers_of_their_own() {
    assert_eq!(ErrorCode::ClientEventRate.code(), 4301);
    assert_eq!(ErrorCode::WatchlistLimit.code(), 4302);
}

fn place(channel: &str, epoch: u64, offset: u64) -> Place {
    Place { channel_hash: channel_hash("app", channel), epoch, offset }
}

#[test]
fn a_pattern_is_a_name_or_the_beginning_of_names() {
    let pattern = |text| ChannelPattern::parse(text, 200).expect(text);
    assert!(pattern("news").matches("news") && !pattern("news").matches("news-2"));
    assert!(pattern("news-*").matches("news-2") && pattern("news-*").matches("news-"));
    assert!(!pattern("news-*").matches("news"));
    assert!(pattern("*").matches("anything"));
    assert!(pattern("#server-to-user-*").matches("#server-to-user-ann"));
    for text in ["", "a b", "a*b", "a b*", "**", "#mine*", "#server-to-user-"] {
        assert!(ChannelPattern::parse(text, 200).is_err(), "{text}");
    }
}

#[test]
fn a_cursor_reads_as_it_is_written() {
    let one = Cursor::single(place("room", 1_795_000_000_000 << 10, 255), 70_000);
    let two = Cursor::of([place("b", 7, 1), place("a", 9, 300)], 5);
    for (cursor, text) in [(one, "EfhoiPCiBK6NVXR-gIDgy5X3oQP_AQ"), (two, "EvhoiAVqrK5bNwmsAraaRLw9AwE")] {
        assert_eq!(cursor.to_string(), text);
        assert_eq!(Cursor::parse(text), Ok(cursor));
    }
}

#[test]
fn hashes_of_channels_never_change() {
    // Written down: a cursor that a client kept over an update of the server must still name its channel.
    assert_eq!(channel_hash("app", "room"), 0xf868_88ae_8d55_747e);
    assert_eq!(channel_hash("app", "a"), 0xf868_886a_acae_5b37);
    assert_eq!(channel_hash("1", "a"), 0x7c38_325a_887c_5dde);
}

#[test]
fn a_cursor_tells_its_app_and_its_channels() {
    let cursor = Cursor::of([place("a", 1, 1), place("b", 2, 2)], 3);
    assert!(cursor.is_of_app("app") && !cursor.is_of_app("ap") && !cursor.is_of_app("app/a"));
    assert_eq!(cursor.place(channel_hash("app", "b")), Some(place("b", 2, 2)));
    assert_eq!(cursor.place(channel_hash("app", "c")), None);
}

#[test]
fn the_longest_cursors_fit() {
    let full = u64::MAX;
    let longest = Cursor::single(Place { channel_hash: full, epoch: full, offset: full }, full);
    assert!(longest.to_string().len() <= CURSOR_LEN_MAX);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let ordinary = Cursor::of(names.map(|name| place(name, (1_795_000_000_000 << 10) + 1_000_000, 16_000)), 1 << 34);
    assert_eq!(ordinary.places().len(), 8, "eight of a busy node fit");
    let wide = Cursor::of(names.map(|name| place(name, full, full)), full);
    assert!((1..8).contains(&wide.places().len()) && wide.to_string().len() <= CURSOR_LEN_MAX);
}

#[test]
fn a_reader_goes_on_in_one_channel_and_stays_where_it_was_in_the_others() {
    let before = Cursor::of([place("a", 1, 1), place("b", 2, 2), place("c", 3, 3)], 30);
    let after = before.advanced(&Cursor::single(place("b", 2, 3), 40));
    assert_eq!(after, Cursor::of([place("a", 1, 1), place("b", 2, 3), place("c", 3, 3)], 40));
    assert_eq!(after.advanced(&Cursor::single(place("b", 9, 1), 20)).settled(), 40);

    // Where not all of them fit, what was shown last is named.
    let wide = |n: u64| place(&format!("channel-{n}"), u64::MAX - n, u64::MAX);
    let mut cursor = Cursor::of((0..8).map(wide), u64::MAX);
    assert!(cursor.places().len() < 8);
    for n in 0..20 {
        cursor = cursor.advanced(&Cursor::single(wide(n), u64::MAX));
        assert_eq!(cursor.place(wide(n).channel_hash), Some(wide(n)));
        assert!(cursor.to_string().len() <= CURSOR_LEN_MAX);
    }
}

#[test]
fn what_is_no_cursor_is_refused() {
    let text = Cursor::single(place("room", 9, 9), 9).to_string();
    let cut = &text[..text.len() - 1];
    let longer = format!("{text}A");
    for bad in ["", "1.2.3.4", "42", "W/\"x\"", "ä", "*", cut, &longer, &text.replace('E', "I")] {
        assert_eq!(Cursor::parse(bad), Err(BadCursor::Malformed), "{bad}");
    }
    assert_eq!(Cursor::parse(&"E".repeat(CURSOR_LEN_MAX + 1)), Err(BadCursor::TooLong));
}
