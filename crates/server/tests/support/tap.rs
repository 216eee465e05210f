//! A reader of the firehose, as one who pays for it writes it.

use serde_json::{Value, json};

use super::{Body, KEY, Response, Server, Wire};

/// The token of all that is.
pub const TOKEN: &str = "token-of-all-that-is";

/// A connection to a firehose.
pub struct Tap {
    body: Body,
    text: Vec<u8>,
    /// What the server said of where it begins.
    pub begins: Value,
}

impl Tap {
    /// Opens one with everybody's token.
    pub fn open(server: &Server, query: &str) -> Tap {
        Tap::with(server, TOKEN, query)
    }

    pub fn with(server: &Server, token: &str, query: &str) -> Tap {
        let mut tap = Tap { body: stream(server, token, query, &[]), text: Vec::new(), begins: Value::Null };
        tap.begins = tap.next();
        assert_eq!(tap.begins["event"], "fanfare:subscribed");
        tap
    }

    /// The next line that says something; `None` at the end.
    #[track_caller]
    pub fn heard(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                match &line[..end] {
                    [] => continue,
                    line => return Some(serde_json::from_slice(line).expect("a line is JSON")),
                }
            }
            self.text.extend(self.body.part()?);
        }
    }

    #[track_caller]
    pub fn next(&mut self) -> Value {
        self.heard().expect("the server goes on")
    }

    /// The next publication.
    #[track_caller]
    pub fn message(&mut self) -> Value {
        loop {
            let line = self.next();
            match line["event"].as_str() {
                Some("fanfare:cursor") => {}
                _ if line["channel"].is_string() => return line,
                _ => panic!("expected a publication, got {line}"),
            }
        }
    }

    /// The data of the next so many.
    #[track_caller]
    pub fn data(&mut self, n: usize) -> Vec<String> {
        (0..n).map(|_| text(&self.message()["data"])).collect()
    }

    /// Where it stood before anything was sent.
    pub fn cursor(&self) -> String {
        text(&self.begins["cursor"])
    }
}

/// What must be text.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("expected text, got {value}")).to_owned()
}

/// Opens a stream, with these headers beside the token's.
pub fn stream(server: &Server, token: &str, query: &str, headers: &[(&str, &str)]) -> Body {
    let mut wire = Wire::to(server.addr);
    let authorization = format!("Bearer {token}");
    let headers = [&[("Authorization", authorization.as_str())], headers].concat();
    wire.get(&format!("/firehose/{KEY}?{query}"), &headers);
    let head = wire.head();
    assert_eq!(head.status, 200, "{head:?}");
    wire.body(&head)
}

/// Asks for something that is answered at once.
pub fn ask(server: &Server, method: &str, query: &str, token: &str) -> Response {
    let authorization = format!("Bearer {token}");
    server.request(method, &format!("/firehose/{KEY}?{query}"), &[("Authorization", &authorization)], "")
}

/// Acknowledges with everybody's token.
pub fn ack(server: &Server, consumer: &str, cursor: &str) -> Response {
    let body = json!({"consumer": consumer, "cursor": cursor}).to_string();
    let authorization = format!("Bearer {TOKEN}");
    server.request("POST", &format!("/firehose/{KEY}/ack"), &[("Authorization", &authorization)], &body)
}
