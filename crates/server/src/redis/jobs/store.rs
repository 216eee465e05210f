//! A job store in Redis: one script for each verb, on one unit.
//!
//! Always true:
//! - leases and delays end by the server's clock, whatever those of the nodes say: durations are sent, and what comes back
//!   to a worker is in its own node's time. What is listed is in the server's;
//! - a verb without an answer may have been done: names make a put, and leases the other verbs, safe to repeat.
//!
//! What is due is done in slices, so that no verb keeps the server busy: where more than a slice is due at once, some jobs come
//! back a verb or a sweep later than their time. The job that a verb is about is never later than that verb.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_jobs::{
    Cancel, Claim, Claimed, Counts, Entry, Failure, Job, JobId, JobStore, Kind, Lease, Limits, Page, Phase, Put, Query,
    Spec, State, StoreError, Totals,
};
use redis::Value;
use tokio::sync::watch;

use crate::redis::assurance::Assurance;
use crate::redis::presence::Answer;
use crate::redis::{Redis, Script, UnitIx};

/// Jobs that one call claims at most.
const CLAIM_MAX: usize = 256;

/// What all numbers are below, as scripts reckon with doubles.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// A script that changes a queue. Those that make no room for others go on when the server's memory is full.
macro_rules! changing {
    ($name:ident, $first:literal, $file:literal) => {
        static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                $first,
                include_str!("../scripts/jobs.lua"),
                include_str!("../scripts/jobs_change.lua"),
                include_str!($file)
            ))
        });
    };
}

changing!(PUT, "#!lua\n", "../scripts/jobs_put.lua");
changing!(CLAIM, "#!lua flags=allow-oom\n", "../scripts/jobs_claim.lua");
changing!(VERB, "#!lua flags=allow-oom\n", "../scripts/jobs_verbs.lua");
changing!(SWEEP, "#!lua flags=allow-oom\n", "../scripts/jobs_sweep.lua");

static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua flags=no-writes,allow-oom\n",
        include_str!("../scripts/jobs.lua"),
        include_str!("../scripts/jobs_look.lua")
    ))
});

/// The jobs of one queue.
pub(super) struct RedisStore {
    redis: Redis,
    name: Box<str>,
    unit: UnitIx,
    /// As the scripts list them; the channel of the news is the last.
    keys: Vec<Vec<u8>>,
    limits: Mutex<Limits>,
    /// Without one, the server's word is enough.
    assurance: Option<Arc<Assurance>>,
    /// Only the contract wants the other clock.
    servers_clock: bool,
    wakes: watch::Sender<()>,
}

impl RedisStore {
    /// The queue of this full name.
    pub(super) fn new(
        redis: Redis,
        unit: UnitIx,
        name: &str,
        limits: Limits,
        assurance: Option<Arc<Assurance>>,
    ) -> RedisStore {
        const PARTS: [&str; 9] = ["meta", "rows", "data", "states", "ends", "ready", "order", "names", "news"];
        let keys = PARTS.iter().map(|part| redis.key(unit, &format!("q:{name}:{part}"))).collect();
        let (limits, wakes) = (Mutex::new(limits), watch::Sender::new(()));
        RedisStore { redis, name: name.into(), unit, keys, limits, assurance, servers_clock: true, wakes }
    }

    /// The same by the clock that its callers name.
    #[cfg(test)]
    pub(super) fn by_callers_clock(self) -> RedisStore {
        RedisStore { servers_clock: false, ..self }
    }

    /// Its full name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The channel of its news.
    pub(super) fn news(&self) -> &[u8] {
        self.keys.last().expect("it has keys")
    }

    /// Where it is.
    pub(super) fn unit(&self) -> UnitIx {
        self.unit
    }

    /// Whether the server keeps what it answers for, as far as this queue needs that.
    pub(super) async fn is_assured(&self) -> Result<(), StoreError> {
        match &self.assurance {
            Some(assurance) => assurance.check().await.map_err(StoreError::Unavailable),
            None => Ok(()),
        }
    }

    /// A job may have become one that can be claimed.
    pub(super) fn wake(&self) {
        self.wakes.send_replace(());
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, script: &Script, now_ms: u64, args: Vec<Vec<u8>>) -> Result<Value, StoreError> {
        let time = if self.servers_clock { Vec::new() } else { number(now_ms) };
        let mut all = vec![time, number(self.limits().attempts_max.into())];
        all.extend(args);
        let called = self.redis.call(self.unit, script, &self.keys, &all).await;
        called.map_err(|error| StoreError::Unavailable(error.to_string().into()))
    }

    async fn look(&self, what: &str, args: Vec<Vec<u8>>) -> Result<Value, StoreError> {
        let mut all = vec![what.into()];
        all.extend(args);
        self.call(&LOOK, 0, all).await
    }

    /// A verb about one job; what the job is now.
    async fn change(&self, verb: &str, id: JobId, args: Vec<Vec<u8>>, now_ms: u64) -> Result<State, StoreError> {
        let mut all = vec![verb.into(), place(id.0)];
        all.extend(args);
        let answer: String = text(self.call(&VERB, now_ms, all).await?)?;
        match &*answer {
            "UNKNOWN" => Err(StoreError::Unknown(id)),
            "LOST" => Err(StoreError::LeaseLost(id)),
            "NOT_STALLED" => Err(StoreError::NotStalled(id)),
            letter => state(letter).ok_or_else(misread),
        }
    }

    /// Takes a few jobs; returns whether there may be more.
    async fn claim_some(&self, claim: &Claim, now_ms: u64, claimed: &mut Claimed) -> Result<bool, StoreError> {
        let asked = (claim.jobs_max - claimed.jobs.len()).min(CLAIM_MAX);
        let args = vec![number(asked as u64), number(claim.lease_ms), claim.owner.as_bytes().to_vec()];
        let mut answer = read(Answer::of(self.call(&CLAIM, now_ms, args).await?))?;
        let theirs_ms = read(answer.number())?;
        let here = |ms: u64| now_ms.saturating_add(ms.saturating_sub(theirs_ms));
        claimed.next_ms = read(answer.optional(Answer::number))?.map(here);
        let entries = entries(read(answer.list())?)?;
        let n = entries.len();
        for Entry { job, phase, .. } in entries {
            let Phase::Claimed { lease, .. } = phase else { return Err(misread()) };
            claimed.jobs.push((job, Lease { until_ms: here(lease.until_ms), ..lease }));
        }
        Ok(n == asked && claimed.jobs.len() < claim.jobs_max)
    }
}

#[async_trait]
impl JobStore for RedisStore {
    async fn put(&self, specs: Vec<Spec>, now_ms: u64) -> Result<Vec<Put>, StoreError> {
        self.is_assured().await?;
        let Limits { jobs_max, bytes_max, .. } = *self.limits();
        let mut args = vec![number(jobs_max as u64), number(bytes_max as u64)];
        args.extend(specs.into_iter().flat_map(|spec| written(spec, now_ms)));
        let Value::Array(ids) = self.call(&PUT, now_ms, args).await? else {
            return Err(StoreError::Full { jobs_max, bytes_max });
        };
        self.is_assured().await?;
        let put = |id| match id {
            Value::Int(id) if id < 0 => Ok(Put::Known(JobId(id.unsigned_abs()))),
            Value::Int(id) => Ok(Put::New(JobId(id.unsigned_abs()))),
            _ => Err(misread()),
        };
        ids.into_iter().map(put).collect()
    }

    async fn claim(&self, claim: Claim, now_ms: u64) -> Result<Claimed, StoreError> {
        let mut claimed = Claimed::default();
        loop {
            match self.claim_some(&claim, now_ms, &mut claimed).await {
                Ok(true) => {}
                Err(error) if claimed.jobs.is_empty() => return Err(error),
                Ok(false) | Err(_) => return Ok(claimed),
            }
        }
    }

    async fn extend(&self, lease: Lease, until_ms: u64, now_ms: u64) -> Result<Lease, StoreError> {
        let args = vec![number(lease.number), number(until_ms.saturating_sub(now_ms))];
        self.change("extend", lease.job, args, now_ms).await?;
        Ok(Lease { until_ms, ..lease })
    }

    async fn finish(&self, lease: Lease, result: Bytes, now_ms: u64) -> Result<(), StoreError> {
        self.change("finish", lease.job, vec![number(lease.number), result.into()], now_ms).await?;
        Ok(())
    }

    async fn cancel(&self, lease: Lease, cancel: Cancel, now_ms: u64) -> Result<State, StoreError> {
        let mut args = vec![number(lease.number)];
        let verb = match cancel {
            Cancel::Failed { retry_at_ms, failure } => {
                args.extend(left_behind(failure));
                args.push(number(retry_at_ms.saturating_sub(now_ms)));
                "cancel"
            }
            Cancel::Released { progress } => {
                args.push(optional(progress.as_deref()));
                "release"
            }
        };
        self.change(verb, lease.job, args, now_ms).await
    }

    async fn stall(&self, lease: Lease, failure: Failure, now_ms: u64) -> Result<(), StoreError> {
        let [reason, progress] = left_behind(failure);
        self.change("stall", lease.job, vec![number(lease.number), reason, progress], now_ms).await?;
        Ok(())
    }

    async fn retry(&self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.change("retry", id, Vec::new(), now_ms).await?;
        Ok(())
    }

    async fn retract(&self, id: JobId, now_ms: u64) -> Result<(), StoreError> {
        self.change("retract", id, Vec::new(), now_ms).await?;
        Ok(())
    }

    async fn find(&self, id: JobId) -> Result<Entry, StoreError> {
        match self.look("find", vec![place(id.0)]).await? {
            Value::Nil => Err(StoreError::Unknown(id)),
            found => entry(read(Answer::of(found))?),
        }
    }

    async fn list(&self, query: Query) -> Result<Page, StoreError> {
        let Query { state, since_ms, attempt_min, key, after, limit } = query;
        let behind = after.map_or((0, 0), |(since_ms, JobId(id))| (since_ms, id.saturating_add(1)));
        let (from, to) = (behind.max((since_ms.start, 0)), (since_ms.end, 0));
        if from >= to || limit == 0 {
            return Ok(Page::default());
        }
        let member = |(since_ms, id)| [letter(state).as_bytes(), &place(since_ms), &place(id)].concat();
        let (attempt_min, limit) = (number(attempt_min.into()), number(limit as u64));
        let key = optional(key.as_deref().map(str::as_bytes));
        let args = vec![member(from), member(to), attempt_min, key, limit];
        let mut answer = read(Answer::of(self.look("list", args).await?))?;
        let next = read(answer.optional(Answer::text))?;
        let next = next.map(|next| place_of(&next).ok_or_else(misread)).transpose()?;
        Ok(Page { entries: entries(read(answer.list())?)?, next })
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        let mut answer = read(Answer::of(self.look("counts", Vec::new()).await?))?;
        let mut next = || read(answer.number());
        let [waiting, delayed, claimed, stalled, kept, bytes] = [next()?, next()?, next()?, next()?, next()?, next()?];
        let mut totals = [0; Totals::COUNT];
        for total in &mut totals {
            *total = next()?;
        }
        let totals = Totals::from_array(totals);
        let waiting_since_ms = read(answer.optional(Answer::number))?;
        let clock_ms = Some(read(answer.number())?).filter(|_| self.servers_clock);
        Ok(Counts { waiting, delayed, claimed, stalled, kept, bytes, waiting_since_ms, clock_ms, totals })
    }

    /// Also wakes those who wait, where there is something to claim: the news of it may have been lost.
    async fn sweep(&self, now_ms: u64) -> Result<(), StoreError> {
        let Limits { kept_ms, kept_max, .. } = *self.limits();
        loop {
            let args = vec![number(kept_ms), number(kept_max as u64)];
            let mut answer = read(Answer::of(self.call(&SWEEP, now_ms, args).await?))?;
            let (more, ready) = (read(answer.number())?, read(answer.number())?);
            if ready > 0 {
                self.wake();
            }
            if more == 0 {
                return Ok(());
            }
        }
    }

    fn set_limits(&self, limits: Limits) {
        *self.limits() = limits;
    }

    fn wakes(&self) -> watch::Receiver<()> {
        self.wakes.subscribe()
    }
}

/// A job to be put, as the script takes it in.
fn written(spec: Spec, now_ms: u64) -> [Vec<u8>; 7] {
    let Spec { kind, key, idempotency_key, priority, not_before_ms, data } = spec;
    [
        kind.as_str().into(),
        number(priority.into()),
        number(not_before_ms.saturating_sub(now_ms)),
        number(not_before_ms),
        optional(key.as_deref().map(str::as_bytes)),
        optional(idempotency_key.as_deref().map(str::as_bytes)),
        data.into(),
    ]
}

fn left_behind(failure: Failure) -> [Vec<u8>; 2] {
    [failure.reason.into_string().into(), failure.progress.into()]
}

fn number(n: u64) -> Vec<u8> {
    n.min(NUMBER_MAX).to_string().into()
}

/// A number whose order is also that of the text.
fn place(n: u64) -> Vec<u8> {
    format!("{:016}", n.min(NUMBER_MAX)).into()
}

/// Two such numbers: since when a job is in its state, and its own.
fn place_of(member: &str) -> Option<(u64, JobId)> {
    let (since_ms, id) = member.split_at_checked(16)?;
    Some((since_ms.parse().ok()?, JobId(id.parse().ok()?)))
}

fn optional(bytes: Option<&[u8]>) -> Vec<u8> {
    bytes.map_or_else(Vec::new, |bytes| [b"+", bytes].concat())
}

/// As the scripts call it.
fn letter(state: State) -> &'static str {
    &state.as_str()[..1]
}

fn state(called: &str) -> Option<State> {
    State::ALL.into_iter().find(|state| letter(*state) == called)
}

fn entries(mut answer: Answer) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    while !answer.is_empty() {
        entries.push(entry(read(answer.list())?)?);
    }
    Ok(entries)
}

/// A job, as `described` in the scripts has it.
fn entry(mut answer: Answer) -> Result<Entry, StoreError> {
    let optional =
        |answer: &mut Answer| read(answer.optional(Answer::text)).map(|text| text.map(String::into_boxed_str));
    let id = JobId(read(answer.number())?);
    let state = state(&read(answer.text())?).ok_or_else(misread)?;
    let [since_ms, until_ms, lease, attempt, put_ms, not_before_ms, priority] = [
        read(answer.number())?,
        read(answer.number())?,
        read(answer.number())?,
        read(answer.number())?,
        read(answer.number())?,
        read(answer.number())?,
        read(answer.number())?,
    ];
    let kind = Kind::parse(&read(answer.text())?).ok_or_else(misread)?;
    let (key, idempotency_key) = (optional(&mut answer)?, optional(&mut answer)?);
    let owner = read(answer.text())?.into();
    let progress = read(answer.bytes())?.into();
    let reason = read(answer.text())?.into();
    let result = read(answer.bytes())?.into();
    let data = read(answer.bytes())?.into();
    let phase = match state {
        State::Waiting => Phase::Waiting,
        State::Delayed => Phase::Delayed { until_ms },
        State::Claimed => Phase::Claimed { lease: Lease { job: id, number: lease, until_ms }, owner },
        State::Finished => Phase::Finished { result },
        State::Stalled => Phase::Stalled,
    };
    let (attempt, priority) = (u32::try_from(attempt).unwrap_or(u32::MAX), u8::try_from(priority).unwrap_or(u8::MAX));
    let spec = Spec { kind, key, idempotency_key, priority, not_before_ms, data };
    Ok(Entry { job: Job { id, attempt, put_ms, progress, spec }, phase, since_ms, reason })
}

fn text(value: Value) -> Result<String, StoreError> {
    redis::from_redis_value(value).map_err(|_| misread())
}

fn read<T>(read: Result<T, fanfare_hub::StoreError>) -> Result<T, StoreError> {
    read.map_err(|_| misread())
}

fn misread() -> StoreError {
    StoreError::Unavailable("the Redis server answered what this version does not understand".into())
}
