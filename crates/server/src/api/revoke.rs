//! `POST /tokens/revoke`: takes one token back, or all that a user has now.

use std::sync::Arc;

use fanfare_proto::json::{self, BadObject, Text};
use hyper::StatusCode;
use serde::Deserialize;

use super::Answer;
use crate::apps::App;
use crate::body;
use crate::tokens::{BadRevocation, Tokens, Whose};

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum BadRevoke {
    /// Not the object that was expected.
    #[error("the body: {0}; expected {{\"jti\":…}} or {{\"sub\":…}}, and exp if it is known")]
    Body(#[from] BadObject),
    /// Neither, or both.
    #[error("expected either jti, a token's id, or sub, a user's")]
    Whose,
    /// Not to be remembered.
    #[error(transparent)]
    Revocation(#[from] BadRevocation),
}

impl BadRevoke {
    /// Only a full table, and other nodes out of reach, are a matter of time.
    pub fn status(&self) -> StatusCode {
        match self {
            BadRevoke::Revocation(BadRevocation::TooMany | BadRevocation::Unshared) => StatusCode::SERVICE_UNAVAILABLE,
            BadRevoke::Body(_) | BadRevoke::Whose | BadRevoke::Revocation(BadRevocation::Name { .. }) => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    jti: Option<Text<'a>>,
    #[serde(borrow)]
    sub: Option<Text<'a>>,
    exp: Option<u64>,
}

/// Revokes what the body names. That no such token is known is no mistake: none of them are, before they are used.
pub async fn revoke(tokens: &Tokens, app: &App, body: &[u8]) -> Answer {
    let written: Written = json::object(body::text(body)?).map_err(BadRevoke::from)?;
    let whose = match (written.jti, written.sub) {
        (Some(jti), None) => Whose::Token(Arc::from(&*jti.0)),
        (None, Some(sub)) => Whose::User(Arc::from(&*sub.0)),
        _ => return Err(BadRevoke::Whose.into()),
    };
    tokens.revoke_everywhere(&app.id, whose, written.exp).await.map_err(BadRevoke::from)?;
    Ok(super::empty_object())
}
