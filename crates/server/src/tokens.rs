//! Tokens: what lets a client read private and presence channels over plain HTTP, or publish to some.
//!
//! A token is a JWT (RFC 7519) that the application signs with one of its app's secrets (HS256), whose key the header
//! names as `kid`. No other algorithm is known here, so none can be chosen by whoever sends a token.
//!
//! Always true:
//! - claims are not looked at before the signature has been;
//! - a token is never logged or shown, in whole or in part.
//!
//! Not here: where a request carries its token, and what becomes of open connections when one is revoked (`app`).

mod claims;
mod revoked;
#[cfg(test)]
mod tests;

pub use claims::Claims;
pub use revoked::{BadRevocation, Whose};

use crate::apps::App;
use crate::config::Secret;
use crate::data::Journal;
use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use fanfare_proto::channel::BadName;
use fanfare_proto::json::{self, Text};
use fanfare_proto::sign::{digest_matches, hmac_digest};
use revoked::Revocations;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, io};
use tokio::sync::watch;
use tokio::time::timeout;

/// Bytes of a token. It has to fit into a request head of 16 KiB, beside everything else.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// How far the clock of whoever made a token may be from ours.
const LEEWAY_S: u64 = 5;

/// How long a revocation waits for the loops.
const HEEDED_MAX: Duration = Duration::from_secs(1);

/// Why a token lets nobody in. All of them are 401: a new token may do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Too long to be looked at.
    #[error("a token may have {TOKEN_BYTES_MAX} bytes, this one has {found}")]
    TooLong {
        /// Bytes in it.
        found: usize,
    },
    /// Not a JWT.
    #[error("not a token: expected a JWT, three parts in base64url with dots between")]
    Shape,
    /// Another algorithm, or none.
    #[error("the token's header must say alg HS256")]
    Algorithm,
    /// The header demands what is not known here.
    #[error("the token's header asks for extensions (crit), and none is known here")]
    Extensions,
    /// No such key, or that of another app.
    #[error("the token's header must say as kid which of this app's keys signed it")]
    Key,
    /// Not what the holder of the secret signed.
    #[error("the token is not signed with the secret of its kid")]
    Signature,
    /// Signed, but no claims that say what is needed.
    #[error(
        "the token's claims must be exp (seconds since 1970) and channels or publish (lists of names, or of beginnings \
         with a *); sub, jti and info are welcome"
    )]
    Claims,
    /// What no channel can be called.
    #[error("the token's channels: {0}")]
    Channel(#[from] BadName),
    /// Over.
    #[error("the token expired {ago_s} s ago")]
    Expired {
        /// Since then.
        ago_s: u64,
    },
    /// Not good yet.
    #[error("the token is good in {in_s} s only (nbf)")]
    Early {
        /// Until then.
        in_s: u64,
    },
    /// Taken back.
    #[error("the token was revoked")]
    Revoked,
}

/// Who may come in, and who no longer. Cheap to clone; clones share the revocations.
#[derive(Debug, Clone)]
pub struct Tokens {
    ledger: Arc<Mutex<Ledger>>,
    /// How many revocations there have been.
    changes: Arc<watch::Sender<u64>>,
    /// Up to which of them all connections of this node have been asked again.
    heeded: Arc<watch::Sender<u64>>,
    peers: Arc<OnceLock<Arc<dyn Peers>>>,
}

/// The other nodes that serve the same apps.
#[async_trait]
pub trait Peers: Send + Sync {
    /// Tells those that run of a revocation, a line of the journal, and those that start before it ends.
    async fn tell(&self, line: &str) -> Result<(), BadRevocation>;
}

impl fmt::Debug for dyn Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peers")
    }
}

/// The revocations, and where they are written down so that a restart does not let anybody in again.
#[derive(Debug, Default)]
struct Ledger {
    revocations: Revocations,
    journal: Option<Journal>,
}

impl Default for Tokens {
    /// Revocations end with this process.
    fn default() -> Tokens {
        let (changes, heeded) = (Arc::new(watch::Sender::new(0)), Arc::new(watch::Sender::new(0)));
        Tokens { ledger: Arc::default(), changes, heeded, peers: Arc::default() }
    }
}

impl Tokens {
    /// Goes on with the revocations that `text` holds, and writes further ones to the journal that it is from.
    pub fn kept_in(journal: Journal, text: &str) -> Tokens {
        let mut ledger = Ledger { revocations: Revocations::restored(text, now_s()), journal: Some(journal) };
        ledger.rewrite();
        Tokens { ledger: Arc::new(Mutex::new(ledger)), ..Tokens::default() }
    }

    /// What the token says, if it is good and the app's own.
    pub fn verify(&self, app: &App, token: &str) -> Result<Claims, BadToken> {
        self.verify_at(app, token, now_s())
    }

    fn verify_at(&self, app: &App, token: &str, now_s: u64) -> Result<Claims, BadToken> {
        let claims = Claims::parse(&payload(app, token)?)?;
        if claims.until_s() <= now_s {
            return Err(BadToken::Expired { ago_s: now_s - claims.exp_s });
        }
        if claims.nbf_s > now_s + LEEWAY_S {
            return Err(BadToken::Early { in_s: claims.nbf_s - now_s });
        }
        match self.ledger().revocations.covers(&app.id, &claims, now_s) {
            true => Err(BadToken::Revoked),
            false => Ok(claims),
        }
    }

    /// Whether the token that said this has been taken back since.
    pub fn is_revoked(&self, app: &str, claims: &Claims) -> bool {
        self.ledger().revocations.covers(app, claims, now_s())
    }

    /// Takes tokens back on this node; returns the journal's line. `exp_s`: when they expire at the latest, where the
    /// caller knows.
    pub fn revoke(&self, app: &str, whose: Whose, exp_s: Option<u64>) -> Result<String, BadRevocation> {
        let line = self.ledger().add(app, whose, exp_s)?;
        self.changes.send_modify(|changes| *changes += 1);
        Ok(line)
    }

    /// Takes tokens back on all nodes. On this one, nobody who came in with such a token is shown anything that is published
    /// after it returned.
    pub async fn revoke_everywhere(&self, app: &str, whose: Whose, exp_s: Option<u64>) -> Result<(), BadRevocation> {
        let line = self.revoke(app, whose, exp_s)?;
        self.all_heeded().await;
        match self.peers.get() {
            Some(peers) => peers.tell(&line).await,
            None => Ok(()),
        }
    }

    /// From now on, others are told. To be called once.
    pub fn share(&self, peers: Arc<dyn Peers>) {
        let shared = self.peers.set(peers);
        debug_assert!(shared.is_ok(), "a node belongs to one cluster");
    }

    /// Takes in journal lines of other nodes.
    pub fn learn<'l>(&self, lines: impl IntoIterator<Item = &'l str>) {
        let mut ledger = self.ledger();
        let news = lines.into_iter().filter(|line| ledger.learn(line)).count();
        drop(ledger);
        if news > 0 {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// All revocations, as journal lines.
    pub fn lines(&self) -> Vec<String> {
        self.ledger().revocations.lines().collect()
    }

    /// Changes with each revocation: connections that came in with a token are to be asked again ([`Self::is_revoked`]).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// All connections have been asked again, up to this count of changes.
    pub fn heed(&self, changes: u64) {
        self.heeded.send_replace(changes);
    }

    async fn all_heeded(&self) {
        let changes = *self.changes.borrow();
        let mut heeded = self.heeded.subscribe();
        // A node that is about to end looks no more: its connections are on their way out.
        let _ = timeout(HEEDED_MAX, heeded.wait_for(|heeded| *heeded >= changes)).await;
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // The tables are sound between any two statements, so a poisoned lock tells nothing.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn add(&mut self, app: &str, whose: Whose, exp_s: Option<u64>) -> Result<String, BadRevocation> {
        let now_s = self.make_room();
        let line = self.revocations.add(app, whose, exp_s, now_s)?;
        self.write(|journal| journal.append(&line));
        Ok(line)
    }

    /// Whether the line of another node is news.
    fn learn(&mut self, line: &str) -> bool {
        let now_s = self.make_room();
        let news = self.revocations.learn(line, now_s);
        if news {
            self.write(|journal| journal.append(line));
        }
        news
    }

    /// What has expired leaves the table from time to time, and then the file.
    fn make_room(&mut self) -> u64 {
        let now_s = now_s();
        if self.revocations.make_room(now_s) {
            self.rewrite();
        }
        now_s
    }

    fn rewrite(&mut self) {
        let lines: Vec<String> = self.revocations.lines().collect();
        self.write(|journal| journal.rewrite(lines.into_iter()));
    }

    /// A revocation that cannot be written down still holds, as long as this process lives.
    fn write(&mut self, write: impl FnOnce(&mut Journal) -> io::Result<()>) {
        if let Some(Err(error)) = self.journal.as_mut().map(write) {
            tracing::error!(%error, "a revocation is not written down, and will end with this process");
        }
    }
}

/// A token with these claims, which are a JSON object.
pub fn sign(key: &str, secret: &Secret, claims: &str) -> String {
    let header = format!(r#"{{"alg":"HS256","typ":"JWT","kid":{}}}"#, json::json_string_token(key));
    let text = format!("{}.{}", encode(header), encode(claims));
    let signature = encode(hmac_digest(secret.as_bytes(), text.as_bytes()));
    format!("{text}.{signature}")
}

/// The token in `Authorization: Bearer …`.
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The claims as the app's own servers signed them.
fn payload(app: &App, token: &str) -> Result<Vec<u8>, BadToken> {
    #[derive(Deserialize)]
    struct Header<'a> {
        #[serde(borrow)]
        alg: Option<Text<'a>>,
        #[serde(borrow)]
        kid: Option<Text<'a>>,
        crit: Option<IgnoredAny>,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(BadToken::TooLong { found: token.len() });
    }
    let (text, signature) = token.rsplit_once('.').ok_or(BadToken::Shape)?;
    let (header, payload) = text.split_once('.').ok_or(BadToken::Shape)?;
    let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
    let header = std::str::from_utf8(&header).map_err(|_| BadToken::Shape)?;
    let header: Header = json::object(header).map_err(|_| BadToken::Shape)?;
    if header.alg.is_none_or(|alg| alg.0 != "HS256") {
        return Err(BadToken::Algorithm);
    }
    if header.crit.is_some() {
        return Err(BadToken::Extensions);
    }
    let secret = header.kid.and_then(|kid| app.secret(&kid.0)).ok_or(BadToken::Key)?;
    match digest_matches(secret.as_bytes(), text.as_bytes(), &signature) {
        true => Ok(payload),
        false => Err(BadToken::Signature),
    }
}

fn encode(part: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(part)
}

fn decode(part: &str) -> Result<Vec<u8>, BadToken> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| BadToken::Shape)
}
