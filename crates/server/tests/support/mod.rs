//! The real server, and the smallest clients that can speak to it byte for byte.
//!
//! ```ignore
//! let server = Server::start(&one_app("subscription_count = true"));
//! let mut socket = server.connect();
//! socket.subscribe("room");
//! server.publish("room", "said", "hello");
//! socket.expect(r#"{"event":"said","channel":"room","data":"hello"}"#);
//! ```
//!
//! Always true:
//! - a server listens on ports that the system picked, in a folder of its own, and ends with the value that holds it;
//! - every wait has an end: what does not come within [`PATIENCE`] fails the test, and the server's log is shown;
//! - framing, HTTP and JSON here are written apart from the server's own, so that the two cannot share a mistake. Only
//!   the signatures are `fanfare_proto`'s, which has the official vectors as tests.

// Each test file compiles this module for itself, and uses its own part of it.
#![allow(dead_code, unused_imports)]

mod http;
pub mod nodes;
mod program;
pub mod proxy;
mod pusher;
mod reader;
pub mod redis;
mod server;
pub mod sse;
pub mod tap;
mod tunnel;
mod websocket;
mod wire;

use std::thread;
use std::time::{Duration, Instant};

pub use http::{Response, connect, request, try_post};
pub use nodes::Nodes;
pub use program::Program;
pub use pusher::{Socket, inner};
pub use reader::{Reader, STREAMS, TRANSPORTS, Transport, target};
pub use server::{Server, now_s};
pub use tunnel::{Certificate, Tunnel, connect_tls};
pub use websocket::{Frame, Refusal, WebSocket, masked_frame, opcode};
pub use wire::{Body, Wire, head};

/// How long a test waits for what should come at once, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a test listens to be sure that nothing comes.
pub const SILENCE: Duration = Duration::from_millis(250);

/// Waits for what another thread or process brings about.
#[track_caller]
pub fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The development app, which tests with a configuration of their own define again.
pub const APP_ID: &str = "1";
pub const KEY: &str = "fanfare-key";
pub const SECRET: &str = "fanfare-secret";

/// A configuration with the one app that all helpers here speak for. `keys` are lines of its table, and may go on with
/// `[apps.limits]`.
pub fn one_app(keys: &str) -> String {
    format!("[[apps]]\nid = \"{APP_ID}\"\nkeys = [{{ key = \"{KEY}\", secret = \"{SECRET}\" }}]\n{keys}\n")
}

/// `KEY:HEX`, which allows a socket to subscribe to a channel.
pub fn channel_auth(socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
    let data = channel_data.map_or(String::new(), |data| format!(":{data}"));
    auth(&format!("{socket_id}:{channel}{data}"))
}

/// `KEY:HEX`, which signs a socket in as a user.
pub fn user_auth(socket_id: &str, user_data: &str) -> String {
    auth(&format!("{socket_id}::user::{user_data}"))
}

/// A token with these claims, good for a minute unless they say otherwise.
pub fn token(mut claims: serde_json::Value) -> String {
    if claims.get("exp").is_none() {
        claims["exp"] = (now_s() + 60).into();
    }
    signed_token(KEY, SECRET, &claims)
}

/// A token that is signed as its header says it is.
pub fn signed_token(key: &str, secret: &str, claims: &serde_json::Value) -> String {
    use base64::Engine;
    let encode = |part: &[u8]| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(part);
    let header = serde_json::json!({"alg": "HS256", "typ": "JWT", "kid": key});
    let text = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = fanfare_proto::sign::hmac_digest(secret.as_bytes(), text.as_bytes());
    format!("{text}.{}", encode(&signature))
}

fn auth(text: &str) -> String {
    let hex = fanfare_proto::sign::hmac_hex(SECRET.as_bytes(), text.as_bytes());
    format!("{KEY}:{hex}")
}
