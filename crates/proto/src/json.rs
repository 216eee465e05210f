//! How JSON text is read and spliced here.
//!
//! Three habits: an object is read into a struct, never into a `Value`; a string without escapes is borrowed; and
//! what is only passed on stays the text it was.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// Why a text is not the object that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BadObject {
    /// Not JSON at all.
    #[error("not valid JSON: {0}")]
    Syntax(#[source] serde_json::Error),
    /// JSON, but no object.
    #[error("not a JSON object")]
    NotAnObject,
    /// An object with a field of the wrong type, or with a field twice.
    #[error("unexpected field: {0}")]
    Field(#[source] serde_json::Error),
}

impl From<serde_json::Error> for BadObject {
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            Category::Data => Self::Field(error),
            Category::Io | Category::Syntax | Category::Eof => Self::Syntax(error),
        }
    }
}

/// Reads an object. serde would also take an array as a struct's fields in order; that is refused first.
pub fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, BadObject> {
    match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => Ok(serde_json::from_str(text)?),
        _ => Err(not_an_object(text)),
    }
}

/// Tells JSON of another kind from what is not JSON at all.
fn not_an_object(text: &str) -> BadObject {
    match serde_json::from_str::<de::IgnoredAny>(text) {
        Ok(_) => BadObject::NotAnObject,
        Err(error) => BadObject::from(error),
    }
}

/// A JSON string: borrowed when it holds no escapes. (serde's own `Option<Cow<str>>` always copies.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Text<'_> {
    /// The same text, tied to nothing.
    pub fn into_owned(self) -> Text<'static> {
        Text(Cow::Owned(self.0.into_owned()))
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Text)
    }
}

struct TextVisitor;

impl<'de> de::Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Appends `s` as a JSON string token.
pub fn json_string(out: &mut Vec<u8>, s: &str) {
    serde_json::to_writer(out, s).expect("a Vec takes whatever is written to it");
}

/// A JSON string token holding `s`.
pub fn json_string_token(s: &str) -> String {
    serde_json::to_string(s).expect("a str always has a JSON form")
}

/// Any JSON as a JSON string token: a string stays as it is, anything else becomes the string of its text.
pub fn string_token(raw: &RawValue) -> Cow<'_, str> {
    let text = raw.get();
    if text.starts_with('"') { Cow::Borrowed(text) } else { Cow::Owned(json_string_token(text)) }
}

/// The decoded length, in bytes of UTF-8, of a JSON string token. Allocates nothing.
///
/// A lone surrogate counts three, as does the replacement character that decoders put in its place.
pub fn string_token_len(token: &str) -> usize {
    let mut rest = token.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(token);
    let mut len = 0;
    while let Some((plain, escape)) = rest.split_once('\\') {
        let (decoded, used) = escape_len(escape.as_bytes());
        len += plain.len() + decoded;
        rest = escape.get(used..).unwrap_or("");
    }
    len + rest.len()
}

/// What the escape decodes to in bytes, and how many characters it takes after its backslash.
fn escape_len(escape: &[u8]) -> (usize, usize) {
    match code_unit(escape) {
        None => (1, 1),
        Some(0..=0x7f) => (1, 5),
        Some(0x80..=0x7ff) => (2, 5),
        Some(0xd800..=0xdbff) if low_surrogate_follows(escape) => (4, 11),
        Some(_) => (3, 5),
    }
}

/// The four hexadecimal digits of `uXXXX`.
fn code_unit(escape: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(escape.strip_prefix(b"u")?.get(..4)?).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

fn low_surrogate_follows(escape: &[u8]) -> bool {
    let next = escape.get(5..).and_then(|rest| rest.strip_prefix(b"\\"));
    next.and_then(code_unit).is_some_and(|unit| (0xdc00..=0xdfff).contains(&unit))
}

/// Whether no value in `text`, which is valid JSON, is nested deeper than `depth_max` objects and arrays.
pub fn depth_within(text: &str, depth_max: usize) -> bool {
    let mut depth = 0usize;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' if depth == depth_max => return false,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    true
}

/// Runs past the end of a string that has just begun.
fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}
