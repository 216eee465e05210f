//! `raw`: the reference. One thread, one epoll, and for each publication a bare loop of `send()` of the same bytes that
//! Fanfare would send. No names are checked, no signatures, no limits; a publisher waits for the loop.
//!
//! What a delivery costs here is what the kernel asks for it, so a server's cost is stated as a multiple of it. It also
//! serves badly on request (`--lossy` and so on), to prove that the clients' account notices.
//!
//! `GET /app/…` with an upgrade is granted, `pusher:subscribe` is confirmed, `GET /sub/…` subscribes by any transport or
//! polls (`format=raw` only), `POST …/events` and `…/batch_events` publish, and any other request is answered `{}`.

mod channel;
mod connection;
mod publication;
mod request;
mod sabotage;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use self::channel::Channel;
use self::connection::{Connection, ESTABLISHED};
use self::publication::position;
use self::request::{Asked, Event};
use self::sabotage::{Faults, Saboteur};
use crate::sys;
use crate::transport::Transport;

/// Options of `raw`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:6001")]
    listen: SocketAddr,
    /// Publications kept for each channel, for those who come back
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    history: usize,
    #[command(flatten)]
    faults: Faults,
}

const LISTENER: Token = Token(usize::MAX - 1);
const SCRATCH_BYTES: usize = 256 << 10;
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

pub fn run(options: &Options) -> Result<()> {
    sys::raise_open_files()?;
    let mut listener = TcpListener::bind(options.listen)?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    let raw = Raw {
        poll,
        listener,
        connections: Vec::new(),
        free: Vec::new(),
        channels: HashMap::new(),
        history_max: options.history,
        saboteur: options.faults.any().then(|| Saboteur::new(options.faults)),
    };
    Ok(raw.serve()?)
}

struct Raw {
    poll: Poll,
    listener: TcpListener,
    /// A connection's place is its token. Reused at once: the worst that a stale event can do is a read of nothing.
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    channels: HashMap<String, Channel>,
    history_max: usize,
    saboteur: Option<Saboteur>,
}

impl Raw {
    fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(index) => self.ready(index, event.is_readable(), &mut scratch),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut connection = Connection::new(stream)?;
            let index = self.free.pop().unwrap_or(self.connections.len());
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut connection.stream, Token(index), both)?;
            match self.connections.get_mut(index) {
                Some(place) => *place = Some(connection),
                None => self.connections.push(Some(connection)),
            }
        }
    }

    fn ready(&mut self, index: usize, readable: bool, scratch: &mut [u8]) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        connection.flush();
        if readable && self.read(index, scratch).is_none() {
            self.close(index);
        }
    }

    /// Reads and serves until the socket is empty; `None` when the connection is over.
    fn read(&mut self, index: usize, scratch: &mut [u8]) -> Option<()> {
        loop {
            let connection = self.connections[index].as_mut()?;
            let (filled, drained) = match connection.fill(scratch) {
                Ok(filled) => filled?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(()),
                Err(_) => return None,
            };
            let mut at = 0;
            while let Some((asked, used)) = self.connections[index].as_mut()?.next_request(&scratch[at..filled]) {
                at += used;
                self.answer(index, asked)?;
            }
            self.connections[index].as_mut()?.keep(&scratch[at..filled]);
            if drained {
                return Some(());
            }
        }
    }

    fn answer(&mut self, index: usize, asked: Asked) -> Option<()> {
        let connection = self.connections[index].as_mut()?;
        match asked {
            Asked::Upgrade { key } => connection.upgrade(Transport::Pusher, &key, ESTABLISHED),
            Asked::Subscribe { channel } => {
                connection.confirm(&channel);
                self.channels.entry(channel).or_default().subscribers.push(index);
            }
            Asked::Listen { channel, transport, key, since } => {
                let missed = self.channels.entry(channel.clone()).or_default();
                let recovered = since.map(|offset| missed.reaches_back_to(offset));
                connection.listen(transport, &key, &channel, missed.offset, recovered);
                for publication in missed.since(since.filter(|_| recovered == Some(true))) {
                    let form = publication.form(transport);
                    match &mut self.saboteur {
                        None => connection.send(&form.bytes),
                        Some(saboteur) => saboteur.send(index, connection, form),
                    }
                }
                missed.subscribers.push(index);
            }
            Asked::Poll { channel, since } => {
                let asked = self.channels.entry(channel.clone()).or_default();
                let newer = asked.since(since).next().cloned();
                match newer {
                    Some(publication) => connection.send(&publication.form(Transport::Longpoll).bytes),
                    None if since.is_none() => connection.send(&position(&channel, asked.offset)),
                    None => {
                        asked.waiting.push(index);
                        connection.channels = vec![channel];
                    }
                }
            }
            Asked::Publish(events) => {
                events.into_iter().for_each(|event| self.publish(event));
                self.connections[index].as_mut()?.send(OK);
            }
            Asked::Nothing => {}
            Asked::Other => connection.send(OK),
            Asked::Leave => return None,
        }
        Some(())
    }

    fn publish(&mut self, event: Event) {
        let Raw { connections, channels, saboteur, history_max, .. } = self;
        let Some(channel) = channels.get_mut(&event.channel) else {
            return;
        };
        let publication = channel.add(event, *history_max);
        match saboteur {
            None => {
                for &index in &channel.subscribers {
                    if let Some(connection) = &mut connections[index] {
                        connection.send(&publication.form(connection.transport).bytes);
                    }
                }
                for index in channel.waiting.drain(..) {
                    if let Some(connection) = &mut connections[index] {
                        connection.send(&publication.form(Transport::Longpoll).bytes);
                    }
                }
            }
            Some(saboteur) => {
                for &index in &channel.subscribers {
                    if let Some(connection) = &mut connections[index] {
                        saboteur.send(index, connection, publication.form(connection.transport));
                    }
                }
                channel.waiting.retain(|&index| match &mut connections[index] {
                    Some(connection) => saboteur.answer(connection, &publication) == sabotage::Poll::StillWaits,
                    None => false,
                });
            }
        }
    }

    fn close(&mut self, index: usize) {
        let connection = self.connections[index].take();
        let channels = connection.iter().flat_map(|connection| &connection.channels);
        for channel in channels {
            if let Some(channel) = self.channels.get_mut(channel) {
                channel.leave(index);
            }
        }
        self.free.push(index);
    }
}
