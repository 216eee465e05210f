//! The query that signs an API request.
//!
//! The official libraries disagree on what exactly they sign: most the decoded path and values, Node what it had
//! before `fetch` escaped it, PHP its array parameters joined by commas. The forms are tried in turn; since each is
//! compared with a signature that only the secret can make, trying several gives nothing away.
//!
//! Not here: whether the timestamp is recent, which needs a clock.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{hmac_hex, hmac_matches, md5_hex};

/// What a query escapes: everything but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The only version of the signing scheme that there is.
const VERSION: &str = "1.0";

/// A query with everything in it that signing needs. It is not verified until [`SignedQuery::verify`] says so.
#[derive(Debug)]
pub struct SignedQuery<'q> {
    pairs: Vec<Pair<'q>>,
    timestamp: u64,
    signature: Cow<'q, str>,
}

/// One `name=value`, as it was sent and as it was meant.
#[derive(Debug)]
struct Pair<'q> {
    raw_name: &'q str,
    raw_value: &'q str,
    /// Decoded, in lower case.
    name: Cow<'q, str>,
    value: Cow<'q, str>,
}

/// Why a query cannot have been signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuery {
    /// A parameter is not there.
    #[error("the query needs {0}")]
    Missing(&'static str),
    /// `auth_timestamp` is no number of seconds.
    #[error("auth_timestamp must be a number of seconds since 1970")]
    Timestamp,
    /// `auth_version` is one that nobody knows.
    #[error("auth_version must be 1.0")]
    Version,
}

/// Why a request is not what the holder of the secret sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// A body came without its digest, so that the signature does not cover it.
    #[error("a request with a body must carry body_md5")]
    BodyMd5Missing,
    /// The digest is of another body.
    #[error("body_md5 does not match the body")]
    BodyMd5Mismatch,
    /// Another secret, or another string, was signed.
    #[error("invalid signature: you should have sent HMAC SHA256 hex digest of {to_sign:?}")]
    Mismatch {
        /// What was to be signed.
        to_sign: String,
    },
}

impl<'q> SignedQuery<'q> {
    /// Reads what follows the `?` of a request.
    pub fn parse(query: &'q str) -> Result<Self, BadQuery> {
        let mut pairs: Vec<_> = query.split('&').filter(|pair| !pair.is_empty()).map(Pair::parse).collect();
        let find = |name| find(&pairs, name).ok_or(BadQuery::Missing(name));
        find("auth_key")?;
        let timestamp = find("auth_timestamp")?.parse().map_err(|_| BadQuery::Timestamp)?;
        if find("auth_version")? != VERSION {
            return Err(BadQuery::Version);
        }
        let signature = pairs.iter().position(|pair| pair.name == "auth_signature");
        let signature = pairs.remove(signature.ok_or(BadQuery::Missing("auth_signature"))?).value;
        pairs.retain(|pair| pair.name != "auth_signature");
        Ok(Self { pairs, timestamp, signature })
    }

    /// Whose secret is to be used.
    pub fn key(&self) -> &str {
        self.param("auth_key").expect("parse refuses a query without it")
    }

    /// When the request was signed, in seconds since 1970.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// The decoded value of a parameter; `name` in lower case.
    pub fn param(&self, name: &str) -> Option<&str> {
        find(&self.pairs, name)
    }

    /// Whether the holder of `secret` sent this. `raw_path` is as it was on the wire, without the server's own prefix.
    pub fn verify(&self, secret: &[u8], method: &str, raw_path: &str, body: &[u8]) -> Result<(), BadSignature> {
        // pusher-http-python sends the digest with every request, with or without a body.
        let body_md5 = self.param("body_md5");
        if body_md5.is_none() && !body.is_empty() {
            return Err(BadSignature::BodyMd5Missing);
        }
        self.verify_text(secret, &method.to_ascii_uppercase(), raw_path)?;
        let covers = |md5: &str| md5.eq_ignore_ascii_case(&md5_hex(body));
        if !body.is_empty() && !body_md5.is_some_and(covers) {
            return Err(BadSignature::BodyMd5Mismatch);
        }
        Ok(())
    }

    fn verify_text(&self, secret: &[u8], method: &str, raw_path: &str) -> Result<(), BadSignature> {
        let signed = |text: &str| hmac_matches(secret, text.as_bytes(), &self.signature);
        let path = percent_decode_str(raw_path).decode_utf8().unwrap_or(Cow::Borrowed(raw_path));
        let to_sign = to_sign(method, &path, self.decoded());
        let matches = signed(&to_sign)
            || signed(&self::to_sign(method, &path, imploded(self.decoded())))
            || signed(&self::to_sign(method, raw_path, self.raw()))
            || signed(&self::to_sign(method, raw_path, imploded(self.raw())));
        if matches { Ok(()) } else { Err(BadSignature::Mismatch { to_sign }) }
    }

    fn decoded(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        let pair = |pair: &'_ Pair<'q>| (pair.name.clone(), pair.value.clone());
        self.pairs.iter().map(pair).collect()
    }

    fn raw(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        self.pairs.iter().map(|pair| (lower(pair.raw_name.into()), pair.raw_value.into())).collect()
    }
}

impl<'q> Pair<'q> {
    fn parse(text: &'q str) -> Self {
        let (raw_name, raw_value) = text.split_once('=').unwrap_or((text, ""));
        Self { raw_name, raw_value, name: lower(decode(raw_name)), value: decode(raw_value) }
    }
}

fn find<'p>(pairs: &'p [Pair<'_>], name: &str) -> Option<&'p str> {
    pairs.iter().find(|pair| pair.name == name).map(|pair| pair.value.as_ref())
}

/// The string that is signed. Pairs of the same name keep the order in which they were sent.
fn to_sign(method: &str, path: &str, mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)>) -> String {
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut text = format!("{method}\n{path}\n");
    for (at, (name, value)) in pairs.iter().enumerate() {
        let separator = if at == 0 { "" } else { "&" };
        text.extend([separator, name, "=", value]);
    }
    text
}

/// `k[]=a&k[]=b`, or `k[0]=a&k[1]=b`, as PHP signs it: `k=a,b`.
fn imploded<'a>(pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
    let mut joined: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let Some(base) = array_base(&name) else {
            joined.push((name, value));
            continue;
        };
        match joined.iter_mut().find(|(name, _)| name == base) {
            Some((_, values)) => values.to_mut().extend([",", value.as_ref()]),
            None => joined.push((base.to_owned().into(), value)),
        }
    }
    joined
}

/// The name of an array parameter, without the brackets.
fn array_base(name: &str) -> Option<&str> {
    for (open, close) in [("[", "]"), ("%5b", "%5d")] {
        if let Some((base, _)) = name.strip_suffix(close).and_then(|name| name.split_once(open)) {
            return Some(base);
        }
    }
    None
}

/// A part of a query as it was meant; what is not UTF-8 when decoded stays as it was sent.
fn decode(raw: &str) -> Cow<'_, str> {
    if !raw.contains('+') {
        return percent_decode_str(raw).decode_utf8().unwrap_or(Cow::Borrowed(raw));
    }
    let spaced = raw.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map(Cow::into_owned);
    decoded.map_or(Cow::Borrowed(raw), Cow::Owned)
}

fn lower(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) { Cow::Owned(text.to_ascii_lowercase()) } else { text }
}

/// The whole query of a request of our own. `path` is not escaped yet; `timestamp` is in seconds since 1970.
pub fn sign_query(
    secret: &[u8],
    key: &str,
    method: &str,
    path: &str,
    params: &[(&str, &str)],
    body: &[u8],
    timestamp: u64,
) -> String {
    let (timestamp, md5) = (timestamp.to_string(), md5_hex(body));
    let own = [("auth_key", key), ("auth_timestamp", &timestamp), ("auth_version", VERSION)];
    let body_md5 = (!body.is_empty()).then_some(("body_md5", md5.as_str()));
    let pairs: Vec<_> = own.into_iter().chain(body_md5).chain(params.iter().copied()).collect();

    let covered = pairs.iter().map(|&(name, value)| (lower(name.into()), value.into())).collect();
    let text = to_sign(&method.to_ascii_uppercase(), path, covered);
    let signature = hmac_hex(secret, text.as_bytes());
    let sent = pairs.iter().map(|(name, value)| format!("{}={}&", escape(name), escape(value)));
    sent.collect::<String>() + "auth_signature=" + &signature
}

fn escape(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, ESCAPED)
}
