//! Why a request under `/firehose` is refused, and what its sender is told.

use fanfare_jobs::LogError;
use fanfare_proto::json::json_string_token;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use crate::body::BadBody;
use crate::edge::Body;

/// Seconds after which to try again.
const RETRY_S: u64 = 5;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another path.
    #[error("nothing is here: expected /firehose/{{app_key}} or /firehose/{{app_key}}/ack")]
    Nowhere,
    /// Another method.
    #[error("expected {0}")]
    Method(&'static str),
    /// No app has this key.
    #[error("no app has the key {0:?}")]
    Key(Box<str>),
    /// The configuration gives it none.
    #[error("this app has no firehose: give it one with [apps.firehose]")]
    NoFirehose,
    /// The app is switched off.
    #[error("this app is disabled")]
    Disabled,
    /// Nobody said who is asking.
    #[error("expected Authorization: Bearer and one of the firehose's tokens, or ?token=")]
    NoToken,
    /// Not a token of this firehose.
    #[error("this is none of the firehose's tokens")]
    Token,
    /// As many connections as it may have.
    #[error("this token has {0} connections already")]
    Connections(u32),
    /// A parameter that means nothing.
    #[error("{name}: expected {expected}")]
    Parameter {
        /// Which.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// A name in a list.
    #[error("{name}: {why}")]
    Name {
        /// Of which parameter.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A condition that is none.
    #[error("filter: {0}")]
    Filter(String),
    /// The body of an acknowledgement.
    #[error("expected {{\"consumer\":NAME,\"cursor\":CURSOR}}: {0}")]
    Ack(String),
    /// The body could not be read.
    #[error(transparent)]
    Body(#[from] BadBody),
    /// It has never connected.
    #[error("there is no consumer {0:?}: connect with ?consumer= first")]
    NoConsumer(Box<str>),
    /// A cursor that has nothing to do with what the log holds.
    #[error("this cursor is none of this firehose's, as it is now: send back one that was received")]
    Strange,
    /// The log is full of readers, or away.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The server ends.
    #[error("the server is stopping")]
    Stopping,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Refused::Nowhere | Refused::Key(_) | Refused::NoFirehose | Refused::NoConsumer(_) => StatusCode::NOT_FOUND,
            Refused::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Refused::Disabled => StatusCode::FORBIDDEN,
            Refused::NoToken | Refused::Token => StatusCode::UNAUTHORIZED,
            Refused::Connections(_) | Refused::Log(LogError::TooManyReaders) => StatusCode::TOO_MANY_REQUESTS,
            Refused::Parameter { .. } | Refused::Name { .. } | Refused::Filter(_) | Refused::Ack(_) => {
                StatusCode::BAD_REQUEST
            }
            Refused::Body(bad) => bad.status(),
            Refused::Strange => StatusCode::CONFLICT,
            Refused::Log(LogError::Unavailable(_) | LogError::Anew) | Refused::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// What its sender is told.
    pub fn response(&self) -> Response<Body> {
        let text = format!("{{\"error\":{}}}\n", json_string_token(&self.to_string()));
        let mut response = Response::new(Body::from(Full::from(text)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_S));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert("www-authenticate", HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        if let Refused::Method(methods) = self {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}
