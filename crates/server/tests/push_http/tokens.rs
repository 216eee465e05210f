//! Tokens that publish, and taking them back. What they let read is seen where subscribers are.

use std::io::{BufRead, BufReader, Write};
use std::process::Command;

use super::*;
use serde_json::json;
use support::{now_s, signed_token, token};

#[track_caller]
fn status(server: &Server, token: &str, target: &str, expected: u16, because: &str) {
    let response = send_as(server, token, "POST", target, &[], "x");
    match expected {
        200..=299 => assert_eq!(response.status, expected, "{response:?}"),
        _ => refused(&response, expected, because),
    }
}

#[test]
fn a_token_publishes_where_it_says() {
    let server = server("");
    let good = token(json!({"publish": ["room", "chat-*"]}));
    status(&server, &good, ROOM, 202, "");
    status(&server, &good, "/pub/fanfare-key/chat-1/room", 202, "");
    status(&server, &good, "/pub/fanfare-key/room/hall", 403, "publish to hall");
    status(&server, &token(json!({"channels": ["*"]})), ROOM, 403, "publish to room");
    assert_eq!(send_as(&server, &good, "GET", ROOM, &[], "").status, 200);
}

#[test]
fn a_bad_token_is_401_with_what_was_expected_and_never_logged() {
    let server = Server::start(&format!("log = \"debug\"\n{}", one_app("")));
    let claims = json!({"publish": ["*"], "exp": now_s() + 60});
    let over = token(json!({"publish": ["*"], "exp": now_s() - 60}));
    status(&server, &over, ROOM, 401, "expired 6");
    status(&server, &token(json!({"publish": "*"})), ROOM, 401, "claims must be");
    status(&server, &signed_token("fanfare-key", "guess", &claims), ROOM, 401, "not signed with the secret");
    status(&server, &signed_token("stranger", "guess", &claims), ROOM, 401, "kid");
    let good = token(claims);
    status(&server, &good[..good.len() - 2], ROOM, 401, "");
    let unsigned = "eyJhbGciOiJub25lIn0.eyJwdWJsaXNoIjpbIioiXX0.";
    status(&server, unsigned, ROOM, 401, "alg HS256");
    status(&server, &good, ROOM, 202, "");
    let log = server.log();
    for part in over.split('.').chain(good.split('.')).chain([SECRET]) {
        assert!(!log.contains(part), "the log tells a token or a secret:\n{log}");
    }
}

#[test]
fn a_revoked_token_stays_out_and_so_do_a_users_earlier_ones() {
    let server = server("");
    let of = |jti: &str, sub: &str, iat: u64| token(json!({"publish": ["*"], "jti": jti, "sub": sub, "iat": iat}));
    let (one, two, later) = (of("t1", "ann", now_s()), of("t2", "ann", now_s()), of("t3", "ann", now_s() + 30));
    for token in [&one, &two, &later] {
        status(&server, token, ROOM, 202, "");
    }
    server.post("/tokens/revoke", &json!({"jti": "t1", "exp": now_s() + 60})).expect(200, "{}");
    status(&server, &one, ROOM, 401, "was revoked");
    status(&server, &two, ROOM, 202, "");
    server.post("/tokens/revoke", &json!({"sub": "ann"})).expect(200, "{}");
    status(&server, &two, ROOM, 401, "was revoked");
    status(&server, &later, ROOM, 202, "");
    status(&server, &of("t4", "ben", now_s()), ROOM, 202, "");
}

#[test]
fn a_revocation_ends_open_streams_and_no_others() {
    let server = server("");
    let open = |jti: &str| {
        let token = token(json!({"channels": ["private-*"], "jti": jti}));
        let mut stream = server.tcp();
        let target = format!("/sub/fanfare-key/private-room?transport=sse&token={token}");
        write!(stream, "GET {target} HTTP/1.0\r\n\r\n").expect("the request is sent");
        let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line in time"));
        let subscribed = lines.find(|line| line == "event: fanfare:subscribed");
        assert!(subscribed.is_some(), "the stream ended early");
        lines
    };
    let (mut one, mut two) = (open("t1"), open("t2"));
    server.post("/tokens/revoke", &json!({"jti": "t1"})).expect(200, "{}");
    let farewell: Vec<_> = one.by_ref().collect();
    assert!(farewell.iter().any(|line| line == "event: fanfare:closed"), "{farewell:?}");
    assert!(farewell.iter().any(|line| line.contains("token_revoked")), "{farewell:?}");
    publish(&server, "/pub/fanfare-key/private-room", &[], "still here");
    assert!(two.any(|line| line == "data: still here"));
}

#[test]
fn a_revocation_outlives_the_server_even_if_that_is_killed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data_dir = ["--data-dir", folder.path().to_str().expect("a plain path")];
    let start = || Server::start_with(&one_app(""), &data_dir);
    let (one, two) = (token(json!({"publish": ["*"], "jti": "1"})), token(json!({"publish": ["*"], "jti": "2"})));
    let server = start();
    server.post("/tokens/revoke", &json!({"jti": "1"})).expect(200, "{}");
    drop(server);
    for _ in 0..2 {
        let server = start();
        status(&server, &one, ROOM, 401, "was revoked");
        status(&server, &two, ROOM, 202, "");
    }
}

#[test]
fn a_revocation_says_whose_and_is_signed() {
    let server = server("");
    let revoke = |body| server.post("/tokens/revoke", &body);
    refused(&revoke(json!({})), 400, "expected either jti");
    refused(&revoke(json!({"jti": "a", "sub": "b"})), 400, "expected either jti");
    refused(&revoke(json!({"jti": ""})), 400, "1 to 200 bytes");
    refused(&revoke(json!([])), 400, "not a JSON object");
    assert_eq!(server.request("POST", "/apps/1/tokens/revoke", &[], r#"{"jti":"a"}"#).status, 401);
    let options = server.request("OPTIONS", "/apps/1/tokens/revoke", &[], "");
    assert_eq!((options.status, options.header("allow")), (204, Some("POST, OPTIONS")));
}

#[test]
fn the_command_line_makes_tokens() {
    let server = server("");
    let config = server.config_file();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.arg("token").arg("--config").arg(&config).args(args);
        command.output().expect("fanfare runs")
    };
    let made = run(&["--publish", "room,chat-*", "--sub", "ann", "--info", r#"{"name":"Ann"}"#, "--ttl", "5m"]);
    assert!(made.status.success(), "{made:?}");
    let made = String::from_utf8(made.stdout).expect("text");
    assert_eq!(made.lines().count(), 1, "{made}");
    status(&server, made.trim(), "/pub/fanfare-key/room/chat-1", 202, "");

    for bad in
        [&[][..], &["--channels", "a b"], &["--channels", "a", "--ttl", "1"], &["--channels", "a", "--info", "x"]]
    {
        let output = run(bad);
        assert!(!output.status.success() && output.stdout.is_empty(), "{bad:?}: {output:?}");
    }
    let output = run(&["--channels", "a", "--app", "9"]);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}
