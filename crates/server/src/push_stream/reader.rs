//! One subscriber's view of its channels: what it missed, then what comes.
//!
//! Always true: a message is read once. What was published between the subscribing and the reading of the history may stand in
//! both, and is known by its position.

use std::collections::VecDeque;
use std::sync::Arc;

use fanfare_hub::{BrokerError, ChannelKey, Form, Frames, Since, StreamPosition};

use super::PushStream;
use super::asked::{Mark, Start, skipped};
use super::clock::Moment;
use super::refusal::Refused;
use super::switchboard::{Deletion, Message, News, Subscription};

/// A channel to read, and how many of its newest messages come first.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The channel.
    pub key: ChannelKey,
    /// 0 = as the start says.
    pub backtrack: usize,
}

/// A subscriber, subscribed.
pub struct Reader {
    subscription: Subscription,
    channels: Vec<Followed>,
    /// What came before all channels were open.
    early: VecDeque<News>,
}

struct Followed {
    key: ChannelKey,
    /// What stands at or before this has been read from the history.
    read_to: Option<StreamPosition>,
}

/// What a reader hears.
pub enum Heard {
    /// The next message.
    Message(Message),
    /// A channel is gone; `last`: it was the only one left.
    Deleted {
        /// What is told of it.
        deletion: Arc<Deletion>,
        /// Whether there is nothing left to read.
        last: bool,
    },
    /// There will be nothing more: the broker is away.
    End,
}

impl Reader {
    /// Waits until everything that is published from now on will be heard.
    pub async fn open(subscription: Subscription, wanted: &[Wanted]) -> Result<Reader, Refused> {
        let channels = wanted.iter().map(|wanted| Followed { key: wanted.key.clone(), read_to: None }).collect();
        let mut reader = Reader { subscription, channels, early: VecDeque::new() };
        let mut closed = wanted.len();
        while closed > 0 {
            match reader.subscription.next().await {
                News::Opened => closed -= 1,
                News::Refused => return Err(Refused::Broker(BrokerError::Unavailable)),
                news @ News::Deleted(_) => {
                    // It would have been opened, had it stayed.
                    closed -= 1;
                    reader.early.push_back(news);
                }
                news => reader.early.push_back(news),
            }
        }
        Ok(reader)
    }

    /// What is stored and the subscriber has not seen, channel by channel.
    pub async fn missed(
        &mut self,
        face: &PushStream,
        wanted: &[Wanted],
        start: &Start,
        form: Form,
    ) -> Result<Vec<Message>, Refused> {
        let mut missed = Vec::new();
        for (followed, wanted) in self.channels.iter_mut().zip(wanted) {
            if wanted.backtrack > 0 || *start != Start::default() {
                let (messages, end) = stored(face, wanted, start, form).await?;
                missed.extend(messages);
                followed.read_to = Some(end);
            }
        }
        Ok(missed)
    }

    /// The next thing that it hears.
    pub async fn next(&mut self) -> Heard {
        loop {
            let news = match self.early.pop_front() {
                Some(news) => news,
                None => self.subscription.next().await,
            };
            match news {
                News::Published(message) if self.is_news(&message) => return Heard::Message(message),
                News::Published(_) | News::Opened => {}
                News::Deleted(deletion) => {
                    self.channels.retain(|followed| followed.key != deletion.key);
                    return Heard::Deleted { deletion, last: self.channels.is_empty() };
                }
                News::Refused => return Heard::End,
            }
        }
    }

    /// Returns once messages were dropped because the subscriber reads too slowly: it is to be closed.
    pub async fn too_slow(&self) {
        self.subscription.too_slow().await;
    }

    fn is_news(&self, message: &Message) -> bool {
        let followed = self.channels.iter().find(|followed| followed.key == message.key);
        match (followed.and_then(|followed| followed.read_to), message.position) {
            (Some(read), Some(this)) => read.epoch != this.epoch || read.offset < this.offset,
            _ => true,
        }
    }
}

/// A channel's stored messages behind the start, and where its stream ends.
pub async fn stored(
    face: &PushStream,
    wanted: &Wanted,
    start: &Start,
    form: Form,
) -> Result<(Vec<Message>, StreamPosition), Refused> {
    let history = face.hub.history(&wanted.key, &Since::Last(u32::MAX), usize::MAX).await?;
    let marks = history.publications.iter().map(|stored| {
        let Moment { time_s, tag } = Moment::of(&stored.publication);
        Mark { time_s, tag, event_id: stored.publication.event_id.as_deref() }
    });
    let skipped = skipped(marks, wanted.backtrack, start);
    let rest = history.publications.into_iter().skip(skipped);
    let messages = rest.filter_map(|stored| {
        let frames = Frames::new(wanted.key.clone(), stored.publication, Some(stored.mark), face.encoder.clone());
        Message::of(&frames, form)
    });
    Ok((messages.collect(), history.now.position))
}
