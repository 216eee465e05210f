//! `POST /firehose/{app_key}/ack`: a consumer has done with everything up to a cursor.

use fanfare_jobs::LogError;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;

use super::asked;
use super::bearer::Bearer;
use super::cursor::Cursor;
use super::hose::Hose;
use super::refused::Refused;
use crate::body;
use crate::edge::Body;

/// Bytes of a body.
const BODY_BYTES_MAX: usize = 4 << 10;

#[derive(Deserialize)]
struct Ack {
    consumer: String,
    cursor: String,
}

/// The name of a consumer among those of all tokens.
pub fn full_name(bearer: &Bearer, consumer: &str) -> Box<str> {
    format!("{}/{consumer}", bearer.token.name).into()
}

/// Answered when it is kept, with where the consumer stands now.
pub async fn answer(hose: &Hose, bearer: &Bearer, body: Incoming) -> Result<Response<Body>, Refused> {
    let body = body::read(body, BODY_BYTES_MAX).await?;
    let ack: Ack = serde_json::from_slice(&body).map_err(|error| Refused::Ack(error.to_string()))?;
    let consumer = asked::consumer(ack.consumer)?;
    let cursor = Cursor::parse(&ack.cursor).ok_or_else(|| Refused::Ack("this is no cursor".into()))?;
    let name = full_name(bearer, &consumer);
    if hose.log.mark(&name).await?.is_none() {
        return Err(Refused::NoConsumer(consumer));
    }
    let ends = hose.log.ends().await?;
    if cursor.epoch != ends.epoch || cursor.number >= ends.next {
        return Err(Refused::Strange);
    }
    let mark = match hose.log.set_mark(&name, cursor.epoch, cursor.number).await {
        Err(LogError::Anew) => return Err(Refused::Strange),
        marked => marked?,
    };
    hose.seats.marked(&name, mark);
    let text = format!("{{\"cursor\":\"{}\"}}\n", Cursor { epoch: ends.epoch, number: mark });
    let mut response = Response::new(Body::from(Full::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
