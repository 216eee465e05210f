//! A client process: holds its share of the subscribers, keeps their ledger, and answers the crew's orders.
//!
//! Orders and answers are lines of JSON over a socket that is this process' standard input:
//!
//! ```text
//!   ► Job                       ◄ Ready        all are subscribed
//!                               ◄ Complete     a publication has reached all here (only when asked for)
//!   ► Drain { published }       ◄ Drained      all of it has arrived, or nothing does any more
//!   ► Cut                       ◄ Cut          all connections are gone; their cursors are kept
//!   ► Resume                    ◄ Ready        all are subscribed again, from their cursors on
//!   ► Finish                    ◄ Tally        and the process ends
//! ```
//! One thread and one buffer: what is measured must be the server, so a delivery costs little more here than its share of
//! a `recv`.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ledger::{Entry, Ledger, Tally, Terms};
use crate::subscriber::{Progress, Subscriber};
use crate::sys;
use crate::transport::{Manner, Script};

/// Holds many deliveries of a burst, so that one `recv` brings them all; larger than any one frame.
const SCRATCH_BYTES: usize = 256 << 10;
const EVENTS_PER_TURN: usize = 1_024;
const CONTROL: Token = Token(usize::MAX - 1);
/// Handshakes that make no progress for so long never will.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// After the last expected delivery, how long to listen for one too many.
const LINGER: Duration = Duration::from_millis(100);

/// What a process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub manner: Manner,
    pub source: Option<Ipv4Addr>,
    /// Which of all subscribers are in this process; subscriber `n` is on channel `n % channels`.
    pub subscribers: Range<u32>,
    pub terms: Terms,
    pub handshakes_in_flight: usize,
    pub afterwards: Afterwards,
    pub goes_first: bool,
}

/// What becomes of a connection once it is subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Afterwards {
    /// It listens.
    Listen,
    /// It listens, and each publication's arrival at the last subscriber here is reported.
    ListenAndReport,
    /// It is closed.
    Close,
}

/// From the crew.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Drain { published: Vec<u32>, patience: Duration },
    Cut,
    Resume,
    Finish,
}

/// To the crew.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Ready { began_ns: u64, ended_ns: u64 },
    Complete(u32),
    Drained,
    Cut,
    Tally(Box<Tally>),
    Failed(String),
}

/// Serves one crew to its end.
pub fn run() -> Result<()> {
    let mut control = Control::from_stdin()?;
    let Some(job) = control.hear()? else {
        bail!("`receive` is started by the other verbs");
    };
    let outcome = Receiver::new(job, &control).and_then(|mut receiver| receiver.serve(&mut control));
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => control.say(&Answer::Failed(format!("{error:#}"))),
    }
}

/// Lines of JSON, both ways.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    pub fn new(stream: UnixStream) -> Control {
        Control { stream: BufReader::new(stream) }
    }

    fn from_stdin() -> Result<Control> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Control::new(UnixStream::from(stdin)))
    }

    pub fn say(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).context("the other process is gone")
    }

    /// Waits for the next message; `None` when the other side has ended.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_str(&line)?)),
        }
    }

    /// Limits every later [`Control::hear`].
    pub fn set_patience(&self, patience: Option<Duration>) -> Result<()> {
        Ok(self.stream.get_ref().set_read_timeout(patience)?)
    }
}

struct Receiver {
    job: Job,
    script: Script,
    poll: Poll,
    events: Events,
    subscribers: Vec<Option<Subscriber>>,
    /// Where each subscriber goes on from when it connects next.
    cursors: Vec<String>,
    ledger: Ledger,
    scratch: Box<[u8]>,
    /// Subscribers per channel, in this process.
    audiences: Vec<u32>,
    handshakes: usize,
    live: usize,
    /// Publications that have just reached everybody here.
    complete: Vec<u32>,
}

impl Receiver {
    fn new(job: Job, control: &Control) -> Result<Receiver> {
        sys::raise_open_files()?;
        if job.goes_first {
            // Without the privilege it is measured all the same; the verb that asked for it says so.
            let _ = sys::go_first();
        }
        let poll = Poll::new()?;
        let fd = control.stream.get_ref().as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), CONTROL, Interest::READABLE)?;
        let channels = job.terms.plan.channels;
        let mut audiences = vec![0; channels as usize];
        job.subscribers.clone().for_each(|n| audiences[(n % channels) as usize] += 1);
        let mut subscribers = Vec::new();
        subscribers.resize_with(job.subscribers.len(), || None);
        Ok(Receiver {
            script: Script::new(job.manner.clone(), channels),
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            subscribers,
            cursors: vec![String::new(); job.subscribers.len()],
            ledger: Ledger::new(job.terms.clone(), job.subscribers.len()),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            audiences,
            handshakes: 0,
            live: 0,
            complete: Vec::new(),
            job,
        })
    }

    fn serve(&mut self, control: &mut Control) -> Result<()> {
        self.assemble(self.job.handshakes_in_flight, control)?;
        loop {
            if self.turn(None)? == Turn::Ordered {
                match control.hear()? {
                    Some(Order::Drain { published, patience }) => {
                        self.drain(&published, patience, control)?;
                        control.say(&Answer::Drained)?;
                    }
                    Some(Order::Cut) => {
                        self.cut();
                        control.say(&Answer::Cut)?;
                    }
                    Some(Order::Resume) => self.assemble(usize::MAX, control)?,
                    Some(Order::Finish) => {
                        self.linger()?;
                        let gaps = self.subscribers.iter().flatten().filter(|subscriber| subscriber.has_gap());
                        self.ledger.gaps(gaps.count() as u64);
                        let channels = self.job.terms.plan.channels;
                        let first = self.job.subscribers.start;
                        let tally = self.ledger.tally(|subscriber| (first + subscriber as u32) % channels);
                        return control.say(&Answer::Tally(Box::new(tally)));
                    }
                    None => return Ok(()),
                }
            }
            self.report_complete(control)?;
        }
    }

    /// Connects and subscribes everybody, some at a time.
    fn assemble(&mut self, in_flight: usize, control: &mut Control) -> Result<()> {
        let began_ns = sys::monotonic_ns();
        let wanted = self.subscribers.len();
        let mut launched = 0;
        while self.live < wanted {
            while self.handshakes < in_flight && launched < wanted {
                self.launch(launched)?;
                launched += 1;
            }
            let turn = self.turn(Some(HANDSHAKE_PATIENCE))?;
            ensure!(turn != Turn::Quiet, "handshakes stalled: {} of {wanted} subscribed", self.live);
            ensure!(turn != Turn::Ordered, "stopped during the handshakes");
        }
        control.say(&Answer::Ready { began_ns, ended_ns: sys::monotonic_ns() })
    }

    fn launch(&mut self, index: usize) -> Result<()> {
        let channel = (self.job.subscribers.start + index as u32) % self.job.terms.plan.channels;
        let cursor = std::mem::take(&mut self.cursors[index]);
        let mut subscriber = Subscriber::connect(&self.job.manner.server, self.job.source, channel, cursor)
            .with_context(|| format!("connection {index}"))?;
        let interest = match subscriber.try_open(&self.script)? {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        self.poll.registry().register(&mut subscriber.stream, Token(index), interest)?;
        self.subscribers[index] = Some(subscriber);
        self.handshakes += 1;
        Ok(())
    }

    /// Ends every connection. Closed sockets leave the poll by themselves.
    fn cut(&mut self) {
        self.live = 0;
        for (subscriber, cursor) in self.subscribers.iter_mut().zip(&mut self.cursors) {
            *cursor = subscriber.take().map(Subscriber::cut).unwrap_or_default();
        }
    }

    /// Waits for something to happen and sees to it.
    fn turn(&mut self, patience: Option<Duration>) -> Result<Turn> {
        match self.poll.poll(&mut self.events, patience) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Ok(Turn::Busy),
            polled => polled?,
        }
        // Taken out for the walk, which needs the rest of `self`.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let mut turn = if events.is_empty() { Turn::Quiet } else { Turn::Busy };
        for event in &events {
            match event.token() {
                CONTROL => turn = Turn::Ordered,
                Token(index) => self.ready(index, event)?,
            }
        }
        self.events = events;
        Ok(turn)
    }

    fn ready(&mut self, index: usize, event: &Event) -> Result<()> {
        let Some(subscriber) = &mut self.subscribers[index] else {
            return Ok(());
        };
        if !subscriber.try_open(&self.script)? || !event.is_readable() {
            return Ok(());
        }
        let Receiver { job, ledger, audiences, complete, .. } = self;
        let (channel, report) = (subscriber.channel, job.afterwards == Afterwards::ListenAndReport);
        let mut publication = |data: &[u8], now_ns: u64| {
            if let Entry::Delivered { id, count } = ledger.enter(index, channel, data, now_ns)
                && report
                && count == audiences[channel as usize]
            {
                complete.push(id);
            }
        };
        let progress = subscriber.receive(&mut self.scratch, &self.script, &mut publication)?;
        ledger.read(subscriber.take_bytes());
        match progress {
            Progress::Same => {}
            Progress::BecameLive => self.became_live(index),
            Progress::Closed => {
                self.subscribers[index] = None;
                self.ledger.closed();
            }
        }
        Ok(())
    }

    fn became_live(&mut self, index: usize) {
        self.live += 1;
        self.handshakes -= 1;
        if self.job.afterwards == Afterwards::Close {
            self.subscribers[index] = None;
        }
    }

    fn report_complete(&mut self, control: &mut Control) -> Result<()> {
        self.complete.drain(..).try_for_each(|id| control.say(&Answer::Complete(id)))
    }

    /// Listens until all that was published has arrived, or until no delivery has for a while.
    fn drain(&mut self, published: &[u32], patience: Duration, control: &mut Control) -> Result<()> {
        let expected = self.expected(published);
        let (mut seen, mut last_seen) = (self.ledger.delivered(), Instant::now());
        // Pings and counts may keep the loop busy; only deliveries are a reason to wait longer.
        while self.ledger.delivered() < expected && last_seen.elapsed() < patience {
            self.turn(Some(patience))?;
            self.report_complete(control)?;
            if self.ledger.delivered() > seen {
                (seen, last_seen) = (self.ledger.delivered(), Instant::now());
            }
        }
        Ok(())
    }

    /// How many deliveries this process is owed.
    fn expected(&self, published: &[u32]) -> u64 {
        let per_channel = self.job.terms.plan.per_channel(published);
        per_channel.zip(&self.audiences).map(|(n, &audience)| n * u64::from(audience)).sum()
    }

    fn linger(&mut self) -> Result<()> {
        let end = Instant::now() + LINGER;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.turn(Some(left))?;
        }
        Ok(())
    }
}

/// What a turn of the loop brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Quiet,
    Busy,
    /// The crew has something to say, or is gone.
    Ordered,
}
