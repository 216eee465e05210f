//! From written to checked: which Redis servers nodes share.

use super::Secret;
use super::check::{any, file};
use super::written::{At, Place, WrittenRedis, Wrong};
use percent_encoding::percent_decode_str;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

/// `[redis]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where channels live.
    pub servers: RedisServers,
    /// What all keys begin with, before a `:`.
    pub prefix: Arc<str>,
    /// Roots that sign the servers' certificates; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Whether channels are divided as in a Cluster, so that standalone servers can be added and removed while nodes run.
    pub partitioned: bool,
}

impl RedisSettings {
    /// These settings, with the other's servers where they can be changed while running.
    pub fn with_servers_of(&self, other: &RedisSettings) -> RedisSettings {
        match (&self.servers, &other.servers, self.partitioned && other.partitioned) {
            (RedisServers::Standalone(_), RedisServers::Standalone(_), true) => {
                RedisSettings { servers: other.servers.clone(), ..self.clone() }
            }
            _ => self.clone(),
        }
    }
}

/// The three ways to have several Redis servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// Servers that know nothing of each other.
    Standalone(Vec<RedisServer>),
    /// Primaries that Sentinels watch.
    Sentinel {
        /// Any of which answers.
        sentinels: Vec<RedisServer>,
        /// What the Sentinels call the primaries.
        masters: Vec<Arc<str>>,
        /// How to log in at the primaries; TLS as at the Sentinels.
        login: Login,
    },
    /// Some servers of one Cluster.
    Cluster(Vec<RedisServer>),
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisServer {
    /// What channels are assigned by. The address, unless it was named: `redis://…#name`.
    pub name: Arc<str>,
    /// Host name or address.
    pub host: Arc<str>,
    pub port: u16,
    /// Whether it speaks TLS (`rediss:`).
    pub tls: bool,
    pub login: Login,
}

/// User and password. Both may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub username: Option<Arc<str>>,
    pub password: Option<Secret>,
}

/// What keys begin with where nothing else was chosen.
const PREFIX: &str = "fanfare";

/// The environment variable that stands for the whole table.
pub(super) const VARIABLE: &str = "FANFARE_REDIS";

/// Checks `[redis]`.
pub(super) fn checked(At { value: mut written, place }: At<WrittenRedis>) -> Result<RedisSettings, Wrong> {
    let prefix = prefix(written.prefix.take())?;
    let ca = written.ca.take().map(file).transpose()?;
    let partitioned = written.partitioned.take();
    let partitioned_place = partitioned.as_ref().map(|at| at.place.clone());
    let partitioned = any(partitioned, false);
    let servers = servers(written, place)?;
    match (&servers, partitioned_place) {
        (RedisServers::Standalone(_), _) | (_, None) => Ok(RedisSettings { servers, prefix, ca, partitioned }),
        (_, Some(place)) => {
            Err(Wrong::at(place, "`partitioned` is for `servers`; Sentinels and Clusters move by themselves"))
        }
    }
}

fn servers(written: WrittenRedis, table: Place) -> Result<RedisServers, Wrong> {
    let WrittenRedis { servers, sentinels, masters, cluster, username, password, .. } = written;
    if sentinels.is_none() {
        let misplaced = masters.map(|at| at.place).or(username.or(password).map(|at| at.place));
        let message = "needs `sentinels`; other servers have user and password in their URLs: \"redis://user:password@host:6379\"";
        misplaced.map_or(Ok(()), |place| Err(Wrong::at(place, message)))?;
        return match (servers, cluster) {
            (Some(servers), None) => urls(servers).map(RedisServers::Standalone),
            (None, Some(cluster)) => urls(cluster).map(RedisServers::Cluster),
            _ => Err(Wrong::at(table, "expected one of `servers`, `sentinels` and `cluster`")),
        };
    }
    let (Some(sentinels), None, None) = (sentinels, servers, cluster) else {
        return Err(Wrong::at(table, "expected one of `servers`, `sentinels` and `cluster`"));
    };
    let Some(masters) = masters else {
        return Err(Wrong::at(sentinels.place, "`sentinels` need `masters`: the names of what they watch"));
    };
    let masters_place = masters.place.clone();
    let masters: Vec<Arc<str>> = masters.value.into_iter().map(|at| at.value.into()).collect();
    distinct(masters.iter().map(|name| &**name), &masters_place)?;
    let login =
        Login { username: username.map(|at| at.value.into()), password: password.map(|at| Secret::new(&at.value)) };
    Ok(RedisServers::Sentinel { sentinels: urls(sentinels)?, masters, login })
}

fn prefix(written: Option<At<String>>) -> Result<Arc<str>, Wrong> {
    let Some(At { value, place }) = written else {
        return Ok(PREFIX.into());
    };
    // Braces would be taken for a Cluster's hash tag.
    match !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c)) {
        true => Ok(value.into()),
        false => Err(Wrong::at(place, format!("expected letters, digits, `-`, `_`, `.` and `:`, found {value:?}"))),
    }
}

fn urls(At { value, place }: At<Vec<At<String>>>) -> Result<Vec<RedisServer>, Wrong> {
    let read = |at: At<String>| url(&at.value).map_err(|message| Wrong::at(at.place, message));
    let servers = value.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    distinct(servers.iter().map(|server| &*server.name), &place)?;
    Ok(servers)
}

/// At least one, and none twice.
fn distinct<'a>(names: impl Iterator<Item = &'a str>, place: &Place) -> Result<(), Wrong> {
    let mut seen = HashSet::new();
    for name in names {
        if name.is_empty() || !seen.insert(name) {
            return Err(Wrong::at(place.clone(), format!("expected different names, found {name:?} twice or empty")));
        }
    }
    match seen.is_empty() {
        true => Err(Wrong::at(place.clone(), "expected at least one")),
        false => Ok(()),
    }
}

/// Reads `redis://user:password@host:port#name`. What is wrong is said without the URL, which may hold a password.
fn url(text: &str) -> Result<RedisServer, String> {
    const EXPECTED: &str = "expected a URL such as \"redis://user:password@host:6379\" or \"rediss://host:6379#name\"";
    let (scheme, rest) = text.split_once("://").ok_or(EXPECTED)?;
    let tls = match scheme {
        "redis" => false,
        "rediss" => true,
        _ => return Err(EXPECTED.to_owned()),
    };
    let (rest, name) = rest.split_once('#').map_or((rest, None), |(rest, name)| (rest, Some(name)));
    let (login, address) = rest.rsplit_once('@').map_or((None, rest), |(login, address)| (Some(login), address));
    let (host, port) = address.trim_end_matches('/').rsplit_once(':').ok_or(EXPECTED)?;
    let port = port.parse().map_err(|_| format!("{EXPECTED}: the port is no number"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    Ok(RedisServer {
        name: name.unwrap_or(address.trim_end_matches('/')).into(),
        host: host.into(),
        port,
        tls,
        login: login.map_or(Ok(Login::default()), login_of)?,
    })
}

fn login_of(text: &str) -> Result<Login, String> {
    let (username, password) = text.split_once(':').unwrap_or((text, ""));
    let decoded = |part: &str| percent_decode_str(part).decode_utf8().map(|text| text.into_owned());
    let read = |part| decoded(part).map_err(|_| "the user or the password is not UTF-8".to_owned());
    let (username, password) = (read(username)?, read(password)?);
    Ok(Login {
        username: Some(username).filter(|name| !name.is_empty()).map(Into::into),
        password: Some(password).filter(|word| !word.is_empty()).map(|word| Secret::new(&word)),
    })
}

/// The table that the variable stands for: `redis://a:1,redis://b:2`, `redis+cluster://a:1,…`, or
/// `redis+sentinel://a:1,…/one+two`, where user and password are those of the primaries.
pub(super) fn from_variable(text: &str) -> At<WrittenRedis> {
    let written = if text.contains("+sentinel://") {
        of_sentinels(text)
    } else if text.contains("+cluster://") {
        WrittenRedis { cluster: Some(list(text, ',')), ..WrittenRedis::default() }
    } else {
        WrittenRedis { servers: Some(list(text, ',')), ..WrittenRedis::default() }
    };
    set(written)
}

fn of_sentinels(text: &str) -> WrittenRedis {
    let path = text.rsplit_once('/').filter(|(urls, _)| !urls.ends_with('/'));
    let (urls, masters) = path.unwrap_or((text, ""));
    let mut sentinels = list(urls, ',');
    let mut login = Login::default();
    for url in &mut sentinels.value {
        let Some((before, address)) = url.value.rsplit_once('@') else { continue };
        let (scheme, user) = before.split_once("://").unwrap_or(("", before));
        // What cannot be read is left out here, and then refused by the primaries.
        login = login_of(user).unwrap_or_default();
        url.value = format!("{scheme}://{address}");
    }
    WrittenRedis {
        sentinels: Some(sentinels),
        masters: Some(list(masters, '+')),
        username: login.username.map(|name| set(name.to_string())),
        password: login.password.map(|word| set(String::from_utf8_lossy(word.as_bytes()).into_owned())),
        ..WrittenRedis::default()
    }
}

fn list(text: &str, separator: char) -> At<Vec<At<String>>> {
    let plain = |part: &str| set(part.trim().replacen("+cluster://", "://", 1).replacen("+sentinel://", "://", 1));
    set(text.split(separator).filter(|part| !part.trim().is_empty()).map(plain).collect())
}

fn set<T>(value: T) -> At<T> {
    At { value, place: Place::Variable(VARIABLE.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RedisSettings {
        checked(from_variable(text)).expect("it is sound")
    }

    fn names(servers: &[RedisServer]) -> Vec<&str> {
        servers.iter().map(|server| &*server.name).collect()
    }

    #[track_caller]
    fn refused(text: &str, reason: &str) {
        let message = checked(from_variable(text)).expect_err("it is not sound").message;
        assert!(message.contains(reason), "{message}");
        assert!(!message.contains("hush"), "{message}");
    }

    #[test]
    fn servers_are_named_by_their_address_or_as_one_likes() {
        let settings = read("redis://127.0.0.1:7001, rediss://us%40er:hu%3Ash@[::1]:7002#two");
        let RedisServers::Standalone(servers) = &settings.servers else { panic!("{settings:?}") };
        assert_eq!(names(servers), ["127.0.0.1:7001", "two"]);
        let second = &servers[1];
        assert_eq!((&*second.host, second.port, second.tls), ("::1", 7002, true));
        assert_eq!(second.login.username.as_deref(), Some("us@er"));
        assert_eq!(second.login.password, Some(Secret::new("hu:sh")));
        assert_eq!(&*settings.prefix, "fanfare");
        assert!(!format!("{settings:?}").contains("hu:sh"));
    }

    #[test]
    fn a_cluster_is_named_by_some_of_its_servers() {
        let settings = read("redis+cluster://a:7000,rediss+cluster://b:7000");
        let RedisServers::Cluster(servers) = &settings.servers else { panic!("{settings:?}") };
        assert_eq!(names(servers), ["a:7000", "b:7000"]);
        assert!(servers[1].tls);
    }

    #[test]
    fn sentinels_are_asked_without_the_password_of_what_they_watch() {
        let settings = read("redis+sentinel://:hush@a:26379,redis+sentinel://b:26379/one+two");
        let RedisServers::Sentinel { sentinels, masters, login } = &settings.servers else { panic!("{settings:?}") };
        assert_eq!(names(sentinels), ["a:26379", "b:26379"]);
        assert_eq!(sentinels[0].login, Login::default());
        assert_eq!(masters.iter().map(|name| &**name).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(login.password, Some(Secret::new("hush")));
    }

    #[test]
    fn what_is_wrong_is_said_without_passwords() {
        refused("redis://:hush@host", "expected a URL");
        refused("http://:hush@host:80", "expected a URL");
        refused("redis://:hush@host:99999", "the port");
        refused("redis://a:1,redis://a:1", "twice");
        refused("", "at least one");
        refused("redis+sentinel://:hush@a:26379", "at least one");
    }
}
