//! A wire that can be slow, shut or broken, and a reader of what was written on it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::cell::{RefCell, RefMut};
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::broker::InFlight;
use fanfare_hub::hold::Hold;
use fanfare_hub::publication::PusherForms;
use fanfare_hub::shard::{ConnKey, Sent, Traits, Wire};
use fanfare_hub::{ChannelKey, Encode, Form, Frames, Kind, Mark, Publication, Shard, StreamPosition};
use fanfare_proto::deflate::inflate;
use fanfare_proto::socket_id::SocketId;
use fanfare_proto::ws::{FIN, Header, TEXT, text_frame};

/// What the shards of these tests begin their socket ids with.
pub const SALT: u64 = 77;

/// A channel like any other.
pub const PLAIN: Traits = Traits { presence: false, announce: false, newest: false };

/// How a wire takes what it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// All of it.
    Open,
    /// At most so many bytes of each write.
    Slow(usize),
    /// Nothing.
    Shut,
    /// Gone.
    Broken,
}

/// The far end of a wire; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tap(Rc<RefCell<End>>);

#[derive(Debug)]
struct End {
    mood: Mood,
    bytes: Vec<u8>,
    writes: usize,
    /// It took less than it was offered, and nobody has said since that it takes more.
    full: bool,
    once: bool,
}

impl Tap {
    pub fn new(mood: Mood) -> Self {
        Tap(Rc::new(RefCell::new(End { mood, bytes: Vec::new(), writes: 0, full: false, once: false })))
    }

    pub fn set(&self, mood: Mood) {
        self.end().mood = mood;
    }

    /// It is a poller's: one batch is all that it takes.
    pub fn take_once(&self) {
        self.end().once = true;
    }

    /// It takes bytes again in its present mood; to be told to its shard.
    pub fn drained(&self) {
        self.end().full = false;
    }

    /// How often it was written on.
    pub fn writes(&self) -> usize {
        self.end().writes
    }

    /// The messages that arrived whole; panics if anything but whole, well-made frames and one unfinished one came.
    pub fn texts(&self) -> Vec<String> {
        texts(&self.end().bytes)
    }

    /// The publications and notes that arrived whole, as [`note`] and [`publication`] wrote them.
    pub fn heard(&self) -> Vec<String> {
        self.texts().iter().map(|text| brief(text)).collect()
    }

    fn end(&self) -> RefMut<'_, End> {
        self.0.borrow_mut()
    }
}

impl Wire for Tap {
    fn write(&mut self, parts: &[IoSlice<'_>]) -> Sent {
        let mut end = self.end();
        end.writes += 1;
        assert!(!end.full, "a full socket is offered nothing until it is writable");
        let offered: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        assert!(!offered.is_empty(), "a write of nothing is a wasted system call");
        let taken = match end.mood {
            Mood::Open => offered.len(),
            Mood::Slow(bytes) => bytes.min(offered.len()),
            Mood::Shut => 0,
            Mood::Broken => return Sent::Broken,
        };
        end.bytes.extend_from_slice(&offered[..taken]);
        end.full = taken < offered.len();
        Sent::Took(taken)
    }

    fn once(&self) -> bool {
        self.end().once
    }
}

fn texts(mut bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(header) = Header::parse(bytes).expect("only well-made frames are written") {
        let Some(whole) = header.whole_frame(bytes.len()) else { break };
        assert!(header.fin && header.opcode == TEXT && header.mask.is_none(), "a whole, unmasked text message");
        let payload = &bytes[header.size..whole];
        let payload = if header.rsv1 { inflate(payload, 1 << 20).expect("deflated") } else { payload.to_vec() };
        texts.push(String::from_utf8(payload).expect("a text message is UTF-8"));
        bytes = &bytes[whole..];
    }
    assert!(bytes.first().is_none_or(|first| first & 0x8f == FIN | TEXT), "the rest is the beginning of a frame");
    texts
}

/// `{"event":"e","channel":"c0","data":"7:…"}` becomes `c0 7`; notes stay as they are.
fn brief(text: &str) -> String {
    let between = |from: &str, to: &str| text.split_once(from)?.1.split_once(to).map(|halves| halves.0);
    match (between(r#""channel":""#, "\""), between(r#""data":""#, ":")) {
        (Some(channel), Some(id)) => format!("{channel} {id}"),
        _ => text.to_owned(),
    }
}

/// A message to one connection, whole with its header.
pub fn note(text: &str) -> Bytes {
    text_frame(text.as_bytes()).into()
}

/// A publication that [`brief`] shows as its channel and `id`, padded to about `padding` bytes.
pub fn publication(id: usize, padding: usize) -> Publication {
    Publication::event(r#""e""#, format!(r#""{id}:{}""#, "x".repeat(padding)))
}

/// A letter to a shard: a publication without a position.
pub fn frames(key: &ChannelKey, publication: Publication) -> Arc<Frames> {
    stored(key, publication, None)
}

/// A letter of something that keeps a hold.
pub fn held(key: &ChannelKey, publication: Publication, hold: Hold) -> Arc<Frames> {
    let letter = Frames::new(key.clone(), publication.into(), None, Arc::new(Teller(FORMS)));
    Arc::new(letter.carrying(InFlight { hold: Some(hold), ..InFlight::default() }))
}

/// A letter to a shard. Messages of 100 bytes and more are worth deflating.
pub fn stored(key: &ChannelKey, publication: Publication, position: Option<StreamPosition>) -> Arc<Frames> {
    let mark = position.map(|position| Mark { position, stamp: position.offset, settled: 0 });
    Arc::new(Frames::new(key.clone(), publication.into(), mark, Arc::new(Teller(FORMS))))
}

/// News of a gap, which [`brief`] shows as the channel and `id`. It can be told as text, and not deflated.
pub fn gap(key: &ChannelKey, id: usize, position: StreamPosition) -> Arc<Frames> {
    let now = Mark { position, stamp: id as u64, settled: 0 };
    Arc::new(Frames::gap(key.clone(), now, Arc::new(Teller(FORMS))))
}

const FORMS: PusherForms = PusherForms { deflate_bytes_min: 100 };

/// Pusher's forms, the first of which can tell of gaps.
struct Teller(PusherForms);

impl Encode for Teller {
    fn forms(&self) -> usize {
        self.0.forms()
    }

    fn encode(&self, form: Form, frames: &Frames) -> Bytes {
        match frames.mark() {
            Some(mark) if frames.is_gap() && form == Form::TEXT => {
                let told = publication(mark.stamp as usize, 0).text(frames.key().name());
                text_frame(&told).into()
            }
            _ => self.0.encode(form, frames),
        }
    }
}

/// As [`publication`], for a change of members.
pub fn change(id: usize, version: u64) -> Publication {
    Publication { kind: Kind::Presence { version }, ..publication(id, 0) }
}

/// The socket id of a connection of these tests' shards.
pub fn socket(conn: ConnKey) -> SocketId {
    SocketId { a: SALT, b: conn.bits() }
}

/// Turns until there is nothing left to do.
pub fn settle<W: Wire>(shard: &mut Shard<W>) {
    while shard.turn() {}
}
