//! Who of an app's visitors is to have a feed: some percent of them by a stable hash, lists, and a switch that ends it.
//!
//! Pure functions of the settings and of who asks. So nothing is kept, and all nodes with one configuration answer alike,
//! before and after a restart.
//!
//! Always true:
//! - who is in at some percent is in at every higher one; who is shown at some share of dark is shown at every lower one;
//! - the switch beats the lists, and `deny` beats `allow`.
//!
//! Not here: who may read what. A visitor says itself who it is, so this steers load and features and protects nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fanfare_proto::sign::hmac_digest;
use serde::{Serialize, Serializer};

/// Millionths: as fine as a percent with four decimals.
const WHOLE: u32 = 1_000_000;

/// For how long caches may keep an answer, as a part of `check_again_s`, and in seconds at most.
const CACHED_PART: u32 = 10;
const CACHED_S_MAX: u32 = 5;

/// One `[apps.rollout]`. The default lets everybody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// Nobody is in.
    pub kill: bool,
    /// How many of all are in.
    pub percent: Share,
    /// How many of those who are in receive and do not show.
    pub dark: Share,
    /// Who is hashed; `None`: the user, else the site, else the visitor.
    pub by: Option<By>,
    /// Another seed picks other people.
    pub seed: Arc<str>,
    /// In whatever their hash says.
    pub allow: Names,
    /// Out whatever their hash says.
    pub deny: Names,
    /// Within how many seconds everybody follows a change.
    pub check_again_s: u32,
}

impl Default for Rollout {
    fn default() -> Rollout {
        Rollout {
            kill: false,
            percent: Share::ALL,
            dark: Share::NONE,
            by: None,
            seed: "".into(),
            allow: Names::default(),
            deny: Names::default(),
            check_again_s: 60,
        }
    }
}

/// Whom a percentage counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Users; visitors who are no users, by their own ids.
    User,
    /// Sites: all visitors of a site are in or out together.
    Site,
}

/// A part of all, from none to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Nobody.
    pub const NONE: Share = Share(0);
    /// Everybody.
    pub const ALL: Share = Share(WHOLE);

    /// `None`: not from 0 to 100.
    pub fn of_percent(percent: f64) -> Option<Share> {
        let millionths = percent * f64::from(WHOLE / 100);
        // The cast is exact: the range is checked, and whole numbers remain.
        (0.0..=100.0).contains(&percent).then(|| Share(millionths.round() as u32))
    }

    fn percent(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE / 100)
    }

    /// What is left of this share without `other` of it.
    fn without(self, other: Share) -> Share {
        let rest = u64::from(self.0) * u64::from(WHOLE - other.0) / u64::from(WHOLE);
        Share(u32::try_from(rest).expect("less than the whole"))
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(self.percent())
    }
}

/// Users and sites, as `user:…` and `site:…`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(HashSet<Box<str>>);

impl Names {
    /// Adds an entry as it was written; `false`: it is none.
    pub fn add(&mut self, entry: &str) -> bool {
        let name = entry.strip_prefix("user:").or(entry.strip_prefix("site:"));
        let sound = name.is_some_and(|name| !name.is_empty());
        if sound {
            self.0.insert(entry.into());
        }
        sound
    }

    fn hold(&self, who: &Visitor<'_>) -> bool {
        let holds = |kind, name: Option<&str>| name.is_some_and(|name| self.0.contains(&*format!("{kind}:{name}")));
        !self.0.is_empty() && (holds("user", who.user) || holds("site", who.site))
    }
}

/// Who asks, as far as they say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Visitor<'a> {
    /// Somebody who is known to the application.
    pub user: Option<&'a str>,
    /// The site, forum or customer whose page asks.
    pub site: Option<&'a str>,
    /// What a client keeps for those who are nobody.
    pub id: Option<&'a str>,
}

/// What a visitor is told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Answer {
    /// Whether it is to connect.
    pub enabled: bool,
    /// Whether it is to receive only, and not to show.
    pub dark: bool,
    /// How many are in.
    pub percent: Share,
    /// What decided.
    pub reason: Reason,
    /// When to ask again.
    pub check_again_s: u32,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The app is switched off.
    Disabled,
    /// The switch.
    Kill,
    /// The list of those who are out.
    Deny,
    /// The list of those who are in.
    Allow,
    /// The percentage.
    Percent,
    /// Nothing was said that the percentage could be counted by.
    Unnamed,
}

impl Rollout {
    /// What this visitor of an app is told.
    pub fn answer(&self, app_id: &str, who: &Visitor<'_>) -> Answer {
        let (reason, shown) = self.decide(app_id, who);
        Answer {
            enabled: shown.is_some(),
            dark: shown == Some(false),
            percent: self.percent,
            reason,
            check_again_s: self.check_again_s - self.cached_s(),
        }
    }

    /// What everybody is told while the app is switched off.
    pub fn disabled(&self) -> Answer {
        let kill = Rollout { kill: true, ..self.clone() };
        Answer { reason: Reason::Disabled, ..kill.answer("", &Visitor::default()) }
    }

    /// For how long an answer may be kept. Clients are told to come back earlier by as much, so that `check_again_s` holds.
    pub fn cached_s(&self) -> u32 {
        (self.check_again_s / CACHED_PART).min(CACHED_S_MAX)
    }

    /// Why, and for those who are in whether they are shown what comes.
    fn decide(&self, app_id: &str, who: &Visitor<'_>) -> (Reason, Option<bool>) {
        if self.kill {
            return (Reason::Kill, None);
        }
        if self.deny.hold(who) {
            return (Reason::Deny, None);
        }
        if self.allow.hold(who) {
            return (Reason::Allow, Some(self.dark < Share::ALL));
        }
        let Some(draw) = self.draw(app_id, who) else {
            // Where all are alike, nobody needs a name.
            let alike = self.percent == Share::ALL && (self.dark == Share::NONE || self.dark == Share::ALL);
            return (Reason::Unnamed, alike.then_some(self.dark == Share::NONE));
        };
        let shown = self.percent.without(self.dark);
        (Reason::Percent, (draw < self.percent).then_some(draw < shown))
    }

    /// Where a visitor stands among all, from nothing to just below the whole; `None`: it is not said whom to count.
    fn draw(&self, app_id: &str, who: &Visitor<'_>) -> Option<Share> {
        let user = who.user.map(|name| ("user", name));
        let site = who.site.map(|name| ("site", name));
        let visitor = who.id.map(|name| ("id", name));
        let (kind, name) = match self.by {
            None => user.or(site).or(visitor),
            Some(By::User) => user.or(visitor),
            Some(By::Site) => site,
        }?;
        let digest = hmac_digest(format!("{app_id}/{}", self.seed).as_bytes(), format!("{kind}:{name}").as_bytes());
        let (first, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        let draw = u64::from_be_bytes(*first) % u64::from(WHOLE);
        Some(Share(u32::try_from(draw).expect("less than the whole")))
    }
}

/// How many answers of each kind an app's visitors were given.
#[derive(Debug, Default)]
pub struct Answers {
    on: AtomicU64,
    dark: AtomicU64,
    off: AtomicU64,
}

impl Answers {
    /// Counts one.
    pub fn count(&self, answer: &Answer) {
        let kind = match (answer.enabled, answer.dark) {
            (false, _) => &self.off,
            (true, true) => &self.dark,
            (true, false) => &self.on,
        };
        kind.fetch_add(1, Ordering::Relaxed);
    }

    /// By the names that metrics have for them.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        [("on", &self.on), ("dark", &self.dark), ("off", &self.off)].map(|(name, n)| (name, n.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Visitor<'_> {
        Visitor { user: Some(name), ..Visitor::default() }
    }

    fn percent(percent: f64) -> Share {
        Share::of_percent(percent).expect("from 0 to 100")
    }

    fn names(entries: &[&str]) -> Names {
        let mut names = Names::default();
        assert!(entries.iter().all(|entry| names.add(entry)));
        names
    }

    /// Which of 10,000 users are in, and which are shown.
    fn users(rollout: &Rollout) -> (HashSet<u32>, HashSet<u32>) {
        let answer = |n: &u32| rollout.answer("1", &user(&n.to_string()));
        let enabled: HashSet<u32> = (0..10_000).filter(|n| answer(n).enabled).collect();
        let shown = enabled.iter().copied().filter(|n| !answer(n).dark).collect();
        (enabled, shown)
    }

    #[test]
    fn who_is_in_stays_in_while_the_percentage_rises() {
        let mut before = HashSet::new();
        for share in [0.0, 0.5, 10.0, 10.25, 20.0, 50.0, 99.9, 100.0] {
            let (now, _) = users(&Rollout { percent: percent(share), ..Rollout::default() });
            let expected = share * 100.0;
            assert!((now.len() as f64 - expected).abs() <= 100.0, "{} users at {share} %", now.len());
            assert!(now.is_superset(&before), "at {share} %");
            before = now;
        }
        assert_eq!(before.len(), 10_000);
    }

    #[test]
    fn who_is_shown_stays_shown_while_less_is_dark() {
        let mut before = HashSet::new();
        for dark in [100.0, 60.0, 20.0, 0.0] {
            let (enabled, shown) =
                users(&Rollout { percent: percent(50.0), dark: percent(dark), ..Rollout::default() });
            let expected = enabled.len() as f64 * (100.0 - dark) / 100.0;
            assert!((shown.len() as f64 - expected).abs() <= 150.0, "{} shown of {}", shown.len(), enabled.len());
            assert!(shown.is_superset(&before) && enabled.is_superset(&shown));
            before = shown;
        }
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        // Another value here lets other people in wherever this is deployed.
        let draw = |rollout: &Rollout, who: Visitor<'_>| rollout.draw("1", &who).map(|share| share.0);
        let plain = Rollout::default();
        assert_eq!(draw(&plain, user("ann")), Some(947516));
        let seeded = Rollout { seed: "autumn".into(), ..Rollout::default() };
        assert_ne!(draw(&plain, user("ann")), draw(&seeded, user("ann")));
        let site = Visitor { site: Some("ann"), ..Visitor::default() };
        assert_ne!(draw(&plain, user("ann")), draw(&plain, site));
    }

    #[test]
    fn sites_are_in_or_out_as_a_whole() {
        let rollout = Rollout { by: Some(By::Site), percent: percent(50.0), ..Rollout::default() };
        for site in ["one", "two", "three", "four"] {
            let enabled = |user| rollout.answer("1", &Visitor { user, site: Some(site), id: Some("x") }).enabled;
            assert!(["a", "b", "c", "d", "e"].map(Some).iter().all(|user| enabled(*user) == enabled(None)));
        }
        let unnamed = rollout.answer("1", &user("ann"));
        assert_eq!((unnamed.enabled, unnamed.reason), (false, Reason::Unnamed));
        let all = Rollout { percent: Share::ALL, ..rollout };
        assert!(all.answer("1", &user("ann")).enabled);
    }

    #[test]
    fn lists_go_before_the_percentage_and_the_switch_before_all() {
        let rollout = Rollout {
            percent: Share::NONE,
            allow: names(&["user:ann", "user:bob", "site:blog"]),
            deny: names(&["user:bob"]),
            ..Rollout::default()
        };
        let told = |rollout: &Rollout, who: &Visitor<'_>| {
            let Answer { enabled, dark, reason, .. } = rollout.answer("1", who);
            (enabled, dark, reason)
        };
        assert_eq!(told(&rollout, &user("ann")), (true, false, Reason::Allow));
        assert_eq!(told(&rollout, &user("bob")), (false, false, Reason::Deny));
        assert_eq!(told(&rollout, &user("carl")), (false, false, Reason::Percent));
        assert_eq!(told(&rollout, &Visitor { site: Some("blog"), ..user("carl") }), (true, false, Reason::Allow));
        assert_eq!(told(&rollout, &Visitor { site: Some("ann"), ..user("blog") }), (false, false, Reason::Percent));
        let dark = Rollout { dark: Share::ALL, ..rollout.clone() };
        assert_eq!(told(&dark, &user("ann")), (true, true, Reason::Allow));
        let killed = Rollout { kill: true, ..rollout };
        assert_eq!(told(&killed, &user("ann")), (false, false, Reason::Kill));
    }

    #[test]
    fn what_caches_keep_is_taken_off_the_time_to_the_next_question() {
        for (check_again_s, cached_s) in [(1, 0), (9, 0), (30, 3), (60, 5), (3600, 5)] {
            let rollout = Rollout { check_again_s, ..Rollout::default() };
            assert_eq!(rollout.cached_s(), cached_s);
            assert_eq!(rollout.answer("1", &user("ann")).check_again_s + cached_s, check_again_s);
        }
    }

    #[test]
    fn an_entry_says_what_it_names() {
        let mut names = Names::default();
        assert!(["ann", "user:", "", "site"].iter().all(|entry| !names.add(entry)));
        assert!(names.add("user:site:x") && names.add("site: "));
    }
}
