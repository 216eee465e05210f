//! The firehose of an app: how much of it is kept, and who may read it.

use super::check::{any, number};
use super::queues::Durability;
use super::written::{At, Place, WrittenFirehose, WrittenFirehoseToken, Wrong};
use super::{Secret, tenants};
use fanfare_jobs::log::Keep;
use fanfare_jobs::pipeline::Condition;
use fanfare_proto::channel::ChannelPattern;
use std::sync::Arc;
use std::time::Duration;

const MONTH_S: u32 = 31 * 24 * 60 * 60;
const HOUR_S: u32 = 60 * 60;
const WINDOW_BYTES_MIN: u32 = 64 << 10;
const NAME_LEN_MAX: usize = 64;
/// Shorter ones can be guessed.
const TOKEN_LEN_MIN: usize = 16;
const CONNECTIONS_MAX: u32 = 10_000;

/// One `[apps.firehose]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirehoseSettings {
    /// What it outlives.
    pub durability: Durability,
    /// How much of it is kept.
    pub keep: Keep,
    /// How long a consumer that acknowledges may be silent about what it was sent, until that is sent again.
    pub ack_timeout: Duration,
    /// Who may read.
    pub tokens: Vec<FirehoseToken>,
}

/// Who may read, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirehoseToken {
    /// For people; consumers' names are apart by it.
    pub name: Arc<str>,
    /// What its bearer has to show.
    pub token: Secret,
    /// Only these channels; empty = all.
    pub channels: Vec<ChannelPattern>,
    /// Only events of these names, or that begin so if a `*` follows; empty = all.
    pub events: Vec<Arc<str>>,
    /// Only what this condition is true of.
    pub filter: Option<Arc<str>>,
    /// How many are sent in a second, to all of its connections together; 0 = unlimited.
    pub messages_per_s: u32,
    /// Connections at once on this node.
    pub connections_max: u32,
}

/// Checks an app's firehose, and that no two of its tokens share a name. `disk`: whether there is anything to keep it on.
pub(super) fn checked(
    At { value: written, place }: At<WrittenFirehose>,
    disk: bool,
) -> Result<FirehoseSettings, Wrong> {
    let Some(tokens) = written.tokens.filter(|tokens| !tokens.value.is_empty()) else {
        let message = "a firehose needs `tokens`, such as tokens = [{ name = \"…\", token = \"…\" }]";
        return Err(Wrong::at(place, message));
    };
    let mut checked: Vec<FirehoseToken> = Vec::with_capacity(tokens.value.len());
    for At { value, place } in tokens.value {
        let token = token(value, place.clone())?;
        if checked.iter().any(|other| other.name == token.name || other.token == token.token) {
            let message = format!("another token of this firehose has the name \"{}\", or is the same", token.name);
            return Err(Wrong::at(place, message));
        }
        checked.push(token);
    }
    let window_s = number(written.window_s, 1..=MONTH_S, 3600_u64)?;
    Ok(FirehoseSettings {
        durability: durability(written.durability, disk)?,
        keep: Keep {
            age_ms: window_s * 1000,
            bytes: number(written.window_bytes, WINDOW_BYTES_MIN..=u32::MAX, 256 << 20)?,
        },
        ack_timeout: Duration::from_secs(number(written.ack_timeout_s, 1..=HOUR_S, 60)?),
        tokens: checked,
    })
}

fn durability(written: Option<At<String>>, disk: bool) -> Result<Durability, Wrong> {
    let Some(At { value, place }) = written else {
        return Ok(if disk { Durability::Disk } else { Durability::Memory });
    };
    match (&*value, disk) {
        ("memory", _) => Ok(Durability::Memory),
        ("disk", true) => Ok(Durability::Disk),
        ("disk", false) => {
            Err(Wrong::at(place, "a firehose on disk needs a `data_dir`; durability = \"memory\" does without"))
        }
        _ => Err(Wrong::at(place, format!("expected \"disk\" or \"memory\", found {value:?}"))),
    }
}

fn token(written: WrittenFirehoseToken, place: Place) -> Result<FirehoseToken, Wrong> {
    let (Some(name), Some(token)) = (written.name, written.token) else {
        return Err(Wrong::at(place, "a token of a firehose needs a `name` and a `token`"));
    };
    if !(1..=NAME_LEN_MAX).contains(&name.value.len()) || !tenants::plain(&name.value) {
        let message = format!("expected a name of letters, digits, `-`, `_`, `.` and `~`, found {:?}", name.value);
        return Err(Wrong::at(name.place, message));
    }
    if token.value.len() < TOKEN_LEN_MIN {
        let message = format!("the token \"{}\" has fewer than {TOKEN_LEN_MIN} characters", name.value);
        return Err(Wrong::at(token.place, message));
    }
    let filter = written.filter.map(|At { value, place }| match Condition::parse(&value) {
        Ok(_) => Ok(value.into()),
        Err(why) => Err(Wrong::at(place, format!("the filter of \"{}\": {why}", name.value))),
    });
    Ok(FirehoseToken {
        token: Secret::new(&token.value),
        channels: any(written.channels, Vec::new()).into_iter().map(tenants::channels).collect::<Result<_, _>>()?,
        events: any(written.events, Vec::new()).into_iter().map(|event| event.value.into()).collect(),
        filter: filter.transpose()?,
        messages_per_s: number(written.messages_per_s, 0..=u32::MAX, 0)?,
        connections_max: number(written.connections_max, 1..=CONNECTIONS_MAX, 4)?,
        name: name.value.into(),
    })
}
