//! Why a server is of no use, in words for people, and whether waiting may help.

use super::dial::DialError;
use redis::RedisError;
use std::io;

/// What is wrong with a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fault {
    /// Empty: nothing was found.
    pub text: String,
    /// Whether it stays until somebody changes the settings or the server.
    pub lasting: bool,
}

impl Fault {
    /// One that may go as it came.
    pub fn passing(text: impl Into<String>) -> Fault {
        Fault { text: text.into(), lasting: false }
    }

    /// What those who were asked the same say together: it lasts if it lasts with each of them.
    pub fn of_all(faults: Vec<Fault>) -> Fault {
        let lasting = !faults.is_empty() && faults.iter().all(|fault| fault.lasting);
        let texts: Vec<String> = faults.into_iter().map(|fault| fault.text).collect();
        Fault { text: texts.join("; "), lasting }
    }

    /// The same, said of somebody.
    pub fn at(self, whom: impl std::fmt::Display) -> Fault {
        Fault { text: format!("{whom}: {}", self.text), ..self }
    }
}

impl From<DialError> for Fault {
    fn from(error: DialError) -> Fault {
        let lasting = match &error {
            DialError::Io(error) => is_certificate(error),
            DialError::Redis(error) | DialError::Login(error) => lasts(error),
            DialError::Timeout | DialError::Replica => false,
            DialError::Authority { .. } | DialError::Unfit(_) => true,
        };
        Fault { text: error.to_string(), lasting }
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Fault {
        DialError::Redis(error).into()
    }
}

fn is_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// Who we are, what we may do, and what the server is do not change by themselves. Most else does: a server loads its data, has
/// too many clients, or is about to become primary.
fn lasts(error: &RedisError) -> bool {
    /// What servers without a password, of another kind, or too old say; there is no code for these.
    const PLAIN: [&str; 4] = [
        "without any password configured",
        "cluster support disabled",
        "unknown command",
        "wrong number of arguments for 'auth'",
    ];
    match error.code() {
        Some("WRONGPASS" | "NOAUTH" | "NOPERM") => true,
        Some("ERR") => error.detail().is_some_and(|detail| PLAIN.iter().any(|plain| detail.contains(plain))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reply: &str, lasting: bool) {
        let reply = redis::parse_redis_value(format!("-{reply}\r\n").as_bytes()).expect("an answer");
        let fault = Fault::from(reply.extract_error().expect_err("an error"));
        assert_eq!(fault.lasting, lasting, "{}", fault.text);
    }

    #[test]
    fn what_a_server_will_say_again_is_known() {
        check("WRONGPASS invalid username-password pair or user is disabled.", true);
        check("NOAUTH Authentication required.", true);
        check("NOPERM this user has no permissions to run the 'info' command", true);
        check("ERR AUTH <password> called without any password configured for the default user.", true);
        check("ERR This instance has cluster support disabled", true);
        check("ERR unknown command 'SENTINEL', with args beginning with: 'MASTER'", true);
        check("ERR max number of clients reached", false);
        check("ERR No such master with that name", false);
        check("LOADING Redis is loading the dataset in memory", false);
        check("CLUSTERDOWN The cluster is down", false);
    }

    #[test]
    fn it_lasts_if_it_lasts_with_all() {
        let fault = |text: &str, lasting| Fault { text: text.to_owned(), lasting };
        assert_eq!(Fault::of_all(vec![fault("a", true), fault("b", true)]), fault("a; b", true));
        assert!(!Fault::of_all(vec![fault("a", true), fault("b", false)]).lasting);
        assert!(!Fault::of_all(Vec::new()).lasting, "nobody was asked");
    }
}
