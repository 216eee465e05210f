//! Compression of single messages.

use fanfare_proto::deflate::{BadDeflate, deflate, inflate, negotiate};

const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

#[test]
fn the_offers_of_browsers_are_accepted() {
    assert_eq!(negotiate("permessage-deflate"), Some(ACCEPTED));
    assert_eq!(negotiate("permessage-deflate; client_max_window_bits"), Some(ACCEPTED));
    assert_eq!(negotiate("Permessage-Deflate;client_max_window_bits = \"10\""), Some(ACCEPTED));
    assert_eq!(negotiate("permessage-deflate; server_no_context_takeover; client_no_context_takeover"), Some(ACCEPTED));
}

#[test]
fn a_window_that_we_have_anyway_is_confirmed() {
    let answer = negotiate("permessage-deflate; server_max_window_bits=15").unwrap();
    assert_eq!(answer, format!("{ACCEPTED}; server_max_window_bits=15"));
}

#[test]
fn a_smaller_window_of_ours_is_declined_and_the_next_offer_taken() {
    assert_eq!(negotiate("permessage-deflate; server_max_window_bits=10"), None);
    assert_eq!(negotiate("permessage-deflate; server_max_window_bits=10, permessage-deflate"), Some(ACCEPTED));
}

#[test]
fn offers_that_break_the_rules_are_passed_over() {
    for offer in [
        "",
        "x-webkit-deflate-frame",
        "permessage-deflate; made_up",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=015",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
    ] {
        assert_eq!(negotiate(offer), None, "{offer}");
        assert_eq!(negotiate(&format!("{offer}, permessage-deflate")), Some(ACCEPTED), "{offer}");
    }
}

#[test]
fn the_rfcs_own_examples_inflate() {
    for data in [
        &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..],
        b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
    ] {
        assert_eq!(inflate(data, 5).unwrap(), b"Hello", "{data:?}");
    }
}

#[test]
fn what_is_deflated_inflates_to_itself() {
    let noise: Vec<u8> = (0..70_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for payload in [&b""[..], b"a", b"Hello", &[b'a'; 100_000], &noise, &noise[..1000]] {
        let packed = deflate(payload);
        assert!(!packed.ends_with(&[0, 0, 0xff, 0xff]));
        assert_eq!(inflate(&packed, payload.len()).unwrap(), payload);
    }
}

#[test]
fn messages_do_not_depend_on_each_other() {
    let first = deflate(b"the same words");
    assert_eq!(deflate(b"the same words"), first);
}

#[test]
fn inflating_stops_at_the_limit() {
    let bomb = deflate(&vec![0; 10_000_000]);
    assert!(bomb.len() < 100_000);
    assert_eq!(inflate(&bomb, 1000), Err(BadDeflate::TooBig { bytes_max: 1000 }));
    assert_eq!(inflate(&deflate(&[0; 1001]), 1000), Err(BadDeflate::TooBig { bytes_max: 1000 }));
    assert_eq!(inflate(&deflate(&[0; 1000]), 1000).unwrap().len(), 1000);
}

#[test]
fn bytes_that_are_no_deflate_stream_are_refused() {
    assert_eq!(inflate(b"\xff\xff\xff\xff", 1000), Err(BadDeflate::Corrupt));
    assert_eq!(inflate(&deflate(b"still works"), 1000).unwrap(), b"still works");
}
