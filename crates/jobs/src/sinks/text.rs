//! A record as one line of JSON, for files, standard output and webhooks.

use serde_json::{Value, json};

use super::{Delivery, SinkError};
use crate::pipeline::Body;

/// All that is known of the record: what it is, where it goes, and its data.
pub(super) fn envelope(delivery: Delivery<'_>) -> Result<Value, SinkError> {
    let Delivery { record, event_id } = delivery;
    let routes: Vec<Value> =
        record.routes.iter().map(|route| json!({ "channel": *route.channel, "event": *route.event })).collect();
    Ok(json!({
        "id": event_id,
        "trace": *record.trace,
        "kind": record.kind.as_str(),
        "key": record.key.as_deref(),
        "put_ms": record.put_ms,
        "routes": routes,
        "data": data(delivery)?,
    }))
}

/// Its data alone; what is not decoded is a string.
pub(super) fn data(delivery: Delivery<'_>) -> Result<Value, SinkError> {
    match &delivery.record.body {
        Body::Json(value) => Ok(value.clone()),
        Body::Raw(_) => text(delivery).map(Value::from),
    }
}

/// What it says; that which is not text is nobody's but the record's fault.
pub(super) fn text(delivery: Delivery<'_>) -> Result<String, SinkError> {
    let text = delivery.record.text().map_err(|error| SinkError::Refused(error.to_string()))?;
    Ok(text.into_owned())
}

/// Ends a line. JSON has no line breaks of its own.
pub(super) fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}
