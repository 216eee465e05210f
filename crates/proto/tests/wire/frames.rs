//! WebSocket frames: ours written out, a client's taken apart.

use std::borrow::Cow;

use fanfare_proto::close::CloseCode;
use fanfare_proto::deflate::deflate;
use fanfare_proto::ws::{
    Assembler, BINARY, CLOSE, CONTINUATION, FIN, Header, Incoming, Limits, PING, PONG, RSV1, TEXT, Violation,
    accept_key, close_echo, close_frame, frame_header, masked_frame, masked_part, ping_frame, pong_frame, text_frame,
    unmask,
};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMITS: Limits = Limits { message_bytes_max: 1000 };

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// Frames as a client sends them.
fn frames(parts: &[(u8, &[u8])]) -> Vec<u8> {
    written(|out| parts.iter().for_each(|(first, payload)| masked_part(out, *first, payload, MASK)))
}

/// One item out of `bytes`, all of which must be consumed.
fn read_one(mut bytes: Vec<u8>, deflate: bool) -> Result<Option<String>, Violation> {
    let len = bytes.len();
    let mut assembler = Assembler::default();
    let (used, item) = assembler.next(&mut bytes, &LIMITS, deflate)?;
    assert_eq!(used, len, "{item:?}");
    Ok(item.map(|item| format!("{item:?}")))
}

fn violation(parts: &[(u8, &[u8])]) -> Violation {
    let (mut bytes, mut assembler, mut at) = (frames(parts), Assembler::default(), 0);
    loop {
        match assembler.next(&mut bytes[at..], &LIMITS, false) {
            Ok((used, Some(_))) => at += used,
            Ok((_, None)) => panic!("no violation"),
            Err(violation) => return violation,
        }
    }
}

#[test]
fn the_rfcs_key_has_the_rfcs_answer() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn a_length_takes_the_shortest_of_three_forms() {
    let header = |len| written(|out| frame_header(out, FIN | TEXT, len));
    assert_eq!(header(0), [0x81, 0]);
    assert_eq!(header(125), [0x81, 125]);
    assert_eq!(header(126), [0x81, 126, 0, 126]);
    assert_eq!(header(65_535), [0x81, 126, 0xff, 0xff]);
    assert_eq!(header(65_536), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_text_frame_is_its_header_and_the_text() {
    assert_eq!(text_frame(b"Hello"), b"\x81\x05Hello");
}

#[test]
fn a_close_frame_carries_code_and_reason() {
    assert_eq!(written(|out| close_frame(out, CloseCode::APP_UNKNOWN, "no app")), b"\x88\x08\x0f\xa1no app");
}

#[test]
fn a_reason_too_long_is_cut_between_characters() {
    let frame = written(|out| close_frame(out, CloseCode::NORMAL, &"ü".repeat(100)));
    assert_eq!(frame[1], 124);
    assert!(std::str::from_utf8(&frame[4..]).is_ok());
}

#[test]
fn a_close_is_answered_with_the_code_that_came() {
    assert_eq!(written(|out| close_echo(out, Some(4009))), b"\x88\x02\x0f\xa9");
    assert_eq!(written(|out| close_echo(out, None)), b"\x88\x00");
}

#[test]
fn pings_and_pongs_carry_their_payload() {
    assert_eq!(written(|out| ping_frame(out, b"hi")), b"\x89\x02hi");
    assert_eq!(written(|out| pong_frame(out, b"hi")), b"\x8a\x02hi");
}

#[test]
fn the_rfcs_masked_hello_is_made_and_read() {
    let frame = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(written(|out| masked_frame(out, TEXT, b"Hello", MASK)), frame);
    assert_eq!(read_one(frame.to_vec(), false), Ok(Some(r#"Text("Hello")"#.to_owned())));
}

#[test]
fn masking_by_words_equals_masking_by_bytes() {
    for len in 0..40 {
        let plain: Vec<u8> = (0..len).collect();
        let mut masked = plain.clone();
        unmask(&mut masked, MASK);
        let expected: Vec<u8> = plain.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(masked, expected);
    }
}

#[test]
fn a_header_is_read_once_all_of_it_is_there() {
    for len in [5, 126, 70_000] {
        let mut bytes = written(|out| masked_frame(out, BINARY, &vec![0; len], MASK));
        let header = Header::parse(&bytes).unwrap().unwrap();
        assert_eq!((header.fin, header.rsv1, header.opcode), (true, false, BINARY));
        assert_eq!((header.len, header.size, header.mask), (len as u64, bytes.len() - len, Some(MASK)));
        bytes.truncate(header.size - 1);
        assert_eq!(Header::parse(&bytes), Ok(None));
    }
}

#[test]
fn a_servers_frame_has_a_header_without_a_mask() {
    let header = Header::parse(&text_frame(b"Hello")).unwrap().unwrap();
    assert_eq!((header.mask, header.size, header.whole_frame(7)), (None, 2, Some(7)));
    assert_eq!(header.whole_frame(6), None);
}

#[test]
fn a_whole_message_is_borrowed_from_the_bytes_that_were_read() {
    let mut bytes = frames(&[(FIN | TEXT, b"Hello")]);
    let mut assembler = Assembler::default();
    let (_, item) = assembler.next(&mut bytes, &LIMITS, false).unwrap();
    assert!(matches!(item, Some(Incoming::Text(Cow::Borrowed("Hello")))));
    assert!(assembler.is_idle());
}

#[test]
fn an_idle_assembler_is_one_word() {
    assert_eq!(size_of::<Assembler>(), size_of::<usize>());
}

#[test]
fn a_message_in_parts_is_put_together() {
    let bytes = frames(&[(TEXT, b"Hel"), (CONTINUATION, b""), (FIN | CONTINUATION, b"lo")]);
    assert_eq!(read_one(bytes, false), Ok(Some(r#"Text("Hello")"#.to_owned())));
}

#[test]
fn a_character_may_be_cut_between_frames() {
    let bytes = frames(&[(TEXT, b"\xf0\x9f"), (FIN | CONTINUATION, b"\x8e\xba")]);
    assert_eq!(read_one(bytes, false), Ok(Some(r#"Text("🎺")"#.to_owned())));
}

#[test]
fn control_frames_may_come_between_the_parts_of_a_message() {
    let mut bytes = frames(&[(BINARY, b"a"), (FIN | PING, b"p"), (FIN | PONG, b""), (FIN | CONTINUATION, b"b")]);
    let (mut assembler, mut at, mut items) = (Assembler::default(), 0, Vec::new());
    while let (used, Some(item)) = assembler.next(&mut bytes[at..], &LIMITS, false).unwrap() {
        items.push(format!("{item:?}"));
        at += used;
    }
    assert_eq!(items, ["Ping([112])", "Pong", "Binary([97, 98])"]);
}

#[test]
fn bytes_that_come_one_by_one_make_the_same_message() {
    let bytes = frames(&[(FIN | TEXT, "grüße".as_bytes()), (FIN | PING, b"p")]);
    let (mut assembler, mut unread, mut items) = (Assembler::default(), Vec::new(), Vec::new());
    for byte in bytes {
        unread.push(byte);
        let (used, item) = assembler.next(&mut unread, &LIMITS, false).unwrap();
        items.extend(item.map(|item| format!("{item:?}")));
        unread.drain(..used);
    }
    assert_eq!(items, [r#"Text("grüße")"#, "Ping([112])"]);
    assert!(unread.is_empty() && assembler.is_idle());
}

#[test]
fn the_caller_keeps_a_control_frame_until_it_is_whole() {
    let mut bytes = frames(&[(FIN | PING, b"payload")]);
    bytes.pop();
    let before = bytes.clone();
    let mut assembler = Assembler::default();
    assert_eq!(assembler.next(&mut bytes, &LIMITS, false), Ok((0, None)));
    assert!(assembler.is_idle());
    assert_eq!(bytes, before);
}

#[test]
fn a_close_tells_its_code_and_reason() {
    let close = |payload: &[u8]| read_one(frames(&[(FIN | CLOSE, payload)]), false).unwrap().unwrap();
    assert_eq!(close(b""), r#"Close { code: None, reason: "" }"#);
    assert_eq!(close(b"\x03\xe8bye"), r#"Close { code: Some(1000), reason: "bye" }"#);
}

#[test]
fn a_close_that_breaks_the_rules_is_a_violation() {
    assert_eq!(violation(&[(FIN | CLOSE, b"\x03")]), Violation::ClosePayload);
    assert_eq!(violation(&[(FIN | CLOSE, b"\x03\xed")]), Violation::CloseCode(1005));
    assert_eq!(violation(&[(FIN | CLOSE, b"\x03\xe8\xff")]), Violation::Utf8);
}

#[test]
fn a_client_must_mask() {
    let error = read_one(text_frame(b"Hello"), false).unwrap_err();
    assert_eq!((error, error.close_code()), (Violation::Unmasked, CloseCode::PROTOCOL));
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for bits in [0x40, 0x20, 0x10] {
        assert_eq!(violation(&[(FIN | TEXT | bits, b"")]), Violation::ReservedBits);
        assert_eq!(violation(&[(FIN | PING | bits, b"")]), Violation::ReservedBits);
    }
    for opcode in [3, 7, 11, 15] {
        assert_eq!(violation(&[(FIN | opcode, b"")]), Violation::Opcode(opcode));
    }
}

#[test]
fn control_frames_are_short_and_whole() {
    assert_eq!(violation(&[(FIN | PING, &[0; 126])]), Violation::ControlTooLong);
    assert_eq!(violation(&[(PING, b"")]), Violation::ControlFragmented);
}

#[test]
fn parts_must_belong_to_a_message_and_messages_must_not_interleave() {
    assert_eq!(violation(&[(FIN | CONTINUATION, b"a")]), Violation::NothingToContinue);
    assert_eq!(violation(&[(TEXT, b"a"), (FIN | TEXT, b"b")]), Violation::MessageWithinMessage);
}

#[test]
fn text_that_is_not_utf8_closes_with_1007() {
    for text in
        [&b"\xff"[..], b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3"]
    {
        let error = violation(&[(FIN | TEXT, text)]);
        assert_eq!((error, error.close_code()), (Violation::Utf8, CloseCode::INVALID_UTF8));
    }
}

#[test]
fn bad_text_is_refused_before_its_frame_has_ended() {
    let bytes = frames(&[(FIN | TEXT, b"ok \xf4\x90 and much more")]);
    let mut assembler = Assembler::default();
    let header_and_5 = &mut bytes[..6 + 5].to_vec();
    assert_eq!(assembler.next(header_and_5, &LIMITS, false), Err(Violation::Utf8));
}

#[test]
fn a_message_over_the_limit_is_refused_at_its_header() {
    let mut bytes = vec![FIN | TEXT, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    let error = Assembler::default().next(&mut bytes, &LIMITS, false).unwrap_err();
    assert_eq!((error, error.close_code()), (Violation::TooBig { bytes_max: 1000 }, CloseCode::TOO_BIG));
}

#[test]
fn the_parts_of_a_message_are_counted_together() {
    let half = [0; 501];
    assert!(matches!(violation(&[(BINARY, &half), (CONTINUATION, &half)]), Violation::TooBig { .. }));
}

#[test]
fn a_length_beyond_63_bits_is_refused() {
    let mut bytes = [&[FIN | BINARY, 0x80 | 127][..], &[0xff; 12]].concat();
    assert_eq!(Assembler::default().next(&mut bytes, &LIMITS, false), Err(Violation::Length));
}

#[test]
fn a_compressed_message_is_inflated_where_that_was_agreed() {
    let packed = deflate(b"Hello");
    let whole = frames(&[(FIN | RSV1 | TEXT, &packed)]);
    assert_eq!(read_one(whole.clone(), true), Ok(Some(r#"Text("Hello")"#.to_owned())));
    assert_eq!(read_one(whole, false), Err(Violation::ReservedBits));
    let parts = frames(&[(RSV1 | TEXT, &packed[..2]), (FIN | CONTINUATION, &packed[2..])]);
    assert_eq!(read_one(parts, true), Ok(Some(r#"Text("Hello")"#.to_owned())));
}

#[test]
fn a_plain_message_may_be_sent_although_compression_was_agreed() {
    assert_eq!(read_one(frames(&[(FIN | TEXT, b"Hello")]), true), Ok(Some(r#"Text("Hello")"#.to_owned())));
}

#[test]
fn only_the_first_part_of_a_message_says_that_it_is_compressed() {
    let parts = frames(&[(RSV1 | TEXT, b"\xf2"), (FIN | RSV1 | CONTINUATION, b"\x48")]);
    assert_eq!(read_one(parts, true), Err(Violation::ReservedBits));
}

#[test]
fn a_message_that_inflates_beyond_the_limit_closes_with_1009() {
    let bomb = frames(&[(FIN | RSV1 | TEXT, &deflate(&[b'a'; 100_000]))]);
    assert_eq!(read_one(bomb, true), Err(Violation::TooBig { bytes_max: 1000 }));
}

#[test]
fn a_message_of_just_the_limit_may_be_incompressible() {
    let noise: Vec<u8> = (0..1000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let packed = deflate(&noise);
    assert!(read_one(frames(&[(FIN | RSV1 | BINARY, &packed)]), true).is_ok());
}

#[test]
fn a_compressed_message_that_does_not_inflate_is_refused() {
    assert_eq!(read_one(frames(&[(FIN | RSV1 | TEXT, b"\xff\xff")]), true), Err(Violation::Deflate));
    assert_eq!(read_one(frames(&[(FIN | RSV1 | TEXT, &deflate(b"\xff"))]), true), Err(Violation::Utf8));
}
