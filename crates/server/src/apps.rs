//! The tenants: who they are, what they may do, and what they use just now.
//!
//! Readers take a snapshot without waiting; a reload puts another in its place. An [`App`] once handed out does not
//! change, so whoever keeps one sees it as it was: ask again ([`Apps::by_ix`]) where a reload is to be noticed.
//!
//! Always true:
//! - an [`AppIx`] means one app for the life of the process, and is not used again after it;
//! - all snapshots of an app share one [`Usage`], so a reload forgets no connection.
//!
//! Not here: where the settings come from (`config`), and closing the connections of an app that went (`app`).

use crate::config::{AppSettings, Config, Key, Retention, Secret};
use crate::doors::Doors;
use crate::leases::Lease;
use crate::limits::{PublishRate, RetryAfter, Window};
use crate::rollout;
use arc_swap::ArcSwap;
use fanfare_hub::{HistoryRule, Idempotency, Keep};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// An app's number within this process: what connections and mails carry in the place of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppIx(pub u32);

/// One app as it was when asked for: its settings (read through it, as in `app.client_events`) and its usage.
#[derive(Debug)]
pub struct App {
    /// Its number in this process.
    pub ix: AppIx,
    /// What it uses just now; shared with every other snapshot of it.
    pub usage: Arc<Usage>,
    settings: AppSettings,
}

impl Deref for App {
    type Target = AppSettings;

    fn deref(&self) -> &AppSettings {
        &self.settings
    }
}

impl App {
    /// The secret that belongs to one of its keys.
    pub fn secret(&self, key: &str) -> Option<&Secret> {
        let pair = self.keys.iter().find(|pair| &*pair.key == key)?;
        Some(&pair.secret)
    }

    /// The pair that signs what this server sends.
    pub fn first_key(&self) -> &Key {
        self.keys.first().expect("the configuration gives every app a key")
    }

    /// Whether a connection from a page of this origin is welcome. Only browsers name one, and cannot leave it out.
    pub fn origin_allowed(&self, origin: Option<&str>) -> bool {
        self.allowed_origins.is_empty()
            || origin.is_none_or(|origin| self.allowed_origins.iter().any(|rule| rule.matches(origin)))
    }

    /// Whether a slow subscriber of the channel keeps the newest publications instead of being closed.
    pub fn keeps_newest(&self, channel: &str) -> bool {
        self.keep_newest.iter().any(|pattern| pattern.matches(channel))
    }

    /// What is kept of the channel's publications; `None`: nothing.
    pub fn history_rule(&self, channel: &str) -> Option<Retention> {
        match self.history.iter().find(|rule| rule.channels.matches(channel)) {
            Some(rule) => rule.retention,
            None => Some(Retention::default()),
        }
    }

    /// What is remembered of an event on the channel. `cache`: it is a cache channel.
    pub fn keep(&self, channel: &str, cache: bool) -> Keep {
        let app_bytes_max = self.limits.history_bytes_max;
        let rule = match self.history_rule(channel) {
            Some(Retention { messages, bytes, ttl }) => HistoryRule { messages, bytes, ttl, app_bytes_max },
            None => HistoryRule::NOTHING,
        };
        Keep { history: Some(rule), newest: cache.then_some(Duration::from_secs(self.limits.cache_ttl_s.into())) }
    }

    /// How a repeat of a publication with this key is known; `None`: the app does not look for repeats.
    pub fn idempotency(&self, key: &Arc<str>) -> Option<Idempotency> {
        let window = Duration::from_secs(self.idempotency_s.into());
        (!window.is_zero()).then(|| Idempotency { key: key.clone(), window })
    }

    /// Counts one more connection, unless the app has as many as it may.
    pub fn connect(&self) -> bool {
        self.usage.connect(self)
    }

    /// Counts publications against the app's rate, all of them or none.
    pub async fn publish(&self, n: u32, now_ms: u64) -> Result<(), RetryAfter> {
        let rate_per_s = self.limits.publishes_per_s;
        match self.usage.lease.lessor() {
            Some(lessor) if rate_per_s > 0 => self.usage.lease.publish(&**lessor, self, n, now_ms).await,
            _ => self.usage.publishes.take(n, now_ms, rate_per_s),
        }
    }
}

/// What an app uses on this node just now.
#[derive(Debug)]
pub struct Usage {
    /// What its publications in flight may hold in memory.
    pub window: Window,
    /// The same for its client events.
    pub client_event_window: Window,
    /// What the other nodes leave to this one.
    pub lease: Lease,
    /// What its visitors were told of its rollout.
    pub rollout: rollout::Answers,
    /// What was published.
    pub doors: Doors,
    connections: AtomicU32,
    publishes: PublishRate,
}

impl Default for Usage {
    fn default() -> Usage {
        Usage {
            connections: AtomicU32::new(0),
            publishes: PublishRate::default(),
            lease: Lease::default(),
            rollout: rollout::Answers::default(),
            doors: Doors::default(),
            window: Window::for_publishes(),
            client_event_window: Window::for_client_events(),
        }
    }
}

impl Usage {
    /// Connections open now.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Uncounts a connection that [`App::connect`] counted.
    pub fn disconnect(&self) {
        let before = self.connections.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a connection was uncounted twice");
    }

    /// Nothing else is ordered by the count, hence `Relaxed`; the limit holds as the addition is conditional.
    fn connect(&self, app: &App) -> bool {
        let limit = app.limits.connections_max;
        let connections_max = limit.min(self.lease.connections_max());
        let room = |now: u32| (limit == 0 || now < connections_max).then(|| now + 1);
        let counted = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        if limit > 0 {
            self.lease.connected(app, counted.map(|before| connections_max - before - 1).ok());
        }
        counted.is_ok()
    }
}

/// All apps. Cheap to clone; clones see the same reloads.
#[derive(Debug, Clone)]
pub struct Apps(Arc<ArcSwap<Snapshot>>);

impl Apps {
    /// The apps of a configuration, numbered in its order.
    pub fn new(config: &Config) -> Apps {
        let (snapshot, _) = Snapshot::default().reloaded(&config.apps);
        Apps(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// The app that has this key among its pairs, enabled or not.
    pub fn by_key(&self, key: &str) -> Option<Arc<App>> {
        self.0.load().by_key.get(key).cloned()
    }

    /// The app of this id, enabled or not.
    pub fn by_id(&self, id: &str) -> Option<Arc<App>> {
        self.0.load().by_id.get(id).cloned()
    }

    /// The app of this number, as it is now; `None` once a reload has removed it.
    pub fn by_ix(&self, ix: AppIx) -> Option<Arc<App>> {
        self.0.load().by_ix.get(&ix).cloned()
    }

    /// Every app, by number.
    pub fn all(&self) -> Vec<Arc<App>> {
        let mut all: Vec<_> = self.0.load().by_ix.values().cloned().collect();
        all.sort_by_key(|app| app.ix);
        all
    }

    /// Puts the apps of a new configuration in the place of the old, known again by their ids.
    pub fn reload(&self, config: &Config) -> Changed {
        let mut changed = Changed::default();
        self.0.rcu(|now| {
            let (snapshot, difference) = now.reloaded(&config.apps);
            changed = difference;
            snapshot
        });
        changed
    }
}

/// What a reload did. Each app is in one list at most; those that stayed as they were are in none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// New ones.
    pub added: Vec<AppIx>,
    /// Other settings than before.
    pub changed: Vec<AppIx>,
    /// Gone: their connections are to be closed.
    pub removed: Vec<AppIx>,
    /// Switched off: their connections are to be closed.
    pub disabled: Vec<AppIx>,
}

#[derive(Debug, Default)]
struct Snapshot {
    by_key: HashMap<Arc<str>, Arc<App>>,
    by_id: HashMap<Arc<str>, Arc<App>>,
    by_ix: HashMap<AppIx, Arc<App>>,
    /// The next number to give out.
    next_ix: u32,
}

impl Snapshot {
    fn reloaded(&self, apps: &[AppSettings]) -> (Snapshot, Changed) {
        let mut next = Snapshot { next_ix: self.next_ix, ..Snapshot::default() };
        let mut changed = Changed::default();
        for settings in apps {
            let app = self.successor(settings, &mut next.next_ix, &mut changed);
            next.insert(Arc::new(app));
        }
        let gone = self.by_ix.keys().filter(|ix| !next.by_ix.contains_key(ix));
        changed.removed = gone.copied().collect();
        changed.removed.sort();
        (next, changed)
    }

    /// The app that these settings make of the one with the same id, or a new one.
    fn successor(&self, settings: &AppSettings, next_ix: &mut u32, changed: &mut Changed) -> App {
        let (ix, usage) = match self.by_id.get(&settings.id) {
            Some(old) => {
                if let Some(list) = changed.list_for(&old.settings, settings) {
                    list.push(old.ix);
                }
                (old.ix, old.usage.clone())
            }
            None => {
                let ix = AppIx(*next_ix);
                *next_ix += 1;
                changed.added.push(ix);
                (ix, Arc::default())
            }
        };
        App { ix, usage, settings: settings.clone() }
    }

    fn insert(&mut self, app: Arc<App>) {
        for pair in &app.keys {
            self.by_key.insert(pair.key.clone(), app.clone());
        }
        self.by_id.insert(app.id.clone(), app.clone());
        self.by_ix.insert(app.ix, app);
    }
}

impl Changed {
    fn list_for(&mut self, old: &AppSettings, new: &AppSettings) -> Option<&mut Vec<AppIx>> {
        match old {
            _ if old.enabled && !new.enabled => Some(&mut self.disabled),
            _ if old != new => Some(&mut self.changed),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_config;
    use std::time::Duration;

    fn app(id: &str, more: &str) -> String {
        format!("[[apps]]\nid = \"{id}\"\nkeys = [{{ key = \"k{id}\", secret = \"s{id}\" }}]\n{more}\n")
    }

    fn config(apps: &[String]) -> Config {
        test_config(&apps.concat())
    }

    #[test]
    fn an_app_is_found_by_key_id_and_number() {
        let apps = Apps::new(&config(&[app("1", ""), app("2", "")]));
        let two = apps.by_key("k2").expect("configured");
        assert_eq!((&*two.id, two.ix), ("2", AppIx(1)));
        assert_eq!(apps.by_id("2").map(|app| app.ix), Some(two.ix));
        assert_eq!(apps.by_ix(two.ix).map(|app| app.id.clone()), Some("2".into()));
        assert!(apps.by_key("k3").is_none() && apps.by_id("3").is_none() && apps.by_ix(AppIx(2)).is_none());
        assert_eq!(apps.all().len(), 2);
    }

    #[test]
    fn every_pair_of_an_app_is_good() {
        let rotated = "[[apps]]\nid = 1\nkeys = [{ key = \"new\", secret = \"n\" }, { key = \"old\", secret = \"o\" }]";
        let apps = Apps::new(&test_config(rotated));
        let app = apps.by_key("old").expect("configured");
        assert_eq!(app.secret("new").map(Secret::as_bytes), Some(&b"n"[..]));
        assert_eq!(app.secret("old").map(Secret::as_bytes), Some(&b"o"[..]));
        assert_eq!(app.secret("other"), None);
        assert_eq!(&*app.first_key().key, "new");
    }

    #[test]
    fn a_reload_says_what_changed_and_keeps_numbers_and_usage() {
        let apps = Apps::new(&config(&[app("1", ""), app("2", ""), app("3", ""), app("4", "")]));
        let kept = apps.by_id("2").expect("configured");
        assert!(kept.connect());

        let after = [app("5", ""), app("2", "client_events = true"), app("3", "enabled = false"), app("4", "")];
        let changed = apps.reload(&config(&after));
        let expected = Changed {
            added: vec![AppIx(4)],
            changed: vec![AppIx(1)],
            removed: vec![AppIx(0)],
            disabled: vec![AppIx(2)],
        };
        assert_eq!(changed, expected);

        let now = apps.by_id("2").expect("still there");
        assert!(now.client_events && !kept.client_events);
        assert_eq!((now.ix, now.usage.connections()), (kept.ix, 1));
        assert!(apps.by_key("k1").is_none());
        assert!(!apps.by_key("k3").expect("disabled, not gone").enabled);
    }

    #[test]
    fn a_number_is_not_used_again() {
        let apps = Apps::new(&config(&[app("1", "")]));
        apps.reload(&config(&[app("2", "")]));
        apps.reload(&config(&[app("1", "")]));
        assert_eq!(apps.by_id("1").map(|app| app.ix), Some(AppIx(2)));
        assert_eq!(apps.reload(&config(&[app("1", "")])), Changed::default());
    }

    #[test]
    fn an_app_takes_as_many_connections_as_it_may() {
        let apps = Apps::new(&config(&[app("1", "limits = { connections_max = 2 }")]));
        let app = apps.by_id("1").expect("configured");
        assert!(app.connect() && app.connect() && !app.connect());
        app.usage.disconnect();
        assert!(app.connect());
        assert_eq!(app.usage.connections(), 2);
    }

    #[tokio::test]
    async fn a_raised_publish_rate_holds_for_the_same_bucket() {
        let apps = Apps::new(&config(&[app("1", "limits = { publishes_per_s = 2 }")]));
        let publish = async |n| apps.by_id("1").expect("configured").publish(n, 0).await;
        assert_eq!(publish(2).await, Ok(()));
        assert_eq!(publish(1).await, Err(RetryAfter { ms: 500 }));
        apps.reload(&config(&[app("1", "limits = { publishes_per_s = 3 }")]));
        assert_eq!(publish(1).await, Ok(()));
    }

    #[test]
    fn channels_that_keep_the_newest_are_named_or_begin_alike() {
        let apps = Apps::new(&config(&[app("1", "keep_newest = [\"ticker\", \"price-*\"]")]));
        let app = apps.by_id("1").expect("configured");
        assert!(app.keeps_newest("ticker") && app.keeps_newest("price-eur"));
        assert!(!app.keeps_newest("ticker-2") && !app.keeps_newest("prices"));
    }

    #[test]
    fn the_first_history_rule_that_fits_decides() {
        let rules = "[[apps.history]]\nchannels = \"live-1\"\nenabled = false\n\
                     [[apps.history]]\nchannels = \"live-*\"\nmessages = 7\nseconds = 5\n";
        let app = Apps::new(&config(&[app("1", rules)])).by_id("1").expect("configured");
        assert_eq!(app.history_rule("live-1"), None);
        let seven = Retention { messages: 7, ttl: Duration::from_secs(5), ..Retention::default() };
        assert_eq!(app.history_rule("live-2"), Some(seven));
        assert_eq!(app.history_rule("other"), Some(Retention::default()));
    }

    #[test]
    fn origins_are_asked_of_browsers_only() {
        let apps = Apps::new(&config(&[app("1", "allowed_origins = [\"*.example.com\"]"), app("2", "")]));
        let strict = apps.by_id("1").expect("configured");
        assert!(strict.origin_allowed(Some("https://www.example.com")));
        assert!(!strict.origin_allowed(Some("https://example.org")));
        assert!(!strict.origin_allowed(Some("null")));
        assert!(strict.origin_allowed(None));
        assert!(apps.by_id("2").expect("configured").origin_allowed(Some("https://example.org")));
    }
}
