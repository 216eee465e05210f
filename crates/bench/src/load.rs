//! What to send: the loads that a [`Publisher`](crate::publisher::Publisher) can be given.

use std::time::{Duration, Instant};

use crate::ledger::Terms;
use crate::plan::Plan;
use crate::stamp::Stamp;
use crate::target::{Dialect, Target, unix_s};
use crate::{sys, wire};

/// A source of requests.
pub trait Load {
    /// Appends the whole request of this number, or tells that there are no more.
    fn compose(&mut self, request: u32, out: &mut Vec<u8>) -> Composed;

    /// A request has been answered.
    fn answered(&mut self) {}
}

/// Whether there was another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Composed {
    Request,
    NoMore,
}

/// What the stamped data is inside of when it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrapping {
    /// An event for one channel.
    Event,
    /// A job, of which a pipeline makes publications on all channels.
    Record,
}

/// The members of a record that say where it goes: the `n`th has the name of the `n`th channel.
pub const RECORD_ROUTES: [&str; 4] = ["forum", "thread", "user", "post"];

/// Stamped publications, of which each has a number and its time.
pub struct Stamped<'a> {
    target: &'a Target,
    channel_prefix: &'a str,
    plan: Plan,
    run: u16,
    size: usize,
    wrapping: Wrapping,
    path: String,
    /// Sequences given out so far, for each lane and channel.
    sequences: Vec<u32>,
    body: Vec<u8>,
}

impl<'a> Stamped<'a> {
    pub fn new(target: &'a Target, channel_prefix: &'a str, plan: Plan, run: u16, size: usize) -> Stamped<'a> {
        let resource = if plan.batch > 1 { "batch_events" } else { "events" };
        Stamped {
            target,
            channel_prefix,
            plan,
            run,
            size,
            wrapping: Wrapping::Event,
            path: target.path(resource),
            sequences: vec![0; plan.slots()],
            body: Vec::new(),
        }
    }

    /// The same as jobs for a queue, whose pipeline publishes them. A lane's have a key in common, which keeps their order.
    pub fn records(target: &'a Target, channel_prefix: &'a str, terms: &Terms, queue: &str) -> Stamped<'a> {
        let Terms { plan, run, size, .. } = *terms;
        let path = target.path(&format!("queues/{queue}/jobs"));
        Stamped { wrapping: Wrapping::Record, path, ..Stamped::new(target, channel_prefix, plan, run, size) }
    }

    /// Appends the whole request of this number.
    pub fn request(&mut self, request: u32, out: &mut Vec<u8>) {
        self.body.clear();
        let first = request * self.plan.batch;
        if self.target.dialect == Dialect::Nchan {
            self.data(first);
            let channel = wire::channel_name(self.channel_prefix, self.plan.channel(first));
            return self.target.bare_post(&channel, &self.body, out);
        }
        match (self.wrapping, self.plan.batch) {
            (Wrapping::Event, 1) => self.event(first, "channels\":[", "]"),
            (Wrapping::Event, _) => self.list("batch", first, |all, id| all.event(id, "channel\":", "")),
            (Wrapping::Record, _) => self.list("jobs", first, Self::record),
        }
        self.target.signed_post(&self.path, &self.body, out);
    }

    fn list(&mut self, name: &str, first: u32, mut append: impl FnMut(&mut Self, u32)) {
        self.body.extend_from_slice(format!("{{\"{name}\":[").as_bytes());
        for id in first..first + self.plan.batch {
            if id > first {
                self.body.push(b',');
            }
            append(self, id);
        }
        self.body.extend_from_slice(b"]}");
    }

    fn record(&mut self, id: u32) {
        let head = format!(r#"{{"kind":"create","key":"lane-{}","data":{{"id":{id},"#, self.plan.lane(id));
        self.body.extend_from_slice(head.as_bytes());
        for (name, channel) in RECORD_ROUTES.iter().zip(0..) {
            let channel = wire::channel_name(self.channel_prefix, channel);
            self.body.extend_from_slice(format!(r#""{name}":"{channel}","#).as_bytes());
        }
        self.body.extend_from_slice(br#""author":"Ann O'Nymous","created":"2026-11-21T17:06:39Z","text":""#);
        self.data(id);
        self.body.extend_from_slice(b"\"}}");
    }

    fn event(&mut self, id: u32, open: &str, close: &str) {
        let name = wire::channel_name(self.channel_prefix, self.plan.channel(id));
        let head = format!("{{\"name\":\"bench\",\"{open}\"{name}\"{close},\"data\":\"");
        self.body.extend_from_slice(head.as_bytes());
        self.data(id);
        self.body.extend_from_slice(b"\"}");
    }

    fn data(&mut self, id: u32) {
        let (lane, channel) = (self.plan.lane(id), self.plan.channel(id));
        let sequence = &mut self.sequences[self.plan.slot(channel, lane)];
        let stamp = Stamp { run: self.run, id, sequence: *sequence, sent_ns: sys::monotonic_ns() };
        *sequence += 1;
        stamp.write(self.size, &mut self.body);
    }
}

/// A given number of stamped publications.
pub struct Counted<'s, 'a> {
    pub stamped: &'s mut Stamped<'a>,
    /// The first request not to send.
    pub end: u32,
    pub bar: &'s indicatif::ProgressBar,
}

impl Load for Counted<'_, '_> {
    fn compose(&mut self, request: u32, out: &mut Vec<u8>) -> Composed {
        if request >= self.end {
            return Composed::NoMore;
        }
        self.stamped.request(request, out);
        Composed::Request
    }

    fn answered(&mut self) {
        self.bar.inc(1);
    }
}

/// Stamped publications until something has happened.
pub struct Until<'s, 'a, F> {
    pub stamped: &'s mut Stamped<'a>,
    pub done: F,
}

impl<F: Fn() -> bool> Load for Until<'_, '_, F> {
    fn compose(&mut self, request: u32, out: &mut Vec<u8>) -> Composed {
        if (self.done)() {
            return Composed::NoMore;
        }
        self.stamped.request(request, out);
        Composed::Request
    }
}

/// One message to each channel that is no publication of any run.
pub struct Greeting<'a> {
    pub target: &'a Target,
    pub prefix: &'a str,
    pub channels: u32,
}

impl Load for Greeting<'_> {
    fn compose(&mut self, request: u32, out: &mut Vec<u8>) -> Composed {
        if request >= self.channels {
            return Composed::NoMore;
        }
        let channel = wire::channel_name(self.prefix, request);
        match self.target.dialect {
            Dialect::Nchan => self.target.bare_post(&channel, b"welcome", out),
            Dialect::Fanfare => {
                let body = format!(r#"{{"name":"bench","channels":["{channel}"],"data":"welcome"}}"#);
                self.target.signed_post(&self.target.path("events"), body.as_bytes(), out);
            }
        }
        Composed::Request
    }
}

/// The same request again and again for a time. Signed anew only as the clock of signatures ticks, so that the client does
/// not measure its own HMAC.
pub struct Repeated<'a> {
    target: &'a Target,
    path: String,
    body: Vec<u8>,
    signed_at_s: u64,
    request: Vec<u8>,
    end: Instant,
}

impl<'a> Repeated<'a> {
    pub fn new(target: &'a Target, path: String, body: Vec<u8>, time: Duration) -> Repeated<'a> {
        Repeated { target, path, body, signed_at_s: 0, request: Vec::new(), end: Instant::now() + time }
    }
}

impl Load for Repeated<'_> {
    fn compose(&mut self, _: u32, out: &mut Vec<u8>) -> Composed {
        if Instant::now() >= self.end {
            return Composed::NoMore;
        }
        let now_s = unix_s();
        if now_s != self.signed_at_s {
            self.signed_at_s = now_s;
            self.request.clear();
            self.target.signed_post(&self.path, &self.body, &mut self.request);
        }
        out.extend_from_slice(&self.request);
        Composed::Request
    }
}
