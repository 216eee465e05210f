//! Why a request was refused, and what its sender is told: `{"error": …}` with a status that says what to do next.

use bytes::Bytes;
use fanfare_hub::{BrokerError, StoreError};
use fanfare_proto::json::json_string;
use http_body_util::Full;
use hyper::header::{ALLOW, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::auth::Denied;
use super::dev::BadAsk;
use super::events::BadEvent;
use super::history::BadHistory;
use super::info::BadInfo;
use super::jobs::BadJobs;
use super::json;
use super::plain::BadPlain;
use super::revoke::BadRevoke;
use super::route::Methods;
use crate::body::BadBody;
use crate::config::Role;
use crate::limits::RetryAfter;

/// Seconds after which it is worth asking again when a store is away, or the app publishes faster than it is delivered.
const UNAVAILABLE_RETRY_S: u64 = 1;

/// Every reason for which the API says no.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The path leads nowhere.
    #[error(
        "nothing is here: expected /apps/{{app_id}}/ and then events, batch_events, channels, channels/{{name}}, \
         channels/{{name}}/users, channels/{{name}}/history, tokens/revoke, users/{{id}}/terminate_connections, queues, queues/{{name}}, and \
         after that jobs, jobs/{{id}}, jobs/{{id}}/{{verb}}, claim or retry; or /pub/{{app_key}}/{{channel}}; or /rollout/{{app_key}}"
    )]
    Nowhere,
    /// The node is there for subscribers.
    #[error("this node has the role \"{role}\" and answers no publishers: ask a node with the role \"api\"")]
    Elsewhere {
        /// What it is there for.
        role: Role,
    },
    /// The path answers to another method.
    #[error("expected {expected}")]
    Method {
        /// Those that it answers to.
        expected: Methods,
    },
    /// No app has this id.
    #[error("there is no app {id:?}")]
    UnknownApp {
        /// As it was sent.
        id: String,
    },
    /// The app is switched off in the configuration.
    #[error("this app is disabled")]
    Disabled,
    /// The signature is missing or wrong.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The body could not be read.
    #[error(transparent)]
    Body(#[from] BadBody),
    /// The body is no event that may be published.
    #[error(transparent)]
    Event(#[from] BadEvent),
    /// `info` asks for what there is not.
    #[error(transparent)]
    Info(#[from] BadInfo),
    /// The authorisation request of a client under development is wrong.
    #[error(transparent)]
    Ask(#[from] BadAsk),
    /// No history can be asked for like that.
    #[error(transparent)]
    History(#[from] BadHistory),
    /// Nothing can be published over plain HTTP like that.
    #[error(transparent)]
    Plain(#[from] BadPlain),
    /// What is to be revoked is not said, or not to be remembered.
    #[error(transparent)]
    Revoke(#[from] BadRevoke),
    /// Nothing can be done with a queue or a job like that.
    #[error(transparent)]
    Jobs(#[from] BadJobs),
    /// The app publishes more often than it may.
    #[error("this app publishes more often than its publishes_per_s allows")]
    TooOften(RetryAfter),
    /// The app publishes faster than its subscribers can be served.
    #[error("this app publishes faster than its subscribers can be served")]
    Behind,
    /// The broker is away.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The presence store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Refused::Nowhere | Refused::UnknownApp { .. } => StatusCode::NOT_FOUND,
            Refused::Elsewhere { .. } => StatusCode::MISDIRECTED_REQUEST,
            Refused::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Refused::Disabled => StatusCode::FORBIDDEN,
            Refused::Denied(_) => StatusCode::UNAUTHORIZED,
            Refused::Body(bad) => bad.status(),
            Refused::Event(bad) => bad.status(),
            Refused::History(bad) => bad.status(),
            Refused::Plain(bad) => bad.status(),
            Refused::Revoke(bad) => bad.status(),
            Refused::Jobs(bad) => bad.status(),
            Refused::Info(_) | Refused::Ask(_) => StatusCode::BAD_REQUEST,
            Refused::TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
            Refused::Behind | Refused::Broker(_) | Refused::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn retry_after_s(&self) -> Option<u64> {
        match self {
            Refused::TooOften(retry) => Some(retry.seconds()),
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => Some(UNAVAILABLE_RETRY_S),
            _ => None,
        }
    }

    /// What the sender is told.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let mut body = br#"{"error":"#.to_vec();
        json_string(&mut body, &self.to_string());
        body.push(b'}');
        let mut response = json(body);
        *response.status_mut() = self.status();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Refused::Method { expected } = self {
            response.headers_mut().insert(ALLOW, expected.allow());
        }
        response
    }
}
