//! What a server's refusal means for the call that met it.

use super::CallError;
use redis::RedisError;

/// What is to be done about an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Somebody else raised the generation: fence again, and call again.
    Fenced,
    /// The script is not known there: send its text.
    NoScript,
    /// Another server has the slot, or will have it: find out which, and call again.
    Moved,
    /// The slot is on its way: call again a little later.
    Moving,
    /// This server does nothing for us now: a replica, one that loads its data, half of a Cluster.
    Unable,
    /// For the caller.
    Final(CallError),
}

/// Judges an error.
pub(super) fn judge(error: &RedisError) -> Refusal {
    // What breaks on the way is no code of the server's.
    let Some(code) = error.code() else {
        return Refusal::Final(match error.is_io_error() || error.is_unrecoverable_error() {
            true => CallError::Timeout,
            false => CallError::Refused(error.to_string()),
        });
    };
    match code {
        "FENCED" => Refusal::Fenced,
        // Of one word alone, `redis.error_reply` makes text without a code.
        "ERR" if error.detail() == Some("FENCED") => Refusal::Fenced,
        "NOSCRIPT" => Refusal::NoScript,
        "MOVED" => Refusal::Moved,
        "ASK" | "TRYAGAIN" => Refusal::Moving,
        "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "NOREPLICAS" | "BUSY" => Refusal::Unable,
        "OOM" => Refusal::Final(CallError::Full),
        _ => Refusal::Final(CallError::Refused(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reply: &str, refusal: Refusal) {
        let reply = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).expect("an answer");
        assert_eq!(judge(&reply.extract_error().expect_err("an error")), refusal);
    }

    #[test]
    fn each_error_of_a_server_has_its_cure() {
        check("FENCED generation", Refusal::Fenced);
        check("ERR FENCED", Refusal::Fenced);
        check("NOSCRIPT No matching script. Please use EVAL.", Refusal::NoScript);
        check("MOVED 12182 127.0.0.1:7002", Refusal::Moved);
        check("ASK 12182 127.0.0.1:7002", Refusal::Moving);
        check("TRYAGAIN Multiple keys request during rehashing of slot", Refusal::Moving);
        check("READONLY You can't write against a read only replica.", Refusal::Unable);
        check("LOADING Redis is loading the dataset in memory", Refusal::Unable);
        check("CLUSTERDOWN The cluster is down", Refusal::Unable);
        check("OOM command not allowed when used memory > 'maxmemory'.", Refusal::Final(CallError::Full));
    }

    #[test]
    fn a_connection_that_breaks_leaves_the_outcome_open() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(judge(&broken.into()), Refusal::Final(CallError::Timeout));
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert_eq!(judge(&late.into()), Refusal::Final(CallError::Timeout));
    }
}
