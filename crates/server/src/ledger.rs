//! The ledger: where every message is, and whether one is missing.
//!
//! Every part counts for itself what comes in, goes out, is dropped, fails or is here. Each second all of it is read, and
//! compared: each part with itself, and with the next. Where the sums part, the first such step is named in the log, in
//! metrics and in `GET /ledger`. Nothing here is asked for by whatever handles messages.
//!
//! Always true:
//! - counting begins with the process: what was in a queue then comes in at its beginning;
//! - what has been published and delivered is known across restarts, but for the last seconds before a crash.
//!
//! | file | what it is |
//! |---|---|
//! | `look` | all counts of one moment, in their order |
//! | `check` | whether they agree |
//! | `minutes` | what they were in the last hour |
//! | `life` | what outlives the process |
//! | `report`, `text` | what is said of it, for programs and for people |

mod check;
mod life;
mod look;
mod minutes;
pub mod report;
#[cfg(test)]
mod tests;
pub mod text;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::check::{Checks, first_parted};
use self::life::Kept;
use self::look::Look;
pub use self::look::Sources;
use self::minutes::Minutes;
use self::report::{Life, Parted, Report};
use crate::queues::Clock;

/// How often the sums are compared.
const EVERY: Duration = Duration::from_secs(1);

/// Between the two looks that are compared: longer than a turn of a loop takes.
const MOMENT: Duration = Duration::from_millis(50);

/// How often what outlives the process is written, if there is something new: so many looks.
const KEEP_EVERY: u64 = 5;

/// The ledger; cheap to clone.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    sources: Sources,
    kept: Kept,
    /// Of earlier processes.
    before: Life,
    /// Minutes are as long as they should be, whoever sets the machine's clock.
    clock: Clock,
    since_ms: u64,
    book: Mutex<Book>,
    end: watch::Sender<bool>,
}

/// What has been found so far.
#[derive(Default)]
struct Book {
    checks: Checks,
    look: Look,
    now_ms: u64,
    compared: usize,
    parted: Option<Parted>,
    minutes: Minutes,
    written: Life,
    /// Whether it is known that this cannot be written: it is said once.
    unwritable: bool,
}

impl Ledger {
    /// Begins to count. `life`: the file of what outlives the process. Must be called on the runtime.
    pub fn start(sources: Sources, life: Option<PathBuf>) -> Ledger {
        let (kept, clock) = (Kept::at(life), Clock::start());
        let since_ms = clock.now_ms();
        let before = kept.read();
        let book = Book { now_ms: since_ms, written: before, ..Book::default() };
        let (book, end) = (Mutex::new(book), watch::Sender::new(false));
        let ended = end.subscribe();
        let ledger = Ledger(Arc::new(Inner { sources, kept, before, clock, since_ms, book, end }));
        tokio::spawn(ledger.clone().run(ended));
        ledger
    }

    /// Whatever counts.
    pub fn sources(&self) -> &Sources {
        &self.0.sources
    }

    /// Compares no more, and keeps what is to be kept.
    pub async fn stop(&self) {
        self.0.end.send_replace(true);
        self.0.end.closed().await;
    }

    /// What there is to say, with so many of the last minutes.
    pub fn report(&self, minutes: usize) -> Report {
        let book = self.book();
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since_ms: self.0.since_ms,
            now_ms: book.now_ms,
            life: self.life_of(&book),
            compared: book.compared,
            parted: book.parted.clone(),
            chain: book.look.chain.clone(),
            minutes: book.minutes.last(minutes, &book.look, book.now_ms),
        }
    }

    async fn run(self, mut ended: watch::Receiver<bool>) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for looks in 1_u64.. {
            tokio::select! {
                () = async { every.tick().await; self.compare().await } => {}
                _ = ended.wait_for(|ended| *ended) => break,
            }
            if looks.is_multiple_of(KEEP_EVERY) {
                self.keep().await;
            }
        }
        let done = self.0.sources.done();
        self.book().look.done = done;
        self.keep().await;
    }

    async fn compare(&self) {
        // What is several nodes' is not compared, and so asked for once.
        let first = self.0.sources.look(false).await;
        sleep(MOMENT).await;
        let mut second = self.0.sources.look(true).await;
        let mut book = self.book();
        book.compared = book.checks.compare(&first, &mut second);
        let parted = first_parted(&second.chain);
        tell(book.parted.as_ref(), parted.as_ref());
        (book.parted, book.look, book.now_ms) = (parted, second, self.0.clock.now_ms());
        let Book { minutes, look, now_ms, .. } = &mut *book;
        minutes.note(look, *now_ms, self.0.since_ms);
    }

    async fn keep(&self) {
        let life = {
            let book = self.book();
            self.life_of(&book)
        };
        if life == self.book().written {
            return;
        }
        let kept = self.0.kept.clone();
        let written = tokio::task::spawn_blocking(move || kept.write(&life)).await;
        match written.expect("writing a file does not panic") {
            Ok(()) => {
                let mut book = self.book();
                (book.written, book.unwritable) = (life, false);
            }
            Err(error) => {
                if !std::mem::replace(&mut self.book().unwritable, true) {
                    tracing::warn!(%error, "what was delivered is not written down");
                }
            }
        }
    }

    fn life_of(&self, book: &Book) -> Life {
        let (before, done) = (self.0.before, book.look.done);
        Life {
            published: before.published.saturating_add(done.published),
            delivered: before.delivered.saturating_add(done.delivered),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Once when the sums part, and once when they meet again.
fn tell(before: Option<&Parted>, now: Option<&Parted>) {
    match (before, now) {
        (None, Some(Parted { at, difference })) => {
            tracing::warn!(
                at,
                missing = difference,
                "the ledger does not balance: this is the first step where sums part"
            );
        }
        (Some(before), Some(now)) if before.at != now.at => {
            tracing::warn!(at = now.at, missing = now.difference, "the ledger does not balance: sums part here, too");
        }
        (Some(_), None) => tracing::info!("the ledger balances again"),
        _ => {}
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("since_ms", &self.0.since_ms).finish_non_exhaustive()
    }
}
