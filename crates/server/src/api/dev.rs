//! `/pusher/auth`, `/pusher/user-auth`, `/fanfare/token` and `/demo/…`: what an application's own server would answer and
//! do, for clients under development.
//!
//! They let anybody in as anybody, so they exist for the development app alone, whose secret is public anyway and which
//! is never served beyond this machine. Pages of any origin may ask.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use fanfare_jobs::{Kind, Spec};
use fanfare_proto::channel::{Access, BadName, ChannelName};
use fanfare_proto::json::{self, BadObject, Text};
use fanfare_proto::sign::{channel_text, hmac_hex, user_text};
use fanfare_proto::socket_id::{BadSocketId, SocketId};
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, CONTENT_TYPE, HeaderMap, HeaderValue,
};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Answer;
use super::jobs::{self, BadJobs};
use super::route::Grant;
use crate::apps::App;
use crate::body;
use crate::config::COMMENTS;
use crate::queues::Queues;
use crate::tokens;

/// The 32 bytes from which the keys of encrypted channels are made. Fixed, as publishers need them too:
/// `encryptionMasterKeyBase64` is `ZmFuZmFyZS1kZXZlbG9wbWVudC1tYXN0ZXIta2V5LTE=`.
const MASTER_KEY: &[u8; 32] = b"fanfare-development-master-key-1";

/// Short enough that a client under development is seen to fetch another one.
const TOKEN_LIFE_S: u64 = 600;

/// Why there is nothing to sign.
#[derive(Debug, thiserror::Error)]
pub enum BadAsk {
    /// A body in JSON that is not the object that was expected.
    #[error("the body: {0}; expected socket_id and channel_name, as a form or as JSON")]
    Body(#[from] BadObject),
    /// A field is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A form's `user_info` or `watchlist` is not JSON.
    #[error("{0} must be JSON")]
    NotJson(&'static str),
    /// No socket can have this id.
    #[error("socket_id: {0}")]
    SocketId(#[from] BadSocketId),
    /// No channel can have this name.
    #[error(transparent)]
    ChannelName(#[from] BadName),
    /// Anybody may subscribe to it.
    #[error("{0} is no private- or presence- channel: it needs no authorisation")]
    Public(String),
}

/// What a client wants signed.
#[derive(Debug, Default, Deserialize)]
struct Ask {
    socket_id: Option<String>,
    channel_name: Option<String>,
    user_id: Option<String>,
    user_info: Option<Box<RawValue>>,
    watchlist: Option<Box<RawValue>>,
}

impl Ask {
    fn parse(headers: &HeaderMap, body: &str) -> Result<Self, BadAsk> {
        let json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        if json { Ok(json::object(body)?) } else { Ask::parse_form(body) }
    }

    fn parse_form(body: &str) -> Result<Self, BadAsk> {
        let raw = |text: String, name| RawValue::from_string(text).map_err(|_| BadAsk::NotJson(name));
        let mut ask = Ask::default();
        for (name, value) in form_urlencoded::parse(body.as_bytes()) {
            let value = value.into_owned();
            match &*name {
                "socket_id" => ask.socket_id = Some(value),
                "channel_name" => ask.channel_name = Some(value),
                "user_id" => ask.user_id = Some(value),
                "user_info" => ask.user_info = Some(raw(value, "user_info")?),
                "watchlist" => ask.watchlist = Some(raw(value, "watchlist")?),
                // Applications send fields of their own.
                _ => {}
            }
        }
        Ok(ask)
    }

    fn socket(&self) -> Result<SocketId, BadAsk> {
        Ok(self.socket_id.as_deref().ok_or(BadAsk::Missing("socket_id"))?.parse()?)
    }

    /// Who does not say who it is, is its socket: so a client without further options has presence, too.
    fn user_id(&self, socket: SocketId) -> String {
        self.user_id.clone().unwrap_or_else(|| socket.to_string())
    }
}

/// Signs what the body asks for.
pub fn grant(app: &App, grant: Grant, headers: &HeaderMap, body: &[u8]) -> Answer {
    let ask = Ask::parse(headers, body::text(body)?)?;
    Ok(match grant {
        Grant::Channel => super::ok(&channel_grant(app, &ask)?),
        Grant::User => super::ok(&user_grant(app, &ask)?),
        Grant::Token => super::ok(&token_grant(app, &ask)?),
    })
}

#[derive(Debug, Serialize)]
struct ChannelGrant {
    auth: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_secret: Option<String>,
}

fn channel_grant(app: &App, ask: &Ask) -> Result<ChannelGrant, BadAsk> {
    #[derive(Serialize)]
    struct ChannelData<'a> {
        user_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_info: Option<&'a RawValue>,
    }
    let socket = ask.socket()?;
    let name = ask.channel_name.as_deref().ok_or(BadAsk::Missing("channel_name"))?;
    let kind = ChannelName::parse(name, app.limits.channel_name_len_max)?.kind();
    if !kind.needs_auth() {
        return Err(BadAsk::Public(name.to_owned()));
    }
    let channel_data = kind
        .is_presence()
        .then(|| to_json(&ChannelData { user_id: ask.user_id(socket), user_info: ask.user_info.as_deref() }));
    Ok(ChannelGrant {
        auth: signed(app, &channel_text(socket, name, channel_data.as_deref())),
        channel_data,
        shared_secret: (kind.access == Access::PrivateEncrypted).then(|| shared_secret(name)),
    })
}

#[derive(Debug, Serialize)]
struct UserGrant {
    auth: String,
    user_data: String,
}

fn user_grant(app: &App, ask: &Ask) -> Result<UserGrant, BadAsk> {
    #[derive(Serialize)]
    struct UserData<'a> {
        id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_info: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        watchlist: Option<&'a RawValue>,
    }
    let socket = ask.socket()?;
    let user_data = to_json(&UserData {
        id: ask.user_id(socket),
        user_info: ask.user_info.as_deref(),
        watchlist: ask.watchlist.as_deref(),
    });
    Ok(UserGrant { auth: signed(app, &user_text(socket, &user_data)), user_data })
}

#[derive(Debug, Serialize)]
struct TokenGrant {
    token: String,
}

fn token_grant(app: &App, ask: &Ask) -> Result<TokenGrant, BadAsk> {
    #[derive(Serialize)]
    struct Claims<'a> {
        channels: [&'a str; 1],
        sub: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        info: Option<&'a RawValue>,
        iat: u64,
        exp: u64,
    }
    let sub = ask.user_id.as_deref().ok_or(BadAsk::Missing("user_id"))?;
    let iat = tokens::now_s();
    let claims = Claims { channels: ["*"], sub, info: ask.user_info.as_deref(), iat, exp: iat + TOKEN_LIFE_S };
    let pair = app.first_key();
    Ok(TokenGrant { token: tokens::sign(&pair.key, &pair.secret, &to_json(&claims)) })
}

fn signed(app: &App, text: &str) -> String {
    let pair = app.first_key();
    format!("{}:{}", pair.key, hmac_hex(pair.secret.as_bytes(), text.as_bytes()))
}

/// The key of an encrypted channel, as the server libraries make it.
fn shared_secret(channel: &str) -> String {
    BASE64_STANDARD.encode(Sha256::new().chain_update(channel).chain_update(MASTER_KEY).finalize())
}

fn to_json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("strings and JSON have a JSON form")
}

/// Puts a comment of the demo page where the development app's pipeline takes it from, as a site's own server would.
pub async fn comment(queues: &Queues, app: &App, kind: Kind, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Comment<'a> {
        #[serde(borrow)]
        id: Text<'a>,
    }
    let expected = "{\"id\":…,\"forum\":…,\"thread\":…,\"user\":…,\"text\":…}";
    let comment: Comment = json::object(body::text(&body)?).map_err(|bad| BadJobs::Body { bad, expected })?;
    // What happens to one comment is shown in the order in which it happened.
    let spec = Spec { kind, key: Some((*comment.id.0).into()), data: body.clone(), ..Spec::default() };
    let queue = jobs::queue(queues, app, COMMENTS)?;
    queue.put(vec![spec]).await?;
    Ok(super::empty_object())
}

/// Answers a browser that asks first whether a page of another origin may ask.
pub fn preflight(headers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut response = with_cors(Response::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    // Named one by one, as `*` does not cover Authorization.
    let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let allowed = asked.unwrap_or(HeaderValue::from_static("content-type"));
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    response.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// Lets a page of any origin read the answer.
pub fn with_cors(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::Apps;
    use crate::config::Config;

    fn grant(form: &str) -> Result<ChannelGrant, BadAsk> {
        let app = Apps::new(&Config::default()).by_id("1").expect("the development app");
        channel_grant(&app, &Ask::parse_form(form)?)
    }

    fn signature(text: &str) -> String {
        format!("fanfare-key:{}", hmac_hex(b"fanfare-secret", text.as_bytes()))
    }

    #[test]
    fn a_private_channel_is_signed() {
        let grant = grant("socket_id=1.2&channel_name=private-a%40b").expect("signed");
        assert_eq!(grant.auth, signature("1.2:private-a@b"));
        assert_eq!((grant.channel_data, grant.shared_secret), (None, None));
    }

    #[test]
    fn presence_carries_who_it_is() {
        let form = "socket_id=1.2&channel_name=presence-a&user_id=ann&user_info=%7B%22name%22%3A%22Ann+B%22%7D";
        let data = r#"{"user_id":"ann","user_info":{"name":"Ann B"}}"#;
        let told = grant(form).expect("signed");
        assert_eq!(told.channel_data.as_deref(), Some(data));
        assert_eq!(told.auth, signature(&format!("1.2:presence-a:{data}")));

        let anonymous = grant("socket_id=1.2&channel_name=presence-a").expect("signed");
        assert_eq!(anonymous.channel_data.as_deref(), Some(r#"{"user_id":"1.2"}"#));
    }

    #[test]
    fn an_encrypted_channel_has_a_key_of_its_own() {
        let secret = |name| {
            grant(&format!("socket_id=1.2&channel_name=private-encrypted-{name}")).expect("signed").shared_secret
        };
        // SHA-256 of the channel's name and the master key.
        assert_eq!(secret("a").as_deref(), Some("PggKPMjTSEXRrykPQK9exLf8XzN7fuIcmJ3RmGgs0sc="));
        assert_ne!(secret("a"), secret("b"));
        assert_eq!(BASE64_STANDARD.encode(MASTER_KEY), "ZmFuZmFyZS1kZXZlbG9wbWVudC1tYXN0ZXIta2V5LTE=");
    }

    #[test]
    fn json_is_taken_as_well() {
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))]);
        let ask =
            Ask::parse(&headers, r#"{"socket_id":"1.2","user_id":"ann","user_info":{"a":1},"watchlist":["ben"]}"#);
        let app = Apps::new(&Config::default()).by_id("1").expect("the development app");
        let grant = user_grant(&app, &ask.expect("an object")).expect("signed");
        assert_eq!(grant.user_data, r#"{"id":"ann","user_info":{"a":1},"watchlist":["ben"]}"#);
        assert_eq!(grant.auth, signature(&format!("1.2::user::{}", grant.user_data)));
    }

    #[test]
    fn a_token_reads_every_channel_for_a_while() {
        let app = Apps::new(&Config::default()).by_id("1").expect("the development app");
        let ask = Ask::parse_form("user_id=ann&user_info=%7B%22name%22%3A%22Ann%22%7D").expect("a form");
        let claims = tokens::Tokens::default().verify(&app, &token_grant(&app, &ask).expect("signed").token);
        let claims = claims.expect("a good token");
        assert!(claims.may_read("presence-demo") && claims.may_read("private-a") && !claims.may_publish("a"));
        assert_eq!((claims.sub.as_deref(), claims.info.as_deref()), (Some("ann"), Some(r#"{"name":"Ann"}"#)));
        assert_eq!(claims.exp_s.saturating_sub(tokens::now_s()).div_ceil(60), 10);

        let anonymous = token_grant(&app, &Ask::default()).expect_err("nobody");
        assert_eq!(anonymous.to_string(), "user_id is missing");
    }

    #[test]
    fn what_cannot_be_signed_is_refused() {
        let says = |form: &str, message: &str| assert_eq!(grant(form).expect_err(form).to_string(), message);
        says("", "socket_id is missing");
        says("socket_id=1.2", "channel_name is missing");
        says("socket_id=1.2&channel_name=a", "a is no private- or presence- channel: it needs no authorisation");
        says("socket_id=1.2&channel_name=presence-a&user_info=x", "user_info must be JSON");
    }
}
