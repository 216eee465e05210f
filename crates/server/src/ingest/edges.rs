//! The sink `pusher`: publishes a record to another server that speaks Pusher's HTTP API, such as an edge elsewhere.

use bytes::Bytes;
use fanfare_jobs::pipeline::{Bad, Key, Params, Secret, default, required};
use fanfare_jobs::sinks::{Ask, Asked, Delivery, HEADERS, SinkError, SinkKind, TIMEOUT, World, posts};
use fanfare_proto::sign::sign_query;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Uri};
use serde::Serialize;

use super::channels::{Alike, alike};
use crate::tokens::now_s;

const KEYS: &[Key] = &[
    required("urls", "list of strings", "The servers, such as `https://edge.example:6001`: all must confirm."),
    default("optional_urls", "list of strings", "[]", "More of them, for which nobody waits."),
    HEADERS,
    TIMEOUT,
    required("app", "string", "The app's id there."),
    required("key", "string", "One of its keys."),
    required("secret", "string", "The name of the key to sign with: the secret of `key`."),
];

/// The kind.
pub fn kind(world: World) -> SinkKind {
    SinkKind {
        name: "pusher",
        summary: "Publishes the record to its channels on other servers, by Pusher's HTTP API (`POST /apps/{app}/events`): one \
                  request for all channels that get the same. `event_id` and `idempotency_key` are those that the sink `channels` \
                  would give. Answers mean what they mean to `http`.",
        keys: KEYS,
        at_once: 16,
        build: Box::new(move |params| posts(params, &world, Method::POST, Vec::new(), ask)),
    }
}

/// Signs as the app.
struct Signed {
    path: String,
    key: String,
    secret: Secret,
}

fn ask(params: &Params) -> Result<Box<dyn Ask>, Bad> {
    let (app, key) = (params.text("app")?, params.text("key")?);
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c));
    if !plain(&app) {
        return Err(Bad::at("app", "is no app's id"));
    }
    if !plain(&key) {
        return Err(Bad::at("key", "is no app's key"));
    }
    let (_, secret) = params.secret("secret")?;
    Ok(Box::new(Signed { path: format!("/apps/{app}/events"), key, secret: secret.clone() }))
}

impl Ask for Signed {
    fn ask(&self, uri: &Uri, delivery: Delivery<'_>) -> Result<Vec<Asked>, SinkError> {
        alike(delivery)?.iter().map(|alike| self.one(uri, alike)).collect()
    }
}

impl Signed {
    fn one(&self, uri: &Uri, alike: &Alike) -> Result<Asked, SinkError> {
        #[derive(Serialize)]
        struct Event<'a> {
            name: &'a str,
            channels: Vec<&'a str>,
            data: &'a str,
            event_id: &'a str,
            idempotency_key: &'a str,
        }
        let event = Event {
            name: &alike.event,
            channels: alike.channels.iter().map(|channel| &**channel).collect(),
            data: &alike.text,
            event_id: &alike.id,
            idempotency_key: &alike.id,
        };
        let body = serde_json::to_vec(&event).expect("strings have a JSON form");
        let path = format!("{}{}", uri.path().trim_end_matches('/'), self.path);
        let query = sign_query(&self.secret.0, &self.key, "POST", &path, &[], &body, now_s());
        let mut parts = uri.clone().into_parts();
        let target = format!("{path}?{query}").parse();
        parts.path_and_query = Some(target.map_err(|_| SinkError::Failed("the server's address is too long".into()))?);
        let uri = Uri::from_parts(parts).map_err(|error| SinkError::Failed(error.to_string()))?;
        let headers: HeaderMap = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))].into_iter().collect();
        Ok(Asked { uri, headers, body: Bytes::from(body) })
    }
}
