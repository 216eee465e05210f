//! Apps' limits over all nodes: each app has a home unit, which grants nodes shares.
//!
//! A node looks every 100 ms at the apps that have a limit, and tells of those that need something: one script for each unit.
//! An app that rests costs nothing. Before a share of connections is used up the node asks at once, and where others hold what
//! they do not use, the unit calls on them to give it back.
//!
//! Always true: the shares of an app's connections are never more than its limit together, unless the limit was lowered or a
//! node that was taken for dead is back.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_hub::StoreError;
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::presence::{Answer, RedisPresence, unavailable};
use super::{CallError, PUBLISH, Script, UnitIx};
use crate::apps::{App, Apps};
use crate::leases::{Lessor, Wish};
use crate::limits::RetryAfter;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// What comes within it is asked for together.
const GATHER: Duration = Duration::from_millis(5);

static LIMITS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        "#!lua flags=allow-oom\n",
        include_str!("scripts/presence.lua"),
        include_str!("scripts/limits.lua")
    ))
});

/// The limits that nodes share; cheap to clone.
#[derive(Clone)]
pub struct RedisLimits(Arc<Inner>);

struct Inner {
    /// This node, as others know it.
    node: RedisPresence,
    apps: Apps,
    /// Apps of which others want what this node does not use, or this node wants more.
    urgent: Mutex<HashSet<Arc<str>>>,
    bell: Notify,
}

/// What a unit is told about an app, and what of that it answered last.
struct Report {
    app: Arc<App>,
    used: u32,
    wish: Wish,
    leftover: u32,
}

impl RedisLimits {
    /// To be told what the links hear.
    pub fn new(node: RedisPresence, apps: Apps) -> RedisLimits {
        RedisLimits(Arc::new(Inner { node, apps, urgent: Mutex::default(), bell: Notify::new() }))
    }

    /// Has this node's first shares granted, and then looks after them.
    pub async fn start(&self) -> Result<(), CallError> {
        try_join_all(self.redis().units().map(|unit| self.redis().subscribe(unit, self.channel(unit)))).await?;
        self.look().await;
        tokio::spawn(self.clone().run());
        Ok(())
    }

    /// The unit serves again, and may have forgotten what was granted.
    pub fn up(&self, unit: UnitIx) {
        let apps = self.0.apps.all();
        self.urgent().extend(apps.iter().filter(|app| self.home(app) == unit).map(|app| app.id.clone()));
    }

    /// A message on a channel of the unit; whether it was about limits.
    pub fn message(&self, unit: UnitIx, channel: &[u8], payload: &[u8]) -> bool {
        let ours = channel == self.channel(unit);
        if ours && let Ok(app) = std::str::from_utf8(payload) {
            self.hurry(app.into());
        }
        ours
    }

    fn hurry(&self, app: Arc<str>) {
        if self.urgent().insert(app) {
            self.0.bell.notify_one();
        }
    }

    fn urgent(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        // A set is sound between any two statements, so a poisoned lock tells nothing.
        self.0.urgent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn redis(&self) -> &super::Redis {
        &self.0.node.redis
    }

    fn channel(&self, unit: UnitIx) -> Vec<u8> {
        self.redis().key(unit, "scarce")
    }

    fn home(&self, app: &App) -> UnitIx {
        self.redis().unit_of(&app.id, "#limits")
    }

    async fn run(self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.0.bell.notified() => sleep(GATHER).await,
            }
            self.look().await;
        }
    }

    /// Tells every unit of its apps that need something.
    async fn look(&self) {
        let urgent = std::mem::take(&mut *self.urgent());
        let reports: Vec<_> = self.0.apps.all().into_iter().filter_map(|app| report(app, &urgent)).collect();
        let by_unit = self.redis().units().map(|unit| {
            let (of_unit, _): (Vec<_>, Vec<_>) = reports.iter().partition(|report| self.home(&report.app) == unit);
            async move {
                if !of_unit.is_empty() && self.exchange(unit, &of_unit).await.is_err() {
                    // What was granted last holds; ask again at the next look.
                    self.urgent().extend(of_unit.iter().map(|report| report.app.id.clone()));
                }
            }
        });
        join_all(by_unit).await;
    }

    async fn exchange(&self, unit: UnitIx, reports: &[&Report]) -> Result<(), StoreError> {
        let mut acts = Vec::new();
        for Report { app, used, wish, leftover } in reports {
            acts.extend(act('c', app, app.limits.connections_max, [*used, wish.wanted, 0]));
            if *leftover > 0 {
                acts.extend(act('t', app, app.limits.publishes_per_s, [*leftover, 0, 0]));
            }
        }
        let mut answers = self.call(unit, acts).await?;
        let lessor: Arc<dyn Lessor> = Arc::new(self.clone());
        for Report { app, leftover, .. } in reports {
            let mut answer = answers.list()?;
            let granted = u32::try_from(answer.number()?).unwrap_or(u32::MAX);
            let nodes = u32::try_from(answer.number()?.max(1)).unwrap_or(u32::MAX);
            app.usage.lease.begin(&lessor, granted, app.limits.publishes_per_s / nodes);
            if *leftover > 0 {
                answers.list()?;
            }
        }
        Ok(())
    }

    async fn call(&self, unit: UnitIx, acts: Vec<Vec<u8>>) -> Result<Answer, StoreError> {
        let mut args = vec![self.channel(unit), PUBLISH.as_bytes().to_vec()];
        args.extend(acts);
        Answer::of(self.0.node.call(unit, &LIMITS, args).await.map_err(unavailable)?)
    }
}

/// What is to be told of the app; nothing where it rests or has no limit.
fn report(app: Arc<App>, urgent: &HashSet<Arc<str>>) -> Option<Report> {
    let (usage, limits) = (&app.usage, &app.limits);
    if limits.connections_max == 0 && limits.publishes_per_s == 0 {
        return None;
    }
    let begun = usage.lease.lessor().is_some();
    let wish = usage.lease.wish();
    let leftover = if usage.lease.is_publishing() { usage.lease.leftover() } else { 0 };
    let used = usage.connections();
    let moved = usage.lease.told(used) || (limits.connections_max > 0 && used >= wish.granted);
    let needs = !begun || moved || wish.wanted > 0 || leftover > 0 || urgent.contains(&app.id);
    needs.then_some(Report { used, wish, leftover, app })
}

fn act(kind: char, app: &App, limit: u32, figures: [u32; 3]) -> [Vec<u8>; 6] {
    let [a, b, c] = figures.map(|figure| figure.to_string());
    [kind.to_string(), app.id.to_string(), limit.to_string(), a, b, c].map(String::into_bytes)
}

#[async_trait]
impl Lessor for RedisLimits {
    fn more(&self, app: &App) {
        self.hurry(app.id.clone());
    }

    async fn take(&self, app: &App, n: u32, ahead: u32) -> Option<Result<u32, RetryAfter>> {
        let acts = act('t', app, app.limits.publishes_per_s, [0, n, ahead]).into();
        let taken = async {
            let mut answer = self.call(self.home(app), acts).await?.list()?;
            Ok::<_, StoreError>((answer.number()? == 1, answer.number()?))
        };
        match taken.await.ok()? {
            (true, more) => Some(Ok(u32::try_from(more).unwrap_or(u32::MAX))),
            (false, ms) => Some(Err(RetryAfter { ms })),
        }
    }
}
