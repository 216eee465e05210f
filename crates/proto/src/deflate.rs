//! permessage-deflate (RFC 7692), each message on its own.
//!
//! Without context takeover a compressed message is the same bytes for every subscriber, so that a publication is
//! compressed once for all; and a connection keeps no window of 32 KiB between messages.
//!
//! The compressor and decompressor themselves are large, and kept per thread.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What ends every flushed message, and is left out on the wire.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The least room for output per step.
const STEP_BYTES: usize = 512;

thread_local! {
    // Level 1: most of the gain at a fraction of the time, and publishers wait for neither.
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
    static DECOMPRESS: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Why a message could not be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDeflate {
    /// The bytes are no deflate stream.
    #[error("compressed message does not inflate")]
    Corrupt,
    /// There is more in it than allowed.
    #[error("compressed message inflates to more than {bytes_max} bytes")]
    TooBig {
        /// Bytes allowed.
        bytes_max: usize,
    },
}

/// The answer to `Sec-WebSocket-Extensions`: the first offer that can be met, or nothing.
pub fn negotiate(offers: &str) -> Option<&'static str> {
    offers.split(',').find_map(accept)
}

/// Meets one offer. A parameter that is unknown, repeated or malformed spoils it (RFC 7692 §5.1).
fn accept(offer: &str) -> Option<&'static str> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let mut seen: Vec<&str> = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        if seen.contains(&name) || !can_meet(name, value) {
            return None;
        }
        seen.push(name);
    }
    // An offer of a window size must be answered with one.
    Some(if seen.contains(&"server_max_window_bits") {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
    } else {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    })
}

fn can_meet(name: &str, value: Option<&str>) -> bool {
    match (name, value) {
        ("server_no_context_takeover" | "client_no_context_takeover", None) => true,
        ("client_max_window_bits", None) => true,
        ("client_max_window_bits", Some(bits)) => window_bits(bits).is_some(),
        // A smaller window would need a second encoding of each publication.
        ("server_max_window_bits", Some(bits)) => window_bits(bits) == Some(15),
        _ => false,
    }
}

fn window_bits(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|bits| plain && (8..=15).contains(bits))
}

/// Compresses one message.
pub fn deflate(payload: &[u8]) -> Vec<u8> {
    COMPRESS.with_borrow_mut(|compress| {
        compress.reset();
        let mut out = Vec::with_capacity(payload.len() / 2 + STEP_BYTES);
        // Room left over is how zlib says that the flush is complete.
        while deflate_step(compress, payload, &mut out) && out.len() == out.capacity() {
            out.reserve(out.len().max(STEP_BYTES));
        }
        debug_assert!(out.ends_with(&TAIL));
        out.truncate(out.len().saturating_sub(TAIL.len()));
        out
    })
}

/// Compresses into the room that `out` has; false when there was nothing left to do.
fn deflate_step(compress: &mut Compress, payload: &[u8], out: &mut Vec<u8>) -> bool {
    let rest = &payload[to_usize(compress.total_in())..];
    let status = compress.compress_vec(rest, out, FlushCompress::Sync);
    status.expect("deflating into memory has nothing to fail on") != Status::BufError
}

/// Inflates one message of at most `bytes_max`. Never holds much more than that, whatever the message claims.
pub fn inflate(data: &[u8], bytes_max: usize) -> Result<Vec<u8>, BadDeflate> {
    DECOMPRESS.with_borrow_mut(|decompress| {
        decompress.reset(false);
        let mut out = Vec::new();
        if inflate_part(decompress, data, &mut out, bytes_max)? == Status::Ok {
            inflate_part(decompress, &TAIL, &mut out, bytes_max)?;
        }
        Ok(out)
    })
}

/// Inflates all of `data`, or up to the end of the stream.
fn inflate_part(
    decompress: &mut Decompress,
    data: &[u8],
    out: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<Status, BadDeflate> {
    let begin = decompress.total_in();
    loop {
        // One byte more than allowed, so that a message of exactly `bytes_max` is told from a longer one.
        let room = out.len().max(STEP_BYTES).min((bytes_max - out.len()).saturating_add(1));
        out.reserve_exact(room);
        let rest = &data[to_usize(decompress.total_in() - begin)..];
        let status = decompress.decompress_vec(rest, out, FlushDecompress::Sync);
        let status = status.map_err(|_| BadDeflate::Corrupt)?;
        if out.len() > bytes_max {
            return Err(BadDeflate::TooBig { bytes_max });
        }
        if status == Status::StreamEnd {
            return Ok(status);
        }
        // Room left over: all input was used, or the stream cannot go on.
        if out.len() < out.capacity() {
            return Ok(Status::Ok);
        }
    }
}

/// A count of bytes that are in memory.
fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("no more bytes than memory holds")
}
