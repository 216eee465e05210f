//! What this node asks of others, and they of it, about sessions whose requests come to another node than the one that has them.
//!
//! A request that reads is passed on as questions, one after the other: each takes what there is to be read, or waits for
//! it for a while. So nothing is on its way that nobody has asked for, and a lost answer is noticed by whoever asked.
//!
//! Not here: how questions travel (`redis::relay`), what is said in a session (`sessions`).

use std::sync::Weak;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How long a node waits for something to be read before it answers that there is nothing.
pub const WAIT: Duration = Duration::from_secs(5);

/// Where a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node.
    Here,
    /// On another.
    At(Box<str>),
    /// On none.
    Nowhere,
}

/// The other node did not answer, or nobody knows which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session's node does not answer")]
pub struct Unreachable;

/// The nodes that share sessions with this one.
#[async_trait]
pub trait Neighbours: Send + Sync {
    /// Has `answers` answer what others ask, from now on.
    fn serve(&self, answers: Weak<dyn Answers>);

    /// Where a session is. With `claim`, one that is nowhere is this node's from now on.
    async fn place(&self, session: &str, claim: bool) -> Result<Place, Unreachable>;

    /// These sessions are still here. To be said every few seconds of each.
    async fn keep(&self, sessions: &[Box<str>]);

    /// These have ended.
    async fn forget(&self, sessions: &[Box<str>]);

    /// Asks another node, and waits for its answer a little longer than [`WAIT`].
    async fn ask(&self, node: &str, question: &Question) -> Result<Answer, Unreachable>;
}

/// What answers other nodes.
#[async_trait]
pub trait Answers: Send + Sync {
    /// Answers one question, within [`WAIT`] or not much more.
    async fn answer(&self, question: Question) -> Answer;
}

/// What a node asks about a session.
#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    /// What there is to be read.
    Read {
        /// Its name.
        session: String,
        /// A streaming client's request: the length of what it has been given. None: a poll's.
        units: Option<usize>,
        /// When a heartbeat is due.
        beat_ms: u64,
    },
    /// Its client said this.
    Hear {
        /// Its name.
        session: String,
        /// The messages; none is a sign of life.
        texts: Vec<String>,
    },
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Whole frames.
    Frames(Bytes),
    /// There was nothing to be read for a while.
    Nothing,
    /// There is nothing more for this request.
    End,
    /// It was heard.
    Heard,
    /// There is no such session.
    Unknown,
}

impl Question {
    /// The question as it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always have a JSON form")
    }

    /// Reads what [`Question::to_bytes`] wrote; none of a kind that this node does not know.
    pub fn from_bytes(bytes: &[u8]) -> Option<Question> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Answer {
    /// The answer as it travels: a letter, and frames behind it.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Answer::Frames(frames) => [b"f", &frames[..]].concat(),
            Answer::Nothing => b"n".to_vec(),
            Answer::End => b"e".to_vec(),
            Answer::Heard => b"h".to_vec(),
            Answer::Unknown => b"u".to_vec(),
        }
    }

    /// Reads what [`Answer::to_bytes`] wrote.
    pub fn from_bytes(mut bytes: Bytes) -> Option<Answer> {
        match bytes.first()? {
            b'f' => Some(Answer::Frames(bytes.split_off(1))),
            b'n' => Some(Answer::Nothing),
            b'e' => Some(Answer::End),
            b'h' => Some(Answer::Heard),
            b'u' => Some(Answer::Unknown),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let answers = [Answer::Nothing, Answer::End, Answer::Heard, Answer::Unknown, Answer::Frames("a[]\n".into())];
        for answer in answers {
            assert_eq!(Answer::from_bytes(answer.to_bytes().into()), Some(answer));
        }
        assert_eq!(Answer::from_bytes(Bytes::new()), None);
        let question = Question::Read { session: "k/1/a".into(), units: Some(7), beat_ms: 9 };
        let read = Question::from_bytes(&question.to_bytes());
        assert!(matches!(read, Some(Question::Read { units: Some(7), beat_ms: 9, .. })), "{read:?}");
        assert!(Question::from_bytes(br#"{"Sing":{}}"#).is_none());
    }
}
