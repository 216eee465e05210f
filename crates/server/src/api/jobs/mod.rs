//! Queues over HTTP: what the application's servers put there, and what workers anywhere do with it.
//!
//! Always true:
//! - a put is answered when its jobs are where the queue keeps them, all of them or none;
//! - an answer holds a bounded number of bytes, however large the jobs are;
//! - a refusal names the job and the key that are wrong, and what was expected.
//!
//! | file | what it is |
//! |---|---|
//! | `asked` | what requests say |
//! | `told` | what they are answered |
//!
//! Not here: what a verb does to a job (`fanfare_jobs`), and how workers wait (`queues`).

mod asked;
mod told;

use std::sync::Arc;

use bytes::Bytes;
use fanfare_jobs::{Cancel, Entry, JobId, Put, Query, StoreError};
use fanfare_proto::json::BadObject;
use fanfare_proto::sign::SignedQuery;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::{Method, Response, StatusCode};
use serde::Serialize;

use self::asked::{BadField, Filter, LIST_MAX};
use super::Answer;
use super::error::Refused;
use super::route::{OfJob, OfQueue};
use crate::apps::App;
use crate::body::BadBody;
use crate::queues::{Queue, Queues, SLICE, SLICES_BYTES};

/// Why a queue or a job is left alone.
#[derive(Debug, thiserror::Error)]
pub enum BadJobs {
    /// No such queue.
    #[error("there is no queue {name:?}: {known}")]
    UnknownQueue {
        /// As it was sent.
        name: String,
        /// Those that there are, in words.
        known: String,
    },
    /// Not the object that was expected.
    #[error("the body: {bad}; expected {expected}")]
    Body {
        /// What is wrong with it.
        bad: BadObject,
        /// An example.
        expected: &'static str,
    },
    /// One job of a put is not the object that was expected; nothing of the put was taken.
    #[error("job {at}: {bad}")]
    Job {
        /// From 0.
        at: usize,
        /// What is wrong with it.
        bad: BadObject,
    },
    /// A value is not what its key takes.
    #[error(transparent)]
    Field(#[from] BadField),
    /// Its jobs are none of the workers'.
    #[error("pipelines of this server work on the queue {0}: nobody else claims its jobs")]
    Piped(Arc<str>),
    /// The store says no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BadJobs {
    /// What its sender may do about it.
    pub fn status(&self) -> StatusCode {
        match self {
            BadJobs::UnknownQueue { .. } | BadJobs::Store(StoreError::Unknown(_)) => StatusCode::NOT_FOUND,
            BadJobs::Body { .. } | BadJobs::Job { .. } | BadJobs::Field(_) => StatusCode::BAD_REQUEST,
            BadJobs::Piped(_) | BadJobs::Store(StoreError::LeaseLost(_) | StoreError::NotStalled(_)) => {
                StatusCode::CONFLICT
            }
            BadJobs::Store(StoreError::Full { .. } | StoreError::Unavailable(_)) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        Refused::Jobs(error.into())
    }
}

impl From<BadField> for Refused {
    fn from(bad: BadField) -> Refused {
        Refused::Jobs(bad.into())
    }
}

/// `GET /queues`
pub async fn queues(queues: &Queues, app: &App) -> Answer {
    #[derive(Serialize)]
    struct All {
        queues: Vec<told::Queue>,
    }
    let mut all = Vec::new();
    for queue in queues.of_app(&app.id) {
        all.push(told::Queue::of(&queue, queue.store.counts().await?));
    }
    Ok(super::ok(&All { queues: all }))
}

/// The queue of this name.
pub fn queue(queues: &Queues, app: &App, name: &str) -> Result<Arc<Queue>, BadJobs> {
    queues.find(&app.id, name).ok_or_else(|| {
        let known: Vec<_> = app.queues.iter().map(|queue| &*queue.name).collect();
        let known = match known.as_slice() {
            [] => "this app has none ([[apps.queues]] in fanfare.toml)".to_owned(),
            names => format!("this app has {}", names.join(", ")),
        };
        BadJobs::UnknownQueue { name: name.to_owned(), known }
    })
}

/// A request about one queue.
pub struct Call<'a> {
    /// The queue.
    pub queue: Arc<Queue>,
    /// One that the resource answers to.
    pub method: &'a Method,
    /// Verified.
    pub query: &'a SignedQuery<'a>,
    /// Read whole.
    pub body: &'a [u8],
}

impl Call<'_> {
    /// Answers it.
    pub async fn answer(&self, of: OfQueue) -> Answer {
        match (of, self.method) {
            (OfQueue::Counts, _) => self.counts().await,
            (OfQueue::Jobs, &Method::POST) => self.put().await,
            (OfQueue::Jobs, _) => self.list().await,
            (OfQueue::Claim, _) => self.claim().await,
            (OfQueue::RetryMany, _) => self.retry_many().await,
            (OfQueue::Job(id, OfJob::Entry), &Method::DELETE) => self.retract(id).await,
            (OfQueue::Job(id, OfJob::Entry), _) => self.show(id).await,
            (OfQueue::Job(id, OfJob::Extend), _) => self.extend(id).await,
            (OfQueue::Job(id, OfJob::Finish), _) => self.finish(id).await,
            (OfQueue::Job(id, OfJob::Cancel), _) => self.cancel(id).await,
            (OfQueue::Job(id, OfJob::Release), _) => self.release(id).await,
            (OfQueue::Job(id, OfJob::Stall), _) => self.stall(id).await,
            (OfQueue::Job(id, OfJob::Retry), _) => self.retry(id).await,
        }
    }

    fn text(&self) -> Result<&str, BadBody> {
        crate::body::text(self.body)
    }

    fn now_ms(&self) -> u64 {
        self.queue.now_ms()
    }

    async fn counts(&self) -> Answer {
        Ok(super::ok(&told::Queue::of(&self.queue, self.queue.store.counts().await?)))
    }

    async fn put(&self) -> Answer {
        #[derive(Serialize)]
        struct Ids {
            ids: Vec<u64>,
        }
        let mut specs = asked::put(self.text()?)?;
        // 0 is no time at all.
        for spec in specs.iter_mut().filter(|spec| spec.not_before_ms > 0) {
            spec.not_before_ms = self.queue.clock().of_machine(spec.not_before_ms);
        }
        let put = self.queue.put(specs).await?;
        let mut response = super::ok(&Ids { ids: put.into_iter().map(Put::id).map(|JobId(id)| id).collect() });
        *response.status_mut() = StatusCode::ACCEPTED;
        Ok(response)
    }

    /// Whoever claims is the queue's worker.
    async fn claim(&self) -> Answer {
        let settings = self.queue.settings();
        if settings.piped {
            return Err(Refused::Jobs(BadJobs::Piped(settings.name.clone())));
        }
        let (claim, wait) = asked::claim(self.text()?, &settings)?;
        let held = self.queue.claim(claim, wait).await?;
        // From here to the socket nothing waits: whoever was there to be answered is answered.
        let mut jobs = held.hand_over();
        for (_, lease) in &mut jobs {
            lease.until_ms = self.queue.clock().to_machine(lease.until_ms);
        }
        Ok(super::ok(&told::Claimed::of(&jobs)))
    }

    async fn extend(&self, id: JobId) -> Answer {
        #[derive(Serialize)]
        struct Extended {
            until_ms: u64,
        }
        let (lease, lease_ms) = asked::extend(self.text()?, id, &self.queue.settings())?;
        let now_ms = self.now_ms();
        let lease = self.queue.store.extend(lease, now_ms + lease_ms, now_ms).await?;
        Ok(super::ok(&Extended { until_ms: self.queue.clock().to_machine(lease.until_ms) }))
    }

    async fn finish(&self, id: JobId) -> Answer {
        let (lease, result) = asked::finish(self.text()?, id)?;
        self.queue.store.finish(lease, result, self.now_ms()).await?;
        Ok(super::empty_object())
    }

    async fn cancel(&self, id: JobId) -> Answer {
        #[derive(Serialize)]
        struct Cancelled {
            state: &'static str,
        }
        let (lease, delay_ms, failure) = asked::cancel(self.text()?, id)?;
        let now_ms = self.now_ms();
        let failed = Cancel::Failed { retry_at_ms: now_ms + delay_ms, failure };
        let state = self.queue.store.cancel(lease, failed, now_ms).await?;
        Ok(super::ok(&Cancelled { state: state.as_str() }))
    }

    async fn release(&self, id: JobId) -> Answer {
        let (lease, release) = asked::release(self.text()?, id)?;
        self.queue.store.cancel(lease, release, self.now_ms()).await?;
        Ok(super::empty_object())
    }

    async fn stall(&self, id: JobId) -> Answer {
        let (lease, failure) = asked::stall(self.text()?, id)?;
        self.queue.store.stall(lease, failure, self.now_ms()).await?;
        Ok(super::empty_object())
    }

    async fn retry(&self, id: JobId) -> Answer {
        asked::nothing(self.text()?)?;
        self.queue.store.retry(id, self.now_ms()).await?;
        Ok(super::empty_object())
    }

    async fn retract(&self, id: JobId) -> Answer {
        self.queue.store.retract(id, self.now_ms()).await?;
        Ok(super::empty_object())
    }

    async fn show(&self, id: JobId) -> Answer {
        Ok(super::ok(&told::Entry::of(&self.queue.store.find(id).await?)))
    }

    /// All that match now; those that fail again meanwhile are not tried again.
    async fn retry_many(&self) -> Answer {
        #[derive(Serialize)]
        struct Retried {
            retried: usize,
        }
        let filter = Filter::written(self.text()?)?;
        let now_ms = self.queue.store.counts().await?.clock_ms.unwrap_or_else(|| self.now_ms());
        let (mut query, mut retried) = (filter.stalled(now_ms), 0);
        loop {
            let page = self.queue.store.list(query.clone()).await?;
            // At once, so that they share what it costs to keep them.
            let retries = page.entries.iter().map(|entry| self.queue.store.retry(entry.job.id, self.now_ms()));
            for outcome in join_all(retries).await {
                match outcome {
                    Ok(()) => retried += 1,
                    // Somebody was faster.
                    Err(StoreError::NotStalled(_) | StoreError::Unknown(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                return Ok(super::ok(&Retried { retried }));
            }
        }
    }

    async fn list(&self) -> Result<Response<Full<Bytes>>, Refused> {
        let mut query = asked::list(self.query)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let limit = query.limit;
        debug_assert!(limit <= LIST_MAX);
        loop {
            let slice = Query { limit: (limit - entries.len()).min(SLICE), ..query.clone() };
            let page = self.queue.store.list(slice).await?;
            bytes += page.entries.iter().map(Entry::bytes).sum::<usize>();
            let looked_in_vain = page.entries.is_empty();
            entries.extend(page.entries);
            query.after = page.next;
            // A page may have looked far and found nothing: the next request goes on from there.
            if query.after.is_none() || entries.len() == limit || bytes >= SLICES_BYTES || looked_in_vain {
                return Ok(super::ok(&told::Listed::of(&entries, query.after)));
            }
        }
    }
}
