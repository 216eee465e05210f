//! What a log may lack, by the words that publications are known by: their publishers may post them again.
//!
//! Always true: while a word is being written, or after that failed, whoever posts it again finds out.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Words that are remembered because they are missing. Beyond it, the oldest are forgotten.
const OWED_MAX: usize = 16_384;

/// The words of one log.
#[derive(Debug, Default)]
pub struct Owed(Mutex<Words>);

#[derive(Debug, Default)]
struct Words {
    writing: HashMap<Arc<str>, watch::Receiver<bool>>,
    /// With their places in the order in which they came.
    missing: HashMap<Arc<str>, u64>,
    order: BTreeMap<u64, Arc<str>>,
    last: u64,
}

/// What the log has of a publication that is posted again.
#[derive(Debug)]
pub enum Had {
    /// All that there is to it.
    Written,
    /// Perhaps, once this has ended.
    Writing(Writing),
    /// Nothing.
    Missing,
}

/// Something that is being written.
#[derive(Debug)]
pub struct Writing(watch::Receiver<bool>);

/// What is written at once. Unless it is said to be done, its words are missing when it is dropped.
#[derive(Debug)]
pub struct Write<'o> {
    owed: &'o Owed,
    words: Vec<Arc<str>>,
    is_done: watch::Sender<bool>,
}

impl Owed {
    /// What there is of this.
    pub fn had(&self, word: &str) -> Had {
        let words = self.words();
        match words.writing.get(word) {
            Some(writing) => Had::Writing(Writing(writing.clone())),
            None if words.missing.contains_key(word) => Had::Missing,
            None => Had::Written,
        }
    }

    /// Nobody knows of this whether it was published.
    pub fn add(&self, word: Arc<str>) {
        self.words().add(word);
    }

    /// Begins to write.
    pub fn write(&self) -> Write<'_> {
        Write { owed: self, words: Vec::new(), is_done: watch::Sender::new(false) }
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Words {
    fn add(&mut self, word: Arc<str>) {
        if self.missing.contains_key(&word) {
            return;
        }
        self.last += 1;
        self.missing.insert(word.clone(), self.last);
        self.order.insert(self.last, word);
        while self.order.len() > OWED_MAX {
            let (_, oldest) = self.order.pop_first().expect("there are some");
            self.missing.remove(&oldest);
        }
    }

    fn remove(&mut self, word: &str) {
        if let Some(place) = self.missing.remove(word) {
            self.order.remove(&place);
        }
    }
}

impl Writing {
    /// Ends when it is written, or failed; whether it is.
    pub async fn ends_well(mut self) -> bool {
        self.0.wait_for(|is_done| *is_done).await.is_ok()
    }
}

impl Write<'_> {
    /// Writes this, too.
    pub fn add(&mut self, word: Arc<str>) {
        self.owed.words().writing.insert(word.clone(), self.is_done.subscribe());
        self.words.push(word);
    }

    /// It is written.
    pub fn done(self) {
        self.is_done.send_replace(true);
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let (mut words, is_done) = (self.owed.words(), *self.is_done.borrow());
        let own = self.is_done.subscribe();
        for word in self.words.drain(..) {
            // One whose window has passed may be written anew meanwhile.
            if words.writing.get(&word).is_some_and(|writing| writing.same_channel(&own)) {
                words.writing.remove(&word);
            }
            if is_done { words.remove(&word) } else { words.add(word) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_missing(owed: &Owed, word: &str) -> bool {
        matches!(owed.had(word), Had::Missing)
    }

    #[tokio::test]
    async fn what_failed_is_missing_until_it_is_written() {
        let owed = Owed::default();
        for _ in 0..2 {
            let mut failed = owed.write();
            failed.add("a".into());
            let Had::Writing(writing) = owed.had("a") else { panic!("it is being written") };
            drop(failed);
            assert!(!writing.ends_well().await && is_missing(&owed, "a"));
        }
        let mut write = owed.write();
        write.add("a".into());
        let Had::Writing(writing) = owed.had("a") else { panic!("it is being written") };
        write.done();
        assert!(writing.ends_well().await && matches!(owed.had("a"), Had::Written));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let owed = Owed::default();
        (0..=OWED_MAX).for_each(|n| owed.add(n.to_string().into()));
        assert!(!is_missing(&owed, "0") && is_missing(&owed, "1"));
        owed.words().remove("1");
        owed.add("more".into());
        assert!(is_missing(&owed, "2") && is_missing(&owed, "more"));
    }
}
