use super::*;
use crate::apps::Apps;
use crate::config::test_config;

const NOW_S: u64 = 1_800_000_000;

/// Two apps; the first has two pairs.
fn apps() -> Apps {
    Apps::new(&test_config(
        "[[apps]]\nid = 1\nkeys = [{ key = \"k1\", secret = \"s1\" }, { key = \"k1b\", secret = \"s1b\" }]\n\
         [[apps]]\nid = 2\nkeys = [{ key = \"k2\", secret = \"s2\" }]\n",
    ))
}

fn app() -> Arc<App> {
    apps().by_id("1").expect("configured")
}

fn verify(token: &str) -> Result<Claims, BadToken> {
    Tokens::default().verify_at(&app(), token, NOW_S)
}

/// A token of the first app, good for a minute, with these further claims.
fn token(more: &str) -> String {
    sign("k1", &Secret::new("s1"), &format!(r#"{{"exp":{}{more}}}"#, NOW_S + 60))
}

fn granted(more: &str) -> Claims {
    verify(&token(more)).expect("a good token")
}

/// A token whose header is the test's own, signed as it should be.
fn with_header(header: &str) -> String {
    let text = format!("{}.{}", encode(header), encode(format!(r#"{{"exp":{},"channels":["*"]}}"#, NOW_S + 60)));
    format!("{text}.{}", encode(hmac_digest(b"s1", text.as_bytes())))
}

#[test]
fn a_good_token_says_who_may_do_what() {
    let claims = granted(r#","channels":["private-a","news-*"],"publish":["chat"],"sub":"ann","info":{"name":"Ann"}"#);
    assert!(claims.may_read("private-a") && claims.may_read("news-1") && claims.may_read("news-"));
    assert!(!claims.may_read("private-ab") && !claims.may_read("news") && !claims.may_read("chat"));
    assert!(claims.may_publish("chat") && !claims.may_publish("private-a"));
    assert_eq!((claims.sub.as_deref(), claims.info.as_deref()), (Some("ann"), Some(r#"{"name":"Ann"}"#)));
    assert_eq!(claims.exp_s, NOW_S + 60);
}

#[test]
fn every_channel_is_not_every_users_own() {
    assert!(granted(r#","channels":["*"]"#).may_read("presence-room"));
    assert!(!granted(r#","channels":["*"]"#).may_read("#server-to-user-ann"));
    assert!(granted(r##","channels":["#server-to-user-ann"]"##).may_read("#server-to-user-ann"));
}

#[test]
fn every_pair_of_the_app_signs_and_no_other_does() {
    let claims = format!(r#"{{"exp":{},"channels":["*"]}}"#, NOW_S + 60);
    let signed = |key, secret| verify(&sign(key, &Secret::new(secret), &claims)).map(|_| ());
    assert_eq!(signed("k1b", "s1b"), Ok(()));
    assert_eq!(signed("k1b", "s1"), Err(BadToken::Signature));
    assert_eq!(signed("k1", "s2"), Err(BadToken::Signature));
    assert_eq!(signed("k2", "s2"), Err(BadToken::Key));
}

#[test]
fn no_other_algorithm_is_known() {
    assert!(verify(&with_header(r#"{"alg":"HS256","kid":"k1"}"#)).is_ok());
    for alg in ["none", "None", "", "hs256", "HS384", "RS256"] {
        let token = with_header(&format!(r#"{{"alg":"{alg}","kid":"k1"}}"#));
        assert_eq!(verify(&token), Err(BadToken::Algorithm), "{alg}");
    }
    assert_eq!(verify(&with_header(r#"{"kid":"k1"}"#)), Err(BadToken::Algorithm));
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(r#"{"exp":9e9,"channels":["*"]}"#));
    assert_eq!(verify(&unsigned), Err(BadToken::Algorithm));
}

#[test]
fn a_header_names_its_key_and_asks_for_nothing() {
    assert_eq!(verify(&with_header(r#"{"alg":"HS256"}"#)), Err(BadToken::Key));
    assert_eq!(verify(&with_header(r#"{"alg":"HS256","kid":"k1","crit":["b64"]}"#)), Err(BadToken::Extensions));
    assert_eq!(verify(&with_header(r#"{"alg":"HS256","alg":"none","kid":"k1"}"#)), Err(BadToken::Shape));
    assert_eq!(verify(&with_header(r#"["HS256","k1"]"#)), Err(BadToken::Shape));
}

#[test]
fn a_part_of_a_token_is_none() {
    let whole = token(r#","channels":["a"]"#);
    assert!(verify(&whole).is_ok());
    for len in 0..whole.len() {
        assert!(verify(&whole[..len]).is_err(), "{len} bytes");
    }
    for bad in ["..", "a.b", "a.b.c.d", "é.é.é"] {
        assert_eq!(verify(bad), Err(BadToken::Shape), "{bad}");
    }
    assert!(verify(&format!("{whole}A")).is_err() && verify(&format!("{whole}=")).is_err());
}

#[test]
fn every_bit_of_a_token_counts() {
    let whole = token(r#","channels":["a"]"#).into_bytes();
    for at in 0..whole.len() {
        let mut other = whole.clone();
        other[at] ^= 1;
        let text = String::from_utf8(other).expect("still ASCII");
        assert!(verify(&text).is_err(), "byte {at}");
    }
}

#[test]
fn a_huge_token_is_not_looked_at() {
    let huge = token(&format!(r#","channels":["a"],"x":"{}""#, "y".repeat(TOKEN_BYTES_MAX)));
    assert_eq!(verify(&huge), Err(BadToken::TooLong { found: huge.len() }));
}

#[test]
fn time_is_asked_for_and_kept_to_but_for_a_leeway() {
    let tokens = Tokens::default();
    let app = app();
    let signed = |claims: &str| sign("k1", &Secret::new("s1"), claims);
    let at = |claims: &str, now_s| tokens.verify_at(&app, &signed(claims), now_s).map(|_| ());
    assert_eq!(at(r#"{"channels":["a"]}"#, NOW_S), Err(BadToken::Claims), "exp must be there");
    assert_eq!(at(r#"{"channels":["a"],"exp":"soon"}"#, NOW_S), Err(BadToken::Claims));
    let claims = r#"{"channels":["a"],"exp":1000.5}"#;
    assert_eq!(at(claims, 1000 + LEEWAY_S - 1), Ok(()));
    assert_eq!(at(claims, 1000 + LEEWAY_S), Err(BadToken::Expired { ago_s: LEEWAY_S }));
    assert_eq!(at(r#"{"channels":["a"],"exp":-1}"#, NOW_S), Err(BadToken::Expired { ago_s: NOW_S }));
    assert_eq!(at(r#"{"channels":["a"],"exp":1e300}"#, NOW_S), Ok(()));
    let later = format!(r#"{{"channels":["a"],"exp":{},"nbf":{}}}"#, NOW_S + 60, NOW_S + 30);
    assert_eq!(at(&later, NOW_S), Err(BadToken::Early { in_s: 30 }));
    assert_eq!(at(&later, NOW_S + 30), Ok(()));
}

#[test]
fn claims_say_what_is_needed_in_the_right_types() {
    for more in ["", r#","channels":"a""#, r#","channels":[1]"#, r#","channels":["a"],"sub":7"#] {
        assert_eq!(verify(&token(more)), Err(BadToken::Claims), "{more}");
    }
    assert!(matches!(verify(&token(r#","channels":["a b"]"#)), Err(BadToken::Channel(_))));
    assert!(matches!(verify(&token(r#","publish":[""]"#)), Err(BadToken::Channel(_))));
    assert!(verify(&token(r#","channels":[],"aud":["x"],"role":{"a":1}"#)).is_ok(), "other claims are the app's own");
}

#[test]
fn a_revoked_token_stays_refused_until_it_has_expired() {
    let apps = apps();
    let (one, two) = (apps.by_id("1").expect("configured"), apps.by_id("2").expect("configured"));
    let tokens = Tokens::default();
    let exp_s = now_s() + 600;
    let of = |key, secret, more: &str| {
        sign(key, &Secret::new(secret), &format!(r#"{{"exp":{exp_s},"channels":["*"]{more}}}"#))
    };
    let ours = of("k1", "s1", r#","jti":"t1""#);
    let claims = tokens.verify(&one, &ours).expect("not revoked yet");
    let mut changes = tokens.changes();
    assert!(!changes.has_changed().expect("the tokens live"));

    tokens.revoke("1", Whose::Token("t1".into()), Some(exp_s)).expect("there is room");
    assert!(changes.has_changed().expect("the tokens live"));
    changes.mark_unchanged();
    assert!(tokens.is_revoked("1", &claims));
    assert_eq!(tokens.verify(&one, &ours), Err(BadToken::Revoked));
    assert!(tokens.verify(&one, &of("k1", "s1", r#","jti":"t2""#)).is_ok());
    assert!(tokens.verify(&one, &of("k1", "s1", "")).is_ok());
    assert!(tokens.verify(&two, &of("k2", "s2", r#","jti":"t1""#)).is_ok(), "another app's token is another token");
    // By then it is refused for its age.
    assert!(!tokens.ledger().revocations.covers("1", &claims, exp_s + LEEWAY_S));
}

#[test]
fn a_users_earlier_tokens_are_revoked_and_not_the_later_ones() {
    let mut revocations = Revocations::default();
    revocations.add("1", Whose::User("ann".into()), None, NOW_S).expect("there is room");
    let covers = |more: &str, now_s| revocations.covers("1", &granted(&format!(r#","channels":[]{more}"#)), now_s);
    assert!(covers(r#","sub":"ann""#, NOW_S + 1));
    assert!(covers(&format!(r#","sub":"ann","iat":{NOW_S}"#), NOW_S + 1));
    assert!(!covers(&format!(r#","sub":"ann","iat":{}"#, NOW_S + 1), NOW_S + 1));
    assert!(!covers(r#","sub":"ben""#, NOW_S + 1) && !covers("", NOW_S + 1));
    assert!(covers(r#","sub":"ann""#, NOW_S + 24 * 3600));
    assert!(!covers(r#","sub":"ann""#, NOW_S + 25 * 3600));
}

#[test]
fn revocations_are_bounded_and_the_expired_make_room() {
    let mut revocations = Revocations::default();
    let mut add = |n: usize, now_s| {
        revocations.make_room(now_s);
        revocations.add("1", Whose::Token(n.to_string().into()), Some(NOW_S + 60), now_s).map(drop)
    };
    let taken = (0..200_000).take_while(|n| add(*n, NOW_S).is_ok()).count();
    assert_eq!(taken, 100_000);
    assert_eq!(add(200_000, NOW_S), Err(BadRevocation::TooMany));
    assert_eq!(add(200_000, NOW_S + 120), Ok(()));
    assert_eq!(revocations.add("1", Whose::User("".into()), None, NOW_S), Err(BadRevocation::Name { found: 0 }));
}

#[test]
fn revocations_are_read_as_they_were_written() {
    let mut revocations = Revocations::default();
    let mut text = revocations.add("1", Whose::User("a\n\"n".into()), None, NOW_S).expect("there is room");
    text += "\n{\"app\":\"1\"}\nno line at all\n";
    text += &revocations.add("2", Whose::Token("t".into()), Some(NOW_S + 60), NOW_S).expect("there is room");
    let lines = |revocations: &Revocations| {
        let mut lines: Vec<_> = revocations.lines().collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&Revocations::restored(&text, NOW_S)), lines(&revocations));
    assert_eq!(lines(&Revocations::restored(&text, NOW_S + 120)).len(), 1, "what has expired is left out");
    let cut = &text[..text.len() - 1];
    assert_eq!(lines(&Revocations::restored(cut, NOW_S)).len(), 1, "and what was cut short");
}

#[test]
fn what_another_node_took_back_is_refused_here_too() {
    let here = Tokens::default();
    let line = Tokens::default().revoke("1", Whose::User("ann".into()), None).expect("there is room");
    let mut changes = here.changes();
    here.learn([&*line, "no line at all"]);
    assert!(here.is_revoked("1", &granted(r#","channels":[],"sub":"ann""#)));
    assert!(changes.has_changed().expect("the tokens live"));
    changes.mark_unchanged();
    here.learn([&*line]);
    assert!(!changes.has_changed().expect("the tokens live"), "it is no news");
    assert_eq!(here.lines(), [line]);
}

#[test]
fn what_is_shown_of_a_bad_token_holds_nothing_of_it() {
    let token = with_header(r#"{"alg":"none","kid":"k1"}"#);
    let shown = format!("{0} {0:?}", verify(&token).expect_err("refused"));
    assert!(token.split('.').all(|part| !shown.contains(part)), "{shown}");
}

#[test]
fn a_bearer_is_named_in_its_header() {
    assert_eq!(bearer("Bearer abc"), Some("abc"));
    assert_eq!(bearer(" bearer  abc "), Some("abc"));
    assert_eq!(bearer("Basic abc"), None);
    assert_eq!(bearer("abc"), None);
}
