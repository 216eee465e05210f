//! Which tokens have been taken back, and for how long that has to be remembered.

use super::{Claims, LEEWAY_S};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// Revocations on a node, of all apps together: 20 MB at most. Beyond it a revocation is refused, as forgetting an
/// earlier one would let somebody in again.
const REVOCATIONS_MAX: usize = 100_000;

/// Bytes of a `jti` or `sub` that can be revoked.
const NAME_LEN_MAX: usize = 200;

/// Fewer entries than this cost nothing to keep.
const LOOK_THROUGH_MIN: usize = 1000;

const DAY_S: u64 = 24 * 60 * 60;

/// How long a token stays refused of which it is not known when it expires.
const TOKEN_S: u64 = 30 * DAY_S;

/// How long a user's earlier tokens stay refused.
const USER_S: u64 = DAY_S;

/// Whose tokens are taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// One token, by its `jti`.
    Token(Arc<str>),
    /// All that a user has now, by their `sub`; those that say they were made later (`iat`) are good.
    User(Arc<str>),
}

/// Why nothing was revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRevocation {
    /// No token is called this.
    #[error("jti or sub must have 1 to {NAME_LEN_MAX} bytes, this one has {found}")]
    Name {
        /// Bytes in it.
        found: usize,
    },
    /// The table is full.
    #[error("{REVOCATIONS_MAX} revocations are remembered already: make tokens that live shorter")]
    TooMany,
    /// The others could not be told.
    #[error("revoked on this node, and the others could not be told: ask again")]
    Unshared,
}

/// What is remembered, by app.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    apps: HashMap<Box<str>, OfApp>,
    len: usize,
    /// How many there may be before those that have expired are looked for again: twice what the last look left.
    look_through_at: usize,
}

#[derive(Debug, Default)]
struct OfApp {
    tokens: HashMap<Arc<str>, Entry>,
    users: HashMap<Arc<str>, Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    at_s: u64,
    until_s: u64,
}

/// A revocation as it is written down.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    app: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Cow<'a, str>>,
    at_s: u64,
    until_s: u64,
}

impl Revocations {
    /// Reads what [`Self::lines`] and [`Self::add`] wrote; what is no whole line is left out.
    pub(super) fn restored(text: &str, now_s: u64) -> Revocations {
        let mut revocations = Revocations::default();
        for line in text.lines() {
            revocations.learn(line, now_s);
        }
        revocations
    }

    /// Takes in a line that was written here or elsewhere. `false`: it tells nothing new, or is no line.
    pub(super) fn learn(&mut self, line: &str, now_s: u64) -> bool {
        let Ok(line) = serde_json::from_str::<Line>(line) else { return false };
        let whose = match (line.jti, line.sub) {
            (Some(jti), None) => Whose::Token(jti.into()),
            (None, Some(sub)) => Whose::User(sub.into()),
            _ => return false,
        };
        let room = line.until_s > now_s && self.len < REVOCATIONS_MAX;
        room && self.put(&line.app, whose, Entry { at_s: line.at_s, until_s: line.until_s })
    }

    /// All of them, each as a line.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.apps.iter().flat_map(|(app, of_app)| {
            let tokens = of_app.tokens.iter().map(|(jti, entry)| entry.line(app, &Whose::Token(jti.clone())));
            let users = of_app.users.iter().map(|(sub, entry)| entry.line(app, &Whose::User(sub.clone())));
            tokens.chain(users)
        })
    }

    /// Whether the app's token that says this has been taken back.
    pub(super) fn covers(&self, app: &str, claims: &Claims, now_s: u64) -> bool {
        let Some(of_app) = self.apps.get(app) else { return false };
        let token = claims.jti.as_deref().and_then(|jti| of_app.tokens.get(jti));
        let user = claims.sub.as_deref().and_then(|sub| of_app.users.get(sub));
        let user = user.filter(|entry| claims.iat_s <= entry.at_s);
        [token, user].into_iter().flatten().any(|entry| now_s < entry.until_s)
    }

    /// Adds one, and returns its line.
    pub(super) fn add(
        &mut self,
        app: &str,
        whose: Whose,
        exp_s: Option<u64>,
        now_s: u64,
    ) -> Result<String, BadRevocation> {
        let (name, default_s) = match &whose {
            Whose::Token(jti) => (jti, TOKEN_S),
            Whose::User(sub) => (sub, USER_S),
        };
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(BadRevocation::Name { found: name.len() });
        }
        if self.len >= REVOCATIONS_MAX {
            return Err(BadRevocation::TooMany);
        }
        let until_s = exp_s.unwrap_or(now_s + default_s).saturating_add(LEEWAY_S);
        let entry = Entry { at_s: now_s, until_s };
        let line = entry.line(app, &whose);
        self.put(app, whose, entry);
        Ok(line)
    }

    /// Whether this is news. Of two about the same, what either covers is covered: they may come in any order.
    fn put(&mut self, app: &str, whose: Whose, entry: Entry) -> bool {
        let of_app = self.apps.entry(app.into()).or_default();
        let (names, name) = match whose {
            Whose::Token(jti) => (&mut of_app.tokens, jti),
            Whose::User(sub) => (&mut of_app.users, sub),
        };
        let Some(known) = names.get_mut(&name) else {
            names.insert(name, entry);
            self.len += 1;
            return true;
        };
        let both = Entry { at_s: known.at_s.max(entry.at_s), until_s: known.until_s.max(entry.until_s) };
        std::mem::replace(known, both) != both
    }

    /// Forgets what has expired, which needs no refusal of its own. `false`: there are too few for a look.
    pub(super) fn make_room(&mut self, now_s: u64) -> bool {
        if self.len < self.look_through_at.max(LOOK_THROUGH_MIN) {
            return false;
        }
        let mut len = 0;
        self.apps.retain(|_, of_app| {
            of_app.tokens.retain(|_, entry| entry.until_s > now_s);
            of_app.users.retain(|_, entry| entry.until_s > now_s);
            let left = of_app.tokens.len() + of_app.users.len();
            len += left;
            left > 0
        });
        self.len = len;
        self.look_through_at = (2 * len).min(REVOCATIONS_MAX);
        true
    }
}

impl Entry {
    fn line(&self, app: &str, whose: &Whose) -> String {
        let (jti, sub) = match whose {
            Whose::Token(jti) => (Some(Cow::from(&**jti)), None),
            Whose::User(sub) => (None, Some(Cow::from(&**sub))),
        };
        let line = Line { app: app.into(), jti, sub, at_s: self.at_s, until_s: self.until_s };
        serde_json::to_string(&line).expect("text and numbers have a JSON form")
    }
}
