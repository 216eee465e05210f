//! Whose turn it is: channels with something to show, in fair turns between apps.

use std::collections::VecDeque;

/// Active channels by app. An app gets one channel's slice per round, whatever it has waiting.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    round: VecDeque<u32>,
    channels: Vec<VecDeque<u32>>,
    len: usize,
}

impl Rotation {
    pub fn push(&mut self, app: u32, channel: u32) {
        let index = app as usize;
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, VecDeque::new);
        }
        if self.channels[index].is_empty() {
            self.round.push_back(app);
        }
        self.channels[index].push_back(channel);
        self.len += 1;
    }

    /// The next channel; its app goes to the end of the round.
    pub fn pop(&mut self) -> Option<u32> {
        let app = self.round.pop_front()?;
        let queue = &mut self.channels[app as usize];
        let channel = queue.pop_front()?;
        if !queue.is_empty() {
            self.round.push_back(app);
        }
        self.len -= 1;
        Some(channel)
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
