//! The Pusher protocol on the wire, message for message, against the real server.
//!
//! Each test is a promise of `docs/protocol.md`, or a place where an official library breaks on a server that is only
//! roughly right. What is sent and what comes back is written out.
//!
//! Not here: the HTTP API (`http_api`), the libraries themselves (`clients`), WebSocket framing as such (`autobahn`).

mod support;

mod protocol {
    mod cache;
    mod channels;
    mod client_events;
    mod connecting;
    mod data_dir;
    mod deflate;
    mod liveness;
    mod order;
    mod presence;
    mod reload_and_drain;
    mod users;

    use serde_json::Value;

    use crate::support::{Server, Socket, one_app};

    /// A server with the one app, and these lines in its table.
    fn server(keys: &str) -> Server {
        Server::start(&one_app(keys))
    }

    /// Asserts the two answers to a refused subscription, which leaves the connection open.
    #[track_caller]
    fn expect_refused(socket: &mut Socket, channel: &str, kind: &str, status: u16, message: &str) {
        let error = socket.expect_error();
        assert_eq!(error, serde_json::json!({"code": null, "message": message}));
        let answer = socket.expect_event("pusher:subscription_error");
        assert_eq!(answer["channel"], channel, "{answer}");
        assert_eq!(inner(&answer), serde_json::json!({"type": kind, "error": message, "status": status}));
        socket.settle();
    }

    /// The JSON inside of a message's `data` string.
    #[track_caller]
    fn inner(message: &Value) -> Value {
        let data = message["data"].as_str().unwrap_or_else(|| panic!("data is no string: {message}"));
        serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {data}"))
    }
}
