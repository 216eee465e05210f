//! Signatures, checked against those that Pusher publishes and those that its libraries make.

use fanfare_proto::sign::{
    BadQuery, BadSignature, SignedQuery, channel_text, hmac_hex, hmac_matches, md5_hex, sign_query, split_auth,
    user_text,
};
use fanfare_proto::socket_id::SocketId;

const KEY: &str = "278d425bdf160c739803";
const SECRET: &[u8] = b"7ad3773142a6692b25b8";
const SOCKET: SocketId = SocketId { a: 1234, b: 1234 };
const EVENT: &str = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;

/// A query of our key, signed over `pairs` as they are given; `sent` is what goes over the wire.
fn query(sent: &str, method: &str, path: &str, signed: &str) -> String {
    let signature = hmac_hex(SECRET, format!("{method}\n{path}\n{signed}").as_bytes());
    format!("{sent}&auth_signature={signature}")
}

fn verify(query: &str, method: &str, path: &str, body: &str) -> Result<(), BadSignature> {
    SignedQuery::parse(query).unwrap().verify(SECRET, method, path, body.as_bytes())
}

#[test]
fn a_private_channel_is_signed_as_pusher_documents() {
    let text = channel_text(SOCKET, "private-foobar", None);
    assert_eq!(text, "1234.1234:private-foobar");
    assert_eq!(hmac_hex(SECRET, text.as_bytes()), "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4");
}

#[test]
fn a_presence_channels_signature_covers_its_channel_data() {
    for (data, signature) in [
        (
            r#"{"user_id":10,"user_info":{"name":"Mr. Pusher"}}"#,
            "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c",
        ),
        (
            r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#,
            "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
        ),
    ] {
        let text = channel_text(SOCKET, "presence-foobar", Some(data));
        assert!(hmac_matches(SECRET, text.as_bytes(), signature), "{data}");
    }
}

#[test]
fn a_sign_in_is_signed_as_pusher_documents() {
    let text = user_text(SOCKET, r#"{"id":"12345"}"#);
    assert_eq!(text, r#"1234.1234::user::{"id":"12345"}"#);
    assert_eq!(hmac_hex(SECRET, text.as_bytes()), "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba");
}

#[test]
fn a_digest_matches_in_either_case_and_no_other_way() {
    let hex = hmac_hex(b"secret", b"text");
    assert!(hmac_matches(b"secret", b"text", &hex));
    assert!(hmac_matches(b"secret", b"text", &hex.to_uppercase()));
    assert!(!hmac_matches(b"other", b"text", &hex));
    assert!(!hmac_matches(b"secret", b"other", &hex));
    for hex in ["", "00", &hex[2..], &hex.replace(&hex[..2], "zz"), &format!("{hex}00")] {
        assert!(!hmac_matches(b"secret", b"text", hex), "{hex}");
    }
}

#[test]
fn an_auth_is_a_key_and_a_signature() {
    assert_eq!(split_auth("key:abc"), Some(("key", "abc")));
    for auth in ["", "key", "key:", ":abc"] {
        assert_eq!(split_auth(auth), None, "{auth}");
    }
}

#[test]
fn pushers_worked_example_of_a_request_is_verified() {
    let query = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
                 &body_md5=ec365a775a4cd0599faeb73354201b6f\
                 &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
    assert_eq!(md5_hex(EVENT.as_bytes()), "ec365a775a4cd0599faeb73354201b6f");
    assert_eq!(verify(query, "POST", "/apps/3/events", EVENT), Ok(()));
    let parsed = SignedQuery::parse(query).unwrap();
    assert_eq!((parsed.key(), parsed.timestamp()), (KEY, 1_353_088_179));
    assert_eq!(sign_query(SECRET, KEY, "POST", "/apps/3/events", &[], EVENT.as_bytes(), 1_353_088_179), query);
}

#[test]
fn a_refusal_shows_what_was_to_be_signed_and_never_the_digest() {
    let query = sign_query(b"wrong", KEY, "GET", "/apps/3/channels", &[("info", "user_count")], b"", 7);
    let to_sign =
        "GET\n/apps/3/channels\nauth_key=278d425bdf160c739803&auth_timestamp=7&auth_version=1.0&info=user_count";
    let error = verify(&query, "GET", "/apps/3/channels", "").unwrap_err();
    assert_eq!(error, BadSignature::Mismatch { to_sign: to_sign.to_owned() });
    assert!(!error.to_string().contains(&hmac_hex(SECRET, to_sign.as_bytes())));
}

#[test]
fn a_body_must_be_covered_by_its_digest() {
    let bare = sign_query(SECRET, KEY, "POST", "/apps/3/events", &[], b"", 7);
    assert_eq!(verify(&bare, "POST", "/apps/3/events", EVENT), Err(BadSignature::BodyMd5Missing));
    let other = sign_query(SECRET, KEY, "POST", "/apps/3/events", &[], b"{}", 7);
    assert_eq!(verify(&other, "POST", "/apps/3/events", EVENT), Err(BadSignature::BodyMd5Mismatch));
}

#[test]
fn a_get_may_carry_the_digest_of_nothing_as_python_sends_it() {
    let pairs = format!("auth_key={KEY}&auth_timestamp=7&auth_version=1.0&body_md5=d41d8cd98f00b204e9800998ecf8427e");
    let query = query(&pairs, "GET", "/apps/3/channels", &pairs);
    assert_eq!(verify(&query, "GET", "/apps/3/channels", ""), Ok(()));
}

#[test]
fn method_path_and_parameters_are_all_covered() {
    let query = sign_query(SECRET, KEY, "GET", "/apps/3/channels", &[("info", "user_count")], b"", 7);
    assert_eq!(verify(&query, "get", "/apps/3/channels", ""), Ok(()));
    assert!(verify(&query, "POST", "/apps/3/channels", "").is_err());
    assert!(verify(&query, "GET", "/apps/4/channels", "").is_err());
    assert!(verify(&query.replace("user_count", "cache"), "GET", "/apps/3/channels", "").is_err());
    assert!(verify(&format!("{query}&more=1"), "GET", "/apps/3/channels", "").is_err());
}

#[test]
fn node_signs_the_path_that_fetch_escapes_afterwards() {
    let pairs = format!("auth_key={KEY}&auth_timestamp=7&auth_version=1.0");
    let query = query(&pairs, "POST", "/apps/3/users/user id/ü/terminate_connections", &pairs);
    let wire_path = "/apps/3/users/user%20id/%C3%BC/terminate_connections";
    assert_eq!(verify(&query, "POST", wire_path, ""), Ok(()));
}

#[test]
fn a_path_that_was_signed_with_its_escapes_is_verified_too() {
    let pairs = format!("auth_key={KEY}&auth_timestamp=7&auth_version=1.0");
    let path = "/apps/3/channels/a%3Db";
    assert_eq!(verify(&query(&pairs, "GET", path, &pairs), "GET", path, ""), Ok(()));
}

#[test]
fn values_are_signed_as_they_were_before_escaping() {
    let common = format!("auth_key={KEY}&auth_timestamp=7&auth_version=1.0");
    let (sent, signed) = (format!("{common}&q=a%20b%26c+d"), format!("{common}&q=a b&c d"));
    assert_eq!(verify(&query(&sent, "GET", "/p", &signed), "GET", "/p", ""), Ok(()));
    assert_eq!(verify(&query(&sent, "GET", "/p", &sent), "GET", "/p", ""), Ok(()));
}

#[test]
fn names_are_signed_in_lower_case_and_sorted() {
    let sent = format!("Zeta=1&auth_version=1.0&Auth_Timestamp=7&auth_key={KEY}&alpha=2");
    let signed = format!("alpha=2&auth_key={KEY}&auth_timestamp=7&auth_version=1.0&zeta=1");
    assert_eq!(verify(&query(&sent, "GET", "/p", &signed), "GET", "/p", ""), Ok(()));
}

#[test]
fn an_array_is_signed_pair_by_pair_as_ruby_does() {
    let sent = format!("auth_key={KEY}&auth_timestamp=7&auth_version=1.0&k%5B%5D=b&k%5B%5D=a");
    let signed = format!("auth_key={KEY}&auth_timestamp=7&auth_version=1.0&k[]=b&k[]=a");
    assert_eq!(verify(&query(&sent, "GET", "/p", &signed), "GET", "/p", ""), Ok(()));
}

#[test]
fn an_array_is_signed_with_commas_as_php_does() {
    let signed = format!("auth_key={KEY}&auth_timestamp=7&auth_version=1.0&k=b,a");
    for array in ["k%5B0%5D=b&k%5B1%5D=a", "k[]=b&k[]=a", "k=b%2Ca"] {
        let sent = format!("auth_key={KEY}&auth_timestamp=7&auth_version=1.0&{array}");
        assert_eq!(verify(&query(&sent, "GET", "/p", &signed), "GET", "/p", ""), Ok(()), "{array}");
    }
}

#[test]
fn our_own_queries_survive_any_character() {
    let params = [("q", "a b&c=d+ü%/?"), ("Info", "user_count,subscription_count")];
    let query = sign_query(SECRET, KEY, "GET", "/apps/3/channels", &params, b"", 7);
    assert_eq!(verify(&query, "GET", "/apps/3/channels", ""), Ok(()));
    assert_eq!(SignedQuery::parse(&query).unwrap().param("q"), Some("a b&c=d+ü%/?"));
}

#[test]
fn a_query_that_cannot_have_been_signed_says_what_it_lacks() {
    let refused = |query: &str| SignedQuery::parse(query).unwrap_err();
    assert_eq!(refused(""), BadQuery::Missing("auth_key"));
    assert_eq!(refused("auth_key=k"), BadQuery::Missing("auth_timestamp"));
    assert_eq!(refused("auth_key=k&auth_timestamp=soon"), BadQuery::Timestamp);
    assert_eq!(refused("auth_key=k&auth_timestamp=7"), BadQuery::Missing("auth_version"));
    assert_eq!(refused("auth_key=k&auth_timestamp=7&auth_version=2.0"), BadQuery::Version);
    let query = "auth_key=k&auth_timestamp=7&auth_version=1.0";
    assert_eq!(refused(query).to_string(), "the query needs auth_signature");
}
