//! A connection for commands: pipelined, shared by all callers.

use super::Script;
use super::dial::{Address, DialError, Dialer, Running};
use super::refusal::{Refusal, judge};
use crate::config::Login;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// A connection, and the scripts that were sent over it.
pub(super) struct Commands {
    connection: MultiplexedConnection,
    sent: Mutex<HashSet<String>>,
}

impl Commands {
    /// Connects.
    pub async fn dial(dialer: &Dialer, at: &Address, login: &Login) -> Result<(Commands, Running), DialError> {
        let (connection, driver) = dialer.commands(at, login).await?;
        Ok((Commands { connection, sent: Mutex::default() }, driver))
    }

    /// Sends a command and waits for its answer.
    pub async fn ask(&self, command: &Cmd) -> RedisResult<Value> {
        answered(self.connection.clone().send_packed_command(command).await)
    }

    /// Runs a script. Its first call on a connection brings its text along, so that those behind it find it known.
    pub async fn run(&self, script: &Script, keys: &[&[u8]], args: &[&[u8]]) -> RedisResult<Value> {
        if self.is_new(script) {
            return self.ask(&command("EVAL", script.text(), keys, args)).await;
        }
        match self.ask(&command("EVALSHA", script.digest(), keys, args)).await {
            Err(error) if judge(&error) == Refusal::NoScript => {
                self.ask(&command("EVAL", script.text(), keys, args)).await
            }
            answer => answer,
        }
    }

    fn is_new(&self, script: &Script) -> bool {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        match sent.contains(script.digest()) {
            true => false,
            false => sent.insert(script.digest().to_owned()),
        }
    }
}

/// What the server refused is an answer to the connection, and an error to us.
pub(super) fn answered(answer: RedisResult<Value>) -> RedisResult<Value> {
    match answer? {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}

fn command(name: &str, script: &str, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(keys.len()).arg(keys).arg(args);
    command
}
