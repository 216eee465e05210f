//! What templates and conditions see of a record: its fields by their names, and the job as `job`.
//!
//! The job's own things are also there as `kind`, `key`, `id`, `attempt`, `put_ms`, `trace` and `queue`, where no field
//! has that name. `job` is never a field, so what it says is what the queue says.

use serde_json::Value as Json;

use super::record::{Body, Record};
use super::stage::At;

/// Something of the job.
#[derive(Clone, Debug)]
pub(super) enum Meta<'a> {
    Text(&'a str),
    Owned(String),
    Number(u64),
    Null,
}

/// What a name means in a record.
pub(super) enum Seen<'a> {
    Field(&'a Json),
    Meta(Meta<'a>),
    Job,
    Nothing,
}

/// The names of what there is of a job.
pub(super) const META: [&str; 7] = ["kind", "key", "id", "attempt", "put_ms", "trace", "queue"];

pub(super) fn look<'a>(name: &str, record: &'a Record, at: &At<'a>) -> Seen<'a> {
    if name == "job" {
        return Seen::Job;
    }
    if let Body::Json(Json::Object(fields)) = &record.body
        && let Some(value) = fields.get(name)
    {
        return Seen::Field(value);
    }
    meta(name, record, at).map_or(Seen::Nothing, Seen::Meta)
}

pub(super) fn meta<'a>(name: &str, record: &'a Record, at: &At<'a>) -> Option<Meta<'a>> {
    Some(match name {
        "kind" => Meta::Text(record.kind.as_str()),
        "key" => record.key.as_deref().map_or(Meta::Null, Meta::Text),
        "id" => Meta::Owned(record.id.to_string()),
        "attempt" => Meta::Number(record.attempt.into()),
        "put_ms" => Meta::Number(record.put_ms),
        "trace" => Meta::Text(&record.trace),
        "queue" => Meta::Text(at.queue),
        _ => return None,
    })
}
