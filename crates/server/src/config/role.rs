//! What a node is there for: subscribers, publishers, pipelines, or all of them.

use super::written::{At, Wrong};
use std::fmt;

/// What a node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    All,
    /// Subscribers, and what they publish themselves.
    Edge,
    /// Publications, jobs and questions.
    Api,
    /// Nobody: it takes jobs through pipelines.
    Worker,
}

impl Role {
    /// Whether it holds subscribers.
    pub fn is_edge(self) -> bool {
        matches!(self, Role::All | Role::Edge)
    }

    /// Whether it answers publishers.
    pub fn is_api(self) -> bool {
        matches!(self, Role::All | Role::Api)
    }

    /// Whether it runs pipelines.
    pub fn is_worker(self) -> bool {
        matches!(self, Role::All | Role::Worker)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Role::All => "all",
            Role::Edge => "edge",
            Role::Api => "api",
            Role::Worker => "worker",
        })
    }
}

/// `shared`: whether there are Redis servers, over which other nodes do what this one does not.
pub(super) fn checked(written: Option<At<String>>, shared: bool) -> Result<Role, Wrong> {
    let Some(At { value, place }) = written else { return Ok(Role::All) };
    let role = [Role::All, Role::Edge, Role::Api, Role::Worker].into_iter().find(|role| role.to_string() == value);
    match role {
        None => Err(Wrong::at(place, format!("expected \"edge\", \"api\", \"worker\" or \"all\", found {value:?}"))),
        Some(role) if role != Role::All && !shared => {
            let message = format!(
                "a node with the role \"{role}\" needs Redis servers ([redis] in fanfare.toml, or FANFARE_REDIS): \
                 nobody else could do what it leaves out"
            );
            Err(Wrong::at(place, message))
        }
        Some(role) => Ok(role),
    }
}
