//! `GET /channels/{name}/history`: what is stored of a channel.

use fanfare_hub::{History, Hub, Since, Stored};
use fanfare_proto::cursor::{BadCursor, Cursor};
use fanfare_proto::sign::SignedQuery;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Answer;
use super::events::Target;
use super::receipt::Position;
use crate::apps::App;

/// Publications in one answer, and how many unless asked for less or more.
const LIMIT_MAX: usize = 1000;
const LIMIT: usize = 100;

/// Why a history is not told.
#[derive(Debug, thiserror::Error)]
pub enum BadHistory {
    /// Not a number, or too large a one.
    #[error("limit must be a whole number from 1 to {LIMIT_MAX}")]
    Limit,
    /// Neither of the two.
    #[error("reverse must be true or false")]
    Reverse,
    /// Not a cursor.
    #[error("since: {0}")]
    Cursor(#[from] BadCursor),
    /// A cursor of another app.
    #[error("since: this cursor is of another app")]
    OtherApp,
}

impl BadHistory {
    /// All of them are the sender's mistake.
    pub fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

/// What part of a history is asked for, and in which order.
struct Ask {
    since: Option<Cursor>,
    limit: usize,
    newest_first: bool,
}

impl Ask {
    fn parse(app: &App, query: &SignedQuery<'_>) -> Result<Ask, BadHistory> {
        let limit = query.param("limit").map_or(Ok(LIMIT), |text| text.parse().map_err(|_| BadHistory::Limit))?;
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(BadHistory::Limit);
        }
        let newest_first = match query.param("reverse") {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(BadHistory::Reverse),
        };
        let since = query.param("since").map(Cursor::parse).transpose()?;
        match since {
            Some(cursor) if !cursor.is_of_app(&app.id) => Err(BadHistory::OtherApp),
            since => Ok(Ask { since, limit, newest_first }),
        }
    }

    /// Forwards, an answer begins with the oldest; backwards, with the newest, so all has to be read.
    fn read_max(&self) -> usize {
        if self.newest_first { usize::MAX } else { self.limit }
    }
}

/// Answers with the part that is asked for, and the end of the channel's stream.
pub async fn history(hub: &Hub, app: &App, name: &str, query: &SignedQuery<'_>) -> Answer {
    #[derive(Serialize)]
    struct Told<'a> {
        publications: Vec<ToldPublication<'a>>,
        position: Position,
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    }
    let target = Target::parse(app, name)?;
    let ask = Ask::parse(app, query)?;
    let recovers = ask.since.is_some();
    let read_max = ask.read_max();
    let since = ask.since.map_or(Since::Last(u32::MAX), Since::Cursor);
    let History { mut publications, now, recovered, .. } = hub.history(&target.key, &since, read_max).await?;
    if ask.newest_first {
        publications.reverse();
        publications.truncate(ask.limit);
    }
    Ok(super::ok(&Told {
        publications: publications.iter().map(|stored| ToldPublication::of(&target, stored)).collect(),
        position: Position::of(&target.key, &now),
        recovered: recovers.then_some(recovered),
    }))
}

#[derive(Serialize)]
struct ToldPublication<'a> {
    event: Box<RawValue>,
    data: Box<RawValue>,
    cursor: String,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    time_ms: u64,
}

impl<'a> ToldPublication<'a> {
    fn of(target: &Target, Stored { publication, mark }: &'a Stored) -> Self {
        let token = |token: &str| {
            RawValue::from_string(token.to_owned()).expect("an event's name and data are JSON string tokens")
        };
        ToldPublication {
            event: token(&publication.event),
            data: token(&publication.data),
            cursor: mark.cursor(&target.key).to_string(),
            offset: mark.position.offset,
            event_id: publication.event_id.as_deref(),
            time_ms: publication.time_ms,
        }
    }
}
