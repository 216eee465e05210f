//! Cutting HTML that has been made safe: every tag is whole, and what was opened is closed.

use unicode_segmentation::UnicodeSegmentation;

/// Elements that have no end.
const VOID: [&str; 5] = ["br", "hr", "img", "col", "wbr"];

/// Characters of an entity, such as `&thetasym;`, the longest that has no text of its own.
const ENTITY_BYTES_MAX: usize = 12;

/// What a reader sees, or does not.
enum Piece<'a> {
    /// Nothing.
    Tag(&'a str),
    /// A character, or what looks like one.
    Seen(&'a str),
}

/// If more than `chars_max` characters are to be seen, leaves `chars` and adds the suffix, within all elements that are
/// open there.
pub(super) fn cut(text: &mut String, chars_max: usize, chars: usize, suffix: &str) {
    let (mut seen, mut at, mut end) = (0, 0, None);
    let mut open: Vec<&str> = Vec::new();
    for piece in (Pieces { rest: text, tags: true }) {
        match piece {
            Piece::Tag(tag) => {
                if end.is_none() {
                    step(&mut open, tag);
                }
                at += tag.len();
            }
            Piece::Seen(piece) => {
                seen += if piece.starts_with('&') { 1 } else { piece.chars().count() };
                if seen > chars && end.is_none() {
                    end = Some(at);
                }
                at += piece.len();
            }
        }
    }
    let Some(end) = end.filter(|_| seen > chars_max) else { return };
    let closing: String = open.iter().rev().map(|name| format!("</{name}>")).collect();
    text.truncate(end);
    text.push_str(suffix);
    text.push_str(&closing);
}

/// What is open after a tag.
fn step<'a>(open: &mut Vec<&'a str>, tag: &'a str) {
    let name = |tag: &'a str| tag.split(|char: char| !char.is_ascii_alphanumeric()).next().unwrap_or_default();
    match tag[1..].strip_prefix('/') {
        Some(closing) if open.last() == Some(&name(closing)) => drop(open.pop()),
        Some(_) => {}
        None => open.extend(Some(name(&tag[1..])).filter(|name| !VOID.contains(name))),
    }
}

struct Pieces<'a> {
    rest: &'a str,
    /// Until one has no end: looking for the ends of all that follow would take time by their square.
    tags: bool,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let rest = self.rest;
        if self.tags && begins_tag(rest) {
            if let Some(bytes) = tag(rest) {
                self.rest = &rest[bytes..];
                return Some(Piece::Tag(&rest[..bytes]));
            }
            self.tags = false;
        }
        let piece = match entity(rest) {
            Some(bytes) => &rest[..bytes],
            None => rest.graphemes(true).next()?,
        };
        self.rest = &rest[piece.len()..];
        Some(Piece::Seen(piece))
    }
}

fn begins_tag(text: &str) -> bool {
    let name = text.strip_prefix("</").or_else(|| text.strip_prefix('<'));
    name.is_some_and(|name| name.starts_with(|char: char| char.is_ascii_alphabetic()))
}

/// The length of the tag that a text begins with. In quotes a `>` is only a letter.
fn tag(text: &str) -> Option<usize> {
    let mut quoted = false;
    let end = text.bytes().position(|byte| {
        quoted ^= byte == b'"';
        byte == b'>' && !quoted
    });
    end.map(|end| end + 1)
}

/// The length of the entity that a text begins with.
fn entity(text: &str) -> Option<usize> {
    let name = text.strip_prefix('&')?.as_bytes();
    let end = name.iter().take(ENTITY_BYTES_MAX).position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'#')?;
    (end > 0 && name[end] == b';').then_some(end + 2)
}
