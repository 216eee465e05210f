//! Answers: the headers that all of them have, and those of this listener's own.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL,
    CONTENT_TYPE, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, RETRY_AFTER, SEC_WEBSOCKET_VERSION,
};
use hyper::{Response, StatusCode};

use super::asked::{Endpoint, Start};
use super::clock::{Moment, http_date};
use super::refusal::Refused;
use crate::edge::Body;

const EXPLAIN: HeaderName = HeaderName::from_static("x-nginx-pushstream-explain");
const TAG: HeaderName = HeaderName::from_static("x-nginx-pushstream-tag");
const COMMIT: HeaderName = HeaderName::from_static("x-nginx-pushstream-commit");

/// The methods of the publisher.
pub const PUBLISHER_METHODS: &str = "GET, POST, PUT, DELETE";

const ALLOWED_HEADERS: &str = "If-Modified-Since,If-None-Match,Etag,Event-Id,Event-Type,Last-Event-Id";

/// An answer that is a status alone.
pub fn empty(status: StatusCode) -> Response<Body> {
    full(status, Bytes::new())
}

/// An answer that is there as a whole.
pub fn full(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).into());
    *response.status_mut() = status;
    response
}

/// An answer that says what it is.
pub fn typed(content_type: &str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    set(response.headers_mut(), CONTENT_TYPE, content_type);
    response
}

/// That there is nothing new, of an answer that would say what it is.
pub fn not_modified(content_type: &str) -> Response<Body> {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    set(response.headers_mut(), CONTENT_TYPE, content_type);
    response
}

/// An answer whose explanation is in a header.
pub fn explained(status: StatusCode, explain: &str) -> Response<Body> {
    let mut response = empty(status);
    set(response.headers_mut(), EXPLAIN, explain);
    response
}

impl Refused {
    /// What the sender is told.
    pub fn response(&self) -> Response<Body> {
        let mut response = explained(self.status(), &self.to_string());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Refused::Method { allow } => set(headers, ALLOW, allow),
            Refused::Version => set(headers, SEC_WEBSOCKET_VERSION, "8, 13"),
            _ => {}
        }
        response
    }
}

/// Says up to where a poll's answer goes.
pub fn set_moment(headers: &mut HeaderMap, moment: Option<Moment>) {
    let Some(Moment { time_s, tag }) = moment else { return };
    set(headers, LAST_MODIFIED, &http_date(time_s));
    set(headers, ETAG, &format!("W/{tag}"));
}

/// Says again up to where a poll had been answered before.
pub fn set_start(headers: &mut HeaderMap, start: &Start) {
    if let Some(time_s) = start.time_s {
        set(headers, LAST_MODIFIED, &http_date(time_s));
    }
    if let Some(tag) = start.tag {
        set(headers, ETAG, &format!("W/{tag}"));
    }
}

/// What every answer says.
pub fn set_common(headers: &mut HeaderMap, endpoint: Option<Endpoint>, allowed_origins: Option<&str>) {
    set(headers, TAG, env!("CARGO_PKG_VERSION"));
    set(headers, COMMIT, concat!("fanfare-", env!("CARGO_PKG_VERSION")));
    set(headers, EXPIRES, "Thu, 01 Jan 1970 00:00:01 GMT");
    set(headers, CACHE_CONTROL, "no-cache, no-store, must-revalidate");
    let Some(origins) = allowed_origins else { return };
    let methods = match endpoint {
        Some(Endpoint::Publish) => PUBLISHER_METHODS,
        Some(Endpoint::Subscribe(_)) => "GET",
        // Statistics are not for pages.
        Some(Endpoint::Statistics) | None => return,
    };
    set(headers, ACCESS_CONTROL_ALLOW_ORIGIN, origins);
    set(headers, ACCESS_CONTROL_ALLOW_METHODS, methods);
    set(headers, ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // What is ours is legal, the configuration has been checked, and an explanation that quotes a name is not worth more.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
