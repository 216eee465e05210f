//! Sends HTTP requests over keep-alive connections ("lanes"), one in flight on each, all from one thread.
//!
//! Lane `l` of `n` sends the requests `l`, `l + n`, `l + 2n`, … in order, each when its answer to the one before is there,
//! and not before its time if there is a rate. An answer that is not 2xx ends the run: what the server has refused, it
//! does not owe.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::ledger::latency_histogram;
use crate::load::{Composed, Load};
use crate::sys;
use crate::target::{Server, Target};

const SCRATCH_BYTES: usize = 64 << 10;
const HEADERS_MAX: usize = 32;
/// An answer that takes longer never comes.
const ANSWER_PATIENCE_NS: u64 = 30_000_000_000;

/// Which answers are as good as wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    Success,
    /// For comparing with routes that do not exist.
    Anything,
}

/// The lanes of a verb.
pub struct Publisher {
    poll: Poll,
    events: Events,
    lanes: Vec<Lane>,
    scratch: Box<[u8]>,
    accept: Accept,
}

struct Lane {
    stream: TcpStream,
    request: Vec<u8>,
    written: usize,
    /// The number of the next request.
    next: u32,
    /// An incomplete answer.
    rest: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// May send; with a rate, not before its time.
    Idle,
    /// Has sent at this time, and waits for the answer.
    Asked { at_ns: u64 },
    /// Has nothing more to send.
    Done,
}

/// How a run went.
pub struct Flow {
    pub began_ns: u64,
    pub ended_ns: u64,
    pub answered: u64,
    /// From handing over a request until its answer.
    pub latency: Histogram<u64>,
    /// With a rate: how much later than its time a request was sent, at worst.
    pub late_ns_max: u64,
}

impl Publisher {
    /// Connects all lanes, to the nodes in turn.
    pub fn open(target: &Target, lanes: u32, accept: Accept) -> Result<Publisher> {
        let poll = Poll::new()?;
        let lanes = (0..lanes).map(|n| Lane::open(target.server(n), n, &poll)).collect::<Result<_>>()?;
        let scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        Ok(Publisher { poll, events: Events::with_capacity(256), lanes, scratch, accept })
    }

    /// For each lane, the first request that it has not sent.
    pub fn ends(&self) -> Vec<u32> {
        self.lanes.iter().map(|lane| lane.next).collect()
    }

    /// Sends a load until it has no more. `rate` is in requests per second over all lanes.
    pub fn run(&mut self, load: &mut impl Load, rate: Option<f64>) -> Result<Flow> {
        let began_ns = sys::monotonic_ns();
        let first = self.lanes.iter().map(|lane| lane.next).min().unwrap_or(0);
        let due_ns = |request: u32| match rate {
            Some(rate) => began_ns + (f64::from(request - first) / rate * 1e9) as u64,
            None => began_ns,
        };
        let mut flow = Flow { began_ns, ended_ns: began_ns, answered: 0, latency: latency_histogram(), late_ns_max: 0 };
        self.lanes.iter_mut().for_each(|lane| lane.state = State::Idle);
        while self.send_what_is_due(load, &due_ns, &mut flow)? {
            self.await_answers(&due_ns, &mut flow, || load.answered())?;
        }
        flow.ended_ns = sys::monotonic_ns();
        Ok(flow)
    }

    /// `false` when no lane sends or waits any more.
    fn send_what_is_due(
        &mut self,
        load: &mut impl Load,
        due_ns: &impl Fn(u32) -> u64,
        flow: &mut Flow,
    ) -> Result<bool> {
        let step = self.lanes.len() as u32;
        let now_ns = sys::monotonic_ns();
        for lane in &mut self.lanes {
            if lane.state == State::Idle && due_ns(lane.next) <= now_ns {
                flow.late_ns_max = flow.late_ns_max.max(now_ns - due_ns(lane.next));
                lane.ask(load, step)?;
            }
        }
        Ok(self.lanes.iter().any(|lane| lane.state != State::Done))
    }

    fn await_answers(
        &mut self,
        due_ns: &impl Fn(u32) -> u64,
        flow: &mut Flow,
        mut answered: impl FnMut(),
    ) -> Result<()> {
        let now_ns = sys::monotonic_ns();
        let wake_ns = self.lanes.iter().filter_map(|lane| lane.wake_ns(due_ns)).min().unwrap_or(now_ns);
        let patience = Duration::from_nanos(wake_ns.saturating_sub(now_ns));
        match self.poll.poll(&mut self.events, Some(patience)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        let now_ns = sys::monotonic_ns();
        for event in &self.events {
            let lane = &mut self.lanes[event.token().0];
            lane.flush()?;
            if let State::Asked { at_ns } = lane.state
                && event.is_readable()
                && lane.read_answer(&mut self.scratch, self.accept)?
            {
                lane.state = State::Idle;
                flow.answered += 1;
                flow.latency.saturating_record(now_ns - at_ns);
                answered();
            }
        }
        let overdue = |lane: &Lane| matches!(lane.state, State::Asked { at_ns } if now_ns > at_ns + ANSWER_PATIENCE_NS);
        ensure!(!self.lanes.iter().any(overdue), "a request was not answered within 30 s");
        Ok(())
    }
}

impl Lane {
    fn open(server: &Server, n: u32, poll: &Poll) -> Result<Lane> {
        let connected = std::net::TcpStream::connect(server.address);
        let stream = connected.with_context(|| format!("connecting to {}", server.address))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(n as usize), both)?;
        Ok(Lane { stream, request: Vec::new(), written: 0, next: n, rest: Vec::new(), state: State::Idle })
    }

    /// When this lane must be looked at again at the latest.
    fn wake_ns(&self, due_ns: &impl Fn(u32) -> u64) -> Option<u64> {
        match self.state {
            State::Idle => Some(due_ns(self.next)),
            State::Asked { at_ns } => Some(at_ns + ANSWER_PATIENCE_NS + 1),
            State::Done => None,
        }
    }

    fn ask(&mut self, load: &mut impl Load, step: u32) -> Result<()> {
        self.request.clear();
        self.written = 0;
        if load.compose(self.next, &mut self.request) == Composed::NoMore {
            self.state = State::Done;
            return Ok(());
        }
        self.next += step;
        self.state = State::Asked { at_ns: sys::monotonic_ns() };
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        while self.written < self.request.len() {
            match self.stream.write(&self.request[self.written..]) {
                Ok(sent) => self.written += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("sending a request"),
            }
        }
        Ok(())
    }

    /// Reads until the socket is empty; `true` when the answer is whole.
    fn read_answer(&mut self, scratch: &mut [u8], accept: Accept) -> Result<bool> {
        loop {
            let got = match self.stream.read(scratch) {
                Ok(0) => bail!("the server closed a connection instead of answering"),
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("reading an answer"),
            };
            if self.rest.is_empty() && answer_is_whole(&scratch[..got], accept)? {
                return Ok(true);
            }
            self.rest.extend_from_slice(&scratch[..got]);
            if answer_is_whole(&self.rest, accept)? {
                self.rest.clear();
                return Ok(true);
            }
        }
    }
}

/// Whether `bytes` are a whole answer. One that was not wanted, or more than one, is an error.
pub fn answer_is_whole(bytes: &[u8], accept: Accept) -> Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = head.parse(bytes).context("the answer is not HTTP/1.1")? else {
        return Ok(false);
    };
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
    let body_len = length.context("an answer without Content-Length")?;
    let body = &bytes[head_len..];
    let status = head.code.unwrap_or(0);
    if body.len() < body_len {
        return Ok(false);
    }
    ensure!(body.len() == body_len, "more than one answer to a request");
    let good = accept == Accept::Anything || (200..300).contains(&status);
    ensure!(good, "the server answered {status}: {}", String::from_utf8_lossy(body).trim_end());
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        for cut in 0..ANSWER.len() {
            assert!(!answer_is_whole(&ANSWER[..cut], Accept::Success).expect("legal so far"), "at {cut}");
        }
        assert!(answer_is_whole(ANSWER, Accept::Success).expect("legal"));
    }

    #[test]
    fn a_refusal_is_an_error_that_quotes_the_server() {
        let refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\ntoo big";
        let error = answer_is_whole(refusal, Accept::Success).expect_err("413 is not 2xx");
        assert_eq!(error.to_string(), "the server answered 413: too big");
        assert!(answer_is_whole(refusal, Accept::Anything).expect("anything goes"));
    }
}
