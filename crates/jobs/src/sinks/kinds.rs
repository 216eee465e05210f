//! Which kinds of sinks there are, and how each is made of what is written.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use serde_json::Value;

use super::file::{File, Form, confined};
use super::forms::{Plain, Publisher, Webhook};
use super::plain::{Null, Stdout};
use super::writer::{Settings, Sync};
use super::{Ask, Client, Posts, Sink, SinkKind, Target, Writers};
use crate::pipeline::{Bad, Key, Params, default, optional, required};

/// What sinks need of the world.
#[derive(Clone, Default)]
pub struct World {
    /// Sends requests.
    pub client: Client,
    /// Writes files,
    pub writers: Writers,
    /// below this folder; none, if there is none.
    pub folder: Option<PathBuf>,
}

const URLS: Key = required("urls", "list of strings", "Where to: each is a target of its own, and all must confirm.");
const OPTIONAL_URLS: Key = default("optional_urls", "list of strings", "[]", "Where to, too; for these nobody waits.");
/// What is sent beside the record.
pub const HEADERS: Key = optional("headers", "table", "Sent with each request.");
/// How long is waited for an answer.
pub const TIMEOUT: Key = default("timeout_ms", "number", "10000", "For each request. A hung target runs into it.");
const FORM: Key = default(
    "body",
    "string",
    "\"data\"",
    "`data` is the record's data as JSON, `text` the same as it is published, `record` all that is known of the record.",
);

const PUBLISHER: &[Key] = &[URLS, OPTIONAL_URLS, HEADERS, TIMEOUT];

const HTTP: &[Key] = &[
    URLS,
    OPTIONAL_URLS,
    HEADERS,
    TIMEOUT,
    FORM,
    default("method", "string", "\"POST\"", "`POST`, `PUT` or `PATCH`."),
    default("success", "list of numbers", "[]", "The statuses that confirm, in place of 2xx."),
];

const WEBHOOK: &[Key] = &[
    URLS,
    OPTIONAL_URLS,
    HEADERS,
    TIMEOUT,
    required("key", "string", "What `X-Pusher-Key` says."),
    required("secret", "string", "The name of the key to sign with."),
];

const FILE: &[Key] = &[
    required("path", "string", "Below the folder that `file_dir` of `[ingest]` names."),
    default("form", "string", "\"record\"", "`record` is all that is known of the record, `data` its data."),
    default(
        "fsync",
        "string",
        "\"always\"",
        "`always` confirms what is on disk, `interval` syncs every `fsync_ms`, `never` leaves it to the system.",
    ),
    default("fsync_ms", "number", "1000", "See `fsync`."),
    optional(
        "rotate_bytes",
        "number",
        "Puts the file aside before it is longer; lines that come at once, 1 MiB at most, stay together.",
    ),
    optional("rotate_s", "number", "Puts the file aside when it has been open for so long."),
    optional("keep", "number", "How many of those put aside are kept; else all."),
];

/// The kinds that are known here.
pub fn kinds(world: &World) -> Vec<SinkKind> {
    let [http, push_stream, nchan, webhook, file] = [(); 5].map(|()| world.clone());
    vec![
        SinkKind {
            name: "http",
            summary: "Sends each record in a request of its own. 2xx confirms it; 408, 425, 429, 502, 503 and 504 say \
                      that the target is away, and `Retry-After` for how long; 400, 406, 409, 411 to 418, 422 and 431 \
                      refuse the record, which parks its job; all else is tried again, but not for ever.",
            keys: HTTP,
            at_once: 16,
            build: Box::new(move |params| posts(params, &http, method(params)?, success(params)?, plain)),
        },
        SinkKind {
            name: "push_stream",
            summary: "Publishes to a publisher's location of nginx's push-stream module: `POST …?id={channel}` for \
                      each of the record's channels.",
            keys: PUBLISHER,
            at_once: 16,
            build: Box::new(move |params| {
                posts(params, &push_stream, Method::POST, Vec::new(), |_| Ok(Box::new(Publisher::PushStream)))
            }),
        },
        SinkKind {
            name: "nchan",
            summary: "Publishes to a publisher's location of nchan: `POST …?id={channel}` for each of the record's \
                      channels.",
            keys: PUBLISHER,
            at_once: 16,
            build: Box::new(move |params| {
                posts(params, &nchan, Method::POST, Vec::new(), |_| Ok(Box::new(Publisher::Nchan)))
            }),
        },
        SinkKind {
            name: "webhook",
            summary: "Sends each record as a webhook: `{\"time_ms\":…,\"events\":[{…}]}`, signed as Pusher signs its own \
                      (`X-Pusher-Key`, and in `X-Pusher-Signature` the hexadecimal HMAC-SHA256 of the body). \
                      `X-Fanfare-Event-Id` is the same for a repeat. Answers mean what they mean to `http`.",
            keys: WEBHOOK,
            at_once: 16,
            build: Box::new(move |params| posts(params, &webhook, Method::POST, Vec::new(), signed)),
        },
        SinkKind {
            name: "file",
            summary: "Appends each record to a file, as a line of JSON. What a crash left of a line is cut off. Files that \
                      are put aside have the time in milliseconds behind their name.",
            keys: FILE,
            at_once: 1024,
            build: Box::new(move |params| to_file(params, &file)),
        },
        SinkKind {
            name: "stdout",
            summary: "Writes each record to standard output, as a line of JSON.",
            keys: &[],
            at_once: 16,
            build: Box::new(|_| Ok(one(Stdout))),
        },
        SinkKind {
            name: "null",
            summary: "Confirms everything and keeps nothing.",
            keys: &[],
            at_once: 1024,
            build: Box::new(|_| Ok(one(Null))),
        },
    ]
}

/// The one target of a sink that has no more.
pub fn one(sink: impl Sink + 'static) -> Vec<Target> {
    vec![Target { optional: false, sink: Arc::new(sink) }]
}

/// The targets of a sink that talks HTTP: those under `urls` and `optional_urls`, with `headers` and `timeout_ms`.
pub fn posts(
    params: &Params,
    world: &World,
    method: Method,
    success: Vec<StatusCode>,
    ask: impl Fn(&Params) -> Result<Box<dyn Ask>, Bad>,
) -> Result<Vec<Target>, Bad> {
    let (headers, timeout) = (headers(params)?, params.number("timeout_ms", 1..=600_000)?);
    let mut targets = Vec::new();
    for key in ["urls", "optional_urls"] {
        for url in params.texts(key)? {
            let posts = Posts {
                client: world.client.clone(),
                uri: uri(key, &url)?,
                method: method.clone(),
                headers: headers.clone(),
                timeout: Duration::from_millis(timeout),
                success: success.clone(),
                ask: ask(params)?,
            };
            targets.push(Target { optional: key == "optional_urls", sink: Arc::new(posts) });
        }
    }
    match targets.is_empty() {
        true => Err(Bad::at("urls", "names no target")),
        false => Ok(targets),
    }
}

fn uri(key: &str, url: &str) -> Result<Uri, Bad> {
    let uri: Option<Uri> = url.parse().ok();
    let uri = uri.filter(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
    uri.ok_or_else(|| Bad::at(key, format!("`{url}` is no address like https://example.com/path")))
}

fn headers(params: &Params) -> Result<HeaderMap, Bad> {
    let mut headers = HeaderMap::new();
    for (name, value) in params.opt_map("headers")?.unwrap_or_default() {
        let header = HeaderName::from_bytes(name.as_bytes()).ok();
        let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
        let (Some(header), Some(value)) = (header, value) else {
            return Err(Bad::at("headers", format!("`{name}` is no header with a text as its value")));
        };
        headers.insert(header, value);
    }
    Ok(headers)
}

fn method(params: &Params) -> Result<Method, Bad> {
    params.choice("method", &[("POST", Method::POST), ("PUT", Method::PUT), ("PATCH", Method::PATCH)])
}

fn success(params: &Params) -> Result<Vec<StatusCode>, Bad> {
    let status = |value: &Value| StatusCode::from_u16(value.as_u64()?.try_into().ok()?).ok();
    let statuses = params.value("success").and_then(|value| value.as_array()?.iter().map(status).collect());
    statuses.ok_or_else(|| Bad::at("success", "takes a list of statuses from 100 to 999"))
}

fn plain(params: &Params) -> Result<Box<dyn Ask>, Bad> {
    let bodies: [(_, fn() -> Plain); 3] =
        [("data", || Plain::Data), ("text", || Plain::Text), ("record", || Plain::Record)];
    Ok(Box::new(params.choice("body", &bodies)?()))
}

fn signed(params: &Params) -> Result<Box<dyn Ask>, Bad> {
    let key = HeaderValue::from_str(&params.text("key")?).map_err(|_| Bad::at("key", "is no header's value"))?;
    let (_, secret) = params.secret("secret")?;
    Ok(Box::new(Webhook::new(key, secret)))
}

fn to_file(params: &Params, world: &World) -> Result<Vec<Target>, Bad> {
    let Some(folder) = &world.folder else {
        return Err(Bad::at(
            "path",
            "files are written below the folder that `file_dir` of `[ingest]` names; it names none",
        ));
    };
    let path = confined(folder, &params.text("path")?);
    let path = path.ok_or_else(|| Bad::at("path", "leads out of the folder that sinks may write to"))?;
    let every = Sync::Every(Duration::from_millis(params.number("fsync_ms", 1..=3_600_000)?));
    let settings = Settings {
        sync: params.choice("fsync", &[("always", Sync::Always), ("interval", every), ("never", Sync::Never)])?,
        bytes_max: params.opt_number("rotate_bytes", 1..=u64::MAX)?,
        age_max: params.opt_number("rotate_s", 1..=u64::MAX)?.map(Duration::from_secs),
        kept_max: params.opt_number("keep", 0..=1_000_000)?.map(|kept| kept as usize),
    };
    let form = params.choice("form", &[("record", Form::Record), ("data", Form::Data)])?;
    Ok(one(File { writer: world.writers.of(path, settings), form }))
}
