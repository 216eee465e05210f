//! Whether a request comes from the app that it speaks for.
//!
//! Always true: the key must be one of the app's own, the timestamp recent, and the signature that of the key's secret;
//! a refusal says which, and may show the string that was to be signed, never its digest.
//!
//! Not here: what is signed, and in which of its forms (`fanfare_proto::sign`).

use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_proto::sign::{BadQuery, BadSignature, SignedQuery};

use crate::apps::App;
use crate::config::Secret;

/// How far a request's timestamp may be from our clock, as Pusher documents. A captured request is good for no longer.
const WINDOW_S: u64 = 600;

/// Why a request is not taken for the app's.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The query is not that of a signed request.
    #[error(transparent)]
    Query(#[from] BadQuery),
    /// The key is unknown, or of another app.
    #[error("auth_key {key:?} is not a key of this app")]
    Key {
        /// As it was sent.
        key: String,
    },
    /// Signed too long ago, or by a clock that is wrong.
    #[error("auth_timestamp {sent} is more than {WINDOW_S} s from this server's clock, which says {now}")]
    Timestamp {
        /// As it was sent.
        sent: u64,
        /// Our own.
        now: u64,
    },
    /// Not what the holder of the secret signed.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// The secret that must have signed, if the query is one that may be verified at all: what can be refused before the
/// body is read, is.
pub fn secret<'a>(app: &'a App, query: &SignedQuery<'_>) -> Result<&'a Secret, Denied> {
    let secret = app.secret(query.key()).ok_or_else(|| Denied::Key { key: query.key().to_owned() })?;
    let (sent, now) = (query.timestamp(), now_s());
    if sent.abs_diff(now) > WINDOW_S { Err(Denied::Timestamp { sent, now }) } else { Ok(secret) }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
