//! Signatures: of channels and users, and (in [`SignedQuery`]) of API requests.
//!
//! Every comparison with a digest is constant in time. A refusal may show the string that was to be signed, which is
//! what lets people find their mistake; the digest itself is never shown.

mod query;

use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

pub use query::{BadQuery, BadSignature, SignedQuery, sign_query};

use crate::socket_id::SocketId;

fn hmac(secret: &[u8], text: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of any length").chain_update(text)
}

/// HMAC-SHA256 in lower-case hexadecimal.
pub fn hmac_hex(secret: &[u8], text: &[u8]) -> String {
    hex::encode(hmac(secret, text).finalize().into_bytes())
}

/// Whether `hex` is the HMAC-SHA256 of `text`, in constant time.
pub fn hmac_matches(secret: &[u8], text: &[u8], hex: &str) -> bool {
    let mut digest = [0; 32];
    hex::decode_to_slice(hex, &mut digest).is_ok() && hmac(secret, text).verify_slice(&digest).is_ok()
}

/// HMAC-SHA256 as bytes.
pub fn hmac_digest(secret: &[u8], text: &[u8]) -> [u8; 32] {
    hmac(secret, text).finalize().into_bytes().into()
}

/// Whether `digest` is the HMAC-SHA256 of `text`, in constant time.
pub fn digest_matches(secret: &[u8], text: &[u8], digest: &[u8]) -> bool {
    hmac(secret, text).verify_slice(digest).is_ok()
}

/// MD5 in lower-case hexadecimal.
pub fn md5_hex(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// What is signed for a subscription. `channel_data` is covered whenever it was sent, on any channel.
pub fn channel_text(socket: SocketId, channel: &str, channel_data: Option<&str>) -> String {
    match channel_data {
        Some(data) => format!("{socket}:{channel}:{data}"),
        None => format!("{socket}:{channel}"),
    }
}

/// What is signed for a sign-in.
pub fn user_text(socket: SocketId, user_data: &str) -> String {
    format!("{socket}::user::{user_data}")
}

/// `key:signature` in its two parts.
pub fn split_auth(auth: &str) -> Option<(&str, &str)> {
    auth.split_once(':').filter(|(key, hex)| !key.is_empty() && !hex.is_empty())
}
