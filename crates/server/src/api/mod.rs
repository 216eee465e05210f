//! The HTTP API, as Pusher's server libraries speak it, and plain publishing.
//!
//! Routed by hand, on the path as it was sent: signatures are made over that, and a user id may hold slashes.
//!
//! Always true: nothing of an app is read or changed before the signature of the whole request, or the bearer of a plain
//! one, has been verified; a refusal says what was expected, as JSON.
//!
//! | file | what it is |
//! |---|---|
//! | `route` | what a path asks for |
//! | `auth` | whether the app itself asks |
//! | `events`, `publish` | what is posted, and its way into the hub |
//! | `receipt` | where it went |
//! | `plain`, `cors` | publishing with a secret or a token instead of a signature, also from pages |
//! | `channels`, `history`, `info` | questions about channels, and what is told |
//! | `rollout` | what visitors are told of an app's rollout |
//! | `revoke` | taking tokens back |
//! | `jobs` | queues: putting jobs, claiming and finishing them, looking at them |
//! | `dev` | authorisation for clients under development |
//! | `error` | every refusal, and its status |
//!
//! Not here: sockets and request heads (`edge`).

mod auth;
mod channels;
mod cors;
mod dev;
mod error;
pub mod events;
mod history;
mod info;
mod jobs;
mod plain;
pub mod publish;
mod receipt;
mod revoke;
mod rollout;
mod route;
#[cfg(test)]
pub mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_hub::Hub;
use fanfare_jobs::Kind;
use fanfare_proto::sign::SignedQuery;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use self::auth::Denied;
use self::error::Refused;
use self::publish::Publisher;
use self::route::{Grant, Methods, Resource, Route};
use crate::apps::{App, Apps};
use crate::body::{self, Readable};
use crate::config::{Config, Role};
use crate::ingest::recall::Recall;
use crate::queues::Queues;
use crate::tokens::Tokens;

/// What a call comes to.
type Answer = Result<Response<Full<Bytes>>, Refused>;

/// Every call that there is.
pub struct Api {
    hub: Hub,
    publisher: Arc<Publisher>,
    apps: Apps,
    tokens: Tokens,
    queues: Queues,
    recall: Recall,
    role: Role,
    path_prefix: String,
    body_bytes_max: usize,
}

impl Api {
    /// Serves these apps.
    pub fn new(hub: Hub, apps: Apps, tokens: Tokens, queues: Queues, recall: Recall, config: &Config) -> Self {
        Api {
            publisher: Arc::new(Publisher::new(hub.clone())),
            hub,
            apps,
            tokens,
            queues,
            recall,
            role: config.role,
            path_prefix: config.path_prefix.clone(),
            body_bytes_max: config.publish_body_bytes_max,
        }
    }

    /// Where its events leave, for those who publish here without a request.
    pub fn publisher(&self) -> Arc<Publisher> {
        self.publisher.clone()
    }

    /// Answers any request.
    pub async fn serve<B: Readable>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        self.answer(&head, body).await.unwrap_or_else(|refused| refused.response())
    }

    async fn answer<B: Readable>(&self, head: &Parts, body: B) -> Answer {
        let path = self.without_prefix(head.uri.path());
        let route = Route::parse(path).ok_or(Refused::Nowhere)?;
        match (&head.method, route) {
            // What pages of clients under development ask for stays, as the page comes from here.
            (_, Route::Signed { .. } | Route::Plain { .. }) if !self.role.is_api() => {
                Err(Refused::Elsewhere { role: self.role })
            }
            (&Method::OPTIONS, Route::Signed { resource, .. }) => Ok(options(resource.methods())),
            (_, Route::Signed { app, resource }) => {
                check_method(&head.method, resource.methods())?;
                self.signed(head, path, app, resource, body).await
            }
            (_, Route::Grant(grant)) => self.grant(head, grant, body).await,
            (_, Route::Plain { key, channels }) => Ok(plain::answer(self, head, &key, &channels, body).await),
            (_, Route::Rollout(key)) => Ok(rollout::answer(&self.apps, head, &key)),
            (_, Route::Demo(kind)) => self.demo(head, kind, body).await,
        }
    }

    /// The path that clients know and sign. Both are taken: with the prefix, and without, as from behind a proxy that
    /// takes it off.
    fn without_prefix<'p>(&self, path: &'p str) -> &'p str {
        let rest = path.strip_prefix(self.path_prefix.as_str());
        rest.filter(|rest| rest.starts_with('/')).unwrap_or(path)
    }

    async fn signed<B: Readable>(
        &self,
        head: &Parts,
        path: &str,
        app: Option<Cow<'_, str>>,
        resource: Resource<'_>,
        body: B,
    ) -> Answer {
        let query = SignedQuery::parse(head.uri.query().unwrap_or_default()).map_err(Denied::from)?;
        let app = self.app(app.as_deref(), query.key())?;
        let secret = auth::secret(&app, &query)?;
        let body = body::read(body, self.body_bytes_max).await?;
        query.verify(secret.as_bytes(), head.method.as_str(), path, &body).map_err(Denied::from)?;
        if !app.enabled {
            return Err(Refused::Disabled);
        }
        self.call(&app, resource, &head.method, &query, &body).await
    }

    fn app(&self, id: Option<&str>, key: &str) -> Result<Arc<App>, Refused> {
        match id {
            Some(id) => self.apps.by_id(id).ok_or_else(|| Refused::UnknownApp { id: id.to_owned() }),
            None => Ok(self.apps.by_key(key).ok_or_else(|| Denied::Key { key: key.to_owned() })?),
        }
    }

    async fn call(
        &self,
        app: &App,
        resource: Resource<'_>,
        method: &Method,
        query: &SignedQuery<'_>,
        body: &[u8],
    ) -> Answer {
        match resource {
            Resource::Events => self.publisher.event(app, body).await,
            Resource::BatchEvents => self.publisher.batch(app, body).await,
            Resource::ChannelEvents(name) => self.publisher.body(app, &name, query, body).await,
            Resource::Channels => channels::list(&self.hub, app, query).await,
            Resource::Channel(name) => channels::one(&self.hub, app, &name, query).await,
            Resource::History(name) => history::history(&self.hub, app, &name, query).await,
            Resource::Members(name) => channels::members(&self.hub, app, &name).await,
            Resource::Stats(name) => channels::stats(&self.hub, app, &name).await,
            Resource::Terminate(user) => self.terminate(app, &user).await,
            Resource::RevokeTokens => revoke::revoke(&self.tokens, app, body).await,
            Resource::Queues => jobs::queues(&self.queues, app).await,
            Resource::Queue(name, of) => {
                let queue = jobs::queue(&self.queues, app, &name)?;
                jobs::Call { queue, method, query, body }.answer(of).await
            }
        }
    }

    /// Closes the sockets that signed in as the user. That there are none is no mistake.
    async fn terminate(&self, app: &App, user: &str) -> Answer {
        self.hub.terminate(&app.id, user).await?;
        Ok(empty_object())
    }

    async fn grant<B: Readable>(&self, head: &Parts, grant: Grant, body: B) -> Answer {
        let app = self.development()?;
        if head.method == Method::OPTIONS {
            return Ok(dev::preflight(&head.headers));
        }
        check_method(&head.method, Methods::Post)?;
        let granted = body::read(body, self.body_bytes_max)
            .await
            .map_err(Refused::from)
            .and_then(|body| dev::grant(&app, grant, &head.headers, &body));
        Ok(dev::with_cors(granted.unwrap_or_else(|refused| refused.response())))
    }

    /// Takes a comment of the demo page, which must not hold a secret.
    async fn demo<B: Readable>(&self, head: &Parts, kind: Kind, body: B) -> Answer {
        let app = self.development()?;
        check_method(&head.method, Methods::Post)?;
        let body = body::read(body, self.body_bytes_max).await?;
        dev::comment(&self.queues, &app, kind, body).await
    }

    /// The app of those who have configured none.
    fn development(&self) -> Result<Arc<App>, Refused> {
        self.apps.all().into_iter().find(|app| app.is_development()).ok_or(Refused::Nowhere)
    }
}

fn check_method(found: &Method, expected: Methods) -> Result<(), Refused> {
    if expected.take(found) { Ok(()) } else { Err(Refused::Method { expected }) }
}

fn options(methods: Methods) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, methods.allow());
    response
}

/// `{}` to the byte: the libraries' own tests compare with it.
fn empty_object() -> Response<Full<Bytes>> {
    json(Bytes::from_static(b"{}"))
}

fn ok(body: &impl Serialize) -> Response<Full<Bytes>> {
    json(serde_json::to_vec(body).expect("names, numbers and JSON have a JSON form"))
}

fn json(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
