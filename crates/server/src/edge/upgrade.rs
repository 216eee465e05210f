//! What a WebSocket upgrade asks for, and whether it may (RFC 6455 §4.2, Pusher Channels protocol "Connection").
//!
//! A pure function of the request head, but for the counts of connections that it raises when it admits one.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fanfare_proto::close::CloseCode;
use fanfare_proto::{deflate, version, ws};

use super::listen::{Listen, Reader};
use super::{Admission, Occupancy, Refusal, Settings};
use crate::apps::{App, Apps};

/// A request head, however it was parsed.
pub trait Head {
    /// Path and query as sent.
    fn target(&self) -> &str;
    /// Whether it is of HTTP/1.1 or later.
    fn is_http_11(&self) -> bool;
    /// The value of a header; several of one name are joined with commas.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// A handshake that can be answered with 101.
#[derive(Debug, PartialEq, Eq)]
pub struct Handshake {
    accept: String,
    extensions: Option<&'static str>,
    protocol: Option<String>,
}

/// Why a handshake is answered with a status instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHandshake {
    /// Another version of the WebSocket protocol.
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    /// The key is not 16 bytes in base64.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
}

impl Handshake {
    /// Whether messages may be compressed both ways.
    pub fn deflates(&self) -> bool {
        self.extensions.is_some()
    }

    /// The headers of the 101 response.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fixed =
            [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", self.accept.as_str())];
        let extensions = self.extensions.map(|value| ("Sec-WebSocket-Extensions", value));
        let protocol = self.protocol.as_deref().map(|value| ("Sec-WebSocket-Protocol", value));
        fixed.into_iter().chain(extensions).chain(protocol)
    }

    /// The 101 response as bytes.
    pub fn response(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        for (name, value) in self.headers() {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// Whether a request wants to become a WebSocket.
pub fn is_upgrade(head: &impl Head) -> bool {
    let has = |name: &str, token: &str| {
        head.header(name).is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    has("upgrade", "websocket") && has("connection", "upgrade")
}

/// Reads the handshake; `deflate`: whether compression may be agreed on.
pub fn handshake(head: &impl Head, deflate: bool) -> Result<Handshake, BadHandshake> {
    if head.header("sec-websocket-version").as_deref().map(str::trim) != Some("13") {
        return Err(BadHandshake::Version);
    }
    let key = head.header("sec-websocket-key").ok_or(BadHandshake::Key)?;
    let key = key.trim();
    // 16 bytes in base64 are 22 digits and two signs of padding.
    if key.len() != 24 || !key.ends_with("==") {
        return Err(BadHandshake::Key);
    }
    let extensions = head.header("sec-websocket-extensions").filter(|_| deflate);
    let protocol = head.header("sec-websocket-protocol");
    let protocol = protocol.and_then(|offered| offered.split(',').next().map(|first| first.trim().to_owned()));
    Ok(Handshake {
        accept: ws::accept_key(key),
        extensions: extensions.and_then(|offers| deflate::negotiate(&offers)),
        protocol: protocol.filter(|protocol| !protocol.is_empty()),
    })
}

/// Decides who may stay; counts those who may.
#[derive(Clone)]
pub struct Gatekeeper {
    /// The tenants.
    pub apps: Apps,
    /// What requests under `/sub` ask for.
    pub reader: Reader,
    /// The node's rules.
    pub settings: Arc<Settings>,
    /// The node's count.
    pub occupancy: Occupancy,
}

impl Gatekeeper {
    /// Whether a path, with or without the prefix, is one that subscribers ask for, by whatever transport.
    pub fn is_for_subscribers(&self, path: &str) -> bool {
        let bare = path.strip_prefix(self.settings.path_prefix.as_str()).unwrap_or(path);
        self.reader.is_ours(path) || ["/app/", "/pusher/app/"].iter().any(|begin| bare.starts_with(begin))
    }

    /// Admits a connection or says why not.
    pub fn decide(&self, head: &impl Head, handshake: &Handshake) -> Result<Admission, Refusal> {
        let deflate = handshake.extensions.is_some();
        let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
        if self.settings.echo && path == "/echo" {
            self.take_place(None)?;
            return Ok(Admission::Echo { deflate });
        }
        let path = path.strip_prefix(self.settings.path_prefix.as_str()).unwrap_or(path);
        let key = path.strip_prefix("/app/").ok_or_else(|| {
            refuse(CloseCode::PATH_UNKNOWN, format!("there is nothing at {}: expected /app/{{key}}", shown(path)))
        })?;
        let key = key.trim_end_matches('/');
        self.decide_pusher(key, query, head.header("origin").as_deref(), deflate)
    }

    /// Admits a Pusher connection by whatever transport, or says why not.
    pub fn decide_pusher(
        &self,
        key: &str,
        query: &str,
        origin: Option<&str>,
        deflate: bool,
    ) -> Result<Admission, Refusal> {
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        version::protocol(parameter("protocol")).map_err(|code| refuse(code, code.reason()))?;
        let app = self.apps.by_key(key);
        let app =
            app.ok_or_else(|| refuse(CloseCode::APP_UNKNOWN, format!("there is no app with key {}", shown(key))))?;
        self.check(&app, origin)?;
        self.take_place(Some(&app))?;
        Ok(Admission::Pusher { app, deflate, positions: parameter("positions") == Some("1") })
    }

    /// Admits a subscriber of `/sub` or says why not.
    pub fn admit(&self, listen: Listen, deflate: bool) -> Result<Admission, Refusal> {
        self.take_place(Some(&listen.app))?;
        Ok(Admission::Feed { listen: Box::new(listen), deflate })
    }

    /// Uncounts a connection that never came to be.
    pub fn give_back(&self, admission: &Admission) {
        self.occupancy.fetch_sub(1, Ordering::Relaxed);
        if let Some(app) = admission.app() {
            app.usage.disconnect();
        }
    }

    fn check(&self, app: &App, origin: Option<&str>) -> Result<(), Refusal> {
        if !app.enabled {
            return Err(refuse(CloseCode::APP_DISABLED, "the app is disabled"));
        }
        if !app.origin_allowed(origin) {
            let origin = shown(origin.unwrap_or("(none)"));
            return Err(refuse(CloseCode::UNAUTHORIZED, format!("origin {origin} is not allowed by the app")));
        }
        Ok(())
    }

    /// Counts one more connection, of the app and of the node, unless there are as many as there may be.
    pub fn take_place(&self, app: Option<&App>) -> Result<(), Refusal> {
        let node_max = self.settings.connections_max;
        if !take(&self.occupancy, node_max) {
            let message = format!("the node is full: it takes {node_max} connections");
            return Err(refuse(CloseCode::OVER_CAPACITY, message));
        }
        let Some(app) = app else { return Ok(()) };
        if !app.connect() {
            self.occupancy.fetch_sub(1, Ordering::Relaxed);
            let message = format!("the app is at its limit of {} connections", app.limits.connections_max);
            return Err(refuse(CloseCode::OVER_QUOTA, message));
        }
        Ok(())
    }
}

fn take(count: &AtomicU32, max: u32) -> bool {
    if max == 0 {
        count.fetch_add(1, Ordering::Relaxed);
        return true;
    }
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
}

fn refuse(code: CloseCode, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

/// What a peer sent, short enough to be sent back.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
