//! The plain WebSocket of `/sub`: what its clients say, and what they are answered.
//!
//! Always true: a mistake of the client's is answered with `fanfare:error` and leaves the connection open.

use std::sync::Arc;

use fanfare_hub::shard::ConnKey;
use fanfare_proto::close::CloseCode;
use fanfare_proto::{feed, json, ws};
use serde::Deserialize;

use super::conn::Talk;
use super::desk::Desk;
use super::listen::{self, Refused};
use crate::apps::App;
use crate::tokens::Claims;

/// What a client of a plain WebSocket may say.
#[derive(Debug, Deserialize)]
struct Ask {
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    unsubscribe: Vec<String>,
    since: Option<String>,
    backtrack: Option<u32>,
    token: Option<String>,
}

impl Desk {
    /// Whether a connection speaks the language of `/sub`.
    pub fn is_feed(&mut self, key: ConnKey) -> bool {
        matches!(self.shard.wire(key).map(|conn| &conn.talk), Some(Talk::Socket))
    }

    /// Answers one text message of a plain WebSocket.
    pub fn hear_feed(&mut self, key: ConnKey, text: &str) {
        let Some(app) = self.app(key) else {
            return self.close_with(key, CloseCode::APP_UNKNOWN, "the app was removed", None);
        };
        let ask: Ask = match json::object(text) {
            Ok(ask) => ask,
            Err(error) => {
                let message = format!(
                    "expected {{\"subscribe\":[channels],\"since\"?:cursor,\"backtrack\"?:n,\"token\"?:jwt}} or {{\"unsubscribe\":[channels]}}: {error}"
                );
                return self.complain_feed(key, None, 400, &message);
            }
        };
        for name in &ask.unsubscribe {
            self.leave_feed(key, &app, name);
        }
        if let Err(refused) = self.join_feed(key, &app, ask) {
            let (channel, refused) = refused;
            self.complain_feed(key, channel.as_deref(), refused.status(), &refused.to_string());
        }
    }

    fn join_feed(&mut self, key: ConnKey, app: &App, ask: Ask) -> Result<(), (Option<String>, Refused)> {
        if let Some(token) = &ask.token {
            let claims = self.reader.tokens.verify(app, token).map_err(|error| (None, error.into()))?;
            self.bear(key, claims);
        }
        let begin = listen::beginning(ask.since.as_deref(), ask.backtrack, app).map_err(|refused| (None, refused))?;
        let claims = self.shard.wire(key).and_then(|conn| conn.claims.clone());
        let mut channels = Vec::with_capacity(ask.subscribe.len());
        let mut refused = None;
        for name in &ask.subscribe {
            match listen::wanted(app, name, claims.as_deref()) {
                Ok(wanted) if self.shard.is_subscribed(key, wanted.key.as_str()) => {}
                Ok(wanted) => channels.push(wanted),
                Err(why) => refused = Some((Some(name.clone()), why)),
            }
        }
        let max = app.limits.channels_per_connection_max as usize;
        if max > 0 && self.shard.subscriptions(key) + channels.len() > max {
            return Err((None, Refused::TooMany(app.limits.channels_per_connection_max)));
        }
        self.subscribe_all(key, channels, begin);
        refused.map_or(Ok(()), Err)
    }

    /// The newest token counts, and its time.
    fn bear(&mut self, key: ConnKey, claims: Claims) {
        let deadline_s = self.expires_s(&claims);
        if let Some(conn) = self.shard.wire(key) {
            conn.deadline_s = deadline_s;
            conn.claims = Some(Arc::new(claims));
        }
    }

    fn leave_feed(&mut self, key: ConnKey, app: &App, name: &str) {
        let channel = Desk::channel_key(app, name);
        if self.shard.unsubscribe(key, channel.as_str()).is_none() {
            return self.complain_feed(key, Some(name), 404, "not subscribed to this channel");
        }
        if let Some(joining) = self.shard.wire(key).and_then(|conn| conn.more.as_mut()?.joining.as_mut()) {
            joining.awaited.retain(|awaited| awaited.key != channel);
        }
        self.forget_member(key, &channel);
        self.control(key, None, "", |out| feed::unsubscribed(out, name));
        self.release_if_complete(key);
    }

    fn complain_feed(&mut self, key: ConnKey, channel: Option<&str>, status: u16, message: &str) {
        self.control(key, None, "fanfare:error", |out| feed::error(out, channel, status, message));
    }
}

/// The heartbeat of a plain WebSocket: pages see no ping frames.
pub fn socket_heartbeat() -> Vec<u8> {
    let mut out = ws::text_frame(br#"{"event":"fanfare:ping"}"#);
    ws::ping_frame(&mut out, b"");
    out
}
