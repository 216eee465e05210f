//! `/sub` by every transport, byte for byte, against the real server.
//!
//! Each test is a promise of `docs/transports.md` or `docs/recovery.md`. What holds for every transport is tested on each.
//!
//! Not here: client libraries (`clients`), publishing (`push_http`), Pusher's own messages (`protocol`).

mod support;

mod transports {
    mod beginning;
    mod choice;
    mod ends;
    mod keep_alive;
    mod positions;
    mod refusals;
    mod resuming;
    mod torture;

    use crate::support::{KEY, Response, SECRET, Server, Wire, one_app};

    /// A server with the one app, and these lines in its table.
    fn server(keys: &str) -> Server {
        Server::start(&one_app(keys))
    }

    /// An answer to a GET of `/sub` on a connection of its own. `rest` is channels and query.
    #[track_caller]
    fn sub(server: &Server, rest: &str, headers: &[(&str, &str)]) -> Response {
        server.request("GET", &format!("/sub/{KEY}/{rest}"), headers, "")
    }

    /// Where a reader of these channels is who has heard everything so far. Who polled would be counted for a while, so of one
    /// channel it is the publisher who asks.
    #[track_caller]
    fn cursor(server: &Server, channels: &str) -> String {
        if !channels.contains('/') {
            let bearer = format!("Bearer {SECRET}");
            let place = server.request("GET", &format!("/pub/{KEY}/{channels}"), &[("Authorization", &bearer)], "");
            return place.json()["cursor"].as_str().unwrap_or_else(|| panic!("no cursor in {place:?}")).to_owned();
        }
        let answer = sub(server, &format!("{channels}?transport=poll"), &[]);
        answer.header("fanfare-cursor").unwrap_or_else(|| panic!("no cursor in {answer:?}")).to_owned()
    }

    /// Asserts a refusal: its status, and part of the reason.
    #[track_caller]
    fn refused(response: &Response, status: u16, because: &str) {
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
        let error = response.json()["error"].as_str().expect("an error is a text").to_owned();
        assert!(error.contains(because), "{error:?} does not say {because:?}");
    }

    /// Publishes on a connection of its own, as fast as answers come.
    struct Publisher(Wire);

    impl Publisher {
        fn to(server: &Server) -> Self {
            Publisher(Wire::to(server.addr))
        }

        #[track_caller]
        fn publish(&mut self, channel: &str, data: &str) {
            self.0.send(format!(
                "POST /pub/{KEY}/{channel} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n\
                 Content-Length: {}\r\n\r\n{data}",
                data.len()
            ));
            let answer = self.0.answer();
            assert!(matches!(answer.status, 201 | 202), "{answer:?}");
        }
    }

    /// Rules that keep whatever a test publishes.
    const KEEP_ALL: &str = "[[apps.history]]\nchannels = \"*\"\nmessages = 100000\nbytes = 33554432\nseconds = 600";

    /// Subscriptions of a channel, as the API counts them.
    fn subscriptions(server: &Server, channel: &str) -> u64 {
        let answer = server.get(&format!("/channels/{channel}"), &[("info", "subscription_count")]).json();
        answer["subscription_count"].as_u64().unwrap_or(0)
    }
}
