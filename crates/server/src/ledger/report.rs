//! What the ledger says: the chain of all counts, whether its sums agree, and what went on in the last minutes.
//!
//! This is the JSON of `GET /ledger`, as the server writes it and `fanfare ledger` reads it.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// Everything that is said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The server's version.
    pub version: String,
    /// Since when is counted: the start of the process, in milliseconds since 1970.
    pub since_ms: u64,
    /// When the counts were read.
    pub now_ms: u64,
    /// In the life of the installation.
    pub life: Life,
    /// How many comparisons were made.
    pub compared: usize,
    /// The first step of the chain where the sums part; `None`: nowhere.
    pub parted: Option<Parted>,
    /// The chain, in the direction in which messages go.
    pub chain: Vec<Step>,
    /// The last minutes, the oldest first; the last one is not over.
    #[serde(default)]
    pub minutes: Vec<Minute>,
}

/// What has been done in the life of the installation, through all restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Publications that the broker took.
    pub published: u64,
    /// Deliveries that the kernel took.
    pub delivered: u64,
}

/// Where sums part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parted {
    /// The step.
    pub at: String,
    /// How many are missing; negative: how many are too many.
    pub difference: i64,
}

/// One minute.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Minute {
    /// Its end, or now.
    pub ended_ms: u64,
    /// As it was at its end.
    pub parted: Option<Parted>,
    /// The parts where something happened or was under way, with what happened in this minute.
    pub chain: Vec<Step>,
}

/// A link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Something that messages go through.
    Part(Part),
    /// Between two of them: what goes out of one goes into the other.
    Link(Link),
}

/// Where something is counted. What does not apply is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The app.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub app: String,
    /// The queue.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub queue: String,
    /// The pipeline.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pipeline: String,
}

/// `in + made = out + dropped + failed + in_flight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What it is called there.
    pub part: String,
    /// What came in.
    #[serde(rename = "in")]
    pub came: u64,
    /// What was made of it, beyond the first.
    pub made: u64,
    /// What went on.
    pub out: u64,
    /// What went no further, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What is tried again, or is for a person to look at.
    pub failed: u64,
    /// What is here.
    pub in_flight: u64,
    /// Whether these are the numbers of a store that several nodes share.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// What is missing; negative: what is too much.
    pub difference: i64,
}

/// `sent = came + under_way`, as far as the two can be read at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What counts what goes out.
    pub from: String,
    /// What counts what comes in.
    pub to: String,
    /// What went out for certain.
    pub sent: u64,
    /// What went out at most: of some it cannot be known, as whoever sent them did not wait for the answer.
    pub sent_max: u64,
    /// What came in.
    pub came: u64,
    /// What is known to be between the two, at most.
    pub under_way: u64,
    /// What is missing; negative: what is too much.
    pub difference: i64,
}

impl Report {
    /// The same of two nodes, without their minutes. What both read of a shared store counts once.
    pub fn plus(mut self, other: Report) -> Report {
        for theirs in other.chain {
            match self.chain.iter_mut().find(|ours| ours.name() == theirs.name()) {
                Some(ours) => ours.add(theirs),
                None => self.chain.push(theirs),
            }
        }
        self.life.published += other.life.published;
        self.life.delivered += other.life.delivered;
        Report {
            since_ms: self.since_ms.min(other.since_ms),
            now_ms: self.now_ms.max(other.now_ms),
            compared: self.compared + other.compared,
            parted: self.parted.or(other.parted),
            minutes: Vec::new(),
            ..self
        }
    }
}

impl Part {
    /// What went no further, for whatever reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// What is missing; negative: what is too much.
    pub fn imbalance(&self) -> i64 {
        let left = self.out + self.dropped_total() + self.failed + self.in_flight;
        (self.came + self.made).wrapping_sub(left) as i64
    }

    /// What has happened here since then; what began anew meanwhile has happened since it did.
    pub fn since(&self, before: Option<&Part>) -> Part {
        let nothing = Part::default();
        let before = before.filter(|before| before.came <= self.came).unwrap_or(&nothing);
        let dropped = self.dropped.iter().map(|(reason, n)| {
            let before = before.dropped.get(reason).copied().unwrap_or(0);
            (reason.clone(), n.saturating_sub(before))
        });
        Part {
            came: self.came - before.came,
            made: self.made.saturating_sub(before.made),
            out: self.out.saturating_sub(before.out),
            dropped: dropped.filter(|(_, n)| *n > 0).collect(),
            failed: self.failed.saturating_sub(before.failed),
            ..self.clone()
        }
    }

    fn add(&mut self, other: Part) {
        if self.shared {
            return;
        }
        let Part { came, made, out, dropped, failed, in_flight, difference, .. } = other;
        for (reason, n) in dropped {
            *self.dropped.entry(reason).or_default() += n;
        }
        self.came += came;
        self.made += made;
        self.out += out;
        self.failed += failed;
        self.in_flight += in_flight;
        self.difference += difference;
    }

    /// Whether there is nothing to say.
    pub fn is_quiet(&self) -> bool {
        let Part { came, made, out, failed, in_flight, difference, .. } = self;
        [came, made, out, failed, in_flight].iter().all(|n| **n == 0) && self.dropped_total() == 0 && *difference == 0
    }
}

impl Step {
    /// The step by name: the same in every look.
    pub fn name(&self) -> String {
        match self {
            Step::Part(Part { place, part, .. }) => format!("{place}{part}"),
            Step::Link(Link { place, from, to, .. }) => format!("{place}{from} → {to}"),
        }
    }

    /// What is missing here; negative: what is too much.
    pub fn difference(&self) -> i64 {
        match self {
            Step::Part(part) => part.difference,
            Step::Link(link) => link.difference,
        }
    }

    /// Adds what another node says of the same step.
    fn add(&mut self, other: Step) {
        match (self, other) {
            (Step::Part(ours), Step::Part(theirs)) => ours.add(theirs),
            (Step::Link(ours), Step::Link(Link { sent, sent_max, came, under_way, difference, .. })) => {
                ours.sent += sent;
                ours.sent_max += sent_max;
                ours.came += came;
                ours.under_way += under_way;
                ours.difference += difference;
            }
            // Their names differ.
            _ => {}
        }
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        match self {
            Step::Part(part) => &part.place,
            Step::Link(link) => &link.place,
        }
    }

    /// Says what is missing here.
    pub fn set_difference(&mut self, difference: i64) {
        match self {
            Step::Part(part) => part.difference = difference,
            Step::Link(link) => link.difference = difference,
        }
    }
}

/// As the beginning of a step's name.
impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, name) in [("app", &self.app), ("queue", &self.queue), ("pipeline", &self.pipeline)] {
            if !name.is_empty() {
                write!(f, "{what} {name}: ")?;
            }
        }
        Ok(())
    }
}

impl Display for Parted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parted { at, difference } = self;
        match difference {
            0.. => write!(f, "{at}: {difference} missing"),
            _ => write!(f, "{at}: {} too many", difference.unsigned_abs()),
        }
    }
}
