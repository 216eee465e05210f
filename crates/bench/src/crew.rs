//! The client processes of a verb, from the side that starts them.
//!
//! One process has one thread and as many sockets as the limit of open files allows, so many subscribers need several
//! processes, and several CPUs can be used by them. They are this executable itself (`receive`), and end with it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::ledger::{Tally, Terms};
use crate::load::Greeting;
use crate::machine::Usage;
use crate::plan::Plan;
use crate::publisher::{Accept, Publisher};
use crate::receiver::{Afterwards, Answer, Control, Job, Order};
use crate::sys;
use crate::target::{Dialect, Server, Target};
use crate::transport::{Manner, Transport};

/// Sockets that one process holds: the usual hard limit of 20,000 less a reserve.
const SUBSCRIBERS_PER_PROCESS: u32 = 19_000;

/// How the clients of a verb connect.
#[derive(Debug, Clone, clap::Args)]
pub struct Clients {
    /// Client processes; as many as the limit of open files asks for, unless given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub processes: Option<u32>,
    /// Handshakes under way at a time, in each process
    #[arg(long, default_value_t = 64, value_name = "C", value_parser = clap::value_parser!(u32).range(1..))]
    pub handshakes: u32,
    /// Channels are named PREFIX-0, PREFIX-1, …
    #[arg(long, default_value = "bench", value_name = "PREFIX")]
    pub channel_prefix: String,
    /// How subscribers listen; pusher unless the verb says otherwise
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
}

/// Who is to subscribe to what.
pub struct Roster<'a> {
    pub target: &'a Target,
    pub clients: &'a Clients,
    pub subscribers: u32,
    /// Whether each subscriber keeps a cursor, to go on from there after a cut.
    pub keeps_cursors: bool,
    pub terms: &'a Terms,
    pub afterwards: Afterwards,
    /// Whether these processes run before all others of their CPU, where that is permitted.
    pub goes_first: bool,
}

impl<'a> Roster<'a> {
    /// Ordinary subscribers, which stay and listen.
    pub fn listeners(target: &'a Target, clients: &'a Clients, subscribers: u32, terms: &'a Terms) -> Roster<'a> {
        let afterwards = Afterwards::Listen;
        Roster { target, clients, subscribers, keeps_cursors: false, terms, afterwards, goes_first: false }
    }

    fn processes(&self) -> u32 {
        let least = self.subscribers.div_ceil(SUBSCRIBERS_PER_PROCESS).max(1);
        self.clients.processes.unwrap_or(least.max(self.target.url.len() as u32))
    }

    fn manner(&self, n: u32) -> Manner {
        Manner {
            server: self.target.server(n).clone(),
            dialect: self.target.dialect,
            key: self.target.app.key.clone(),
            channel_prefix: self.clients.channel_prefix.clone(),
            transport: self.clients.transport.unwrap_or(Transport::Pusher),
            keeps_cursors: self.keeps_cursors,
        }
    }

    fn job(&self, n: u32) -> Job {
        let processes = self.processes();
        Job {
            manner: self.manner(n),
            source: source_address(self.target.server(n), n, processes),
            subscribers: share(self.subscribers, processes, n)..share(self.subscribers, processes, n + 1),
            terms: self.terms.clone(),
            handshakes_in_flight: self.clients.handshakes as usize,
            afterwards: self.afterwards,
            goes_first: self.goes_first,
        }
    }
}

/// Processes that hold subscribers.
pub struct Crew {
    members: Vec<Member>,
    plan: Plan,
    subscribers: u32,
    /// When the first handshake began and the last one ended.
    pub handshakes_ns: (u64, u64),
}

struct Member {
    process: Child,
    control: Control,
    subscribers: std::ops::Range<u32>,
}

impl Crew {
    /// Starts the processes and waits until each subscriber is subscribed.
    pub fn muster(roster: &Roster<'_>) -> Result<Crew> {
        greet(roster)?;
        let jobs = (0..roster.processes()).map(|n| roster.job(n));
        let members = jobs.map(|job| Member::start(&job)).collect::<Result<_>>()?;
        let (plan, subscribers) = (roster.terms.plan, roster.subscribers);
        let mut crew = Crew { members, plan, subscribers, handshakes_ns: (u64::MAX, 0) };
        crew.wait_ready()?;
        Ok(crew)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (began, ended) = &mut self.handshakes_ns;
        for member in &mut self.members {
            match member.hear()? {
                Answer::Ready { began_ns, ended_ns } => {
                    *began = began_ns.min(*began);
                    *ended = ended_ns.max(*ended);
                }
                other => bail!("a client process said {other:?} instead of Ready"),
            }
        }
        Ok(())
    }

    /// Deliveries that are owed when this much was published.
    pub fn expected(&self, published: &[u32]) -> u64 {
        let audience = |channel| u64::from(count_on(&(0..self.subscribers), channel, self.plan.channels));
        self.plan.per_channel(published).zip(0..).map(|(n, channel)| n * audience(channel)).sum()
    }

    /// Waits until a publication has reached every subscriber; `false` when that took longer than `patience`.
    pub fn wait_complete(&mut self, id: u32, channel: u32, patience: Duration) -> Result<bool> {
        let channels = self.plan.channels;
        let concerned = self.members.iter_mut().filter(|m| count_on(&m.subscribers, channel, channels) > 0);
        for member in concerned {
            member.control.set_patience(Some(patience))?;
            let answer = member.hear();
            member.control.set_patience(None)?;
            match answer {
                Ok(Answer::Complete(done)) if done == id => {}
                Ok(other) => bail!("a client process said {other:?} instead of Complete({id})"),
                Err(error) if timed_out(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Waits until all that was published has arrived, or nothing arrives any more.
    pub fn drain(&mut self, published: &[u32], patience: Duration) -> Result<()> {
        self.tell_all(&Order::Drain { published: published.to_vec(), patience })?;
        for member in &mut self.members {
            while !matches!(member.hear()?, Answer::Drained) {
                // Late news of a publication that nobody waits for any more.
            }
        }
        Ok(())
    }

    /// Ends all connections at once; the subscribers keep their cursors.
    pub fn cut(&mut self) -> Result<()> {
        self.tell_all(&Order::Cut)?;
        for member in &mut self.members {
            match member.hear()? {
                Answer::Cut => {}
                other => bail!("a client process said {other:?} instead of Cut"),
            }
        }
        Ok(())
    }

    /// Has everybody connect again, all at once, and go on from their cursors; returns when all are subscribed.
    pub fn resume(&mut self) -> Result<()> {
        self.handshakes_ns = (u64::MAX, 0);
        self.tell_all(&Order::Resume)?;
        self.wait_ready()
    }

    fn tell_all(&mut self, order: &Order) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.control.say(order))
    }

    /// Ends the processes and adds up what they received.
    pub fn finish(mut self) -> Result<Tally> {
        self.tell_all(&Order::Finish)?;
        let mut whole = Tally::default();
        for mut member in self.members.drain(..) {
            match member.hear()? {
                Answer::Tally(tally) => whole.merge(*tally),
                other => bail!("a client process said {other:?} instead of its tally"),
            }
            member.process.wait()?;
        }
        Ok(whole)
    }

    /// CPU time that the processes have used, in nanoseconds.
    pub fn cpu_ns(&self) -> Result<u64> {
        self.members.iter().map(|member| Ok(Usage::of(member.process.id())?.cpu_ns)).sum()
    }
}

impl Member {
    fn start(job: &Job) -> Result<Member> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = own_verb("receive")?;
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        sys::bind_child(&mut command, None);
        let process = command.spawn().context("starting a client process")?;
        let mut member = Member { process, control: Control::new(ours), subscribers: job.subscribers.clone() };
        member.control.say(job)?;
        Ok(member)
    }

    fn hear(&mut self) -> Result<Answer> {
        match self.control.hear()? {
            Some(Answer::Failed(why)) => bail!("a client process failed: {why}"),
            Some(answer) => Ok(answer),
            None => bail!("a client process has ended: {}", self.process.wait()?),
        }
    }
}

/// This executable, running another verb: `fanfare-bench VERB` or `fanfare bench VERB`.
pub fn own_verb(verb: &str) -> Result<Command> {
    let executable = std::env::current_exe()?;
    let alone = executable.file_stem().is_some_and(|stem| stem == "fanfare-bench");
    let mut command = Command::new(executable);
    if !alone {
        command.arg("bench");
    }
    command.arg(verb);
    Ok(command)
}

/// A poller's first visit is answered with the newest message, so there must be one.
fn greet(roster: &Roster<'_>) -> Result<()> {
    if roster.manner(0).transport != Transport::Longpoll {
        ensure!(roster.target.dialect == Dialect::Fanfare, "nchan is measured with long-polling only");
        return Ok(());
    }
    let prefix = &roster.clients.channel_prefix;
    let mut greeting = Greeting { target: roster.target, prefix, channels: roster.terms.plan.channels };
    Publisher::open(roster.target, 1, Accept::Success)?.run(&mut greeting, None)?;
    Ok(())
}

/// Where the `n`th of `processes` shares begins.
fn share(subscribers: u32, processes: u32, n: u32) -> u32 {
    (u64::from(subscribers) * u64::from(n) / u64::from(processes)) as u32
}

/// How many of these subscribers listen to `channel`.
fn count_on(subscribers: &std::ops::Range<u32>, channel: u32, channels: u32) -> u32 {
    let below = |end: u32| (end + channels - 1 - channel) / channels;
    below(subscribers.end) - below(subscribers.start)
}

/// One address has 28,000 ports to connect from; on loopback each process can take one of its own.
fn source_address(server: &Server, n: u32, processes: u32) -> Option<Ipv4Addr> {
    let several_on_loopback = processes > 1 && matches!(server.address.ip(), IpAddr::V4(ip) if ip.is_loopback());
    several_on_loopback.then(|| Ipv4Addr::new(127, 0, 0, 1 + n as u8))
}

fn timed_out(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        let begins: Vec<_> = (0..=3).map(|n| share(10, 3, n)).collect();
        assert_eq!(begins, [0, 3, 6, 10]);
    }

    #[test]
    fn an_audience_is_counted_without_looking_at_each_subscriber() {
        for channels in 1..5 {
            for channel in 0..channels {
                let naive = (3..17).filter(|n| n % channels == channel).count() as u32;
                assert_eq!(count_on(&(3..17), channel, channels), naive);
            }
        }
    }
}
