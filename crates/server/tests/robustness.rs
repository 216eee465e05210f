//! What peers do to a server, by mistake or on purpose: it stays bounded, and the others do not notice.
//!
//! Each test starts a server of its own and says what it counted. Where a promise is about memory, the test says how much
//! it lets the server grow, and why.
//!
//! Not here: what the protocol answers to polite mistakes (`protocol`, `http_api`).

mod support;

mod robustness {
    mod churn;
    mod files;
    mod frames;
    mod heads;
    mod slow;
    mod tenants;
    mod vanish;

    use std::net::TcpStream;
    use std::time::Duration;

    use serde_json::json;
    use socket2::SockRef;

    use crate::support::{Server, Socket, eventually};

    /// Where a Pusher connection begins, for the app of `one_app`.
    const PATH: &str = "/app/fanfare-key?protocol=7";

    /// Publishes the number `n`, followed by this much padding.
    fn publish_number(server: &Server, channel: &str, n: usize, padding: usize) {
        server.publish(channel, "n", &numbered(n, padding));
    }

    fn numbered(n: usize, padding: usize) -> String {
        format!("{n} {}", "x".repeat(padding))
    }

    /// The number in a publication of [`publish_number`].
    fn number(message: &serde_json::Value) -> usize {
        let data = message["data"].as_str().and_then(|data| data.split(' ').next());
        data.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number in {message}"))
    }

    /// Reads the next message, which must carry this number.
    #[track_caller]
    fn expect_number(socket: &mut Socket, n: usize) {
        assert_eq!(number(&socket.recv()), n);
    }

    /// Makes the close a reset, as when a machine or a mobile line goes away.
    fn reset(stream: &TcpStream) {
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("linger can be set");
    }

    /// A server without connections and channels, whose tables say so.
    #[track_caller]
    fn expect_empty(server: &Server) {
        eventually("no connection is left", || server.metric("fanfare_connections") == 0.0);
        eventually("no channel is left", || server.metric("fanfare_channels") == 0.0);
        eventually("no channel is occupied", || server.get("/channels", &[]).json() == json!({"channels": {}}));
    }

    /// Deliveries, as one page of metrics tells them.
    #[derive(Debug)]
    struct Ledger {
        owed: u64,
        written: u64,
        dropped: u64,
        in_flight: u64,
    }

    impl Ledger {
        fn of(server: &Server) -> Self {
            let page = server.admin_get("/metrics").body;
            let sum = |name: &str| {
                let of_name = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
                let values = page.lines().filter(|line| of_name(line)).filter_map(|line| line.rsplit(' ').next());
                values.map(|value| value.parse::<u64>().expect("a count")).sum()
            };
            Ledger {
                owed: sum("fanfare_deliveries_owed_total"),
                written: sum("fanfare_deliveries_written_total"),
                dropped: sum("fanfare_deliveries_dropped_total"),
                in_flight: sum("fanfare_deliveries_in_flight"),
            }
        }

        /// The ledger once nothing is on its way; then it balances to the last delivery.
        #[track_caller]
        fn at_rest(server: &Server) -> Self {
            eventually("nothing is in flight", || Ledger::of(server).in_flight == 0);
            let ledger = Ledger::of(server);
            assert_eq!(ledger.owed, ledger.written + ledger.dropped, "{ledger:?}");
            ledger
        }
    }
}
