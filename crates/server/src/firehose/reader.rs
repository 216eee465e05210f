//! One connection to a firehose: reads the log from where it stands, and writes what is for it.
//!
//! Always true:
//! - nothing is read from the log before what was read earlier has been taken: a slow reader costs one page and two chunks;
//! - entries are sent in their order, each once, and where some are missing a gap is told before the next;
//! - it is told no cursor of an entry before that entry, or before it is known that it is not for it;
//! - of a consumer that acknowledges, no more than it asked for is on its way.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_jobs::LogError;
use fanfare_jobs::log::{NUMBERS_SKIPPED, Tip};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::Signal;
use super::bearer::Connection;
use super::cursor::Cursor;
use super::filter::Filters;
use super::hose::Hose;
use super::lines::Form;
use super::pace::Pace;
use super::seats::{Seat, Told};

/// Bytes that are read at once, and that go out at once; or one message, if that is larger.
const PAGE_BYTES: usize = 64 << 10;

/// How long the last words may wait for a peer that does not read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Of the log.
    pub epoch: u64,
    /// The number of the first entry that it is sent.
    pub next: u64,
    /// Whether nothing is missing before that, if it said where it was.
    pub recovered: Option<bool>,
    /// How many are missing, if they can be counted.
    pub missed: Option<u64>,
}

/// One connection.
pub struct Reader {
    /// What it reads.
    pub hose: Arc<Hose>,
    /// Its place among those of its token.
    pub connection: Arc<Connection>,
    /// What is for it.
    pub filters: Filters,
    /// How it is written to.
    pub form: Form,
    /// Of the log.
    pub epoch: u64,
    /// The number of the next entry.
    pub next: u64,
    /// The last entry of which it has the cursor.
    pub shown: u64,
    /// If it acknowledges.
    pub seat: Option<Seat>,
    /// Sent and not acknowledged, in order.
    pub unacked: VecDeque<u64>,
    /// No more than so many.
    pub unacked_max: usize,
    /// Since then it has acknowledged nothing of those.
    pub silent_since: Instant,
    /// A rate of its own.
    pub pace: Option<Pace>,
    /// The longest that it hears nothing.
    pub heartbeat: Duration,
    /// When it last heard something.
    pub spoken_at: Instant,
    /// Not yet sent.
    pub buffer: Vec<u8>,
    /// Where it goes.
    pub out: mpsc::Sender<Bytes>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("the server is stopping")]
    Stopping,
    #[error("the token was changed or taken back")]
    Token,
    #[error("another connection has taken over")]
    TakenOver,
    #[error("nothing was acknowledged for {} s", .0.as_secs())]
    Silent(Duration),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the filter failed")]
    Filter,
    #[error("the peer has left")]
    Left,
}

impl Reader {
    /// Says where it begins, and goes on until somebody ends it.
    pub async fn run(mut self, start: Start, signals: watch::Receiver<Signal>) {
        let ended = self.ended(signals);
        let out = self.out.clone();
        let why = tokio::select! {
            why = ended => why,
            () = out.closed() => Why::Left,
            why = self.pump(start) => why,
        };
        let mut words = Vec::new();
        self.form.closed(&mut words, &why.to_string(), !matches!(why, Why::TakenOver));
        _ = timeout(LAST_WORDS, self.out.send(words.into())).await;
    }

    /// Ends when this connection has to, whatever it is doing.
    fn ended(&self, mut signals: watch::Receiver<Signal>) -> impl Future<Output = Why> + use<> {
        let (hose, bearer) = (self.hose.clone(), self.connection.bearer.clone());
        let told = self.seat.as_ref().map(|seat| seat.told.clone());
        let is_over = move |signal: &Signal| signal.stopping || !hose.knows(&bearer);
        async move {
            tokio::select! {
                signal = signals.wait_for(is_over) => match signal {
                    Ok(signal) if !signal.stopping => Why::Token,
                    _ => Why::Stopping,
                },
                () = taken(told) => Why::TakenOver,
            }
        }
    }

    async fn pump(&mut self, start: Start) -> Why {
        self.begin(start);
        loop {
            if let Err(why) = self.page().await {
                return why;
            }
        }
    }

    fn begin(&mut self, Start { recovered, missed, .. }: Start) {
        let cursor = self.cursor(self.next - 1);
        self.form.subscribed(&mut self.buffer, cursor, recovered);
        if recovered == Some(false) {
            self.hose.tally.note(|counts| counts.gaps += 1);
            self.form.gap(&mut self.buffer, cursor, missed);
        }
    }

    /// Reads a page and sends what is for this reader; or rests, if there is none.
    async fn page(&mut self) -> Result<(), Why> {
        let mut wakes = self.hose.log.wakes();
        let here = Tip { epoch: self.epoch, next: self.next };
        let tip = *wakes.borrow_and_update();
        let entries = self.hose.log.read(here, PAGE_BYTES).await?;
        if entries.is_empty() {
            // It had come so far before it was read: what was between is forgotten, or was never there.
            if tip.epoch == here.epoch {
                self.pass_to(tip.next);
            }
            self.flush().await?;
            return self.pause(async { _ = wakes.changed().await }).await;
        }
        for (number, entry) in self.filters.sift(entries).await.map_err(|_| Why::Filter)? {
            self.step(number, entry).await?;
        }
        self.flush().await?;
        // There may be much to go through before anything is for it.
        if self.spoken_at.elapsed() >= self.heartbeat { self.beat().await } else { Ok(()) }
    }

    /// Goes on to the next entry.
    async fn step(&mut self, number: u64, entry: Option<Bytes>) -> Result<(), Why> {
        self.pass_to(number);
        self.hear();
        let Some(entry) = entry.filter(|_| !self.has_done_with(number)) else {
            self.next = number + 1;
            self.hose.tally.note(|counts| counts.withheld += 1);
            return Ok(());
        };
        while self.unacked.len() >= self.unacked_max {
            self.flush().await?;
            self.pause(pending()).await?;
        }
        self.take_turn().await?;
        let cursor = self.cursor(number);
        self.form.message(&mut self.buffer, cursor, &entry);
        let due = u64::from(self.seat.is_some());
        self.hose.tally.note(|counts| {
            (counts.sent, counts.due, counts.unacked) = (counts.sent + 1, counts.due + due, counts.unacked + due);
        });
        // Not before: whatever is said while it waits is about those before it.
        (self.next, self.shown) = (number + 1, number);
        if self.seat.is_some() {
            if self.unacked.is_empty() {
                self.silent_since = Instant::now();
            }
            self.unacked.push_back(number);
        }
        if self.buffer.len() >= PAGE_BYTES { self.flush().await } else { Ok(()) }
    }

    /// The next entry is this one: tells of those that are missing before it, if any are.
    fn pass_to(&mut self, number: u64) {
        if number > self.next {
            let cursor = self.cursor(number - 1);
            self.hose.tally.note(|counts| counts.gaps += 1);
            self.form.gap(&mut self.buffer, cursor, counted(number - self.next));
            (self.next, self.shown) = (number, number - 1);
        }
    }

    fn cursor(&self, number: u64) -> Cursor {
        Cursor { epoch: self.epoch, number }
    }

    /// Since it began, another connection of the same consumer may have been acknowledged.
    fn has_done_with(&self, number: u64) -> bool {
        self.seat.as_ref().is_some_and(|seat| number <= seat.told.borrow().mark)
    }

    /// Takes note of what was acknowledged.
    fn hear(&mut self) {
        let Some(seat) = &mut self.seat else { return };
        let mark = seat.told.borrow_and_update().mark;
        let done = self.unacked.partition_point(|number| *number <= mark);
        if done > 0 {
            self.unacked.drain(..done);
            let done = done as u64;
            self.hose
                .tally
                .note(|counts| (counts.acked, counts.unacked) = (counts.acked + done, counts.unacked - done));
            self.silent_since = Instant::now();
        }
    }

    async fn take_turn(&mut self) -> Result<(), Why> {
        let turns = [self.connection.bearer.pace.as_ref(), self.pace.as_ref()];
        let Some(turn) = turns.into_iter().flatten().map(Pace::turn).max() else { return Ok(()) };
        while turn > Instant::now() {
            self.flush().await?;
            self.pause(sleep_until(turn)).await?;
        }
        Ok(())
    }

    /// Waits for something, for an acknowledgement or for the time to say that we are there.
    async fn pause(&mut self, something: impl Future<Output = ()>) -> Result<(), Why> {
        let ack_timeout = self.hose.ack_timeout();
        let silent_at = (!self.unacked.is_empty()).then(|| self.silent_since + ack_timeout);
        let heartbeat_at = self.spoken_at + self.heartbeat;
        tokio::select! {
            () = something => {}
            () = acknowledged(self.seat.as_mut()) => self.hear(),
            () = at(silent_at) => return Err(Why::Silent(ack_timeout)),
            () = sleep_until(heartbeat_at) => self.beat().await?,
        }
        Ok(())
    }

    /// There was nothing to say for a while: says so, and where the reader stands if nothing of the last was for it.
    async fn beat(&mut self) -> Result<(), Why> {
        let here = self.next - 1;
        if let Some(seat) = self.seat.as_ref().filter(|_| self.unacked.is_empty())
            && seat.told.borrow().mark < here
        {
            let mark = self.hose.log.set_mark(&seat.name, self.epoch, here).await?;
            self.hose.seats.marked(&seat.name, mark);
        }
        match self.shown < here {
            true => {
                let cursor = self.cursor(here);
                self.form.cursor(&mut self.buffer, cursor);
                self.shown = here;
            }
            false => self.form.heartbeat(&mut self.buffer),
        }
        self.flush().await
    }

    /// Hands over what there is, when there is room for it.
    async fn flush(&mut self) -> Result<(), Why> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        self.hose.tally.note(|counts| counts.sent_bytes += bytes.len() as u64);
        let patience = if self.seat.is_some() { self.hose.ack_timeout() } else { Duration::MAX };
        match timeout(patience, self.out.send(bytes)).await {
            Ok(Ok(())) => self.spoken_at = Instant::now(),
            Ok(Err(_)) => return Err(Why::Left),
            // Who does not read does not acknowledge either.
            Err(_elapsed) => return Err(Why::Silent(patience)),
        }
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.hear();
        let rest = self.unacked.len() as u64;
        self.hose
            .tally
            .note(|counts| (counts.returned, counts.unacked) = (counts.returned + rest, counts.unacked - rest));
    }
}

/// How many are missing, if these numbers were all given.
pub fn counted(missed: u64) -> Option<u64> {
    Some(missed).filter(|missed| *missed < NUMBERS_SKIPPED)
}

async fn taken(told: Option<watch::Receiver<Told>>) {
    match told {
        Some(mut told) => _ = told.wait_for(|told| told.is_over).await,
        None => pending().await,
    }
}

async fn acknowledged(seat: Option<&mut Seat>) {
    if let Some(seat) = seat
        && seat.told.changed().await.is_ok()
    {
        return;
    }
    // Nobody sits there, or another does, which ends this connection elsewhere.
    pending().await
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
