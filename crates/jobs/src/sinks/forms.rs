//! What is said to targets of the kinds that are known here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Uri;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use serde_json::json;

use super::text::{data, envelope, text};
use super::{Ask, Asked, Delivery, SinkError};
use crate::pipeline::{Secret, hex};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What a repeat is known by.
const EVENT_ID: HeaderName = HeaderName::from_static("x-fanfare-event-id");

/// A record's data as it is, or all that is known of the record.
pub(super) enum Plain {
    Data,
    Text,
    Record,
}

impl Ask for Plain {
    fn ask(&self, uri: &Uri, delivery: Delivery<'_>) -> Result<Vec<Asked>, SinkError> {
        let (content_type, body) = match self {
            Plain::Data => (JSON, data(delivery)?.to_string()),
            Plain::Record => (JSON, envelope(delivery)?.to_string()),
            Plain::Text => (TEXT, text(delivery)?),
        };
        let headers = [(CONTENT_TYPE, content_type), (EVENT_ID, header(delivery.event_id))].into_iter().collect();
        Ok(vec![Asked { uri: uri.clone(), headers, body: body.into() }])
    }
}

/// A publisher's location of another push server: one request per channel, which its query names as `id`.
pub(super) enum Publisher {
    /// nginx's push-stream module.
    PushStream,
    /// nchan.
    Nchan,
}

impl Ask for Publisher {
    fn ask(&self, uri: &Uri, delivery: Delivery<'_>) -> Result<Vec<Asked>, SinkError> {
        let record = delivery.record;
        let text = text(delivery)?;
        let one = |route| {
            let text = record.text_for(route, &text).map_err(|error| SinkError::Refused(error.to_string()))?;
            let uri = with_query(uri, "id", &route.channel)?;
            Ok(Asked { uri, headers: self.headers(&route.event, delivery.event_id), body: text.into_owned().into() })
        };
        record.routes.iter().map(one).collect()
    }
}

impl Publisher {
    fn headers(&self, event: &str, event_id: &str) -> HeaderMap {
        let named: &[(&'static str, &str)] = match self {
            Publisher::PushStream => &[("event-id", event_id), ("event-type", event)],
            Publisher::Nchan => &[("x-eventsource-event", event)],
        };
        let named = named.iter().map(|(name, value)| (HeaderName::from_static(name), header(value)));
        named.chain([(CONTENT_TYPE, TEXT)]).collect()
    }
}

/// Signed as Pusher signs its webhooks.
pub(super) struct Webhook {
    pub(super) key: HeaderValue,
    pub(super) secret: hmac::Key,
}

impl Webhook {
    pub(super) fn new(key: HeaderValue, secret: &Secret) -> Webhook {
        Webhook { key, secret: hmac::Key::new(hmac::HMAC_SHA256, &secret.0) }
    }
}

impl Ask for Webhook {
    fn ask(&self, uri: &Uri, delivery: Delivery<'_>) -> Result<Vec<Asked>, SinkError> {
        let body = json!({ "time_ms": delivery.record.put_ms, "events": [envelope(delivery)?] }).to_string();
        let signature = hex(hmac::sign(&self.secret, body.as_bytes()).as_ref());
        let headers = [
            (CONTENT_TYPE, JSON),
            (HeaderName::from_static("x-pusher-key"), self.key.clone()),
            (HeaderName::from_static("x-pusher-signature"), header(&signature)),
            (EVENT_ID, header(delivery.event_id)),
        ];
        Ok(vec![Asked { uri: uri.clone(), headers: headers.into_iter().collect(), body: Bytes::from(body) }])
    }
}

/// A header's value; what none can hold, as its Base64.
fn header(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| {
        let encoded = STANDARD.encode(value);
        HeaderValue::from_str(&encoded).expect("Base64 is made of what headers take")
    })
}

/// The same address with one parameter more.
fn with_query(uri: &Uri, name: &str, value: &str) -> Result<Uri, SinkError> {
    let mut query = form_urlencoded::Serializer::new(uri.query().unwrap_or_default().to_owned());
    let query = query.append_pair(name, value).finish();
    let mut parts = uri.clone().into_parts();
    let target = format!("{}?{query}", uri.path()).parse();
    parts.path_and_query = Some(target.map_err(|_| SinkError::Refused("the channel's name is too long".into()))?);
    Uri::from_parts(parts).map_err(|error| SinkError::Refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_added_to() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(with_query(&uri("http://a/pub"), "id", "x y&z").unwrap(), "http://a/pub?id=x+y%26z");
        assert_eq!(with_query(&uri("http://a/pub?k=1"), "id", "x").unwrap(), "http://a/pub?k=1&id=x");
    }
}
