//! The place in one or several channels from which a client resumes, as text that every transport can carry.
//!
//! Opaque to clients. A cursor of one place is a function of the publication alone, so that one encoding serves all
//! subscribers; answers that are made for one reader may name up to eight. The text keeps to `A–Z a–z 0–9 - _`, because most
//! other characters in `Last-Event-ID` cost browsers a CORS preflight.
//!
//! The text is the URL-safe base64 of: a byte that holds the form and the number of places; 3 bytes that tell the app;
//! the settled stamp; then for each place 5 bytes that tell the channel, its epoch (the first as it is, the others as
//! their distance from it) and its offset. Numbers are LEB128.
//!
//! Always true:
//! - every cursor has exactly one text, and no other text reads as it;
//! - no text that was cut short reads as a cursor.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Bytes in a cursor's text, for every form that there will ever be.
pub const CURSOR_LEN_MAX: usize = 128;

/// Places in one cursor.
pub const PLACES_MAX: usize = 8;

/// What base64 leaves of the text.
const BYTES_MAX: usize = CURSOR_LEN_MAX / 4 * 3;

/// The high half of the first byte; another one would be another form.
const FORM: u8 = 0x10;

/// Bits of a [`channel_hash`] that tell the channel; those above them tell the app.
const CHANNEL_BITS: u32 = 40;

/// How far a client has come in one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which channel, as [`channel_hash`] says it.
    pub channel_hash: u64,
    /// Which life of the channel's history; a new one whenever history could have been lost.
    pub epoch: u64,
    /// Which publication: +1 for each.
    pub offset: u64,
}

/// Where a client has come to, in the channels that it names and in all others; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// By rising channel hash, all of one app; 1 to [`PLACES_MAX`].
    places: Arc<[Place]>,
    settled: u64,
}

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadCursor {
    /// No cursor is so long.
    #[error("a cursor has at most {CURSOR_LEN_MAX} characters")]
    TooLong,
    /// Not one that we made, or not all of it.
    #[error("not a whole cursor: send back the one last received, unchanged")]
    Malformed,
}

/// What stands for a channel in cursors: the same on every node and after every start.
///
/// The high 24 bits are a hash of the app's id, the low 40 of `app/channel`: FNV-1a with the last step of MurmurHash3's
/// 64-bit mixer, since FNV's own high bits hardly depend on the last characters. Who makes names collide
/// gains nothing: a place also has to name the epoch of the channel's stream.
pub fn channel_hash(app: &str, channel: &str) -> u64 {
    let of_app = fnv1a(FNV_BASIS, app.as_bytes());
    let of_channel = fnv1a(fnv1a(of_app, b"/"), channel.as_bytes());
    (mix(of_app) >> CHANNEL_BITS) << CHANNEL_BITS | mix(of_channel) >> (64 - CHANNEL_BITS)
}

impl Cursor {
    /// The cursor of a publication: its own place, and the stamp up to which everything had been shown before it.
    pub fn single(place: Place, settled: u64) -> Cursor {
        Cursor { places: Arc::new([place]), settled }
    }

    /// A cursor that names as many of these places as fit, and at least one; the channels that it leaves out are resumed by
    /// the stamp. All must be of one app, and there must be one. The first of several on one channel counts.
    pub fn of(places: impl IntoIterator<Item = Place>, settled: u64) -> Cursor {
        let mut chosen: Vec<Place> = Vec::with_capacity(PLACES_MAX);
        for place in places {
            let Err(at) = chosen.binary_search_by_key(&place.channel_hash, |other| other.channel_hash) else {
                continue;
            };
            chosen.insert(at, place);
            if chosen.len() > PLACES_MAX || bytes(&chosen, settled).len() > BYTES_MAX {
                chosen.remove(at);
                break;
            }
        }
        assert!(!chosen.is_empty(), "a cursor names a place");
        debug_assert!(chosen.iter().all(|place| place.app_bits() == chosen[0].app_bits()), "a cursor is of one app");
        Cursor { places: chosen.into(), settled }
    }

    /// Where a reader stands that stood here, and was then shown what that is the cursor of.
    pub fn advanced(&self, shown: &Cursor) -> Cursor {
        let places = shown.places.iter().chain(&*self.places).copied();
        Cursor::of(places, self.settled.max(shown.settled))
    }

    /// Reads a cursor's text.
    pub fn parse(text: &str) -> Result<Cursor, BadCursor> {
        if text.len() > CURSOR_LEN_MAX {
            return Err(BadCursor::TooLong);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor::Malformed)?;
        read(&bytes).ok_or(BadCursor::Malformed)
    }

    /// The places that it names, by rising channel hash.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Its place in this channel, if it names one.
    pub fn place(&self, channel_hash: u64) -> Option<Place> {
        self.places.iter().find(|place| place.channel_hash == channel_hash).copied()
    }

    /// Everything on this node up to this stamp had been shown.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Whether it was made for a channel of this app.
    pub fn is_of_app(&self, app: &str) -> bool {
        self.places[0].app_bits() == mix(fnv1a(FNV_BASIS, app.as_bytes())) >> CHANNEL_BITS
    }
}

impl Place {
    fn app_bits(&self) -> u64 {
        self.channel_hash >> CHANNEL_BITS
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes(&self.places, self.settled)))
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        Cursor::parse(text)
    }
}

fn bytes(places: &[Place], settled: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES_MAX);
    let first = places[0];
    out.push(FORM | places.len() as u8);
    out.extend_from_slice(&first.app_bits().to_be_bytes()[5..]);
    write_number(&mut out, settled);
    for (index, place) in places.iter().enumerate() {
        out.extend_from_slice(&place.channel_hash.to_be_bytes()[3..]);
        write_number(&mut out, if index == 0 { place.epoch } else { distance(first.epoch, place.epoch) });
        write_number(&mut out, place.offset);
    }
    out
}

/// The cursor that these bytes are, all of them.
fn read(mut bytes: &[u8]) -> Option<Cursor> {
    let bytes = &mut bytes;
    let count = usize::from(take::<1>(bytes)?[0] ^ FORM);
    if !(1..=PLACES_MAX).contains(&count) {
        return None;
    }
    let [a, b, c] = take(bytes)?;
    let settled = read_number(bytes)?;
    let mut places: Vec<Place> = Vec::with_capacity(count);
    for index in 0..count {
        let [d, e, f, g, h] = take(bytes)?;
        let channel_hash = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let number = read_number(bytes)?;
        let epoch = if index == 0 { number } else { at_distance(places[0].epoch, number) };
        let place = Place { channel_hash, epoch, offset: read_number(bytes)? };
        if places.last().is_some_and(|last| last.channel_hash >= place.channel_hash) {
            return None;
        }
        places.push(place);
    }
    bytes.is_empty().then_some(Cursor { places: places.into(), settled })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// Small for epochs that are near each other, whichever is the later: the difference, its sign in the lowest bit.
fn distance(from: u64, to: u64) -> u64 {
    let difference = to.wrapping_sub(from) as i64;
    (difference << 1 ^ difference >> 63) as u64
}

fn at_distance(from: u64, distance: u64) -> u64 {
    from.wrapping_add(distance >> 1 ^ (distance & 1).wrapping_neg())
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A number as [`write_number`] writes it, and in no other way.
fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take(bytes)?;
        let group = u64::from(byte & 0x7f);
        if group << shift >> shift != group {
            return None;
        }
        number |= group << shift;
        if byte < 0x80 {
            let padded = byte == 0 && shift > 0;
            return (!padded).then_some(number);
        }
    }
    None
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a(basis: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(basis, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}
