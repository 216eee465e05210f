//! A Pusher connection: what a test says in a line, and what it expects to hear.

use std::time::Instant;

use serde_json::{Value, json};

use super::websocket::{Frame, WebSocket, opcode};
use super::{PATIENCE, SILENCE, channel_auth, user_auth};

/// A connection past `pusher:connection_established`. WebSocket pings are answered; `pusher:ping` is not.
pub struct Socket {
    /// The socket id that the server gave.
    pub id: String,
    /// Seconds, as announced.
    pub activity_timeout: u64,
    /// The wire, for frames that are no messages.
    pub ws: WebSocket,
}

impl Socket {
    /// Waits for the greeting.
    #[track_caller]
    pub fn established(ws: WebSocket) -> Self {
        let mut socket = Self { id: String::new(), activity_timeout: 0, ws };
        let greeting = socket.recv();
        assert_eq!(greeting["event"], "pusher:connection_established", "{greeting}");
        let data = inner(&greeting);
        socket.id = data["socket_id"].as_str().expect("a socket id").to_owned();
        let seconds = data["activity_timeout"].as_u64();
        socket.activity_timeout = seconds.expect("an activity timeout");
        socket
    }

    /// Sends a message as it stands.
    pub fn send(&mut self, message: &str) {
        self.ws.send_text(message);
    }

    /// Sends an event without a channel.
    pub fn say(&mut self, event: &str, data: Value) {
        self.send(&json!({"event": event, "data": data}).to_string());
    }

    /// Sends an event on a channel: a client event.
    pub fn say_on(&mut self, channel: &str, event: &str, data: Value) {
        self.send(&json!({"event": event, "channel": channel, "data": data}).to_string());
    }

    /// Subscribes, with a signature where the channel needs one, and waits for the confirmation.
    #[track_caller]
    pub fn subscribe(&mut self, channel: &str) {
        self.ask_for(channel, None);
        self.expect_subscribed(channel);
    }

    /// Waits for the confirmation of a channel without presence.
    #[track_caller]
    pub fn expect_subscribed(&mut self, channel: &str) {
        let wanted = json!({
            "event": "pusher_internal:subscription_succeeded", "channel": channel, "data": "{}"
        });
        self.expect(&wanted.to_string());
    }

    /// Joins a presence channel, and returns who was there as the confirmation tells it: `{"ids","hash","count"}`.
    #[track_caller]
    pub fn join(&mut self, channel: &str, channel_data: &str) -> Value {
        self.ask_for(channel, Some(channel_data));
        let answer = self.recv();
        assert_eq!(answer["event"], "pusher_internal:subscription_succeeded", "{answer}");
        assert_eq!(answer["channel"], channel, "{answer}");
        inner(&answer)["presence"].take()
    }

    /// Asks for a channel, rightly signed, without waiting for the answer.
    pub fn ask_for(&mut self, channel: &str, channel_data: Option<&str>) {
        let mut data = json!({"channel": channel, "auth": ""});
        if channel.starts_with("private-") || channel.starts_with("presence-") {
            data["auth"] = channel_auth(&self.id, channel, channel_data).into();
        }
        if let Some(channel_data) = channel_data {
            data["channel_data"] = channel_data.into();
        }
        self.say("pusher:subscribe", data);
    }

    /// Leaves a channel, which is never confirmed.
    pub fn unsubscribe(&mut self, channel: &str) {
        self.say("pusher:unsubscribe", json!({"channel": channel}));
    }

    /// Signs in, and waits for the confirmation.
    #[track_caller]
    pub fn sign_in(&mut self, user_data: &str) {
        self.ask_to_sign_in(user_data);
        let answer = self.recv();
        assert_eq!(answer["event"], "pusher:signin_success", "{answer}");
        assert_eq!(inner(&answer)["user_data"], user_data, "{answer}");
    }

    /// Signs in, rightly signed, without waiting for the answer.
    pub fn ask_to_sign_in(&mut self, user_data: &str) {
        let auth = user_auth(&self.id, user_data);
        self.say("pusher:signin", json!({"auth": auth, "user_data": user_data}));
    }

    /// Returns once the server has dealt with all that was sent before. Fails if anything else arrives first.
    #[track_caller]
    pub fn settle(&mut self) {
        self.say("pusher:ping", json!({}));
        self.expect(r#"{"event":"pusher:pong","data":"{}"}"#);
    }

    /// The next message, as JSON.
    #[track_caller]
    pub fn recv(&mut self) -> Value {
        let text = self.recv_text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    /// The next message, byte for byte.
    #[track_caller]
    pub fn recv_text(&mut self) -> String {
        match self.ws.answering_pings() {
            Some(frame) if frame.opcode == opcode::TEXT => frame.text(),
            Some(frame) if frame.opcode == opcode::CLOSE => panic!("closed: {}", told(&frame)),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// Asserts the next message. Keys may come in any order, also in JSON inside of `data`; whether `data` is a string
    /// or an object must be as written.
    #[track_caller]
    pub fn expect(&mut self, wanted: &str) {
        let wanted: Value = serde_json::from_str(wanted).expect("the test expects JSON");
        let message = self.recv();
        assert_eq!(unfolded(&message), unfolded(&wanted), "\n got {message}\nwant {wanted}");
    }

    /// Asserts that the next message is of this event, and returns it.
    #[track_caller]
    pub fn expect_event(&mut self, event: &str) -> Value {
        let message = self.recv();
        assert_eq!(message["event"], event, "{message}");
        message
    }

    /// Asserts that the next message is a `pusher:error` whose data is an object, and returns that.
    #[track_caller]
    pub fn expect_error(&mut self) -> Value {
        let mut message = self.expect_event("pusher:error");
        assert!(message["data"].is_object(), "{message}");
        message["data"].take()
    }

    /// Asserts that the connection is closed with this code. Messages before it are passed over.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.ws.answering_pings() {
                Some(frame) if frame.opcode == opcode::CLOSE => {
                    return assert_eq!(frame.close_code(), Some(code), "{}", told(&frame));
                }
                Some(_) => {}
                None => panic!("the connection ended without a close frame"),
            }
        }
        panic!("not closed within {PATIENCE:?}");
    }

    /// Asserts that nothing comes for a while.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        if let Ok(frame) = self.ws.frame_within(SILENCE) {
            panic!("expected nothing, got {:?}", frame.map(|frame| frame.text()));
        }
    }
}

/// The JSON inside of a message's `data` string.
pub fn inner(message: &Value) -> Value {
    let data = message["data"].as_str();
    data.and_then(|data| serde_json::from_str(data).ok())
        .unwrap_or_else(|| panic!("data is no string of JSON: {message}"))
}

/// A message with the JSON inside of `data` opened and marked, so that the order of its keys does not matter.
fn unfolded(message: &Value) -> Value {
    let mut message = message.clone();
    let inside = message["data"].as_str().and_then(|data| {
        let value: Value = serde_json::from_str(data).ok()?;
        value.is_object().then_some(value)
    });
    if let Some(inside) = inside {
        message["data"] = json!({"a string of": inside});
    }
    message
}

fn told(close: &Frame) -> String {
    let reason = close.payload.get(2..).unwrap_or_default();
    format!("{:?} {:?}", close.close_code(), String::from_utf8_lossy(reason))
}
