//! A publication as bytes: what nodes send each other, and what lies in histories.
//!
//! A byte that says the version, then fields: a tag, the length of the value as LEB128, the value. Nodes of different versions
//! run side by side while they are replaced, and histories outlive nodes, so this may only grow: a field that is new has a tag
//! that was never used, and is skipped by whoever does not know it.
//!
//! Always true:
//! - what [`decode`] reads out of what [`encode`] wrote is what was put in, but for the share of the window;
//! - a record of a higher version is read as far as it is known.

use fanfare_hub::{Kind, Publication};
use fanfare_proto::socket_id::SocketId;

/// What this program writes.
const VERSION: u8 = 1;

mod tag {
    pub const EVENT: u8 = 1;
    pub const DATA: u8 = 2;
    pub const USER_ID: u8 = 3;
    pub const EXCEPT: u8 = 4;
    pub const KIND: u8 = 5;
    pub const EVENT_ID: u8 = 6;
    pub const CONTENT_TYPE: u8 = 7;
    pub const TIME_MS: u8 = 8;
    pub const TAG: u8 = 9;
    pub const ORIGIN: u8 = 10;
}

mod kind {
    pub const EVENT: u8 = 0;
    pub const PRESENCE: u8 = 1;
    pub const UNADDRESSED: u8 = 2;
    pub const TERMINATE: u8 = 3;
}

/// Who sent a record, for whoever waits for it to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// A node, in one life.
    pub node: u64,
    /// Its number among what that node sent.
    pub number: u64,
}

/// Why bytes are no record. It was written by something that is none of ours, or by a version that is too new for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// It ends within a field, or has no version.
    #[error("the record ends too early")]
    Short,
    /// A field that cannot be what it should.
    #[error("field {0} of the record is not what it should be")]
    Field(u8),
    /// Without an event there is nothing to tell.
    #[error("the record has no event or no data")]
    Empty,
}

/// Writes a publication.
pub fn encode(publication: &Publication, origin: Option<Origin>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + publication.event.len() + publication.data.len());
    out.push(VERSION);
    field(&mut out, tag::EVENT, publication.event.as_bytes());
    field(&mut out, tag::DATA, publication.data.as_bytes());
    let texts = [
        (tag::USER_ID, publication.user_id.as_deref()),
        (tag::EVENT_ID, publication.event_id.as_deref()),
        (tag::CONTENT_TYPE, publication.content_type.as_deref()),
    ];
    for (tag, text) in texts {
        if let Some(text) = text {
            field(&mut out, tag, text.as_bytes());
        }
    }
    if let Some(SocketId { a, b }) = publication.except {
        field(&mut out, tag::EXCEPT, &pair(a, b));
    }
    if let Some(kind) = kind_bytes(publication.kind) {
        field(&mut out, tag::KIND, &kind);
    }
    for (tag, number) in [(tag::TIME_MS, publication.time_ms), (tag::TAG, publication.tag.into())] {
        if number > 0 {
            field(&mut out, tag, &leb128(number));
        }
    }
    if let Some(Origin { node, number }) = origin {
        field(&mut out, tag::ORIGIN, &pair(node, number));
    }
    out
}

/// Reads a publication, and who sent it.
pub fn decode(bytes: &[u8]) -> Result<(Publication, Option<Origin>), BadRecord> {
    let (_version, mut rest) = bytes.split_first().ok_or(BadRecord::Short)?;
    let mut publication = Publication::event("", "");
    let mut origin = None;
    while let Some((&tag, after)) = rest.split_first() {
        let (len, after) = read_leb128(after).ok_or(BadRecord::Short)?;
        let len = usize::try_from(len).map_err(|_| BadRecord::Short)?;
        let (value, after) = after.split_at_checked(len).ok_or(BadRecord::Short)?;
        rest = after;
        let bad = || BadRecord::Field(tag);
        let text = || std::str::from_utf8(value).map_err(|_| BadRecord::Field(tag));
        match tag {
            tag::EVENT => publication.event = text()?.into(),
            tag::DATA => publication.data = text()?.into(),
            tag::USER_ID => publication.user_id = Some(text()?.into()),
            tag::EXCEPT => publication.except = read_pair(value).map(|(a, b)| SocketId { a, b }),
            tag::KIND => publication.kind = read_kind(value).ok_or_else(bad)?,
            tag::EVENT_ID => publication.event_id = Some(text()?.into()),
            tag::CONTENT_TYPE => publication.content_type = Some(text()?.into()),
            tag::TIME_MS => publication.time_ms = read_leb128(value).ok_or_else(bad)?.0,
            tag::TAG => {
                let (number, _) = read_leb128(value).ok_or_else(bad)?;
                publication.tag = u32::try_from(number).map_err(|_| bad())?;
            }
            tag::ORIGIN => origin = read_pair(value).map(|(node, number)| Origin { node, number }),
            // Of a version to come.
            _ => {}
        }
    }
    match publication.event.is_empty() || publication.data.is_empty() {
        true => Err(BadRecord::Empty),
        false => Ok((publication, origin)),
    }
}

fn field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    push_leb128(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// An ordinary event needs no word.
fn kind_bytes(kind: Kind) -> Option<Vec<u8>> {
    match kind {
        Kind::Event => None,
        Kind::Presence { version } => Some([&[kind::PRESENCE], &*leb128(version)].concat()),
        Kind::Unaddressed => Some(vec![kind::UNADDRESSED]),
        Kind::Terminate => Some(vec![kind::TERMINATE]),
        // Said by each node to its own loops, and by none to another.
        Kind::Gap => unreachable!("a gap is not published"),
    }
}

fn read_kind(value: &[u8]) -> Option<Kind> {
    let (&kind, rest) = value.split_first()?;
    Some(match kind {
        kind::EVENT => Kind::Event,
        kind::PRESENCE => Kind::Presence { version: read_leb128(rest)?.0 },
        kind::UNADDRESSED => Kind::Unaddressed,
        kind::TERMINATE => Kind::Terminate,
        _ => return None,
    })
}

fn pair(a: u64, b: u64) -> Vec<u8> {
    [a.to_be_bytes(), b.to_be_bytes()].concat()
}

fn read_pair(value: &[u8]) -> Option<(u64, u64)> {
    let (a, rest) = value.split_first_chunk()?;
    let (b, _) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*a), u64::from_be_bytes(*b)))
}

fn leb128(number: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(10);
    push_leb128(&mut out, number);
    out
}

fn push_leb128(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A number, and what comes after it.
fn read_leb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (at, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if bits.leading_zeros() < 7 * at as u32 {
            return None;
        }
        number |= bits << (7 * at);
        if byte < 0x80 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Publication {
        Publication {
            user_id: Some("\"ann\"".into()),
            except: Some(SocketId { a: u64::MAX, b: 7 }),
            kind: Kind::Presence { version: u64::MAX },
            event_id: Some("id".into()),
            content_type: Some("text/plain".into()),
            time_ms: 1_763_712_000_000,
            tag: u32::MAX,
            ..Publication::event("\"caf\u{e9}\"", "\"".to_owned() + &"x".repeat(1000) + "\"")
        }
    }

    #[test]
    fn a_publication_comes_back_as_it_was() {
        let origin = Some(Origin { node: 1, number: u64::MAX });
        for (publication, origin) in [(full(), origin), (Publication::event("\"e\"", "\"\""), None)] {
            let (read, from) = decode(&encode(&publication, origin)).expect("a record");
            assert_eq!((format!("{read:?}"), from), (format!("{publication:?}"), origin));
        }
        for kind in [Kind::Event, Kind::Unaddressed, Kind::Terminate] {
            let published = Publication { kind, ..Publication::event("\"e\"", "\"\"") };
            assert_eq!(decode(&encode(&published, None)).expect("a record").0.kind, kind);
        }
    }

    #[test]
    fn what_is_written_is_what_other_versions_read() {
        let publication = Publication { time_ms: 300, ..Publication::event("\"e\"", "\"d\"") };
        assert_eq!(encode(&publication, None), b"\x01\x01\x03\"e\"\x02\x03\"d\"\x08\x02\xac\x02");
    }

    #[test]
    fn a_record_of_a_higher_version_is_read_as_far_as_it_is_known() {
        // Tags 99 and 200 are of a version to come, and so is what follows the versions of members.
        let recorded =
            b"\x07\x63\x04\x00\xff\x00\xff\x01\x03\"e\"\xc8\x00\x05\x03\x01\x05\x2a\x02\x03\"d\"\x63\x81\x00\x21";
        let (publication, origin) = decode(recorded).expect("known enough");
        assert_eq!((&*publication.event, &*publication.data), ("\"e\"", "\"d\""));
        assert_eq!((publication.kind, origin), (Kind::Presence { version: 5 }, None));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let whole = encode(&full(), None);
        for end in 0..whole.len() {
            // Cut between two fields it is a shorter record.
            let _ = decode(&whole[..end]);
        }
        for (bytes, bad) in [
            (&b""[..], BadRecord::Short),
            (b"\x01", BadRecord::Empty),
            (b"\x01\x01\x05\"e\"", BadRecord::Short),
            (b"\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\"e\"", BadRecord::Short),
            (b"\x01\x01\x01\xff\x02\x02\"\"", BadRecord::Field(1)),
            (b"\x01\x05\x01\x09", BadRecord::Field(5)),
        ] {
            assert_eq!(decode(bytes).err(), Some(bad), "{bytes:?}");
        }
    }
}
