//! `GET /rollout/{app_key}`: whether a visitor (`?user=`, `?site=`, `?id=`) is to have a feed.
//!
//! Every page that may subscribe may ask, on nodes of every role. Nothing here needs a token, as nothing is protected by it.
//!
//! Not here: who is told what (`crate::rollout`).

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, HeaderValue, ORIGIN, VARY};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use super::plain::BadPlain;
use super::route::Methods;
use super::{Answer, check_method, cors};
use crate::apps::{App, Apps};
use crate::rollout::Visitor;

const METHODS: &str = "GET, OPTIONS";

/// Answers one visitor. All pages may read refusals, too.
pub fn answer(apps: &Apps, head: &Parts, key: &str) -> Response<Full<Bytes>> {
    let origin = head.headers.get(ORIGIN);
    let app = apps.by_key(key);
    let named = origin.filter(|origin| app.as_ref().is_some_and(|app| names(app, origin)));
    let told = match &app {
        Some(app) => tell(app, head, origin),
        None => Err(BadPlain::Key { key: key.to_owned() }.into()),
    };
    let mut response = cors::readable(told.unwrap_or_else(|refused| refused.response()), named);
    // What a cache keeps for one page is not what it may give to another.
    response.headers_mut().insert(VARY, HeaderValue::from_static("Origin"));
    if response.status() != StatusCode::OK {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Whether the app lists this page among those that may use it.
fn names(app: &App, origin: &HeaderValue) -> bool {
    !app.allowed_origins.is_empty() && app.origin_allowed(Some(origin.to_str().unwrap_or_default()))
}

fn tell(app: &App, head: &Parts, origin: Option<&HeaderValue>) -> Answer {
    if !app.origin_allowed(origin.map(|origin| origin.to_str().unwrap_or_default())) {
        return Err(BadPlain::Origin.into());
    }
    if head.method == Method::OPTIONS {
        return Ok(cors::preflight(METHODS));
    }
    check_method(&head.method, Methods::Get)?;
    let query = Query::of(head.uri.query().unwrap_or_default());
    let told = match app.enabled {
        true => app.rollout.answer(&app.id, &query.visitor()),
        false => app.rollout.disabled(),
    };
    app.usage.rollout.count(&told);
    let mut response = super::ok(&told);
    let cache = match app.rollout.cached_s() {
        0 => "no-store".to_owned(),
        seconds => format!("public, max-age={seconds}"),
    };
    response.headers_mut().insert(CACHE_CONTROL, cache.try_into().expect("digits and letters"));
    Ok(response)
}

/// Who a visitor says to be. What is empty is not said.
#[derive(Default)]
struct Query<'q> {
    user: Option<Cow<'q, str>>,
    site: Option<Cow<'q, str>>,
    id: Option<Cow<'q, str>>,
}

impl<'q> Query<'q> {
    fn of(query: &'q str) -> Self {
        let mut said = Query::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
            match &*name {
                "user" => said.user = Some(value),
                "site" => said.site = Some(value),
                "id" => said.id = Some(value),
                _ => {}
            }
        }
        said
    }

    fn visitor(&self) -> Visitor<'_> {
        Visitor { user: self.user.as_deref(), site: self.site.as_deref(), id: self.id.as_deref() }
    }
}
