//! Who listens to a channel of the reference, and what they may still ask for. Publications to a channel that never had a
//! subscriber are not kept.

use std::collections::VecDeque;
use std::rc::Rc;

use super::publication::Publication;
use super::request::Event;

/// One channel.
#[derive(Default)]
pub struct Channel {
    pub subscribers: Vec<usize>,
    /// Polls to be answered with the next publication.
    pub waiting: Vec<usize>,
    /// Of the newest publication.
    pub offset: u64,
    history: VecDeque<Rc<Publication>>,
}

impl Channel {
    /// Gives an event its place, and keeps it beside so many before it.
    pub fn add(&mut self, event: Event, history_max: usize) -> Rc<Publication> {
        self.offset += 1;
        let publication = Rc::new(Publication::new(self.offset, event));
        self.history.push_back(publication.clone());
        if self.history.len() > history_max {
            self.history.pop_front();
        }
        publication
    }

    /// Whether all that was published after that offset is kept.
    pub fn reaches_back_to(&self, offset: u64) -> bool {
        offset + self.history.len() as u64 >= self.offset
    }

    /// What was published after that offset, as far as it is kept; without one, nothing.
    pub fn since(&self, offset: Option<u64>) -> impl Iterator<Item = &Rc<Publication>> {
        let offset = offset.unwrap_or(self.offset);
        let missed = self.offset.saturating_sub(offset) as usize;
        self.history.range(self.history.len().saturating_sub(missed)..)
    }

    pub fn leave(&mut self, index: usize) {
        for list in [&mut self.subscribers, &mut self.waiting] {
            if let Some(at) = list.iter().position(|&other| other == index) {
                list.swap_remove(at);
            }
        }
    }
}
