//! What a path asks for.
//!
//! Paths are split as they were sent, and only then decoded, so that `%2F` stays within its segment. User ids are the
//! exception: pusher-http-node does not escape a `/` in them, so everything between `/users/` and the verb is the id.

use std::borrow::Cow;
use std::fmt;

use fanfare_jobs::{JobId, Kind};
use hyper::Method;
use hyper::header::HeaderValue;
use percent_encoding::percent_decode_str;

/// A call of the HTTP API, or of the development app's own authorisation.
#[derive(Debug, PartialEq, Eq)]
pub enum Route<'p> {
    /// Something of an app, signed with one of its secrets.
    Signed {
        /// The app's id; without one (pusher-http-python's terminations) the key in the query says whose it is.
        app: Option<Cow<'p, str>>,
        /// What of the app.
        resource: Resource<'p>,
    },
    /// What an application's own server would answer; here for the development app.
    Grant(Grant),
    /// `/pub/{app_key}/{channel}[/{channel}…]`
    Plain {
        /// One of the app's keys.
        key: Cow<'p, str>,
        /// At least one.
        channels: Vec<Cow<'p, str>>,
    },
    /// `/rollout/{app_key}`: whether a visitor is to have a feed.
    Rollout(Cow<'p, str>),
    /// `/demo/…`: what has happened to a comment of the demo page.
    Demo(Kind),
}

/// What a client under development asks to be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// `/pusher/auth`: a channel.
    Channel,
    /// `/pusher/user-auth`: to be signed in.
    User,
    /// `/fanfare/token`: to read every channel, as somebody.
    Token,
}

/// Something of an app; names and ids are decoded.
#[derive(Debug, PartialEq, Eq)]
pub enum Resource<'p> {
    /// `/events`
    Events,
    /// `/batch_events`
    BatchEvents,
    /// `/channels`
    Channels,
    /// `/channels/{name}`
    Channel(Cow<'p, str>),
    /// `/channels/{name}/history`
    History(Cow<'p, str>),
    /// `/channels/{name}/users`
    Members(Cow<'p, str>),
    /// `/channels/{name}/events`, deprecated
    ChannelEvents(Cow<'p, str>),
    /// `/channels/{name}/stats`, deprecated
    Stats(Cow<'p, str>),
    /// `/users/{id}/terminate_connections`
    Terminate(Cow<'p, str>),
    /// `/tokens/revoke`
    RevokeTokens,
    /// `/queues`
    Queues,
    /// `/queues/{name}…`
    Queue(Cow<'p, str>, OfQueue),
}

/// Something of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfQueue {
    /// Itself.
    Counts,
    /// `/jobs`
    Jobs,
    /// `/claim`
    Claim,
    /// `/retry`
    RetryMany,
    /// `/jobs/{id}…`
    Job(JobId, OfJob),
}

/// Something of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfJob {
    /// Itself.
    Entry,
    /// `/extend`
    Extend,
    /// `/finish`
    Finish,
    /// `/cancel`
    Cancel,
    /// `/release`
    Release,
    /// `/stall`
    Stall,
    /// `/retry`
    Retry,
}

/// The methods that something answers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// `GET`, and `HEAD` with it.
    Get,
    /// `POST`.
    Post,
    /// Both.
    GetOrPost,
    /// `GET`, `HEAD` and `DELETE`.
    GetOrDelete,
}

impl Methods {
    /// Whether a request may come by this method.
    pub fn take(self, method: &Method) -> bool {
        match *method {
            Method::GET | Method::HEAD => self != Methods::Post,
            Method::POST => matches!(self, Methods::Post | Methods::GetOrPost),
            Method::DELETE => self == Methods::GetOrDelete,
            _ => false,
        }
    }

    /// The value of `Allow`.
    pub fn allow(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Methods::Get => "GET, HEAD, OPTIONS",
            Methods::Post => "POST, OPTIONS",
            Methods::GetOrPost => "GET, HEAD, POST, OPTIONS",
            Methods::GetOrDelete => "GET, HEAD, DELETE, OPTIONS",
        })
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Methods::Get => "GET",
            Methods::Post => "POST",
            Methods::GetOrPost => "GET or POST",
            Methods::GetOrDelete => "GET or DELETE",
        })
    }
}

impl<'p> Route<'p> {
    /// Reads a path from which the server's own prefix was taken. `None`: it leads nowhere.
    pub fn parse(path: &'p str) -> Option<Self> {
        match path {
            "/pusher/auth" => return Some(Route::Grant(Grant::Channel)),
            "/pusher/user-auth" => return Some(Route::Grant(Grant::User)),
            "/fanfare/token" => return Some(Route::Grant(Grant::Token)),
            "/demo/create" => return Some(Route::Demo(Kind::Create)),
            "/demo/edit" => return Some(Route::Demo(Kind::Edit)),
            "/demo/delete" => return Some(Route::Demo(Kind::Delete)),
            _ => {}
        }
        if let Some(rest) = path.strip_prefix("/users/") {
            return Some(Route::Signed { app: None, resource: termination(rest)? });
        }
        if let Some(rest) = path.strip_prefix("/pub/") {
            let (key, channels) = rest.split_once('/')?;
            let channels = channels.split('/').map(decode).collect::<Option<_>>()?;
            return Some(Route::Plain { key: decode(key)?, channels });
        }
        if let Some(key) = path.strip_prefix("/rollout/") {
            return Some(Route::Rollout(decode(key)?));
        }
        let (app, rest) = path.strip_prefix("/apps/")?.split_once('/')?;
        let resource = Resource::parse(rest)?;
        Some(Route::Signed { app: Some(decode(app)?), resource })
    }
}

impl<'p> Resource<'p> {
    fn parse(rest: &'p str) -> Option<Self> {
        match rest {
            "events" => return Some(Resource::Events),
            "batch_events" => return Some(Resource::BatchEvents),
            "channels" => return Some(Resource::Channels),
            "tokens/revoke" => return Some(Resource::RevokeTokens),
            "queues" => return Some(Resource::Queues),
            _ => {}
        }
        if let Some(rest) = rest.strip_prefix("queues/") {
            let (name, part) = rest.split_once('/').unwrap_or((rest, ""));
            return Some(Resource::Queue(decode(name)?, OfQueue::parse(part)?));
        }
        if let Some(rest) = rest.strip_prefix("users/") {
            return termination(rest);
        }
        let rest = rest.strip_prefix("channels/")?;
        let (name, part) = rest.split_once('/').unwrap_or((rest, ""));
        let name = decode(name)?;
        match part {
            "" => Some(Resource::Channel(name)),
            "history" => Some(Resource::History(name)),
            "users" => Some(Resource::Members(name)),
            "events" => Some(Resource::ChannelEvents(name)),
            "stats" => Some(Resource::Stats(name)),
            _ => None,
        }
    }

    /// The methods that it answers to; `OPTIONS` goes with all.
    pub fn methods(&self) -> Methods {
        match self {
            Resource::Events
            | Resource::BatchEvents
            | Resource::ChannelEvents(_)
            | Resource::Terminate(_)
            | Resource::RevokeTokens
            | Resource::Queue(_, OfQueue::Claim | OfQueue::RetryMany) => Methods::Post,
            Resource::Queue(_, OfQueue::Jobs) => Methods::GetOrPost,
            Resource::Queue(_, OfQueue::Job(_, OfJob::Entry)) => Methods::GetOrDelete,
            Resource::Queue(_, OfQueue::Job(..)) => Methods::Post,
            Resource::Channels
            | Resource::Channel(_)
            | Resource::History(_)
            | Resource::Members(_)
            | Resource::Stats(_)
            | Resource::Queues
            | Resource::Queue(_, OfQueue::Counts) => Methods::Get,
        }
    }
}

impl OfQueue {
    fn parse(part: &str) -> Option<OfQueue> {
        match part {
            "" => Some(OfQueue::Counts),
            "jobs" => Some(OfQueue::Jobs),
            "claim" => Some(OfQueue::Claim),
            "retry" => Some(OfQueue::RetryMany),
            _ => {
                let (id, part) = part.strip_prefix("jobs/").map(|rest| rest.split_once('/').unwrap_or((rest, "")))?;
                let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
                Some(OfQueue::Job(JobId(id.parse().ok().filter(|_| digits)?), OfJob::parse(part)?))
            }
        }
    }
}

impl OfJob {
    fn parse(part: &str) -> Option<OfJob> {
        match part {
            "" => Some(OfJob::Entry),
            "extend" => Some(OfJob::Extend),
            "finish" => Some(OfJob::Finish),
            "cancel" => Some(OfJob::Cancel),
            "release" => Some(OfJob::Release),
            "stall" => Some(OfJob::Stall),
            "retry" => Some(OfJob::Retry),
            _ => None,
        }
    }
}

fn termination(rest: &str) -> Option<Resource<'_>> {
    let user = rest.strip_suffix("/terminate_connections")?;
    Some(Resource::Terminate(decode(user)?))
}

/// A part of a path as it was meant; `None` if it is empty or not UTF-8.
fn decode(raw: &str) -> Option<Cow<'_, str>> {
    let text = percent_decode_str(raw).decode_utf8().ok()?;
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_app<'p>(app: &'static str, resource: Resource<'p>) -> Option<Route<'p>> {
        Some(Route::Signed { app: Some(app.into()), resource })
    }

    #[test]
    fn every_documented_path_leads_somewhere() {
        assert_eq!(Route::parse("/apps/1/events"), of_app("1", Resource::Events));
        assert_eq!(Route::parse("/apps/1/batch_events"), of_app("1", Resource::BatchEvents));
        assert_eq!(Route::parse("/apps/1/channels"), of_app("1", Resource::Channels));
        assert_eq!(Route::parse("/apps/1/channels/a"), of_app("1", Resource::Channel("a".into())));
        assert_eq!(Route::parse("/apps/1/channels/a/users"), of_app("1", Resource::Members("a".into())));
        assert_eq!(Route::parse("/apps/1/channels/a/history"), of_app("1", Resource::History("a".into())));
        assert_eq!(Route::parse("/apps/1/channels/a/events"), of_app("1", Resource::ChannelEvents("a".into())));
        assert_eq!(Route::parse("/apps/1/channels/a/stats"), of_app("1", Resource::Stats("a".into())));
        assert_eq!(Route::parse("/apps/1/tokens/revoke"), of_app("1", Resource::RevokeTokens));
        assert_eq!(Route::parse("/apps/1/queues"), of_app("1", Resource::Queues));
        let queue = |of| of_app("1", Resource::Queue("mail".into(), of));
        assert_eq!(Route::parse("/apps/1/queues/mail"), queue(OfQueue::Counts));
        assert_eq!(Route::parse("/apps/1/queues/mail/jobs"), queue(OfQueue::Jobs));
        assert_eq!(Route::parse("/apps/1/queues/mail/claim"), queue(OfQueue::Claim));
        assert_eq!(Route::parse("/apps/1/queues/mail/jobs/7"), queue(OfQueue::Job(JobId(7), OfJob::Entry)));
        assert_eq!(Route::parse("/apps/1/queues/mail/jobs/7/finish"), queue(OfQueue::Job(JobId(7), OfJob::Finish)));
        assert_eq!(Route::parse("/pusher/auth"), Some(Route::Grant(Grant::Channel)));
        assert_eq!(Route::parse("/pusher/user-auth"), Some(Route::Grant(Grant::User)));
        assert_eq!(Route::parse("/fanfare/token"), Some(Route::Grant(Grant::Token)));
        assert_eq!(Route::parse("/demo/edit"), Some(Route::Demo(Kind::Edit)));
    }

    #[test]
    fn names_are_decoded_within_their_segment() {
        assert_eq!(Route::parse("/apps/my%20app/channels"), of_app("my app", Resource::Channels));
        let user = "%23server-to-user-7%40a";
        let path = format!("/apps/1/channels/{user}");
        assert_eq!(Route::parse(&path), of_app("1", Resource::Channel("#server-to-user-7@a".into())));
        assert_eq!(Route::parse("/apps/1/channels/a%2Fusers"), of_app("1", Resource::Channel("a/users".into())));
    }

    #[test]
    fn a_user_id_may_hold_anything() {
        let terminate = |id: &'static str| Resource::Terminate(id.into());
        let path = "/apps/1/users/user%20id/%C3%BC/terminate_connections";
        assert_eq!(Route::parse(path), of_app("1", terminate("user id/ü")));
        let path = "/apps/1/users/x/terminate_connections/terminate_connections";
        assert_eq!(Route::parse(path), of_app("1", terminate("x/terminate_connections")));
    }

    #[test]
    fn plain_publishing_names_a_key_and_its_channels() {
        let plain = |channels: Vec<Cow<'static, str>>| Some(Route::Plain { key: "k".into(), channels });
        assert_eq!(Route::parse("/pub/k/a"), plain(vec!["a".into()]));
        assert_eq!(Route::parse("/pub/k/a/%23b"), plain(vec!["a".into(), "#b".into()]));
        for path in ["/pub", "/pub/", "/pub/k", "/pub/k/", "/pub//a", "/pub/k/a/", "/pub/k//a"] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_rollout_is_an_apps() {
        assert_eq!(Route::parse("/rollout/k"), Some(Route::Rollout("k".into())));
        assert_eq!(Route::parse("/rollout/"), None);
    }

    #[test]
    fn a_termination_may_leave_out_its_app() {
        let route = Route::Signed { app: None, resource: Resource::Terminate("ann".into()) };
        assert_eq!(Route::parse("/users/ann/terminate_connections"), Some(route));
    }

    #[test]
    fn other_paths_lead_nowhere() {
        for path in [
            "",
            "/",
            "/apps",
            "/apps/1",
            "/apps/1/",
            "/apps//events",
            "/apps/1/events/",
            "/apps/1/channels/",
            "/apps/1/channels/a/b",
            "/apps/1/users/terminate_connections",
            "/apps/1/users//terminate_connections",
            "/apps/1/channels/%ff",
            "/apps/1/queues/",
            "/apps/1/queues/mail/jobs/",
            "/apps/1/queues/mail/jobs/+7",
            "/apps/1/queues/mail/jobs/x",
            "/apps/1/queues/mail/jobs/7/eat",
            "/users/ann",
            "/events",
        ] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }
}
