//! What browsers are told when a page of another origin calls (CORS).

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderValue, VARY,
};
use hyper::{Response, StatusCode};

/// Headers that such a page may send.
const ALLOWED_HEADERS: &str = "Last-Event-ID, Cache-Control, Authorization, Content-Type, If-None-Match, \
                               If-Modified-Since, Idempotency-Key, Event-Id, Event-Type";

/// Headers of an answer that such a page may read.
const EXPOSED_HEADERS: &str =
    "ETag, Fanfare-Cursor, Fanfare-Recovered, Fanfare-Event, Fanfare-Event-Id, Fanfare-Sid, Retry-After";

/// For how long a browser need not ask again. Chromium keeps to two hours at most.
const MAX_AGE_S: &str = "86400";

/// The answer to the question whether a request with these methods may be made.
pub fn preflight(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_S));
    response
}

/// Lets the page of this origin, which must have been allowed, read the answer.
pub fn readable(mut response: Response<Full<Bytes>>, origin: Option<&HeaderValue>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    match origin {
        Some(origin) => {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(VARY, HeaderValue::from_static("Origin"));
        }
        None => _ = headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    }
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
    response
}
