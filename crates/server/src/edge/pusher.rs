//! The Pusher conversation with one connection: what it says, and what it is answered (pusher.com/docs/channels,
//! "Pusher Channels Protocol").
//!
//! Always true: a mistake of the client's is answered with a `pusher:error` that says what was expected, and leaves the
//! connection open; only the WebSocket protocol itself closes it.

use bytes::Bytes;
use fanfare_hub::mail::{Entrance, Replay};
use fanfare_hub::shard::{After, ConnKey, Subscribed, Traits};
use fanfare_hub::{Begin, ChannelKey, Member, Publication, Request, Since, StoreError};
use fanfare_proto::channel::{Access, ChannelKind, ChannelName};
use fanfare_proto::client::ClientMessage;
use fanfare_proto::close::{CloseCode, ErrorCode};
use fanfare_proto::json::json_string_token;
use fanfare_proto::presence::{ChannelData, UserData};
use fanfare_proto::{server, sign};
use serde_json::value::RawValue;

use super::conn::{Talk, User};
use super::desk::Desk;
use super::listen;
use crate::apps::App;

/// Why a subscription was refused. All of them leave the connection open.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Name(#[from] fanfare_proto::channel::BadName),
    #[error("Existing subscription to channel {0}")]
    Already(String),
    #[error("no more than {0} channels per connection")]
    TooMany(u32),
    #[error("{channel} needs auth: the key, a colon, and the HMAC SHA256 hex digest of {text}")]
    NoAuth { channel: String, text: String },
    #[error("Invalid key in subscription auth data: '{0}'")]
    Key(String),
    #[error("Invalid signature: Expected HMAC SHA256 hex digest of {text}, but got {got}")]
    Signature { text: String, got: String },
    #[error("{0}")]
    ChannelData(#[from] fanfare_proto::presence::BadChannelData),
    #[error("a presence channel needs channel_data with a user_id, or a signed-in user")]
    NoChannelData,
    #[error("channel_data has {len} bytes, at most {max} are allowed")]
    ChannelDataSize { len: usize, max: usize },
    #[error("{0} is for the user who signed in by that id")]
    NotTheUser(String),
    #[error("since: {0}")]
    Since(String),
}

impl Refused {
    /// The kind and status of `pusher:subscription_error`.
    fn kind(&self) -> (&'static str, u16) {
        match self {
            Refused::Name(_)
            | Refused::Already(_)
            | Refused::ChannelData(_)
            | Refused::NoChannelData
            | Refused::Since(_) => ("SubscriptionError", 400),
            Refused::TooMany(_) => ("LimitReached", 403),
            Refused::ChannelDataSize { .. } => ("LimitReached", 413),
            Refused::NoAuth { .. } | Refused::Key(_) | Refused::Signature { .. } | Refused::NotTheUser(_) => {
                ("AuthError", 401)
            }
        }
    }
}

/// What a client asks a subscription for.
struct Wish<'a> {
    channel: &'a str,
    auth: Option<&'a str>,
    channel_data: Option<&'a str>,
    since: Option<&'a str>,
    backtrack: Option<u32>,
}

impl Desk {
    /// The first message on a connection: nothing else may come before it.
    pub fn greet(&mut self, key: ConnKey) {
        let (socket, timeout_s) = (self.socket_id(key), self.settings.activity_timeout_s);
        self.say(key, |out| server::established(out, socket, timeout_s));
    }

    /// Answers one text message.
    pub fn hear(&mut self, key: ConnKey, text: &str) {
        let Some(app) = self.app(key) else {
            return self.close_with(key, CloseCode::APP_UNKNOWN, "the app was removed", None);
        };
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Ping) => self.say(key, server::pong),
            Ok(ClientMessage::Pong) => {}
            Ok(ClientMessage::Subscribe { channel, auth, channel_data, since, backtrack }) => {
                let wish = Wish {
                    channel: &channel,
                    auth: auth.as_deref(),
                    channel_data: channel_data.as_deref(),
                    since: since.as_deref(),
                    backtrack,
                };
                if let Err(refused) = self.subscribe(key, &app, &wish) {
                    let (kind, status) = refused.kind();
                    self.refuse(key, &channel, kind, status, &refused.to_string());
                }
            }
            Ok(ClientMessage::Unsubscribe { channel }) => self.unsubscribe(key, &app, &channel),
            Ok(ClientMessage::Signin { auth, user_data }) => {
                if let Err(message) = self.sign_in(key, &app, &auth, &user_data) {
                    self.complain(key, None, &message);
                }
            }
            Ok(ClientMessage::ClientEvent { event, channel, data }) => {
                if let Err((code, message)) = self.client_event(key, &app, &event, &channel, data) {
                    self.complain(key, code, &message);
                }
            }
            Err(error) => self.complain(key, None, &error.to_string()),
        }
    }

    // Subscriptions.

    /// Both forms of a refusal: the official one, and the one that pusher-js shows on the channel.
    fn refuse(&mut self, key: ConnKey, channel: &str, kind: &str, status: u16, message: &str) {
        self.complain(key, None, message);
        self.say(key, |out| server::channel_error(out, channel, kind, message, status));
    }

    fn subscribe(&mut self, key: ConnKey, app: &App, wish: &Wish<'_>) -> Result<(), Refused> {
        let name = ChannelName::parse(wish.channel, app.limits.channel_name_len_max)?;
        let kind = name.kind();
        if let Access::ServerToUser(id) = kind.access {
            return self.subscribe_to_user(key, wish.channel, id);
        }
        let channel = Desk::channel_key(app, wish.channel);
        self.check_room(key, app, &channel)?;
        if kind.needs_auth() {
            self.check_auth(key, app, wish)?;
        }
        let member = if kind.is_presence() { Some(self.member(key, app, wish)?) } else { None };
        if let Some(conn) = self.shard.wire(key).filter(|_| kind.needs_auth()) {
            conn.deadline_s = 0;
        }
        let begin = self.begin(key, app, wish)?;
        self.join(key, app, channel, kind, member, begin);
        Ok(())
    }

    /// From where on, on connections that are told positions; all others begin with what comes.
    fn begin(&mut self, key: ConnKey, app: &App, wish: &Wish<'_>) -> Result<Option<Begin>, Refused> {
        if !matches!(self.shard.wire(key).map(|conn| &conn.talk), Some(Talk::Pusher { positions: true })) {
            return Ok(None);
        }
        let begin = listen::beginning(wish.since, wish.backtrack, app);
        Ok(Some(begin.map_err(|error| Refused::Since(error.to_string()))?.unwrap_or(Since::Now.into())))
    }

    fn check_room(&mut self, key: ConnKey, app: &App, channel: &ChannelKey) -> Result<(), Refused> {
        if self.shard.is_subscribed(key, channel.as_str()) {
            return Err(Refused::Already(channel.name().to_owned()));
        }
        let max = app.limits.channels_per_connection_max;
        let own = self.shard.wire(key).and_then(|conn| conn.user()).map_or(0, |user| user.subscriptions);
        if max > 0 && self.shard.subscriptions(key) - own >= max as usize {
            return Err(Refused::TooMany(max));
        }
        Ok(())
    }

    fn check_auth(&self, key: ConnKey, app: &App, wish: &Wish<'_>) -> Result<(), Refused> {
        let text = sign::channel_text(self.socket_id(key), wish.channel, wish.channel_data);
        let Some(auth) = wish.auth else {
            return Err(Refused::NoAuth { channel: wish.channel.to_owned(), text });
        };
        let (app_key, hex) = sign::split_auth(auth).ok_or_else(|| Refused::Key(shorten(auth)))?;
        let secret = app.secret(app_key).ok_or_else(|| Refused::Key(shorten(app_key)))?;
        if sign::hmac_matches(secret.as_bytes(), text.as_bytes(), hex) {
            Ok(())
        } else {
            Err(Refused::Signature { text, got: shorten(hex) })
        }
    }

    /// Who joins a presence channel: whoever `channel_data` names, else the user who signed in.
    fn member(&mut self, key: ConnKey, app: &App, wish: &Wish<'_>) -> Result<Member, Refused> {
        let Some(channel_data) = wish.channel_data else {
            let user = self.shard.wire(key).and_then(|conn| conn.user()).ok_or(Refused::NoChannelData)?;
            let user_info = user.user_info.as_deref().map(|info| info.get().into());
            return Ok(Member { user_id: user.id.clone(), user_info });
        };
        let (len, max) = (channel_data.len(), app.limits.presence_member_bytes_max);
        if len > max {
            return Err(Refused::ChannelDataSize { len, max });
        }
        let ChannelData { user_id, user_info } = ChannelData::parse(channel_data)?;
        Ok(Member { user_id, user_info: user_info.map(|info| info.get().into()) })
    }

    fn join(
        &mut self,
        key: ConnKey,
        app: &App,
        channel: ChannelKey,
        kind: ChannelKind<'_>,
        member: Option<Member>,
        begin: Option<Begin>,
    ) {
        let traits = Traits {
            presence: kind.is_presence(),
            announce: app.subscription_count && !kind.is_presence(),
            newest: app.keeps_newest(channel.name()),
        };
        let hold = kind.is_presence() || kind.cache || begin.is_some();
        let subscribed = self.shard.subscribe(key, channel.as_str(), traits, hold);
        if let (Some(member), Some(conn)) = (&member, self.shard.wire(key)) {
            conn.more().members.push((channel.name().into(), json_string_token(&member.user_id).into()));
        }
        if let Subscribed::Held(token) = subscribed {
            let (from, socket, cached) = (self.index, self.socket_id(key), kind.cache);
            let member = member.map(|member| (member, app.limits.presence_members_max));
            self.ask(Request::Enter { key: channel, from, conn: key, token, socket, member, cached, begin });
        } else if subscribed == Subscribed::Live {
            self.say(key, |out| server::subscription_succeeded(out, channel.name(), None));
        }
    }

    fn subscribe_to_user(&mut self, key: ConnKey, channel: &str, id: &str) -> Result<(), Refused> {
        let signed_in = self.shard.wire(key).and_then(|conn| conn.user()).is_some_and(|user| user.id == id);
        if !signed_in {
            return Err(Refused::NotTheUser(channel.to_owned()));
        }
        // Signing in has subscribed the connection already.
        self.say(key, |out| server::subscription_succeeded(out, channel, None));
        Ok(())
    }

    fn unsubscribe(&mut self, key: ConnKey, app: &App, channel: &str) {
        if channel.starts_with('#') {
            // A user's own channel stays for as long as the user is signed in.
            return;
        }
        let id = Desk::channel_key(app, channel);
        if self.shard.unsubscribe(key, id.as_str()).is_none() {
            let message =
                format!("No current subscription to channel {}, or subscription in progress", shorten(channel));
            return self.complain(key, None, &message);
        }
        self.forget_member(key, &id);
    }

    /// The gate of a channel is open.
    pub fn opened(&mut self, channel: &ChannelKey) {
        // Nobody asked in so many words for a channel that begins with '#'.
        let asked = !channel.name().starts_with('#');
        self.shard.opened(channel, |conn| match asked {
            true => conn.stream.envelope().around(|out| server::subscription_succeeded(out, channel.name(), None)),
            false => Bytes::new(),
        });
    }

    /// The gate of a channel stayed shut.
    pub fn refused(&mut self, channel: &ChannelKey) {
        for key in self.shard.refused(channel) {
            self.forget_member(key, channel);
            match self.shard.wire(key).map(|conn| &conn.talk) {
                Some(Talk::Pusher { .. }) => self.depart(key),
                _ => self.feed_refused(key, channel, 503, "the channel cannot be opened now: try again later"),
            }
        }
    }

    /// Takes back a request to enter a presence channel: it may be served all the same, before or after this.
    pub fn forget_member(&mut self, key: ConnKey, channel: &ChannelKey) {
        let Some(more) = self.shard.wire(key).and_then(|conn| conn.more.as_mut()) else { return };
        let before = more.members.len();
        more.members.retain(|(name, _)| &**name != channel.name());
        if more.members.len() < before {
            let socket = self.socket_id(key);
            self.ask(Request::Leave { key: channel.clone(), socket, may_return: false });
        }
    }

    /// The control plane let a subscriber into a presence or cache channel, or did not.
    pub fn entered(&mut self, channel: &ChannelKey, key: ConnKey, token: u32, outcome: Result<Entrance, StoreError>) {
        if !self.shard.awaits(key, channel.as_str(), token) {
            // It has left, and perhaps asked again since.
            return;
        }
        if !matches!(self.shard.wire(key).map(|conn| &conn.talk), Some(Talk::Pusher { .. })) {
            return self.feed_entered(key, channel, token, outcome);
        }
        match outcome {
            Ok(entrance) => self.welcome(key, channel, token, entrance),
            Err(error) => self.not_entered(channel, key, error),
        }
    }

    fn welcome(&mut self, key: ConnKey, channel: &ChannelKey, token: u32, entrance: Entrance) {
        let Some(conn) = self.shard.wire(key) else { return };
        let envelope = conn.stream.envelope();
        let Entrance { roster, cached, replay } = entrance;
        let cached_at = cached.iter().flatten().map(|cached| cached.mark.position).next();
        let after = After {
            stored: replay.as_ref().map(|replay| replay.now.position).or(cached_at),
            presence: roster.as_ref().map(|(_, version)| *version),
        };
        let welcome = envelope.around(|out| {
            server::subscription_succeeded(out, channel.name(), roster.as_ref().map(|(json, _)| json.as_str()));
            if let Some(Replay { now, recovered, frames }) = &replay {
                // Where it will stand when it has been shown what it missed: nothing to be kept before that.
                let cursor = frames.is_empty().then(|| now.cursor(channel).to_string());
                server::recovered(out, *recovered, cursor.as_deref());
            }
        });
        let mut welcome = welcome.to_vec();
        match cached {
            None => {}
            Some(None) => welcome.extend_from_slice(&envelope.around(|out| server::cache_miss(out, channel.name()))),
            Some(Some(cached)) => welcome.extend_from_slice(&envelope.around(|out| {
                out.extend_from_slice(&cached.publication.text(channel.name()));
                if replay.is_some() {
                    let cursor = cached.mark.cursor(channel).to_string();
                    server::positioned(out, Some(&cursor), cached.publication.event_id.as_deref());
                }
            })),
        }
        if let (Some(replay), Some(form)) = (replay.filter(|replay| !replay.frames.is_empty()), self.shard.form(key)) {
            welcome.extend_from_slice(&self.replays.bytes(form, &replay.frames));
        }
        self.shard.entered(key, channel.as_str(), token, welcome.into(), after);
    }

    fn not_entered(&mut self, channel: &ChannelKey, key: ConnKey, error: StoreError) {
        self.shard.unsubscribe(key, channel.as_str());
        self.forget_member(key, channel);
        match error {
            StoreError::Full { .. } => self.refuse(key, channel.name(), "LimitReached", 403, &error.to_string()),
            // No client library subscribes again after a refusal, and all do after a new connection.
            StoreError::Unavailable => self.depart(key),
        }
    }

    // Client events.

    fn client_event(
        &mut self,
        key: ConnKey,
        app: &App,
        event: &str,
        channel: &str,
        data: Option<&RawValue>,
    ) -> Result<(), (Option<u16>, String)> {
        let user_id = self.may_publish(key, app, event, channel).map_err(|message| (None, message))?;
        let data = data.map_or("\"{}\"".into(), server::string_token);
        let (len, max) = (server::string_token_len(&data), app.limits.payload_bytes_max);
        if len > max {
            return Err((None, format!("Client event rejected - its data has {len} bytes, at most {max} are allowed")));
        }
        let (now_ms, rate) = (self.now_ms, app.limits.client_events_per_s);
        let conn = self.shard.wire(key).expect("whoever is heard is open");
        if !conn.more().events.take(now_ms, rate) {
            let message = format!("Client event rejected - at most {rate} client events per second are allowed");
            return Err((Some(ErrorCode::ClientEventRate.code()), message));
        }
        let mut publication = Publication::event(json_string_token(event), &*data);
        publication.permit = Some(app.usage.client_event_window.try_take(1, len).ok_or_else(|| {
            let message = "Client event rejected - the app publishes faster than its subscribers are served";
            (Some(ErrorCode::ClientEventRate.code()), message.to_owned())
        })?);
        publication.user_id = user_id;
        publication.except = Some(self.socket_id(key));
        let (from, publication) = (self.index, publication.into());
        self.ask(Request::Publish { key: Desk::channel_key(app, channel), from, conn: key, publication });
        Ok(())
    }

    /// Checks the conditions for client events; returns the user to name on presence channels.
    fn may_publish(&mut self, key: ConnKey, app: &App, event: &str, channel: &str) -> Result<Option<Box<str>>, String> {
        let name = ChannelName::parse(channel, app.limits.channel_name_len_max).map_err(|error| error.to_string())?;
        if !app.client_events {
            return Err(
                "Client event rejected - you must enable this feature for the app (client_events = true)".into()
            );
        }
        if !name.kind().takes_client_events() {
            return Err("Client event rejected - only supported on private and presence channels".into());
        }
        if event.len() > app.limits.event_name_len_max {
            return Err(format!("Client event rejected - its name is longer than {}", app.limits.event_name_len_max));
        }
        if !self.shard.is_live(key, Desk::channel_key(app, channel).as_str()) {
            return Err(format!("No current subscription to channel {channel}, or subscription in progress"));
        }
        let members = self.shard.wire(key).and_then(|conn| conn.more.as_ref()).map(|more| &more.members);
        Ok(members.and_then(|members| members.iter().find(|(name, _)| &**name == channel)).map(|(_, id)| id.clone()))
    }

    // Users.

    fn sign_in(&mut self, key: ConnKey, app: &App, auth: &str, user_data: &str) -> Result<(), String> {
        let text = sign::user_text(self.socket_id(key), user_data);
        let invalid_key = || format!("Invalid key in signin auth data: '{}'", shorten(auth));
        let (app_key, hex) = sign::split_auth(auth).ok_or_else(invalid_key)?;
        let secret = app.secret(app_key).ok_or_else(invalid_key)?;
        if !sign::hmac_matches(secret.as_bytes(), text.as_bytes(), hex) {
            return Err(format!(
                "Invalid signature: Expected HMAC SHA256 hex digest of {text}, but got {}",
                shorten(hex)
            ));
        }
        let user = UserData::parse(user_data).map_err(|error| error.to_string())?;
        let conn = self.shard.wire(key).expect("whoever is heard is open");
        match conn.user() {
            Some(signed_in) if signed_in.id != user.id => {
                return Err(format!("this connection is signed in as {}: connect anew to change users", signed_in.id));
            }
            Some(_) => {
                self.say(key, |out| server::signin_success(out, user_data));
                return Ok(());
            }
            None => {}
        }
        conn.deadline_s = 0;
        self.signed_in(key, app, user, user_data);
        Ok(())
    }

    fn signed_in(&mut self, key: ConnKey, app: &App, user: UserData, user_data: &str) {
        let mut watchlist = user.watchlist;
        let mut welcome = vec![json_text(|out| server::signin_success(out, user_data))];
        if watchlist.len() > app.limits.watchlist_max {
            watchlist.truncate(app.limits.watchlist_max);
            let message = format!("watchlist limit reached: the first {} users are watched", app.limits.watchlist_max);
            welcome.push(json_text(|out| server::error(out, Some(ErrorCode::WatchlistLimit.code()), &message)));
        }
        let own = fanfare_hub::hub::user_channel(&app.id, &user.id);
        let before = self.shard.subscriptions(key);
        self.shard.subscribe(key, own.as_str(), Traits::default(), false);
        for watched in &watchlist {
            let channel = fanfare_hub::hub::watch_channel(&app.id, watched);
            self.shard.subscribe(key, channel.as_str(), Traits::default(), false);
        }
        let subscriptions = self.shard.subscriptions(key) - before;
        let conn = self.shard.wire(key).expect("whoever is heard is open");
        let channel = own.clone();
        conn.more().user = Some(User { id: user.id.clone(), channel, user_info: user.user_info, subscriptions });
        let (from, socket) = (self.index, self.socket_id(key));
        self.ask(Request::SignedIn { key: own, from, conn: key, socket, user: user.id, watchlist, welcome });
    }
}

fn json_text(message: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out);
    out
}

/// What a peer sent, short enough to be sent back.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}
