//! The answers to requests under `/firehose`: who may read, and where a reader begins.

use std::collections::VecDeque;
use std::sync::Arc;

use fanfare_jobs::log::Ends;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::asked::{Asked, Route, Since};
use super::bearer::Bearer;
use super::cursor::Cursor;
use super::filter::Filters;
use super::hose::Hose;
use super::pace::Pace;
use super::reader::{Reader, Start, counted};
use super::refused::Refused;
use super::{Firehoses, ack, asked};
use crate::edge::Body;

/// Chunks that wait for a socket.
const CHUNKS_MAX: usize = 2;

impl Firehoses {
    /// Whether requests for this path are answered here.
    pub fn are_at(&self, path: &str) -> bool {
        Route::parse(path, &self.0.path_prefix).is_some()
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        self.serve(&head, body).await.unwrap_or_else(|refused| refused.response())
    }

    async fn serve(&self, head: &Parts, body: Incoming) -> Result<Response<Body>, Refused> {
        let route = Route::parse(head.uri.path(), &self.0.path_prefix).flatten().ok_or(Refused::Nowhere)?;
        match (&head.method, &route) {
            (&Method::GET | &Method::HEAD, Route::Stream(_)) | (&Method::POST, Route::Ack(_)) => {}
            (_, Route::Stream(_)) => return Err(Refused::Method("GET, HEAD")),
            (_, Route::Ack(_)) => return Err(Refused::Method("POST")),
        }
        let app = self.0.apps.by_key(route.key()).ok_or_else(|| Refused::Key(route.key().into()))?;
        if !app.enabled {
            return Err(Refused::Disabled);
        }
        let hose = self.of(&app.id).ok_or(Refused::NoFirehose)?;
        let token = asked::token(&head.headers, head.uri.query().unwrap_or_default()).ok_or(Refused::NoToken)?;
        let bearer = hose.bearer(&token).ok_or(Refused::Token)?;
        match route {
            Route::Stream(_) => self.stream(head, hose, bearer).await,
            Route::Ack(_) => ack::answer(&hose, &bearer, body).await,
        }
    }

    async fn stream(&self, head: &Parts, hose: Arc<Hose>, bearer: Arc<Bearer>) -> Result<Response<Body>, Refused> {
        let mut asked = Asked::parse(&head.headers, head.uri.query().unwrap_or_default())?;
        let signals = self.0.signals.subscribe();
        if signals.borrow().stopping {
            return Err(Refused::Stopping);
        }
        let full = Refused::Connections(bearer.token.connections_max);
        let connection = bearer.connect(asked.consumer.as_deref()).ok_or(full)?;
        let filter = asked.compiled().await?;
        let mut response = Response::new(Body::from(Full::default()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(asked.form.media_type()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
        // nginx would collect what is to be sent at once.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        if head.method == Method::HEAD {
            return Ok(response);
        }
        let consumer = asked.consumer.as_deref().map(|consumer| ack::full_name(&bearer, consumer));
        let start = start(&hose, consumer.as_deref(), &asked.since).await?;
        let (out, chunks) = mpsc::channel(CHUNKS_MAX);
        let last = start.next - 1;
        let seat = consumer.map(|consumer| hose.seats.take(&consumer, last));
        if let Some(seat) = &seat {
            seat.tell(&*hose.log).await?;
            // What was acknowledged since it was asked for the mark, nobody has told whoever sits here.
            let mark = hose.log.mark(&seat.name).await?;
            hose.seats.marked(&seat.name, mark.unwrap_or(last));
        }
        let reader = Reader {
            seat,
            filters: Filters([bearer.filter.clone(), Arc::new(filter)]),
            form: asked.form,
            epoch: start.epoch,
            next: start.next,
            shown: last,
            unacked: VecDeque::new(),
            unacked_max: asked.unacked_max,
            silent_since: Instant::now(),
            pace: Pace::new(asked.rate),
            heartbeat: self.0.heartbeat,
            spoken_at: Instant::now(),
            buffer: Vec::new(),
            out,
            hose,
            connection,
        };
        tokio::spawn(reader.run(start, signals));
        *response.body_mut() = Body::Chunks(chunks);
        Ok(response)
    }
}

/// Where a reader begins. A consumer that is new has its mark there from now on, so that what it is sent before it has
/// acknowledged anything is its own.
async fn start(hose: &Hose, consumer: Option<&str>, since: &Since) -> Result<Start, Refused> {
    let ends = hose.log.ends().await?;
    let Some(consumer) = consumer else { return Ok(begin(&ends, since)) };
    if let Some(number) = hose.log.mark(consumer).await? {
        return Ok(begin(&ends, &Since::Cursor(Cursor { epoch: ends.epoch, number })));
    }
    let start = begin(&ends, since);
    hose.log.set_mark(consumer, start.epoch, start.next - 1).await?;
    Ok(start)
}

fn begin(ends: &Ends, since: &Since) -> Start {
    let Ends { epoch, first, next, .. } = *ends;
    let at = |next, recovered, missed| Start { epoch, next, recovered, missed };
    match since {
        Since::Now => at(next, None, None),
        Since::Last(n) => at(next.saturating_sub(*n).max(first), None, None),
        Since::Cursor(cursor) if cursor.epoch != epoch || cursor.number >= next => at(first, Some(false), None),
        Since::Cursor(Cursor { number, .. }) if number + 1 < first => {
            at(first, Some(false), counted(first - 1 - number))
        }
        Since::Cursor(Cursor { number, .. }) => at(number + 1, Some(true), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_begins_behind_its_cursor_or_is_told_of_a_gap() {
        let ends = Ends { epoch: 7, first: 10, next: 20, bytes: 0 };
        let begin = |since| {
            let Start { next, recovered, missed, .. } = begin(&ends, &since);
            (next, recovered, missed)
        };
        let cursor = |epoch, number| Since::Cursor(Cursor { epoch, number });
        assert_eq!(begin(Since::Now), (20, None, None));
        assert_eq!(begin(Since::Last(3)), (17, None, None));
        assert_eq!(begin(Since::Last(300)), (10, None, None));
        assert_eq!(begin(cursor(7, 9)), (10, Some(true), None));
        assert_eq!(begin(cursor(7, 19)), (20, Some(true), None));
        assert_eq!(begin(cursor(7, 4)), (10, Some(false), Some(5)));
        let repaired = Ends { first: 1 << 33, next: 1 << 34, ..ends };
        assert_eq!(super::begin(&repaired, &cursor(7, 4)).missed, None);
        assert_eq!(begin(cursor(7, 20)), (10, Some(false), None));
        assert_eq!(begin(cursor(8, 15)), (10, Some(false), None));
    }
}
