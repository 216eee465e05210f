//! The push-stream face, byte for byte, against the real server: what nginx's push-stream module promises.
//!
//! Each test is a promise of `docs/push-stream.md`. What is sent and what comes back is written out.

mod support;

mod push_stream {
    mod beside_nchan;
    mod client;
    mod doors;
    mod limits;
    mod pages;
    mod polling;
    mod publisher;
    mod resuming;
    mod streaming;
    mod websocket;

    use std::net::SocketAddr;

    use crate::support::{APP_ID, Response, Server, one_app, request};

    /// A server with the listener.
    struct Face {
        server: Server,
        addr: SocketAddr,
    }

    impl Face {
        /// The listener with these lines in its table.
        fn start(keys: &str) -> Face {
            Face::start_app("", keys)
        }

        /// The same, with these lines in the app's table.
        fn start_app(app: &str, keys: &str) -> Face {
            Face::start_with(app, keys, &[])
        }

        /// The same, with further arguments of `serve`.
        fn start_with(app: &str, keys: &str, args: &[&str]) -> Face {
            let table = format!("[push_stream]\napp = \"{APP_ID}\"\nlisten = \"127.0.0.1:0\"\n{keys}\n");
            let server = Server::start_with(&format!("{table}{}", one_app(app)), args);
            let log = server.log();
            let line = log.lines().find_map(|line| line.strip_prefix("push-stream http="));
            let addr = line.and_then(|addr| addr.parse().ok()).expect("the server says where it listens");
            Face { server, addr }
        }

        fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Response {
            request(self.addr, method, target, headers, body)
        }

        fn get(&self, target: &str) -> Response {
            self.request("GET", target, &[], "")
        }

        /// Publishes, which must succeed.
        #[track_caller]
        fn publish(&self, id: &str, text: &str) -> Response {
            self.publish_with(id, &[], text)
        }

        #[track_caller]
        fn publish_with(&self, id: &str, headers: &[(&str, &str)], text: &str) -> Response {
            let response = self.request("POST", &format!("/pub?id={id}"), headers, text);
            assert_eq!(response.status, 200, "{response:?}");
            response
        }
    }

    /// Asserts a refusal: a status, and a reason in a header alone.
    #[track_caller]
    fn expect_refused(response: &Response, status: u16, explain: &str) {
        let found = (response.status, response.header("x-nginx-pushstream-explain").unwrap_or_default());
        assert_eq!(found, (status, explain), "{response:?}");
        assert_eq!(response.body, "", "a refusal has no body");
    }
}
