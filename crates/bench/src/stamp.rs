//! What each publication carries inside its data, so that whoever receives it can account for it and tell its age.
//!
//! Forty bytes of plain ASCII that JSON leaves as they are, then filler up to the wanted size:
//!
//! ```text
//! ~fan 1f2e 0000002a 00000007 0000b5e620f48000 ........      (without the spaces)
//!      run  id       sequence sent, ns         filler
//! ```
//! Read in the hot loop of the clients, millions of times a second: fixed places, no search, no branches per digit.

/// Bytes of a stamp, and so the least size of a publication's data.
pub const STAMP_LEN: usize = 40;
const MARKER: &[u8; 4] = b"~fan";
const FILLER: u8 = b'.';

/// One publication's number and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Tells this run's publications from what an earlier one left in a channel.
    pub run: u16,
    /// The publication, counted over the whole run.
    pub id: u32,
    /// Counts the publications of one lane to one channel.
    pub sequence: u32,
    /// The monotonic clock just before the request was signed and sent.
    pub sent_ns: u64,
}

impl Stamp {
    /// Appends data of exactly `size` bytes.
    pub fn write(&self, size: usize, out: &mut Vec<u8>) {
        use std::io::Write;
        debug_assert!(size >= STAMP_LEN);
        let end = out.len() + size;
        out.extend_from_slice(MARKER);
        write!(out, "{:04x}{:08x}{:08x}{:016x}", self.run, self.id, self.sequence, self.sent_ns)
            .expect("writing to a Vec cannot fail");
        out.resize(end, FILLER);
    }

    /// Reads the stamp that `data` begins with. Digits that are none give a wrong number, which the ledger will not expect.
    #[inline]
    pub fn read(data: &[u8]) -> Option<Stamp> {
        let stamp: &[u8; STAMP_LEN] = data.first_chunk()?;
        if !stamp.starts_with(MARKER) {
            return None;
        }
        let digits = |at: usize| hex(stamp[at..at + 8].try_into().expect("eight bytes of forty"));
        // The run has four digits: read together with the marker's bytes, which the cast then drops.
        Some(Stamp {
            run: digits(0) as u16,
            id: digits(8),
            sequence: digits(16),
            sent_ns: u64::from(digits(24)) << 32 | u64::from(digits(32)),
        })
    }

    /// Whether a stamp begins here.
    #[inline]
    pub fn begins(data: &[u8]) -> bool {
        data.starts_with(MARKER)
    }

    /// Where in a message the stamp begins.
    pub fn find(message: &[u8]) -> Option<usize> {
        message.windows(MARKER.len()).position(|window| window == MARKER)
    }
}

/// Whether what follows a stamp is what was sent.
#[inline]
pub fn filler_intact(filler: &[u8]) -> bool {
    // Folding instead of `all`: no early exit, so the compiler compares sixteen bytes at once.
    filler.iter().fold(0, |wrong, byte| wrong | (byte ^ FILLER)) == 0
}

/// Eight lower-case hexadecimal digits at once: each byte becomes its nibble, then neighbours are joined three times.
#[inline]
fn hex(digits: [u8; 8]) -> u32 {
    let bytes = u64::from_be_bytes(digits);
    let letters = (bytes >> 6) & 0x0101_0101_0101_0101;
    let nibbles = (bytes & 0x0f0f_0f0f_0f0f_0f0f).wrapping_add(letters * 9);
    let pairs = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let quads = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    (quads | quads >> 16) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 0x1f2e, id: 0xdead_beef, sequence: 0x0123_4567, sent_ns: 0x89ab_cdef_0000_0001 };

    #[test]
    fn what_is_written_is_read() {
        let mut data = Vec::new();
        STAMP.write(100, &mut data);
        assert_eq!(data.len(), 100);
        assert_eq!(&data[..42], b"~fan1f2edeadbeef0123456789abcdef00000001..");
        assert_eq!(Stamp::read(&data), Some(STAMP));
        assert!(filler_intact(&data[STAMP_LEN..]));
    }

    #[test]
    fn it_is_found_inside_a_message() {
        let mut message = br#"{"event":"bench","data":""#.to_vec();
        let begins = message.len();
        STAMP.write(STAMP_LEN, &mut message);
        assert_eq!(Stamp::find(&message), Some(begins));
        assert_eq!(Stamp::find(b"{\"event\":\"pusher:ping\"}"), None);
    }

    #[test]
    fn short_or_altered_data_is_noticed() {
        let mut data = Vec::new();
        STAMP.write(60, &mut data);
        assert_eq!(Stamp::read(&data[..STAMP_LEN - 1]), None);
        assert_eq!(Stamp::read(&data[1..]), None);
        data[59] = b'x';
        assert!(!filler_intact(&data[STAMP_LEN..]));
    }
}
