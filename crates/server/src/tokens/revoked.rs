//! Which tokens have been taken back, and for how long that has to be remembered.

use super::Claims;
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

#[derive(Debug, Clone, Copy)]
struct Entry {
    at_s: u64,
    until_s: u64,
}

impl Revocations {
    /// Whether the app's token that says this has been taken back.
    pub(super) fn covers(&self, app: &str, claims: &Claims, now_s: u64) -> bool {
        let Some(of_app) = self.apps.get(app) else { return false };
        let token = claims.jti.as_deref().and_then(|jti| of_app.tokens.get(jti));
        let user = claims.sub.as_deref().and_then(|sub| of_app.users.get(sub));
        let user = user.filter(|entry| claims.iat_s <= entry.at_s);
        token.or(user).is_some_and(|entry| now_s < entry.until_s)
    }

    pub(super) fn add(&mut self, app: &str, whose: Whose, exp_s: Option<u64>, now_s: u64) -> Result<(), BadRevocation> {
        let (Whose::Token(name) | Whose::User(name)) = &whose;
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(BadRevocation::Name { found: name.len() });
        }
        if self.len >= self.look_through_at {
            self.forget_before(now_s);
        }
        if self.len >= REVOCATIONS_MAX {
            return Err(BadRevocation::TooMany);
        }
        let of_app = self.apps.entry(app.into()).or_default();
        let (table, name, default_s) = match whose {
            Whose::Token(jti) => (&mut of_app.tokens, jti, TOKEN_S),
            Whose::User(sub) => (&mut of_app.users, sub, USER_S),
        };
        let until_s = exp_s.unwrap_or(now_s + default_s);
        let entry = Entry { at_s: now_s, until_s: until_s.saturating_add(super::LEEWAY_S) };
        let earlier = table.insert(name, entry);
        self.len += usize::from(earlier.is_none());
        Ok(())
    }

    /// What has expired needs no refusal of its own.
    fn forget_before(&mut self, now_s: u64) {
        let mut len = 0;
        self.apps.retain(|_, of_app| {
            of_app.tokens.retain(|_, entry| entry.until_s > now_s);
            of_app.users.retain(|_, entry| entry.until_s > now_s);
            let left = of_app.tokens.len() + of_app.users.len();
            len += left;
            left > 0
        });
        self.len = len;
        self.look_through_at = (2 * len).clamp(LOOK_THROUGH_MIN, REVOCATIONS_MAX);
    }
}
