//! Where a reader stands in a firehose: opaque text to whoever keeps it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// The first byte; those of channels' cursors begin otherwise.
const FORM: u8 = 0xf1;

/// The place behind one entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The log's.
    pub epoch: u64,
    /// The entry's; 0: before the first.
    pub number: u64,
}

impl Cursor {
    /// Reads a cursor's text; `None` if we have not made it.
    pub fn parse(text: &str) -> Option<Cursor> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&[form], rest) = bytes.split_first_chunk()?;
        let (epoch, number) = rest.split_first_chunk()?;
        let number = number.try_into().ok()?;
        (form == FORM).then(|| Cursor { epoch: u64::from_be_bytes(*epoch), number: u64::from_be_bytes(number) })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [&[FORM][..], &self.epoch.to_be_bytes(), &self.number.to_be_bytes()].concat();
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let cursor = Cursor { epoch: u64::MAX - 1, number: 7 };
        let text = cursor.to_string();
        assert_eq!(Cursor::parse(&text), Some(cursor));
        for wrong in ["", "7", "AAAA", &text[1..], &text[..text.len() - 1], &format!("{text}AA")] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }
}
