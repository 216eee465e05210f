//! The HTTP client that all sinks share: connections are kept alive per target.
//!
//! Redirects are not followed: a sink's target is what the configuration says.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::RETRY_AFTER;
use hyper::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use super::SinkError;

type Inner = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

const IDLE: Duration = Duration::from_secs(60);
const IDLE_MAX: usize = 32;
const CONNECT: Duration = Duration::from_secs(5);

/// What of an answer is read behind its head, so that its connection can be used again; one that is longer, or comes
/// later, costs the connection.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Sends requests. Cheap to clone; made when it is first used.
#[derive(Clone, Default)]
pub struct Client(Arc<OnceLock<Inner>>);

/// What a target has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Not to be asked again before.
    pub(super) after: Option<Duration>,
}

impl Client {
    pub(super) async fn send(&self, request: Request<Full<Bytes>>, timeout: Duration) -> Result<Answer, SinkError> {
        let inner = self.0.get_or_init(make);
        let elapsed = |_| SinkError::away(format!("no answer within {} ms", timeout.as_millis()));
        let response = tokio::time::timeout(timeout, inner.request(request)).await.map_err(elapsed)?;
        let response = response.map_err(|error| SinkError::away(causes(&error)))?;
        let answer = Answer { status: response.status(), after: retry_after(&response) };
        // What it says beyond the head is of no interest, but it has to be out of the way.
        let rest = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let _ = tokio::time::timeout(ANSWER_WITHIN, rest).await;
        Ok(answer)
    }
}

fn make() -> Inner {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers what rustls thinks safe")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_MAX)
        .build(connector)
}

/// In seconds; the form with a date is not used by servers that have had enough.
fn retry_after<B>(response: &hyper::Response<B>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An error and what is behind it: the first alone says too little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
